"""Errors are what their definitions say, folds look only back, and intervals of differences hold the truth."""

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ml_assets.pricing import backtest
from tests.ml_assets.pricing.shop import Grocery, feature_rows, grocery, week_of


@pytest.fixture(scope="module")
def shop() -> Grocery:
    return grocery(30, 120)


@pytest.fixture(scope="module")
def rows(shop: Grocery) -> pa.Table:
    with duckdb.connect() as connection:
        return feature_rows(connection, shop, range(8, 30))


def test_errors_equal_their_definitions() -> None:
    sold, forecast = np.array([[4.0, 0.0], [1.0, 5.0]]), np.array([[2.0, 1.0], [1.0, 4.0]])
    found = backtest.errors(sold, forecast)
    assert (found.rows, found.units, found.wape) == (4, 10, 0.4)
    assert found.bias == pytest.approx(-0.2)
    assert backtest.coverage(sold, forecast, forecast + 1) == 0.5


def test_weeks_without_sales_have_no_error() -> None:
    with pytest.raises(ValueError, match="no units sold"):
        backtest.errors(np.zeros(3), np.ones(3))


def test_a_fold_trains_only_on_weeks_before_and_products_that_were_regular_by_then(rows: pa.Table) -> None:
    week = week_of(20)
    found = backtest.trainable(rows, week)
    assert pc.max(found["week"]).as_py() == week_of(19)
    share = {r["product_id"]: r["sold_share_known"] for r in rows.to_pylist() if r["week"] == week}
    regular = {one for one, value in share.items() if value >= 20 / 53}
    assert set(found["product_id"].to_pylist()) == regular
    assert 0 < len(regular) < len(share)


def test_what_is_sold_in_a_week_or_later_does_not_change_its_forecast(rows: pa.Table) -> None:
    week, products = week_of(24), pa.array(range(1000, 1120))
    later = pc.greater_equal(rows["week"], pa.scalar(week))
    units = pc.if_else(later, pc.add(pc.multiply(rows["units"], 3), 2), rows["units"])
    changed = rows.set_column(rows.column_names.index("units"), "units", units)
    (asked, before), (_, after) = (backtest.forecast_fold(one, week, products) for one in (rows, changed))
    assert asked["product_id"].to_pylist() == list(range(1000, 1120))
    np.testing.assert_array_equal(before.expected_units, after.expected_units)


def test_the_reported_products_are_those_with_twenty_weeks(
    connection: duckdb.DuckDBPyConnection, shop: Grocery
) -> None:
    counts: dict[int, int] = {}
    for product in shop.product_weeks["product_id"].to_pylist():
        counts[product] = counts.get(product, 0) + 1
    found = backtest.reported_products(connection.from_arrow(shop.product_weeks)).fetchall()
    assert [one for (one,) in found] == sorted(product for product, weeks in counts.items() if weeks >= 20)
    assert 0 < len(found) < 120


def test_a_first_week_of_one_day_is_left_out(connection: duckdb.DuckDBPyConnection, shop: Grocery) -> None:
    first = pc.equal(shop.product_weeks["week"], pa.scalar(week_of(0)))
    days = pc.if_else(first, pa.scalar(1), shop.product_weeks["days_sold"])
    sales = shop.product_weeks.set_column(shop.product_weeks.column_names.index("days_sold"), "days_sold", days)
    left = backtest.whole_weeks(connection.from_arrow(sales))
    assert left.aggregate("min(week)").fetchone() == (week_of(1),)


def test_the_rows_of_a_backtest_hold_all_that_its_folds_forecast_and_learn_from(
    connection: duckdb.DuckDBPyConnection, shop: Grocery
) -> None:
    sales = connection.from_arrow(shop.product_weeks)
    folds = [week_of(28), week_of(29)]
    found = backtest.entities(connection, sales, folds).fetchall()
    assert len(found) == len(set(found))
    assert min(week for week, _ in found) == week_of(backtest.FIRST_TRAINING_AGE)
    reported = {product for (product,) in backtest.reported_products(sales).fetchall()}
    assert reported <= {product for week, product in found if week == folds[0]}


@pytest.mark.parametrize("over", ["products", "weeks"])
def test_the_interval_of_a_difference_is_paired_and_holds_it(over: str) -> None:
    rng = np.random.default_rng(0)
    sold = rng.poisson(rng.gamma(1, 4, (300, 1)), (300, 20)).astype(float)
    worse = sold + rng.normal(0, 3, sold.shape)
    better = sold + (worse - sold) * 0.99
    found = backtest.difference(sold, better, worse, over=over)
    assert found.low < found.wape < found.high < 0
    assert found.wape == pytest.approx(backtest.errors(sold, better).wape - backtest.errors(sold, worse).wape)
    # Unpaired, either WAPE alone varies by more than their difference.
    assert found.high - found.low < 0.01
    assert backtest.difference(sold, worse, worse, over=over) == backtest.Difference(0.0, 0.0, 0.0)


def test_drawing_over_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="products, weeks"):
        backtest.difference(np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2)), over="stores")
