"""Receipts: what each materialized pair was built from and what came of it.

Belongs here: the receipt itself, attempts to build a pair, launched recoveries, and storing these beside the lake's
catalog. Not here: comparing receipts with storage (`platform_assets/partition_checker/`), and when one is written
(`platform_assets/partition_checker/build.py`).
"""

import json
import sqlite3
import struct
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property, reduce
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

import dagster as dg
import numpy as np
import sqlalchemy as db
from numpy.typing import NDArray
from pydantic import Field
from sqlalchemy.dialects.postgresql import TEXT

from resources.database import damage_of, in_parts, launching_turn, place_of, transaction
from resources.environment import Environment
from resources.sqlite_address import sqlite_path

Mark: TypeAlias = tuple[int, int]
"""Digest of one pair's content as two signed 64-bit numbers; the marks of several pairs add up, in any order."""

Marks: TypeAlias = NDArray[np.int64]
"""Marks of many pairs: one row of two a pair. Sums wrap around."""

_TWO_NUMBERS = struct.Struct("<qq")


class LedgerError(RuntimeError):
    """The ledger cannot be read or written; the message says where it is and what to do."""


@dataclass(frozen=True)
class Input:
    """An upstream pair as it was read: the id of its receipt, and the content that its readers compare.

    A delivery of an upstream system has no receipt; its data version stands for both.
    """

    asset: str
    partition: str
    id: str
    content: str

    @property
    def mark(self) -> Mark:
        """Changes when the content does."""
        return mark_of(self.asset, self.partition, self.content)


@dataclass(frozen=True)
class StoredFile:
    """A file outside the lake that holds the pair, as a model file does; `bytes` is its size.

    The ledger keeps the path as it is below the home, so that a home that moves takes its receipts along.
    """

    path: str
    bytes: int


@dataclass(frozen=True)
class Receipt:
    """What one materialization of a pair left behind.

    Attributes:
        asset: "team/entity".
        partition: "" for an asset without partitions.
        code_version: of the code that computed it.
        inputs: what it read.
        rows: None where there are none to count.
        checksum: of the rows in any order.
        schema: the columns and their types, as `schema_text` writes them.
        environment: where it is.
        run_id: the Dagster run that left it.
        snapshot: the lake's first snapshot that holds it.
        files: those outside the lake that hold it.
        extends: the older content that this one only adds columns to; its readers need not follow.
        digests: of the bytes of the lake's files that hold it, by the name of the file.
        recorded_at: seconds since 1970, UTC.
        reused: the pair was asked for and not computed, because everything it reads was as before.
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
    files: tuple[StoredFile, ...] = ()
    extends: str | None = None
    digests: tuple[tuple[str, str], ...] = ()
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
        return digest(self.asset, self.partition, self.code_version, self.inputs_id, self.content)

    @cached_property
    def inputs_id(self) -> str:
        """Digest of the ids of the inputs, in any order."""
        return digest(*sorted((read.asset, read.partition, read.id) for read in self.inputs))

    @cached_property
    def inputs_mark(self) -> Mark:
        """Sum of the inputs' marks: changes when the content of any does, or when one more or less is read."""
        return sum_of(read.mark for read in self.inputs)

    @property
    def read_as(self) -> str:
        """The content that readers of the pair compare."""
        return self.extends or self.content


@dataclass(frozen=True, eq=False)
class ReceiptColumns:
    """The current receipts of one asset as columns, one entry a pair, as much as a check over many pairs needs.

    `forged` tells whose receipt is not as it was written.
    """

    partitions: Sequence[str]
    ids: Sequence[str]
    read_as: Sequence[str]
    code_versions: Sequence[str]
    rows: Sequence[int | None]
    snapshots: Sequence[int | None]
    recorded_at: Sequence[float]
    files: Sequence[str]
    marks: Marks
    inputs_marks: Marks
    forged: NDArray[np.bool_]


@dataclass(frozen=True)
class Attempt:
    """The last attempt to build a pair, as long as no receipt came of it; `error` is empty while it goes on."""

    asset: str
    partition: str
    run_id: str
    error: str


