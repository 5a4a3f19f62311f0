"""What the formats of files have in common: what a reader of one must be able to do, and the faults that it finds.

Belongs here: the words and steps that all formats share. Not here: the formats (`csv_files.py`, `json_files.py`,
`parquet_files.py`), and what becomes of a fault (`validation.py`).
"""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from platform_assets.sources import values
from platform_assets.sources.declaration import Column, Source
from platform_assets.sources.text_files import DamagedFileError
from resources.engine import connect
from resources.environment import Limits

DELIVER_AGAIN = "Have the upstream system deliver the partition again"
AS_DECLARED = f"{DELIVER_AGAIN} as declared, or change the declaration of the source"

IGNORED = "ignored"
"""Rule of what is no problem and is said: a column that is not declared, of a source that ignores such."""

OF_A_FILE = (
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.IOException,
    duckdb.NotImplementedException,
    duckdb.OutOfRangeException,
    duckdb.SerializationException,
)
"""What DuckDB raises for the content of a file."""


@dataclass(frozen=True)
class DeliveredFile:
    """A file of a partition. DuckDB reads it by `link`, a name that it takes for no pattern; it has `rows`."""

    partition: str
    path: Path
    link: str
    rows: int


@dataclass(frozen=True)
class Fault:
    """One reason why a file is refused."""

    rule: str
    message: str
    how_to_fix: str
    column: str = ""


@dataclass(frozen=True)
class Found:
    """Where a value stands in a file, and the value: `line 7`, `5e-1`."""

    place: str
    value: str | None


class Form(ABC):
    """The reader of the files of one source. A group is a key and the files that one statement reads together."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, source: Source, limits: Limits) -> None:
        self.connection, self.source, self.limits = connection, source, limits

    @abstractmethod
    def column_faults(self, files: Sequence[DeliveredFile]) -> Iterator[tuple[DeliveredFile, Fault]]:
        """Names and types of columns that are not as declared, as far as they are told without reading values."""

    @abstractmethod
    def groups(self, files: Sequence[DeliveredFile]) -> Mapping[Any, Sequence[DeliveredFile]]:
        """The files by group."""

    @abstractmethod
    def held(self, group: Any) -> Mapping[str, str]:
        """The columns that the files of a group have, each with the SQL by which `reader` gives it."""

    @abstractmethod
    def reader(self, group: Any, filename: str) -> str:
        """SQL of the table function that reads `$paths` of a group, and the path of each row as column `filename`."""

    @abstractmethod
    def locate(self, file: DeliveredFile, column: Column, condition: str) -> Found | None:
        """Where `condition` (SQL over the column's value `v` as the file has it) holds for the first time."""

    @abstractmethod
    def explained(self, file: DeliveredFile) -> str:
        """Why DuckDB cannot read a file, or not all of its rows, in words; empty if it cannot be told."""

    def parsed(self, group: Any, column: Column, value: str) -> str:
        """SQL of the column's value that the SQL `value`, as the file has it, is; NULL if it is none."""
        return values.parsed(column, self.source.zone_of(column), value)

    def refusal(self, column: Column, value: str) -> str:
        """Why `value` is none of the column's, in words."""
        return values.refusal(column, self.source.zone_of(column), value)


def unreadable(error: Exception) -> Fault:
    """The fault of a file that cannot be read."""
    return Fault("readable", str(error), DELIVER_AGAIN)


def name_faults(source: Source, names: Sequence[str]) -> Iterator[Fault]:
    """How the columns of a file differ from those declared: missing, undeclared, or hardly to be told apart.

    A file may lack a nullable column: it has no values then.
    """
    declared = {column.name: column for column in source.columns}
    undeclared = [name for name in names if name not in declared]
    for column in source.columns:
        if column.name in names:
            continue
        alike = [name for name in undeclared if _normalised(name) == _normalised(column.name)]
        if alike:
            undeclared.remove(alike[0])
            message = (
                f"column {column.name!r} is delivered as {alike[0]!r}, which looks alike and is another name "
                f"({_differing(alike[0])} where {_differing(column.name)} is declared)"
            )
            yield Fault("columns", message, AS_DECLARED, column.name)
        elif not column.nullable:
            message = f"column {column.name!r} ({column.type}) is missing"
            yield Fault("columns", message, AS_DECLARED, column.name)
    rule = IGNORED if source.undeclared_columns == "ignore" else "columns"
    for name in undeclared:
        yield Fault(rule, f"column {name!r} is not declared", AS_DECLARED, name)


def free_name(wanted: str, names: Iterable[str]) -> str:
    """`wanted`, or the like, as no column of `names` is called."""
    taken = {name.lower() for name in names}
    while wanted in taken:
        wanted += "_"
    return wanted


def together_or_alone(
    connection: duckdb.DuckDBPyConnection, statement: str, files: Sequence[DeliveredFile]
) -> Iterator[tuple[Sequence[DeliveredFile], list[tuple[Any, ...]] | DamagedFileError]]:
    """Run `statement` over all files at once; if it fails, over each alone, so that the bad are known."""
    try:
        answer = connection.execute(statement, {"paths": [file.link for file in files]}).fetchall()
    except OF_A_FILE as error:
        if "no space left" in str(error).lower():
            raise
        if len(files) == 1:
            yield files, DamagedFileError(f"it cannot be read ({first_line(error)})")
            return
    else:
        yield files, answer
        return
    for file in files:
        yield from together_or_alone(connection, statement, [file])


def first_found(
    rows: Iterator[tuple[int, str | None]], value: str, condition: str, place: str = "line", batch: int = 20_000
) -> Found | None:
    """The first of `rows` (number, text) of which `condition` holds, SQL over `v`, the SQL `value` of a text `t`."""
    query = (
        f"select n, v from (select n, {value} as v from (select unnest($numbers) as n, unnest($texts)::varchar as t)) "
        f"where {condition} order by n limit 1"
    )
    with connect(config={"threads": 1}) as connection:
        for numbers, texts in _batches(rows, batch):
            found = connection.execute(query, {"numbers": numbers, "texts": texts}).fetchone()
            if found:
                return Found(f"{place} {found[0]:,}", found[1])
    return None


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().split("\n", 1)[0]


def shortened(value: str) -> str:
    """A value for a message: its first hundred characters."""
    return value if len(value) <= 100 else f"{value[:100]}…"


def _batches(rows: Iterator[tuple[int, str | None]], most: int) -> Iterator[tuple[list[int], list[str | None]]]:
    numbers: list[int] = []
    texts: list[str | None] = []
    held = 0
    for number, text in rows:
        numbers.append(number)
        texts.append(text)
        held += len(text or "")
        if len(numbers) == most or held > 16_000_000:
            yield numbers, texts
            numbers, texts, held = [], [], 0
    if numbers:
        yield numbers, texts


def _normalised(name: str) -> str:
    visible = (char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    return "".join(visible).strip().casefold()


def _differing(name: str) -> str:
    """The characters of a name that are no plain lower-case ones, by their code points; all if there are none."""
    strange = [char for char in name if not (char.isascii() and char.isprintable() and char != " ")]
    return " ".join(f"U+{ord(char):04X}" for char in strange) if strange else repr(name)
