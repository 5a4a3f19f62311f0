"""Where packed rows are kept for serving: in SQLite, which is the default, or in Redis.

Belongs here: reading, writing, expiring and deleting rows by key, and what a store that is down answers. Not here: what
is in a row (`packed_rows.py`) and which features are asked for (`reader.py`).

A row never replaces one with a newer event time, or with the same and a newer created time, so that writing again, or
out of order, changes nothing; except where its writer says that the source, as of an instant, holds this row and no
other. A materialization marks every key that it writes with its generation; once all are
written, `expire` deletes the keys that carry an older mark. One that is interrupted before has deleted nothing, and is
begun again or gone on with under the same generation.
"""

import os
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from resources.feature_store.entity_keys import view_prefix
from resources.feature_store.packed_rows import NEVER, RowSchema, microseconds_of, times_of

SETTING = "HEADWATER_ONLINE_STORE"
PASSWORD_VARIABLE = "REDISCLI_AUTH"
"""Environment variable with the password of Redis, the one that redis-cli reads."""

READ_SECONDS = 0.5
"""How long a read waits for a store that does not answer."""

_WRITE_SECONDS = 60
_KEYS_A_STATEMENT = 30_000
_ROWS_A_SCRIPT = 1_000
_KEPT_AFTER_TTL_MS = 86_400_000
"""Redis forgets a row this long after nobody may read it: until then a reader is told that it is too old."""


class OnlineStoreError(RuntimeError):
    """The online store cannot be read or written; the message says where it is and which setting names it."""


