"""Evaluations of dbt tests from before these were judged by partition, told of the partitions that they were about.

Belongs here: that one step of a home's upgrade. Not here: evaluations of today (`event_batches.py`).

One evaluation then stood for all partitions of its run, and Dagster does not count it for any of them. A pair was
recorded only by a run whose tests had passed, so what a run said holds for the pairs that it recorded.
"""

import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC

import dagster as dg
import sqlalchemy as db
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as Target,
)
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.utils import RUNLESS_JOB_NAME
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._record import replace

from resources.environment import Environment
from resources.event_batches import EventBatches

_OF_A_RANGE = "first partition"
"""What the metadata of such an evaluation have, and no other evaluation."""


def tell_by_partition(environment: Environment) -> None:
    """Add to the event log of `environment` what its old evaluations said of each partition, in one transaction.

    Applied again it changes nothing.
    """
    log = _event_log(environment)
    if log is None:
        return
    try:
        with log.index_transaction() as index:
            for events in _told(index).values():
                log.store_together(index, events)
    finally:
        log.dispose()


def _event_log(environment: Environment) -> EventBatches | None:
    if environment.dagster_storage != "sqlite":
        from resources.postgres_storage import PooledPostgresEventLogStorage

        return PooledPostgresEventLogStorage(environment.dagster_storage)
    folder = environment.dagster_home / "events"
    if not folder.exists():
        return None
    from resources.event_log import PooledSqliteEventLogStorage

    return PooledSqliteEventLogStorage(str(folder))


def _told(index: db.Connection) -> Mapping[str, list[EventLogEntry]]:
    """The evaluations to add, by the run that recorded the partition last."""
    found: dict[str, list[EventLogEntry]] = defaultdict(list)
    for asset, checks in _old(index).items():
        for partition, recorded in _recorded(index, asset).items():
            run_id, event_id, timestamp = recorded[-1]
            for by_run in checks.values():
                said = next((by_run[run] for run, *_ in reversed(recorded) if run in by_run), None)
                if said:
                    evaluation = replace(
                        said,
                        partition=partition,
                        target_materialization_data=Target(storage_id=event_id, run_id=run_id, timestamp=timestamp),
                    )
                    found[run_id].append(_entry(run_id, evaluation))
    return found


def _old(index: db.Connection) -> dict[str, dict[str, dict[str, dg.AssetCheckEvaluation]]]:
    """By asset, check and run, what evaluations of a range of partitions said that are not told by partition yet."""
    table = AssetCheckExecutionsTable.c
    ended = (AssetCheckExecutionRecordStatus.SUCCEEDED.value, AssetCheckExecutionRecordStatus.FAILED.value)
    rows = index.execute(
        db.select(table.asset_key, table.check_name, table.run_id, table.evaluation_event)
        .where(table.partition.is_(None), table.execution_status.in_(ended))
        .order_by(table.id)
    ).fetchall()
    # What was planned by partition and never answered so is there too.
    told = set(
        index.execute(
            db.select(table.asset_key, table.check_name)
            .where(table.partition.is_not(None), table.execution_status.in_(ended))
            .distinct()
        )
    )
    found: dict[str, dict[str, dict[str, dg.AssetCheckEvaluation]]] = defaultdict(lambda: defaultdict(dict))
    for asset, check, run_id, event in rows:
        if (asset, check) not in told:
            said = dg.deserialize_value(event, EventLogEntry).get_dagster_event().asset_check_evaluation_data
            if _OF_A_RANGE in said.metadata:
                found[asset][check][run_id] = said
    return found


def _recorded(index: db.Connection, asset: str) -> Mapping[str, list[tuple[str, int, float]]]:
    """The materializations of each partition of an asset in their order: run, id, time in seconds."""
    table = SqlEventLogStorageTable.c
    rows = index.execute(
        db.select(table.partition, table.run_id, table.id, table.timestamp)
        .where(
            table.asset_key == asset,
            table.partition.is_not(None),
            table.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION.value,
        )
        .order_by(table.id)
    ).fetchall()
    found: dict[str, list[tuple[str, int, float]]] = defaultdict(list)
    for partition, run_id, event_id, at in rows:
        found[partition].append((run_id, event_id, at.replace(tzinfo=UTC).timestamp()))
    return found


def _entry(run_id: str, evaluation: dg.AssetCheckEvaluation) -> EventLogEntry:
    event = DagsterEvent(
        DagsterEventType.ASSET_CHECK_EVALUATION.value,
        job_name=RUNLESS_JOB_NAME,
        event_specific_data=evaluation,
        message="told by partition",
    )
    return EventLogEntry(  # type: ignore[no-untyped-call]
        error_info=None,
        level="debug",
        user_message="",
        run_id=run_id,
        timestamp=time.time(),
        job_name=RUNLESS_JOB_NAME,
        dagster_event=event,
    )
