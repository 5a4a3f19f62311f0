"""Elasticities know only the weeks before, and a price that is stored keeps the rules; from lake to lake."""

from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ml_assets.pricing import elasticity
from ml_assets.pricing.price_assets import plausible, priced
from tests.evaluations import evaluations_of
from tests.ml_assets.pricing.market import FOLDS, UNFORECAST, Market, failure

pytestmark = pytest.mark.xdist_group("market")

WEEK = FOLDS[-3]


def verdicts(market: Market, result: dg.ExecuteInProcessResult) -> list[dg.AssetCheckEvaluation]:
    return sorted(evaluations_of(market.instance, result.run_id), key=lambda one: one.partition or "")


@pytest.mark.parametrize("name", ["price_elasticities", "price_recommendations", "demand_backtest"])
def test_a_week_built_alone_has_the_bytes_that_it_has_in_a_range(market: Market, name: str) -> None:
    before = market.checksums(name)
    assert market.build(name, [WEEK]).success
    assert market.checksums(name) == before


def test_elasticities_are_of_every_category_and_of_all_and_near_the_truth(market: Market) -> None:
    rows = market.stored("price_elasticities", WEEK)
    by_category = {row["category"]: row for row in rows}
    assert len(by_category) == len(rows)
    assert list(by_category) == [*(f"CATEGORY {n}" for n in range(4)), None]
    truth = [-1.0, -1.5, -2.0, -2.5]
    for n, elasticity_of in enumerate(truth):
        assert by_category[f"CATEGORY {n}"]["elasticity"] == pytest.approx(elasticity_of, abs=0.5)
    assert market.shown("price_elasticities", WEEK)["elasticity"] == by_category[None]["elasticity"]


def test_what_is_sold_in_a_week_or_later_does_not_change_its_elasticities(market: Market) -> None:
    before = market.checksums("price_elasticities")
    market.changed("product_weeks", WEEK, "units", lambda units: pc.multiply(units, 9))
    try:
        assert market.build("price_elasticities", FOLDS[-4:]).success
        after = market.checksums("price_elasticities")
    finally:
        market.deliver("product_weeks", market.of("product_weeks", WEEK))
    assert {week for week in before if before[week] != after[week]} == {week for week in FOLDS[-4:] if week > WEEK}
    assert market.build("price_elasticities", FOLDS[-4:]).success
    assert market.checksums("price_elasticities") == before


def test_demand_that_grows_with_the_price_is_not_plausible() -> None:
    def judged(pooled_high: float, *categories: float) -> bool:
        rows: list[dict[str, Any]] = [{"category": f"C{n}", "elasticity": one} for n, one in enumerate(categories)]
        pooled = {"category": None, "elasticity": -1.0, "low": -2.0, "high": pooled_high}
        return plausible(pa.Table.from_pylist([*rows, pooled], schema=elasticity.SCHEMA)).passed

    assert judged(-0.5, -1.0, -1.0)
    assert not judged(0.1, -1.0, -1.0)
    assert not judged(-0.5, -1.0, 0.2)


def test_every_product_with_a_known_price_has_one_recommendation(market: Market) -> None:
    signals = market.of("demand_signals", WEEK)
    known = signals.filter(pc.is_valid(signals["last_price_usd"]))
    rows = {row["product_id"]: row for row in market.stored("price_recommendations", WEEK)}
    assert rows.keys() == set(known["product_id"].to_pylist())
    for one in known.to_pylist():
        row = rows[one["product_id"]]
        assert row["present_price_usd"] == pytest.approx(round(one["last_price_usd"], 2), abs=0.0051)
        assert row["regular_price_usd"] >= row["present_price_usd"]
        shelf = one["last_price_usd"] / one["last_price_ratio"]
        assert row["regular_price_usd"] == pytest.approx(max(shelf, row["present_price_usd"]), abs=0.0051)
        assert str(row["week"]) == WEEK


def test_the_web_ui_shows_what_changes_what_it_brings_in_and_why(market: Market) -> None:
    rows = market.stored("price_recommendations", WEEK)
    shown = market.shown("price_recommendations", WEEK)
    assert shown["raised"] + shown["lowered"] + shown["kept"] == len(rows)
    assert shown["raised"] + shown["lowered"] > 0
    assert shown["expected gain, low, USD"] <= shown["expected gain, USD"] <= shown["expected gain, high, USD"]
    assert shown["expected gain, USD"] == pytest.approx(sum(row["gain_usd"] for row in rows))
    assert sum(shown["prices by what keeps them from gaining more"].values()) == len(rows)
    best = [record.data for record in shown["largest gains"].records]
    assert 0 < len(best) <= 10
    assert best[0]["gain_usd"] == round(max(row["gain_usd"] for row in rows), 4)
    assert all(record["reason"] for record in best)


