"""What the pricing project came to: its folds, its champion, the prices it recommends, what it serves online.

Belongs here: reading these results from their tables and showing them. Not here: computing any (`backtest.py`,
`recommendation.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
from rich.console import Console
from rich.table import Table

from resources.warehouse import PARTITION_KEY, TableName, Warehouse, physical_partitions

BACKTEST = TableName("commerce", "demand_backtest_summary")
JUDGED = TableName("commerce", "demand_backtest")
EVALUATION = TableName("commerce", "product_demand_evaluation")
CHAMPION = TableName("commerce", "product_demand_champion")
RECOMMENDATIONS = TableName("commerce", "price_recommendations")
SKEW = TableName("commerce", "feature_skew")

_FORECASTS = {
    "product_demand": "forecast",
    "product_demand, expectation": "expected_units",
    "last week": "last_week",
    "four-week mean": "four_week_mean",
    "eight-week mean": "eight_week_mean",
    "eight-week median": "eight_week_median",
    "thirteen weeks before": "thirteen_weeks_before",
    "IMAPA": "imapa",
}
"""The columns of `demand_backtest` that are forecasts, by method."""


@dataclass(frozen=True)
class MethodError:
    """Errors of one method over the backtest; ours less its own with the 95 % interval.

    These are None in our own row, and in all rows as long as there is no half year to draw from.
    """

    method: str
    wape: float
    bias: float
    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Champion:
    """The version that serves: the partition it was trained for, its number, since when (ISO 8601) and why."""

    version_of: str
    version: int
    serves_from: str
    reason: str


@dataclass(frozen=True)
class Prices:
    """The recommendations of the newest week; gains in USD a week, low and high at the elasticities' intervals."""

    week: str
    raised: int
    lowered: int
    kept: int
    gain_usd: float
    gain_low_usd: float
    gain_high_usd: float


@dataclass(frozen=True)
class Skew:
    """Values of features compared between the online store and the lake, and those that differ: it should be none."""

    compared: int
    differing: int


@dataclass(frozen=True)
class PricingSummary:
    """All of it; None and no methods where there is nothing yet, `missing` names the tables.

    `weeks` is how many weeks the errors of `methods` are over.
    """

    folds: int
    weeks: int
    methods: Sequence[MethodError]
    champion: Champion | None
    prices: Prices | None
    skew: Skew | None
    missing: Sequence[str]


def pricing_summary(warehouse: Warehouse) -> PricingSummary:
    """Read it from the lake; a table that is not there yet is no error."""
    with warehouse.reader() as lake:
        tables = (BACKTEST, JUDGED, EVALUATION, CHAMPION, RECOMMENDATIONS, SKEW)
        partitions = {
            table: [key for key, one in physical_partitions(lake, table).items() if one.rows] for table in tables
        }
        there = {table: max(found) for table, found in partitions.items() if found}
        return PricingSummary(
            folds=len(partitions[EVALUATION]),
            weeks=len(partitions[JUDGED]),
            methods=_methods(lake, there),
            champion=Champion(*_champion(lake)) if CHAMPION in there else None,
            prices=Prices(*_prices(lake, there[RECOMMENDATIONS])) if RECOMMENDATIONS in there else None,
            skew=Skew(*_skew(lake)) if SKEW in there else None,
            missing=[str(table) for table in tables if table not in there],
        )


def show_pricing(summary: PricingSummary, console: Console) -> None:
    """Print it as tables, and which tables are missing."""
    if summary.methods:
        title = f"Demand forecast against what then sold, {summary.weeks} {'week' if summary.weeks == 1 else 'weeks'}"
        errors = Table("method", "WAPE", "bias", "ours less this, 95 %", title=title, title_justify="left")
        for one in summary.methods:
            interval = "" if one.low is None else f"{one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
            errors.add_row(one.method, f"{one.wape:.4f}", f"{one.bias:+.1%}", interval.replace("[", r"\["))
        console.print(errors)
    facts = Table("pricing", "", title="Pricing", title_justify="left", show_header=False)
    if summary.folds:
        facts.add_row("folds", f"{summary.folds} evaluated")
    if summary.champion:
        champion = summary.champion
        facts.add_row(
            "champion",
            f"version {champion.version}, trained for {champion.version_of}, serves from {champion.serves_from}: "
            f"{champion.reason}".replace("[", r"\["),
        )
    if summary.prices:
        prices = summary.prices
        facts.add_row(
            f"prices for {prices.week}",
            f"{prices.raised:,} raised, {prices.lowered:,} lowered, {prices.kept:,} kept; expected gain "
            f"{prices.gain_usd:,.0f} USD a week ({prices.gain_low_usd:,.0f} to {prices.gain_high_usd:,.0f})",
        )
    if summary.skew:
        skew = summary.skew
        colour = "red" if skew.differing else "green"
        facts.add_row(
            "online against lake", f"[{colour}]{skew.differing:,}[/] of {skew.compared:,} compared values differ"
        )
    for table in summary.missing:
        facts.add_row("missing", f"{table}: nothing is built of it yet")
    console.print(facts)


def _methods(lake: duckdb.DuckDBPyConnection, there: Mapping[TableName, str]) -> list[MethodError]:
    if BACKTEST in there:
        return [MethodError(*row) for row in _backtest(lake, there[BACKTEST])]
    if JUDGED in there:
        return [MethodError(name, wape, bias, None, None, None) for name, wape, bias in _judged(lake)]
    return []


def _judged(lake: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    """The same errors of the weeks so far, of every product that was forecast, and without intervals."""
    methods = " union all ".join(
        f"select '{name}' as method, sum(abs(units - {column})) / nullif(sum(units), 0) as wape, "
        f"sum({column}) / nullif(sum(units), 0) - 1 as bias from {JUDGED.sql}"
        for name, column in _FORECASTS.items()
    )
    return lake.execute(f"select * from ({methods}) where wape is not null order by wape").fetchall()


def _backtest(lake: duckdb.DuckDBPyConnection, newest: str) -> list[tuple[Any, ...]]:
    return lake.execute(
        f"select method, wape, bias, difference, low, high from {BACKTEST.sql} where {PARTITION_KEY} = ? order by wape",
        [newest],
    ).fetchall()


def _champion(lake: duckdb.DuckDBPyConnection) -> tuple[Any, ...]:
    return _row(
        lake,
        "select version_of, version, strftime(serves_from, '%Y-%m-%dT%H:%M:%SZ'), reason "
        f"from {CHAMPION.sql} order by serves_from desc limit 1",
    )


def _prices(lake: duckdb.DuckDBPyConnection, newest: str) -> tuple[Any, ...]:
    return _row(
        lake,
        f"select ?, {_counted('>')}, {_counted('<')}, {_counted('=')}, coalesce(sum(gain_usd), 0), "
        "coalesce(sum(gain_low_usd), 0), coalesce(sum(gain_high_usd), 0) "
        f"from {RECOMMENDATIONS.sql} where {PARTITION_KEY} = ?",
        newest,
        newest,
    )


def _counted(change: str) -> str:
    return f"count(*) filter (price_usd {change} present_price_usd)"


def _skew(lake: duckdb.DuckDBPyConnection) -> tuple[Any, ...]:
    return _row(lake, f"select coalesce(sum(compared), 0)::bigint, coalesce(sum(skewed), 0)::bigint from {SKEW.sql}")


def _row(lake: duckdb.DuckDBPyConnection, query: str, *given: object) -> tuple[Any, ...]:
    """The one row of an aggregate, or of a table that has rows."""
    (found,) = lake.execute(query, list(given)).fetchall()
    return found
