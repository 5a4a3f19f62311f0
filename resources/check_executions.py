"""The evaluations of checks that Dagster's event log keeps, by partition, in one query for all partitions of a check.

Belongs here: reading that table where Dagster's own methods ask once a partition. Not here: storing evaluations
(`event_batches.py`), what they mean.
"""

from collections.abc import Mapping

import dagster as dg
import sqlalchemy as db
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.asset_check_execution_record import COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from resources.database import in_parts


def evaluations_of_runs(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, runs: Mapping[str, str]
) -> dict[str, dg.AssetCheckEvaluation]:
    """What a run found of each partition, where it evaluated the check.

    What it planned and did not evaluate is left out.

    Args:
        instance: whose event log.
        check: one check.
        runs: the run to ask for, by partition ("": of an asset without).

    Raises:
        TypeError: the event log is not kept in SQL.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise TypeError(f"evaluations are read from an event log in SQL, this instance has {type(storage).__name__}")
    table = AssetCheckExecutionsTable.c
    partition = db.func.coalesce(table.partition, "")
    known = (
        table.asset_key == check.asset_key.to_string(),
        table.check_name == check.name,
        table.execution_status.in_([status.value for status in COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES]),
    )
    found: dict[str, dg.AssetCheckEvaluation] = {}
    with storage.index_connection() as index:
        for some in in_parts(list(runs)):
            asked = db.select(partition, table.run_id, table.evaluation_event).where(
                *known, partition.in_(some), table.run_id.in_({runs[one] for one in some})
            )
            for key, run_id, event in index.execute(asked).fetchall():
                if runs[key] == run_id:
                    stored = dg.deserialize_value(event, EventLogEntry)
                    found[key] = stored.get_dagster_event().asset_check_evaluation_data
    return found
