"""A plan: an exact set of pairs to rebuild, in which order, why each, by which runs, how long it takes.

Belongs here: the plan as data, its id, writing and reading it as JSON. Not here: computing one (`planning.py`).

Pairs are kept as index arrays by asset; objects for single pairs are made when somebody asks for them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from platform_assets.asset_graph.graph import UNPARTITIONED
from platform_assets.asset_graph.requirements import BoolArray, IntArray

FORMAT = 3


class PlanError(ValueError):
    """What was written is no plan of this version; the message says why."""


class CodeChangesError(RuntimeError):
    """The models at a ref cannot be compared with today's; the message says why and what to do."""


@dataclass(frozen=True)
class PlannedPair:
    """One pair and why it is where it is."""

    asset: str
    partition: str
    reason: str


@dataclass(frozen=True)
class PlannedRun:
    """One run: a range of partitions of assets of one location. `first` and `last` are None without partitions."""

    location: str
    assets: tuple[str, ...]
    first: str | None
    last: str | None


@dataclass(frozen=True)
class EndPoint:
    """An asset people look at, and how many of its pairs the plan rebuilds."""

    asset: str
    pairs: int


@dataclass(frozen=True)
class Estimate:
    """Expected seconds of a whole plan, and the seconds it takes when all runs are fast (10 %) or slow (90 %)."""

    seconds: float
    low_seconds: float
    high_seconds: float


@dataclass(frozen=True, eq=False)
class Selection:
    """Some pairs of one asset: positions among its partition keys, and a way to tell their reasons."""

    asset: str
    keys: Sequence[str]
    positions: IntArray
    tell: Callable[[], list[str]]

    @property
    def partitions(self) -> list[str]:
        """The partition keys of the pairs."""
        return [self.keys[at] for at in self.positions.tolist()]

    @property
    def places(self) -> dict[str, int]:
        """The position of each partition key of the pairs."""
        return dict(zip(self.partitions, self.positions.tolist(), strict=True))

    def bounds(self) -> IntArray:
        """First and last position of the fewest contiguous ranges, one row a range."""
        breaks = np.flatnonzero(np.diff(self.positions) != 1)
        at = self.positions
        return np.stack((at[np.concatenate(([0], breaks + 1))], at[np.concatenate((breaks, [len(at) - 1]))]), axis=1)


@dataclass(frozen=True, eq=False)
class RunGroup:
    """Runs of the same assets over several ranges: first and last position among `keys`, one row a range."""

    location: str
    assets: tuple[str, ...]
    keys: Sequence[str]
    bounds: IntArray

    def runs(self) -> Iterator[PlannedRun]:
        """One run a range."""
        for first, last in self.bounds.tolist():
            yield PlannedRun(self.location, self.assets, self.keys[first] or None, self.keys[last] or None)


@dataclass(frozen=True, eq=False)
class Plan:
    """An exact set of pairs to rebuild. Two plans are equal when their ids, the hashes of their contents, are.

    Attributes:
        environment: where the pairs are.
        graph: by planned asset and upstream, a digest of what the planned pairs need, of the asset graph the plan was
            made for. In what is left of a plan it is about the pairs that are `done` too.
        selections: the pairs by asset, in topological order.
        refusals: the pairs that would be rebuilt were they not immutable.
        groups: the runs, in an order in which each reads only what is there or was built before.
        end_points: affected end points.
        roots: the planned pairs from which all others follow, by asset.
        estimate: None where no run was ever timed.
        recovers: the id of the plan that this one is the rest of.
        done: the pairs that this rest leaves out, by asset of which others are left.
    """

    environment: str
    graph: Mapping[str, Mapping[str, str]]
    created_at: datetime
    selections: tuple[Selection, ...]
    refusals: tuple[Selection, ...]
    groups: tuple[RunGroup, ...]
    end_points: tuple[EndPoint, ...]
    roots: Mapping[str, Sequence[str]]
    estimate: Estimate | None = None
    recovers: str | None = None
    done: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """Hash of what the plan says, the reasons aside.

        The pairs of an asset enter as the hashes of their keys, in order: a plan may hold millions.
        """
        digest = hashlib.sha256(json.dumps([FORMAT, _head(self)]).encode())
        calendars = Calendars()
        for part in (self.selections, self.refusals):
            for selection in part:
                digest.update(f"{selection.asset} {len(selection.positions)}\n".encode())
                digest.update(calendars.of(selection.keys).hashes[selection.positions].tobytes())
            digest.update(b"\n")
        for group in self.groups:
            who = json.dumps([group.location, group.assets])
            spans = [(group.keys[first], group.keys[last]) for first, last in group.bounds.tolist()]
            digest.update("".join(f"{who} {first}\x1f{last}\n" for first, last in spans).encode())
        return digest.hexdigest()[:32]

    @property
    def pair_count(self) -> int:
        """How many pairs the plan rebuilds, without making them."""
        return sum(len(selection.positions) for selection in self.selections)

    @cached_property
    def pairs(self) -> list[PlannedPair]:
        """The pairs to rebuild, in topological order, then by partition."""
        return _pairs(self.selections)

    @cached_property
    def refused(self) -> list[PlannedPair]:
        """The pairs that stay as they are, and why."""
        return _pairs(self.refusals)

    @cached_property
    def runs(self) -> list[PlannedRun]:
        """The runs that rebuild the pairs, in order."""
        return [run for group in self.groups for run in group.runs()]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


