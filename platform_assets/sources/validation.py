"""Inspection of deliveries: files are read into a candidate, and each way they are not as declared is named.

Belongs here: reading files and checking them against the declaration of their source, with DuckDB. Not here: the
formats (`csv_files.py`, `json_files.py`, `parquet_files.py`), the grammar of values (`values.py`), the expectations
about values (`expectations.py`), and storing what was accepted (`assets.py`).

 A candidate is a DuckDB file. What was inspected is what is judged and stored, even when a delivery is
replaced meanwhile; and each file is parsed once, for one partition as for a year of them.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from platform_assets.sources.clocks import skipped_hours
from platform_assets.sources.csv_files import CsvForm
from platform_assets.sources.declaration import PARTITION_COLUMN, FileFormat, Source
from platform_assets.sources.forms import (
    AS_DECLARED,
    DELIVER_AGAIN,
    IGNORED,
    DeliveredFile,
    Fault,
    Form,
    first_line,
    free_name,
    together_or_alone,
    unreadable,
)
from platform_assets.sources.json_files import JsonForm
from platform_assets.sources.landing import MARKER, Delivery, Fingerprint, fingerprint, look
from platform_assets.sources.parquet_files import ParquetForm
from platform_assets.sources.text_files import DamagedFileError
from resources.engine import connect, literal, quoted
from resources.environment import DEFAULT_LIMITS, Limits

TABLE = "delivered"

_FORMS: Mapping[FileFormat, type[Form]] = {"csv": CsvForm, "jsonl": JsonForm, "parquet": ParquetForm}
_OR_AGAIN = DELIVER_AGAIN[0].lower() + DELIVER_AGAIN[1:]


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
    """The rows of some partitions, read and inspected, in a DuckDB file; a refused partition has problems.

    `ignored` are the columns by partition that its files have and the source neither declares nor refuses.
    """

    source: Source
    database: Path
    partitions: tuple[str, ...]
    deliveries: Mapping[str, Delivery]
    fingerprints: Mapping[str, Fingerprint]
    rows: Mapping[str, int]
    problems: tuple[Problem, ...]
    ignored: Mapping[str, frozenset[str]] = field(default_factory=dict)

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
        connection.execute(f"attach if not exists {literal(str(self.database))} as candidate (read_only)")
        columns = [column.stored_name for column in self.source.columns]
        if self.source.partitions:
            columns.insert(0, PARTITION_COLUMN)
        return connection.sql(
            f"select {', '.join(map(quoted, columns))} from candidate.{TABLE} "
            f"where {PARTITION_COLUMN} in ({', '.join(map(literal, self.accepted)) or 'NULL'})"
        )


_Problems = Iterator[Problem]
_Faults = Iterator[tuple[DeliveredFile, Fault]]


def inspect(
    source: Source,
    root: Path,
    partitions: Sequence[str],
    database: Path,
    memory: str = "1500MB",
    threads: int = 2,
    limits: Limits = DEFAULT_LIMITS,
) -> Candidate:
    """Read `partitions` of `source` from the landing zone `root` into a new `database`, and check them.

    A partition is refused as a whole, and alone: the others go on.

    Raises:
        CandidateError: the candidate cannot be written (a full disk, say), which is no fault of a delivery.
    """
    found = {partition: look(source, root, partition) for partition in partitions}
    deliveries = {partition: delivery for partition, delivery in found.items() if delivery}
    with ThreadPoolExecutor(threads) as pool:
        read = pool.map(partial(fingerprint, source, limits=limits), deliveries.values())
        fingerprints = dict(zip(deliveries, read, strict=True))
    problems = list(_undelivered(source, root, found))
    problems.extend(_damaged(fingerprints, problems))
    try:
        with opened(database, memory, threads) as connection:
            files = _linked(deliveries, fingerprints, database.with_suffix(".files"), problems)
            form = _FORMS[source.file_format](connection, source, limits)
            unlike = list(_problems(form.column_faults(files) if files else ()))
            problems.extend(problem for problem in unlike if problem.rule != IGNORED)
            refused = {problem.partition for problem in problems}
            table = _Table(form, [file for file in files if file.partition not in refused])
            for rule in (table.load, table.uncast, table.incomplete, table.skipped, table.outside, table.repeated):
                problems.extend(_problems(rule()))
            counted = f"select {PARTITION_COLUMN}, count(*) from {TABLE} group by all"
            rows = dict.fromkeys(deliveries, 0) | dict(connection.execute(counted).fetchall())
    except duckdb.OperationalError as error:
        raise CandidateError(
            f"source {source.name}: {len(partitions)} partitions, {partitions[0]} to {partitions[-1]}, "
            f"cannot be read into {database.parent} ({first_line(error)}); free space there or point TMPDIR "
            "elsewhere, then run again. What was stored before is intact."
        ) from error
    problems.extend(_empty(source, rows, problems))
    ordered = tuple(sorted(problems, key=lambda problem: (problem.partition, problem.file)))
    ignored = {
        partition: frozenset(one.column for one in unlike if (one.rule, one.partition) == (IGNORED, partition))
        for partition in partitions
    }
    return Candidate(source, database, tuple(partitions), deliveries, fingerprints, rows, ordered, ignored)


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
    with connect(str(database), settings) as connection:
        yield connection


class _Table:
    """The candidate's table of rows: filled from the files, and judged by what every delivery must hold.

    Its own columns are the partition, the file (its place in `files`), and the name of the first column of a row
    whose value is not of its type.
    """

    def __init__(self, form: Form, files: Sequence[DeliveredFile]) -> None:
        self._form, self._source, self._connection = form, form.source, form.connection
        self._files = files
        self._groups: Mapping[Any, Sequence[DeliveredFile]] = {}
        stored = [PARTITION_COLUMN, *(column.stored_name for column in form.source.columns)]
        self._file, self._uncast = free_name("file", stored), free_name("uncast", stored)

    def load(self) -> _Faults:
        """Read the files; one that cannot be read is named, the others are in the table."""
        columns = ", ".join(f"{quoted(column.stored_name)} {column.type}" for column in self._source.columns)
        self._connection.execute(
            f"create table {TABLE} ({PARTITION_COLUMN} varchar, {self._file} int, {columns}, {self._uncast} varchar)"
        )
        self._connection.execute("create temp table listed (link varchar, partition varchar, file int)")
        self._connection.execute(
            "insert into listed select unnest($links), unnest($partitions), unnest(range(len($links)))::int",
            {"links": [file.link for file in self._files], "partitions": [file.partition for file in self._files]},
        )
        self._groups = self._form.groups(self._files)
        unreadable_files = set()
        for group, files in self._groups.items():
            for together, answer in together_or_alone(self._connection, self._insertion(group), files):
                if isinstance(answer, DamagedFileError):
                    unreadable_files.add(together[0])
                    explained = self._form.explained(together[0])
                    yield together[0], unreadable(DamagedFileError(explained) if explained else answer)
        yield from self._lost_rows(unreadable_files)

    def uncast(self) -> _Faults:
        """Values that are not of their column's type."""
        query = (
            f"select {self._file}, {self._uncast}, count(*) from {TABLE} where {self._uncast} is not null group by all"
        )
        columns = {column.name: column for column in self._source.columns}
        for at, name, rows in self._connection.execute(query).fetchall():
            file, column = self._files[at], columns[name]
            (group,) = (group for group, files in self._groups.items() if file in files)
            lost = f"v is not null and ({self._form.parsed(group, column, 'v')}) is null"
            found = self._form.locate(file, column, lost)
            if found is None or found.value is None:
                message = f"column {name!r} holds what is no {column.type}"
            else:
                message = f"{found.place}, column {name!r}: {self._form.refusal(column, found.value)}"
            yield file, Fault("columns", f"{message}; {rows:,} rows have such a value", AS_DECLARED, name)

    def incomplete(self) -> _Faults:
        """Values that are missing where the column is not nullable."""
        required = [column for column in self._source.columns if not column.nullable]
        if not required:
            return
        counts = ", ".join(f"count(*) - count({quoted(column.stored_name)})" for column in required)
        # A value that could not be cast has been named already.
        query = f"select {self._file}, {counts} from {TABLE} where {self._uncast} is null group by all"
        for at, *missing in self._connection.execute(query).fetchall():
            for column, rows in zip(required, missing, strict=True):
                if rows:
                    found = self._form.locate(self._files[at], column, "v is null")
                    where = f" (first: {found.place})" if found else ""
                    message = (
                        f"column {column.name!r} has no value in {rows:,} rows{where}, but is not declared nullable"
                    )
                    yield self._files[at], Fault("not_null", message, AS_DECLARED, column.name)

    def skipped(self) -> _Faults:
        """Times that no clock of the column's zone has shown, because it was put forward over them."""
        for column in self._source.columns:
            zone, name = self._source.zone_of(column), quoted(column.stored_name)
            if column.type != "TIMESTAMP" or not zone:
                continue
            first, last = self._connection.execute(f"select min({name}), max({name}) from {TABLE}").fetchone() or (0, 0)
            for start, end in skipped_hours(zone, first, last) if first and last else ():
                query = (
                    f"select {self._file}, min({name}), count(*) from {TABLE} "
                    f"where {name} >= $start and {name} < $end group by all"
                )
                for at, value, rows in self._connection.execute(query, {"start": start, "end": end}).fetchall():
                    message = (
                        f"column {column.name!r}: {value} does not exist in {zone}, whose clocks skip it; {rows:,} rows"
                    )
                    how = f"Correct the time zone that the source declares, or {_OR_AGAIN}"
                    yield self._files[at], Fault("columns", f"{message} have such a time", how, column.name)

    def outside(self) -> _Faults:
        """Rows whose event time is not in the partition, by the calendar of the team."""
        if self._source.event_time is None or not self._files:
            return
        partitions = sorted({file.partition for file in self._files})
        bounds = {partition: self._source.event_bounds(partition) for partition in partitions}
        # The expression stands alone with the source's columns, whatever they are called.
        query = f"""
            with moments as (
                select ({self._source.event_time.expression}) as moment, {PARTITION_COLUMN} as partition,
                       {self._file} as file, {quoted(self._source.event_time.column)} as shown
                from {TABLE}
            ), bounds as (
                select unnest($partitions) as partition, unnest($starts) as begins, unnest($ends) as ends
            )
            select file, count(*), min(shown) from moments join bounds using (partition)
            where moment < begins or moment >= ends group by file
        """
        given = {
            "partitions": partitions,
            "starts": [bounds[partition][0] for partition in partitions],
            "ends": [bounds[partition][1] for partition in partitions],
        }
        column, zone = self._source.event_time.column, self._source.event_time.zone
        for at, rows, first in self._connection.execute(query, given).fetchall():
            start, end = bounds[self._files[at].partition]
            message = (
                f"{rows:,} rows are outside the partition: column {column!r} is {first} in the first of them, "
                f"the partition holds {start} to {end} {zone}"
            )
            how = f"{DELIVER_AGAIN} with its own rows; if all are shifted, check the time zone of {column!r}"
            yield self._files[at], Fault("in_partition", message, how, column)

    def repeated(self) -> _Faults:
        """Rows of a partition that have the key of another."""
        if not self._source.key:
            return
        key = ", ".join(map(quoted, self._source.key))
        query = f"""
            select any_value(file), sum(n - 1)::bigint, min(first)
            from (select {PARTITION_COLUMN} as partition, max({self._file}) as file, count(*) as n,
                         row({key}) as first
                  from {TABLE} where {self._uncast} is null group by {PARTITION_COLUMN}, {key} having count(*) > 1)
            group by partition
        """
        for at, rows, first in self._connection.execute(query).fetchall():
            named = ", ".join(f"{name}={value}" for name, value in zip(self._source.key, first, strict=True))
            message = f"{rows:,} rows repeat the key of another, the first is {named}"
            how = f"{DELIVER_AGAIN} with one row per {', '.join(self._source.key)}"
            yield self._files[at], Fault("unique_key", message, how, self._source.key[0])

    def _insertion(self, group: Any) -> str:
        """The statement that reads `$paths`, files of `group`. Columns of files go by number: v1 is text, t1 typed."""
        held = self._form.held(group)
        filename = free_name("source_path", held)
        raw, typed, stored, lost = [f"{quoted(filename)} as link"], [], [], []
        for number, column in enumerate(self._source.columns):
            if column.name not in held:
                stored.append("null")
                continue
            parsed = self._form.parsed(group, column, f"v{number}")
            raw.append(f"{held[column.name]} as v{number}")
            typed.append(f"{parsed} as t{number}")
            stored.append(f"t{number}")
            if parsed != f"v{number}":
                lost.append(f"when t{number} is null and v{number} is not null then {literal(column.name)}")
        first_lost = f"case {' '.join(lost)} end" if lost else "null"
        return (
            f"insert into {TABLE} select partition, file, {', '.join(stored)}, {first_lost} "
            f"from (select *, {', '.join(typed or ['null'])} from (select {', '.join(raw)} "
            f"from {self._form.reader(group, filename)})) join listed using (link)"
        )

    def _lost_rows(self, known: Container[DeliveredFile]) -> _Faults:
        """Files of which DuckDB has read another number of rows than was counted without it."""
        read = dict(self._connection.execute(f"select {self._file}, count(*) from {TABLE} group by all").fetchall())
        for at, file in enumerate(self._files):
            if read.get(at, 0) != file.rows and file not in known:
                message = f"{file.rows:,} rows were counted in it, and {read.get(at, 0):,} were read"
                yield file, Fault("readable", self._form.explained(file) or message, DELIVER_AGAIN)


