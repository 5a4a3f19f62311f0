"""Packed rows: what is packed comes back, one by one and many at once, and rows of an older schema are read by name."""

import math
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.feature_store.packed_rows import (
    COLUMN_TYPES,
    NEVER,
    RowError,
    RowSchema,
    arrow_type,
    microseconds_of,
    moment_of,
    times_of,
)

START = datetime(2017, 3, 1, 12, tzinfo=UTC)
SCALARS: Mapping[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(allow_nan=False),
    "float32": st.floats(allow_nan=False, width=32),
    "bool": st.booleans(),
    "timestamp": st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda at: at.replace(tzinfo=UTC)),
    "date": st.dates(),
    "string": st.text(),
    "bytes": st.binary(),
    "opaque": st.binary(),
}


def values_of(kind: str) -> st.SearchStrategy[Any]:
    if kind in SCALARS:
        return st.none() | SCALARS[kind]
    return st.none() | st.lists(st.none() | SCALARS[kind.removeprefix("list<")[:-1]], max_size=5)


def no_other_schema(fingerprint: bytes) -> str | None:
    raise AssertionError("asked for another schema")


def packed(schema: RowSchema, records: Sequence[Mapping[str, Any]], moments: Sequence[datetime]) -> list[bytes]:
    table = pa.table(
        {name: pa.array([record[name] for record in records], arrow_type(kind)) for name, kind in schema.columns}
    )
    return schema.pack(table, pa.array(moments, pa.timestamp("us", "UTC")))


@st.composite
def tables(draw: st.DrawFn) -> tuple[RowSchema, list[dict[str, Any]]]:
    kinds = draw(st.lists(st.sampled_from(COLUMN_TYPES), min_size=1, max_size=12))
    schema = RowSchema.of({f"column_{at}": kind for at, kind in enumerate(kinds)})
    record = st.fixed_dictionaries({name: values_of(kind) for name, kind in schema.columns})
    return schema, draw(st.lists(record, max_size=6))


@given(tables(), st.randoms())
@settings(deadline=None, max_examples=300)
def test_values_come_back_row_by_row_and_as_columns(
    written: tuple[RowSchema, list[dict[str, Any]]], chance: random.Random
) -> None:
    schema, records = written
    moments = [START + timedelta(microseconds=at) for at in range(len(records))]
    rows = packed(schema, records, moments)
    names = [name for name, _ in schema.columns if chance.random() < 0.7]
    chance.shuffle(names)
    decode = schema.decoder(names, no_other_schema)
    for row, record, moment in zip(rows, records, moments, strict=True):
        event, values = decode(row)
        assert moment_of(event) == moment
        assert list(values) == [record[name] for name in names]
        assert times_of(row) == (microseconds_of(moment), NEVER)
    table, events, created = schema.unpack(rows, no_other_schema)
    assert table.to_pylist() == records
    assert [moment_of(event) for event in events.tolist()] == moments
    assert set(created.tolist()) <= {NEVER}


def test_every_type_is_tried_with_nulls_in_one_batch() -> None:
    schema = RowSchema.of({kind: kind for kind in COLUMN_TYPES})
    values: dict[str, Any] = {
        "int64": -1,
        "float64": 0.1,
        "float32": 0.5,
        "bool": True,
        "timestamp": START,
        "date": date(1969, 12, 31),
        "string": "Ærø \0 \N{SNOWMAN}",
        "bytes": b"\0\xff",
        "opaque": b"",
    }
    full = {kind: values[kind] if kind in values else [values[kind[5:-1]], None] for kind in COLUMN_TYPES}
    records = [full, dict.fromkeys(COLUMN_TYPES), {**full, **{k: [] for k in COLUMN_TYPES if k.startswith("list")}}]
    rows = packed(schema, records, [START] * 3)
    decode = schema.decoder(COLUMN_TYPES, no_other_schema)
    assert [dict(zip(COLUMN_TYPES, decode(row)[1], strict=True)) for row in rows] == records
    assert schema.unpack(rows, no_other_schema)[0].to_pylist() == records


def test_not_a_number_and_infinities_come_back() -> None:
    schema = RowSchema.of({"n": "float64", "several": "list<float64>"})
    (row,) = packed(schema, [{"n": math.nan, "several": [math.nan, math.inf, -0.0]}], [START])
    _, (n, several) = schema.decoder(["n", "several"], no_other_schema)(row)
    assert math.isnan(n)
    assert math.isnan(several[0])
    assert several[1] == math.inf
    assert math.copysign(1, several[2]) == -1


def test_slices_chunks_and_narrower_types_are_packed_as_what_they_hold() -> None:
    schema = RowSchema.of({"n": "int64", "words": "list<string>", "name": "string"})
    whole = pa.table(
        {
            "n": pa.array([0, 1, None, 3], pa.int32()),
            "words": pa.array([["out"], ["a", None], None, ["b", ""]], pa.list_(pa.string())),
            "name": pa.array(["out", "x", None, "z"]).dictionary_encode(),
        }
    )
    table = pa.concat_tables([whole.slice(1, 1), whole.slice(2)])
    rows = schema.pack(table, pa.array([START] * 3))
    assert schema.unpack(rows, no_other_schema)[0].to_pylist() == table.to_pylist()


