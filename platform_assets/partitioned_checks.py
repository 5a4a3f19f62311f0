"""Asset checks that are judged partition by partition, also in a run of many partitions.

Belongs here: declaring such a check and reporting verdicts of single partitions. Not here: what any check looks at.

Dagster 1.13 takes an `AssetCheckResult` for a whole step only. A verdict of one partition is an `AssetCheckEvaluation`
that names the partition and the materialization it judged: without the latter, automation takes it for outdated.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import dagster as dg

# Not exported by `dagster`, though `AssetCheckEvaluation` takes it.
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as JudgedMaterialization,
)

Judged: TypeAlias = Mapping[str | None, JudgedMaterialization]
"""The materialization that a verdict is about, by partition."""


def partitioned_check(
    name: str, asset: dg.AssetKey, calendar: dg.PartitionsDefinition | None, description: str, blocking: bool = False
) -> dg.AssetCheckSpec:
    """A check of `asset` with a verdict for each partition of `calendar`; one verdict in all when that is None."""
    with warnings.catch_warnings():
        # Partitioned checks are a preview in this release; it is pinned, and the tests drive what we use of it.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(name, asset=asset, partitions_def=calendar, description=description, blocking=blocking)


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


def judged_materializations(instance: dg.DagsterInstance, key: dg.AssetKey, partitions: Sequence[str] | None) -> Judged:
    """The `newest_materializations`, as verdicts name them."""
    return {
        record.partition_key: JudgedMaterialization(
            storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
        )
        for record in newest_materializations(instance, key, partitions)
    }


def verdict(
    judged: Judged,
    check: dg.AssetCheckSpec,
    partition: str | None,
    *,
    passed: bool,
    description: str | None,
    metadata: Mapping[str, dg.MetadataValue | str | float | int],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckEvaluation:
    """The verdict of `check` on one partition's materialization, as `judged_materializations` found it."""
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
