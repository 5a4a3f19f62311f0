"""Expectations against a plain oracle in Python, over every type that bounds and comparisons are declared for."""

import math
import operator
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from platform_assets.sources.declaration import PARTITION_COLUMN, Column, Expectation, Source, expect
from platform_assets.sources.expectations import ExpectationError, judge
from platform_assets.sources.validation import TABLE, Candidate
from tests.platform_assets.sources.conftest import SALES

DAY = "2017-03-01"
LIMIT = 2**53

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "BIGINT": st.one_of(st.integers(-3, 3), st.integers(LIMIT - 2, LIMIT + 3), st.sampled_from([-(2**63), 2**63 - 1])),
    "DOUBLE": st.one_of(
        st.sampled_from([-1.5, -0.0, 0.0, 0.1, 1.0, 3.0, 1e308]),
        st.sampled_from([LIMIT - 1.0, LIMIT + 0.0, LIMIT + 2.0]),
    ),
    "DATE": st.dates(date(2017, 2, 27), date(2017, 3, 2)),
    "TIMESTAMP": st.builds(
        lambda day, micros: datetime(2017, 3, day) + timedelta(microseconds=micros),
        st.integers(1, 2),
        st.sampled_from([0, 1, 999_999, 43_200_000_000]),
    ),
    "VARCHAR": st.sampled_from(["", "a", "A", "b", "é", "\U0001f600", "10", "9", "NaN"]),
}
TYPES = list(VALUES)
NAN = st.just(math.nan)

# Of an expectation about single rows, every row is judged for itself: one example judges many.
few = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
ROWS = {"min_size": 8, "max_size": 30}


def refused(
    kinds: Sequence[str], rows: Mapping[str, Sequence[tuple[Any, ...]]], *expectations: Expectation
) -> set[str]:
    """Those of the partitions that do not meet the expectations."""
    columns = tuple(Column(f"c{at}", kind, "A column.", nullable=True) for at, kind in enumerate(kinds))
    source: Source = replace(SALES, columns=columns, key=(), event_time=None, expectations=expectations)
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "candidate.duckdb"
        with duckdb.connect(str(database)) as connection:
            declared = ", ".join(f"{column.name} {column.type}" for column in columns)
            connection.execute(f"create table {TABLE} ({PARTITION_COLUMN} varchar, {declared})")
            flat = [[partition, *row] for partition, some in rows.items() for row in some]
            for row in flat:
                connection.execute(f"insert into {TABLE} values ({', '.join('?' * (1 + len(kinds)))})", row)
        counts = {partition: len(some) for partition, some in rows.items()}
        candidate = Candidate(source, database, tuple(rows), {}, {}, counts, ())
        return {problem.partition for problem in judge(candidate)}


def each_refused(kinds: Sequence[str], rows: Sequence[tuple[Any, ...]], expectation: Expectation) -> list[bool]:
    """Of every row, as a partition of its own, whether it does not meet the expectation."""
    found = refused(kinds, {str(at): [row] for at, row in enumerate(rows)}, expectation)
    return [str(at) in found for at in range(len(rows))]


def column_of(kind: str, **sizes: int) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    values = VALUES[kind] | NAN if kind == "DOUBLE" else VALUES[kind]
    return st.lists(st.tuples(st.none() | values), **sizes)


def moment(value: Any) -> Any:
    """Dates as times, so that bounds of the one are compared with values of the other."""
    return datetime(value.year, value.month, value.day) if type(value) is date else value


BOUNDS = {
    **VALUES,
    "BIGINT": VALUES["BIGINT"] | VALUES["DOUBLE"] | st.just(2**70),
    "DOUBLE": VALUES["DOUBLE"] | VALUES["BIGINT"],
    "DATE": VALUES["DATE"] | VALUES["TIMESTAMP"],
    "TIMESTAMP": VALUES["DATE"] | VALUES["TIMESTAMP"],
}


@pytest.mark.parametrize("kind", TYPES)
def test_between_is_exact_and_nan_is_between_nothing(kind: str) -> None:
    @few
    @given(
        column_of(kind, **ROWS),
        st.lists(BOUNDS[kind], min_size=2, max_size=2),
        st.sampled_from(["both", "min", "max"]),
        st.tuples(st.booleans(), st.booleans(), st.booleans()),
    )
    def holds(rows: list[tuple[Any, ...]], bounds: list[Any], given_: str, flags: tuple[bool, bool, bool]) -> None:
        strict_min, strict_max, as_text = flags
        low, high = sorted(map(moment, bounds))
        above, below = (operator.gt if strict_min else operator.ge), (operator.lt if strict_max else operator.le)

        def met(value: Any) -> bool:
            return (given_ == "max" or above(value, low)) and (given_ == "min" or below(value, high))

        written = [str(bound) if as_text and isinstance(bound, date) else bound for bound in (low, high)]
        arguments = {"min_value": written[0], "strict_min": strict_min} if given_ != "max" else {}
        arguments |= {"max_value": written[1], "strict_max": strict_max} if given_ != "min" else {}
        expectation = expect("column_values_to_be_between", column="c0", **arguments)
        expected = [value is not None and not met(moment(value)) for (value,) in rows]
        assert each_refused([kind], rows, expectation) == expected

    holds()


@pytest.mark.parametrize("kind", TYPES)
def test_sets_are_exact_and_nan_is_in_none(kind: str) -> None:
    @few
    @given(column_of(kind, **ROWS), st.lists(BOUNDS[kind], max_size=4), st.booleans(), st.booleans())
    def holds(rows: list[tuple[Any, ...]], members: list[Any], as_text: bool, negated: bool) -> None:
        written = [str(member) if as_text and isinstance(member, date) else member for member in members]
        name = "column_values_to_not_be_in_set" if negated else "column_values_to_be_in_set"
        inside = [any(moment(value) == moment(member) for member in members) for (value,) in rows]
        expected = [value is not None and is_in == negated for (value,), is_in in zip(rows, inside, strict=True)]
        assert each_refused([kind], rows, expect(name, column="c0", value_set=written)) == expected

    holds()


