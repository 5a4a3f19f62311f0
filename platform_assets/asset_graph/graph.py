"""The asset graph of all code locations as plain data: calendars, dependencies, which pairs need which.

Belongs here: assets, and pure set arithmetic on pairs. Not here: what definitions declare (`declared.py`), and whose
declarations there are (`published.py`).
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, lru_cache
from graphlib import TopologicalSorter
from typing import Any

import dagster as dg
import numpy as np
from dagster._time import get_current_datetime

from platform_assets.asset_graph.completeness import Completeness
from platform_assets.asset_graph.requirements import (
    BoolArray,
    IntArray,
    Requirement,
    compile_requirement,
    last_key,
    partition_ends,
)

UNPARTITIONED = ""
"""The one pair of an asset without partitions."""


@dataclass(frozen=True)
class Node:
    """An asset: the location that builds it (None: an upstream system does), its calendar and dependencies.

    `deps` holds the declared partition mappings; None is Dagster's default. `is_product` marks what people and
    products look at: marts, forecasts, what online services read. `as_of` is the moment at which it has its pairs:
    a calendar without an end gains them by the passing of time. `equal_versions` are other versions of the code that
    store the same as the present one.
    """

    key: dg.AssetKey
    location: str | None
    calendar: dg.PartitionsDefinition | None
    deps: Mapping[dg.AssetKey, dg.PartitionMapping | None]
    checks: Sequence[dg.AssetCheckKey] = ()
    code_version: str | None = None
    completeness: Completeness = Completeness()
    is_product: bool = False
    equal_versions: Sequence[str] = ()
    as_of: datetime | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The key as receipts and commands write it: team/entity."""
        return "/".join(self.key.path)

    def is_current(self, version: str) -> bool:
        """Whether code of that version stores what the present code does."""
        return version == self.code_version or version in self.equal_versions

    @cached_property
    def pairs(self) -> Sequence[str]:
        """Every partition key, in order of time."""
        if self.calendar is None:
            return [UNPARTITIONED]
        with dg.partition_loading_context(self.as_of):
            return _keys(self.calendar, last_key(self.calendar))

    @cached_property
    def ends(self) -> IntArray:
        """When each pair of an asset with a time calendar ends, in seconds since 1970; empty for any other."""
        if not isinstance(self.calendar, dg.TimeWindowPartitionsDefinition):
            return np.zeros(0, np.int64)
        with dg.partition_loading_context(self.as_of):
            return partition_ends(self.calendar)


@dataclass(frozen=True)
class Graph:
    """Assets of every code location in topological order, with the pairs that there are at one moment.

    Whatever is asked of it, however much later, is answered for that moment: pairs are numbers in arrays, which have to
    fit together across the end of a day.
    """

    nodes: Mapping[dg.AssetKey, Node]
    as_of: datetime = field(default_factory=get_current_datetime, compare=False)

    @classmethod
    def of(cls, found: Sequence[Node]) -> "Graph":
        """The graph of these assets.

        Raises:
            ValueError: an asset depends on one that is not among them.
        """
        as_of = get_current_datetime()
        nodes = {node.key: replace(node, as_of=as_of) for node in found}
        for node in nodes.values():
            for key in node.deps.keys() - nodes.keys():
                raise ValueError(f"{node.key.to_user_string()} depends on {key.to_user_string()}, declared nowhere")
        # Sorted, so that equal graphs have one order, in whatever order their assets were found.
        before = {key: sorted(nodes[key].deps.keys() - {key}) for key in sorted(nodes)}
        return cls({key: nodes[key] for key in TopologicalSorter(before).static_order()}, as_of)

    @cached_property
    def named(self) -> Mapping[str, Node]:
        """The assets by name, in topological order."""
        return {node.name: node for node in self.nodes.values()}

    @property
    def built(self) -> list[Node]:
        """The assets that Headwater builds, in topological order."""
        return [node for node in self.nodes.values() if node.location]

    def node(self, name: str) -> Node:
        """The asset called `name`, team/entity.

        Raises:
            KeyError: there is none; the message suggests the nearest.
        """
        if name not in self.named:
            from difflib import get_close_matches

            close = get_close_matches(name, self.named, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"there are: {', '.join(sorted(self.named))}"
            raise KeyError(f"no asset is called {name!r}; {hint}")
        return self.named[name]

    def requirement(self, node: Node, upstream: dg.AssetKey) -> Requirement:
        """Which pairs of `upstream` the pairs of `node` need."""
        with dg.partition_loading_context(self.as_of):
            return compile_requirement(node.calendar, self.nodes[upstream].calendar, node.deps[upstream])

    def requirements(self, node: Node) -> dict[str, Requirement]:
        """Which pairs of each upstream asset the pairs of `node` need, by the name of the asset."""
        return {self.nodes[key].name: self.requirement(node, key) for key in node.deps}

    def required(self, requested: Mapping[str, BoolArray]) -> dict[str, BoolArray]:
        """The upstream pairs that the requested ones cannot be built without and that are not among them, by asset.

        What an upstream system delivers is not among them: the asset that loads it inspects the delivery itself.
        """
        found: dict[str, BoolArray] = {}
        for name, pairs in requested.items():
            node = self.named[name]
            for upstream, requirement in self.requirements(node).items():
                if self.named[upstream].location is None or not node.completeness.needs(upstream):
                    continue
                needed = requirement.needed(pairs)
                if upstream in requested:
                    needed = needed & ~requested[upstream]
                found[upstream] = found.get(upstream, np.zeros_like(needed)) | needed
        return {name: pairs for name, pairs in found.items() if pairs.any()}

    def buildable(self, delivered: Mapping[dg.AssetKey, Set[str]]) -> dict[dg.AssetKey, set[str]]:
        """The pairs whose whole required upstream is delivered or itself buildable.

        Args:
            delivered: for each upstream asset the partition keys that have arrived.
        """
        absent: dict[dg.AssetKey, np.ndarray[Any, np.dtype[np.bool_]]] = {}
        found: dict[dg.AssetKey, set[str]] = {}
        for key, node in self.nodes.items():
            if node.location is None:
                arrived = delivered.get(key, set())
                absent[key] = np.array([pair not in arrived for pair in node.pairs], np.bool_)
            else:
                absent[key] = np.zeros(len(node.pairs), np.bool_)
                for upstream in node.deps.keys() - {key}:
                    if node.completeness.needs(self.nodes[upstream].name):
                        absent[key] |= self.requirement(node, upstream).affected(absent[upstream])
            found[key] = {pair for pair, lacks in zip(node.pairs, absent[key].tolist(), strict=True) if not lacks}
        return found


def named(asset: str, partition: str) -> str:
    """A pair as people read it: team/entity@partition, without the @ where the asset has no partitions."""
    return f"{asset}@{partition}" if partition != UNPARTITIONED else asset


def ranges(calendar: dg.PartitionsDefinition, keys: Set[str]) -> list[tuple[str, str]]:
    """`keys` as the fewest (first, last) ranges of consecutive partitions."""
    subset = calendar.subset_with_partition_keys(keys)
    return [(found.start, found.end) for found in subset.get_partition_key_ranges(calendar)]


@lru_cache(maxsize=64)
def _keys(calendar: dg.PartitionsDefinition, last: object) -> Sequence[str]:
    """The keys of a calendar, which many assets share; `last` only tells apart what it was at different times."""
    return calendar.get_partition_keys()
