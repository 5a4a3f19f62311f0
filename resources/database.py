"""Connections to the SQL databases that hold our own records, in SQLite or PostgreSQL.

Belongs here: one engine a database, transactions that say whether they write. Not here: any table.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as db

_BUSY_SECONDS = 60
_CREATION, _WRITING = 4_731_902, 4_731_903
"""Keys of the PostgreSQL advisory locks under which tables are created, and written to."""


@contextmanager
def transaction(uri: str, tables: db.MetaData, writes: bool) -> Iterator[db.Connection]:
    """A transaction on the database at `uri`, whose `tables` are created when they are missing.

    Raises:
        sqlalchemy.exc.DBAPIError: the database cannot be read or written.
    """
    engine = _engine(uri)
    _create(uri, tables)
    with engine.connect().execution_options(writes=writes) as connection, connection.begin():
        if writes and connection.dialect.name == "postgresql":
            # One writer at a time, as SQLite has it: two that replace the same rows would leave both of theirs.
            connection.execute(db.select(db.func.pg_advisory_xact_lock(_WRITING)))
        yield connection


def place_of(uri: str) -> str:
    """The database as a message may show it: without a password."""
    return db.make_url(uri).render_as_string(hide_password=True)


@cache
def _engine(uri: str) -> db.Engine:
    url = db.make_url(uri)
    if url.drivername == "postgresql":
        # The driver that Dagster's storage uses too.
        return db.create_engine(url.set(drivername="postgresql+psycopg2"))
    engine = db.create_engine(url, connect_args={"timeout": _BUSY_SECONDS})
    db.event.listen(engine, "connect", _configure_sqlite)
    db.event.listen(engine, "begin", _begin_sqlite)
    return engine


@cache
def _create(uri: str, tables: db.MetaData) -> None:
    if uri.startswith("sqlite"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with _engine(uri).begin() as connection:
        if connection.dialect.name == "postgresql":
            # Of several that find no table, one creates it.
            connection.execute(db.select(db.func.pg_advisory_xact_lock(_CREATION)))
        tables.create_all(connection)


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_sqlite(connection: db.Connection) -> None:
    # A transaction that begins by reading and is overtaken can no longer write: one that will write says so.
    writes = connection.get_execution_options().get("writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
