"""From what happened to the roots of a plan: what was delivered again, what is unhealthy, whose code changed.

Belongs here: turning each kind of cause into pairs with reasons, and the plan that follows from them. Not here: what
depends on a root (`planning.py`), launching (`launching.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg
import numpy as np
from dagster._core.storage.dagster_run import RunsFilter

from platform_assets.asset_graph.graph import Graph
from platform_assets.asset_graph.selections import SelectionError, Span, assets_named
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partition_checker.states import STATES, AssetStates, State
from platform_assets.plans.plan import Plan
from platform_assets.plans.planning import Durations, PlannedAsset, make_plan

_RUNS_TIMED = 200

_HEALED = (State.LOST, State.SHORT, State.FAILED, State.MISSING, State.LATE, State.UNRECORDED, State.OUTDATED)
"""States that building a pair again can end. An empty pair is what its inputs make it."""

Roots = Mapping[str, Mapping[str, str]]
"""Reasons by asset and partition."""


@dataclass(frozen=True)
class CodeChange:
    """A model whose code changed.

    Attributes:
        asset: "team/entity".
        reason: what changed and since when.
        additive: whether what the model held before stays as it was, so that nothing that reads it is concerned. So it
            is for columns that are only added, and for a new model. A view stores nothing: what reads a changed column
            of it is a change of its own.
    """

    asset: str
    reason: str
    additive: bool


@dataclass(frozen=True)
class PairStates:
    """Every pair as it stands, for planning: nothing changes while a plan is made."""

    inspector: Inspector
    judged: Mapping[str, AssetStates]

    @classmethod
    def now(cls, inspector: Inspector) -> "PairStates":
        """Look at every pair of every code location."""
        return cls(inspector, inspector.judged(dict.fromkeys(inspector.graph.named)))

    @property
    def graph(self) -> Graph:
        """The asset graph."""
        return self.inspector.graph

    def plan(self, roots: Roots, additive: Sequence[str] = ()) -> Plan:
        """The plan that rebuilds `roots` and all recorded pairs that depend on them.

        What depends on a root and was never built is left to those who will ask for it: not all that it needs may be
        there.

        Args:
            roots: why each is to be rebuilt.
            additive: assets whose change concerns no reader of what they held before.
        """
        return make_plan(
            planned_assets(self.graph),
            roots,
            environment=self.inspector.ledger.environment,
            durations=durations(self.inspector.instance),
            additive=frozenset(additive),
            existing={name: found.facts.recorded for name, found in self.judged.items()},
        )

    def rows_at_stake(self, plan: Plan) -> int:
        """The rows that the planned pairs hold now, by their receipts."""
        total = 0
        for selection in plan.selections:
            facts = self.judged[selection.asset].facts
            rows = facts.rows[[facts.place[key] for key in selection.partitions]]
            total += int(np.maximum(rows, 0).sum())
        return total


def changed(graph: Graph, words: Sequence[str]) -> dict[str, dict[str, str]]:
    """The pairs that `team/entity@A..B` name; without a range, all pairs of the asset.

    Raises:
        SelectionError: no such asset or partition.
    """
    roots: dict[str, dict[str, str]] = {}
    for text in words:
        name, at, span = text.partition("@")
        (node,) = assets_named(graph, [name]) if "/" in name or "." in name else (None,)
        if node is None:
            raise SelectionError(f"{text!r} names no pairs; name them as team/entity@2017-03-01..2017-03-31")
        if at and node.calendar is None:
            raise SelectionError(f"{node.name} has no partitions: leave @{span} out")
        keys = Span.of(span).keys(node) if at else list(node.pairs)
        if not keys:
            ends = f"its partitions run from {node.pairs[0]} to {node.pairs[-1]}"
            raise SelectionError(f"{node.name} has no partition in {span}; {ends}")
        roots.setdefault(node.name, {}).update(dict.fromkeys(keys, "named as changed"))
    return roots


def unhealthy(situation: PairStates, wanted: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """The pairs among `wanted` that building again can heal, each with its state and reason.

    A pair that was never built counts only if all that it needs has been delivered. What such a pair needs and is
    unhealthy itself comes along, wanted or not: without it the pair could not be built.
    """
    judged, graph = situation.judged, situation.graph
    delivered = {
        node.key: {node.pairs[at] for at in np.flatnonzero(judged[node.name].facts.recorded).tolist()}
        for node in graph.nodes.values()
        if node.location is None
    }
    buildable = graph.buildable(delivered)
    needed = {name: np.zeros(len(node.pairs), np.bool_) for name, node in graph.named.items()}
    roots: dict[str, dict[str, str]] = {}
    for node in reversed(graph.built):
        facts = judged[node.name].facts
        requested = needed[node.name]
        requested[[facts.place[key] for key in wanted.get(node.name, ())]] = True
        healed = requested & np.isin(judged[node.name].states, [STATES.index(state) for state in _HEALED])
        absent = np.isin(judged[node.name].states, [STATES.index(State.MISSING), STATES.index(State.LATE)])
        for at in np.flatnonzero(healed & absent).tolist():
            healed[at] = node.pairs[at] in buildable[node.key]
        for upstream, requirement in graph.requirements(node).items():
            if upstream != node.name and node.completeness.needs(upstream):
                needed[upstream] |= requirement.needed(healed)
        if healed.any():
            roots[node.name] = {
                pair.partition: f"{pair.state}: {pair.reason}" for pair in judged[node.name].pairs(healed)
            }
    return roots


def code_roots(situation: PairStates, changes: Sequence[CodeChange]) -> dict[str, dict[str, str]]:
    """The recorded pairs of the assets whose code changed."""
    roots: dict[str, dict[str, str]] = {}
    for change in changes:
        if change.asset in situation.judged:
            facts = situation.judged[change.asset].facts
            keys = [facts.partitions[at] for at in np.flatnonzero(facts.recorded & ~facts.immutable).tolist()]
            if keys:
                roots[change.asset] = dict.fromkeys(keys, change.reason)
    return roots


def planned_assets(graph: Graph) -> list[PlannedAsset]:
    """The graph as planning sees it."""
    return [
        PlannedAsset(
            node.name,
            node.pairs,
            graph.requirements(node),
            node.location,
            node.completeness.immutable_before,
            node.is_product,
        )
        for node in graph.nodes.values()
    ]


def durations(instance: dg.DagsterInstance) -> Durations:
    """Past seconds per run and asset: of each recent successful run, an equal share for each of its assets."""
    found: dict[str, list[float]] = {}
    records = instance.get_run_records(RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]), limit=_RUNS_TIMED)
    for record in records:
        assets = record.dagster_run.asset_selection or ()
        if assets and record.start_time and record.end_time:
            for key in assets:
                share = (record.end_time - record.start_time) / len(assets)
                found.setdefault("/".join(key.path), []).append(share)
    return found