def ranges_of(plan: Plan) -> dict[str, list[tuple[str, str]] | None]:
    """The fewest (first, last) ranges of each asset's pairs; None for an asset without partitions."""
    found: dict[str, list[tuple[str, str]] | None] = {}
    for selection in plan.selections:
        keys = selection.keys
        named = [(keys[first], keys[last]) for first, last in selection.bounds().tolist()]
        found[selection.asset] = None if named == [(UNPARTITIONED, UNPARTITIONED)] else named
    return found


class Calendar:
    """Partition keys in order, and what is computed of them once."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self._immutable: dict[str | None, BoolArray] = {}

    @cached_property
    def places(self) -> dict[str, int]:
        """The position of each key."""
        return {key: at for at, key in enumerate(self.keys)}

    @cached_property
    def hashes(self) -> IntArray:
        """A 64-bit hash of each key; sums of them wrap around."""
        digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in self.keys)
        return np.frombuffer(digests, np.int64)

    def immutable(self, before: str | None) -> BoolArray:
        """Which keys sort before that one; none without it, and never the pair of an asset without partitions."""
        if before not in self._immutable:
            early = [before is not None and UNPARTITIONED < key < before for key in self.keys]
            self._immutable[before] = np.array(early, np.bool_)
        return self._immutable[before]


class Calendars:
    """One `Calendar` for equal sequences of keys: thousands of assets have a list of their own, a few differ."""

    def __init__(self) -> None:
        self._of_list: dict[int, tuple[Sequence[str], Calendar]] = {}
        self._distinct: dict[tuple[str, ...], Calendar] = {}

    def of(self, keys: Sequence[str]) -> Calendar:
        """The calendar with these keys."""
        known = self._of_list.get(id(keys))
        if known is None:
            whole = tuple(keys)
            # The keys are kept too, so that their id stays theirs.
            known = self._of_list[id(keys)] = (keys, self._distinct.setdefault(whole, Calendar(whole)))
        return known[1]


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON values; a pair without partition has the partition null."""
    return {
        "format": FORMAT,
        "id": plan.id,
        **_head(plan),
        "pairs": _plain_pairs(plan.selections),
        "refused": _plain_pairs(plan.refusals),
        "runs": [
            {"location": run.location, "assets": list(run.assets), "first": run.first, "last": run.last}
            for run in plan.runs
        ],
    }


