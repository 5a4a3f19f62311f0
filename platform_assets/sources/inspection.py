"""Inspection of deliveries: files are read into a candidate, and each way they are not as declared is named.
 Belongs here: reading files and checking them against the declaration of their source, with DuckDB. Not here:
the expectations about values (`expectations.py`), and storing what was accepted (`assets.py`).
 A candidate is a DuckDB file. What was inspected is what is judged and stored, even when a delivery is
replaced meanwhile; and each file is parsed once, for one partition as for a year of them.
"""

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from platform_assets.sources.declaration import PARTITION_COLUMN, Column, FileFormat, Source
from platform_assets.sources.landing import (
    MARKER,
    DamagedFileError,
    Delivery,
    Fingerprint,
    fingerprint,
    look,
)

TABLE = "delivered"

_JSON_TYPES: Mapping[str, frozenset[str]] = {
    "BIGINT": frozenset({"BIGINT", "UBIGINT"}),
    "BOOLEAN": frozenset({"BOOLEAN"}),
    "DATE": frozenset({"VARCHAR"}),
    "DOUBLE": frozenset({"BIGINT", "UBIGINT", "DOUBLE"}),
    "TIMESTAMP": frozenset({"VARCHAR"}),
    "VARCHAR": frozenset({"VARCHAR"}),
}
_PARQUET_TYPES: Mapping[str, frozenset[str]] = {
    "TIMESTAMP": frozenset({"TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"}),
}
_FAULTS_OF_A_FILE = (
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.IOException,
    duckdb.NotImplementedException,
    duckdb.OutOfRangeException,
    duckdb.SerializationException,
)
_DELIVER_AGAIN = "Have the upstream system deliver the partition again"
_AS_DECLARED = f"{_DELIVER_AGAIN} as declared, or change the declaration of the source"


class CandidateError(RuntimeError):
    """The candidate could not be built for want of space, not because of what was delivered."""


@dataclass(frozen=True)
class Problem:
    """One reason why a partition is refused."""

    rule: str
    partition: str
    message: str
    how_to_fix: str
    file: str = ""
    column: str = ""

    def __str__(self) -> str:
        """One line that names partition, file and problem, and says what to do."""
        where = f"partition {self.partition}" + (f", file {self.file}" if self.file else "")
        return f"{where}: {self.message}. {self.how_to_fix}."