def _problems(faults: Iterable[tuple[DeliveredFile, Fault]]) -> _Problems:
    for file, fault in faults:
        yield Problem(fault.rule, file.partition, fault.message, fault.how_to_fix, file.path.name, fault.column)


def _linked(
    deliveries: Mapping[str, Delivery], fingerprints: Mapping[str, Fingerprint], folder: Path, problems: list[Problem]
) -> list[DeliveredFile]:
    """The files of partitions without a problem, each by a link beside the candidate that DuckDB can be given.

    DuckDB takes a path with an asterisk or brackets for a pattern, and none that is not UTF-8.
    """
    refused = {problem.partition for problem in problems}
    folder.mkdir(exist_ok=True)
    files: list[DeliveredFile] = []
    for partition, delivery in deliveries.items():
        for path in delivery.files if partition not in refused else ():
            link = folder / f"{len(files)}{''.join(path.suffixes[-2:])}"
            link.symlink_to(path.absolute())
            files.append(DeliveredFile(partition, path, str(link), fingerprints[partition].rows_of_files[path]))
    return files


def _undelivered(source: Source, root: Path, found: Mapping[str, Delivery | None]) -> _Problems:
    for partition, delivery in found.items():
        folder = source.partition_dir(root, partition)
        if delivery is None and not folder.exists():
            yield Problem("delivered", partition, f"{folder} does not exist", DELIVER_AGAIN)
        elif delivery is None:
            yield Problem(
                "delivered",
                partition,
                f"{folder} has no {MARKER}, so the delivery is unfinished",
                f"Wait for the upstream system, or have it write {MARKER} after the last file",
            )
        elif unread := delivery.faults.keys() - set(delivery.files):
            for path in unread:
                message = f"{path} cannot be read: {delivery.faults[path]}"
                yield Problem("readable", partition, message, "Make it readable, then deliver the partition again")
        elif not delivery.files:
            yield Problem("delivered", partition, f"{folder} holds no files", DELIVER_AGAIN)
        else:
            for path in delivery.files:
                if not path.name.endswith(source.extension):
                    message = f"it is not a {source.extension} file, which the source declares"
                    yield Problem("delivered", partition, message, AS_DECLARED, path.name)


def _damaged(fingerprints: Mapping[str, Fingerprint], problems: Sequence[Problem]) -> list[Problem]:
    refused = {problem.partition for problem in problems}
    return [
        Problem("readable", partition, message, DELIVER_AGAIN, path.name)
        for partition, found in fingerprints.items()
        if partition not in refused
        for path, message in found.damages.items()
    ]


def _empty(source: Source, rows: Mapping[str, int], problems: Iterable[Problem]) -> _Problems:
    refused = {problem.partition for problem in problems}
    for partition, count in rows.items():
        if not count and not source.may_be_empty and partition not in refused:
            how = f"{DELIVER_AGAIN}, or declare may_be_empty=True if the source has such partitions"
            yield Problem("not_empty", partition, "the files hold no rows", how)