@dataclass(frozen=True)
class FoundDamage:
    """What a deep check found wrong with a recorded pair: why, and the names of the files that it concerns."""

    reason: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recovery:
    """A launched plan.

    Attributes:
        plan_id: of the plan.
        planned_at: when the plan was made, in seconds since 1970.
        pairs: the partitions it rebuilds, by asset.
        roots: those of them that are computed whether or not anything they read has changed.
        backfills: the Dagster backfills that carry it out, the newest last.
        is_begun: whether another one is being launched, or was when whoever launched it ended.
    """

    plan_id: str
    planned_at: float
    pairs: Mapping[str, Sequence[str]]
    roots: Mapping[str, Sequence[str]]
    backfills: tuple[str, ...] = ()
    is_begun: bool = False


class Ledger(dg.ConfigurableResource["Ledger"]):
    """Receipts of one environment, in SQLite beside the lake's catalog or in the catalog's PostgreSQL."""

    uri: str = Field(description="SQLAlchemy URI of the database.")
    environment: str = Field(description="Environment whose receipts these are.")
    home: str = Field(default="", description="Folder that the paths of files outside the lake are kept relative to.")

    @classmethod
    def of(cls, environment: Environment) -> "Ledger":
        """The ledger of `environment`."""
        return cls(uri=environment.ledger_uri, environment=environment.name, home=str(environment.home))

    def record(self, receipts: Sequence[Receipt]) -> None:
        """Store `receipts` as the current ones of their pairs, in one transaction; older ones stay as history.

        The pairs' attempts are over with it, and what was found damaged of them counts no more.

        Raises:
            LedgerError: the database cannot be written.
        """
        if not receipts:
            return
        with self._transaction(writes=True) as connection:
            for asset, keys in _by_asset(receipts).items():
                for some in in_parts(keys):
                    mine = self._pairs(_RECEIPTS, asset, some)
                    connection.execute(db.update(_RECEIPTS).where(mine, _RECEIPTS.c.current).values(current=False))
                    for table in (_ATTEMPTS, _DAMAGES):
                        connection.execute(db.delete(table).where(self._pairs(table, asset, some)))
            connection.execute(db.insert(_RECEIPTS), [_row(receipt, self.home) for receipt in receipts])

    def current(self, asset: str, partitions: Sequence[str] | None = None) -> dict[str, Receipt]:
        """The current receipts of `asset` by partition, of all or of `partitions`."""
        return {row.partition: self._receipt(row) for row in self._current(asset, partitions)}

    def edited(self, asset: str, partitions: Sequence[str]) -> set[str]:
        """Those of the partitions whose current receipt has another id than what it says amounts to.

        Reads the inputs too, for which `ReceiptColumns.forged` has no time.
        """
        return {row.partition for row in self._current(asset, partitions) if self._receipt(row).id != row.id}

    def history(self, asset: str, partition: str) -> list[Receipt]:
        """Every receipt that a pair has had, the newest first."""
        query = (
            db.select(_RECEIPTS).where(self._pairs(_RECEIPTS, asset, [partition])).order_by(_RECEIPTS.c.number.desc())
        )
        with self._transaction() as connection:
            return [self._receipt(row) for row in connection.execute(query)]

    def standings(
        self, assets: Sequence[str] | None = None, spans: Mapping[str, tuple[str, str]] | None = None
    ) -> dict[str, ReceiptColumns]:
        """The current receipts by asset, of all or of `assets`; an asset without any is left out.

        `spans` limits an asset to the partitions whose keys sort between a first and a last one.
        """
        found: dict[str, ReceiptColumns] = {}
        with self._transaction() as connection:
            if assets is None:
                query = db.select(_RECEIPTS.c.asset).distinct().where(_RECEIPTS.c.environment == self.environment)
                assets = list(connection.execute(query).scalars())
            for asset in assets:
                # Plain tuples from the driver: a million receipts are read here.
                rows = connection.execute(_STANDING, self._span(asset, spans)).cursor.fetchall()
                if rows:
                    found[asset] = _standings(rows)
        return found

    def forget(self, asset: str, partitions: Sequence[str]) -> None:
        """Leave the pairs without a current receipt; their history stays."""
        with self._transaction(writes=True) as connection:
            for some in in_parts(partitions):
                mine = self._pairs(_RECEIPTS, asset, some)
                connection.execute(db.update(_RECEIPTS).where(mine, _RECEIPTS.c.current).values(current=False))

    def assets(self) -> dict[str, int]:
        """Every asset that has receipts, and how many."""
        query = db.select(_RECEIPTS.c.asset, db.func.count()).group_by(_RECEIPTS.c.asset)
        with self._transaction() as connection:
            found = connection.execute(query.where(_RECEIPTS.c.environment == self.environment))
            return dict(found.tuples().all())

    def erase(self, asset: str) -> None:
        """Delete everything that is known of an asset, its history too, in one transaction."""
        with self._transaction(writes=True) as connection:
            for table in (_RECEIPTS, _ATTEMPTS, _DAMAGES):
                connection.execute(db.delete(table).where(self._mine(table, asset)))

    def begin(self, pairs: Mapping[str, Sequence[str]], run_id: str) -> None:
        """Note that run `run_id` now tries to build `pairs`, by asset."""
        with self._transaction(writes=True) as connection:
            for asset, keys in pairs.items():
                for some in in_parts(keys):
                    connection.execute(db.delete(_ATTEMPTS).where(self._pairs(_ATTEMPTS, asset, some)))
            tried = [
                {"environment": self.environment, "asset": asset, "partition": key, "run_id": run_id, "error": ""}
                for asset, keys in pairs.items()
                for key in keys
            ]
            if tried:
                connection.execute(db.insert(_ATTEMPTS), tried)

    def failed(self, run_id: str, error: str, assets: Collection[str]) -> None:
        """Note why the pairs of `assets` that run `run_id` has left without a receipt were not built.

        What is known of single ones stays.
        """
        mine = db.and_(_ATTEMPTS.c.environment == self.environment, _ATTEMPTS.c.run_id == run_id)
        unknown = db.and_(mine, _ATTEMPTS.c.asset.in_(assets), _ATTEMPTS.c.error == "")
        with self._transaction(writes=True) as connection:
            connection.execute(db.update(_ATTEMPTS).where(unknown).values(error=error))

    def refused(self, run_id: str, asset: str, reasons: Mapping[str, str]) -> None:
        """Note why run `run_id` has not built single pairs of an asset, by partition."""
        pair = db.and_(self._mine(_ATTEMPTS, asset), _ATTEMPTS.c.partition == db.bindparam("refused"))
        attempt = db.update(_ATTEMPTS).where(pair, _ATTEMPTS.c.run_id == run_id)
        told = [{"refused": partition, "reason": reason} for partition, reason in reasons.items()]
        with self._transaction(writes=True) as connection:
            if told:
                connection.execute(attempt.values(error=db.bindparam("reason")), told)

    def attempts(self, assets: Sequence[str] | None = None) -> list[Attempt]:
        """Every attempt of which no receipt has come, of all or of `assets`."""
        query = db.select(_ATTEMPTS).where(_ATTEMPTS.c.environment == self.environment)
        if assets is not None:
            query = query.where(_ATTEMPTS.c.asset.in_(assets))
        with self._transaction() as connection:
            return [Attempt(row.asset, row.partition, row.run_id, row.error) for row in connection.execute(query)]

    def found_damaged(self, asset: str, looked_at: Sequence[str], damages: Mapping[str, FoundDamage]) -> None:
        """Keep what a deep check found of the partitions that it looked at, in place of what one found before."""
        with self._transaction(writes=True) as connection:
            for some in in_parts(looked_at):
                connection.execute(db.delete(_DAMAGES).where(self._pairs(_DAMAGES, asset, some)))
            found = [
                {"environment": self.environment, "asset": asset, "partition": key}
                | {"reason": damage.reason, "names": json.dumps(damage.names)}
                for key, damage in damages.items()
            ]
            if found:
                connection.execute(db.insert(_DAMAGES), found)

    def damages(self, assets: Sequence[str]) -> dict[str, dict[str, FoundDamage]]:
        """What deep checks found damaged and nobody has built since, by asset and partition."""
        query = db.select(_DAMAGES).where(_DAMAGES.c.environment == self.environment, _DAMAGES.c.asset.in_(assets))
        found: dict[str, dict[str, FoundDamage]] = {}
        with self._transaction() as connection:
            for row in connection.execute(query):
                damage = FoundDamage(row.reason, tuple(json.loads(row.names)))
                found.setdefault(row.asset, {})[row.partition] = damage
        return found

    def stored_files(self, files: str) -> tuple[StoredFile, ...]:
        """The files of a receipt as `ReceiptColumns.files` holds them, with absolute paths."""
        named = json.loads(files) if files else []
        return tuple(StoredFile(str(Path(self.home, path)), size) for path, size in named)

    def names_of(self, receipt: Receipt) -> list[str]:
        """The files of a receipt as they are below the home."""
        return [_below(self.home, file.path) for file in receipt.files]

    @contextmanager
    def launching(self) -> Iterator["Launches"]:
        """Hold the list of launched recoveries: nobody else launches one meanwhile, on any machine.

        Receipts and attempts are written meanwhile, by the runs of other recoveries and of this one.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(launching_turn(self.uri))
            except db.exc.DBAPIError as error:
                raise LedgerError(self._trouble(error)) from error
            yield Launches(self)

    def recovery(self, plan_id: str) -> Recovery | None:
        """The launched plan with that id, or one that is being launched."""
        return Launches(self).get(plan_id)

    def _current(self, asset: str, partitions: Sequence[str] | None) -> list[db.Row[Any]]:
        query = db.select(_RECEIPTS).where(self._mine(_RECEIPTS, asset), _RECEIPTS.c.current)
        queries = [query]
        if partitions is not None:
            queries = [query.where(_RECEIPTS.c.partition.in_(some)) for some in in_parts(partitions)]
        with self._transaction() as connection:
            return [row for one in queries for row in connection.execute(one)]

    def _receipt(self, row: db.Row[tuple[object, ...]]) -> Receipt:
        facts = {column.name: getattr(row, column.name) for column in fields(Receipt)}
        facts["inputs"] = tuple(Input(*read) for read in json.loads(row.inputs))
        facts["files"] = self.stored_files(row.files)
        facts["digests"] = tuple(sorted(json.loads(row.digests).items())) if row.digests else ()
        return Receipt(**facts)

    def _mine(self, table: db.Table, asset: str) -> db.ColumnElement[bool]:
        return db.and_(table.c.environment == self.environment, table.c.asset == asset)

    def _pairs(self, table: db.Table, asset: str, partitions: Sequence[str]) -> db.ColumnElement[bool]:
        return db.and_(self._mine(table, asset), table.c.partition.in_(partitions))

    def _span(self, asset: str, spans: Mapping[str, tuple[str, str]] | None) -> dict[str, str]:
        first, last = (spans or {}).get(asset, ("", _LAST))
        return {"environment": self.environment, "asset": asset, "first": first, "last": last}

    @contextmanager
    def _transaction(self, writes: bool = False) -> Iterator[db.Connection]:
        try:
            with transaction(self.uri, _TABLES, writes) as connection:
                yield connection
        except (db.exc.DBAPIError, sqlite3.Error) as error:
            raise LedgerError(self._trouble(error)) from error

    def _trouble(self, error: Exception) -> str:
        """Why the receipts cannot be used, and what to do."""
        file = sqlite_path(self.uri)
        damage = damage_of(file) if file is not None else None
        if damage:
            return (
                f"the receipts in {file} are damaged ({damage}): put back a copy of that file, or run headwater "
                "restore-ledger, which sets it aside and restores each receipt that lake and event log can prove"
            )
        said = error.orig if isinstance(error, db.exc.DBAPIError) else error
        hint = "somebody else holds it, end them" if "locked" in str(said) else "make it readable and writable"
        return f"the receipts in {place_of(self.uri)} cannot be read or written ({said}): {hint}, then try again"


class Launches:
    """The launched recoveries of one environment; they change while `Ledger.launching` is held."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get(self, plan_id: str) -> Recovery | None:
        """The recovery of the plan with that id."""
        return next(iter(self._read(_RECOVERIES.c.plan_id == plan_id)), None)

    def all(self) -> list[Recovery]:
        """Every recovery, that of the newest plan first."""
        return self._read(db.true())

    def begin(self, recovery: Recovery) -> None:
        """Note that a backfill is about to be launched: its first run may look for the recovery at once."""
        self._append(recovery, _BEGUN)

    def add(self, recovery: Recovery, backfill: str) -> None:
        """Note that `backfill` carries out the recovery, or what remains of it."""
        self._append(recovery, backfill)

    def drop(self, plan_id: str) -> None:
        """Note that no backfill came of what was begun."""
        known = self.get(plan_id)
        if known and known.backfills:
            self._write(known, known.backfills, is_new=False)
        else:
            with self._ledger._transaction(writes=True) as connection:
                connection.execute(db.delete(_RECOVERIES).where(self._mine(), _RECOVERIES.c.plan_id == plan_id))

    def _append(self, recovery: Recovery, backfill: str) -> None:
        known = self.get(recovery.plan_id)
        self._write(known or recovery, [*(known.backfills if known else ()), backfill], is_new=known is None)

    def _write(self, recovery: Recovery, backfills: Sequence[str], is_new: bool) -> None:
        values = {
            "environment": self._ledger.environment,
            "plan_id": recovery.plan_id,
            "planned_at": recovery.planned_at,
            "pairs": json.dumps(recovery.pairs),
            "roots": json.dumps(recovery.roots),
            "backfills": json.dumps(backfills),
        }
        mine = db.and_(self._mine(), _RECOVERIES.c.plan_id == recovery.plan_id)
        with self._ledger._transaction(writes=True) as connection:
            connection.execute(
                db.insert(_RECOVERIES).values(values)
                if is_new
                else db.update(_RECOVERIES).where(mine).values(backfills=values["backfills"])
            )

    def _mine(self) -> db.ColumnElement[bool]:
        return _RECOVERIES.c.environment == self._ledger.environment

    def _read(self, which: db.ColumnElement[bool]) -> list[Recovery]:
        query = db.select(_RECOVERIES).where(self._mine(), which).order_by(_RECOVERIES.c.planned_at.desc())
        with self._ledger._transaction() as connection:
            rows = connection.execute(query).all()
        found = []
        for row in rows:
            backfills = json.loads(row.backfills)
            launched = tuple(backfill for backfill in backfills if backfill != _BEGUN)
            pairs, roots = json.loads(row.pairs), json.loads(row.roots)
            found.append(Recovery(row.plan_id, row.planned_at, pairs, roots, launched, _BEGUN in backfills))
        return found


