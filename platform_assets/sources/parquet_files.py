"""Reading Parquet files: columns by their physical types, values as they are.

Belongs here: what is special to Parquet. Not here: text (`csv_files.py`, `json_files.py`), and what the values must
be among each other (`validation.py`).
"""

import mmap
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from platform_assets.sources.declaration import Column
from platform_assets.sources.forms import (
    AS_DECLARED,
    DELIVER_AGAIN,
    DeliveredFile,
    Fault,
    Form,
    Found,
    first_line,
    name_faults,
    together_or_alone,
    unreadable,
)
from platform_assets.sources.text_files import DamagedFileError
from resources.engine import connect, literal, quoted
from resources.environment import Limits

Kinds = tuple[tuple[str, str], ...]
"""Name and DuckDB's type of each column of a file, in the file's order."""

_NULL = '"NULL"'
_EQUIVALENTS: Mapping[str, tuple[str, ...]] = {
    "TIMESTAMP": ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"),
}
_WORDS = {"LIST": "a list (LIST)", "MAP": "a map (MAP)", "STRUCT": "a struct of several values (STRUCT)"}
_WIDTH_BYTES = 8


def count_rows(file: Path, limits: Limits) -> int:
    """Rows of a file by its footer, after making sure that reading it takes no more than `limits` allow.

    A page says how large it is once decompressed, and a value that many rows share is written once: a file of 1 MB
    can hold more than a machine does.

    Raises:
        DamagedFileError: the footer or a page's header cannot be read, or a limit is exceeded.
    """
    try:
        footer = pq.read_metadata(file)
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            open_bytes, largest = _page_bytes(footer, content)
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedFileError(f"its Parquet footer cannot be read ({first_line(error)})") from error
    except IndexError as error:
        raise DamagedFileError("its Parquet pages are not where its footer says") from error
    if open_bytes > limits.page_bytes:
        raise DamagedFileError(
            f"its pages take {open_bytes:,} bytes at once when they are decompressed, and {limits.page_bytes:,} are "
            "allowed; write smaller pages and row groups, or raise HEADWATER_OPEN_PAGES"
        )
    rows = int(footer.num_rows)
    held = rows * footer.num_columns * _WIDTH_BYTES
    if held <= limits.file_bytes and (largest > limits.line_bytes or rows * largest > limits.file_bytes):
        longest, texts = _text_bytes(file)
        if longest > limits.line_bytes:
            raise DamagedFileError(
                f"a value of {longest:,} bytes is longer than {limits.line_bytes:,}; raise HEADWATER_LONGEST_LINE"
            )
        held += texts
    if held > limits.file_bytes:
        raise DamagedFileError(
            f"its {rows:,} rows hold {held:,} bytes, and {limits.file_bytes:,} are allowed; deliver them in smaller "
            "files, or raise HEADWATER_LARGEST_FILE"
        )
    return rows


class ParquetForm(Form):
    """Parquet files; those whose columns have the same physical types are read together."""

    def column_faults(self, files: Sequence[DeliveredFile]) -> Iterator[tuple[DeliveredFile, Fault]]:
        """Names and types, by the footers."""
        for file, kinds in self._columns(files):
            if isinstance(kinds, DamagedFileError):
                yield file, unreadable(kinds)
            else:
                yield from ((file, fault) for fault in self._faults(file, kinds))

    def groups(self, files: Sequence[DeliveredFile]) -> Mapping[Kinds, Sequence[DeliveredFile]]:
        """The files by their columns and types."""
        found: dict[Kinds, list[DeliveredFile]] = defaultdict(list)
        for file, kinds in self._columns(files):
            if not isinstance(kinds, DamagedFileError):
                found[kinds].append(file)
        return found

    def held(self, group: Kinds) -> Mapping[str, str]:
        """The columns that have a type; one of type NULL has no values."""
        return {name: quoted(name) for name, kind in group if kind != _NULL}

    def reader(self, group: Kinds, filename: str) -> str:
        """Every column is of its physical type."""
        return f"read_parquet($paths, filename = {literal(filename)}, hive_partitioning = false)"

    def parsed(self, group: Kinds, column: Column, value: str) -> str:
        """The value itself, unless it is not finite or finer than the lake stores it."""
        if column.type == "DOUBLE":
            return value if column.allow_nan else f"case when isfinite({value}) then {value} end"
        if dict(group)[column.name] == "TIMESTAMP_NS":
            return f"case when isfinite({value}) and epoch_ns({value}) % 1000 = 0 then {value}::TIMESTAMP end"
        if column.type in ("DATE", "TIMESTAMP"):
            return f"case when isfinite({value}) then {value}::{column.type} end"
        return value

    def refusal(self, column: Column, value: str) -> str:
        """What the value is, or is not."""
        if column.type == "DOUBLE":
            return f"{value} is no number; NaN and infinities need Column(…, allow_nan=True)"
        if column.type == "TIMESTAMP" and value[:1].isdigit():
            return f"{value} is finer than a microsecond"
        return f"{value} is no {column.type}"

    def locate(self, file: DeliveredFile, column: Column, condition: str) -> Found | None:
        """The first row, counted from 1."""
        # One thread reads the rows in their order.
        query = (
            f"select n, v::varchar from (select row_number() over () as n, {quoted(column.name)} as v "
            f"from read_parquet($paths, hive_partitioning = false)) where {condition} limit 1"
        )
        with connect(config={"threads": 1}) as connection:
            found = connection.execute(query, {"paths": [file.link]}).fetchone()
        return Found(f"row {found[0]:,}", found[1]) if found else None

    def explained(self, file: DeliveredFile) -> str:
        """Nothing: the file has said it all."""
        return ""

    def _faults(self, file: DeliveredFile, kinds: Kinds) -> Iterator[Fault]:
        names = [name for name, _ in kinds]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            message = f"it has the column {', '.join(map(repr, repeated))} more than once"
            yield Fault("columns", message, DELIVER_AGAIN, repeated[0])
            return
        yield from name_faults(self.source, names)
        declared = {column.name: column for column in self.source.columns}
        for column, kind in ((declared[name], kind) for name, kind in kinds if name in declared):
            if kind == _NULL and not column.nullable and file.rows:
                message = f"column {column.name!r} is of type NULL, without any value, but is not declared nullable"
                yield Fault("not_null", message, AS_DECLARED, column.name)
            elif kind != _NULL and kind not in _EQUIVALENTS.get(column.type, (column.type,)):
                message = f"column {column.name!r} is {_WORDS.get(kind, kind)}, declared {column.type}"
                yield Fault("columns", message, AS_DECLARED, column.name)

    def _columns(self, files: Sequence[DeliveredFile]) -> Iterator[tuple[DeliveredFile, Kinds | DamagedFileError]]:
        query = (
            "select file_name, list({'name': name, 'children': num_children, 'type': duckdb_type, "
            "'logical': logical_type} order by column_id) from parquet_schema($paths) group by file_name"
        )
        for together, answer in together_or_alone(self.connection, query, files) if files else ():
            if isinstance(answer, DamagedFileError):
                yield together[0], answer
                continue
            found = dict(answer)
            for file in together:
                # The first element of a schema is its root.
                yield file, tuple(_top_level(found[file.link][1:]))


