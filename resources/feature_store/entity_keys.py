"""The keys under which rows are kept: which feature view, and which entity of it.

Belongs here: encoding the values of join keys, one request or many rows at a time. Not here: what is kept under them.

A key begins with the name of its view and a checksum of the names of its join keys, so that a view whose entity was
declared anew finds nothing instead of a stranger's row. The values follow in the order of the names, with their types.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from operator import index
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resources.feature_store.packed_rows import microseconds_of

KEY_TYPES: Mapping[str, pa.DataType] = {
    "int64": pa.int64(),
    "string": pa.large_string(),
    "bytes": pa.large_binary(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
"""Types that a join key may have."""

_TAGS: Mapping[str, bytes] = {"int64": b"i", "string": b"s", "bytes": b"b", "timestamp": b"t"}
_NUMBER = struct.Struct(">cq")
_LENGTH = struct.Struct(">cI")
_NAME_BYTES_LIMIT = 255


class JoinKeyError(ValueError):
    """A join key that is not declared, missing, or of another type; the message names it."""


def view_prefix(view: str) -> bytes:
    """What the keys of `view` begin with, and those of no other view."""
    name = view.encode()
    if not 0 < len(name) <= _NAME_BYTES_LIMIT:
        raise JoinKeyError(f"the view {view!r} needs a name of 1 to {_NAME_BYTES_LIMIT} bytes")
    return bytes([len(name)]) + name


class EntityKeys:
    """Encodes the keys of one view; `join_keys` are types (of `KEY_TYPES`) by name."""

    def __init__(self, view: str, join_keys: Mapping[str, str]) -> None:
        for name, kind in join_keys.items():
            if kind not in KEY_TYPES:
                raise JoinKeyError(f"join key {name!r} has the type {kind!r}; allowed: {', '.join(KEY_TYPES)}")
        self.names = sorted(join_keys)
        self._kinds = [join_keys[name] for name in self.names]
        self._prefix = view_prefix(view) + struct.pack(">I", crc32("\0".join(self.names).encode()))
        self._encoders = [_encoder(name, kind) for name, kind in zip(self.names, self._kinds, strict=True)]

    def of_values(self, values: Mapping[str, Sequence[Any]], count: int) -> list[bytes]:
        """The keys of `count` entities from Python values, a list for each join key.

        Raises:
            JoinKeyError: a join key is missing, null, or of another type than declared.
        """
        for name in self.names:
            if name not in values:
                raise JoinKeyError(f"join key {name!r} is missing; there are {', '.join(map(str, values)) or 'none'}")
        prefix = self._prefix
        if len(self._encoders) == 1:
            encode = self._encoders[0]
            return [prefix + encode(value) for value in values[self.names[0]]]
        if not self._encoders:
            return [prefix] * count
        encoded = [map(encode, values[name]) for name, encode in zip(self.names, self._encoders, strict=True)]
        return [prefix + b"".join(parts) for parts in zip(*encoded, strict=True)]

    def of_table(self, table: pa.Table | pa.RecordBatch) -> list[bytes]:
        """The keys of the rows of `table`, which has a column for each join key.

        Raises:
            JoinKeyError: as `of_values` does.
        """
        if not self.names:
            return [self._prefix] * table.num_rows
        parts = []
        for name, kind in zip(self.names, self._kinds, strict=True):
            if name not in table.schema.names:
                raise JoinKeyError(f"join key {name!r} is missing; there are {', '.join(table.schema.names)}")
            try:
                column = table.column(name).cast(KEY_TYPES[kind])
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise JoinKeyError(f"join key {name!r} does not fit {kind}: {error}") from error
            if column.null_count:
                raise JoinKeyError(f"join key {name!r} is null in {column.null_count} rows")
            parts += _parts(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column, kind)
        joined = pc.binary_join_element_wise(_constant(self._prefix), *parts, _constant(b""))
        keys: list[bytes] = joined.to_pylist()
        return keys


def _encoder(name: str, kind: str) -> Callable[[Any], bytes]:
    tag = _TAGS[kind]

    def refused(value: object) -> JoinKeyError:
        what = "null" if value is None else f"{type(value).__name__} {value!r}"
        return JoinKeyError(f"join key {name!r} is {what}; it is declared {kind}")

    def number(value: Any) -> bytes:
        if isinstance(value, bool):
            raise refused(value)
        try:
            return _NUMBER.pack(tag, index(value))
        except (TypeError, struct.error) as error:
            raise refused(value) from error

    def text(value: Any) -> bytes:
        if not isinstance(value, str):
            raise refused(value)
        data = value.encode()
        return _LENGTH.pack(tag, len(data)) + data

    def blob(value: Any) -> bytes:
        if not isinstance(value, bytes):
            raise refused(value)
        return _LENGTH.pack(tag, len(value)) + value

    def moment(value: Any) -> bytes:
        if not isinstance(value, datetime):
            raise refused(value)
        return _NUMBER.pack(tag, microseconds_of(value))

    return {"int64": number, "string": text, "bytes": blob, "timestamp": moment}[kind]


def _parts(column: pa.Array, kind: str) -> list[pa.Array | pa.Scalar]:
    """Type and value of a join key; for those of varying length, the length too."""
    tag = _constant(_TAGS[kind])
    if kind in ("int64", "timestamp"):
        numbers = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
        return [tag, _fixed(numbers.astype(">i8"))]
    blobs = column.cast(pa.large_binary())
    return [tag, _fixed(pc.binary_length(blobs).to_numpy(zero_copy_only=False).astype(">u4")), blobs]


def _fixed(numbers: Any) -> pa.Array:
    offsets = np.arange(len(numbers) + 1, dtype=np.int64) * numbers.itemsize
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(numbers), [None, pa.py_buffer(offsets), pa.py_buffer(numbers.tobytes())]
    )


def _constant(data: bytes) -> pa.Scalar:
    return pa.scalar(data, pa.large_binary())