def test_stored_prices_are_judged_again_and_one_past_the_rules_is_named(market: Market) -> None:
    rows = pa.Table.from_pylist(market.stored("price_recommendations", WEEK))
    (before,) = verdicts(market, market.build("price_recommendations", [WEEK], check_only="keeps_rules"))
    assert (before.passed, before.blocking) == (True, True)
    prices = rows["price_usd"].to_pylist()
    first = rows["product_id"][0].as_py()
    changed = rows.set_column(rows.column_names.index("price_usd"), "price_usd", pa.array([3 * prices[0], *prices[1:]]))
    market.deliver("price_recommendations", changed)
    try:
        (after,) = verdicts(market, market.build("price_recommendations", [WEEK], check_only="keeps_rules"))
    finally:
        market.deliver("price_recommendations", rows)
    assert not after.passed
    assert f"steps of 10%: 1 products, the first {first}" in (after.description or "")


def test_a_week_without_predictions_is_refused_by_name(market: Market) -> None:
    said = failure(market.build("price_recommendations", [UNFORECAST]))
    assert f"commerce.product_demand_predictions has no rows for {UNFORECAST}; materialize these partitions" in said
    assert UNFORECAST not in market.checksums("price_recommendations")


@pytest.mark.parametrize(("price", "said"), [(-1.0, "present price -1.0"), (float("inf"), "present price inf")])
def test_a_price_that_cannot_be_is_refused_and_nothing_is_lost(market: Market, price: float, said: str) -> None:
    before = market.checksums("price_recommendations")
    market.changed("demand_signals", WEEK, "last_price_usd", lambda prices: pa.array([price] * len(prices)))
    try:
        told = failure(market.build("price_recommendations", [WEEK]))
    finally:
        market.deliver("demand_signals", market.of("demand_signals", WEEK))
    assert said in told
    assert market.checksums("price_recommendations") == before


def test_a_product_that_was_given_away_has_no_price_to_change(market: Market) -> None:
    def given_away(prices: pa.Array) -> pa.Array:
        return pa.array([0.001, None, *prices.to_pylist()[2:]])

    market.changed("demand_signals", WEEK, "last_price_usd", given_away)
    try:
        assert market.build("price_recommendations", [WEEK]).success
        found = {row["product_id"] for row in market.stored("price_recommendations", WEEK)}
    finally:
        market.deliver("demand_signals", market.of("demand_signals", WEEK))
    assert not found & set(market.of("demand_signals", WEEK)["product_id"].to_pylist()[:2])
    assert found
    assert market.build("price_recommendations", [WEEK]).success


def test_a_category_without_an_elasticity_has_that_of_all(connection: duckdb.DuckDBPyConnection) -> None:
    def rows(**columns: list[Any]) -> duckdb.DuckDBPyRelation:
        return connection.from_arrow(pa.table({**columns, "partition_key": [WEEK] * len(next(iter(columns.values())))}))

    found = priced(
        connection,
        WEEK,
        product_demand_predictions=rows(product_id=[1, 2, 3], expected_units=[4.0, 5.0, 6.0]),
        demand_signals=rows(product_id=[1, 2, 3], last_price_usd=[1.999, 2.5, 3.0], last_price_ratio=[0.5, None, 1.2]),
        price_elasticities=rows(category=["SOUP", None], elasticity=[-2.0, -1.0], low=[-2.5, -1.1], high=[-1.5, -0.9]),
        int_products_classified=connection.sql(
            "select 1 as product_id, 'SOUP' as product_category, 'GROCERY' as department union all "
            "select 2, null, 'GROCERY'"
        ),
    )
    assert found.column("category").to_pylist() == ["SOUP", "GROCERY", ""]
    assert found.column("present_price_usd").to_pylist() == [2.0, 2.5, 3.0]
    assert found.column("regular_price_usd").to_pylist() == [4.0, 2.5, 3.0]
    assert found.column("elasticity").to_pylist() == [-2.0, -1.0, -1.0]
    assert found.column("elasticity_low").to_pylist() == [-2.5, -1.1, -1.1]
