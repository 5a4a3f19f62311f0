"""How well weekly demand is forecast: `python -m tests.benchmarks.pricing [FOLDER] [--folds 26]`.

Every product with sales in at least 20 weeks, in each of the last 26 weeks, zero weeks included: our model against
naive methods and StatsForecast's, on the same rows. The lake of the current environment is read, or a folder with
`product_weeks`, `int_promotions_summarized` and `int_products_classified` as Parquet files.

Ours are the candidates of the project's folds, fitted by the code of its assets on what was known a week before their
own, as the last known week is kept to judge them by. The headline is the model that knows the week's mailer and
displays, which the retailer decides before the week, and no price of that week. Without that plan it is judged too.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from ml_assets.pricing import backtest, baselines
from ml_assets.pricing.features import FIRST_WEEK, UNPLANNED, features
from ml_assets.pricing.project import DEMAND, PRODUCT_DEMAND
from ml_assets.pricing.trainer import COVERAGE, DETAILS
from ml_assets.sdk import folds as sdk_folds
from ml_assets.sdk.declarations import Model
from resources.environment import Environment
from resources.warehouse import PARTITION_KEY, TableName, Warehouse

Numbers = npt.NDArray[np.float64]
TABLES = ("product_weeks", "int_promotions_summarized", "int_products_classified")
HEADLINE = "ours, median"
AUTOMATIC = ("AutoETS",)
SLOW = ("AutoARIMA",)
SLOW_PRODUCTS = 200


@contextmanager
def marts(folder: Path | None) -> Iterator[tuple[duckdb.DuckDBPyConnection, dict[str, duckdb.DuckDBPyRelation]]]:
    """The three tables, of a folder or of the environment's lake."""
    if folder is not None:
        with duckdb.connect() as connection:
            connection.execute("set threads = 1")
            yield connection, {name: connection.read_parquet(str(folder / f"{name}.parquet")) for name in TABLES}
        return
    warehouse = Warehouse.of(Environment.current())
    with warehouse.reader() as lake:
        yield lake, {name: warehouse.relation(lake, TableName("commerce", name)) for name in TABLES}


def labelled(
    connection: duckdb.DuckDBPyConnection, tables: Mapping[str, duckdb.DuckDBPyRelation], weeks: Sequence[str]
) -> pa.Table:
    """The rows of the project's training set for `weeks`, as its assets compute them."""
    since = f"week >= date '{FIRST_WEEK}'"
    sales, promotions = (tables[name].filter(since) for name in TABLES[:2])
    features(connection, sales, promotions, tables[TABLES[2]], weeks).create_view("found", replace=True)
    sales.create_view("sales", replace=True)
    return connection.sql(
        f"select found.* rename (week as {DEMAND.time}), coalesce(units, 0)::double as {DEMAND.label} "
        "from found left join sales using (week, product_id)"
    ).to_arrow_table()


def walk(
    demand: Model, rows: pa.Table, folds: Sequence[str], products: Sequence[int], folder: Path, side_by_side: int
) -> tuple[dict[str, Numbers], list[float]]:
    """What each fold's candidate says of its own week, as products by folds, and the seconds of each fold.

    A product that is not listed in a week is forecast to sell nothing.
    """
    place = {product: n for n, product in enumerate(products)}
    found = {name: np.zeros((len(products), len(folds))) for name in ("prediction", *DETAILS)}

    def fold(at: int) -> float:
        began = time.thread_time()
        fitted = sdk_folds.fit(demand, folds[at], sdk_folds.span_of(demand, folds[at]), rows, folder)
        asked = rows.filter(pc.equal(rows[PARTITION_KEY], folds[at]))
        listed = [place.get(product) for product in asked["product_id"].to_pylist()]
        there = [n for n, one in enumerate(listed) if one is not None]
        for name, values in sdk_folds.answers_as_served(demand, fitted.file, asked).items():
            found[name][[listed[n] for n in there], at] = values[there]
        return time.thread_time() - began

    with ThreadPoolExecutor(side_by_side) as pool:
        seconds = list(pool.map(fold, range(len(folds))))
    return found, seconds


