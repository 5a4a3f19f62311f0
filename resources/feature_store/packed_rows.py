"""One packed row for each entity and feature view: what the online stores keep.

Belongs here: the binary layout, packing Arrow columns into rows and unpacking rows, one by one or many at once.
Not here: keys (`entity_keys.py`), where rows are kept (`online_rows.py`), what is asked of them (`reader.py`).

Layout, big-endian: event time and created time (microseconds since 1970, UTC), the fingerprint of the schema, a bit for
each column that is null, the end of each column of varying length, the columns of fixed length, and then the bytes of
the others. Both times come first, so that a store can tell which of two rows is newer without knowing the schema.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, cached_property
from hashlib import blake2b
from itertools import pairwise
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

NEVER = -(2**63)
"""The created time of a row that has none: older than every other."""

_LAYOUT = 1
_ROWS_A_CHUNK = 65_536
_TIMES = struct.Struct(">qq")
_PRINT = slice(16, 24)
_HEAD_BYTES = 24
_NO_ELEMENT = 2**32 - 1
_DENSE, _SPARSE = b"\x00", b"\x01"
"""First byte of a list of numbers: whether each element is preceded by a byte that tells if it is there."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_MICROSECOND = timedelta(microseconds=1)

_NUMBERS: Mapping[str, tuple[str, pa.DataType, pa.DataType]] = {
    "int64": ("q", pa.int64(), pa.int64()),
    "float64": ("d", pa.float64(), pa.float64()),
    "float32": ("f", pa.float32(), pa.float32()),
    "bool": ("?", pa.bool_(), pa.uint8()),
    "timestamp": ("q", pa.timestamp("us", tz="UTC"), pa.int64()),
    "date": ("i", pa.date32(), pa.int32()),
}
"""Types of fixed length: how one value is packed, as what it is known to Arrow, and as which number."""

_BLOBS: Mapping[str, pa.DataType] = {
    "string": pa.large_string(),
    "bytes": pa.large_binary(),
    # Bytes that only their writer can read; another type than "bytes", so that neither is taken for the other.
    "opaque": pa.large_binary(),
}

COLUMN_TYPES = (*_NUMBERS, *_BLOBS, *(f"list<{kind}>" for kind in (*_NUMBERS, "string", "bytes")))
"""Every type that a column may have."""

_WIDENINGS = frozenset({("float32", "float64"), ("list<float32>", "list<float64>")})
"""Types of older rows that are read as another without a loss."""

Decode: TypeAlias = Callable[[bytes], tuple[int, Sequence[Any]]]
"""From a row to its event time in microseconds and the values of the columns asked for."""

Declarations: TypeAlias = Callable[[bytes], "str | None"]
"""From the fingerprint of a schema to its declaration, as the store that holds the row remembers it."""


class RowError(ValueError):
    """A row or a column that cannot be packed or unpacked; the message names it and says what to do."""


