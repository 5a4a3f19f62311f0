"""Many events of one run stored as one transaction, whatever database holds Dagster's event log.

Belongs here: the rows that a batch leaves in the log's tables. Not here: how a log connects (`event_log.py`,
`postgres_storage.py`), or what events say; that is Dagster's own.

Dagster 1.13 stores evaluations of checks (on PostgreSQL planned events too) one by one: 54 a second on SQLite. A year
of daily partitions has thousands of each.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import sqlalchemy as db
from dagster._core.events import ASSET_EVENTS
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._serdes import serialize_value

from resources.database import in_parts

BATCHED = frozenset(
    {
        dg.DagsterEventType.ASSET_MATERIALIZATION,
        dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        dg.DagsterEventType.ASSET_OBSERVATION,
        dg.DagsterEventType.ASSET_CHECK_EVALUATION,
        dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
    }
)
"""What `store_together` knows to store."""

_Rows = list[dict[str, Any]]


class EventBatches(SqlEventLogStorage):
    """Stores a batch of one run's events, with all that Dagster keeps beside them, on one connection."""

    def store_together(self, index: db.Connection, events: Sequence[EventLogEntry]) -> None:
        """Insert `events` in their order, then what the tables of assets and checks say of them."""
        columns = SqlEventLogStorageTable.c
        statement = SqlEventLogStorageTable.insert().returning(columns.id, sort_by_parameter_order=True)
        rows = [self._event_to_row(event) for event in events]
        ids = [int(number) for number in index.execute(statement, rows).scalars()]
        stored = list(zip(events, ids, strict=True))
        of_assets = [(event, number) for event, number in stored if event.dagster_event_type in ASSET_EVENTS]
        if of_assets:
            self._store_asset_event_tags(index, [event for event, _ in of_assets], [number for _, number in of_assets])
        # The table of assets keeps of each the newest event of a kind.
        newest = {(event.dagster_event_type, event.get_dagster_event().asset_key): (event, n) for event, n in of_assets}
        for event, number in newest.values():
            self._store_asset_event(index, event, number)
        for event, number in stored:
            if event.dagster_event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED:
                index.execute(AssetCheckExecutionsTable.insert(), self._planned_rows(event, number))
        evaluations = [one for one in stored if one[0].dagster_event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION]
        if evaluations:
            self._store_evaluations(index, evaluations)

    def _planned_rows(self, event: EventLogEntry, number: int) -> _Rows:
        planned = event.get_dagster_event().asset_check_planned_data
        subset = planned.partitions_subset
        partitions: list[str | None] = [None] if subset is None else [*subset.get_partition_keys()]
        return [
            {
                **self._execution(event, number, planned.asset_check_key, AssetCheckExecutionRecordStatus.PLANNED),
                "partition": partition,
                "materialization_event_storage_id": None,
            }
            for partition in partitions
        ]

    def _store_evaluations(self, index: db.Connection, evaluations: Sequence[tuple[EventLogEntry, int]]) -> None:
        """Replace what is known of each check and partition in this run, as one evaluation by Dagster would."""
        rows: dict[tuple[str, str, str | None], dict[str, Any]] = {}
        for event, number in evaluations:
            found = event.get_dagster_event().asset_check_evaluation_data
            status = AssetCheckExecutionRecordStatus
            target = found.target_materialization_data
            rows[found.asset_key.to_string(), found.check_name, found.partition] = {
                **self._execution(
                    event, number, found.asset_check_key, status.SUCCEEDED if found.passed else status.FAILED
                ),
                "partition": found.partition,
                "materialization_event_storage_id": target.storage_id if target else None,
            }
        table = AssetCheckExecutionsTable.c
        for asset, check in sorted({(asset, check) for asset, check, _ in rows}):
            same = table.run_id == evaluations[0][0].run_id, table.asset_key == asset, table.check_name == check
            partitions = [partition for a, c, partition in rows if (a, c) == (asset, check)]
            if None in partitions:
                index.execute(AssetCheckExecutionsTable.delete().where(*same, table.partition.is_(None)))
            for some in in_parts([one for one in partitions if one is not None]):
                index.execute(AssetCheckExecutionsTable.delete().where(*same, table.partition.in_(some)))
        index.execute(AssetCheckExecutionsTable.insert(), list(rows.values()))

    def _execution(
        self, event: EventLogEntry, number: int, key: dg.AssetCheckKey, status: AssetCheckExecutionRecordStatus
    ) -> dict[str, Any]:
        return {
            "asset_key": key.asset_key.to_string(),
            "check_name": key.name,
            "run_id": event.run_id,
            "execution_status": status.value,
            "evaluation_event": serialize_value(event),
            "evaluation_event_timestamp": self._event_insert_timestamp(event),  # type: ignore[no-untyped-call]
            "evaluation_event_storage_id": number,
        }
