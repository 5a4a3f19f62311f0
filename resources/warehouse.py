"""The lake: the one surface through which assets read and replace stored partitions.

Belongs here: attaching the DuckLake, transactions with retry, the physical catalog's answers, checksums. Not here:
what any table means, and dbt's own connection (its profile attaches the same lake by the same settings).

A table that belongs to a partitioned asset carries `partition_key VARCHAR`, Dagster's key verbatim, and the lake is
partitioned by it, so that the catalog alone answers which pairs are physically there.
"""

import errno
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import dagster as dg
import duckdb
import pyarrow as pa
from pydantic import Field

from resources.database import damage_of
from resources.engine import connect, literal, quoted
from resources.environment import Environment
from resources.run_fence import refuse_given_up
from resources.writers_turn import writers_turn

PARTITION_KEY = "partition_key"
POOL = "lake_writer"
"""Dagster pool of the steps that hold the lake for long, so that they queue instead of blocking a run slot."""

Data: TypeAlias = "pa.Table | Callable[[duckdb.DuckDBPyConnection], duckdb.DuckDBPyRelation]"
"""Rows to store: an Arrow table, or a function that makes a relation on the writing connection."""

_EXTENSIONS = ("ducklake", "sqlite_scanner", "postgres_scanner")
_ATTEMPTS = 12
_LONGEST_WAIT_SECONDS = 4.0
_WITH_PATHS = (
    "ducklake_schema",
    "ducklake_table",
    "ducklake_data_file",
    "ducklake_delete_file",
    "ducklake_files_scheduled_for_deletion",
)
"""Tables of the catalog that name files or folders."""
_METADATA = "__ducklake_metadata_lake"


class LakeError(RuntimeError):
    """The lake refused; the message names the table or setting and says what to do."""


