"""Deliveries as strange as they come, read into a candidate: stored as they are, or refused by name."""

import gzip
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from platform_assets.partitions import COMMERCE_DAILY
from platform_assets.sources.declaration import Column, EventTime, Source
from platform_assets.sources.landing import MARKER
from platform_assets.sources.validation import Candidate, Problem, inspect
from resources.environment import DEFAULT_LIMITS, Limits

DAY = "2017-03-12"
RELAXED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

THINGS = Source(
    team="commerce",
    entity="things",
    description="One row per thing.",
    partitions=COMMERCE_DAILY,
    file_format="csv",
    columns=(Column("thing", "BIGINT", "Thing."),),
)

Read = Callable[..., Candidate]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Deliver files (name: bytes or an Arrow table) as one partition, and inspect it."""
    count = 0

    def run(source: Source, files: dict[str, bytes | pa.Table], limits: Limits = DEFAULT_LIMITS) -> Candidate:
        nonlocal count
        count += 1
        root = tmp_path / f"landing [{count}]*"
        folder = source.partition_dir(root, DAY)
        folder.mkdir(parents=True)
        for name, content in files.items():
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                pq.write_table(content, folder / name)
        (folder / MARKER).touch()
        return inspect(source, root, [DAY], tmp_path / f"{count}.duckdb", limits=limits)

    return run


def with_columns(*columns: Column, file_format: str = "csv", **others: Any) -> Source:
    return replace(THINGS, columns=columns, file_format=file_format, **others)


def stored(candidate: Candidate) -> list[tuple[Any, ...]]:
    assert candidate.problems == ()
    with duckdb.connect() as connection:
        return [row[1:] for row in candidate.relation(connection).order("all").fetchall()]


def only(candidate: Candidate) -> Problem:
    (problem,) = candidate.problems
    return problem


def delivered(file_format: str, name: str, texts: list[str]) -> bytes:
    """A file of one column whose values are JSON texts."""
    if file_format == "csv":
        plain = [json.loads(text) if text.startswith('"') else text for text in texts]
        return "\n".join([json.dumps(name)[1:-1], *plain, ""]).encode()
    return "".join(f"{{{json.dumps(name)}: {text}}}\n" for text in texts).encode()


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40)


@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
@given(st.sets(NAMES, min_size=1, max_size=5))
@example({"part1", "part[1]", "part*", "part?", "pa{r,t}"})
@example({"it's", 'a "b"', "c d", "e\nf", "k=v", "%20", "é", "\\*", "x" * 230, "http:", "-", "~", "$p"})
@RELAXED
def test_each_file_is_read_once_whatever_its_name(read: Read, file_format: str, names: set[str]) -> None:
    source = with_columns(THINGS.columns[0], file_format=file_format)
    usable = [name for name in sorted(names) if not name.startswith((".", "_")) and len(name.encode()) < 240]
    files: dict[str, bytes | pa.Table] = {}
    for at, name in enumerate(usable):
        table = pa.table({"thing": [at]})
        text = f"thing\n{at}\n" if file_format == "csv" else f'{{"thing": {at}}}\n'
        files[name + source.extension] = table if file_format == "parquet" else text.encode()
    if files:
        assert stored(read(source, files)) == [(at,) for at in range(len(usable))]


CLASHING = ("file", "path", "uncast", "rowid", "source_path", "s", "e", "partition_key", "name", "value", "filename",
            "link", "listed", "json", "v0", "t0", "c0", "moment", "partition", "begins", "delivered", "file_row_number",
            "select", 'a"b', "a'b", "a.b", "a*", "/x", "~", "$", "{}", "a b", "é", "#1", "-")  # fmt: skip


@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
def test_every_name_of_a_column_works(read: Read, file_format: str) -> None:
    columns = tuple(Column(name, "BIGINT", "A number.") for name in CLASHING)
    timed = Column("ends", "TIMESTAMP", "When.")
    source = with_columns(
        *columns, timed, file_format=file_format, key=("file", "rowid"), event_time=EventTime("ends", "UTC")
    )
    at = datetime(2017, 3, 12, 12)
    row = {name: number for number, name in enumerate(CLASHING)} | {"ends": at}
    csv = ",".join('"' + name.replace('"', '""') + '"' for name in row) + "\n" + ",".join(map(str, row.values())) + "\n"
    content = {
        "csv": csv.encode(),
        "jsonl": json.dumps(row | {"ends": str(at)}).encode() + b"\n",
        "parquet": pa.table({name: pa.array([value]) for name, value in row.items()}),
    }[file_format]
    candidate = read(source, {f"part.{file_format}": content})
    assert stored(candidate) == [tuple(row.values())]
    with duckdb.connect() as connection:
        assert (
            candidate.relation(connection).columns
            == list(source.stored_columns)[-1:] + list(source.stored_columns)[:-1]
        )
    # Each rule works too with such names.
    twice = {f"part.{file_format}": content, f"part2.{file_format}": content}
    assert only(read(source, twice)).rule == "unique_key"


NUMBERS = st.one_of(
    st.integers(-(2**66), 2**66).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["1.0", "1e2", "1E400", "-0", "9007199254740993", "18446744073709551616", "123456789012345678901"]),
)


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
@pytest.mark.parametrize("kind", ["BIGINT", "DOUBLE"])
@given(st.lists(NUMBERS, min_size=1, max_size=8))
@RELAXED
def test_numbers_are_stored_exactly_or_the_first_other_is_named_by_its_line(
    read: Read, file_format: str, kind: str, numbers: list[str]
) -> None:
    def value(text: str) -> float | None:
        if kind == "BIGINT":
            return int(text) if text.lstrip("-").isdigit() and -(2**63) <= int(text) < 2**63 else None
        return float(text) if math.isfinite(float(text)) else None

    source = with_columns(Column("n", kind, "A number."), file_format=file_format)
    candidate = read(source, {f"part.{file_format}": delivered(file_format, "n", numbers)})
    values = [value(text) for text in numbers]
    if None not in values:
        assert stored(candidate) == sorted((number,) for number in values)
        return
    line = values.index(None) + (2 if file_format == "csv" else 1)
    places = {problem.message.split(",")[0] for problem in candidate.problems}
    assert f"line {line}" in places
    assert {(problem.file, problem.column) for problem in candidate.problems} == {(f"part.{file_format}", "n")}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("BIGINT", "12e-1"), ("BIGINT", "0x1F"), ("BIGINT", "1_000"), ("BIGINT", "1234567890e-3"),
        ("DOUBLE", "nan"), ("DOUBLE", "inf"), ("DOUBLE", "1e400"), ("DOUBLE", "1e-400"),
        ("DATE", "2017-03-01garbage"), ("DATE", "17-03-01"), ("DATE", "infinity"),
        ("TIMESTAMP", "2017-03-01T12:00:00Z"), ("TIMESTAMP", "2017-03-01 12:00:00.1234567"), ("BOOLEAN", "1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
def test_a_loose_value_is_named_by_file_line_column_and_count(
    read: Read, file_format: str, kind: str, text: str
) -> None:
    good = {"BIGINT": "1", "DOUBLE": "1", "DATE": "2017-03-01", "TIMESTAMP": "2017-03-01 12:00:00", "BOOLEAN": "true"}
    source = with_columns(Column("x", kind, "X."), Column("y", "VARCHAR", "Y."), file_format=file_format)
    quoted = kind in ("DATE", "TIMESTAMP")
    if file_format == "csv":
        content = f'x,y\n{good[kind]},"a\nb"\n{text},c\n{text},d\n'
    elif not quoted and kind in ("BIGINT", "DOUBLE") and not re.fullmatch(r"\d+e-?\d+", text):
        pytest.skip("it is no JSON")
    else:
        lines = [json.dumps({"x": value, "y": "a"}) for value in (good[kind], good[kind], text, text)]
        content = "\n".join(lines) + "\n"
        content = content if quoted else content.replace('"x": "', '"x": ').replace('", "y"', ', "y"')
    problem = only(read(source, {f"part.{file_format}": content.encode()}))
    assert (problem.file, problem.column, problem.rule) == (f"part.{file_format}", "x", "columns")
    place = "line 4" if file_format == "csv" else "line 3"
    assert problem.message.startswith(f"{place}, column 'x': ")
    assert kind in problem.message or "zone=" in problem.message
    assert "2 rows" in problem.message
    assert text in problem.message or file_format == "jsonl"


@pytest.mark.parametrize("name", ["x", "a b", "k\u00e9", 'q"', "a.*", "back\\slash", "tilde~/"])
def test_a_json_number_that_would_become_zero_is_refused_and_zero_is_not(read: Read, name: str) -> None:
    zeros = ["0", "0.0", "-0.0", "0e5", "0.00e-9", "4.9e-324", "1e-300"]
    source = with_columns(Column(name, "DOUBLE", "X."), Column("note", "VARCHAR", "N."), file_format="jsonl")
    key = json.dumps(name, ensure_ascii=False)

    def lines(numbers: list[str]) -> bytes:
        note = json.dumps(f"{key}: 1e-400")
        return "".join(f'{{"note": {note}, {key} : {number}}}\n' for number in numbers).encode()

    kept = stored(read(source, {"part.jsonl": lines(zeros)}))
    assert sorted(number for number, _ in kept) == sorted(map(float, zeros))
    for small in ("1e-400", "-2.5E-330", "0." + "0" * 330 + "1"):
        problem = only(read(source, {"part.jsonl": lines([*zeros, small, small])}))
        assert problem.message.startswith(f"line {len(zeros) + 1}, column {name!r}: {small[:100]!r}"[:-1])
        assert "2 rows" in problem.message


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
def test_offsets_are_converted_to_the_zone_of_the_column(read: Read, file_format: str) -> None:
    texts = ['"2017-03-01T12:00:00-05:00"', '"2017-03-01T12:00:00Z"', '"2017-03-01T12:00:00+09:00"']
    source = with_columns(Column("at", "TIMESTAMP", "At.", zone="Asia/Seoul"), file_format=file_format)
    assert stored(read(source, {f"part.{file_format}": delivered(file_format, "at", texts)})) == [
        (datetime(2017, 3, 1, 12),), (datetime(2017, 3, 1, 21),), (datetime(2017, 3, 2, 2),)
    ]  # fmt: skip
    undeclared = with_columns(Column("at", "TIMESTAMP", "At."), file_format=file_format)
    problem = only(read(undeclared, {f"part.{file_format}": delivered(file_format, "at", texts)}))
    assert "declares no time zone to convert it to" in problem.message


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_a_time_that_the_clocks_of_its_zone_skip_is_refused(read: Read, file_format: str) -> None:
    source = with_columns(Column("at", "TIMESTAMP", "At.", zone="America/New_York"), file_format=file_format)
    moment = datetime(2017, 3, 12, 2, 30)
    content = pa.table({"at": [moment]}) if file_format == "parquet" else f"at\n{moment}\n".encode()
    assert "does not exist in America/New_York" in only(read(source, {f"part.{file_format}": content})).message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_unless_the_column_allows_it(read: Read, value: float) -> None:
    written = {"csv": f"x\n1.5\n{value}\n", "jsonl": f'{{"x": 1.5}}\n{{"x": {json.dumps(value)}}}\n'}
    for file_format in ("csv", "jsonl", "parquet"):
        strict = with_columns(Column("x", "DOUBLE", "X."), file_format=file_format)
        table = pa.table({"x": [1.5, value]})
        content = table if file_format == "parquet" else written[file_format].encode()
        problem = only(read(strict, {f"part.{file_format}": content}))
        assert problem.column == "x"
        assert "allow_nan=True" in problem.message
        assert "line 3" in problem.message or "line 2" in problem.message or "row 2" in problem.message
        lenient = with_columns(Column("x", "DOUBLE", "X.", allow_nan=True), file_format=file_format)
        assert {str(x) for (x,) in stored(read(lenient, {f"part.{file_format}": content}))} == {"1.5", str(value)}


def test_a_parquet_file_with_a_column_twice_is_refused(read: Read) -> None:
    source = with_columns(Column("a", "BIGINT", "A."), file_format="parquet")
    table = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert "has the column 'a' more than once" in only(read(source, {"part.parquet": table})).message


def test_a_parquet_column_of_type_null_has_no_values(read: Read) -> None:
    for kind in ("BIGINT", "VARCHAR", "DATE", "TIMESTAMP"):
        columns = (Column("a", "BIGINT", "A."), Column("n", kind, "N.", nullable=True))
        source = with_columns(*columns, file_format="parquet")
        nothing = pa.table({"a": [1], "n": pa.nulls(1)})
        absent = pa.table({"a": [2]})
        assert stored(read(source, {"1.parquet": nothing, "2.parquet": absent})) == [(1, None), (2, None)]
        required = with_columns(*(replace(column, nullable=False) for column in columns), file_format="parquet")
        assert "is of type NULL" in only(read(required, {"1.parquet": nothing})).message


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([{"x": "a"}], "a struct of several values (STRUCT)"),
        (pa.array([["a"]]), "a list (LIST)"),
        (pa.array([[("x", "a")]], pa.map_(pa.string(), pa.string())), "a map (MAP)"),
    ],
)
def test_a_nested_parquet_column_is_refused_by_its_type_and_no_child_is_taken_for_a_column(
    read: Read, values: Any, words: str
) -> None:
    source = with_columns(Column("x", "VARCHAR", "X."), file_format="parquet")
    assert (
        only(read(source, {"part.parquet": pa.table({"x": values})})).message
        == f"column 'x' is {words}, declared VARCHAR"
    )
    problems = read(source, {"part.parquet": pa.table({"s": values})}).problems
    assert {problem.message for problem in problems} == {
        "column 'x' (VARCHAR) is missing",
        "column 's' is not declared",
    }


def test_nanoseconds_of_parquet_are_refused_rather_than_cut(read: Read) -> None:
    source = with_columns(Column("at", "TIMESTAMP", "At."), file_format="parquet")
    kind = pa.timestamp("ns")
    assert stored(read(source, {"p.parquet": pa.table({"at": pa.array([1_000], kind)})})) == [
        (datetime(1970, 1, 1, 0, 0, 0, 1),)
    ]
    problem = only(read(source, {"p.parquet": pa.table({"at": pa.array([1_000, 1_001], kind)})}))
    assert "row 2" in problem.message
    assert "finer than a microsecond" in problem.message


@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(("name", "declared"), [("cafe\u0301", "caf\u00e9"), ("Cafe", "cafe"), ("cafe\u200b", "cafe")])
def test_names_that_look_alike_are_told_apart_in_words(read: Read, file_format: str, name: str, declared: str) -> None:
    source = with_columns(Column(declared, "BIGINT", "C."), file_format=file_format)
    content = pa.table({name: [1]}) if file_format == "parquet" else delivered(file_format, name, ["1"])
    if file_format == "csv":
        content = f"{name}\n1\n".encode()
    problem = only(read(source, {f"part.{file_format}": content}))
    assert "which looks alike and is another name" in problem.message
    assert name == "Cafe" or "U+" in problem.message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"x": 1} {"x": 2}', "line 2 is no JSON"),
        (b'{"x": 01}', "line 2 is no JSON"),
        (b'{"x": "caf\xe9"}', "line 2 is not UTF-8"),
        (b"", "line 2 is blank"),
        (b'{"x": 1, "x": 2}', "line 2 names 'x' more than once"),
        (b"[1]", "line 2 is not a JSON object"),
        (b'{"y": 1}', "line 2"),
        (b'{"x": "\\ud800"}', "line 2 is no JSON"),
        (b'{"x": {"y": 1}}', "line 2, column 'x': {\"y\":1} is an object, declared BIGINT"),
        (b'{"x": 1.0}', "line 2, column 'x': 1.0 is a number with a fraction"),
        (b'{"x": "1"}', "line 2, column 'x': \"1\" is a text (VARCHAR), declared BIGINT"),
    ],
)
def test_a_strange_line_of_json_is_named(read: Read, line: bytes, message: str) -> None:
    source = with_columns(Column("x", "BIGINT", "X."), file_format="jsonl")
    candidate = read(source, {"part.jsonl": b'{"x": 1}\n' + line + b'\n{"x": 3}\n'})
    assert any(message in problem.message for problem in candidate.problems)
    assert {problem.file for problem in candidate.problems} == {"part.jsonl"}


def test_blank_lines_of_csv_are_no_rows_that_vanish(read: Read) -> None:
    source = with_columns(Column("x", "BIGINT", "X."), Column("y", "BIGINT", "Y.", nullable=True))
    assert "line 3 is blank" in only(read(source, {"part.csv": b"x,y\n1,2\n\n3,4\n"})).message
    # A value too many in one row makes up for one too few in another.
    assert "line 2 has 3 values" in only(read(source, {"part.csv": b"x,y\n1,2,\n\n3,4\n"})).message


def test_a_column_that_is_not_declared_is_said_where_the_source_ignores_such(read: Read) -> None:
    contents = {
        "csv": b"source_path,x,X\n7,1,2\n",
        "jsonl": b'{"x": 1, "X": 2, "source_path": 7}\n',
        "parquet": pa.table({"source_path": [7], "x": [1], "file": [2]}),
    }
    for file_format, content in contents.items():
        source = with_columns(Column("x", "BIGINT", "X."), file_format=file_format, undeclared_columns="ignore")
        candidate = read(source, {f"part.{file_format}": content})
        assert stored(candidate) == [(1,)]
        assert len(candidate.ignored[DAY]) == 2


def source_of(kind: str) -> Source:
    """The source whose delivery is the bomb `kind`."""
    compression: Any = "gzip" if kind.endswith("gzip") else None
    return with_columns(
        Column("x", "VARCHAR", "X."), file_format=kind.split("-", maxsplit=1)[0], compression=compression
    )


def plant(kind: str, folder: Path) -> None:
    """Deliver a small file that expands to gigabytes, or is endlessly long or deep."""
    place = source_of(kind).partition_dir(folder, DAY)
    place.mkdir(parents=True)
    file = place / f"part{source_of(kind).extension}"
    if kind == "parquet-dictionary":
        values = pa.DictionaryArray.from_arrays([0] * 50, pa.array(["a" * 400_000_000]))
        pq.write_table(pa.table({"x": values}), file, compression="zstd")
    elif kind == "parquet-shared":
        # Each value is within the limits, but a million rows share it.
        values = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), pa.array(["a" * 1_900_000]))
        pq.write_table(pa.table({"x": values}), file, compression="zstd")
    elif kind == "jsonl-deep":
        file.write_bytes(b'{"x": ' + b"[" * 990_000 + b"]" * 990_000 + b"}\n")
    else:
        # 1.6 GB in members of 16 MB.
        unit = {"csv-header-gzip": b"a", "jsonl-member-gzip": b'{"x": "a"}\n', "jsonl-line-gzip": b" "}[kind]
        file.write_bytes(gzip.compress(unit * (16_000_000 // len(unit)), 1) * 100)
    (place / MARKER).touch()


_INSPECT = """
import sys
from pathlib import Path
from platform_assets.sources.validation import inspect
from resources.environment import Limits
from tests.platform_assets.sources.test_reading import DAY, source_of
root = Path(sys.argv[2])
candidate = inspect(source_of(sys.argv[1]), root, [DAY], root / "candidate.duckdb", limits=Limits(file_bytes=10**9))
print(*candidate.problems)
print(*[line for line in open("/proc/self/status") if line.startswith("VmHWM")])
"""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("csv-header-gzip", "line 1 is longer than 2,000,000 bytes.*HEADWATER_LONGEST_LINE"),
        ("jsonl-line-gzip", "line 1 is longer than 2,000,000 bytes.*HEADWATER_LONGEST_LINE"),
        ("jsonl-member-gzip", "more than 1,000,000,000 bytes.*HEADWATER_LARGEST_FILE"),
        ("jsonl-deep", "line 1, column 'x': .* is a list, declared VARCHAR"),
        ("parquet-dictionary", "its pages take 400,000,0.*HEADWATER_OPEN_PAGES"),
        ("parquet-shared", "its 1,000,000 rows hold 1,900,.*HEADWATER_LARGEST_FILE"),
    ],
)
def test_memory_is_bounded_whatever_a_small_file_expands_to(tmp_path: Path, kind: str, message: str) -> None:
    plant(kind, tmp_path)
    repository = Path(__file__).parents[3]
    child = subprocess.run(
        [sys.executable, "-c", _INSPECT, kind, str(tmp_path)],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=True,
    )
    problems, memory = child.stdout.strip().splitlines()
    assert re.search(message, problems)
    assert "part" in problems
    assert int(memory.split()[1]) < 2**20  # kB: one GiB
