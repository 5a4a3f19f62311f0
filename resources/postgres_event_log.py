"""Dagster's PostgreSQL event log with a few connections kept open, and batches stored as one transaction.

Belongs here: how the log connects. Not here: what a batch leaves in its tables (`event_batches.py`). Apart from
`event_log.py`, because its imports cost every process a second that a SQLite installation does not need.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as db
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.config import pg_config
from dagster._serdes import ConfigurableClassData
from dagster_postgres import PostgresEventLogStorage
from dagster_postgres.utils import pg_url_from_config

from resources.event_batches import BATCHED, EventBatches

_OPEN_CONNECTIONS = 2
_RECONNECT_SECONDS = 600


class PooledPostgresEventLogStorage(PostgresEventLogStorage, EventBatches):
    """`PostgresEventLogStorage` that keeps a few connections open."""

    def __init__(
        self, postgres_url: str, should_autocreate_tables: bool = True, inst_data: ConfigurableClassData | None = None
    ) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data)
        self._engine = db.create_engine(
            self.postgres_url,
            isolation_level="AUTOCOMMIT",
            pool_size=_OPEN_CONNECTIONS,
            pool_recycle=_RECONNECT_SECONDS,
            pool_pre_ping=True,
        )

    @classmethod
    def config_type(cls) -> Any:
        """The `config` of dagster.yaml: Dagster's own for PostgreSQL."""
        return pg_config()

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "PooledPostgresEventLogStorage":
        """Build from the `config` of dagster.yaml."""
        tables = config_value.get("should_autocreate_tables", True)
        return cls(pg_url_from_config(config_value), tables, inst_data)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store `events` of one run in one transaction; see `PooledSqliteEventLogStorage.store_event_batch`."""
        if {event.dagster_event_type for event in events} - BATCHED:
            super().store_event_batch(events)
            return
        with self.index_transaction() as index:
            self.store_together(index, events)
