"""Connections to the SQL databases that hold our own records, in SQLite or PostgreSQL.

Belongs here: one engine a database, transactions that say whether they write, how much a statement takes. Not here:
any table.
"""

import fcntl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as db

from resources.sqlite_address import sqlite_path

_BUSY_SECONDS = 60
_CREATION, _WRITING, _LAUNCHING = 4_731_902, 4_731_903, 4_731_904
"""Keys of PostgreSQL's advisory locks, under which tables are created, are written to, and recoveries are launched."""


_NAMED_AT_ONCE = 10_000
"""Values of one kind that a statement names: SQLite allows 32,766 in all."""

Named = TypeVar("Named")


def in_parts(values: Sequence[Named]) -> Iterator[Sequence[Named]]:
    """`values` in order, as many at a time as a statement takes."""
    for start in range(0, len(values), _NAMED_AT_ONCE):
        yield values[start : start + _NAMED_AT_ONCE]


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


@contextmanager
def launching_turn(uri: str) -> Iterator[None]:
    """Be the only one, on any machine, who launches by what the database at `uri` says; its writers need not wait.

    The turn ends with the process that holds it.

    Raises:
        sqlalchemy.exc.DBAPIError: the database does not answer.
    """
    file = sqlite_path(uri)
    if file is None:
        with _engine(uri).connect() as connection, connection.begin():
            connection.execute(db.select(db.func.pg_advisory_xact_lock(_LAUNCHING)))
            yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f"{file.name}.launching").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def place_of(uri: str) -> str:
    """The database as a message may show it: its file, or its address without a password."""
    file = sqlite_path(uri)
    if file is not None:
        return str(file)
    return db.make_url(uri).render_as_string(hide_password=True)


def damage_of(file: Path) -> str | None:
    """What is wrong inside a SQLite file; None where nothing is, or nothing is there.

    A copy is looked at, by a process of its own: SQLite loses this process's locks on a file when it is closed here.
    """
    if not file.exists():
        return None
    looked = subprocess.run([sys.executable, "-c", _LOOK, str(file)], capture_output=True, text=True)
    said = looked.stdout.strip() or (looked.stderr.strip().splitlines() or ["it cannot be looked at"])[-1]
    return None if said == "ok" else said.removeprefix("sqlite3.DatabaseError: ")


_LOOK = """
import os, shutil, sqlite3, sys, tempfile
with tempfile.TemporaryDirectory() as folder:
    copy = os.path.join(folder, "copy")
    for end in ("", "-wal"):
        if os.path.exists(sys.argv[1] + end):
            shutil.copy(sys.argv[1] + end, copy + end)
    print(sqlite3.connect(copy).execute("pragma quick_check(1)").fetchone()[0].replace(chr(10), " "))
"""


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
    file = sqlite_path(uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
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
