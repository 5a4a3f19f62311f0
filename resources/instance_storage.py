"""Dagster's SQLite storages of runs and of schedules in a home of any name.

Belongs here: where they connect. Not here: what they store, which is Dagster's own; the event log (`event_log.py`).
Dagster 1.13 writes their address as plain text, so that a home with a question mark had its runs beside it. It also
reads all of its migrations to open a storage that has its tables, and each evaluation of a sensor opens three.
"""

from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as db
from alembic.runtime.migration import MigrationContext
from dagster._core.storage.runs.schema import RunStorageSqlMetadata
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from dagster._core.storage.sql import get_alembic_config, safe_commit, stamp_alembic_rev
from dagster._serdes import ConfigurableClassData
from sqlalchemy.pool import NullPool

from resources.known_tables import asks_once
from resources.sqlite_address import sqlite_uri

_Storage = TypeVar("_Storage", "RunStorage", "ScheduleStorage")


@asks_once
class RunStorage(sqlite_run_storage.SqliteRunStorage):
    """`SqliteRunStorage` in a folder of any name."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "RunStorage":
        """Open what the `config` of dagster.yaml names by `base_dir`; made where there is none."""
        return _opened(cls, inst_data, config_value, "runs", RunStorageSqlMetadata, sqlite_run_storage.__file__)


@asks_once
class ScheduleStorage(sqlite_schedule_storage.SqliteScheduleStorage):
    """`SqliteScheduleStorage` in a folder of any name."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "ScheduleStorage":
        """Open what the `config` of dagster.yaml names by `base_dir`; made where there is none."""
        tables, migrations = ScheduleStorageSqlMetadata, sqlite_schedule_storage.__file__
        return _opened(cls, inst_data, config_value, "schedules", tables, migrations)


def _opened(
    kind: type[_Storage],
    inst_data: ConfigurableClassData | None,
    config_value: Any,
    name: str,
    tables: db.MetaData,
    migrations: str,
) -> _Storage:
    folder = Path(config_value["base_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    uri = sqlite_uri(folder / f"{name}.db")
    is_new = _create(uri, tables, migrations)
    storage = kind(uri, inst_data)
    if is_new:
        storage.migrate()
        storage.optimize()
    return storage


def _create(uri: str, tables: db.MetaData, migrations: str) -> bool:
    """Make the tables where there are none; says whether there were none."""
    engine = db.create_engine(uri, poolclass=NullPool)
    with engine.connect() as connection:
        is_new = not has_tables(connection)
        if is_new:
            tables.create_all(engine)
            connection.execute(db.text("PRAGMA journal_mode=WAL;"))
            stamp_alembic_rev(get_alembic_config(migrations), connection, rev="head")
            safe_commit(connection)
    return is_new


def has_tables(connection: db.Connection) -> bool:
    """Whether a storage of Dagster's has made its tables in a database: it notes their revision last."""
    return MigrationContext.configure(connection).get_current_revision() is not None