@pytest.mark.parametrize("kind", TYPES)
def test_uniqueness_and_missing_values_are_exact(kind: str) -> None:
    @few
    @given(column_of(kind, max_size=6))
    def holds(rows: list[tuple[Any, ...]]) -> None:
        present = [value for (value,) in rows if value is not None]
        counts = Counter("is NaN" if value != value else value for value in present)
        unique = expect("column_values_to_be_unique", column="c0")
        assert (refused([kind], {DAY: rows}, unique) == set()) == all(count == 1 for count in counts.values())
        present_only = expect("column_values_to_not_be_null", column="c0")
        assert (refused([kind], {DAY: rows}, present_only) == set()) == (len(present) == len(rows))

    holds()


PAIRS = [*((kind, kind) for kind in TYPES), ("BIGINT", "DOUBLE"), ("DOUBLE", "BIGINT"), ("DATE", "TIMESTAMP")]


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_comparisons_of_two_columns_are_exact_and_a_missing_value_meets_none(kinds: tuple[str, str]) -> None:
    values = [st.none() | (VALUES[kind] | NAN if kind == "DOUBLE" else VALUES[kind]) for kind in kinds]

    @few
    @given(st.lists(st.tuples(*values), **ROWS), st.booleans(), st.sampled_from([">", ">=", "=="]))
    def holds(rows: list[tuple[Any, Any]], either: bool, sign: str) -> None:
        compare = {">": operator.gt, ">=": operator.ge, "==": operator.eq}[sign]
        rule = "either_value_is_missing" if either else "both_values_are_missing"
        pair = {"column_A": "c0", "column_B": "c1", "ignore_row_if": rule}
        if sign == "==":
            expectation = expect("column_pair_values_to_be_equal", **pair)
        else:
            expectation = expect("column_pair_values_a_to_be_greater_than_b", or_equal=sign == ">=", **pair)
        expected = []
        for a, b in rows:
            missing = [value is None for value in (a, b)]
            expected.append(not either and not all(missing) if any(missing) else not compare(moment(a), moment(b)))
        assert each_refused(kinds, rows, expectation) == expected

    holds()


@few
@given(
    st.lists(st.tuples(st.none() | VALUES["BIGINT"], st.none() | VALUES["VARCHAR"]), **ROWS),
    st.lists(st.tuples(VALUES["BIGINT"], VALUES["VARCHAR"]), max_size=3),
)
def test_pairs_in_a_set_and_sums_are_exact(rows: list[tuple[Any, Any]], pairs: list[tuple[Any, Any]]) -> None:
    within = expect("column_pair_values_to_be_in_set", column_A="c0", column_B="c1", value_pairs_set=pairs)
    expected = [row != (None, None) and row not in pairs for row in rows]
    assert each_refused(["BIGINT", "VARCHAR"], rows, within) == expected
    numbers = [(a, None if b is None else len(b)) for a, b in rows]
    total = next((a + b for a, b in numbers if None not in (a, b)), 0)
    summed = expect("multicolumn_sum_to_equal", column_list=["c0", "c1"], sum_total=total)
    expected = [row != (None, None) and (None in row or sum(row) != total) for row in numbers]
    assert each_refused(["BIGINT", "BIGINT"], numbers, summed) == expected


def test_the_largest_whole_number_is_told_exactly() -> None:
    rows = {DAY: [(LIMIT,), (LIMIT + 1,), (None,)]}
    assert refused(["BIGINT"], rows, expect("column_max_to_be_between", column="c0", max_value=LIMIT + 1)) == set()
    assert {DAY} == refused(["BIGINT"], rows, expect("column_max_to_be_between", column="c0", max_value=LIMIT))


@pytest.mark.parametrize(
    "expectation",
    [
        expect("column_mean_to_be_between", column="c0", min_value=0, max_value=9),
        expect("column_max_to_be_between", column="c0", max_value=9),
    ],
)
def test_a_statistic_over_nan_is_not_met(expectation: Expectation) -> None:
    assert refused(["DOUBLE"], {DAY: [(1.0,), (None,)]}, expectation) == set()
    assert refused(["DOUBLE"], {DAY: [(1.0,), (math.nan,)]}, expectation) == {DAY}


@pytest.mark.parametrize(
    ("kind", "bound", "reason"),
    [
        ("DATE", "2017-13-01", "'2017-13-01' is no date or time"),
        ("TIMESTAMP", "2017-03-01T00:00:00+09:00", "has a time zone"),
        ("BIGINT", "5", "'5' is no BIGINT"),
        ("VARCHAR", 5, "5 is no VARCHAR"),
    ],
)
def test_a_bound_that_is_no_value_of_the_column_is_named(kind: str, bound: Any, reason: str) -> None:
    with pytest.raises(ExpectationError, match=reason):
        refused([kind], {DAY: [(None,)]}, expect("column_values_to_be_between", column="c0", min_value=bound))


def test_a_share_of_rows_that_may_differ_is_counted_exactly() -> None:
    rows = {DAY: [(LIMIT,), (LIMIT + 1,), (LIMIT + 1,), (None,)]}
    within = expect("column_values_to_be_between", column="c0", min_value=LIMIT + 1, mostly=0.6)
    assert refused(["BIGINT"], rows, within) == set()
    assert refused(["BIGINT"], rows, replace(within, arguments={**within.arguments, "mostly": 0.7})) == {DAY}
