"""An exact set of pairs to rebuild: in which order, why each, by which runs, how long it takes.

Belongs here: computing a plan from plain data, writing and reading it as JSON, and what remains of one. Not here:
finding out what changed, loading the asset graph, launching anything.

Pairs are kept as index arrays by asset; objects for single pairs are made when somebody asks for them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import groupby
from typing import Any

import numpy as np

from platform_assets.operations.graph import UNPARTITIONED
from platform_assets.partition_checker.requirements import NONE, BoolArray, IntArray, Requirement

FORMAT = 1

Durations = Mapping[str, Sequence[float]]
"""Past seconds per run of each asset."""


@dataclass(frozen=True)
class PlannedAsset:
    """An asset as planning sees it.

    Attributes:
        key: "team/entity".
        partitions: every partition key in order; `[""]` for an asset without partitions.
        requirements: by upstream asset, which of its pairs the pairs of this asset need.
        location: the code location that builds it; None: an upstream system does.
        immutable_before: pairs with partition keys that sort before this one are never rebuilt.
        is_end_point: nobody of ours reads it, people and products do.
    """

    key: str
    partitions: Sequence[str]
    requirements: Mapping[str, Requirement]
    location: str | None
    immutable_before: str | None = None
    is_end_point: bool = False


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
        graph: fingerprint of the asset graph that the plan was made for.
        selections: the pairs by asset, in topological order.
        refusals: the pairs that would be rebuilt were they not immutable.
        groups: the runs, in an order in which each reads only what is there or was built before.
        end_points: affected end points.
        estimate: None where no run was ever timed.
        recovers: the id of the plan that this one is the rest of.
    """

    environment: str
    graph: str
    created_at: datetime
    selections: tuple[Selection, ...]
    refusals: tuple[Selection, ...]
    groups: tuple[RunGroup, ...]
    end_points: tuple[EndPoint, ...]
    estimate: Estimate | None = None
    recovers: str | None = None

    @cached_property
    def id(self) -> str:
        """Hash of everything the plan says."""
        digest = hashlib.sha256(json.dumps([FORMAT, _head(self)]).encode())
        for part in (self.selections, self.refusals):
            for selection in part:
                texts = [selection.asset, *selection.partitions, *selection.tell()]
                digest.update(json.dumps(texts).encode())
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


def make_plan(
    graph: Sequence[PlannedAsset],
    roots: Mapping[str, Mapping[str, str]],
    *,
    environment: str,
    created_at: datetime | None = None,
    durations: Durations | None = None,
) -> Plan:
    """The roots that we build and every pair downstream of a root, each with its reason.

    Args:
        graph: assets in topological order.
        roots: by asset and partition, why the pair changed or is unhealthy.
        environment: where the pairs are.
        created_at: now, unless given.
        durations: past seconds per run of each asset, for the estimate.

    An immutable pair is refused, and what reads it is not affected through it. It limits what we build: a pair that
    an upstream system delivers is what it is, however old.

    Raises:
        ValueError: the graph is out of order, has a cycle or does not fit its requirements; a root is not in it.
    """
    _validate(graph)
    causes = _Causes(graph, roots)
    chosen: list[tuple[PlannedAsset, Selection]] = []
    refusals: list[Selection] = []
    for asset in graph:
        changed, refused = causes.follow(asset)
        if asset.location is not None and changed.any():
            chosen.append((asset, causes.selection(asset, changed)))
        if refused.any():
            refusals.append(causes.selection(asset, refused, f"immutable before {asset.immutable_before}; "))
    bare = Plan(
        environment=environment,
        graph=_fingerprint(graph),
        created_at=created_at or datetime.now(UTC),
        selections=tuple(selection for _, selection in chosen),
        refusals=tuple(refusals),
        groups=_grouped(chosen, causes.changed),
        end_points=tuple(EndPoint(asset.key, len(s.positions)) for asset, s in chosen if asset.is_end_point),
    )
    return replace(bare, estimate=estimate(bare, durations or {}))


