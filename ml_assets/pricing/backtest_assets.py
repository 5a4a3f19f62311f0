"""The assets that judge the demand forecasts: what was forecast and sold each week, and half a year of it in a table.

Belongs here: what they read, which plain function they call, what the web UI shows. Not here: the measures
(`backtest.py`), the methods compared with (`baselines.py`).
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import dagster as dg
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml_assets.pricing import backtest
from ml_assets.pricing.backtest import Errors
from ml_assets.pricing.features import HISTORY_WEEKS
from ml_assets.pricing.price_assets import PREDICTIONS
from ml_assets.pricing.weekly_tables import (
    Column,
    Evaluation,
    Sources,
    WeeklyTable,
    by_week,
    read,
    shown_table,
    weekly_asset,
)
from ml_assets.sdk import plots
from ml_assets.sdk.windows import Reads
from platform_assets.code_version import code_version
from platform_assets.partitions import COMMERCE_WEEKLY, weeks_from
from resources.warehouse import PARTITION_KEY, Warehouse

CALENDAR = weeks_from("2017-07-03")
"""The weeks that demand was forecast for and that have ended."""
SUMMARY_CALENDAR = weeks_from("2017-12-25")
"""Those of them with half a year of forecasts behind them."""

SALES = Reads(dg.AssetKey(["commerce", "product_weeks"]), COMMERCE_WEEKLY, -HISTORY_WEEKS)
ROWS = Reads(dg.AssetKey(["commerce", "demand_backtest"]), CALENDAR, 1 - backtest.FOLDS)


def demand_backtest() -> dg.AssetsDefinition:
    """What was forecast and sold, week by week."""
    return weekly_asset(
        WeeklyTable(
            name="demand_backtest",
            description="One row per week and product that was forecast: what it sold, what the model that then served "
            "had said, and what naive methods and StatsForecast's IMAPA say.",
            calendar=CALENDAR,
            reads=(PREDICTIONS, SALES),
            columns=_ROW_COLUMNS,
            version=code_version(backtest.forecast_rows),
            rows=_rows,
            shown=_rows_shown,
            check="beats_baselines",
            asks="The forecast's absolute error in the week is below that of each naive method.",
            judge=beats_baselines,
        )
    )


def demand_backtest_summary() -> dg.AssetsDefinition:
    """How good each method was over half a year."""
    return weekly_asset(
        WeeklyTable(
            name="demand_backtest_summary",
            description="One row per week and method: its errors over the half year up to the week, for the products "
            f"with sales in at least {backtest.MINIMUM_WEEKS} weeks, and how much smaller ours are.",
            calendar=SUMMARY_CALENDAR,
            reads=(ROWS, SALES),
            columns=_SUMMARY_COLUMNS,
            version=code_version(backtest.summary, backtest.reported_products),
            rows=_summary,
            shown=_summary_shown,
            check="beats_every_method",
            asks="The forecast's WAPE is certainly below that of each method that is not ours: the whole interval of "
            "the difference is below 0.",
            judge=beats_every_method,
            is_product=True,
        )
    )


def beats_baselines(found: pa.Table) -> Evaluation:
    """Whether the forecast of a week had a smaller error than each naive method."""
    judged = _errors(found)
    ours = judged["forecast"].wape
    better = {name: judged[name].wape for name in backtest.NAIVE_COLUMNS.values() if judged[name].wape <= ours}
    said = ", ".join(f"{name} {wape:.3f}" for name, wape in better.items())
    return Evaluation(
        not better,
        f"WAPE {ours:.3f}" + (f", which is not below {said}" if better else ", below every naive method's"),
        {f"WAPE {name}": one.wape for name, one in judged.items()},
    )


def beats_every_method(found: pa.Table) -> Evaluation:
    """Whether the forecast is certainly better than every baseline."""
    rows = [row for row in found.to_pylist() if row["kind"] == "baseline"]
    doubtful = [row for row in rows if row["high"] >= 0]
    said = ", ".join(
        f"{row['method']} {row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]" for row in doubtful or rows
    )
    return Evaluation(
        not doubtful,
        f"not certainly better than {said}" if doubtful else f"better than every method: {said}",
        {row["method"]: row["difference"] for row in rows},
    )


def _rows(warehouse: Warehouse, lake: duckdb.DuckDBPyConnection, weeks: Sequence[str]) -> pa.Table:
    predictions = read(warehouse, lake, PREDICTIONS, CALENDAR, weeks).to_arrow_table()
    sales = read(warehouse, lake, SALES, CALENDAR, weeks).project("product_id, week, units").to_arrow_table()
    asked = {week: predictions.filter(pc.equal(predictions[PARTITION_KEY], week)) for week in weeks}
    return by_week(
        {week: backtest.forecast_rows(rows, sales, date.fromisoformat(week)) for week, rows in asked.items()},
        backtest.ROWS_SCHEMA,
    )


def _summary(warehouse: Warehouse, lake: duckdb.DuckDBPyConnection, weeks: Sequence[str]) -> pa.Table:
    return by_week({week: _summary_of(warehouse, lake, week) for week in weeks}, backtest.SUMMARY_SCHEMA)


def _summary_of(warehouse: Warehouse, lake: duckdb.DuckDBPyConnection, week: str) -> pa.Table:
    rows = read(warehouse, lake, ROWS, SUMMARY_CALENDAR, [week]).to_arrow_table()
    sales = read(warehouse, lake, SALES, SUMMARY_CALENDAR, [week])
    products = backtest.reported_products(sales).to_arrow_table()["product_id"].to_pylist()
    kept = sales.project("product_id, week, units").to_arrow_table()
    return backtest.summary(rows, kept, products, date.fromisoformat(week))


def _errors(found: pa.Table) -> dict[str, Errors]:
    methods = ("forecast", "expected_units", *backtest.NAIVE_COLUMNS.values(), backtest.IMAPA_COLUMN)
    sold = found["units"].to_numpy()
    return {name: backtest.errors(sold, found[name].to_numpy()) for name in methods}


def _rows_shown(found: pa.Table) -> dict[str, Any]:
    judged = _errors(found)
    sold, low, high = (found[name].to_numpy() for name in ("units", "low_units", "high_units"))
    return {
        **{f"WAPE {name}": one.wape for name, one in judged.items()},
        "bias of forecast": judged["forecast"].bias,
        "bias of expected_units": judged["expected_units"].bias,
        "units": int(np.sum(sold)),
        "share within the interval": backtest.coverage(sold, low, high),
    }


def _summary_shown(found: pa.Table) -> dict[str, Any]:
    rows = found.to_pylist()
    last: date = rows[0]["week"]
    weeks = [str(last - timedelta(weeks=back)) for back in reversed(range(backtest.FOLDS))]
    drawn = {row["method"]: dict(zip(weeks, row["wape_by_week"], strict=True)) for row in rows}
    picture = base64.b64encode(plots.errors_over_time("WAPE", drawn)).decode()
    ours = next(row for row in rows if row["method"] == backtest.OURS)
    return {
        "WAPE": ours["wape"],
        "bias": ours["bias"],
        "rows": ours["rows"],
        "methods": shown_table([_cells(row) for row in rows], _SHOWN),
        "WAPE by week": dg.MetadataValue.md(f"![WAPE by week and method](data:image/png;base64,{picture})"),
    }


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    interval = "" if row["low"] is None else f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
    return {**row, "ours less this, 95 %": interval}


_SHOWN = {"method": "string", "wape": "float", "bias": "float", "ours less this, 95 %": "string"}
_SOLD: Sources = {SALES.table: ("units",)}


def _forecast(column: str, description: str) -> Column:
    return Column("DOUBLE", description, {PREDICTIONS.table: (column,)})


_ROW_COLUMNS = {
    "product_id": Column("BIGINT", "Product.", {PREDICTIONS.table: ("product_id",)}),
    "units": Column("DOUBLE", "Units sold; 0 without a sale.", _SOLD),
    "forecast": _forecast("prediction", "Units forecast, with the least absolute error."),
    "expected_units": _forecast("expected_units", "Units expected."),
    "low_units": _forecast("low_units", "Low end of the interval that was given."),
    "high_units": _forecast("high_units", "High end of it."),
    **{column: Column("DOUBLE", f"Naive forecast: {name}.", _SOLD) for name, column in backtest.NAIVE_COLUMNS.items()},
    backtest.IMAPA_COLUMN: Column("DOUBLE", "Forecast of StatsForecast's IMAPA.", _SOLD),
}

_POOLED: Sources = {
    ROWS.table: ("units", "forecast", "expected_units", backtest.IMAPA_COLUMN),
    SALES.table: ("units",),
}
_SUMMARY_COLUMNS = {
    "method": Column("VARCHAR", "What forecast.", {}),
    "kind": Column("VARCHAR", "model: ours; baseline: any other.", {}),
    "rows": Column("BIGINT", "Products times weeks judged.", _POOLED),
    "units": Column("BIGINT", "Units sold in them.", _POOLED),
    "wape": Column("DOUBLE", "Sum of the absolute errors over the units sold.", _POOLED),
    "bias": Column("DOUBLE", "Sum of the forecasts over the units sold, less 1.", _POOLED),
    "difference": Column("DOUBLE", "Our WAPE less the method's; null in our own row.", _POOLED),
    "low": Column("DOUBLE", "Low end of its 95 % interval, a paired bootstrap over products.", _POOLED),
    "high": Column("DOUBLE", "High end of that.", _POOLED),
    "wape_by_week": Column("DOUBLE[]", "WAPE of each of the weeks, the first first.", _POOLED),
}