def report(
    sold: Numbers, methods: Mapping[str, Numbers], title: str, console: Console, headline: str = HEADLINE
) -> None:
    table = Table("method", "WAPE", "bias", "WAPE of headline less this: over products", "over weeks", title=title)
    for name, forecast in sorted(methods.items(), key=lambda item: backtest.errors(sold, item[1]).wape):
        found = backtest.errors(sold, forecast)
        intervals = [
            "" if name == headline else f"{d.wape:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
            for d in (
                backtest.difference(sold, methods[headline], forecast, over=over) for over in ("products", "weeks")
            )
        ]
        table.add_row(name, f"{found.wape:.4f}", f"{found.bias:+.3f}", *intervals)
    console.print(table)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pricing")
    parser.add_argument("folder", type=Path, nargs="?", help="Parquet files of the marts; default: the lake")
    parser.add_argument("--folds", type=int, default=26)
    parser.add_argument("--side-by-side", type=int, default=2, help="folds fitted at once, one a core")
    parser.add_argument("--without-statsforecast", action="store_true")
    parser.add_argument("--keep", type=Path, help="a .npz file to keep all forecasts in")
    asked = parser.parse_args(arguments)
    console = Console(width=150)

    began = time.perf_counter()
    with marts(asked.folder) as (connection, tables), TemporaryDirectory() as folder:
        sales = tables["product_weeks"].filter(f"week >= date '{FIRST_WEEK}'")
        weeks = [str(row[0]) for row in sales.project("week").distinct().order("week").fetchall()]
        folds = weeks[-asked.folds :]
        products = backtest.reported_products(sales).to_arrow_table()["product_id"].to_pylist()
        rows = labelled(connection, tables, DEMAND.calendar.get_partition_keys())
        units = baselines.history(sales.to_arrow_table(), products, [date.fromisoformat(week) for week in weeks])
        console.print(f"{rows.num_rows} feature rows in {time.perf_counter() - began:.1f} s")
        sold = units[:, -asked.folds :]

        methods = baselines.naive(units, asked.folds)
        ours, seconds = walk(PRODUCT_DEMAND, rows, folds, products, Path(folder), asked.side_by_side)
        methods |= {HEADLINE: ours["prediction"], "ours, expectation": ours["expected_units"]}
        unplanned, _ = walk(
            replace(PRODUCT_DEMAND, features=UNPLANNED), rows, folds, products, Path(folder), asked.side_by_side
        )
    methods |= {
        "ours without the week's plan, median": unplanned["prediction"],
        "ours without the week's plan, expectation": unplanned["expected_units"],
    }
    for name in () if asked.without_statsforecast else (*baselines.INTERMITTENT, *AUTOMATIC):
        began = time.perf_counter()
        methods |= {f"StatsForecast {name}": baselines.statistical(units, asked.folds, (name,))[name]}
        console.print(f"StatsForecast {name}: {time.perf_counter() - began:.0f} s")

    title = f"{sold.size} rows: {len(products)} products, {len(folds)} weeks {folds[0]} to {folds[-1]}"
    report(sold, methods, title, console)
    held = backtest.coverage(sold, ours["low_units"], ours["high_units"])
    console.print(f"interval of {COVERAGE:.0%} held {held:.1%}")
    console.print(f"fold: median {np.median(seconds):.1f} s, most {max(seconds):.1f} s of one core")
    shown = (HEADLINE, "ours, expectation", "eight-week mean")
    by_week = Table("week", "units", *shown, title="WAPE and bias by week")
    for n, week in enumerate(folds):
        one = [backtest.errors(sold[:, n], methods[name][:, n]) for name in shown]
        by_week.add_row(str(week), str(one[0].units), *(f"{e.wape:.3f} {e.bias:+.3f}" for e in one))
    console.print(by_week)
    if asked.keep is not None:
        kept: dict[str, Any] = {f"method {name}": forecast for name, forecast in methods.items()}
        np.savez_compressed(asked.keep, allow_pickle=False, sold=sold, products=np.array(products), **kept)
    if not asked.without_statsforecast:
        sample = np.sort(np.random.default_rng(backtest.SEED).choice(len(units), min(SLOW_PRODUCTS, len(units)), False))
        some = {name: forecast[sample] for name, forecast in methods.items()}
        for name in SLOW:
            some |= {f"StatsForecast {name}": baselines.statistical(units[sample], asked.folds, (name,))[name]}
        report(sold[sample], some, f"{len(sample)} of the products, with the methods too slow for all", console)


if __name__ == "__main__":
    main(sys.argv[1:])
