"""What could be built and is not, though nothing is building it and nothing that is named holds it back.

Belongs here: which pairs stall, since when, why, and what to do; pure comparison of plain data. Not here: where the
data come from (`activity.py`), showing it (`reconcile.py`, `causes.py`).

A pair stalls when all that it requires is verified, it is missing or was built from what its inputs held before, and no
run or backfill includes it. What waits behind it waits for a named pair, so only the first of a chain stalls. Pairs
that failed, are lost or damaged are named by their own state; code that changed waits for a plan.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from platform_assets.asset_graph.graph import Graph, Node, named
from platform_assets.asset_graph.requirements import BoolArray, Requirement
from platform_assets.partition_checker.states import STATES, AssetStates, FloatArray, State

PATIENCE_SECONDS = 1800.0
"""How long nothing may have moved for a pair before it counts as stalled.

Automation looks every few seconds and a look takes a few more; half an hour is a hundred times that, so that a machine
ten times slower, or one that catches up after a night, raises no alarm. Active runs explain any waiting, however long.
"""

_HOUR_S = 3600


@dataclass(frozen=True)
class Activity:
    """What goes on, and what came of it.

    Attributes:
        under_way: by asset, the pairs of runs and backfills that go on, or that Dagster is about to launch again.
        delivered_at: by asset of an upstream system, when each pair was last delivered, in seconds since 1970.
        off: by code location, why its automation does not look, in words.
    """

    under_way: Mapping[str, BoolArray] = field(default_factory=dict)
    delivered_at: Mapping[str, FloatArray] = field(default_factory=dict)
    off: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Attempt:
    """How the last run that was to build a pair ended: in words, and when, in seconds since 1970."""

    words: str
    ended_at: float


@dataclass(frozen=True)
class Stall:
    """A pair that stalls: since when nothing has moved for it, why nobody builds it, and what to do."""

    asset: str
    partition: str
    since: float
    cause: str
    remedy: str

    def __str__(self) -> str:
        return f"{named(self.asset, self.partition)} could be built and is not: {self.cause}. {self.remedy}"


def together(one: Activity, other: Activity) -> Activity:
    """What goes on by either of two looks."""
    under_way = {name: pairs | other.under_way[name] for name, pairs in one.under_way.items()}
    return Activity(under_way, other.delivered_at, other.off)


def waiting(graph: Graph, judged: Mapping[str, AssetStates], activity: Activity, now: datetime) -> dict[str, BoolArray]:
    """The pairs that could be built, that nothing is building, and that wait for nothing that is being built upstream.

    By asset; assets without such are left out.
    """
    found, unsettled = {}, unsettled_pairs(graph, activity)
    for node in graph.built:
        if node.name in judged:
            pairs = _wanting(judged[node.name]) & _upstream_is_there(graph, node, judged, now)
            pairs &= judged[node.name].settled & ~unsettled[node.name]
            if pairs.any():
                found[node.name] = pairs
    return found


def unsettled_pairs(graph: Graph, activity: Activity) -> dict[str, BoolArray]:
    """The pairs that are being built, or read what is, however far back: automation waits for what these become."""
    found: dict[str, BoolArray] = {}
    for node in graph.nodes.values():
        pairs = activity.under_way.get(node.name, np.zeros(len(node.pairs), np.bool_)).copy()
        for key in node.deps.keys() - {node.key}:
            upstream = found[graph.nodes[key].name]
            if upstream.any():
                pairs |= graph.requirement(node, key).affected(upstream)
        found[node.name] = pairs
    return found


def moved_at(graph: Graph, node: Node, judged: Mapping[str, AssetStates], activity: Activity) -> FloatArray:
    """When something last moved for each pair: its partition ended, it was recorded, or something that it reads was."""
    moved = judged[node.name].facts.recorded_at.copy()
    if len(node.ends):
        moved = np.maximum(moved, node.ends)
    for upstream, requirement in graph.requirements(node).items():
        facts = judged[upstream].facts
        moved = np.maximum(moved, _latest(requirement, activity.delivered_at.get(upstream, facts.recorded_at)))
    return moved


def stalls(
    graph: Graph,
    judged: Mapping[str, AssetStates],
    activity: Activity,
    attempts: Mapping[str, Mapping[str, Attempt]],
    now: datetime,
    patience: float = PATIENCE_SECONDS,
) -> Iterator[Stall]:
    """Every pair that stalls.

    Args:
        graph: of every code location.
        judged: the states of all its pairs.
        activity: what goes on.
        attempts: by asset and partition, how the last run that was to build a `waiting` pair ended.
        now: the moment of the comparison.
        patience: for how many seconds nothing must have moved for a pair.
    """
    for name, pairs in waiting(graph, judged, activity, now).items():
        node, since = graph.named[name], moved_at(graph, graph.named[name], judged, activity)
        tried = attempts.get(name, {})
        for at in np.flatnonzero(pairs & (since <= now.timestamp() - patience)).tolist():
            partition = node.pairs[at]
            attempt = tried.get(partition)
            last = max(float(since[at]), attempt.ended_at if attempt else 0.0)
            if last <= now.timestamp() - patience:
                yield Stall(
                    name, partition, last, why_nobody_builds(node, activity, attempt), remedy(node, partition, activity)
                )


def why_nobody_builds(node: Node, activity: Activity, attempt: Attempt | None) -> str:
    """Why nobody builds a pair of which all that it needs is there."""
    off = activity.off.get(node.location or "")
    if off:
        return off
    if attempt:
        return f"{attempt.words}, and automation has not asked for it since"
    return "no run was ever to build it: automation has not asked for it"


def remedy(node: Node, partition: str, activity: Activity) -> str:
    """What to do about it."""
    span = f" --partitions {partition}" if partition else ""
    build = f"headwater plan {node.name} --unhealthy{span} -o plan.json, then headwater recover plan.json"
    if node.location in activity.off:
        return f"Turn it on in the web UI under Automation; or build the pair alone: {build}"
    return f"To build it: {build}"


def _wanting(judged: AssetStates) -> BoolArray:
    """Pairs that were never built, or from what their inputs held before."""
    absent = np.isin(judged.states, [STATES.index(State.MISSING), STATES.index(State.LATE)])
    outdated = (judged.states == STATES.index(State.OUTDATED)) & judged.facts.same_code
    found: BoolArray = absent | outdated
    return found


def _upstream_is_there(graph: Graph, node: Node, judged: Mapping[str, AssetStates], now: datetime) -> BoolArray:
    there = np.ones(len(node.pairs), np.bool_)
    for upstream, requirement in graph.requirements(node).items():
        if upstream == node.name or not node.completeness.needs(upstream):
            continue
        lacks = ~judged[upstream].verified
        if node.completeness.goes_on_without_late(upstream):
            facts = judged[upstream].facts
            late = _ended(graph.named[upstream], now, node.completeness.late_after_hours)
            lacks &= facts.recorded | facts.is_stored | ~late
        there &= ~requirement.affected(lacks)
    return there


def _ended(node: Node, now: datetime, hours: float) -> BoolArray:
    if not len(node.ends):
        return np.zeros(len(node.pairs), np.bool_)
    found: BoolArray = node.ends <= now.timestamp() - hours * _HOUR_S
    return found


def _latest(requirement: Requirement, values: FloatArray) -> FloatArray:
    """For each downstream pair the greatest of the `values` of the upstream pairs that it needs; 0 where it needs none.

    `reduceat` takes the ranges between one index and the next: those between the pairs are left out again.
    """
    seen = values if requirement.members is None else values[requirement.members]
    some = requirement.high > requirement.low
    found = np.zeros(requirement.downstream_count, np.float64)
    if some.any():
        bounds = np.stack((requirement.low[some], requirement.high[some]), axis=1).ravel()
        found[some] = np.maximum.reduceat(np.append(seen, 0.0), bounds)[::2]
    return found