@dataclass(frozen=True)
class RowSchema:
    """The columns of a packed row, in order: name and type, one of `COLUMN_TYPES`."""

    columns: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        for name, kind in self.columns:
            if kind not in COLUMN_TYPES:
                raise RowError(f"column {name!r} has the type {kind!r}; allowed: {', '.join(COLUMN_TYPES)}")
        if len(dict(self.columns)) < len(self.columns):
            raise RowError(f"a column is declared twice: {', '.join(name for name, _ in self.columns)}")

    @classmethod
    def of(cls, columns: Mapping[str, str]) -> "RowSchema":
        """The schema with `columns`, types by name."""
        return cls(tuple(columns.items()))

    @classmethod
    def parse(cls, declaration: str) -> "RowSchema":
        """The schema that `declaration` describes."""
        return cls(tuple((name, kind) for name, kind in json.loads(declaration)))

    @cached_property
    def declaration(self) -> str:
        """The schema as text; a store keeps it beside the rows, for readers that declare another."""
        return json.dumps(self.columns)

    @cached_property
    def fingerprint(self) -> bytes:
        """Eight bytes that differ between schemas."""
        return blake2b(f"{_LAYOUT}{self.declaration}".encode(), digest_size=8).digest()

    @cached_property
    def _nulls_bytes(self) -> int:
        return (len(self.columns) + 7) // 8

    @cached_property
    def _numbers(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, kind) for name, kind in self.columns if kind in _NUMBERS)

    @cached_property
    def _blobs(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, kind) for name, kind in self.columns if kind not in _NUMBERS)

    @cached_property
    def _fixed(self) -> np.dtype[np.void]:
        """All but the bytes of columns of varying length, as one record."""
        return np.dtype(
            [
                ("event", ">i8"),
                ("created", ">i8"),
                ("print", "S8"),
                ("nulls", "u1", (self._nulls_bytes,)),
                ("ends", ">u4", (len(self._blobs),)),
                *((f"c{at}", _number(kind)) for at, (_, kind) in enumerate(self._numbers)),
            ]
        )

    def pack(
        self, table: pa.Table | pa.RecordBatch, event_times: pa.Array, created_times: pa.Array | None = None
    ) -> list[bytes]:
        """The rows of `table`, packed; it has every column of the schema.

        Raises:
            RowError: a column is missing or holds what its type cannot, or an event time is null.
        """
        if len(event_times) != table.num_rows or event_times.null_count:
            raise RowError("every row needs an event time")
        events = _microseconds(event_times)
        created = np.full(table.num_rows, NEVER) if created_times is None else _microseconds(created_times, NEVER)
        rows: list[bytes] = []
        for begin in range(0, table.num_rows, _ROWS_A_CHUNK):
            chunk = slice(begin, begin + _ROWS_A_CHUNK)
            rows += self._pack(table.slice(begin, _ROWS_A_CHUNK), events[chunk], created[chunk])
        return rows

    def _pack(
        self, table: pa.Table | pa.RecordBatch, events: NDArray[np.int64], created: NDArray[np.int64]
    ) -> list[bytes]:
        count = table.num_rows
        fixed = np.zeros(count, self._fixed)
        fixed["event"], fixed["created"] = events, created
        # Not the field of its own: NumPy takes zeros off the end of a string.
        fixed.view((np.uint8, self._fixed.itemsize))[:, _PRINT] = np.frombuffer(self.fingerprint, np.uint8)
        number, blobs, ends = 0, [], np.zeros(count, np.int64)
        for at, (name, kind) in enumerate(self.columns):
            column = _column(table, name, kind)
            if column.null_count:
                missing = column.is_null().to_numpy(zero_copy_only=False)
                fixed["nulls"][:, at // 8] |= missing.astype(np.uint8) << (at % 8)
            if kind in _NUMBERS:
                fixed[f"c{number}"] = _as_numbers(column, kind)
                number += 1
                continue
            blobs.append(_as_blobs(column, kind))
            ends = ends + pc.binary_length(blobs[-1]).to_numpy(zero_copy_only=False)
            if count and ends.max() >= 2**32:
                raise RowError(f"a row of column {name!r} is larger than 4 GiB")
            fixed["ends"][:, len(blobs) - 1] = ends
        heads, width = fixed.tobytes(), self._fixed.itemsize
        if not blobs:
            return [heads[begin : begin + width] for begin in range(0, count * width, width)]
        whole = _blobs_of(np.arange(count + 1) * width, heads)
        packed: list[bytes] = pc.binary_join_element_wise(whole, *blobs, pa.scalar(b"", pa.large_binary())).to_pylist()
        return packed

    def decoder(self, names: Sequence[str], declarations: Declarations) -> Decode:
        """A function from a row to its event time and the values of the columns `names`, in this order.

        Rows of another schema, whose declaration `declarations` knows, are read by name: a column that they lack is
        null.

        Raises (the function does, not this):
            RowError: the row is damaged, or holds another type than is declared now.
        """
        own, decode = self.fingerprint, _compiled(self, tuple(names))
        older: dict[bytes, Decode] = {}

        def decoded(row: bytes) -> tuple[int, Sequence[Any]]:
            found = row[_PRINT]
            if found == own:
                return decode(row)
            if found not in older:
                older[found] = self._by_name(names, found, declarations)
            return older[found](row)

        return decoded

    def _by_name(self, names: Sequence[str], fingerprint: bytes, declarations: Declarations) -> Decode:
        written = self._written_as(fingerprint, declarations)
        kinds, wanted = dict(written.columns), dict(self.columns)
        there = [name for name in names if name in kinds]
        for name in there:
            if kinds[name] != wanted[name] and (kinds[name], wanted[name]) not in _WIDENINGS:
                raise RowError(
                    f"column {name!r} is declared {wanted[name]}, but an older row holds {kinds[name]}; "
                    "materialize the feature view again"
                )
        decode = _compiled(written, tuple(there))

        def decoded(row: bytes) -> tuple[int, Sequence[Any]]:
            event, values = decode(row)
            found = dict(zip(there, values, strict=True))
            return event, [found.get(name) for name in names]

        return decoded

    def _written_as(self, fingerprint: bytes, declarations: Declarations) -> "RowSchema":
        declaration = declarations(fingerprint) if len(fingerprint) == len(self.fingerprint) else None
        if declaration is None:
            raise RowError(
                f"a row is damaged, or of a schema that its store does not know ({fingerprint.hex()}); "
                "materialize the feature view again"
            )
        return RowSchema.parse(declaration)

    def unpack(
        self, rows: Sequence[bytes], declarations: Declarations
    ) -> tuple[pa.Table, NDArray[np.int64], NDArray[np.int64]]:
        """The columns of many rows, and their event and created times in microseconds.

        Raises:
            RowError: as a function of `decoder` does.
        """
        names = [name for name, _ in self.columns]
        types = [arrow_type(kind) for _, kind in self.columns]
        times = np.frombuffer(b"".join(row[:16] for row in rows), ">i8").reshape(-1, 2).astype(np.int64)
        if all(row[_PRINT] == self.fingerprint for row in rows):
            columns = list(self._unpacked(rows))
        else:
            decode = self.decoder(names, declarations)
            values = list(zip(*(decode(row)[1] for row in rows), strict=True))
            columns = [pa.array(column, kind) for column, kind in zip(values, types, strict=True)]
        return pa.table(columns, schema=pa.schema(zip(names, types, strict=True))), times[:, 0], times[:, 1]

    def _unpacked(self, rows: Sequence[bytes]) -> Iterator[pa.Array]:
        width = self._fixed.itemsize
        try:
            fixed = np.frombuffer(b"".join(row[:width] for row in rows), self._fixed)
        except ValueError as error:
            raise RowError("a row is damaged; materialize the feature view again") from error
        ends = np.hstack([np.zeros((len(rows), 1), np.int64), fixed["ends"].astype(np.int64)]) + width
        number = blob = 0
        for at, (_, kind) in enumerate(self.columns):
            missing = (fixed["nulls"][:, at // 8] >> (at % 8) & 1).astype(bool)
            if kind in _NUMBERS:
                _, arrow, stored = _NUMBERS[kind]
                native = fixed[f"c{number}"]
                yield pa.array(native.astype(native.dtype.newbyteorder("=")), stored, mask=missing).cast(arrow)
                number += 1
                continue
            spans = zip(rows, ends[:, blob].tolist(), ends[:, blob + 1].tolist(), strict=True)
            found = [row[begin:end] for row, begin, end in spans]
            blob += 1
            if kind in _BLOBS:
                yield pa.array(found, pa.large_binary(), mask=missing).cast(_BLOBS[kind])
            else:
                read = _list_reader(kind.removeprefix("list<")[:-1])
                lists = [None if gone else read(data) for data, gone in zip(found, missing.tolist(), strict=True)]
                yield pa.array(lists, arrow_type(kind))


def times_of(row: bytes) -> tuple[int, int]:
    """Event and created time of a row in microseconds; the later pair belongs to the newer row."""
    event, created = _TIMES.unpack_from(row)
    return event, created


def microseconds_of(moment: datetime) -> int:
    """Microseconds since 1970; a moment without a zone is UTC."""
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def moment_of(microseconds: int) -> datetime:
    """The moment, in UTC, that is `microseconds` after the beginning of 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)


def arrow_type(kind: str) -> pa.DataType:
    """The Arrow type of a column whose type is `kind`."""
    if kind in _NUMBERS:
        return _NUMBERS[kind][1]
    if kind in _BLOBS:
        return _BLOBS[kind]
    return pa.large_list(arrow_type(kind.removeprefix("list<")[:-1]))


def _number(kind: str) -> np.dtype[Any]:
    return np.dtype(f">{_NUMBERS[kind][0]}")


def _microseconds(times: pa.Array | pa.ChunkedArray, missing: int = 0) -> NDArray[np.int64]:
    """Times as numbers; those without a zone are UTC."""
    numbers: NDArray[np.int64] = (
        times.cast(pa.timestamp("us", tz="UTC"), safe=False).cast(pa.int64()).fill_null(missing).to_numpy()
    )
    return numbers


def _column(table: pa.Table | pa.RecordBatch, name: str, kind: str) -> pa.Array:
    if name not in table.schema.names:
        raise RowError(f"column {name!r} is missing; there are {', '.join(table.schema.names)}")
    column, wanted = table.column(name), arrow_type(kind)
    try:
        # Nanoseconds are cut off; everything else must fit.
        column = column.cast(wanted, safe="timestamp" not in kind)
    except pa.ArrowInvalid as error:
        raise RowError(f"column {name!r} does not fit {kind}: {error}") from error
    except pa.ArrowNotImplementedError as error:
        raise RowError(f"column {name!r} is {column.type}, which cannot become {kind}") from error
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _as_numbers(column: pa.Array, kind: str) -> NDArray[Any]:
    numbers = column.cast(_NUMBERS[kind][2])
    if numbers.null_count:
        numbers = numbers.fill_null(0)
    found: NDArray[Any] = numbers.to_numpy(zero_copy_only=False)
    return found


def _as_blobs(column: pa.Array, kind: str) -> pa.Array:
    """The bytes of each value; what is null has some that mean nothing."""
    if kind in _BLOBS:
        return column.cast(pa.large_binary()).fill_null(b"")
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    at = np.concatenate([[0], np.cumsum(lengths)])
    # Without what lies under null lists, which an Arrow array may have.
    elements, kind = column.flatten(), kind.removeprefix("list<")[:-1]
    if kind in _NUMBERS:
        numbers = _as_numbers(elements, kind).astype(_number(kind))
        if not elements.null_count:
            lists = _blobs_of(at * numbers.itemsize, numbers.tobytes())
            return pc.binary_join_element_wise(
                pa.scalar(_DENSE, pa.large_binary()), lists, pa.scalar(b"", pa.large_binary())
            )
        marked = np.empty(len(numbers), [("there", "?"), ("value", numbers.dtype)])
        marked["there"] = elements.is_valid().to_numpy(zero_copy_only=False)
        marked["value"] = numbers
        lists = _blobs_of(at * marked.itemsize, marked.tobytes())
        return pc.binary_join_element_wise(
            pa.scalar(_SPARSE, pa.large_binary()), lists, pa.scalar(b"", pa.large_binary())
        )
    found = elements.cast(pa.large_binary())
    sizes = pc.binary_length(found).fill_null(_NO_ELEMENT).to_numpy(zero_copy_only=False).astype(">u4")
    prefixed = pc.binary_join_element_wise(
        _blobs_of(np.arange(len(sizes) + 1) * 4, sizes.tobytes()),
        found.fill_null(b""),
        pa.scalar(b"", pa.large_binary()),
    )
    _, offsets, data = prefixed.buffers()
    ends = np.frombuffer(offsets, np.int64)[prefixed.offset : prefixed.offset + len(prefixed) + 1]
    return _blobs_of(ends[at], data)


def _blobs_of(offsets: NDArray[np.int64], data: bytes | pa.Buffer | None) -> pa.Array:
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(),
        len(offsets) - 1,
        [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(b"" if data is None else data)],
    )


@cache
def _compiled(schema: RowSchema, names: tuple[str, ...]) -> Decode:
    """Reads the columns `names` of rows of `schema`, skipping the others."""
    declared, blobs = dict(schema.columns), [name for name, _ in schema._blobs]
    wanted = set(names)
    has_blobs = any(name in wanted for name in blobs)
    ends_bytes = 4 * len(blobs)
    layout = [f">q8x8x{schema._nulls_bytes}s", f"{len(blobs)}I" if has_blobs else f"{ends_bytes}x"]
    place, position = {}, 2 + (len(blobs) if has_blobs else 0)
    for name, kind in schema._numbers:
        code = _NUMBERS[kind][0]
        layout.append(code if name in wanted else f"{struct.calcsize('>' + code)}x")
        if name in wanted:
            place[name] = position
            position += 1
    record, width = struct.Struct("".join(layout)), schema._fixed.itemsize
    assert record.size == width
    unpack, nothing_null = record.unpack_from, bytes(schema._nulls_bytes)
    # Columns of varying length stand for the event time until their bytes are read.
    places = [place.get(name, 0) for name in names]
    pick = _picker(places)
    ordinals = {name: at for at, (name, _) in enumerate(schema.columns)}
    masks = [(out, 1 << ordinals[name]) for out, name in enumerate(names)]
    converted = [
        (out, _CONVERSIONS[declared[name]]) for out, name in enumerate(names) if declared[name] in _CONVERSIONS
    ]
    varying = [
        (out, 1 + blobs.index(name) if blobs.index(name) else None, 2 + blobs.index(name), _blob_reader(declared[name]))
        for out, name in enumerate(names)
        if name in blobs
    ]
    plain = not converted and not varying

    def decode(row: bytes) -> tuple[int, Sequence[Any]]:
        try:
            found = unpack(row)
        except struct.error as error:
            raise RowError("a row is damaged; materialize the feature view again") from error
        nulls = found[1]
        if plain and nulls == nothing_null:
            return found[0], pick(found)
        values = list(pick(found))
        for out, convert in converted:
            values[out] = convert(values[out])
        for out, before, end, read in varying:
            values[out] = read(row[width + (found[before] if before else 0) : width + found[end]])
        if nulls != nothing_null:
            bits = int.from_bytes(nulls, "little")
            for out, mask in masks:
                if bits & mask:
                    values[out] = None
        return found[0], values

    return decode


def _picker(places: Sequence[int]) -> Callable[[tuple[Any, ...]], Sequence[Any]]:
    if not places:
        return lambda found: ()
    if all(after == before + 1 for before, after in pairwise(places)):
        return itemgetter(slice(places[0], places[-1] + 1))
    return itemgetter(*places)


def _day(days: int) -> date:
    return date.fromordinal(_EPOCH_DAY + days)


_CONVERSIONS: Mapping[str, Callable[[int], Any]] = {"timestamp": moment_of, "date": _day}


def _text(data: bytes) -> str:
    return data.decode()


def _blob_reader(kind: str) -> Callable[[bytes], Any]:
    if kind == "string":
        return _text
    return bytes if kind in _BLOBS else _list_reader(kind.removeprefix("list<")[:-1])


@cache
def _list_reader(kind: str) -> Callable[[bytes], list[Any]]:
    if kind not in _NUMBERS:
        return _read_strings if kind == "string" else _read_blobs
    code, convert = _NUMBERS[kind][0], _CONVERSIONS.get(kind)
    size, marked = struct.calcsize(">" + code), struct.Struct(f">?{code}")

    def read(data: bytes) -> list[Any]:
        values: list[Any]
        if data[:1] == _DENSE:
            values = list(struct.unpack_from(f">{(len(data) - 1) // size}{code}", data, 1))
            return [convert(value) for value in values] if convert else values
        values = [value if there else None for there, value in marked.iter_unpack(memoryview(data)[1:])]
        return [None if value is None else convert(value) for value in values] if convert else values

    return read


def _read_blobs(data: bytes) -> list[bytes | None]:
    found: list[bytes | None] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        at += 4
        if size == _NO_ELEMENT:
            found.append(None)
        else:
            found.append(data[at : at + size])
            at += size
    return found


def _read_strings(data: bytes) -> list[str | None]:
    return [None if text is None else text.decode() for text in _read_blobs(data)]
