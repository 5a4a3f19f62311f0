"""Receipts: what each materialized pair was built from and what came of it.

Belongs here: the receipt itself, and storing and reading receipts beside the lake's catalog. Not here: comparing
receipts with storage (`platform_assets/partition_checker/`), and when one is written (the steps).
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as db
from pydantic import Field

from resources.environment import Environment

_ROWS_A_STATEMENT = 400
_BUSY_SECONDS = 60
_CREATION = 4_731_902
"""Key of the PostgreSQL advisory lock under which the table is created."""


class LedgerError(RuntimeError):
    """The ledger cannot be read or written; the message says where it is and what to do."""


@dataclass(frozen=True)
class Input:
    """An upstream pair as it was read: the id of its receipt, and the digest of its content alone.

    A delivery of an upstream system has no receipt; its data version stands for both.
    """

    asset: str
    partition: str
    id: str
    content: str


@dataclass(frozen=True)
class Receipt:
    """What one materialization of a pair left behind.

    `asset` is "team/entity"; `partition` is "" for an asset without partitions; `rows` is None where there are none
    to count; `snapshot` is the lake's; `recorded_at` is in seconds since 1970, UTC. `reused` says that the pair was
    asked for and not computed, because everything it reads was as before.
    """

    asset: str
    partition: str
    code_version: str
    inputs: tuple[Input, ...]
    rows: int | None
    checksum: str
    schema: str
    environment: str
    run_id: str
    snapshot: int | None = None
    recorded_at: float = field(default_factory=time.time)
    reused: bool = False

    @cached_property
    def content(self) -> str:
        """Digest of the data alone: equal rows and schema give an equal one, whatever code made them."""
        return digest(self.rows, self.checksum, self.schema)

    @cached_property
    def id(self) -> str:
        """Digest of what the receipt says about the data, not of run, snapshot or time.

        The ids of the inputs are part of it, so that equal work has equal ids and an id stands for its whole ancestry.
        """
        inputs = sorted((read.asset, read.partition, read.id) for read in self.inputs)
        return digest(self.asset, self.partition, self.code_version, inputs, self.content)

    @cached_property
    def inputs_content(self) -> str:
        """Digest of the content of every input; see `contents_digest`."""
        return contents_digest((read.asset, read.partition, read.content) for read in self.inputs)


@dataclass(frozen=True)
class Standing:
    """The current receipt of a pair, as much of it as a check over many pairs needs."""

    id: str
    content: str
    code_version: str
    inputs_content: str
    rows: int | None
    recorded_at: float


class Ledger(dg.ConfigurableResource["Ledger"]):
    """Receipts of one environment, in SQLite beside the lake's catalog or in the catalog's PostgreSQL."""

    uri: str = Field(description="SQLAlchemy URI of the database.")
    environment: str = Field(description="Environment whose receipts these are.")

    @classmethod
    def of(cls, environment: Environment) -> "Ledger":
        """The ledger of `environment`."""
        return cls(uri=environment.ledger_uri, environment=environment.name)

    def record(self, receipts: Sequence[Receipt]) -> None:
        """Store `receipts` as the current ones of their pairs, in one transaction; older ones stay as history.

        Raises:
            LedgerError: the database cannot be written.
        """
        partitions: dict[str, list[str]] = {}
        for receipt in receipts:
            partitions.setdefault(receipt.asset, []).append(receipt.partition)
        with self._transaction(writes=True) as connection:
            for asset, keys in partitions.items():
                for some in _chunks(keys):
                    connection.execute(
                        db.update(_RECEIPTS)
                        .where(self._mine(asset), _RECEIPTS.c.current, _RECEIPTS.c.partition.in_(some))
                        .values(current=False)
                    )
            if receipts:
                connection.execute(db.insert(_RECEIPTS), [_row(receipt) for receipt in receipts])

    def current(self, asset: str, partitions: Sequence[str] | None = None) -> dict[str, Receipt]:
        """The current receipts of `asset` by partition, of all or of `partitions`."""
        query = db.select(_RECEIPTS).where(self._mine(asset), _RECEIPTS.c.current)
        with self._transaction() as connection:
            if partitions is None:
                rows = connection.execute(query).all()
            else:
                rows = [
                    row
                    for some in _chunks(partitions)
                    for row in connection.execute(query.where(_RECEIPTS.c.partition.in_(some)))
                ]
        return {row.partition: _receipt(row) for row in rows}

    def history(self, asset: str, partition: str) -> list[Receipt]:
        """Every receipt that a pair has had, the newest first."""
        query = (
            db.select(_RECEIPTS)
            .where(self._mine(asset), _RECEIPTS.c.partition == partition)
            .order_by(_RECEIPTS.c.number.desc())
        )
        with self._transaction() as connection:
            return [_receipt(row) for row in connection.execute(query)]

    def standings(self, assets: Sequence[str] | None = None) -> dict[str, dict[str, Standing]]:
        """The current receipts by asset and partition, without what each was built from."""
        columns = [_RECEIPTS.c[name] for name in ("asset", "partition", *Standing.__dataclass_fields__)]
        query = db.select(*columns).where(_RECEIPTS.c.environment == self.environment, _RECEIPTS.c.current)
        if assets is not None:
            query = query.where(_RECEIPTS.c.asset.in_(assets))
        found: dict[str, dict[str, Standing]] = {}
        with self._transaction() as connection:
            for row in connection.execute(query):
                facts: tuple[Any, ...] = tuple(row)
                found.setdefault(facts[0], {})[facts[1]] = Standing(*facts[2:])
        return found

    def forget(self, asset: str, partitions: Sequence[str]) -> None:
        """Leave the pairs without a current receipt; their history stays."""
        with self._transaction(writes=True) as connection:
            for some in _chunks(partitions):
                connection.execute(
                    db.update(_RECEIPTS).where(self._mine(asset), _RECEIPTS.c.partition.in_(some)).values(current=False)
                )

    def _mine(self, asset: str) -> db.ColumnElement[bool]:
        return db.and_(_RECEIPTS.c.environment == self.environment, _RECEIPTS.c.asset == asset)

    @contextmanager
    def _transaction(self, writes: bool = False) -> Iterator[db.Connection]:
        try:
            with _connected(self.uri).connect().execution_options(writes=writes) as connection, connection.begin():
                yield connection
        except db.exc.DBAPIError as error:
            raise LedgerError(
                f"the receipts in {db.make_url(self.uri).render_as_string(hide_password=True)} cannot be read or "
                f"written ({error.orig}); make that database readable and writable, then try again"
            ) from error


def confirmed(receipt: Receipt, run_id: str) -> Receipt:
    """The same receipt for another run that found nothing to compute."""
    return replace(receipt, run_id=run_id, recorded_at=time.time(), reused=True)


def digest(*parts: object) -> str:
    """A short digest of plain values, the same on every machine."""
    return blake2b(json.dumps(parts, separators=(",", ":")).encode(), digest_size=16).hexdigest()


def contents_digest(contents: "Iterator[tuple[str, str, str]] | Sequence[tuple[str, str, str]]") -> str:
    """Digest of (asset, partition, content) triples in any order: changes exactly when an input's content does."""
    lines = sorted("\0".join(content) for content in contents)
    return blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