class OnlineRows(Protocol):
    """Packed rows by key; keys come from `EntityKeys` and begin with the prefix of their view."""

    address: str

    def prepare(self) -> None:
        """Make the store ready to be read and written."""

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The rows under `keys`, of any views, in their order; None where there is none.

        Raises:
            OnlineStoreError: the store does not answer within `READ_SECONDS`.
        """

    def write(
        self,
        view: str,
        schema: RowSchema,
        keys: Sequence[bytes],
        rows: Sequence[bytes],
        *,
        generation: int = 0,
        ttl: timedelta | None = None,
        as_of: datetime | None = None,
    ) -> None:
        """Keep `rows` of `view` under `keys` unless there are newer ones, and mark the keys with `generation`.

        A store may forget rows that are older than `ttl`. With `as_of`, the rows are what the view's source held at
        that instant: whatever is not later gives way to them, also a newer row, which the source has lost since.
        """

    def begin(self, view: str) -> int:
        """The generation of a new materialization of `view`, higher than every one before."""

    def expire(self, view: str, generation: int, as_of: datetime) -> int:
        """Delete the rows of `view` that no materialization from `generation` on has marked; returns how many.

        Rows with an event time after `as_of`, the instant that was materialized, stay: its source could not hold them.
        """

    def delete(self, view: str) -> None:
        """Delete every row of `view`."""

    def count(self, view: str) -> int:
        """How many keys of `view` there are."""

    def views(self) -> list[str]:
        """Every view that was ever materialized and of which there are keys."""

    def declaration(self, fingerprint: bytes) -> str | None:
        """The declaration of the schema with `fingerprint`, if rows of it were ever written."""


def open_rows(address: str, namespace: str = "headwater") -> OnlineRows:
    """The rows at `address`, a path of SQLite or a redis:// URL; `namespace` keeps environments in one Redis apart.

    Raises:
        OnlineStoreError: a password in `address`.
    """
    if address.startswith(("redis://", "rediss://", "unix://")):
        return RedisRows(address, namespace)
    return SqliteRows(address.removeprefix("sqlite:///") if address.startswith("sqlite:///") else address)


class SqliteRows:
    """Rows in one table of a SQLite database."""

    def __init__(self, path: str | Path) -> None:
        self.address = str(Path(path).absolute())
        self._own = threading.local()

    def prepare(self) -> None:
        """Create the database and its tables."""
        self._writer()

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `OnlineRows.read`."""
        found: dict[bytes, bytes] = {}
        with self._answering():
            connection = self._reader()
            for begin in range(0, len(keys), _KEYS_A_STATEMENT):
                chunk = keys[begin : begin + _KEYS_A_STATEMENT]
                found.update(connection.execute(_select(len(chunk)), chunk).fetchall())
        return [found.get(key) for key in keys]

    def write(
        self,
        view: str,
        schema: RowSchema,
        keys: Sequence[bytes],
        rows: Sequence[bytes],
        *,
        generation: int = 0,
        ttl: timedelta | None = None,
        as_of: datetime | None = None,
    ) -> None:
        """See `OnlineRows.write`; one transaction."""
        until = NEVER if as_of is None else microseconds_of(as_of)
        entries = ((key, *times_of(row), generation, row, until) for key, row in zip(keys, rows, strict=True))
        with self._transaction() as connection:
            connection.execute(
                "insert or ignore into declarations values (?, ?)", (schema.fingerprint, schema.declaration)
            )
            connection.executemany(_UPSERT, entries)

    def begin(self, view: str) -> int:
        """See `OnlineRows.begin`."""
        with self._transaction() as connection:
            (generation,) = connection.execute(
                "insert into generations values (?, 1) "
                "on conflict (view) do update set generation = generation + 1 returning generation",
                (view,),
            ).fetchone()
        return int(generation)

    def expire(self, view: str, generation: int, as_of: datetime) -> int:
        """See `OnlineRows.expire`; one transaction."""
        with self._transaction() as connection:
            return connection.execute(
                "delete from online_rows where key >= ? and key < ? and generation < ? and event_time <= ?",
                (*_range_of(view), generation, microseconds_of(as_of)),
            ).rowcount

    def delete(self, view: str) -> None:
        """See `OnlineRows.delete`."""
        with self._transaction() as connection:
            connection.execute("delete from online_rows where key >= ? and key < ?", _range_of(view))

    def count(self, view: str) -> int:
        """See `OnlineRows.count`."""
        with self._answering():
            (count,) = (
                self._reader()
                .execute("select count(*) from online_rows where key >= ? and key < ?", _range_of(view))
                .fetchone()
            )
        return int(count)

    def views(self) -> list[str]:
        """See `OnlineRows.views`; none where there is no store yet."""
        if not Path(self.address).exists():
            return []
        with self._answering():
            known = self._reader().execute("select view from generations order by view").fetchall()
        return [view for (view,) in known if self.count(view)]

    def declaration(self, fingerprint: bytes) -> str | None:
        """See `OnlineRows.declaration`."""
        with self._answering():
            found = (
                self._reader()
                .execute("select columns from declarations where fingerprint = ?", (fingerprint,))
                .fetchone()
            )
        return str(found[0]) if found else None

    def _reader(self) -> sqlite3.Connection:
        # One that does not create the database: a wrong path is an error, not an empty store.
        return self._connection("reader", lambda: self._open(f"{Path(self.address).as_uri()}?mode=rw", READ_SECONDS))

    def _writer(self) -> sqlite3.Connection:
        return self._connection("writer", self._create)

    def _connection(self, name: str, connect: Callable[[], sqlite3.Connection]) -> sqlite3.Connection:
        """This thread's connection; a forked process opens its own."""
        held = self._own.__dict__.get(name)
        if held is None or held[0] != os.getpid():
            held = (os.getpid(), connect())
            setattr(self._own, name, held)
        connection: sqlite3.Connection = held[1]
        return connection

    def _create(self) -> sqlite3.Connection:
        with self._answering():
            Path(self.address).parent.mkdir(parents=True, exist_ok=True)
            connection = self._open(f"{Path(self.address).as_uri()}?mode=rwc", _WRITE_SECONDS)
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            for statement in _TABLES:
                connection.execute(statement)
        return connection

    def _open(self, uri: str, seconds: float) -> sqlite3.Connection:
        connection = sqlite3.connect(uri, timeout=seconds, uri=True, isolation_level=None)
        connection.execute("pragma mmap_size = 1073741824")
        return connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._writer()
        with self._answering():
            connection.execute("begin immediate")
            try:
                yield connection
                connection.execute("commit")
            except BaseException:
                connection.rollback()
                raise

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise OnlineStoreError(
                f"the online store {self.address} cannot be used ({error}); it is created by the first "
                f"materialization, and {SETTING} names it"
            ) from error


