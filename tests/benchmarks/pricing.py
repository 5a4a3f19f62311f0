"""How well weekly demand is forecast: `python -m tests.benchmarks.pricing [FOLDER] [--folds 26] [--processes 1]`.

Every product with sales in at least 20 weeks, in each of the last 26 weeks, zero weeks included: our model against
naive methods and StatsForecast's, on the same rows. The lake of the current environment is read, or a folder with
`product_weeks`, `int_promotions_summarized` and `int_products_classified` as Parquet files.

The headline is the model that knows the week's mailer and displays, which the retailer decides before the week, and no
price of that week. Without that plan it is judged too.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from ml_assets.pricing import backtest, baselines, model
from ml_assets.pricing.features import NAMES, UNPLANNED, features
from resources.environment import Environment
from resources.warehouse import TableName, Warehouse

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


def walk(
    rows: pa.Table, folds: Sequence[date], products: pa.Array, names: tuple[str, ...], processes: int
) -> tuple[dict[str, Numbers], list[float]]:
    """Each number of the model's forecast, as products by folds, and the seconds of each fold."""
    work = [(rows, week, products, names) for week in folds]
    if processes == 1:
        done = [timed_fold(*arguments) for arguments in work]
    else:
        with ProcessPoolExecutor(processes) as pool:
            done = list(pool.map(timed_fold, *zip(*work, strict=True)))
    found = {
        field: np.column_stack([getattr(forecast, field) for forecast, _ in done])
        for field in model.Forecast.__dataclass_fields__
    }
    return found, [seconds for _, seconds in done]


def timed_fold(rows: pa.Table, week: date, products: pa.Array, names: tuple[str, ...]) -> tuple[model.Forecast, float]:
    began = time.process_time()
    _, forecast = backtest.forecast_fold(rows, week, products, names)
    return forecast, time.process_time() - began


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
    parser.add_argument("--processes", type=int, default=1, help="folds fitted side by side")
    parser.add_argument("--without-statsforecast", action="store_true")
    parser.add_argument("--keep", type=Path, help="a .npz file to keep all forecasts in")
    asked = parser.parse_args(arguments)
    console = Console(width=150)

    began = time.perf_counter()
    with marts(asked.folder) as (connection, tables):
        whole = backtest.whole_weeks(tables["product_weeks"])
        weeks = [row[0] for row in whole.project("week").distinct().order("week").fetchall()]
        folds = weeks[-asked.folds :]
        products = backtest.reported_products(tables["product_weeks"]).to_arrow_table()["product_id"].combine_chunks()
        found = features(
            connection,
            whole,
            tables["int_promotions_summarized"],
            tables["int_products_classified"],
            backtest.entities(connection, tables["product_weeks"], folds),
        )
        rows = model.labelled(found, whole).to_arrow_table()
        units = baselines.history(whole.to_arrow_table(), products.to_pylist(), weeks)
    console.print(f"{rows.num_rows} feature rows in {time.perf_counter() - began:.1f} s")
    sold = units[:, -asked.folds :]

    methods = baselines.naive(units, asked.folds)
    ours, seconds = walk(rows, folds, products, NAMES, asked.processes)
    methods |= {HEADLINE: ours["median_units"], "ours, expectation": ours["expected_units"]}
    unplanned, _ = walk(rows, folds, products, UNPLANNED, asked.processes)
    methods |= {
        "ours without the week's plan, median": unplanned["median_units"],
        "ours without the week's plan, expectation": unplanned["expected_units"],
    }
    for name in () if asked.without_statsforecast else (*baselines.INTERMITTENT, *AUTOMATIC):
        began = time.perf_counter()
        methods |= {f"StatsForecast {name}": baselines.statistical(units, asked.folds, (name,))[name]}
        console.print(f"StatsForecast {name}: {time.perf_counter() - began:.0f} s")

    title = f"{sold.size} rows: {len(products)} products, {len(folds)} weeks {folds[0]} to {folds[-1]}"
    report(sold, methods, title, console)
    held = backtest.coverage(sold, ours["low_units"], ours["high_units"])
    console.print(f"interval of {model.COVERAGE:.0%} held {held:.1%}")
    console.print(f"fold: median {np.median(seconds):.1f} s, most {max(seconds):.1f} s of one core")
    shown = (HEADLINE, "ours, expectation", "eight-week mean")
    by_week = Table("week", "units", *shown, title="WAPE and bias by week")
    for n, week in enumerate(folds):
        one = [backtest.errors(sold[:, n], methods[name][:, n]) for name in shown]
        by_week.add_row(str(week), str(one[0].units), *(f"{e.wape:.3f} {e.bias:+.3f}" for e in one))
    console.print(by_week)
    if asked.keep is not None:
        kept: dict[str, Any] = {f"method {name}": forecast for name, forecast in methods.items()}
        np.savez_compressed(asked.keep, allow_pickle=False, sold=sold, products=products.to_numpy(), **kept)
    if not asked.without_statsforecast:
        sample = np.sort(np.random.default_rng(backtest.SEED).choice(len(units), min(SLOW_PRODUCTS, len(units)), False))
        some = {name: forecast[sample] for name, forecast in methods.items()}
        for name in SLOW:
            some |= {f"StatsForecast {name}": baselines.statistical(units[sample], asked.folds, (name,))[name]}
        report(sold[sample], some, f"{len(sample)} of the products, with the methods too slow for all", console)


if __name__ == "__main__":
    main(sys.argv[1:])
