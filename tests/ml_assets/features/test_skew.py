"""Clean data has no skew; what was tampered with is found, with its cause."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from ml_assets.features.joins import served_view
from ml_assets.features.materialization import materialize
from ml_assets.features.skew import MEANINGS, Cause, Skew, view_skew
from resources.feature_store.online_rows import OnlineRows, open_rows
from tests.ml_assets.features.grocery import BEFORE, DISCOUNT, PRICES, WEEKS, Grocery, Row

REACH = WEEKS[2:]


@pytest.fixture
def rows(tmp_path: Path) -> OnlineRows:
    return open_rows(str(tmp_path / "rows.sqlite"))


@pytest.fixture
def materialized(grocery: Grocery, rows: OnlineRows) -> Grocery:
    """The grocery, all of whose weeks are served."""
    grocery.write({week: grocery.rows.get(week, []) for week in [*BEFORE, *WEEKS]})
    with grocery.warehouse.reader() as lake:
        materialize(lake, PRICES, rows, WEEKS)
    return grocery


def skewed(grocery: Grocery, rows: OnlineRows, **changed: object) -> dict[str, Skew]:
    with grocery.warehouse.reader() as lake:
        found = view_skew(lake, PRICES, rows, WEEKS[-1], REACH, (DISCOUNT,), **changed)  # type: ignore[arg-type]
    return {one.feature: one for one in found}


def causes(found: dict[str, Skew]) -> dict[str, dict[Cause, int]]:
    return {feature: dict(one.causes) for feature, one in found.items() if one.causes}


def rewritten(grocery: Grocery, week: str, change: Callable[[Row], Row | None]) -> None:
    """Correct a week of the mart, and materialize nothing."""
    corrected = [row for row in map(change, grocery.rows[week]) if row is not None]
    grocery.write({week: corrected})


def test_what_was_just_materialized_has_no_skew(materialized: Grocery, rows: OnlineRows) -> None:
    found = skewed(materialized, rows)
    assert causes(found) == {}
    assert list(found) == ["regular_price_usd", "units_sold", "shelf", "proposed_discount"]
    assert all(one.compared == one.sampled == 19 and one.skew == 0 for one in found.values())


def test_a_correction_that_was_not_materialized_is_late_data(materialized: Grocery, rows: OnlineRows) -> None:
    rewritten(materialized, WEEKS[-1], lambda row: (row[0], row[1], row[2], "moved") if row[0] == 2 else row)
    found = skewed(materialized, rows)
    assert causes(found) == {"shelf": {Cause.LATE_DATA: 1}}
    assert found["shelf"].skew == 1 / 19
    assert found["shelf"].example == "product_id=2: online 's2', lake 'moved'"


def test_a_week_that_was_not_materialized_leaves_stale_rows(grocery: Grocery, rows: OnlineRows) -> None:
    grocery.write({week: grocery.rows.get(week, []) for week in [*BEFORE, *WEEKS]})
    with grocery.warehouse.reader() as lake:
        materialize(lake, PRICES, rows, WEEKS[:-1])
    found = causes(skewed(grocery, rows))
    assert found["units_sold"] == {Cause.STALE_ROW: len(grocery.rows[WEEKS[-1]])}


def test_a_row_that_left_the_lake_is_a_withdrawn_row(materialized: Grocery, rows: OnlineRows) -> None:
    rewritten(materialized, WEEKS[-1], lambda row: None if row[0] == 2 else row)
    assert causes(skewed(materialized, rows))["units_sold"] == {Cause.WITHDRAWN_ROW: 1}


def test_a_store_that_lost_its_rows_has_missing_rows(materialized: Grocery, rows: OnlineRows) -> None:
    rows.delete(served_view(PRICES).stored_as)
    assert causes(skewed(materialized, rows))["units_sold"] == {Cause.MISSING_ROW: 19}
    # Of an instant that the store has left behind, what it lacks may have expired.
    assert causes(skewed(materialized, rows, moved_on=True)) == {}


def test_a_reader_with_another_ttl_is_found(materialized: Grocery, rows: OnlineRows) -> None:
    impatient = replace(served_view(PRICES), ttl=timedelta(days=1))
    older = 19 - len(materialized.rows[WEEKS[-1]])
    assert causes(skewed(materialized, rows, served=impatient))["shelf"] == {Cause.TTL: older}


def test_a_reader_with_a_narrower_type_is_found(grocery: Grocery, rows: OnlineRows) -> None:
    grocery.rows = {week: [(one, one + 0.1, *rest) for one, _, *rest in sold] for week, sold in grocery.rows.items()}  # type: ignore[misc]
    grocery.write({week: grocery.rows.get(week, []) for week in [*BEFORE, *WEEKS]})
    narrow = replace(served_view(PRICES), features={**served_view(PRICES).features, "regular_price_usd": "float32"})
    with grocery.warehouse.reader() as lake:
        materialize(lake, PRICES, rows, WEEKS)
        from ml_assets.features.materialization import online_values
        from resources.feature_store.online_writer import refresh

        refresh(rows, narrow, [online_values(lake, PRICES, [WEEKS[-1]])], PRICES.known_at(WEEKS[-1]), "event_time")
    found = causes(skewed(grocery, rows))
    assert found == {"regular_price_usd": {Cause.TYPE: 19}}


def test_a_transform_that_depends_on_more_than_its_inputs_is_found(materialized: Grocery, rows: OnlineRows) -> None:
    calls = count()

    def counted(proposed_price_usd: float, regular_price_usd: float) -> float:
        return float(next(calls))

    with materialized.warehouse.reader() as lake:
        found = view_skew(lake, PRICES, rows, WEEKS[-1], REACH, (replace(DISCOUNT, function=counted),))
    assert causes({one.feature: one for one in found}) == {"proposed_discount": {Cause.TRANSFORM: 19}}


def test_every_cause_says_what_to_do() -> None:
    assert set(MEANINGS) == set(Cause)
