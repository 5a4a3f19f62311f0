"""What was forecast is judged on what was sold, week by week and over half a year; from lake to lake."""

import base64
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ml_assets.pricing import backtest
from ml_assets.pricing.backtest_assets import beats_baselines, beats_every_method
from ml_assets.pricing.baselines import NAIVE
from resources.warehouse import Commit, TableName
from tests.ml_assets.pricing.market import FOLDS, Market, failure

pytestmark = pytest.mark.xdist_group("market")

WEEK, LAST = FOLDS[-3], FOLDS[-2]
PREDICTIONS = TableName("commerce", "product_demand_predictions")


def table(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)


def test_every_product_asked_about_stands_beside_what_it_sold_and_what_naive_methods_say(market: Market) -> None:
    rows = market.stored("demand_backtest", WEEK)
    asked = {row["product_id"]: row for row in market.of("product_demand_predictions", WEEK).to_pylist()}
    assert [row["product_id"] for row in rows] == sorted(asked)
    sold = {(str(row["week"]), row["product_id"]): row["units"] for row in market.rows["product_weeks"].to_pylist()}
    weeks = [str(week) for week in backtest.weeks_up_to(rows[0]["week"])]
    assert (weeks[0], weeks[-1]) == ("2017-01-02", WEEK)
    assert 0 in [row["units"] for row in rows]
    for row in rows:
        history = [sold.get((week, row["product_id"]), 0) for week in weeks]
        assert row["units"] == history[-1]
        assert row["forecast"] == asked[row["product_id"]]["prediction"]
        assert row["last_week"] == history[-2]
        assert row["four_week_mean"] == pytest.approx(np.mean(history[-5:-1]))
        assert row["eight_week_median"] == np.median(history[-9:-1])
        assert row["thirteen_weeks_before"] == history[-14]


def test_errors_of_a_week_are_shown_as_numbers_that_can_be_drawn(market: Market) -> None:
    rows = market.stored("demand_backtest", WEEK)
    shown = market.shown("demand_backtest", WEEK)
    units = sum(row["units"] for row in rows)
    for column in ("forecast", "expected_units", *backtest.NAIVE_COLUMNS.values(), "imapa"):
        wape = sum(abs(row["units"] - row[column]) for row in rows) / units
        assert shown[f"WAPE {column}"] == pytest.approx(wape)
    within = [row["low_units"] <= row["units"] <= row["high_units"] for row in rows]
    assert shown["share within the interval"] == pytest.approx(np.mean(within))


def test_a_forecast_that_a_naive_method_beats_is_warned_about_by_name() -> None:
    row: dict[str, object] = dict.fromkeys(backtest.ROWS_SCHEMA.names, 3.0)
    row |= {"product_id": 1, "units": 4.0}
    good = beats_baselines(table([row | {"forecast": 4.0}], backtest.ROWS_SCHEMA))
    assert good.passed
    bad = beats_baselines(table([row | {"forecast": 9.0, "last_week": 99.0}], backtest.ROWS_SCHEMA))
    assert not bad.passed
    assert "which is not below four_week_mean 0.250, eight_week_mean" in bad.description
    assert "last_week" not in bad.description


def test_the_summary_judges_every_method_on_the_same_rows(market: Market) -> None:
    rows = {row["method"]: row for row in market.stored("demand_backtest_summary", LAST)}
    assert rows.keys() == {
        "product_demand",
        "product_demand, expectation",
        *NAIVE,
        "StatsForecast IMAPA",
    }
    sold: dict[int, list[int]] = {}
    for row in market.rows["product_weeks"].to_pylist():
        sold.setdefault(row["product_id"], []).append(row["units"])
    reported = {product for product, units in sold.items() if len(units) >= 20}
    assert {row["rows"] for row in rows.values()} == {26 * len(reported)}
    assert 0 < len(reported) < len(sold)
    for method, row in rows.items():
        assert len(row["wape_by_week"]) == 26
        if method == "product_demand":
            assert row["difference"] is None
        else:
            assert row["difference"] == pytest.approx(rows["product_demand"]["wape"] - row["wape"])
            assert row["low"] <= row["difference"] <= row["high"]


