"""Dagster's SQLite event log with its connections kept open, and batches stored as one transaction.

Belongs here: how the log connects. Not here: what a batch leaves in its tables (`event_batches.py`), or anything it
stores; that is Dagster's own. Dagster 1.13 opens the database anew for every event, which costs more than storing it,
and a year of daily partitions is thousands of events. With PostgreSQL it is `postgres_storage.py`.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as db
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData

from resources.event_batches import BATCHED, EventBatches
from resources.instance_storage import has_tables
from resources.known_tables import asks_once
from resources.sqlite_address import sqlite_uri

_OPEN_SHARDS = 8
"""Databases kept open: the index, and those of the runs used last."""


@asks_once
class PooledSqliteEventLogStorage(SqliteEventLogStorage, EventBatches):
    """`SqliteEventLogStorage` that reuses connections and syncs the disk at checkpoints.

    In write-ahead mode `synchronous = NORMAL` keeps the database consistent through any crash of a process; a power
    failure may lose the last moments of the log, which the lake's own snapshots then still show.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, db.Engine] = OrderedDict()
        super().__init__(base_dir, inst_data)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> "PooledSqliteEventLogStorage":
        """Build from the `config` of dagster.yaml: `base_dir`."""
        return cls(inst_data=inst_data, **config_value)

    def conn_string_for_shard(self, shard_name: str) -> str:
        """The address of a database, in a home of any name."""
        return sqlite_uri(Path(self.path_for_shard(shard_name)).absolute())

    @contextmanager
    def _connect(self, shard: str) -> Iterator[db.Connection]:
        with self._db_lock:
            engine = self._engine(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine, for_index_shard=shard == INDEX_SHARD_NAME)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store `events` of one run in one transaction: either all of a step's partitions are recorded, or none.

        Dagster batches the materializations of one output (and those planned for a run) when
        `DAGSTER_EVENT_BATCH_SIZE` is set. Recorded one by one, they let the backfill daemon, which looks in between,
        start the next stage for the first half of a year and again for the second.
        """
        if {event.dagster_event_type for event in events} - BATCHED:
            super().store_event_batch(events)
            return
        rows = [self._event_to_row(event) for event in events]
        with self.run_connection(events[0].run_id) as shard:
            shard.execute(SqlEventLogStorageTable.insert(), rows)
        with self.index_transaction() as index:
            self.store_together(index, events)

    def dispose(self) -> None:
        """Close every connection."""
        for engine in self._engines.values():
            engine.dispose()
        self._engines.clear()
        super().dispose()

    def wipe(self) -> None:
        """Delete every event; see `SqliteEventLogStorage`."""
        for engine in self._engines.values():
            engine.dispose()
        self._engines.clear()
        super().wipe()

    def _initdb(self, engine: db.Engine, for_index_shard: bool = False) -> None:
        with engine.connect() as connection:
            if has_tables(connection):
                return
        super()._initdb(engine, for_index_shard)

    def _engine(self, shard: str) -> db.Engine:
        if shard not in self._engines:
            self._engines[shard] = db.create_engine(
                self.conn_string_for_shard(shard), connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
            )
            db.event.listen(self._engines[shard], "connect", _sync_at_checkpoints)
        self._engines.move_to_end(shard)
        while len(self._engines) > _OPEN_SHARDS:
            oldest = next(name for name in self._engines if name != INDEX_SHARD_NAME)
            self._engines.pop(oldest).dispose()
        return self._engines[shard]


def _sync_at_checkpoints(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous = NORMAL")
