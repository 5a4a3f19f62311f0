"""Errors are what their definitions say, and intervals of differences hold the truth."""

import duckdb
import numpy as np
import pytest

from ml_assets.pricing import backtest
from tests.ml_assets.pricing.shop import Grocery, grocery


@pytest.fixture(scope="module")
def shop() -> Grocery:
    return grocery(30, 120)


def test_errors_equal_their_definitions() -> None:
    sold, forecast = np.array([[4.0, 0.0], [1.0, 5.0]]), np.array([[2.0, 1.0], [1.0, 4.0]])
    found = backtest.errors(sold, forecast)
    assert (found.rows, found.units, found.wape) == (4, 10, 0.4)
    assert found.bias == pytest.approx(-0.2)
    assert backtest.coverage(sold, forecast, forecast + 1) == 0.5


def test_weeks_without_sales_have_no_error() -> None:
    with pytest.raises(ValueError, match="no units sold"):
        backtest.errors(np.zeros(3), np.ones(3))


def test_the_reported_products_are_those_with_twenty_weeks(
    connection: duckdb.DuckDBPyConnection, shop: Grocery
) -> None:
    counts: dict[int, int] = {}
    for product in shop.product_weeks["product_id"].to_pylist():
        counts[product] = counts.get(product, 0) + 1
    found = backtest.reported_products(connection.from_arrow(shop.product_weeks)).fetchall()
    assert [one for (one,) in found] == sorted(product for product, weeks in counts.items() if weeks >= 20)
    assert 0 < len(found) < 120


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
