"""A training set gets of declared views what was known at each row's time, and reads no more than it says."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pytest

from ml_assets.sdk.declaration_error import DeclarationError
from ml_assets.sdk.feature_views import FeatureView, StartOf
from ml_assets.sdk.view_features import ViewFeatures
from ml_assets.sdk.windows import upstream_keys
from platform_assets.partitions import COMMERCE_WEEKLY
from tests.ml_assets.features.grocery import BEFORE, PRICES, WEEKS, Grocery, Row

AHEAD = replace(PRICES, timestamp=StartOf("week"))
"""The same rows, known when their week begins."""
VIEWS = pytest.mark.parametrize("view", [PRICES, AHEAD], ids=["end", "start"])
PRODUCTS = range(1, 20)


def filled(grocery: Grocery, only: list[str] | None = None) -> Grocery:
    there = WEEKS if only is None else only
    grocery.write({week: grocery.rows[week] if week in WEEKS and week in there else [] for week in [*BEFORE, *WEEKS]})
    return grocery


def moments(week: str) -> list[datetime]:
    """When the week begins, in the middle of it, and just before it ends."""
    window = COMMERCE_WEEKLY.time_window_for_partition_key(week)
    return [window.start, window.start + timedelta(days=3), window.end - timedelta(microseconds=1)]


def features(view: FeatureView) -> ViewFeatures:
    return ViewFeatures((view.select("units_sold", "regular_price_usd"),))


def asked(lake: duckdb.DuckDBPyConnection, view: FeatureView, week: str) -> list[tuple[object, ...]]:
    rows = [(product, moment) for moment in moments(week) for product in PRODUCTS]
    products, times = zip(*rows, strict=True)
    table = pa.table(
        {"product_id": pa.array(products, pa.int64()), "asked_at": pa.array(times, pa.timestamp("us", tz="UTC"))}
    )
    return features(view).join(lake, lake.from_arrow(table)).order("asked_at, product_id").fetchall()


def known(grocery: Grocery, view: FeatureView, product: int, moment: datetime) -> tuple[object, object, object]:
    """By plain loops: the newest row of the product that was known and not too old, and when it was known."""
    found: Row | None = None
    since: datetime | None = None
    for week in WEEKS:
        for row in grocery.rows[week]:
            if row[0] == product and moment - view.ttl <= view.known_at(week) <= moment:
                found, since = row, view.known_at(week)
    return (found[2], found[1], since) if found else (None, None, None)


@VIEWS
@pytest.mark.parametrize("week", WEEKS)
def test_features_are_what_was_known_at_the_rows_time(grocery: Grocery, view: FeatureView, week: str) -> None:
    with filled(grocery).warehouse.reader() as lake:
        for product, moment, *found in asked(lake, view, week):
            assert isinstance(moment, datetime)
            assert isinstance(product, int)
            units, price, since = found
            moment = moment.astimezone(UTC)
            assert (units, price, since) == known(grocery, view, product, moment), (product, moment)


@pytest.mark.parametrize(("view", "first"), [(PRICES, 1), (AHEAD, 2)], ids=["end", "start"])
def test_the_partitions_that_it_says_it_reads_are_enough(grocery: Grocery, view: FeatureView, first: int) -> None:
    week = WEEKS[4]
    with filled(grocery).warehouse.reader() as lake:
        whole = asked(lake, view, week)
    (dep,) = features(view).deps
    mapping = dep.partition_mapping
    read = upstream_keys(COMMERCE_WEEKLY, week, COMMERCE_WEEKLY, mapping.start_offset, mapping.end_offset)  # type: ignore[union-attr]
    assert read == WEEKS[first : first + 3]
    with filled(grocery, read).warehouse.reader() as lake:
        assert asked(lake, view, week) == whole


def test_what_is_selected_twice_is_refused() -> None:
    with pytest.raises(DeclarationError, match="view prices is selected twice"):
        ViewFeatures((PRICES.select("shelf"), PRICES.select("units_sold")))
    with pytest.raises(DeclarationError, match="feature shelf is selected twice"):
        ViewFeatures((PRICES.select("shelf", "shelf"),))


def test_a_mart_that_lacks_a_declared_column_is_refused_by_name(grocery: Grocery) -> None:
    with grocery.warehouse.reader() as lake, pytest.raises(DeclarationError, match="view 'prices'.*product_weeks"):
        asked(lake, PRICES, WEEKS[4])