_BEGUN = ""
"""Stands among a recovery's backfills for the one that is being launched."""


def digest(*parts: object) -> str:
    """A short digest of plain values, the same on every machine."""
    return blake2b(json.dumps(parts, separators=(",", ":")).encode(), digest_size=16).hexdigest()


def mark_of(asset: str, partition: str, content: str) -> Mark:
    """The mark of one pair with that content."""
    first, second = _TWO_NUMBERS.unpack(blake2b(f"{asset}\0{partition}\0{content}".encode(), digest_size=16).digest())
    return first, second


def sum_of(marks: Iterable[Mark]) -> Mark:
    """The sum of marks, each of its two numbers wrapping around at 64 bits."""
    first = second = 0
    for one, two in marks:
        first, second = first + one, second + two
    return _wrapped(first), _wrapped(second)


def schema_text(columns: Mapping[str, str]) -> str:
    """Columns and their types as a receipt holds them: by name, so that their order does not count."""
    return json.dumps(dict(sorted(columns.items())), separators=(",", ":"))


def schema_columns(schema: str) -> dict[str, str]:
    """The columns and types that `schema_text` wrote; none where there is no table."""
    return dict(json.loads(schema)) if schema else {}


def _wrapped(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


_TABLES = db.MetaData()
_KEY = db.Text().with_variant(TEXT(collation="C"), "postgresql")
"""Partition keys, which sort by their characters everywhere."""

_RECEIPTS = db.Table(
    "headwater_receipts",
    _TABLES,
    db.Column("number", db.Integer, primary_key=True),
    db.Column("environment", db.Text, nullable=False),
    db.Column("asset", db.Text, nullable=False),
    db.Column("partition", _KEY, nullable=False),
    db.Column("current", db.Boolean, nullable=False),
    db.Column("id", db.Text, nullable=False),
    db.Column("read_as", db.Text, nullable=False),
    db.Column("code_version", db.Text, nullable=False),
    db.Column("inputs_id", db.Text, nullable=False),
    db.Column("inputs", db.Text, nullable=False),
    db.Column("rows", db.BigInteger),
    db.Column("checksum", db.Text, nullable=False),
    db.Column("schema", db.Text, nullable=False),
    db.Column("extends", db.Text),
    db.Column("snapshot", db.BigInteger),
    db.Column("files", db.Text, nullable=False),
    db.Column("mark_1", db.BigInteger, nullable=False),
    db.Column("mark_2", db.BigInteger, nullable=False),
    db.Column("inputs_mark_1", db.BigInteger, nullable=False),
    db.Column("inputs_mark_2", db.BigInteger, nullable=False),
    db.Column("run_id", db.Text, nullable=False),
    db.Column("recorded_at", db.Float(53), nullable=False),
    db.Column("reused", db.Boolean, nullable=False),
    db.Column("seal", db.BigInteger, nullable=False),
    db.Column("digests", db.Text, nullable=False, server_default=""),
    db.Index("headwater_receipts_of_pair", "environment", "asset", "current", "partition"),
)
_ATTEMPTS = db.Table(
    "headwater_attempts",
    _TABLES,
    db.Column("environment", db.Text, primary_key=True),
    db.Column("asset", db.Text, primary_key=True),
    db.Column("partition", _KEY, primary_key=True),
    db.Column("run_id", db.Text, nullable=False),
    db.Column("error", db.Text, nullable=False),
)
_DAMAGES = db.Table(
    "headwater_damages",
    _TABLES,
    db.Column("environment", db.Text, primary_key=True),
    db.Column("asset", db.Text, primary_key=True),
    db.Column("partition", _KEY, primary_key=True),
    db.Column("reason", db.Text, nullable=False),
    db.Column("names", db.Text, nullable=False),
)
_RECOVERIES = db.Table(
    "headwater_recoveries",
    _TABLES,
    db.Column("environment", db.Text, primary_key=True),
    db.Column("plan_id", db.Text, primary_key=True),
    db.Column("planned_at", db.Float(53), nullable=False),
    db.Column("pairs", db.Text, nullable=False),
    db.Column("roots", db.Text, nullable=False),
    db.Column("backfills", db.Text, nullable=False),
)
_LAST = "\U0010ffff"
"""Sorts after every partition key."""

_SEALED = (
    ("asset", "partition", "id", "read_as", "code_version", "inputs_id", "rows", "checksum", "schema", "extends")
    + ("snapshot", "files", "mark_1", "mark_2", "inputs_mark_1", "inputs_mark_2", "run_id")
)  # fmt: skip
"""The columns that `seal` vouches for; `inputs` by `inputs_id`, which a deep check computes anew."""

_BETWEEN = "\x1f"
_SEALED_TEXTS: list[Any] = [db.func.coalesce(db.cast(_RECEIPTS.c[name], db.Text), "None") for name in _SEALED]
_SEALED_TEXT = reduce(lambda text, column: text + _BETWEEN + column, _SEALED_TEXTS)
_READ = (
    ("partition", "id", "read_as", "code_version", "rows", "snapshot", "recorded_at", "files")
    + ("mark_1", "mark_2", "inputs_mark_1", "inputs_mark_2", "seal")
)  # fmt: skip
_STANDING = (
    # A million of these are read and compared in seconds: the database writes the sealed text.
    db.select(*[_RECEIPTS.c[name] for name in _READ], _SEALED_TEXT)
    .where(
        _RECEIPTS.c.environment == db.bindparam("environment"),
        _RECEIPTS.c.asset == db.bindparam("asset"),
        _RECEIPTS.c.current,
        _RECEIPTS.c.partition.between(db.bindparam("first"), db.bindparam("last")),
    )
    .order_by(_RECEIPTS.c.partition)
)


def _seal(sealed: str) -> int:
    """Checksum of the sealed columns: an edit by hand breaks it. It is no signature."""
    return crc32(sealed.encode())


def _standings(rows: Sequence[tuple[Any, ...]]) -> ReceiptColumns:
    *known, sealed = zip(*rows, strict=True)
    columns = dict(zip(_READ, known, strict=True))
    return ReceiptColumns(
        partitions=columns["partition"],
        ids=columns["id"],
        read_as=columns["read_as"],
        code_versions=columns["code_version"],
        rows=columns["rows"],
        snapshots=columns["snapshot"],
        recorded_at=columns["recorded_at"],
        files=columns["files"],
        marks=np.array([columns["mark_1"], columns["mark_2"]], np.int64).T,
        inputs_marks=np.array([columns["inputs_mark_1"], columns["inputs_mark_2"]], np.int64).T,
        forged=np.array([*map(_seal, sealed)], np.int64) != np.array(columns["seal"], np.int64),
    )


def _row(receipt: Receipt, home: str) -> Mapping[str, object]:
    mark = mark_of(receipt.asset, receipt.partition, receipt.read_as)
    facts: dict[str, Any] = {
        **{column.name: getattr(receipt, column.name) for column in _RECEIPTS.c if hasattr(receipt, column.name)},
        "inputs": json.dumps([_values(read) for read in receipt.inputs]),
        "files": _files_text([(_below(home, file.path), file.bytes) for file in receipt.files]),
        "digests": json.dumps(dict(receipt.digests)) if receipt.digests else "",
        "mark_1": mark[0],
        "mark_2": mark[1],
        "inputs_mark_1": receipt.inputs_mark[0],
        "inputs_mark_2": receipt.inputs_mark[1],
        "current": True,
    }
    return {**facts, "seal": _seal_of(facts)}


def _seal_of(facts: Mapping[str, Any]) -> int:
    return _seal(_BETWEEN.join(str(facts[name]) for name in _SEALED))


def _files_text(files: Sequence[tuple[str, int]]) -> str:
    return json.dumps(files) if files else ""


def _below(home: str, path: str) -> str:
    """The path as it is below the home; one outside of it as it is."""
    return str(Path(path).relative_to(home)) if home and Path(path).is_relative_to(home) else path


def _values(record: Any) -> list[Any]:
    return [getattr(record, column.name) for column in fields(record)]


def name_files_below_home(environment: Environment) -> None:
    """Bring receipts of the first version to the second: the names of files below the home, digests of lake files.

    Of what was recorded before no digest is known. All receipts change in one transaction.
    """
    artifacts = f"/{environment.mlflow_artifacts.relative_to(environment.home)}/"
    with transaction(environment.ledger_uri, _TABLES, writes=True) as connection:
        columns = {column["name"] for column in db.inspect(connection).get_columns(_RECEIPTS.name)}
        if _RECEIPTS.c.digests.name not in columns:
            connection.execute(db.text(f"alter table {_RECEIPTS.name} add column digests text not null default ''"))
        for row in connection.execute(db.select(_RECEIPTS).where(_RECEIPTS.c.files != "")).all():
            # Wherever the home was: in the first version only the model registry kept files outside the lake.
            names = [(path.rpartition(artifacts), size) for path, size in json.loads(row.files)]
            files = _files_text(
                [(f"{artifacts[1:]}{rest}" if found else rest, size) for (_, found, rest), size in names]
            )
            facts: dict[str, Any] = dict(row._mapping)
            if files != row.files and _seal_of(facts) == row.seal:
                changed = {"files": files, "seal": _seal_of({**facts, "files": files})}
                connection.execute(db.update(_RECEIPTS).where(_RECEIPTS.c.number == row.number).values(**changed))


def _by_asset(receipts: Sequence[Receipt]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for receipt in receipts:
        found.setdefault(receipt.asset, []).append(receipt.partition)
    return found
