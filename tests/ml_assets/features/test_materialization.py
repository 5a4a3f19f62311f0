"""What is served equals what the lake says at the same instant, in whatever order partitions are materialized."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_assets.features.joins import served_view
from ml_assets.features.materialization import checksum, materialize, online_values
from ml_assets.features.views import EVENT_TIME
from resources.feature_store.online_rows import OnlineRows, open_rows
from resources.feature_store.reader import OnlineReader
from tests.ml_assets.features.grocery import BEFORE, PRICES, WEEKS, Grocery, Row

Sold = dict[str, list[Row]]

PRODUCTS = range(1, 6)


def rows_of_a_week() -> st.SearchStrategy[list[Row]]:
    row = st.tuples(
        st.sampled_from(PRODUCTS),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.text(max_size=3),
    )
    return st.lists(row, max_size=5, unique_by=lambda one: one[0])


def oracle(sold: Sold, instant: datetime) -> dict[int, Row]:
    """Each product's newest row that is known and not too old, by plain loops over weeks."""
    found: dict[int, Row] = {}
    for week in WEEKS:
        if instant - PRICES.ttl <= PRICES.known_at(week) <= instant:
            found |= {row[0]: row for row in sold.get(week, [])}
    return found


def served(rows: OnlineRows, instant: datetime) -> dict[int, Row]:
    """What a reader is told at `instant`."""
    reader = OnlineReader(rows, [served_view(PRICES)], now=instant.timestamp)
    answer = reader.read(PRICES.select().references, {"product_id": list(PRODUCTS)})
    events = next(iter(answer.event_times().values()))
    values = zip(PRODUCTS, *answer.columns.values(), strict=True)
    return {
        row[0]: row  # type: ignore[misc]
        for row, event in zip(values, events, strict=True)
        if event is not None and event >= instant - PRICES.ttl
    }


def stored(grocery: Grocery, sold: Sold) -> None:
    grocery.write({week: sold.get(week, []) for week in [*BEFORE, *WEEKS]})


def brought_to(grocery: Grocery, rows: OnlineRows, *weeks: str) -> list[dict[str, Any]]:
    with grocery.warehouse.reader() as lake:
        found: list[dict[str, Any]] = materialize(lake, PRICES, rows, weeks).to_pylist()
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.fixed_dictionaries({week: rows_of_a_week() for week in WEEKS}),
    corrected=st.dictionaries(st.sampled_from(WEEKS), rows_of_a_week()),
    order=st.permutations(WEEKS),
)
def test_online_equals_offline_after_any_order_of_weeks_and_corrections(
    grocery: Grocery, tmp_path_factory: pytest.TempPathFactory, before: Sold, corrected: Sold, order: list[str]
) -> None:
    rows = open_rows(str(tmp_path_factory.mktemp("online") / "rows.sqlite"))
    last = PRICES.known_at(WEEKS[-1])
    stored(grocery, before)
    brought_to(grocery, rows, *WEEKS[:4])
    assert served(rows, PRICES.known_at(WEEKS[3])) == oracle(before, PRICES.known_at(WEEKS[3]))
    for week in order:
        brought_to(grocery, rows, week)
    assert served(rows, last) == oracle(before, last)
    now = {**before, **corrected}
    stored(grocery, now)
    # The weeks that a correction concerns, as their requirements say: its own and those that look back to it.
    for week in [w for w in order if any(abs(WEEKS.index(w) - WEEKS.index(c)) <= 2 for c in corrected)]:
        brought_to(grocery, rows, week)
    assert served(rows, last) == oracle(now, last)


@pytest.fixture
def rows(tmp_path: Path) -> OnlineRows:
    return open_rows(str(tmp_path / "rows.sqlite"))


def test_materializing_an_old_week_again_leaves_newer_values(grocery: Grocery, rows: OnlineRows) -> None:
    stored(grocery, {WEEKS[0]: [(1, 1.0, 1, "old"), (2, 2.0, 2, "old")], WEEKS[1]: [(1, 1.5, 3, "new")]})
    brought_to(grocery, rows, *WEEKS[:2])
    brought_to(grocery, rows, WEEKS[0])
    assert served(rows, PRICES.known_at(WEEKS[1])) == {1: (1, 1.5, 3, "new"), 2: (2, 2.0, 2, "old")}


def test_a_row_that_a_correction_took_out_gives_way_to_the_one_before(grocery: Grocery, rows: OnlineRows) -> None:
    sold: Sold = {WEEKS[0]: [(1, 1.0, 1, "before")], WEEKS[1]: [(1, 9.0, 9, "mistaken"), (2, 9.0, 9, "mistaken")]}
    stored(grocery, sold)
    brought_to(grocery, rows, *WEEKS[:2])
    stored(grocery, {**sold, WEEKS[1]: []})
    brought_to(grocery, rows, WEEKS[1])
    assert served(rows, PRICES.known_at(WEEKS[1])) == {1: (1, 1.0, 1, "before")}


def test_a_value_is_served_until_its_ttl_has_passed_and_not_longer(grocery: Grocery, rows: OnlineRows) -> None:
    stored(grocery, {WEEKS[2]: [(1, 1.0, 1, "x")]})
    brought_to(grocery, rows, WEEKS[2])
    until = PRICES.known_at(WEEKS[2]) + PRICES.ttl
    assert served(rows, until) == {1: (1, 1.0, 1, "x")}
    assert served(rows, until + timedelta(microseconds=1)) == {}
    brought_to(grocery, rows, WEEKS[5])
    assert rows.count(served_view(PRICES).stored_as) == 0


def test_a_summary_says_what_the_store_was_given(grocery: Grocery, rows: OnlineRows) -> None:
    stored(grocery, grocery.rows)
    together = brought_to(grocery, rows, *WEEKS)
    assert together == [one for week in WEEKS for one in brought_to(grocery, rows, week)]
    assert [one["partition_key"] for one in together] == WEEKS
    with grocery.warehouse.reader() as lake:
        values = online_values(lake, PRICES, [WEEKS[-1]])
    view = served_view(PRICES)
    keys = view.keys.of_table(values)
    held = [row for row in rows.read(keys) if row is not None]
    assert together[-1]["checksum"] == checksum(keys, held)
    assert together[-1]["keys"] == len(held) == 19
    assert together[-1]["newest_keys"] == len(grocery.rows[WEEKS[-1]])
    assert together[-1]["oldest_event_time"] == min(values[EVENT_TIME].to_pylist())