_METADATA = db.MetaData()
_RECEIPTS = db.Table(
    "headwater_receipts",
    _METADATA,
    db.Column("number", db.Integer, primary_key=True),
    db.Column("environment", db.Text, nullable=False),
    db.Column("asset", db.Text, nullable=False),
    db.Column("partition", db.Text, nullable=False),
    db.Column("current", db.Boolean, nullable=False),
    db.Column("id", db.Text, nullable=False),
    db.Column("content", db.Text, nullable=False),
    db.Column("code_version", db.Text, nullable=False),
    db.Column("inputs_content", db.Text, nullable=False),
    db.Column("inputs", db.Text, nullable=False),
    db.Column("rows", db.BigInteger),
    db.Column("checksum", db.Text, nullable=False),
    db.Column("schema", db.Text, nullable=False),
    db.Column("snapshot", db.BigInteger),
    db.Column("run_id", db.Text, nullable=False),
    db.Column("recorded_at", db.Float(53), nullable=False),
    db.Column("reused", db.Boolean, nullable=False),
    db.Index("headwater_receipts_of_pair", "environment", "asset", "current", "partition"),
)


def _row(receipt: Receipt) -> Mapping[str, object]:
    names = [column.name for column in _RECEIPTS.c if hasattr(receipt, column.name)]
    facts = {name: getattr(receipt, name) for name in names}
    return {**facts, "inputs": json.dumps([list(asdict(read).values()) for read in receipt.inputs]), "current": True}


def _receipt(row: db.Row[tuple[object, ...]]) -> Receipt:
    facts = {name: getattr(row, name) for name in Receipt.__dataclass_fields__ if name != "inputs"}
    return Receipt(**facts, inputs=tuple(Input(*read) for read in json.loads(row.inputs)))


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _ROWS_A_STATEMENT):
        yield keys[start : start + _ROWS_A_STATEMENT]


@cache
def _connected(uri: str) -> db.Engine:
    """An engine of the database at `uri`, whose table is created when it is new."""
    url = db.make_url(uri)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg2")  # the driver that Dagster's storage uses too
    engine = db.create_engine(url, connect_args={"timeout": _BUSY_SECONDS} if uri.startswith("sqlite") else {})
    if uri.startswith("sqlite"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        db.event.listen(engine, "connect", _configure_sqlite)
        db.event.listen(engine, "begin", _begin_sqlite)
    with engine.begin() as connection:
        if url.get_backend_name() == "postgresql":
            # Of several that find no table, one creates it.
            connection.execute(db.select(db.func.pg_advisory_xact_lock(_CREATION)))
        _METADATA.create_all(connection)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_sqlite(connection: db.Connection) -> None:
    # A transaction that begins by reading and is overtaken can no longer write: one that will write says so.
    writes = connection.get_execution_options().get("writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