@dataclass(frozen=True)
class Candidate:
    """The rows of some partitions, read and inspected, in a DuckDB file; a refused partition has problems."""

    source: Source
    database: Path
    partitions: tuple[str, ...]
    deliveries: Mapping[str, Delivery]
    fingerprints: Mapping[str, Fingerprint]
    rows: Mapping[str, int]
    problems: tuple[Problem, ...]

    @property
    def refused(self) -> frozenset[str]:
        """The partitions with a problem; they were inspected as far as their files allow."""
        return frozenset(problem.partition for problem in self.problems)

    @property
    def accepted(self) -> tuple[str, ...]:
        """The partitions without a problem, in order."""
        refused = self.refused
        return tuple(partition for partition in self.partitions if partition not in refused)

    def relation(self, connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
        """The accepted rows as the lake stores them, on a connection of the caller's."""
        connection.execute(f"attach if not exists {_text(str(self.database))} as candidate (read_only)")
        columns = [column.name for column in self.source.columns]
        if self.source.partitions:
            columns.insert(0, PARTITION_COLUMN)
        return connection.sql(
            f"select {', '.join(map(quoted, columns))} from candidate.{TABLE} "
            f"where {PARTITION_COLUMN} in {_texts(self.accepted)}"
        )


@dataclass(frozen=True)
class _File:
    partition: str
    path: Path

    def problem(self, rule: str, message: str, how_to_fix: str, column: str = "") -> Problem:
        return Problem(rule, self.partition, message, how_to_fix, self.path.name, column)


_Problems = Iterator[Problem]
_Columns = dict[str, set[str]]


def inspect(
    source: Source,
    root: Path,
    partitions: Sequence[str],
    database: Path,
    memory: str = "1500MB",
    threads: int = 2,
) -> Candidate:
    """Read `partitions` of `source` from the landing zone `root` into a new `database`, and check them.

    A partition is refused as a whole, and alone: the others go on.

    Raises:
        CandidateError: the candidate cannot be written (a full disk, say), which is no fault of a delivery.
        OSError: a file that is there cannot be opened.
    """
    found = {partition: look(source, root, partition) for partition in partitions}
    deliveries = {partition: delivery for partition, delivery in found.items() if delivery}
    files = [_File(delivery.partition, path) for delivery in deliveries.values() for path in delivery.files]
    with ThreadPoolExecutor(threads) as pool:
        read = pool.map(partial(fingerprint, source), deliveries.values())
        fingerprints = dict(zip(deliveries, read, strict=True))
    problems = list(_undelivered(source, root, found))
    problems.extend(_damaged(fingerprints, _sound(files, problems)))
    try:
        with opened(database, memory, threads) as connection:
            problems.extend(_unlike_declared(connection, source, _sound(files, problems)))
            problems.extend(_load(connection, source, _sound(files, problems)))
            for rule in (_uncast, _incomplete, _outside, _repeated):
                problems.extend(rule(connection, source))
            counted = f"select {PARTITION_COLUMN}, count(*) from {TABLE} group by all"
            rows = dict.fromkeys(deliveries, 0) | dict(connection.execute(counted).fetchall())
    except duckdb.OperationalError as error:
        raise CandidateError(
            f"source {source.name}: {len(partitions)} partitions, {partitions[0]} to {partitions[-1]}, "
            f"cannot be read into {database.parent} ({_first_line(error)}); free space there or point TMPDIR "
            "elsewhere, then run again. What was stored before is intact."
        ) from error
    problems.extend(_empty(source, rows, problems))
    ordered = sorted(problems, key=lambda problem: (problem.partition, problem.file))
    return Candidate(source, database, tuple(partitions), deliveries, fingerprints, rows, tuple(ordered))


@contextmanager
def opened(database: Path, memory: str = "1500MB", threads: int = 2) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a candidate's DuckDB file, created when absent; it spills beside the file."""
    settings = {
        "memory_limit": memory,
        "threads": str(threads),
        "temp_directory": str(database.with_suffix(".spill")),
        "preserve_insertion_order": "false",
        "autoinstall_known_extensions": "false",
    }
    with duckdb.connect(str(database), config=dict(settings)) as connection:
        yield connection


def _sound(files: Iterable[_File], problems: Iterable[Problem]) -> list[_File]:
    refused = {problem.partition for problem in problems}
    return [file for file in files if file.partition not in refused]


def _undelivered(source: Source, root: Path, found: Mapping[str, Delivery | None]) -> _Problems:
    for partition, delivery in found.items():
        folder = source.partition_dir(root, partition)
        if not folder.is_dir():
            yield Problem("delivered", partition, f"{folder} does not exist", _DELIVER_AGAIN)
        elif delivery is None:
            yield Problem(
                "delivered",
                partition,
                f"{folder} has no {MARKER}, so the delivery is unfinished",
                f"Wait for the upstream system, or have it write {MARKER} after the last file",
            )
        elif not delivery.files:
            yield Problem("delivered", partition, f"{folder} holds no files", _DELIVER_AGAIN)
        else:
            for file in (_File(partition, path) for path in delivery.files):
                if not file.path.name.endswith(source.extension):
                    message = f"it is not a {source.extension} file, which the source declares"
                    yield file.problem("delivered", message, _AS_DECLARED)


def _damaged(fingerprints: Mapping[str, Fingerprint], files: Sequence[_File]) -> _Problems:
    for file in files:
        if message := fingerprints[file.partition].damages.get(file.path):
            yield file.problem("readable", message, _DELIVER_AGAIN)


def _unlike_declared(connection: duckdb.DuckDBPyConnection, source: Source, files: Sequence[_File]) -> _Problems:
    """Names and types of columns, as far as the format tells them without reading values."""
    readers = {"parquet": _parquet_columns, "csv": _csv_columns, "jsonl": _json_columns}
    declared = {column.name: column.type for column in source.columns}
    for file, found in readers[source.file_format](connection, source, files) if files else ():
        if isinstance(found, DamagedFileError):
            yield file.problem("readable", str(found), _DELIVER_AGAIN)
            continue
        for name in declared.keys() - found.keys():
            message = f"column {name!r} ({declared[name]}) is missing"
            yield file.problem("columns", message, _AS_DECLARED, name)
        for name in found.keys() - declared.keys():
            yield file.problem("columns", f"column {name!r} is not declared", _AS_DECLARED, name)
        for name in found.keys() & declared.keys():
            if strange := sorted(found[name] - _equivalents(source.file_format, declared[name])):
                message = f"column {name!r} is {' and '.join(strange)}, declared {declared[name]}"
                yield file.problem("columns", message, _AS_DECLARED, name)


def _equivalents(file_format: FileFormat, declared: str) -> frozenset[str]:
    if file_format == "jsonl":
        return _JSON_TYPES[declared] | {"NULL"}
    return _PARQUET_TYPES.get(declared, frozenset({declared})) if file_format == "parquet" else frozenset({"text"})


def _parquet_columns(
    connection: duckdb.DuckDBPyConnection, _: Source, files: Sequence[_File]
) -> Iterator[tuple[_File, _Columns | DamagedFileError]]:
    # The first entry of a schema is its root.
    query = (
        "select file_name, name, duckdb_type from parquet_schema($paths) "
        "qualify row_number() over (partition by file_name order by column_id) > 1"
    )
    for readable, answer in _together_or_alone(connection, query, files):
        if isinstance(answer, DamagedFileError):
            yield readable[0], answer
            continue
        found: dict[str, _Columns] = defaultdict(dict)
        for path, name, kind in answer:
            found[path][name] = {str(kind)}
        yield from ((file, found[str(file.path)]) for file in readable)


def _csv_columns(
    _: duckdb.DuckDBPyConnection, source: Source, files: Sequence[_File]
) -> Iterator[tuple[_File, _Columns | DamagedFileError]]:
    for file in files:
        try:
            header = _header(source, file.path)
        except (UnicodeDecodeError, csv.Error) as error:
            yield file, DamagedFileError(f"its header cannot be read ({error})")
            continue
        if not header:
            yield file, DamagedFileError("it is empty, even its header is missing")
        elif repeated := sorted({name for name in header if header.count(name) > 1}):
            yield file, DamagedFileError(f"its header names {', '.join(map(repr, repeated))} more than once")
        else:
            yield file, {name: {"text"} for name in header}


def _header(source: Source, path: Path) -> tuple[str, ...]:
    opener = gzip.open if source.compression else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as lines:
        return tuple(next(csv.reader(lines), ()))


def _json_columns(
    connection: duckdb.DuckDBPyConnection, source: Source, files: Sequence[_File]
) -> Iterator[tuple[_File, _Columns | DamagedFileError]]:
    """The types that each column takes in the rows of a file; a row may leave out a nullable column."""
    declared = [column.name for column in source.columns]
    required = set(source.required_columns)
    paths = ", ".join(_text(f'$."{name}"') for name in declared)
    # Far cheaper than json_structure: few distinct answers, and no tree is built for a row.
    query = (
        f"select filename, json_type(json), json_keys(json), json_type(json, [{paths}]) "
        "from read_ndjson_objects($paths, filename = true, hive_partitioning = false) group by all"
    )
    for readable, answer in _together_or_alone(connection, query, files):
        if isinstance(answer, DamagedFileError):
            yield readable[0], answer
            continue
        shapes: dict[str, list[tuple[str, list[str], list[str | None]]]] = defaultdict(list)
        for path, *shape in answer:
            shapes[path].append((shape[0], shape[1], shape[2]))
        for file in readable:
            found: _Columns = {name: {"NULL"} for name in declared}
            missing: set[str] = set()
            for root, names, kinds in shapes[str(file.path)]:
                if root != "OBJECT":
                    yield file, DamagedFileError("it has a line that is not a JSON object")
                    break
                for name, kind in zip(declared, kinds, strict=True):
                    found[name] |= {kind} if kind else set()
                found |= {name: set() for name in set(names) - found.keys()}
                missing |= required.difference(names)
            else:
                yield file, {name: kinds for name, kinds in found.items() if name not in missing}


def _load(connection: duckdb.DuckDBPyConnection, source: Source, files: Sequence[_File]) -> _Problems:
    """Read the files into the candidate; one that cannot be read is named, the others are in it."""
    columns = ", ".join(f"{quoted(column.name)} {column.type}" for column in source.columns)
    connection.execute(
        f"create table {TABLE} ({PARTITION_COLUMN} varchar, file varchar, {columns}, "
        "uncast struct(name varchar, value varchar))"
    )
    connection.execute(f"create temp table files (path varchar, {PARTITION_COLUMN} varchar, file varchar)")
    connection.execute(
        "insert into files select unnest($paths), unnest($partitions), unnest($names)",
        {
            "paths": [str(file.path) for file in files],
            "partitions": [file.partition for file in files],
            "names": [file.path.name for file in files],
        },
    )
    # The columns of a CSV file may come in any order: files with one header are read together.
    groups: dict[tuple[str, ...], list[_File]] = defaultdict(list)
    for file in files:
        groups[_header(source, file.path) if source.file_format == "csv" else ()].append(file)
    for header, group in groups.items():
        statement = (
            f"insert into {TABLE} select {PARTITION_COLUMN}, file, "
            f"{', '.join(_typed(source, column) for column in source.columns)}, {_first_uncast(source)} "
            f"from {_reader(source, header)} join files on path = source_path"
        )
        for readable, answer in _together_or_alone(connection, statement, group):
            if isinstance(answer, DamagedFileError):
                yield readable[0].problem("readable", str(answer), _DELIVER_AGAIN)


def _reader(source: Source, header: Sequence[str]) -> str:
    options = "filename = 'source_path', hive_partitioning = false"
    if source.file_format == "parquet":
        return f"read_parquet($paths, {options}, union_by_name = true)"
    names = header or [column.name for column in source.columns]
    columns = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in names)
    options += f", columns = {{{columns}}}"
    if source.file_format == "jsonl":
        return f"read_json($paths, {options}, format = 'newline_delimited')"
    options += ", header = true, auto_detect = false, delim = ',', quote = '\"', escape = '\"'"
    return f"read_csv($paths, {options})"


