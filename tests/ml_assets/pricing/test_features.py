"""A feature row holds what was known when its week began, and equals what a loop over the weeks before finds."""

from datetime import date

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ml_assets.pricing.features import FEATURES, NAMES, UNPLANNED
from tests.ml_assets.pricing.shop import Grocery, feature_rows, grocery, week_of

ASKED = range(10, 24)
CUT = week_of(18)


@pytest.fixture(scope="module")
def shop() -> Grocery:
    return grocery(24, 40)


def changed_from(table: pa.Table, week: date, columns: list[str]) -> pa.Table:
    """`table` with other numbers in `columns`, and every third row gone, from `week` on."""
    later = pc.greater_equal(table["week"], pa.scalar(week)).to_numpy()
    for name in columns:
        values = table[name].to_numpy()
        changed = np.where(later, values * 3 + 1, values).astype(values.dtype)
        table = table.set_column(table.column_names.index(name), name, pa.array(changed))
    return table.filter(pa.array(~later | (np.arange(table.num_rows) % 3 > 0)))


def test_sales_of_a_week_or_later_change_no_feature_of_it(connection: duckdb.DuckDBPyConnection, shop: Grocery) -> None:
    columns = ["units", "baskets", "stores", "regular_price_usd", "price_usd", "discount_depth"]
    other = Grocery(changed_from(shop.product_weeks, CUT, columns), shop.promotions, shop.products)
    before, after = (feature_rows(connection, one, ASKED) for one in (shop, other))
    known = pc.less_equal(before["week"], pa.scalar(CUT))
    assert after.filter(known).select(NAMES).equals(before.filter(known).select(NAMES))
    assert not after.select(NAMES).equals(before.select(NAMES))


def test_promotions_of_a_week_change_only_planned_features_of_it(
    connection: duckdb.DuckDBPyConnection, shop: Grocery
) -> None:
    changed = changed_from(shop.promotions, CUT, ["mailer_stores", "display_stores"])
    other = Grocery(shop.product_weeks, changed, shop.products)
    before, after = (feature_rows(connection, one, ASKED) for one in (shop, other))
    earlier, own = pc.less(before["week"], pa.scalar(CUT)), pc.equal(before["week"], pa.scalar(CUT))
    assert after.filter(earlier).select(NAMES).equals(before.filter(earlier).select(NAMES))
    moved = {name for name in NAMES if not after.filter(own).select([name]).equals(before.filter(own).select([name]))}
    assert "mailer_planned" in moved
    assert moved <= set(NAMES) - set(UNPLANNED)


def test_features_equal_a_loop_over_the_weeks_before(connection: duckdb.DuckDBPyConnection, shop: Grocery) -> None:
    rows = feature_rows(connection, shop, ASKED).to_pylist()
    sold = {(r["week"], r["product_id"]): r for r in shop.product_weeks.to_pylist()}
    promoted = {(r["week"], r["product_id"]): r for r in shop.promotions.to_pylist()}

    def state(age: int, product: int) -> int:
        row = promoted.get((week_of(age), product), {"mailer_stores": 0, "display_stores": 0})
        return 2 if row["mailer_stores"] else int(row["display_stores"] > 0)

    assert {row["week"] for row in rows} == {week_of(age) for age in ASKED}
    for row in rows[::7]:
        product, age = row["product_id"], (row["week"] - week_of(0)).days // 7
        past = [sold.get((week_of(n), product)) for n in range(age)]
        units = [0 if one is None else one["units"] for one in past]
        assert row["units_lag_1"] == units[-1]
        assert row["units_mean_8"] == pytest.approx(np.mean(units[-8:]))
        assert row["units_median_8"] == pytest.approx(np.median(units[-8:]))
        weight = 0.5 ** (np.arange(age)[::-1] / 6)
        assert row["units_smoothed_6"] == pytest.approx(weight @ units / weight.sum(), abs=1e-5)
        last = max((n for n in range(age) if past[n] is not None), default=None)
        assert row["weeks_since_sale"] == (None if last is None else age - last)
        planned = state(age, product)
        alike = [n for n in range(max(0, age - 26), age) if state(n, product) == planned]
        assert row["weeks_as_planned"] == len(alike)
        assert row["units_as_planned"] == (pytest.approx(np.mean([units[n] for n in alike])) if alike else None)
        priced = [one for n in range(age) if state(n, product) == planned and (one := past[n]) is not None]
        ratio = priced[-1]["price_usd"] / priced[-1]["regular_price_usd"] if priced else None
        assert row["planned_price_ratio"] == (None if ratio is None else pytest.approx(ratio, abs=1e-6))
        assert row["units_deviation_13"] == pytest.approx(np.std(units[-13:]), abs=1e-6)
        assert row["sold_share_known"] == pytest.approx(np.mean([one is not None for one in past]))
        assert row["usual_units"] == pytest.approx(row["units_smoothed_6"] + 0.1, abs=1e-5)