class RedisRows:
    """Rows in Redis, each under a key of its own, and a sorted set of each view's keys by generation."""

    def __init__(self, address: str, namespace: str) -> None:
        import redis
        from redis.backoff import ExponentialBackoff, NoBackoff
        from redis.retry import Retry

        parts = urlsplit(address)
        if parts.password or "password" in parse_qs(parts.query):
            raise OnlineStoreError(f"{SETTING} carries a password; leave it out and set {PASSWORD_VARIABLE} instead")
        self.address = address
        self._prefix = f"{namespace}:".encode()
        self._declarations = self._prefix + b"declarations"
        self._generations = self._prefix + b"generations"
        self._errors = (redis.RedisError, OSError)

        def client(seconds: float, retry: Retry) -> Any:
            return redis.Redis.from_url(
                address,
                password=os.environ.get(PASSWORD_VARIABLE),
                socket_connect_timeout=READ_SECONDS,
                socket_timeout=seconds,
                retry=retry,
            )

        self._reader = client(READ_SECONDS, Retry(NoBackoff(), 0))
        # What is written again changes nothing, so that a lost answer is no harm.
        self._writer = client(_WRITE_SECONDS, Retry(ExponentialBackoff(), 2))
        self._write_newer = self._writer.register_script(_WRITE_NEWER)
        self._expire_unmarked = self._writer.register_script(_EXPIRE_UNMARKED)
        self._claim_rows = self._reader.register_script(_CLAIM)

    def prepare(self) -> None:
        """See that the server answers."""
        self._ask(self._writer.ping)

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `OnlineRows.read`."""
        if not keys:
            return []
        prefix = self._prefix
        found: list[bytes | None] = self._ask(self._reader.execute_command, "MGET", *[prefix + key for key in keys])
        return found

    def write(
        self,
        view: str,
        schema: RowSchema,
        keys: Sequence[bytes],
        rows: Sequence[bytes],
        *,
        generation: int = 0,
        ttl: timedelta | None = None,
        as_of: datetime | None = None,
    ) -> None:
        """See `OnlineRows.write`; a thousand rows at once are written or are not."""
        self._ask(self._writer.hsetnx, self._declarations, schema.fingerprint, schema.declaration)
        marks, now = self._marks(view), int(time.time() * 1e6)
        until = NEVER if as_of is None else microseconds_of(as_of)
        entries = zip(keys, rows, strict=True)
        while chunk := list(islice(entries, _ROWS_A_SCRIPT)):
            arguments: list[bytes | int] = [generation, struct.pack(">q", until)]
            for _, row in chunk:
                arguments += (row, _kept_ms(times_of(row)[0], now, ttl))
            names = [marks, *(self._prefix + key for key, _ in chunk)]
            self._ask(self._write_newer, names, arguments)

    def begin(self, view: str) -> int:
        """See `OnlineRows.begin`."""
        return int(self._ask(self._writer.hincrby, self._generations, view, 1))

    def expire(self, view: str, generation: int, as_of: datetime) -> int:
        """See `OnlineRows.expire`; a thousand keys at a time, so that an interrupted one is gone on with."""
        return self._expire(view, generation, microseconds_of(as_of))

    def delete(self, view: str) -> None:
        """See `OnlineRows.delete`."""
        self._expire(view, 2**53, 2**63 - 1)

    def count(self, view: str) -> int:
        """See `OnlineRows.count`; keys that Redis has forgotten by their age count until the next expiry."""
        return int(self._ask(self._reader.zcard, self._marks(view)))

    def views(self) -> list[str]:
        """See `OnlineRows.views`."""
        known: list[bytes] = self._ask(self._reader.hkeys, self._generations)
        return [view for view in sorted(name.decode() for name in known) if self.count(view)]

    def declaration(self, fingerprint: bytes) -> str | None:
        """See `OnlineRows.declaration`."""
        found = self._ask(self._reader.hget, self._declarations, fingerprint)
        return found.decode() if found else None

    @property
    def claim_key(self) -> str:
        """The key of the claim on these rows."""
        return (self._prefix + b"home").decode()

    def claim(self, owner: str, words: str) -> str:
        """Keep `words` as the claim on these rows of the home `owner`, unless another has one; returns the claim."""
        found: bytes = self._ask(self._claim_rows, [self.claim_key], [owner, words])
        return found.decode()

    def _expire(self, view: str, generation: int, as_of: int) -> int:
        marks, deleted = self._marks(view), 0
        arguments = [generation, struct.pack(">q", as_of)]
        while True:
            names = self._ask(self._writer.zrangebyscore, marks, "-inf", f"({generation}", 0, _ROWS_A_SCRIPT)
            if not names:
                return deleted
            deleted += self._ask(self._expire_unmarked, [marks, *names], arguments)

    def _marks(self, view: str) -> bytes:
        return self._prefix + b"marks:" + view_prefix(view)

    def _ask(self, command: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return command(*arguments)
        except self._errors as error:
            raise OnlineStoreError(
                f"the online store {self.address} does not answer as it should ({error}); {SETTING} names it, "
                f"and {PASSWORD_VARIABLE} holds its password where it has one"
            ) from error


_TABLES = (
    """
    create table if not exists online_rows (
        key blob primary key,
        event_time integer not null,
        created_time integer not null,
        generation integer not null,
        row blob not null
    ) without rowid
    """,
    "create table if not exists declarations (fingerprint blob primary key, columns text not null) without rowid",
    "create table if not exists generations (view text primary key, generation integer not null) without rowid",
)

_NEWER = "((excluded.event_time, excluded.created_time) >= (event_time, created_time) or event_time <= ?6)"
_UPSERT = f"""
    insert into online_rows values (?1, ?2, ?3, ?4, ?5) on conflict (key) do update set
        row = iif({_NEWER}, excluded.row, row),
        event_time = iif({_NEWER}, excluded.event_time, event_time),
        created_time = iif({_NEWER}, excluded.created_time, created_time),
        generation = max(generation, excluded.generation)