def _typed(source: Source, column: Column) -> str:
    name = quoted(column.name)
    if source.file_format == "parquet" or column.type == "VARCHAR":
        return name
    cast = f"try_cast({name} as {column.type})"
    # DuckDB rounds 12.5 to a whole number.
    return f"if(contains({name}, '.'), null, {cast})" if column.type == "BIGINT" else cast


def _first_uncast(source: Source) -> str:
    """The first value of a row that is not of its column's type, as a struct, or NULL."""
    if source.file_format == "parquet":
        return "null"
    lost = [
        f"if({quoted(column.name)} is not null and {_typed(source, column)} is null, "
        f"{{'name': {_text(column.name)}, 'value': {quoted(column.name)}}}, null)"
        for column in source.columns
        if column.type != "VARCHAR"
    ]
    return f"coalesce({', '.join(lost)}, null)" if lost else "null"


def _uncast(connection: duckdb.DuckDBPyConnection, source: Source) -> _Problems:
    types = {column.name: column.type for column in source.columns}
    query = (
        f"select {PARTITION_COLUMN}, file, uncast.name, min(uncast.value), count(*) from {TABLE} "
        "where uncast is not null group by all"
    )
    for partition, file, column, value, rows in connection.execute(query).fetchall():
        message = f"column {column!r}: {value!r} is no {types[column]} ({rows:,} rows)"
        yield Problem("columns", partition, message, _AS_DECLARED, file, column)


