"""Asset checks that are judged partition by partition, also in a run of many partitions.

Belongs here: declaring such a check and reporting one partition's verdict. Not here: what any check looks at.

Dagster 1.13 takes an `AssetCheckResult` for a whole step only. A verdict of one partition is an
`AssetCheckEvaluation` that names the partition and the materialization it judged: without the latter,
automation takes it for outdated.
"""

import warnings
from collections.abc import Mapping

import dagster as dg

# Not exported by `dagster`, though `AssetCheckEvaluation` takes it.
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as JudgedMaterialization,
)


def partitioned_check(
    name: str, asset: dg.AssetKey, calendar: dg.PartitionsDefinition, description: str, blocking: bool = False
) -> dg.AssetCheckSpec:
    """A check of `asset` with a verdict for each partition of `calendar`."""
    with warnings.catch_warnings():
        # Partitioned checks are a preview in this release; it is pinned, and the tests drive what we use of
        # it.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(name, asset=asset, partitions_def=calendar, description=description, blocking=blocking)


def verdict(
    instance: dg.DagsterInstance,
    check: dg.AssetCheckSpec,
    partition: str,
    *,
    passed: bool,
    description: str,
    metadata: Mapping[str, dg.MetadataValue | str | float],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckEvaluation:
    """The verdict of `check` on the newest materialization of one partition."""
    newest = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=check.asset_key, asset_partitions=[partition]), limit=1
    ).records
    judged = [
        JudgedMaterialization(
            storage_id=record.storage_id, run_id=record.event_log_entry.run_id, timestamp=record.timestamp
        )
        for record in newest
    ]
    return dg.AssetCheckEvaluation(
        asset_key=check.asset_key,
        check_name=check.name,
        partition=partition,
        passed=passed,
        severity=severity,
        blocking=check.blocking,
        description=description,
        metadata=metadata,
        target_materialization_data=judged[0] if judged else None,
    )