def test_listed_are_the_products_that_sold_in_a_fifth_of_the_weeks_before(
    connection: duckdb.DuckDBPyConnection, shop: Grocery
) -> None:
    sold = {(row["product_id"], row["week"]) for row in shop.product_weeks.to_pylist()}
    expected = {
        (week_of(age), product)
        for age in ASKED
        for product in range(1000, 1040)
        if sum((product, week_of(n)) in sold for n in range(age)) / age >= 0.2
    }
    rows = feature_rows(connection, shop, ASKED)
    assert set(zip(rows["week"].to_pylist(), rows["product_id"].to_pylist(), strict=True)) == expected
    assert len(expected) < 40 * len(ASKED)


def test_a_week_has_the_same_bytes_whichever_others_are_computed_with_it(
    connection: duckdb.DuckDBPyConnection, shop: Grocery
) -> None:
    together = feature_rows(connection, shop, ASKED)
    for age in ASKED[::4]:
        alone = feature_rows(connection, shop, [age])
        assert alone.num_rows > 0
        assert alone.equals(together.filter(pc.equal(together["week"], pa.scalar(week_of(age)))).combine_chunks())


def test_a_week_without_a_plan_yet_is_taken_to_be_promoted_as_the_one_before(
    connection: duckdb.DuckDBPyConnection, shop: Grocery
) -> None:
    age = ASKED[-1]
    known = shop.promotions.filter(pc.less(shop.promotions["week"], pa.scalar(week_of(age))))
    before = known.filter(pc.equal(known["week"], pa.scalar(week_of(age - 1))))
    copied = before.set_column(0, "week", pa.array([week_of(age)] * before.num_rows, before["week"].type))
    unplanned, planned = (
        feature_rows(connection, Grocery(shop.product_weeks, promotions, shop.products), [age])
        for promotions in (known, pa.concat_tables([known, copied]))
    )
    assert pc.sum(unplanned["mailer_planned"]).as_py() > 0
    assert unplanned.equals(planned)


def test_a_categorys_units_are_those_of_all_its_products(connection: duckdb.DuckDBPyConnection, shop: Grocery) -> None:
    sales, age = shop.product_weeks, 20
    row = next(r for r in feature_rows(connection, shop, [age]).to_pylist() if r["product_id"] % 4 == 2)
    of_category = pc.equal(pc.bit_wise_and(sales["product_id"], 3), 1002 & 3)
    recent = pc.is_in(sales["week"], value_set=pa.array([week_of(age - n) for n in range(1, 9)]))
    expected = pc.sum(sales.filter(pc.and_(of_category, recent))["units"]).as_py() / 8
    assert row["category_units_mean_8"] == pytest.approx(expected)


def test_closed_days_and_holidays_are_counted_in_their_weeks(
    connection: duckdb.DuckDBPyConnection, shop: Grocery
) -> None:
    rows = feature_rows(connection, shop, range(50, 52)).to_pylist()
    assert {(str(r["week"]), r["holidays"], r["holidays_next"], r["open_days"]) for r in rows} == {
        ("2017-12-18", 0.0, 1.0, 7.0),
        ("2017-12-25", 1.0, 0.0, 6.0),
    }


def test_the_first_week_of_one_day_is_left_out(connection: duckdb.DuckDBPyConnection, shop: Grocery) -> None:
    first = shop.product_weeks.filter(pc.equal(shop.product_weeks["week"], pa.scalar(week_of(0))))
    sunday = first.set_column(0, "week", pa.array([week_of(-1)] * first.num_rows, first["week"].type))
    other = Grocery(pa.concat_tables([sunday, shop.product_weeks]), shop.promotions, shop.products)
    assert feature_rows(connection, other, ASKED).equals(feature_rows(connection, shop, ASKED))


def test_every_feature_is_described_once() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(feature.description.endswith(".") for feature in FEATURES)
