"""Assets and partitions as people name them on a command line or in a run's configuration.

Belongs here: from words to the pairs of a graph. Not here: the feed's sources, which are no assets yet.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby

import dagster as dg

from platform_assets.asset_graph.graph import Graph, Node

_NAMED_PAIR = re.compile(r"([\w-]+/[\w-]+)@[^\s;,]+")

_DAY = re.compile(r"\d{4}-\d\d-\d\d(-\d\d:\d\d)?")


class SelectionError(ValueError):
    """Words that name no pair; the message says what there is."""


@dataclass(frozen=True)
class Span:
    """From one partition key to another, both included. A bound that is a day holds all its hours."""

    first: str
    last: str

    @classmethod
    def of(cls, text: str) -> "Span":
        """Read `A..B`, or `A` alone. Keys that are no dates may be in any order; their calendar tells.

        Raises:
            SelectionError: dates end before they begin, a day is in no calendar, or a bound is missing.
        """
        first, dots, last = text.partition("..")
        last = last if dots else first
        if not first or not last or ".." in last:
            raise SelectionError(f"{text!r} is no range of partitions: give one key, or two as 2017-03-01..2017-03-31")
        for bound in (first, last):
            if _DAY.fullmatch(bound) and not _is_day(bound[:10]):
                raise SelectionError(f"{text!r}: there is no day {bound[:10]}")
        if first[0].isdigit() and last < first[: len(last)]:
            raise SelectionError(f"{text!r} ends before it begins; give the earlier key first")
        return cls(first, last)

    def __str__(self) -> str:
        return self.first if self.first == self.last else f"{self.first}..{self.last}"

    def keys(self, node: Node) -> list[str]:
        """The partitions of `node` within the span, in order."""
        keys = node.pairs
        if self.first in keys and self.last in keys:
            return list(keys[keys.index(self.first) : keys.index(self.last) + 1])
        return [key for key in keys if self.first <= key and key[: len(self.last)] <= self.last]


def assets_named(graph: Graph, names: Sequence[str]) -> list[Node]:
    """The assets called `names`, in topological order; a team stands for all of its assets, no name for every asset.

    Raises:
        SelectionError: a name is neither; the message suggests the nearest.
    """
    if not names:
        return list(graph.nodes.values())
    chosen: set[str] = set()
    for name in names:
        of_team = [node.name for node in graph.nodes.values() if node.key.path[0] == name]
        try:
            chosen |= set(of_team or [graph.node(name.replace(".", "/")).name])
        except KeyError as error:
            raise SelectionError(error.args[0]) from error
    return [node for node in graph.nodes.values() if node.name in chosen]


def pairs_named(graph: Graph, names: Sequence[str], span: str | None) -> dict[str, list[str]]:
    """The partitions to look at, by asset: those of the named assets that lie within `span`.

    Raises:
        SelectionError: no such asset, or a named asset has no partition in the span.
    """
    nodes = assets_named(graph, names)
    if span is None:
        return {node.name: list(node.pairs) for node in nodes}
    within = Span.of(span)
    found = {node.name: within.keys(node) for node in nodes if node.calendar is not None}
    for node in nodes:
        if not found.get(node.name) and node.name in {name.replace(".", "/") for name in names}:
            raise SelectionError(_outside(node, within))
    found = {name: keys for name, keys in found.items() if keys}
    if not found:
        raise SelectionError(
            f"no asset has a partition in {within}; see the calendars in platform_assets/partitions.py"
        )
    return found


def pair_named(graph: Graph, text: str) -> tuple[Node, str]:
    """The pair that `team/entity@partition` names; an asset without partitions is named alone.

    Raises:
        SelectionError: no such asset or partition.
    """
    name, at, partition = text.partition("@")
    (node,) = assets_named(graph, [name]) if "/" in name or "." in name else (None,)
    if node is None:
        raise SelectionError(f"{text!r} is no pair; name one as team/entity@partition")
    if node.calendar is not None and not partition:
        raise SelectionError(f"{name} has partitions: name one, as {name}@{node.pairs[-1]}")
    if partition not in node.pairs:
        raise SelectionError(_outside(node, Span(partition, partition)))
    return node, partition


def runs_of_same(pairs: Iterable[tuple[str, str, str]]) -> Iterator[tuple[str, str, str, int]]:
    """Pairs with the same asset and the same words, as one line each: (asset, partitions, words, how many).

    Words that name another pair count as the same whichever partition that is; then the line names its asset only.

    Args:
        pairs: (asset, partition, words), those of an asset in order.
    """
    for (asset, words), together in groupby(pairs, key=lambda pair: (pair[0], _NAMED_PAIR.sub(r"\1", pair[2]))):
        some = list(together)
        first, last = some[0][1], some[-1][1]
        yield asset, first if len(some) == 1 else f"{first}..{last}", some[0][2] if len(some) == 1 else words, len(some)


def _outside(node: Node, span: Span) -> str:
    if node.calendar is None:
        return f"{node.name} has no partitions: leave {span} out"
    said = f"{node.name} has no partition {span}; its partitions run from {node.pairs[0]} to {node.pairs[-1]}"
    before = [key for key in node.pairs if key < span.first]
    holds = isinstance(node.calendar, dg.TimeWindowPartitionsDefinition) and before and span.last <= node.pairs[-1]
    return f"{said}, of which {before[-1]} is the one before" if holds else said


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