def test_the_summary_is_shown_as_a_table_and_a_picture(market: Market) -> None:
    shown = market.shown("demand_backtest_summary", LAST)
    assert [record.data["method"] for record in shown["methods"].records] == [
        row["method"] for row in market.stored("demand_backtest_summary", LAST)
    ]
    encoded = shown["WAPE by week"].removeprefix("![WAPE by week and method](data:image/png;base64,").removesuffix(")")
    assert base64.b64decode(encoded, validate=True).startswith(b"\x89PNG")


def test_what_was_not_asked_counts_as_a_forecast_of_nothing_and_baselines_are_asked_all_the_same(
    market: Market,
) -> None:
    weeks, schema = FOLDS[:-1], backtest.ROWS_SCHEMA.append(pa.field("partition_key", pa.string()))
    rows = pa.concat_tables([table(market.stored("demand_backtest", week), schema) for week in weeks])
    sales = market.rows["product_weeks"]
    last = date.fromisoformat(LAST)
    products = sorted(set(rows["product_id"].to_pylist()))[:20]
    every = {row["method"]: row for row in backtest.summary(rows, sales, products, last).to_pylist()}
    asked = rows.filter(pc.not_equal(rows["product_id"], products[0]))
    fewer = {row["method"]: row for row in backtest.summary(asked, sales, products, last).to_pylist()}
    for method in (*NAIVE, "StatsForecast IMAPA"):
        assert fewer[method]["wape"] == pytest.approx(every[method]["wape"])
    lost = rows.filter(pc.equal(rows["product_id"], products[0]))
    missed = pc.sum(pc.subtract(lost["units"], pc.abs(pc.subtract(lost["units"], lost["forecast"])))).as_py()
    gone = fewer[backtest.OURS]["wape"] - every[backtest.OURS]["wape"]
    assert gone == pytest.approx(missed / every[backtest.OURS]["units"])
    with pytest.raises(ValueError, match=f"the backtest lacks {weeks[0]}; materialize"):
        backtest.summary(rows.filter(pc.not_equal(rows["partition_key"], weeks[0])), sales, products, last)
    with pytest.raises(ValueError, match="no product has sales in 20 weeks"):
        backtest.summary(rows, sales, [], last)


def test_only_a_certain_lead_over_every_baseline_passes() -> None:
    rows: list[dict[str, object]] = [
        {"method": backtest.OURS, "kind": "model"},
        {"method": backtest.EXPECTATION, "kind": "model", "difference": 0.01, "low": 0.0, "high": 0.02},
        {"method": "last week", "kind": "baseline", "difference": -0.2, "low": -0.3, "high": -0.1},
    ]
    assert beats_every_method(table(rows, backtest.SUMMARY_SCHEMA)).passed
    rows.append({"method": "IMAPA", "kind": "baseline", "difference": -0.01, "low": -0.03, "high": 0.01})
    said = beats_every_method(table(rows, backtest.SUMMARY_SCHEMA))
    assert not said.passed
    assert said.description == "not certainly better than IMAPA -0.0100 [-0.0300, +0.0100]"


def test_a_week_without_rows_to_judge_is_refused_by_name(market: Market) -> None:
    predictions, sales = market.of("product_demand_predictions", WEEK), market.rows["product_weeks"]
    week = date.fromisoformat(WEEK)
    with pytest.raises(ValueError, match=f"{WEEK}: 0 products were forecast"):
        backtest.forecast_rows(predictions.slice(0, 0), sales, week)
    with pytest.raises(ValueError, match="none of them sold anything"):
        backtest.forecast_rows(predictions, sales.filter(pc.not_equal(sales["week"], pa.scalar(week))), week)


def test_a_week_whose_predictions_are_gone_is_refused_and_its_rows_stay(market: Market) -> None:
    before = market.checksums("demand_backtest")
    gone = market.of("product_demand_predictions", WEEK)
    market.warehouse.replace_partitions(PREDICTIONS, [WEEK], gone.slice(0, 0), Commit("test", "loss"))
    try:
        said = failure(market.build("demand_backtest", [WEEK]))
    finally:
        market.deliver("product_demand_predictions", gone)
    assert f"{PREDICTIONS} has no rows for {WEEK}" in said
    assert market.checksums("demand_backtest") == before
