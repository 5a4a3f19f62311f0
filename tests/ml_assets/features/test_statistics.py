"""Statistics of parts, merged, are those of the whole; equal values give equal bytes."""

import math
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_assets.features.statistics import Statistics, merged, partition_statistics, statistics_of, stored_statistics
from tests.ml_assets.features.grocery import PRICES, WEEKS, Grocery

NUMBERS = st.none() | st.floats(-1e6, 1e6) | st.just(math.nan)


@settings(deadline=None)
@given(st.lists(st.lists(NUMBERS, max_size=40), min_size=1, max_size=6))
def test_merged_parts_count_as_the_whole(parts: list[list[float | None]]) -> None:
    found = merged(statistics_of("x", pa.array(part, pa.float64())) for part in parts)
    whole = statistics_of("x", pa.array([value for part in parts for value in part], pa.float64()))
    assert (found.rows, found.nulls, found.minimum, found.maximum) == (
        whole.rows,
        whole.nulls,
        whole.minimum,
        whole.maximum,
    )
    assert (found.mean is None) == (whole.mean is None)
    assert (found.mean or 0.0) == pytest.approx(whole.mean or 0.0, rel=1e-9, abs=1e-6)
    assert dict(found.top(1000)) == dict(whole.top(1000))


def test_merged_quantiles_are_near_those_of_all_values() -> None:
    values = np.random.default_rng(7).lognormal(size=50_000)
    found = merged(statistics_of("x", pa.array(part)) for part in np.array_split(values, 53))
    for rank in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99):
        quantile = found.quantile(rank)
        assert quantile is not None
        assert (values < quantile).mean() == pytest.approx(rank, abs=0.01)


def test_frequent_values_of_more_kinds_than_are_kept_are_found() -> None:
    texts = [f"rare {at}" for at in range(3_000)] + ["often"] * 500 + ["sometimes"] * 200
    random.Random(7).shuffle(texts)
    found = merged(statistics_of("x", pa.array(texts[at::7])) for at in range(7))
    assert [value for value, _ in found.top(2)] == ["often", "sometimes"]
    assert (found.minimum, found.mean, found.quantile(0.5)) == (None, None, None)


def test_equal_values_in_any_order_give_equal_bytes() -> None:
    values = [*np.random.default_rng(7).normal(size=5_000).round(2).tolist(), None, math.nan]
    shuffled = random.Random(7).sample(values, len(values))
    assert statistics_of("x", pa.array(values)) == statistics_of("x", pa.array(shuffled))


def test_whole_numbers_that_floats_do_not_hold_are_counted() -> None:
    found = statistics_of("x", pa.array([2**63 - 1, 2**63 - 1, None]))
    assert (found.rows, found.nulls, found.maximum) == (3, 1, 2.0**63)
    assert found.top() == [(str(2**63 - 1), 2)]


def test_a_column_without_values_has_statistics_that_merge() -> None:
    empty = statistics_of("x", pa.array([], pa.float64()))
    full = statistics_of("x", pa.array([1.0, 3.0]))
    assert (empty.rows, empty.mean, empty.quantile(0.5), empty.top()) == (0, None, None, [])
    assert merged([empty, full]).mean == 2.0


def test_statistics_of_different_features_are_not_merged() -> None:
    with pytest.raises(ValueError, match=r"of one feature can be merged, not of \['x', 'y'\]"):
        merged([statistics_of("x", pa.array([1])), statistics_of("y", pa.array([1]))])


def test_stored_partitions_merge_to_the_statistics_of_the_view(grocery: Grocery) -> None:
    grocery.write(grocery.rows)
    with grocery.warehouse.reader() as lake:
        table = partition_statistics(grocery.warehouse, lake, PRICES, WEEKS)
    found = stored_statistics(table)
    units = [row[2] for rows in grocery.rows.values() for row in rows]
    whole: Statistics = statistics_of("units_sold", pa.array(units))
    assert (found["units_sold"].rows, found["units_sold"].mean) == (len(units), whole.mean)
    assert dict(found["shelf"].top()).keys() == {"s0", "s1", "s2"}
    assert table.num_rows == len(WEEKS) * len(PRICES.features)
