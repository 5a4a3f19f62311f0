"""Known elasticities are found again, with intervals that hold them."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from ml_assets.pricing.elasticity import elasticities, observations
from tests.ml_assets.pricing.shop import Grocery, grocery

TRUE = (-1.0, -1.5, -2.0, -2.5)


def observed(connection: duckdb.DuckDBPyConnection, shop: Grocery) -> pa.Table:
    tables = (shop.product_weeks, shop.promotions, shop.products)
    return observations(connection, *(connection.from_arrow(table) for table in tables)).to_arrow_table()


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    with duckdb.connect() as connection:
        return observed(connection, grocery(40, 400, elasticities=TRUE, level=6))


def test_elasticities_by_category_are_found_beside_mailer_and_displays(rows: pa.Table) -> None:
    found = elasticities(rows).to_pylist()
    assert [row["category"] for row in found] == [f"CATEGORY {n}" for n in range(4)] + [None]
    for row, true in zip(found[:4], TRUE, strict=True):
        assert row["elasticity"] == pytest.approx(true, abs=0.15)
        assert row["low"] < row["elasticity"] < row["high"]
    assert found[4]["elasticity"] == pytest.approx(np.mean(TRUE), abs=0.15)


def test_intervals_hold_the_true_elasticity_about_as_often_as_they_say(connection: duckdb.DuckDBPyConnection) -> None:
    held = 0
    for seed in range(12):
        found = elasticities(observed(connection, grocery(20, 80, seed, elasticities=TRUE, level=30))).to_pylist()
        held += sum(row["low"] <= true <= row["high"] for row, true in zip(found, TRUE, strict=False))
    assert 38 <= held <= 47


def test_a_category_with_few_products_gets_the_mean_of_all_with_a_wide_interval(rows: pa.Table) -> None:
    few = rows.to_pylist()
    alone = few[0]["product_id"]
    found = {
        row["category"]: row
        for row in elasticities(
            pa.Table.from_pylist([{**row, "category": "ALONE"} if row["product_id"] == alone else row for row in few])
        ).to_pylist()
    }
    assert found["ALONE"]["estimate"] is None
    assert found["ALONE"]["elasticity"] == found[None]["elasticity"]
    width = {name: row["high"] - row["low"] for name, row in found.items()}
    assert width["ALONE"] > 3 * width["CATEGORY 0"]


def test_a_noisy_category_is_drawn_to_the_mean_of_all(rows: pa.Table) -> None:
    kept = rows["product_id"].to_numpy()
    kept = (kept % 4 != 3) | (kept < 1060)
    found = {row["category"]: row for row in elasticities(rows.filter(pa.array(kept))).to_pylist()}
    noisy, centre = found["CATEGORY 3"], found[None]["elasticity"]
    assert abs(noisy["elasticity"] - centre) < abs(noisy["estimate"] - centre)


def test_equal_rows_in_any_order_give_equal_numbers(rows: pa.Table) -> None:
    shuffled = rows.take(np.random.default_rng(1).permutation(rows.num_rows))
    assert elasticities(shuffled).equals(elasticities(rows))


def test_products_that_seldom_sell_or_never_change_price_are_left_out(connection: duckdb.DuckDBPyConnection) -> None:
    shop = grocery(40, 60, level=6)
    sales = shop.product_weeks.to_pylist()
    constant, seldom = sales[0]["product_id"], sales[1]["product_id"]
    assert {constant, seldom} <= set(observed(connection, shop)["product_id"].to_pylist())
    for row in sales:
        if row["product_id"] == constant:
            row["price_usd"] = 2.0
    sales = [row for row in sales if row["product_id"] != seldom or row["week"].day % 3 == 0]
    other = Grocery(pa.Table.from_pylist(sales), shop.promotions, shop.products)
    assert not {constant, seldom} & set(observed(connection, other)["product_id"].to_pylist())


def test_a_week_without_a_sale_keeps_the_last_price(connection: duckdb.DuckDBPyConnection) -> None:
    shop = grocery(40, 60, level=2)
    prices = {(r["week"], r["product_id"]): r["price_usd"] for r in shop.product_weeks.to_pylist()}
    empty = [row for row in observed(connection, shop).to_pylist() if row["units"] == 0]
    assert empty
    for row in empty:
        last = max(week for week, product in prices if product == row["product_id"] and week < row["week"])
        assert row["log_price"] == pytest.approx(np.log(prices[last, row["product_id"]]))


def test_nothing_to_learn_from_is_refused(rows: pa.Table) -> None:
    with pytest.raises(ValueError, match="prices that vary"):
        elasticities(rows.slice(0, 0))