def estimate(plan: Plan, durations: Durations) -> Estimate | None:
    """What the plan takes when its runs follow one after the other.

    Every asset of every run is expected to take the median of that asset's past runs; the spread adds up their 10 %
    and 90 % quantiles. Adding quantiles says that all are fast or slow together (a busy machine slows everything),
    which is wider than if they were independent. An asset never timed takes the quantiles of all timed runs. The
    length of a range is not considered: most of a run's time does not depend on it.

    Returns:
        None where nothing was ever timed.
    """
    history = {asset: np.quantile(past, (0.5, 0.1, 0.9)) for asset, past in durations.items() if len(past)}
    if not history:
        return None
    overall = np.quantile(np.concatenate([np.asarray(durations[asset]) for asset in history]), (0.5, 0.1, 0.9))
    total = np.zeros(3)
    for group in plan.groups:
        for asset in group.assets:
            total += len(group.bounds) * history.get(asset, overall)
    return Estimate(*(round(float(seconds), 3) for seconds in total))


def ranges_of(plan: Plan) -> dict[str, list[tuple[str, str]] | None]:
    """The fewest (first, last) ranges of each asset's pairs; None for an asset without partitions."""
    found: dict[str, list[tuple[str, str]] | None] = {}
    for selection in plan.selections:
        keys = selection.keys
        named = [(keys[first], keys[last]) for first, last in selection.bounds().tolist()]
        found[selection.asset] = None if named == [(UNPARTITIONED, UNPARTITIONED)] else named
    return found


def remaining(plan: Plan, done: Callable[[str, str], bool], durations: Durations | None = None) -> Plan:
    """The plan without the pairs that are `done(asset, partition)`; its `recovers` is the id of the original.

    Its runs are parts of the plan's runs in the same order, so that they need no graph to be right.
    """
    places = {selection.asset: selection.places for selection in plan.selections}
    kept = {selection.asset: _without(selection, done) for selection in plan.selections}
    counts = {asset: len(selection.positions) for asset, selection in kept.items()}
    rest = replace(
        plan,
        selections=tuple(selection for selection in kept.values() if len(selection.positions)),
        groups=tuple(part for group in plan.groups for part in _rest(group, kept, places)),
        end_points=tuple(EndPoint(end.asset, counts[end.asset]) for end in plan.end_points if counts[end.asset]),
        recovers=plan.recovers or plan.id,
    )
    return replace(rest, estimate=estimate(rest, durations or {}))


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


def from_json(value: Mapping[str, Any]) -> Plan:
    """The plan that `to_json` wrote.

    Raises:
        ValueError: written by another version, or not what was written.
    """
    if value.get("format") != FORMAT:
        raise ValueError(
            f"the plan has format {value.get('format')!r}, this version reads {FORMAT}: make the plan again"
        )
    try:
        plan = _read(value)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"the plan is incomplete ({error!r}): make the plan again") from error
    if plan.id != value.get("id"):
        raise ValueError(
            f"the plan says it is {value.get('id')!r} but its contents are {plan.id!r}: somebody changed it. "
            "Make the plan again instead of editing it"
        )
    return plan