"""

# Both times are compared as four numbers of 32 bits: Lua's own are exact to 53, and its strings follow the locale.
_WRITE_NEWER = """
    local function newer(old, new)
        local at = {struct.unpack('>i4I4i4I4', old)}
        local is = {struct.unpack('>i4I4i4I4', new)}
        for part = 1, 4 do
            if is[part] ~= at[part] then return is[part] > at[part] end
        end
        return true
    end
    local until_high, until_low = struct.unpack('>i4I4', ARGV[2])
    local function given_up(old)
        local high, low = struct.unpack('>i4I4', old)
        return high < until_high or (high == until_high and low <= until_low)
    end
    for number = 2, #KEYS do
        local row, kept_ms = ARGV[2 * number - 1], tonumber(ARGV[2 * number])
        local old = redis.call('GETRANGE', KEYS[number], 0, 15)
        if #old < 16 or newer(old, row) or given_up(old) then
            if kept_ms > 0 then
                redis.call('SET', KEYS[number], row, 'PX', kept_ms)
            else
                redis.call('SET', KEYS[number], row)
            end
        end
        redis.call('ZADD', KEYS[1], 'GT', ARGV[1], KEYS[number])
    end
"""

_CLAIM = """
    local known = redis.call('GET', KEYS[1])
    if known and cjson.decode(known).id ~= ARGV[1] then return known end
    redis.call('SET', KEYS[1], ARGV[2])
    return ARGV[2]
"""

# What is newer than the instant gets the mark too, so that it is not looked at again.
_EXPIRE_UNMARKED = """
    local generation, deleted = tonumber(ARGV[1]), 0
    local high, low = struct.unpack('>i4I4', ARGV[2])
    for number = 2, #KEYS do
        local mark = redis.call('ZSCORE', KEYS[1], KEYS[number])
        if mark and tonumber(mark) < generation then
            local time = redis.call('GETRANGE', KEYS[number], 0, 7)
            local later = false
            if #time == 8 then
                local its_high, its_low = struct.unpack('>i4I4', time)
                later = its_high > high or (its_high == high and its_low > low)
            end
            if later then
                redis.call('ZADD', KEYS[1], ARGV[1], KEYS[number])
            else
                redis.call('UNLINK', KEYS[number])
                redis.call('ZREM', KEYS[1], KEYS[number])
                deleted = deleted + 1
            end
        end
    end
    return deleted
"""


@cache
def _select(count: int) -> str:
    return f"select key, row from online_rows where key in ({','.join('?' * count)})"


def _range_of(view: str) -> tuple[bytes, bytes]:
    """The first key that `view` could have, and the first that follows it."""
    prefix = view_prefix(view)
    return prefix, prefix[:-1] + bytes([prefix[-1] + 1])


def _kept_ms(event: int, now: int, ttl: timedelta | None) -> int:
    """For how long Redis keeps a row; 0 is for ever.

    From the time of writing on, not of the event: those who read as of an instant of the past find what was valid then.
    """
    if not ttl:
        return 0
    return (max(event - now, 0) + ttl // timedelta(microseconds=1)) // 1000 + _KEPT_AFTER_TTL_MS