def test_more_rows_than_a_chunk_keep_their_order() -> None:
    schema = RowSchema.of({"n": "int64", "name": "string"})
    count = 140_000
    table = pa.table({"n": np.arange(count), "name": [f"name {at}" for at in range(count)]})
    rows = schema.pack(table, pa.array(np.arange(count), pa.timestamp("us", "UTC")))
    found, events, _ = schema.unpack(rows, no_other_schema)
    assert found.equals(table.cast(found.schema))
    assert events.tolist() == list(range(count))


def test_times_without_a_zone_are_utc_and_nanoseconds_are_cut_off() -> None:
    schema = RowSchema.of({"at": "timestamp"})
    at = pa.array([1_000_000_999], pa.timestamp("ns"))
    (row,) = schema.pack(pa.table({"at": at}), at, at)
    assert times_of(row) == (1_000_000, 1_000_000)
    assert schema.decoder(["at"], no_other_schema)(row)[1] == [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)]


def test_times_of_rows_say_which_is_newer() -> None:
    schema = RowSchema.of({"n": "int64"})
    table = pa.table({"n": [1, 1, 1]})
    events = pa.array([START, START, START - timedelta(days=20_000)])
    created = pa.array([None, START, START], pa.timestamp("us", "UTC"))
    bare, stamped, ancient = map(times_of, schema.pack(table, events, created))
    assert ancient < bare < stamped


def test_a_row_of_an_older_schema_is_read_by_name() -> None:
    old = RowSchema.of({"gone": "string", "kept": "int64", "wider": "float32", "words": "list<string>"})
    new = RowSchema.of({"added": "float64", "wider": "float64", "words": "list<string>", "kept": "int64"})
    (older,) = packed(old, [{"gone": "x", "kept": 7, "wider": 0.5, "words": ["a", None]}], [START])
    (newer,) = packed(new, [{"added": 1.5, "wider": 2.5, "words": [], "kept": 8}], [START])
    known = {old.fingerprint: old.declaration}
    decode = new.decoder(["kept", "added", "wider", "words"], known.get)
    assert list(decode(older)[1]) == [7, None, 0.5, ["a", None]]
    assert list(decode(newer)[1]) == [8, 1.5, 2.5, []]
    table, _, _ = new.unpack([older, newer], known.get)
    assert table.to_pylist() == [
        {"added": None, "wider": 0.5, "words": ["a", None], "kept": 7},
        {"added": 1.5, "wider": 2.5, "words": [], "kept": 8},
    ]


def test_a_row_whose_column_had_another_type_is_refused_by_name() -> None:
    old, new = RowSchema.of({"n": "string", "m": "int64"}), RowSchema.of({"n": "int64", "m": "int64"})
    (row,) = packed(old, [{"n": "7", "m": 3}], [START])
    known = {old.fingerprint: old.declaration}
    with pytest.raises(RowError, match="'n' is declared int64, but an older row holds string; materialize"):
        new.decoder(["n"], known.get)(row)
    assert list(new.decoder(["m"], known.get)(row)[1]) == [3]


def test_a_row_of_a_schema_that_nobody_knows_is_refused() -> None:
    schema = RowSchema.of({"n": "int64"})
    (row,) = packed(RowSchema.of({"m": "int64"}), [{"m": 1}], [START])
    with pytest.raises(RowError, match="a schema that its store does not know"):
        schema.decoder(["n"], lambda fingerprint: None)(row)


@pytest.mark.parametrize("size", [0, 10, 23, 24, 30])
def test_a_row_that_was_cut_off_is_refused(size: int) -> None:
    schema = RowSchema.of({"n": "int64"})
    (row,) = packed(schema, [{"n": 1}], [START])
    with pytest.raises(RowError, match="damaged"):
        schema.decoder(["n"], lambda fingerprint: None)(row[:size])


def test_fingerprints_tell_names_types_and_order_apart() -> None:
    schemas = [
        RowSchema.of({"a": "int64", "b": "string"}),
        RowSchema.of({"b": "string", "a": "int64"}),
        RowSchema.of({"a": "int64", "b": "bytes"}),
        RowSchema.of({"a": "int64", "c": "string"}),
    ]
    assert len({schema.fingerprint for schema in schemas}) == 4
    assert RowSchema.parse(schemas[0].declaration) == schemas[0]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (pa.table({"m": [1]}), "column 'n' is missing; there are m"),
        (pa.table({"n": [1.5]}), "column 'n' does not fit int64"),
        (pa.table({"n": ["many"]}), "column 'n' does not fit int64"),
        (pa.table({"n": pa.array([[1]])}), "column 'n' is list.*, which cannot become int64"),
    ],
)
def test_a_column_that_does_not_fit_is_refused_by_name(table: pa.Table, problem: str) -> None:
    with pytest.raises(RowError, match=problem):
        RowSchema.of({"n": "int64"}).pack(table, pa.array([START]))


def test_a_row_without_an_event_time_is_refused() -> None:
    with pytest.raises(RowError, match="event time"):
        RowSchema.of({"n": "int64"}).pack(pa.table({"n": [1]}), pa.array([None], pa.timestamp("us")))


def test_an_unknown_type_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(RowError, match="'n' has the type 'decimal'; allowed: int64, float64"):
        RowSchema.of({"n": "decimal"})