class _Causes:
    """What has changed so far, and why anything else does."""

    def __init__(self, graph: Sequence[PlannedAsset], roots: Mapping[str, Mapping[str, str]]) -> None:
        self.assets = {asset.key: asset for asset in graph}
        self.order = {asset.key: number for number, asset in enumerate(graph)}
        self.changed: dict[str, BoolArray] = {}
        self.given: dict[str, dict[int, str]] = {}
        for key, pairs in roots.items():
            if key not in self.assets:
                raise ValueError(f"the root {key} is not an asset of the graph; its assets are named team/entity")
            places = {partition: at for at, partition in enumerate(self.assets[key].partitions)} if pairs else {}
            for partition in pairs:
                if partition not in places:
                    raise ValueError(f"the root {named(key, partition)} does not exist: {key} has no such partition")
            self.given[key] = {places[partition]: reason for partition, reason in pairs.items()}

    def follow(self, asset: PlannedAsset) -> tuple[BoolArray, BoolArray]:
        """The pairs of `asset` that change, and those that would were they not immutable. Upstream assets first."""
        reached = np.zeros(len(asset.partitions), np.bool_)
        reached[list(self.given.get(asset.key, ()))] = True
        if asset.location is None:
            self.changed[asset.key] = reached
            return reached, np.zeros_like(reached)
        for upstream, requirement in asset.requirements.items():
            if upstream != asset.key and self.changed[upstream].any():
                reached |= requirement.affected(self.changed[upstream])
        limit = asset.immutable_before
        immutable = np.zeros_like(reached)
        if limit is not None:
            immutable |= np.fromiter((UNPARTITIONED < key < limit for key in asset.partitions), np.bool_, len(reached))
        itself = asset.requirements.get(asset.key)
        changed = reached & ~immutable
        while itself is not None:
            reached = reached | itself.affected(changed)
            if (changed == (reached & ~immutable)).all():
                break
            changed = reached & ~immutable
        self.changed[asset.key] = changed
        return changed, reached & immutable

    def selection(self, asset: PlannedAsset, wanted: BoolArray, prefix: str = "") -> Selection:
        """The `wanted` pairs of `asset`; the reason of each follows the prefix."""
        positions = np.flatnonzero(wanted)
        return Selection(
            asset.key, asset.partitions, positions, lambda: [prefix + text for text in self.reasons(asset, positions)]
        )

    def reasons(self, asset: PlannedAsset, positions: IntArray) -> list[str]:
        """Why each pair changes: the reason given for it, or the first changed pair it reads, in topological order."""
        given = self.given.get(asset.key, {})
        found = [given.get(at) for at in positions.tolist()]
        open_ = np.array([reason is None for reason in found], np.bool_)
        for upstream in sorted(asset.requirements, key=self.order.__getitem__):
            causes = asset.requirements[upstream].first(self.changed[upstream])[positions]
            told = np.flatnonzero(open_ & (causes != NONE))
            keys = self.assets[upstream].partitions
            for at, cause in zip(told.tolist(), causes[told].tolist(), strict=True):
                found[at] = f"reads {named(upstream, keys[cause])}"
            open_[told] = False
        return [reason or "" for reason in found]


def named(asset: str, partition: str) -> str:
    """A pair as people read it: team/entity@partition, without the @ where the asset has no partitions."""
    return f"{asset}@{partition}" if partition != UNPARTITIONED else asset


def _validate(graph: Sequence[PlannedAsset]) -> None:
    """Raise unless assets come after what they need and their requirements fit their calendars."""
    assets = {asset.key: asset for asset in graph}
    seen: set[str] = set()
    for asset in graph:
        if asset.key in seen:
            raise ValueError(f"{asset.key} is in the graph twice")
        for upstream, requirement in asset.requirements.items():
            if upstream not in assets:
                raise ValueError(f"{asset.key} needs {upstream}, which is not in the graph")
            if upstream not in seen and upstream != asset.key:
                raise ValueError(_out_of_order(graph, asset.key, upstream))
            fits = (len(asset.partitions), len(assets[upstream].partitions))
            if (requirement.downstream_count, requirement.upstream_count) != fits:
                raise ValueError(
                    f"what {asset.key} needs of {upstream} was compiled for {requirement.downstream_count} and "
                    f"{requirement.upstream_count} pairs, but they have {fits[0]} and {fits[1]}: compile it again"
                )
            if upstream == asset.key:
                latest = requirement.last(np.ones(fits[1], np.bool_))
                at = np.flatnonzero(latest >= np.arange(fits[0]))
                if len(at):
                    raise ValueError(f"{named(asset.key, asset.partitions[at[0]])} needs itself or a later pair")
        seen.add(asset.key)


def _out_of_order(graph: Sequence[PlannedAsset], key: str, upstream: str) -> str:
    try:
        TopologicalSorter({asset.key: set(asset.requirements) - {asset.key} for asset in graph}).prepare()
    except CycleError as error:
        return f"assets need each other: {' <- '.join(error.args[1])}"
    return f"{key} comes before {upstream}, which it needs: give the assets in topological order"


def _fingerprint(graph: Sequence[PlannedAsset]) -> str:
    """Changes when a key, the number or the ends of an asset's partitions, or a requirement changes."""
    digest = hashlib.sha256()
    for asset in sorted(graph, key=lambda asset: asset.key):
        needs = sorted((upstream, needed.fingerprint) for upstream, needed in asset.requirements.items())
        calendar = [len(asset.partitions), *asset.partitions[:1], *asset.partitions[-1:]]
        digest.update(json.dumps([asset.key, calendar, needs]).encode())
    return digest.hexdigest()[:32]


