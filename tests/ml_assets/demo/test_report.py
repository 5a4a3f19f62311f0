"""What the main job reports of pricing: what is in the tables, and which are not there yet."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from ml_assets.demo.report import Report, show
from ml_assets.pricing.summary import (
    BACKTEST,
    CHAMPION,
    EVALUATION,
    JUDGED,
    RECOMMENDATIONS,
    SKEW,
    MethodError,
    Prices,
    Skew,
    pricing_summary,
    show_pricing,
)
from resources.warehouse import Commit, TableName, Warehouse

NAIVE = ("last_week", "four_week_mean", "eight_week_mean", "eight_week_median", "thirteen_weeks_before", "imapa")
SOLD = {"units": 4.0, "forecast": 5.0, "expected_units": 4.0, **dict.fromkeys(NAIVE, 3.0)}


def write(warehouse: Warehouse, table: TableName, week: str, *rows: dict[str, Any]) -> None:
    stored = pa.Table.from_pylist([{**row, "partition_key": week} for row in rows])
    warehouse.replace_partitions(table, [week], stored, Commit("test", str(table)))


def printed(report: Report) -> str:
    console = Console(width=200, record=True, file=StringIO())
    show(report, console)
    return console.export_text()


@pytest.fixture
def priced(warehouse: Warehouse) -> Warehouse:
    """A lake with the results of two weeks."""
    interval = {"difference": -0.1, "low": -0.12, "high": -0.08}
    write(
        warehouse,
        BACKTEST,
        "2017-12-25",
        {"method": "last week", "wape": 0.7, "bias": 0.01, **interval},
        {"method": "product_demand", "wape": 0.6, "bias": -0.1, **dict.fromkeys(interval)},
    )
    for day, week in ((18, "2017-12-18"), (25, "2017-12-25")):
        write(warehouse, JUDGED, week, SOLD, {**SOLD, "units": 0.0, "forecast": 0.0})
        write(warehouse, EVALUATION, week, {"method": "candidate"}, {"method": "last week"})
        decided = {"version_of": week, "version": day, "reason": "passed [0.1, 0.2]"}
        write(warehouse, CHAMPION, week, {"serves_from": datetime(2017, 12, day, 5, tzinfo=UTC), **decided})
        prices = [(1.0, 0.99, 1.5), (2.0, 2.19, 0.5), (3.0, 3.0, 0.0)] if day == 25 else [(1.0, 1.0, 0.0)]
        rows = [
            {
                "present_price_usd": present,
                "price_usd": price,
                "gain_usd": gain,
                "gain_low_usd": gain / 2,
                "gain_high_usd": gain * 2,
            }
            for present, price, gain in prices
        ]
        write(warehouse, RECOMMENDATIONS, week, *rows)
        write(warehouse, SKEW, week, {"compared": 40, "skewed": 0}, {"compared": 30, "skewed": int(day == 18)})
    return warehouse


def test_results_are_read_from_the_newest_week_and_the_skew_of_all(priced: Warehouse) -> None:
    found = pricing_summary(priced)
    assert (found.folds, found.weeks) == (2, 2)
    assert list(found.methods) == [
        MethodError("product_demand", 0.6, -0.1, None, None, None),
        MethodError("last week", 0.7, 0.01, -0.1, -0.12, -0.08),
    ]
    assert found.champion
    assert (found.champion.version_of, found.champion.version) == ("2017-12-25", 25)
    assert found.champion.serves_from == "2017-12-25T05:00:00Z"
    assert found.prices == Prices("2017-12-25", 1, 1, 1, 2.0, 1.0, 4.0)
    assert found.skew == Skew(140, 1)
    assert found.missing == []


def test_a_report_is_written_as_json_and_shown_as_tables(priced: Warehouse, tmp_path: Path) -> None:
    report = Report(True, True, [], {}, {"backfill": 1.0}, pricing_summary(priced))
    report.write(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["pricing"]["methods"][0]["method"] == "product_demand"
    assert read["pricing"]["skew"] == {"compared": 140, "differing": 1}
    said = printed(report)
    assert "-0.1000 [-0.1200, -0.0800]" in said
    assert "2 evaluated" in said
    assert "what then sold, 2 weeks" in said
    assert "version 25, trained for 2017-12-25, serves from 2017-12-25T05:00:00Z: passed [0.1, 0.2]" in said
    assert "1 raised, 1 lowered, 1 kept; expected gain 2 USD a week (1 to 4)" in said
    assert "1 of 140 compared values differ" in said


def test_tables_that_are_not_there_yet_are_named_and_fail_nothing(warehouse: Warehouse) -> None:
    found = pricing_summary(warehouse)
    assert (found.folds, list(found.methods), found.champion, found.prices, found.skew) == (0, [], None, None, None)
    assert set(found.missing) == {str(one) for one in (BACKTEST, JUDGED, EVALUATION, CHAMPION, RECOMMENDATIONS, SKEW)}
    said = printed(Report(True, True, [], {}, {}, found))
    for table in found.missing:
        assert f"{table}: nothing is built of it yet" in said


def test_what_is_there_is_shown_beside_what_is_missing(priced: Warehouse) -> None:
    console = Console(width=200, record=True, file=StringIO())
    show_pricing(replace(pricing_summary(priced), prices=None, missing=[str(RECOMMENDATIONS)]), console)
    said = console.export_text()
    assert "champion" in said
    assert f"{RECOMMENDATIONS}: nothing is built of it yet" in said


def test_before_there_is_half_a_year_the_errors_of_the_weeks_so_far_are_shown_without_intervals(
    warehouse: Warehouse,
) -> None:
    for week in ("2017-07-03", "2017-07-10"):
        write(warehouse, JUDGED, week, SOLD, {**SOLD, "units": 0.0, "forecast": 0.0})
    found = pricing_summary(warehouse)
    assert found.weeks == 2
    assert str(BACKTEST) in found.missing
    by_method = {one.method: one for one in found.methods}
    # Of 8 units sold in two weeks it forecast 10, each off by 1; the naive methods forecast 12.
    assert by_method["product_demand"] == MethodError("product_demand", 0.25, 0.25, None, None, None)
    assert by_method["product_demand, expectation"].wape == pytest.approx(1.0)
    assert by_method["IMAPA"] == MethodError("IMAPA", 1.0, 0.5, None, None, None)
    assert len(by_method) == 8
    console = Console(width=200, record=True, file=StringIO())
    show_pricing(found, console)
    assert "0.2500" in console.export_text()
