"""Computing a plan: everything that follows from some roots, the runs that rebuild it, and what remains of a plan.

Belongs here: plans from plain data, and whether one still fits the graph. Not here: the plan as data (`plan.py`),
finding out what changed, loading the asset graph, launching anything.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from graphlib import CycleError, TopologicalSorter

import numpy as np

from platform_assets.asset_graph.graph import named
from platform_assets.asset_graph.requirements import NONE, BoolArray, IntArray, Requirement
from platform_assets.plans.plan import Calendars, EndPoint, Estimate, Plan, PlannedRun, RunGroup, Selection

Durations = Mapping[str, Sequence[float]]
"""Past seconds per run of each asset."""

_MIXED = np.int64(-7046029254386353131)
"""An odd number without pattern, 2^64 over the golden ratio: it spreads what is multiplied by it over all bits."""


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


def make_plan(
    graph: Sequence[PlannedAsset],
    roots: Mapping[str, Mapping[str, str]],
    *,
    environment: str,
    created_at: datetime | None = None,
    durations: Durations | None = None,
    additive: Set[str] = frozenset(),
    existing: Mapping[str, BoolArray] | None = None,
) -> Plan:
    """The roots that we build and every pair downstream of a root, each with its reason.

    Args:
        graph: assets in topological order.
        roots: by asset and partition, why the pair changed or is unhealthy.
        environment: where the pairs are.
        created_at: now, unless given.
        durations: past seconds per run of each asset, for the estimate.
        additive: assets whose own roots concern nobody who reads them, as when a column was added.
        existing: by asset, the pairs that were ever built: of what depends on a root only these are rebuilt. All of
            them, unless given.

    An immutable pair is refused, and what reads it is not affected through it. It limits what we build: a pair that
    an upstream system delivers is what it is, however old.

    Raises:
        ValueError: the graph is out of order, has a cycle or does not fit its requirements; a root is not in it or has
            no reason.
    """
    _validate(graph)
    causes = _Causes(graph, roots, additive, existing or {})
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
        graph={asset.key: _needs(asset, causes.assets, s.positions, causes.calendars) for asset, s in chosen},
        created_at=created_at or datetime.now(UTC),
        selections=tuple(selection for _, selection in chosen),
        refusals=tuple(refusals),
        groups=_grouped(chosen, causes.changed),
        end_points=tuple(EndPoint(asset.key, len(s.positions)) for asset, s in chosen if asset.is_end_point),
        roots={asset.key: own for asset, _ in chosen if (own := causes.roots(asset))},
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


def remaining(plan: Plan, done: Callable[[str, str], bool], durations: Durations | None = None) -> Plan:
    """The plan without the pairs that are `done(asset, partition)`; its `recovers` is the id of the original.

    Its runs are parts of the plan's runs in the same order, so that they need no graph to be right. It fits a graph
    that the plan fits: `differences` looks at what the pairs done need, too.
    """
    places = {selection.asset: selection.places for selection in plan.selections}
    kept = {selection.asset: _without(selection, done) for selection in plan.selections}
    counts = {asset: len(selection.positions) for asset, selection in kept.items()}
    rest = replace(
        plan,
        graph={asset: needs for asset, needs in plan.graph.items() if counts[asset]},
        selections=tuple(selection for selection in kept.values() if len(selection.positions)),
        groups=tuple(part for group in plan.groups for part in _rest(group, kept, places)),
        end_points=tuple(EndPoint(end.asset, counts[end.asset]) for end in plan.end_points if counts[end.asset]),
        roots={asset: left for asset, keys in plan.roots.items() if (left := [k for k in keys if not done(asset, k)])},
        recovers=plan.recovers or plan.id,
        done={
            asset: out
            for asset, count in counts.items()
            if count and (out := [*plan.done.get(asset, ()), *_left_out(places[asset], kept[asset])])
        },
    )
    return replace(rest, estimate=estimate(rest, durations or {}))


def differences(plan: Plan, graph: Sequence[PlannedAsset]) -> list[str]:
    """What keeps a plan from being carried out on this graph, in words; none where nothing does.

    Assets and pairs that the plan does not concern may have changed, and calendars may have grown, but not inside a
    planned range: its run would build what has appeared there.
    """
    assets = {asset.key: asset for asset in graph}
    locations = {asset: group.location for group in plan.groups for asset in group.assets}
    calendars = Calendars()
    found = []
    for selection in plan.selections:
        asset = assets.get(selection.asset)
        if asset is None:
            found.append(f"{selection.asset} is no longer in the graph")
            continue
        places = calendars.of(asset.partitions).places
        planned = [*selection.partitions, *plan.done.get(asset.key, ())]
        gone = [key for key in planned if key not in places]
        if gone:
            found.append(
                f"{named(asset.key, gone[0])} no longer exists, one of {len(gone)} planned pairs that are gone"
            )
            continue
        if asset.location != locations[asset.key]:
            here = asset.location or "an upstream system"
            found.append(f"{asset.key}: {here} builds it now, not {locations[asset.key]}")
        positions = np.array([places[key] for key in planned], np.int64)
        was, needs = plan.graph.get(asset.key, {}), _needs(asset, assets, positions, calendars)
        for upstream in sorted({*was, *needs}):
            if was.get(upstream) != needs.get(upstream):
                found.append(f"{asset.key}: what its planned pairs need of {upstream} has changed")
        found += _misfits(asset, selection, positions[: len(selection.positions)], calendars)
    return found


def _misfits(asset: PlannedAsset, selection: Selection, positions: IntArray, calendars: Calendars) -> Iterator[str]:
    """Why the runs of a selection, whose pairs are at `positions` by now, would no longer build exactly these."""
    steps = np.diff(positions)
    if (steps < 1).any():
        yield f"{asset.key}: its planned partitions are in another order now"
        return
    wider = np.flatnonzero((np.diff(selection.positions) == 1) & (steps > 1))
    if len(wider):
        partition = named(asset.key, asset.partitions[positions[wider[0]] + 1])
        count = int((steps[wider] - 1).sum())
        yield f"{partition} has appeared inside a planned range, one of {count} that its runs would build too"
    frozen = positions[calendars.of(asset.partitions).immutable(asset.immutable_before)[positions]]
    if len(frozen):
        partition = named(asset.key, asset.partitions[frozen[0]])
        yield (
            f"{partition} has become immutable, one of {len(frozen)} planned pairs: what is before "
            f"{asset.immutable_before} stays as it is"
        )


class _Causes:
    """What has changed so far, and why anything else does."""

    def __init__(
        self,
        graph: Sequence[PlannedAsset],
        roots: Mapping[str, Mapping[str, str]],
        additive: Set[str],
        existing: Mapping[str, BoolArray],
    ) -> None:
        self.existing = existing
        self.additive = additive
        self.calendars = Calendars()
        self.assets = {asset.key: asset for asset in graph}
        self.order = {asset.key: number for number, asset in enumerate(graph)}
        self.changed: dict[str, BoolArray] = {}
        self.followed: dict[str, BoolArray] = {}
        self.given: dict[str, dict[int, str]] = {}
        for key, pairs in roots.items():
            if key not in self.assets:
                raise ValueError(f"the root {key} is not an asset of the graph; its assets are named team/entity")
            places = self.calendars.of(self.assets[key].partitions).places if pairs else {}
            for partition, reason in pairs.items():
                if partition not in places:
                    raise ValueError(f"the root {named(key, partition)} does not exist: {key} has no such partition")
                if not reason:
                    raise ValueError(f"the root {named(key, partition)} has no reason: say why it is one")
            self.given[key] = {places[partition]: reason for partition, reason in pairs.items()}

    def follow(self, asset: PlannedAsset) -> tuple[BoolArray, BoolArray]:
        """The pairs of `asset` that change, and those that would were they not immutable. Upstream assets first."""
        given = np.zeros(len(asset.partitions), np.bool_)
        given[list(self.given.get(asset.key, ()))] = True
        if asset.location is None:
            self.changed[asset.key] = self.followed[asset.key] = given
            return given, np.zeros_like(given)
        behind = np.zeros_like(given)
        for upstream, requirement in asset.requirements.items():
            if upstream != asset.key and self.followed[upstream].any():
                behind |= requirement.affected(self.followed[upstream])
        possible = self.existing.get(asset.key, np.ones_like(given))
        immutable = self.calendars.of(asset.partitions).immutable(asset.immutable_before)
        itself = asset.requirements.get(asset.key)
        reached = given | (behind & possible)
        changed = _through_itself(itself, reached & ~immutable, possible & ~immutable)
        if itself is not None:
            reached |= itself.affected(changed) & possible
        self.changed[asset.key] = self.followed[asset.key] = changed
        if asset.key in self.additive:
            # A pair that is a root itself counts where upstream has changed, too, whether it was ever built or not.
            self.followed[asset.key] = _through_itself(itself, behind & changed, changed)
        return changed, reached & immutable

    def roots(self, asset: PlannedAsset) -> list[str]:
        """The partitions of an asset that are rebuilt for a reason of their own."""
        return [asset.partitions[at] for at in sorted(self.given.get(asset.key, ())) if self.changed[asset.key][at]]

    def selection(self, asset: PlannedAsset, wanted: BoolArray, prefix: str = "") -> Selection:
        """The `wanted` pairs of `asset`; the reason of each follows the prefix."""
        positions = np.flatnonzero(wanted)
        keys = self.calendars.of(asset.partitions).keys
        return Selection(asset.key, keys, positions, lambda: [prefix + text for text in self.reasons(asset, positions)])

    def reasons(self, asset: PlannedAsset, positions: IntArray) -> list[str]:
        """Why each pair changes: the reason given for it, or the first changed pair it reads, in topological order.

        An asset that reads its own past follows its own roots even where they concern nobody else.
        """
        given = self.given.get(asset.key, {})
        found = [given.get(at) for at in positions.tolist()]
        open_ = np.array([reason is None for reason in found], np.bool_)
        for upstream in sorted(asset.requirements, key=self.order.__getitem__):
            followed = (self.changed if upstream == asset.key else self.followed)[upstream]
            causes = asset.requirements[upstream].first(followed)[positions]
            told = np.flatnonzero(open_ & (causes != NONE))
            keys = self.assets[upstream].partitions
            for at, cause in zip(told.tolist(), causes[told].tolist(), strict=True):
                found[at] = f"reads {named(upstream, keys[cause])}"
            open_[told] = False
        reasons = [reason for reason in found if reason is not None]
        assert len(reasons) == len(positions), f"{asset.key} has pairs that changed for no reason"
        return reasons


def _through_itself(itself: Requirement | None, start: BoolArray, allowed: BoolArray) -> BoolArray:
    """The `start`, and the `allowed` pairs that follow from it when an asset reads its own past by `itself`."""
    found = start
    while itself is not None:
        more = found | (itself.affected(found) & allowed)
        if (more == found).all():
            break
        found = more
    return found


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


def _needs(
    asset: PlannedAsset, assets: Mapping[str, PlannedAsset], positions: IntArray, calendars: Calendars
) -> dict[str, str]:
    """By upstream, a digest of which of its pairs the pairs at `positions` need.

    Each pair enters with the sum of the hashes of the keys that it needs, in any order and as one addition for all.
    """
    found = {}
    keys = calendars.of(asset.partitions).hashes[positions]
    for upstream in sorted(asset.requirements):
        needed = asset.requirements[upstream].sums(calendars.of(assets[upstream].partitions).hashes)[positions]
        total = ((keys ^ needed) * _MIXED + (needed >> 7)).sum(dtype=np.int64)
        found[upstream] = f"{int(total) % 2**64:016x}"
    return found


def _grouped(
    chosen: Sequence[tuple[PlannedAsset, Selection]], changed: Mapping[str, BoolArray]
) -> tuple[RunGroup, ...]:
    """Runs for the selections, given in topological order.

    Groups run one after the other in the order of their making, so that an asset may join any group that is not
    before a group of its upstream. It joins the latest with its location, calendar and ranges; equal calendars are one
    object in selections.
    """
    groups: list[RunGroup] = []
    group_of: dict[str, int] = {}
    alike: dict[tuple[str, int, bytes], int] = {}
    for asset, selection in chosen:
        assert asset.location is not None
        bounds = selection.bounds()
        kind = (asset.location, id(selection.keys), bounds.tobytes())
        at = alike.get(kind, NONE)
        latest = max((group_of.get(upstream, NONE) for upstream in asset.requirements), default=NONE)
        if at != NONE and at >= latest and _in_step(asset, selection, groups[at], changed):
            groups[at] = replace(groups[at], assets=(*groups[at].assets, asset.key))
        else:
            at = alike[kind] = len(groups)
            groups.append(RunGroup(asset.location, (asset.key,), selection.keys, bounds))
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


def _left_out(places: Mapping[str, int], kept: Selection) -> list[str]:
    """The partitions at `places` that are not kept, in order."""
    still = set(kept.positions.tolist())
    return [partition for partition, at in places.items() if at not in still]


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