def read_plan(path: Path) -> Plan:
    """The plan in a file that `headwater plan -o` wrote.

    Raises:
        PlanError: it is none, was written by another version, or has been changed since.
    """
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise PlanError(f"{path} is no plan ({error}); make one with headwater plan … -o {path}") from error
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return from_json(value)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def from_json(value: Any) -> Plan:
    """The plan that `to_json` wrote.

    Raises:
        PlanError: it is none, was written by another version, or is not what was written.
    """
    if not isinstance(value, dict):
        raise PlanError("this is no plan; make one with headwater plan … -o FILE")
    if value.get("format") != FORMAT:
        raise PlanError(
            f"the plan has format {value.get('format')!r}, this version reads {FORMAT}: make the plan again"
        )
    try:
        plan = _read(value)
        found = plan.id
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise PlanError(f"the plan is incomplete ({error!r}): make the plan again") from error
    if found != value.get("id"):
        raise PlanError(
            f"the plan says it is {value.get('id')!r} but its contents are {found!r}: somebody changed it. "
            "Make the plan again instead of editing it"
        )
    return plan


def _pairs(selections: Sequence[Selection]) -> list[PlannedPair]:
    return [
        PlannedPair(selection.asset, partition, reason)
        for selection in selections
        for partition, reason in zip(selection.partitions, selection.tell(), strict=True)
    ]


def _plain_pairs(selections: Sequence[Selection]) -> list[dict[str, str | None]]:
    return [
        {"asset": pair.asset, "partition": pair.partition or None, "reason": pair.reason} for pair in _pairs(selections)
    ]


def _head(plan: Plan) -> dict[str, Any]:
    """What the plan says apart from its pairs and runs."""
    expected = plan.estimate
    return {
        "environment": plan.environment,
        "graph": {asset: dict(needs) for asset, needs in plan.graph.items()},
        "created_at": plan.created_at.isoformat(),
        "recovers": plan.recovers,
        "done": {asset: list(keys) for asset, keys in plan.done.items()},
        "roots": {asset: list(keys) for asset, keys in plan.roots.items()},
        "end_points": [{"asset": end.asset, "pairs": end.pairs} for end in plan.end_points],
        "estimate_seconds": expected.seconds if expected else None,
        "estimate_seconds_spread": [expected.low_seconds, expected.high_seconds] if expected else None,
    }


def _read(value: Mapping[str, Any]) -> Plan:
    runs = [PlannedRun(run["location"], tuple(run["assets"]), run["first"], run["last"]) for run in value["runs"]]
    ends = {(asset, run.last or UNPARTITIONED) for run in runs for asset in run.assets}
    selections = tuple(_selections(value["pairs"], ends))
    by_asset = {selection.asset: selection for selection in selections}
    places = {selection.asset: selection.places for selection in selections}
    groups = []
    # Pairs of an asset that somebody took apart have no runs here: the id then says that they were changed.
    for run in runs if len(by_asset) == len(selections) else ():
        there = places[run.assets[0]]
        bounds = np.array([[there[run.first or UNPARTITIONED], there[run.last or UNPARTITIONED]]], np.int64)
        groups.append(RunGroup(run.location, run.assets, by_asset[run.assets[0]].keys, bounds))
    seconds, spread = value["estimate_seconds"], value["estimate_seconds_spread"]
    return Plan(
        environment=value["environment"],
        graph=value["graph"],
        roots=value["roots"],
        created_at=_instant(value["created_at"]),
        selections=selections,
        refusals=tuple(_selections(value["refused"], set())),
        groups=tuple(groups),
        end_points=tuple(EndPoint(end["asset"], end["pairs"]) for end in value["end_points"]),
        estimate=None if seconds is None else Estimate(seconds, *spread),
        recovers=value["recovers"],
        done=value["done"],
    )


def _instant(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"created_at {text!r} names no time zone")
    return found


def _selections(pairs: Sequence[Mapping[str, Any]], ends: Set[tuple[str, str]]) -> Iterator[Selection]:
    """Pairs as selections. Where a run ends, a partition that is not rebuilt follows, whatever it is called."""
    for asset, found in groupby(pairs, key=lambda pair: str(pair["asset"])):
        keys: list[str] = []
        positions: list[int] = []
        reasons: list[str] = []
        for pair in found:
            partition = pair["partition"] or UNPARTITIONED
            positions.append(len(keys))
            reasons.append(pair["reason"])
            keys += [partition, ""] if (asset, partition) in ends else [partition]
        yield Selection(asset, keys, np.array(positions, np.int64), reasons.copy)