def _incomplete(connection: duckdb.DuckDBPyConnection, source: Source) -> _Problems:
    counts = ", ".join(f"count(*) - count({quoted(name)})" for name in source.required_columns)
    if not counts:
        return
    # A value that could not be cast has been named already.
    query = f"select {PARTITION_COLUMN}, {counts} from {TABLE} where uncast is null group by all"
    for partition, *missing in connection.execute(query).fetchall():
        for name, rows in zip(source.required_columns, missing, strict=True):
            if rows:
                message = f"column {name!r} has no value in {rows:,} rows, but is not declared nullable"
                yield Problem("not_null", partition, message, _AS_DECLARED, column=name)


def _outside(connection: duckdb.DuckDBPyConnection, source: Source) -> _Problems:
    """Rows whose event time is not in the partition, by the calendar of the team."""
    if source.event_time is None:
        return
    partitions = [
        partition for (partition,) in connection.execute(f"select distinct {PARTITION_COLUMN} from {TABLE}").fetchall()
    ]
    bounds = {partition: source.event_bounds(partition) for partition in partitions}
    query = f"""
        with bounds as (
            select unnest($partitions) as {PARTITION_COLUMN}, unnest($starts) as s, unnest($ends) as e
        )
        select {PARTITION_COLUMN}, file, count(*), min({quoted(source.event_time.column)})
        from {TABLE} join bounds using ({PARTITION_COLUMN})
        where {source.event_time.expression} < s or {source.event_time.expression} >= e group by all
    """
    values = {
        "partitions": partitions,
        "starts": [bounds[partition][0] for partition in partitions],
        "ends": [bounds[partition][1] for partition in partitions],
    }
    for partition, file, rows, first in connection.execute(query, values).fetchall():
        start, end = bounds[partition]
        column, zone = source.event_time.column, source.event_time.zone
        message = (
            f"{rows:,} rows are outside the partition: column {column!r} is {first} in the first of them, "
            f"the partition holds {start} to {end} {zone}"
        )
        how = f"{_DELIVER_AGAIN} with its own rows; if all are shifted, check the time zone of {column!r}"
        yield Problem("in_partition", partition, message, how, file, column)


