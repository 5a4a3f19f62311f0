"""Reconciliation: the event log, the receipts and storage compared, on a schedule and for every code location.

Belongs here: the asset that compares, the checks on which its findings are shown, and their job. Not here: judging
pairs (`states.py`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import dagster as dg
import numpy as np
import pyarrow as pa

from platform_assets.asset_graph.completeness import Completeness, completeness_of
from platform_assets.asset_graph.graph import Node
from platform_assets.calendars import name_of
from platform_assets.partition_checker.activity import activity, attempts
from platform_assets.partition_checker.build import recorded_event
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.deep import adopt
from platform_assets.partition_checker.evaluations import (
    ON_TIME,
    evaluation_of_pair,
    not_verified,
    on_time_check,
    report,
    verified_check,
    waiting_for_late,
)
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partition_checker.stalls import Activity, Stall, stalls, together, waiting
from platform_assets.partition_checker.states import AssetStates, PairState, State
from platform_assets.partitioned_checks import evaluated_materializations, report_together
from platform_assets.table_metadata import table_metadata
from platform_assets.teams import team_of
from resources.warehouse import Commit, TableName, Warehouse

HEALTH = dg.AssetKey(["platform", "unhealthy_pairs"])
NOTHING_STALLS = "nothing_stalls"
_STALLS_SHOWN = 20
_CRON = "*/10 * * * *"
_STUB = "dagster/auto_created_stub_asset"
_COLUMNS = {
    "asset": ("VARCHAR", "Asset of the pair, team/entity."),
    "partition": ("VARCHAR", "Partition key; empty for an asset without partitions."),
    "state": ("VARCHAR", "What the Partition Checker says of it."),
    "rows": ("BIGINT", "Rows that storage holds; null where none are counted."),
    "reason": ("VARCHAR", "Why it is in that state."),
    "looked_at": ("TIMESTAMP WITH TIME ZONE", "When it was looked at."),
    "stalls": ("VARCHAR", "Why nobody builds it though all that it needs is there; null where it waits for something."),
    "remedy": ("VARCHAR", "What to do about a pair that stalls."),
}
_TYPES = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", "UTC")}


@dataclass(frozen=True)
class Reconciliation:
    """What was found and done.

    Pairs that are not verified, those of them that stall, pairs by state, and how many were reported and mended.
    """

    unhealthy: Sequence[PairState]
    stalled: Sequence[Stall]
    states: Mapping[State, int]
    evaluations: int
    events_restored: int
    adopted: int


class ReconcileConfig(dg.Config):
    """How to reconcile."""

    adopt: bool = False
    """Give stored pairs without a receipt one for what they hold; their rows are read for it."""


def reconcile(inspector: Inspector, run_id: str, adopts: bool = False) -> Reconciliation:
    """Compare everything, and show what was found on the assets that it concerns.

    What the event log has lost of a recorded pair is recorded again. A pair that the event log calls built, and of
    which there is neither a receipt nor anything in storage, is lost. Adopting is described in `deep.py`.

    Runs go on meanwhile, and store a pair before they record it. So a pair counts as unhealthy when two looks, one
    after the other, find it so, and its check fails if no run was building it at either.
    """
    everything = dict.fromkeys(inspector.graph.named)
    going = activity(inspector.instance, inspector.graph)
    judged = inspector.judged(everything)
    adopted = 0
    if adopts:
        keys = {name: list(inspector.graph.named[name].pairs) for name in everything}
        adopted = len(adopt(inspector, judged, keys, run_id))
        judged = inspector.judged(everything)
    logged = {node.name: _logged(inspector.instance, node) for node in inspector.graph.built}
    doubted = [name for name, of_asset in judged.items() if not of_asset.verified.all()]
    again = replace(inspector, now=datetime.now(UTC)).judged(dict.fromkeys(doubted))
    unhealthy: list[PairState] = []
    evaluations = restored = 0
    for node in inspector.graph.nodes.values():
        before, now = judged[node.name], again.get(node.name, judged[node.name])
        found = {pair.partition: pair for pair in now.pairs(~before.verified & ~now.verified)}
        if node.location is not None:
            vanished = {key: _vanished(found[key]) for key in found if key in logged[node.name]}
            found |= {key: pair for key, pair in vanished.items() if _is_nowhere(found[key])}
            at_rest = {pair.partition for pair in now.pairs(before.settled & now.settled & ~now.verified)}
            failing = not_verified(pair for key, pair in found.items() if key in at_rest)
            evaluations += report(inspector.instance, run_id, verified_check(node.key, node.calendar), failing)
            if "alert" in node.completeness.when_late.values():
                late = waiting_for_late(inspector.graph, node, judged)
                evaluations += report(inspector.instance, run_id, on_time_check(node.key, node.calendar), late)
            restored += _restore(inspector, node, judged[node.name], logged[node.name])
        unhealthy += found.values()
    counts = Counter(pair.state for pair in unhealthy)
    verified = sum(int(of_asset.verified.sum()) for of_asset in judged.values())
    stalled = _stalled(inspector, {**judged, **again}, going)
    return Reconciliation(unhealthy, stalled, {State.VERIFIED: verified, **counts}, evaluations, restored, adopted)


def _stalled(inspector: Inspector, judged: Mapping[str, AssetStates], before: Activity) -> list[Stall]:
    """The pairs that stall. What begins or ends while they are looked at is under way by one of two looks."""
    graph, now = inspector.graph, datetime.now(UTC)
    going = together(before, activity(inspector.instance, graph))
    tried = attempts(inspector.instance, graph, waiting(graph, judged, going, now))
    return list(stalls(graph, judged, going, tried, now))


def build_reconciliation() -> dg.Definitions:
    """The asset that compares everything, for all code locations."""
    stalls_check = dg.AssetCheckSpec(
        NOTHING_STALLS,
        asset=HEALTH,
        description="Whatever could be built is being built, or waits for something named.",
    )

    @dg.asset(
        key=HEALTH,
        group_name="platform",
        owners=[team_of("platform").owner],
        kinds={"duckdb", "table"},
        automation_condition=dg.AutomationCondition.on_cron(_CRON),
        metadata=table_metadata([dg.TableColumn(name, *told) for name, told in _COLUMNS.items()], {})
        | Completeness(due_after_hours=1).metadata,
        check_specs=[stalls_check],
    )
    def unhealthy_pairs(
        context: dg.AssetExecutionContext, config: ReconcileConfig, checker: PartitionChecker, warehouse: Warehouse
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        """One row per pair that is not verified, in any code location, as the last reconciliation of event log,
        receipts and storage found it."""
        with checker.building(context) as build:
            for _ in build.waves():
                found = reconcile(checker.inspector(context.instance), context.run.run_id, config.adopt)
                commit = Commit(context.run.run_id, HEALTH.to_user_string())
                warehouse.replace_partitions(TableName.of_key(HEALTH), None, _table(found), commit)
                build.record_table(HEALTH, [""], {"": _shown(found)})
            yield from build.outputs()
            yield _told(found.stalled)

    return dg.Definitions(assets=[unhealthy_pairs])


def build_partition_health(location: str, graph: dg.Definitions) -> dg.Definitions:
    """The checks of every asset of a location on which findings are shown; they can be run by hand too.

    Args:
        location: the code location, which names the steps: one for each calendar.
        graph: its assets.
    """
    specs = [spec for spec in graph.resolve_all_asset_specs() if not spec.metadata.get(_STUB)]
    built = [spec for spec in specs if completeness_of(spec).storage != "upstream"]
    # A number would go to another calendar when an asset is added, and a run that waits for its retry knows its steps
    # by name.
    by_calendar: dict[str, list[dg.AssetSpec]] = {}
    for spec in built:
        by_calendar.setdefault(name_of(spec.partitions_def), []).append(spec)
    return dg.Definitions(
        asset_checks=[
            _checks(f"{location}_partition_checker_{name}", some[0].partitions_def, some)
            for name, some in by_calendar.items()
        ]
    )


def _checks(
    name: str, calendar: dg.PartitionsDefinition | None, of_calendar: Sequence[dg.AssetSpec]
) -> dg.AssetChecksDefinition:
    alerting = [spec for spec in of_calendar if "alert" in completeness_of(spec).when_late.values()]
    checks = {
        check.key: check
        for check in [
            *(verified_check(spec.key, calendar) for spec in of_calendar),
            *(on_time_check(spec.key, calendar) for spec in alerting),
        ]
    }

    @dg.multi_asset_check(name=name, specs=list(checks.values()), can_subset=True)
    def evaluate(
        context: dg.AssetCheckExecutionContext, checker: PartitionChecker
    ) -> Iterator[dg.AssetCheckEvaluation]:
        if context.run.asset_selection:
            # Dagster runs the checks of what it has just built along with it: their receipts are seconds old.
            selected = [checks[key] for key in sorted(context.selected_asset_check_keys)]
            report_together(
                context.op_execution_context.get_step_execution_context(), _just_recorded(context, calendar, selected)
            )
            return
        inspector = checker.inspector(context.instance)
        requested = list(context.op_execution_context.partition_keys) if calendar is not None else [""]
        for key in sorted(context.selected_asset_check_keys):
            node = inspector.graph.nodes[key.asset_key]
            judged = inspector.judged(dict.fromkeys([node.name, *inspector.graph.requirements(node)]))
            is_late = key.name == ON_TIME
            of_asset = judged[node.name]
            wrong = of_asset.pairs(~of_asset.verified & of_asset.settled)
            failing = waiting_for_late(inspector.graph, node, judged) if is_late else not_verified(wrong)
            targets = evaluated_materializations(context.instance, node.key, None if calendar is None else requested)
            for partition in requested:
                yield evaluation_of_pair(checks[key], partition, failing.get(partition), targets)

    return evaluate


def _just_recorded(
    context: dg.AssetCheckExecutionContext,
    calendar: dg.PartitionsDefinition | None,
    selected: Sequence[dg.AssetCheckSpec],
) -> list[dg.AssetCheckEvaluation]:
    """What the checks say of the pairs that this run has recorded."""
    requested = None if calendar is None else list(context.op_execution_context.partition_keys)
    found: list[dg.AssetCheckEvaluation] = []
    for check in selected:
        targets = evaluated_materializations(context.instance, check.asset_key, requested)
        own = {at: target for at, target in targets.items() if target.run_id == context.run.run_id}
        found += [evaluation_of_pair(check, at or "", None, own) for at in own]
    return found


def _logged(instance: dg.DagsterInstance, node: Node) -> set[str]:
    """The pairs that the event log calls built."""
    if node.calendar is not None:
        return set(instance.get_materialized_partitions(node.key))
    return {""} if instance.get_latest_materialization_event(node.key) else set()


def _is_nowhere(pair: PairState) -> bool:
    return pair.state in (State.MISSING, State.LATE)


def _vanished(pair: PairState) -> PairState:
    reason = "the event log says that it was built, but there is no receipt, and storage has nothing of it"
    return replace(pair, state=State.LOST, reason=reason)


def _restore(inspector: Inspector, node: Node, judged: AssetStates, logged: Set[str]) -> int:
    """Record again what the event log has lost, not what a run is about to log; returns how many pairs that were."""
    facts = judged.facts
    lost = [
        facts.partitions[at] for at in np.flatnonzero(facts.recorded).tolist() if facts.partitions[at] not in logged
    ]
    receipts = inspector.ledger.current(node.name, lost) if lost else {}
    runs = {run_id: inspector.instance.get_run_by_id(run_id) for run_id in {one.run_id for one in receipts.values()}}
    going = {run_id for run_id, run in runs.items() if run is not None and not run.is_finished}
    forgotten = [receipt for receipt in receipts.values() if receipt.run_id not in going]
    for receipt in forgotten:
        inspector.instance.report_runless_asset_event(recorded_event(receipt))
    return len(forgotten)


def _shown(found: Reconciliation) -> dict[str, int]:
    return {
        **{f"pairs {state}": count for state, count in found.states.items()},
        "evaluations reported": found.evaluations,
        "events restored": found.events_restored,
        "pairs adopted": found.adopted,
        "pairs stalled": len(found.stalled),
    }


def _told(stalled: Sequence[Stall]) -> dg.AssetCheckResult:
    lines = [str(stall) for stall in stalled[:_STALLS_SHOWN]]
    if len(stalled) > _STALLS_SHOWN:
        lines.append(f"and {len(stalled) - _STALLS_SHOWN:,} more: see the column `stalls` of {HEALTH.to_user_string()}")
    return dg.AssetCheckResult(
        passed=not stalled,
        check_name=NOTHING_STALLS,
        asset_key=HEALTH,
        description="\n".join(lines) or None,
        metadata={"pairs stalled": len(stalled)},
    )


def _table(found: Reconciliation) -> pa.Table:
    now = datetime.now(UTC)
    stalled = {(stall.asset, stall.partition): stall for stall in found.stalled}
    rows = [
        {
            "asset": pair.asset,
            "partition": pair.partition,
            "state": str(pair.state),
            "rows": pair.rows,
            "reason": pair.reason,
            "looked_at": now,
            "stalls": stall and stall.cause,
            "remedy": stall and stall.remedy,
        }
        for pair in found.unhealthy
        for stall in [stalled.get((pair.asset, pair.partition))]
    ]
    return pa.Table.from_pylist(rows, pa.schema([(name, _TYPES[kind]) for name, (kind, _) in _COLUMNS.items()]))
