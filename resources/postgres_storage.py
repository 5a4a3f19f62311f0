"""Dagster's storages on PostgreSQL with a few connections kept open, and batches of events in one transaction.

Belongs here: how they connect. Not here: what they store, which is Dagster's own, and what a batch leaves in the tables
of the event log (`event_batches.py`). Apart from the storages on SQLite, because its imports cost every process a
second that a SQLite installation does not need.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import psycopg2
import sqlalchemy as db
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.config import pg_config
from dagster._serdes import ConfigurableClassData
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from dagster_postgres.utils import pg_url_from_config
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from resources.event_batches import BATCHED, EventBatches
from resources.known_tables import asks_once

_OPEN_CONNECTIONS = 2
_RECONNECT_SECONDS = 600
_RESTED_SECONDS = 1.0


@functools.cache
def kept_open(url: str) -> db.Engine:
    """This process's connections to a database: Dagster 1.13 opens one for every question it asks."""
    engine = db.create_engine(
        url, isolation_level="AUTOCOMMIT", pool_size=_OPEN_CONNECTIONS, pool_recycle=_RECONNECT_SECONDS
    )
    db.event.listen(engine, "checkin", _note_use)
    db.event.listen(engine, "checkout", _refuse_dead)
    return engine


def _note_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


def _refuse_dead(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
    """Ask a connection that has rested whether it lives; the pool opens another in the place of one that does not.

    Asking always, as `pool_pre_ping` does, would double the questions.
    """
    if time.monotonic() - record.info.get("used", 0.0) < _RESTED_SECONDS:
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute("select 1")
    except psycopg2.Error as error:
        raise DisconnectionError(str(error)) from error


class _KeptOpen:
    """A storage of Dagster's that asks by connections kept open."""

    postgres_url: str

    def __init__(
        self, postgres_url: str, should_autocreate_tables: bool = True, inst_data: ConfigurableClassData | None = None
    ) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data)  # type: ignore[call-arg]
        self._engine = kept_open(self.postgres_url)

    @classmethod
    def config_type(cls) -> Any:
        """The `config` of dagster.yaml: Dagster's own for PostgreSQL."""
        return pg_config()

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Build from the `config` of dagster.yaml."""
        tables = config_value.get("should_autocreate_tables", True)
        return cls(pg_url_from_config(config_value), tables, inst_data)


@asks_once
class PooledPostgresRunStorage(_KeptOpen, PostgresRunStorage):
    """`PostgresRunStorage` that keeps its connections."""


@asks_once
class PooledPostgresScheduleStorage(_KeptOpen, PostgresScheduleStorage):
    """`PostgresScheduleStorage` that keeps its connections."""


@asks_once
class PooledPostgresEventLogStorage(_KeptOpen, PostgresEventLogStorage, EventBatches):
    """`PostgresEventLogStorage` that keeps its connections, and stores a batch in one transaction."""

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store `events` of one run in one transaction; see `PooledSqliteEventLogStorage.store_event_batch`."""
        if {event.dagster_event_type for event in events} - BATCHED:
            super().store_event_batch(events)
            return
        with self.index_transaction() as index:
            self.store_together(index, events)