def _grouped(
    chosen: Sequence[tuple[PlannedAsset, Selection]], changed: Mapping[str, BoolArray]
) -> tuple[RunGroup, ...]:
    """Runs for the selections, given in topological order.

    Groups run one after the other in the order of their making, so that an asset may join any group that is not
    before a group of its upstream. It joins the latest with its location, calendar and ranges.
    """
    groups: list[RunGroup] = []
    group_of: dict[str, int] = {}
    alike: dict[tuple[str, tuple[str, ...], bytes], int] = {}
    calendars: dict[int, tuple[str, ...]] = {}
    interned: dict[tuple[str, ...], tuple[str, ...]] = {}
    for asset, selection in chosen:
        assert asset.location is not None
        if id(asset.partitions) not in calendars:
            calendar = tuple(asset.partitions)
            calendars[id(asset.partitions)] = interned.setdefault(calendar, calendar)
        bounds = selection.bounds()
        kind = (asset.location, calendars[id(asset.partitions)], bounds.tobytes())
        at = alike.get(kind, NONE)
        latest = max((group_of.get(upstream, NONE) for upstream in asset.requirements), default=NONE)
        if at != NONE and at >= latest and _in_step(asset, selection, groups[at], changed):
            groups[at] = replace(groups[at], assets=(*groups[at].assets, asset.key))
        else:
            at = alike[kind] = len(groups)
            groups.append(RunGroup(asset.location, (asset.key,), asset.partitions, bounds))
        group_of[asset.key] = at
    return tuple(groups)


def _in_step(asset: PlannedAsset, selection: Selection, group: RunGroup, changed: Mapping[str, BoolArray]) -> bool:
    """Whether no pair of `asset` needs a pair that the group only rebuilds in a later range."""
    if len(group.bounds) == 1:
        return True
    ends = np.repeat(group.bounds[:, 1], group.bounds[:, 1] - group.bounds[:, 0] + 1)
    return all(
        (asset.requirements[member].last(changed[member])[selection.positions] <= ends).all()
        for member in group.assets
        if member in asset.requirements
    )


def _without(selection: Selection, done: Callable[[str, str], bool]) -> Selection:
    keep = np.array([not done(selection.asset, partition) for partition in selection.partitions], np.bool_)
    return replace(
        selection,
        positions=selection.positions[keep],
        tell=lambda: [text for text, kept in zip(selection.tell(), keep, strict=True) if kept],
    )


def _rest(
    group: RunGroup, kept: Mapping[str, Selection], places: Mapping[str, Mapping[str, int]]
) -> Iterator[RunGroup]:
    """What remains of the runs of a group: neighbours stay in one run where the same one range is left of them."""
    for first, last in group.bounds.tolist():
        parts: list[RunGroup] = []
        for asset in group.assets:
            start, end = places[asset][group.keys[first]], places[asset][group.keys[last]]
            left = kept[asset].positions
            left = left[np.searchsorted(left, start) : np.searchsorted(left, end, side="right")]
            if not len(left):
                continue
            bounds = replace(kept[asset], positions=left).bounds()
            part = RunGroup(group.location, (asset,), kept[asset].keys, bounds)
            if parts and len(bounds) == 1 and list(part.runs())[0] == _alone(parts[-1], asset):
                parts[-1] = replace(parts[-1], assets=(*parts[-1].assets, asset))
            else:
                parts.append(part)
        yield from parts


def _alone(group: RunGroup, asset: str) -> PlannedRun | None:
    """The run of the group as if it were one of `asset`; None if it has several."""
    return next(replace(group, assets=(asset,)).runs()) if len(group.bounds) == 1 else None


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
        "graph": plan.graph,
        "created_at": plan.created_at.isoformat(),
        "recovers": plan.recovers,
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
    for run in runs:
        there = places[run.assets[0]]
        bounds = np.array([[there[run.first or UNPARTITIONED], there[run.last or UNPARTITIONED]]], np.int64)
        groups.append(RunGroup(run.location, run.assets, by_asset[run.assets[0]].keys, bounds))
    seconds, spread = value["estimate_seconds"], value["estimate_seconds_spread"]
    return Plan(
        environment=value["environment"],
        graph=value["graph"],
        created_at=datetime.fromisoformat(value["created_at"]),
        selections=selections,
        refusals=tuple(_selections(value["refused"], set())),
        groups=tuple(groups),
        end_points=tuple(EndPoint(end["asset"], end["pairs"]) for end in value["end_points"]),
        estimate=None if seconds is None else Estimate(seconds, *spread),
        recovers=value["recovers"],
    )


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