@dataclass(frozen=True, order=True)
class TableName:
    """A table of the lake; its schema is the team, its name the entity."""

    schema: str
    name: str

    @classmethod
    def of_key(cls, key: dg.AssetKey) -> "TableName":
        """The table of asset `key`: `["commerce", "baskets"]` is `lake.commerce.baskets`."""
        schema, name = key.path
        return cls(schema, name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def key(self) -> dg.AssetKey:
        """The asset whose table this is."""
        return dg.AssetKey([self.schema, self.name])

    @property
    def sql(self) -> str:
        """The quoted three-part name for use in SQL."""
        return f"lake.{quoted(self.schema)}.{quoted(self.name)}"


@dataclass(frozen=True)
class Commit:
    """Who writes: kept in the snapshot's commit info."""

    run_id: str
    asset_key: str


@dataclass(frozen=True)
class Replacement:
    """What one transaction left: the snapshot it made and the rows of each partition it replaced."""

    snapshot: int
    rows: dict[str, int]


@dataclass(frozen=True)
class PhysicalPartition:
    """What the catalog says is stored for one partition; an unpartitioned table has one under the key ''."""

    rows: int
    files: int
    bytes: int


class Warehouse(dg.ConfigurableResource["Warehouse"]):
    """A DuckLake: Parquet files with a SQL catalog, many processes at once."""

    catalog: str = Field(description="What follows `ducklake:` when attaching, e.g. sqlite:/path/catalog.sqlite.")
    data: str = Field(description="Folder of the Parquet files; absolute and always the same.")
    extensions: str = Field(description="Folder where DuckDB's extensions are unpacked.")
    threads: int = Field(default=2, description="DuckDB threads of this process.")
    memory: str = Field(default="1500MB", description="DuckDB memory limit of this process.")
    run_events: str = Field(default="", description="Where Dagster keeps the events of runs; see run_fence.py.")

    @classmethod
    def of(cls, environment: Environment) -> "Warehouse":
        """The warehouse of `environment`."""
        return cls(
            catalog=environment.lake_catalog,
            data=environment.data,
            extensions=str(environment.extensions),
            threads=environment.threads,
            memory=environment.memory,
            run_events=environment.run_events,
        )

    @contextmanager
    def reader(self, snapshot: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with the lake attached read-only as `lake`, optionally as it was at `snapshot`."""
        self.ensure()
        with self._attached(["READ_ONLY", *([f"SNAPSHOT_VERSION {int(snapshot)}"] if snapshot else [])]) as lake:
            yield lake

    def relation(
        self,
        connection: duckdb.DuckDBPyConnection,
        table: TableName,
        partitions: Sequence[str] | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """The rows of `table` on a `reader()` connection, only those of `partitions` if given."""
        rows = connection.sql(f"from {table.sql}")
        return rows if partitions is None else rows.filter(_in(partitions))

    def replace_partitions(
        self, table: TableName, partitions: Sequence[str] | None, data: Data, commit: Commit
    ) -> Replacement:
        """Replace `partitions` of `table` (None: the whole unpartitioned table) in one transaction.

        The table is created when absent; a column that `data` adds is added. Another writer's commit repeats the
        whole transaction, so `data` may be called several times; nobody ever sees half of it.

        Args:
            table: where to write.
            partitions: the keys to replace; a key without rows in `data` ends up empty.
            data: an Arrow table, or a function of the writing connection; has `partition_key` when partitioned.
            commit: run and asset, kept in the snapshot's commit info.

        Raises:
            LakeError: data outside `partitions`, a lost or retyped column, no space left, or no free catalog.
            RunGivenUp: the run has been marked as failed or canceled meanwhile; nothing was written.
        """
        self.ensure()
        are_readable = False
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with writers_turn(self.catalog), self._attached() as lake:
                    _replace(lake, table, partitions, data, commit)
                    refuse_given_up(self.run_events, commit.run_id)
                    lake.commit()
                    snapshot = _current_snapshot(lake)
                    stored = physical_partitions(lake, table)
                wanted = [""] if partitions is None else partitions
                return Replacement(snapshot, {key: stored[key].rows if key in stored else 0 for key in wanted})
            except duckdb.Error as error:
                if not _is_contention(error):
                    # What was stored may itself be why it cannot be replaced: DuckLake reads what it deletes.
                    unreadable = [] if are_readable else self.unreadable_files(table, partitions)
                    if not unreadable:
                        raise _explained(error, table) from error
                    self.forget_files(table, unreadable, commit)
                    are_readable = True
                    continue
                if attempt == _ATTEMPTS:
                    raise LakeError(
                        f"{table}: the lake's catalog stayed busy through {attempt} attempts; nothing was written. "
                        f"See which runs hold the pool {POOL!r}, then retry this run."
                    ) from error
                time.sleep(random.uniform(0.5, 1.0) * min(0.05 * 2**attempt, _LONGEST_WAIT_SECONDS))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def add_columns(self, tables: Mapping[TableName, Mapping[str, str]]) -> None:
        """Give those of `tables` that are there the columns, by name and type, that they lack; rows there read NULL.

        Costs milliseconds where none is lacking.

        Raises:
            LakeError: the catalog cannot be read or written.
        """
        if not self._lacking(tables):
            return
        with writers_turn(self.catalog), self._attached() as lake:
            for table, columns in self._lacking(tables).items():
                for name, kind in columns.items():
                    lake.execute(f"alter table {table.sql} add column {quoted(name)} {kind}")

    def _lacking(self, tables: Mapping[TableName, Mapping[str, str]]) -> dict[TableName, dict[str, str]]:
        held: dict[TableName, set[str]] = {}
        with self.catalog_reader() as catalog:
            for schema, table, column in catalog.execute(_COLUMNS).fetchall():
                held.setdefault(TableName(schema, table), set()).add(column.lower())
        lacking = {
            table: {name: kind for name, kind in columns.items() if name.lower() not in held[table]}
            for table, columns in tables.items()
            if table in held
        }
        return {table: columns for table, columns in lacking.items() if columns}

    def forget_files(self, table: TableName, paths: Sequence[str], commit: Commit) -> None:
        """Take data files that cannot be read any more out of `table`, in a snapshot of its own.

        DuckLake reads the files whose rows it deletes, so that a partition of which a file is gone or damaged could
        not be replaced. Older snapshots go on naming the files.

        Raises:
            LakeError: the catalog cannot be written.
        """
        with writers_turn(self.catalog), self.catalog_reader(read_only=False) as catalog:
            catalog.execute("begin")
            catalog.execute(_NEXT_SNAPSHOT)
            names = [path.rpartition("/")[2] for path in paths]
            where = {"schema": table.schema, "table": table.name}
            catalog.execute(_FORGET, {**where, "names": names})
            info = json.dumps({"run_id": commit.run_id, "asset": commit.asset_key, "forgotten": names})
            catalog.execute(_FORGOTTEN, {**where, "author": commit.run_id, "message": commit.asset_key, "info": info})
            refuse_given_up(self.run_events, commit.run_id)
            catalog.execute("commit")

    def drop(self, table: TableName, commit: Commit) -> None:
        """Drop a table or view that is there, in one transaction; older snapshots and their files stay.

        Raises:
            LakeError: the catalog cannot be written, or somebody else changed it meanwhile.
        """
        with writers_turn(self.catalog), self._attached() as lake:
            try:
                lake.begin()
                kind = "view" if table in _views(lake) else "table"
                lake.execute(f"drop {kind} {table.sql}")
                info = json.dumps({"run_id": commit.run_id, "asset": commit.asset_key, "dropped": str(table)})
                lake.execute(
                    "call lake.set_commit_message(?, ?, extra_info => ?)", [commit.run_id, commit.asset_key, info]
                )
                lake.commit()
            except duckdb.Error as error:
                raise _explained(error, table) from error

    def unreadable_files(self, table: TableName, partitions: Sequence[str] | None) -> list[str]:
        """The paths of files of `partitions` of `table` that cannot be read as far as replacing them reads them.

        Raises:
            LakeError: the catalog cannot be read.
        """
        with self.reader() as lake:
            try:
                self.relation(lake, table, partitions).aggregate("count(*)").fetchall()
            except duckdb.Error:
                listed = "select data_file from ducklake_list_files('lake', ?, schema => ?)"
                paths = [path for (path,) in lake.execute(listed, [table.name, table.schema]).fetchall()]
                return [path for path in paths if not _is_readable(lake, path, partitions)]
        return []

    def partitions(self, table: TableName) -> dict[str, PhysicalPartition]:
        """The partitions of `table` that are physically there, from the catalog alone; empty when it is absent."""
        with self.reader() as lake:
            return physical_partitions(lake, table)

    def tables(self) -> list[TableName]:
        """Every table of the lake, views left out."""
        with self.reader() as lake:
            found = lake.execute(
                f"select s.schema_name, t.table_name from {_METADATA}.ducklake_table t "
                f"join {_METADATA}.ducklake_schema s using (schema_id) where t.end_snapshot is null order by all"
            ).fetchall()
        return [TableName(schema, name) for schema, name in found]

    def checksums(self, table: TableName, partitions: Sequence[str] | None = None) -> dict[str, str]:
        """An order-free checksum of the rows of each partition: the sum of 64-bit row hashes, and the row count.

        Equal rows in any order and any files give equal checksums; unpartitioned tables answer under ''.
        """
        with self.reader() as lake:
            return row_checksums(lake, table, partitions)

    def snapshot(self) -> int:
        """The lake's newest snapshot, which `reader(snapshot)` can pin."""
        with self.reader() as lake:
            return _current_snapshot(lake)

    def recorded_data(self) -> str:
        """The folder of the Parquet files as the catalog has it; `data` must say the same.

        Raises:
            LakeError: there is no catalog, or it cannot be opened.
        """
        with self.catalog_reader() as catalog:
            found = catalog.execute("select value from catalog.ducklake_metadata where key = 'data_path'").fetchone()
        return str(cast(tuple[str], found)[0]).rstrip("/")

    def name_data_anew(self, before: str) -> None:
        """Let the catalog look for the files in `data`, to which they came from the folder `before`; one transaction.

        Raises:
            LakeError: the catalog cannot be written.
        """
        with writers_turn(self.catalog), self.catalog_reader(read_only=False) as catalog:
            catalog.execute("begin")
            catalog.execute(
                "update catalog.ducklake_metadata set value = ? where key = 'data_path'", [f"{self.data.rstrip('/')}/"]
            )
            for table in _WITH_PATHS:
                # Most files are named below the folder; those added from elsewhere stay where they are.
                catalog.execute(
                    f"update catalog.{table} set path = ? || substr(path, ?) "
                    "where not path_is_relative and starts_with(path, ?)",
                    [f"{self.data}/", len(before) + 2, f"{before}/"],
                )
            catalog.execute("commit")

    @contextmanager
    def catalog_reader(self, read_only: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with the lake's catalog itself attached as `catalog`; see `lake_catalog.py`.

        Raises:
            LakeError: there is no catalog, or it cannot be opened.
        """
        install_extensions(Path(self.extensions))
        kind, place = self.catalog.split(":", 1)
        backend = "sqlite_scanner" if kind == "sqlite" else "postgres_scanner"
        with connect(config=self._config()) as connection:
            connection.load_extension(backend)
            connection.execute("set TimeZone = 'UTC'")
            try:
                connection.execute(
                    f"ATTACH {literal(place)} AS catalog (TYPE {kind}{', READ_ONLY' if read_only else ''})"
                )
                connection.execute("select 1 from catalog.ducklake_snapshot limit 1")
            except duckdb.Error as error:
                self._refuse_broken(error)
                raise LakeError(
                    f"the lake's catalog cannot be read: {str(error).splitlines()[0]}. Check HEADWATER_CATALOG and "
                    "that its file or server answers; where there is none yet, headwater prepare makes one"
                ) from error
            try:
                yield connection
            except duckdb.Error as error:
                self._refuse_broken(error)
                raise

    @contextmanager
    def _attached(self, options: Sequence[str] = ()) -> Iterator[duckdb.DuckDBPyConnection]:
        backend = "sqlite_scanner" if self.catalog.startswith("sqlite:") else "postgres_scanner"
        with connect(config=self._config()) as connection:
            for extension in ("ducklake", backend):
                connection.load_extension(extension)
            connection.execute("set TimeZone = 'UTC'")
            try:
                connection.execute(
                    f"ATTACH {literal('ducklake:' + self.catalog)} AS lake ({', '.join([*self._storage(), *options])})"
                )
            except duckdb.Error as error:
                if _is_contention(error):
                    raise
                self._refuse_broken(error)
                if "DATA_PATH" in str(error) and self.recorded_data() != self.data.rstrip("/"):
                    raise LakeError(
                        f"the lake's files were in {self.recorded_data()} and are looked for in {self.data}: run "
                        "headwater move if the home or its files were moved or copied; else correct HEADWATER_HOME or "
                        "HEADWATER_DATA"
                    ) from error
                raise LakeError(
                    f"the lake's catalog cannot be opened: {str(error).splitlines()[0]}. Check HEADWATER_CATALOG, "
                    "HEADWATER_DATA and that the catalog's server answers."
                ) from error
            try:
                yield connection
            except duckdb.Error as error:
                self._refuse_broken(error)
                raise

    def _refuse_broken(self, error: duckdb.Error) -> None:
        """Say so where an error comes of a catalog's file that is broken, which an engine's words do not tell."""
        if not re.search(r"malformed|not a database|corrupt|disk image", str(error)):
            return
        file = Path(self.catalog.removeprefix("sqlite:"))
        damage = damage_of(file) if self.catalog.startswith("sqlite:") else None
        if damage:
            raise LakeError(
                f"the lake's catalog {file} is damaged ({damage}): put back a copy of it, and of the ledger.sqlite "
                f"beside it of the same time, then headwater check --deep. Without a copy, set {file.parent} aside: "
                "the landing zone has what was delivered, and headwater plan --unhealthy builds it all again"
            ) from error

    def _config(self) -> dict[str, str]:
        return {
            "extension_directory": self.extensions,
            # DuckDB looks for a person's home folder, which a service may have none of.
            "home_directory": self.extensions,
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            # They come from pinned packages; checking their signatures again costs 0.3 s of CPU a connection.
            "allow_unsigned_extensions": "true",
            "threads": str(self.threads),
            "memory_limit": self.memory,
        }

    def _storage(self) -> list[str]:
        # Without inlining every row is in a Parquet file, which the physical checks can then look at.
        options = [f"DATA_PATH {literal(self.data)}", "DATA_INLINING_ROW_LIMIT 0"]
        if self.catalog.startswith("sqlite:"):
            # Write-ahead logging: readers go on while a writer commits.
            options += ["META_JOURNAL_MODE 'WAL'", "META_BUSY_TIMEOUT 30000"]
        return options

    def ensure(self) -> None:
        """Unpack the extensions and create the catalog once; later calls only look."""
        install_extensions(Path(self.extensions))
        path = Path(self.catalog.removeprefix("sqlite:")) if self.catalog.startswith("sqlite:") else None
        if path is not None and path.exists():
            return
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._attached():
            pass


def install_extensions(folder: Path) -> None:
    """Unpack the DuckDB extensions that ship as Python packages into `folder`; nothing is downloaded."""
    marker = folder / f".unpacked-{duckdb.__version__}"
    if marker.exists():
        return
    from duckdb_extensions import import_extension

    folder.mkdir(parents=True, exist_ok=True)
    with connect(config={"extension_directory": str(folder), "home_directory": str(folder)}) as connection:
        for name in _EXTENSIONS:
            import_extension(name, con=connection)
    marker.touch()


def _replace(
    lake: duckdb.DuckDBPyConnection,
    table: TableName,
    partitions: Sequence[str] | None,
    data: Data,
    commit: Commit,
) -> None:
    """Replace the partitions in a transaction that is left open."""
    lake.begin()
    incoming = lake.from_arrow(data) if isinstance(data, pa.Table) else data(lake)
    _fit_schema(lake, table, incoming, partitioned=partitions is not None)
    if partitions is None:
        lake.execute(f"delete from {table.sql}")
    else:
        lake.execute(f"delete from {table.sql} where {_in(partitions)}")
        outside = f"'{table}: rows of partition ' || coalesce({PARTITION_KEY}, 'NULL') || ' outside those replaced'"
        incoming = incoming.filter(f"case when {_in(partitions)} then true else error({outside}) end")
    columns = ", ".join(quoted(column) for column in incoming.columns)
    # DuckDB resolves the name `incoming` to the relation of that name in this scope.
    lake.execute(f"insert into {table.sql} ({columns}) select {columns} from incoming")
    info = json.dumps({"run_id": commit.run_id, "asset": commit.asset_key, "partitions": len(partitions or [""])})
    lake.execute("call lake.set_commit_message(?, ?, extra_info => ?)", [commit.run_id, commit.asset_key, info])


def _fit_schema(
    lake: duckdb.DuckDBPyConnection, table: TableName, incoming: duckdb.DuckDBPyRelation, partitioned: bool
) -> None:
    """Create `table`, or add the columns that `incoming` brings; refuse what would lose or retype one."""
    new = dict(zip(incoming.columns, map(str, incoming.types), strict=True))
    if partitioned and PARTITION_KEY not in new:
        raise LakeError(f"{table}: the data lack the column {PARTITION_KEY}, by which its partitions are replaced")
    lake.execute(f"create schema if not exists lake.{quoted(table.schema)}")
    old = dict(
        lake.execute(
            "select column_name, data_type from duckdb_columns() "
            "where database_name = 'lake' and schema_name = ? and table_name = ?",
            [table.schema, table.name],
        ).fetchall()
    )
    if not old:
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in new.items())
        lake.execute(f"create table {table.sql} ({columns})")
        if partitioned:
            lake.execute(f"alter table {table.sql} set partitioned by ({PARTITION_KEY})")
        return
    for name, kind in old.items():
        if new.get(name) != kind:
            found = f"is {new[name]}" if name in new else "is missing"
            raise LakeError(
                f"{table}: column {name!r} is {kind} in the lake but {found} in the new data; nothing was written. "
                "Keep the column, or give the changed one a new name and backfill."
            )
    for name in new.keys() - old.keys():
        lake.execute(f"alter table {table.sql} add column {quoted(name)} {new[name]}")


def physical_partitions(lake: duckdb.DuckDBPyConnection, table: TableName) -> dict[str, PhysicalPartition]:
    """`Warehouse.partitions` on a connection that is already open."""
    found = lake.execute(
        f"""
        select coalesce(p.partition_value, ''), sum(f.record_count - coalesce(d.delete_count, 0))::bigint,
               count(*), sum(f.file_size_bytes)::bigint
        from {_METADATA}.ducklake_schema s
        join {_METADATA}.ducklake_table t on t.schema_id = s.schema_id and t.end_snapshot is null
        join {_METADATA}.ducklake_data_file f on f.table_id = t.table_id and f.end_snapshot is null
        left join {_METADATA}.ducklake_delete_file d on d.data_file_id = f.data_file_id and d.end_snapshot is null
        left join {_METADATA}.ducklake_file_partition_value p on p.data_file_id = f.data_file_id
        where s.end_snapshot is null and s.schema_name = ? and t.table_name = ?
        group by 1 order by 1
        """,
        [table.schema, table.name],
    ).fetchall()
    return {key: PhysicalPartition(rows, files, size) for key, rows, files, size in found}


def row_checksums(
    lake: duckdb.DuckDBPyConnection,
    table: TableName,
    partitions: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> dict[str, str]:
    """`Warehouse.checksums` on a connection that is already open, over all columns or over `columns`."""
    rows = lake.sql(f"from {table.sql}")
    if partitions is not None:
        rows = rows.filter(_in(partitions))
    hashed = ", ".join(quoted(name) for name in sorted(columns or rows.columns))
    key = PARTITION_KEY if PARTITION_KEY in rows.columns else "''"
    sums = rows.aggregate(f"{key} as k, count(*) as n, sum(hash({hashed})::hugeint) as s", key).fetchall()
    return {k: f"{n}:{s:x}" for k, n, s in sums}


_COLUMNS = """
    select s.schema_name, t.table_name, c.column_name
    from catalog.ducklake_column c
    join catalog.ducklake_table t on t.table_id = c.table_id
    join catalog.ducklake_schema s on s.schema_id = t.schema_id
    where c.end_snapshot is null and t.end_snapshot is null and s.end_snapshot is null and c.parent_column is null
"""
_NEXT_SNAPSHOT = """
    insert into catalog.ducklake_snapshot
    select snapshot_id + 1, now(), schema_version, next_catalog_id, next_file_id
    from catalog.ducklake_snapshot order by snapshot_id desc limit 1
"""
_TABLE = """
    select t.table_id from catalog.ducklake_table t join catalog.ducklake_schema s on s.schema_id = t.schema_id
    where t.end_snapshot is null and s.end_snapshot is null and s.schema_name = $schema and t.table_name = $table
"""
_FORGET = f"""
    update catalog.ducklake_data_file set end_snapshot = (select max(snapshot_id) from catalog.ducklake_snapshot)
    where end_snapshot is null and table_id = ({_TABLE}) and list_contains($names, regexp_extract(path, '[^/]+$'))
"""
_FORGOTTEN = f"""
    insert into catalog.ducklake_snapshot_changes
    select max(snapshot_id), 'deleted_from_table:' || ({_TABLE}), $author, $message, $info
    from catalog.ducklake_snapshot
"""


def _is_readable(lake: duckdb.DuckDBPyConnection, path: str, partitions: Sequence[str] | None) -> bool:
    # A name is a pattern to DuckDB: in brackets, its signs stand for themselves.
    try:
        rows = lake.read_parquet(re.sub(r"([*?\[])", r"[\1]", path), hive_partitioning=False)
        (rows if partitions is None else rows.filter(_in(partitions))).aggregate("count(*)").fetchall()
    except duckdb.Error:
        return False
    return True


def _views(lake: duckdb.DuckDBPyConnection) -> set[TableName]:
    found = lake.execute("select schema_name, view_name from duckdb_views() where database_name = 'lake'").fetchall()
    return {TableName(schema, name) for schema, name in found}


def _current_snapshot(lake: duckdb.DuckDBPyConnection) -> int:
    row = lake.execute("select id from lake.current_snapshot()").fetchone()
    return cast(tuple[int], row)[0]


def _is_contention(error: duckdb.Error) -> bool:
    text = str(error).lower()
    return any(
        sign in text
        for sign in (
            "database is locked",
            "conflict",
            "could not serialize",
            "deadlock",
            "duplicate key value",
        )
    )


def _explained(error: duckdb.Error, table: TableName) -> LakeError:
    text = str(error)
    if "no space left" in text.lower() or f"errno {errno.ENOSPC}" in text.lower():
        return LakeError(f"{table}: no space left while writing; what was stored before is intact. Free space, retry.")
    return LakeError(f"{table}: {text.splitlines()[0]}; nothing was written, what was stored before is intact")


def _in(partitions: Sequence[str]) -> str:
    return f"{PARTITION_KEY} in ({', '.join(map(literal, partitions)) or 'NULL'})"