def _top_level(elements: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    below = 0  # elements of the column before, which are listed depth first
    for element in elements:
        if not below:
            nested = str(element["logical"] or "").removesuffix("Type()").upper() or "STRUCT"
            yield element["name"], element["type"] or nested
        else:
            below -= 1
        below += element["children"] or 0


def _text_bytes(file: Path) -> tuple[int, int]:
    """Length of the longest text of a file, and of all together, in bytes; shared values are not written out."""
    schema = pq.ParquetFile(file).schema
    texts = [column.path for column in map(schema.column, range(len(schema))) if column.physical_type == "BYTE_ARRAY"]
    longest = together = 0
    with pq.ParquetFile(file, read_dictionary=texts) as content:
        for batch in content.iter_batches(columns=texts) if texts else ():
            for column in batch.columns:
                if pa.types.is_dictionary(column.type):
                    lengths = pc.binary_length(column.dictionary).take(column.indices)
                    longest = max(longest, pc.max(lengths).as_py() or 0)
                    together += pc.sum(lengths.cast(pa.int64())).as_py() or 0
    return longest, together


def _page_bytes(footer: pq.FileMetaData, content: mmap.mmap) -> tuple[int, int]:
    """The most that the pages take that are open at once, one data page and the dictionary of each column of a row
    group, and the size of the largest page; in bytes, decompressed.
    """
    most = largest = 0
    for group in range(footer.num_row_groups):
        together = 0
        for at in range(footer.num_columns):
            chunk = footer.row_group(group).column(at)
            if not chunk.num_values:
                continue  # it has no pages
            begin = chunk.dictionary_page_offset or chunk.data_page_offset
            begin = min(begin, chunk.data_page_offset)
            dictionary, data = _chunk_pages(content, begin, begin + chunk.total_compressed_size)
            together += dictionary + data
            largest = max(largest, dictionary, data)
        most = max(most, together)
    return most, largest


def _chunk_pages(content: mmap.mmap, begin: int, end: int) -> tuple[int, int]:
    """The size of the dictionary and of the largest data page of a column chunk; 0 for none."""
    dictionary = data = 0
    while begin < end:
        header = _Header(content, begin)
        if header.kind == _Header.DICTIONARY:
            dictionary = max(dictionary, header.uncompressed_bytes)
        else:
            data = max(data, header.uncompressed_bytes)
        begin = header.end + header.compressed_bytes
    return dictionary, data


class _Header:
    """The header of a page, in Thrift's compact protocol; pyarrow and DuckDB do not show it.

    https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
    """

    DICTIONARY = 2

    def __init__(self, content: mmap.mmap, begin: int) -> None:
        self._content, self.end = content, begin
        self._fields: dict[int, int] = {}
        self._struct(self._fields)
        self.kind, self.uncompressed_bytes, self.compressed_bytes = (self._fields.get(at, -1) for at in (1, 2, 3))
        if min(self._fields.get(2, -1), self._fields.get(3, -1)) < 0:
            raise IndexError("no sizes in the header of a page")

    def _byte(self) -> int:
        self.end += 1
        return self._content[self.end - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def _struct(self, numbers: dict[int, int] | None = None) -> None:
        field = 0
        while byte := self._byte():
            field = field + (byte >> 4) if byte >> 4 else self._zigzag()
            if numbers is not None and byte & 0x0F == 5:
                numbers[field] = self._zigzag()
            else:
                self._skip(byte & 0x0F)

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, kind: int) -> None:
        if kind == 3:
            self.end += 1
        elif kind in (4, 5, 6):
            self._varint()
        elif kind == 7:
            self.end += 8
        elif kind == 8:
            size = self._varint()
            self.end += size
        elif kind == 12:
            self._struct()
        elif kind not in (1, 2):  # booleans are told by their kind
            raise IndexError("an unknown field in the header of a page")