def _repeated(connection: duckdb.DuckDBPyConnection, source: Source) -> _Problems:
    if not source.key:
        return
    key = ", ".join(map(quoted, source.key))
    query = f"""
        select {PARTITION_COLUMN}, sum(n - 1)::bigint, min(row({key})), any_value(file)
        from (select {PARTITION_COLUMN}, {key}, count(*) as n, max(file) as file from {TABLE}
              where uncast is null group by all having count(*) > 1)
        group by all
    """
    for partition, rows, first, file in connection.execute(query).fetchall():
        named = ", ".join(f"{name}={value}" for name, value in zip(source.key, first, strict=True))
        message = f"{rows:,} rows repeat the key of another, the first is {named}"
        how = f"{_DELIVER_AGAIN} with one row per {', '.join(source.key)}"
        yield Problem("unique_key", partition, message, how, file, source.key[0])


def _empty(source: Source, rows: Mapping[str, int], problems: Iterable[Problem]) -> _Problems:
    refused = {problem.partition for problem in problems}
    for partition, count in rows.items():
        if not count and not source.may_be_empty and partition not in refused:
            how = f"{_DELIVER_AGAIN}, or declare may_be_empty=True if the source has such partitions"
            yield Problem("not_empty", partition, "the files hold no rows", how)


def _together_or_alone(
    connection: duckdb.DuckDBPyConnection, statement: str, files: Sequence[_File]
) -> Iterator[tuple[Sequence[_File], list[tuple[Any, ...]] | DamagedFileError]]:
    """Run `statement` over all files at once; if it fails, over each alone, so that the bad are known."""
    try:
        answer = connection.execute(statement, {"paths": [str(file.path) for file in files]}).fetchall()
    except _FAULTS_OF_A_FILE as error:
        if "no space left" in str(error).lower():
            raise
        if len(files) == 1:
            yield files, DamagedFileError(f"it cannot be read ({_first_line(error)})")
            return
    else:
        yield files, answer
        return
    for file in files:
        yield from _together_or_alone(connection, statement, [file])


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def quoted(identifier: str) -> str:
    """An identifier for use in SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _texts(values: Iterable[str]) -> str:
    return f"({', '.join(map(_text, values)) or 'NULL'})"
