"""The checks by which the Partition Checker shows what it found, where the web UI and automation see it.

Belongs here: declaring these checks, what makes one fail, and reporting evaluations from anywhere, a run or none. Not
here: judging pairs (`states.py`), when that is done (`reconcile.py`, `checker.py`).
"""

from collections.abc import Iterable, Mapping, Set

import dagster as dg
import numpy as np
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.instance.utils import RUNLESS_JOB_NAME
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from platform_assets.asset_graph.graph import Graph, Node, named
from platform_assets.automation import VERIFIED
from platform_assets.partition_checker.states import STATES, AssetStates, PairState, State
from platform_assets.partitioned_checks import Evaluated, evaluated_materializations, evaluation_of, partitioned_check

ON_TIME = "on_time"

WANTING = (State.LOST, State.SHORT, State.UNRECORDED, State.EMPTY)
"""States in which a stored or recorded pair must not be built upon, and of which nothing else tells automation."""

Failing = Mapping[str, str]
"""The partitions that a check is to fail for, and why."""


def verified_check(key: dg.AssetKey, calendar: dg.PartitionsDefinition | None) -> dg.AssetCheckSpec:
    """The check that fails for what is lost or damaged."""
    return partitioned_check(VERIFIED, key, calendar, "Every recorded pair is in storage as its receipt says.")


def on_time_check(key: dg.AssetKey, calendar: dg.PartitionsDefinition | None) -> dg.AssetCheckSpec:
    """The check that fails for pairs that wait for a late one, where the asset declares to be alerted."""
    return partitioned_check(ON_TIME, key, calendar, "No pair waits for an upstream pair that is late.")


def not_verified(pairs: Iterable[PairState]) -> dict[str, str]:
    """Those of the pairs for which `verified` fails, and why."""
    return {pair.partition: f"{pair.state}: {pair.reason}" for pair in pairs if pair.state in WANTING}


def waiting_for_late(graph: Graph, node: Node, judged: Mapping[str, AssetStates]) -> dict[str, str]:
    """The pairs of an asset for which `on_time` fails, and why."""
    absent = np.isin(judged[node.name].states, [STATES.index(State.MISSING), STATES.index(State.LATE)])
    found: dict[str, str] = {}
    for upstream, requirement in graph.requirements(node).items():
        if node.completeness.when_late.get(upstream) == "alert":
            late = requirement.first(judged[upstream].states == STATES.index(State.LATE))
            for at in np.flatnonzero(absent & (late >= 0)).tolist():
                pair = named(upstream, judged[upstream].facts.partitions[late[at]])
                found[node.pairs[at]] = f"it waits for {pair}, which is late"
    return found


def report(
    instance: dg.DagsterInstance,
    run_id: str,
    check: dg.AssetCheckSpec,
    failing: Failing,
    looked_at: Set[str] | None = None,
) -> int:
    """Report what is new: pairs that now fail, and pairs that failed and no longer do; returns how many.

    Args:
        instance: whose event log.
        run_id: the run that looked: Dagster keeps one evaluation of a check and partition for each run.
        check: which check.
        failing: the pairs that fail it now.
        looked_at: all pairs that were looked at; None: every pair of the asset.
    """
    known = _known_to_fail(instance, check.key)
    recovered = {partition for partition in known if partition not in failing}
    if looked_at is not None:
        recovered &= looked_at
    news = sorted(recovered | {partition for partition in failing if not known.get(partition)})
    if news:
        targets = evaluated_materializations(instance, check.asset_key, None if news == [""] else news)
        for partition in news:
            event = DagsterEvent(
                DagsterEventType.ASSET_CHECK_EVALUATION.value,
                job_name=RUNLESS_JOB_NAME,
                event_specific_data=evaluation_of_pair(check, partition, failing.get(partition), targets),
            )
            instance.report_dagster_event(event, run_id)
    return len(news)


def evaluation_of_pair(
    check: dg.AssetCheckSpec, partition: str, why: str | None, targets: Evaluated
) -> dg.AssetCheckEvaluation:
    """The evaluation on one pair: it fails if there is a reason why; being late is no error of what is there."""
    severity = dg.AssetCheckSeverity.WARN if check.name == ON_TIME else dg.AssetCheckSeverity.ERROR
    return evaluation_of(
        targets, check, partition or None, passed=why is None, description=why, metadata={}, severity=severity
    )


def _known_to_fail(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> dict[str, bool]:
    """The partitions whose last evaluation is a failure, and whether that is about what was built last."""
    infos = instance.event_log_storage.get_asset_check_partition_info([key])
    return {
        info.partition_key or "": info.is_current
        for info in infos
        if info.latest_execution_status is AssetCheckExecutionRecordStatus.FAILED
    }
