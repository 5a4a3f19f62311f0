"""Asset checks that are judged partition by partition, also in a run of many partitions.

Belongs here: declaring such a check and reporting evaluations of single partitions. Not here: what any check looks at.

Dagster 1.13 takes an `AssetCheckResult` for a whole step only. Of one partition it takes an `AssetCheckEvaluation` that
names the partition and the materialization it is about: without the latter, automation takes it for outdated.
"""

import uuid
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import dagster as dg

# Not exported by `dagster`, though `AssetCheckEvaluation` takes it.
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as JudgedMaterialization,
)
from dagster._core.events import DagsterEvent, DagsterEventBatchMetadata, DagsterEventType
from dagster._core.execution.context.system import StepExecutionContext
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._record import replace

from resources.check_executions import evaluations_of_runs

Evaluated: TypeAlias = Mapping[str | None, JudgedMaterialization]
"""The materialization that an evaluation is about, by partition."""

REPEATS = "repeats the evaluation of run"
"""Metadata of an evaluation that says again what a run had found before; it names that run."""


def partitioned_check(
    name: str, asset: dg.AssetKey, calendar: dg.PartitionsDefinition | None, description: str, blocking: bool = False
) -> dg.AssetCheckSpec:
    """A check of `asset` with an evaluation for each partition of `calendar`; one in all when that is None."""
    return by_partition(dg.AssetCheckSpec(name, asset=asset, description=description, blocking=blocking), calendar)


def by_partition(check: dg.AssetCheckSpec, calendar: dg.PartitionsDefinition | None) -> dg.AssetCheckSpec:
    """`check` with an evaluation for each partition of `calendar`; one in all when that is None."""
    with warnings.catch_warnings():
        # Partitioned checks are a preview in this release; it is pinned, and the tests drive what we use of it.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return replace(check, partitions_def=calendar)


def newest_materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey, partitions: Sequence[str] | None
) -> Sequence[dg.EventLogRecord]:
    """The newest materialization of each of `partitions` (None: of the unpartitioned asset), in two queries."""
    if partitions is None:
        return instance.fetch_materializations(key, limit=1).records
    newest = instance.get_latest_storage_id_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(partitions)
    )
    wanted = dg.AssetRecordsFilter(key, storage_ids=list(newest.values()))
    return instance.fetch_materializations(wanted, limit=len(newest)).records if newest else []


def evaluated_materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey, partitions: Sequence[str] | None
) -> Evaluated:
    """The `newest_materializations`, as evaluations name them."""
    return {
        record.partition_key: JudgedMaterialization(
            storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
        )
        for record in newest_materializations(instance, key, partitions)
    }


def evaluation_of(
    judged: Evaluated,
    check: dg.AssetCheckSpec,
    partition: str | None,
    *,
    passed: bool,
    description: str | None,
    metadata: Mapping[str, dg.MetadataValue[Any] | str | float | int],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckEvaluation:
    """The evaluation of `check` on one partition's materialization, as `evaluated_materializations` found it."""
    return dg.AssetCheckEvaluation(
        asset_key=check.asset_key,
        check_name=check.name,
        partition=partition,
        passed=passed,
        severity=severity,
        blocking=check.blocking,
        description=description,
        metadata=metadata,
        target_materialization_data=judged.get(partition),
    )


def evaluations_again(
    instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckSpec], runs: Mapping[str, str]
) -> dict[dg.AssetCheckKey, dict[str, dg.AssetCheckEvaluation]]:
    """What runs found of pairs, said again of what is materialized now.

    Args:
        instance: whose event log.
        checks: of one asset.
        runs: the run to repeat by partition of that asset; "" is the one of an asset without.

    Returns:
        By check and partition, of those that their run evaluated. `REPEATS` among the metadata names the run that
        really did.
    """
    if not checks:
        return {}
    judged = evaluated_materializations(instance, checks[0].asset_key, list(runs) if any(runs) else None)
    return {
        check.key: {
            partition: evaluation_of(
                judged,
                check,
                partition or None,
                passed=evaluation.passed,
                description=evaluation.description,
                metadata={REPEATS: runs[partition], **evaluation.metadata},
                severity=evaluation.severity,
            )
            for partition, evaluation in evaluations_of_runs(instance, check.key, runs).items()
        }
        for check in checks
    }


def failing_evaluations(
    instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey]
) -> list[dg.AssetCheckEvaluation]:
    """The failures that stand: each the newest evaluation of its partition, about what is materialized there now."""
    failing: dict[dg.AssetCheckKey, dict[str, str]] = {}
    for info in instance.event_log_storage.get_asset_check_partition_info(checks):
        if info.latest_execution_status is AssetCheckExecutionRecordStatus.FAILED and info.is_current:
            failing.setdefault(info.check_key, {})[info.partition_key or ""] = info.latest_planned_run_id
    return [one for key, runs in failing.items() for one in evaluations_of_runs(instance, key, runs).values()]


def report_together(step: StepExecutionContext, evaluations: Sequence[dg.AssetCheckEvaluation]) -> None:
    """Store evaluations of the checks of a step in one transaction; none of them fails the step."""
    batch = str(uuid.uuid4())
    for number, evaluation in enumerate(evaluations, start=1):
        said = "passed" if evaluation.passed else f"did not pass: {evaluation.description}"
        at = f"@{evaluation.partition}" if evaluation.partition else ""
        DagsterEvent.from_step(
            DagsterEventType.ASSET_CHECK_EVALUATION,
            step,
            evaluation,
            f"{evaluation.check_name} of {evaluation.asset_key.to_user_string()}{at} {said}",
            DagsterEventBatchMetadata(batch, number == len(evaluations)),
        )
