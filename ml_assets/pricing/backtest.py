"""How good forecasts were, week by week, each made from what was known when its week began.

Belongs here: the rows to judge on, error measures and their uncertainty. Not here: the
model, the baselines, the assets (`backtest_assets.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ml_assets.pricing import baselines
from ml_assets.pricing.features import FIRST_WEEK, HISTORY_WEEKS
from resources.warehouse import PARTITION_KEY

Numbers = npt.NDArray[np.float64]

MINIMUM_WEEKS = 20
"""Weeks with a sale that make a product one to report on."""
DRAWS = 1000
SEED = 7

FOLDS = 26
"""Weeks that a summary pools: half a year."""

NAIVE_COLUMNS: Mapping[str, str] = {name: name.replace(" ", "_").replace("-", "_") for name in baselines.NAIVE}
IMAPA_COLUMN = "imapa"
ROWS_SCHEMA = pa.schema(
    [
        ("product_id", pa.int64()),
        ("units", pa.float64()),
        *((name, pa.float64()) for name in ("forecast", "expected_units", "low_units", "high_units")),
        *((name, pa.float64()) for name in (*NAIVE_COLUMNS.values(), IMAPA_COLUMN)),
    ]
)

OURS = "product_demand"
EXPECTATION = "product_demand, expectation"
SUMMARY_SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("kind", pa.string()),
        ("rows", pa.int64()),
        ("units", pa.int64()),
        ("wape", pa.float64()),
        ("bias", pa.float64()),
        ("difference", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("wape_by_week", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True)
class Errors:
    """Of one method over some rows. WAPE is the sum of absolute errors over the sum of units sold; bias is the sum of
    the forecasts over that, less 1."""

    rows: int
    units: int
    wape: float
    bias: float


@dataclass(frozen=True)
class Difference:
    """WAPE of one method less that of another on the same rows, with the interval of a paired bootstrap."""

    wape: float
    low: float
    high: float


def reported_products(product_weeks: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """`product_id` of the products to report on: those with sales in `MINIMUM_WEEKS` weeks.

    This looks at all weeks given, so it is a rule of the report and no forecast may know it.
    """
    counted = product_weeks.aggregate("product_id, count(*) as weeks_sold", "product_id")
    return counted.filter(f"weeks_sold >= {MINIMUM_WEEKS}").project("product_id").order("product_id")


def errors(sold: Numbers, forecast: Numbers) -> Errors:
    """Pooled over all elements of two arrays of one shape.

    Raises:
        ValueError: nothing was sold, so that no relative error exists.
    """
    units = float(sold.sum())
    if units == 0:
        raise ValueError(f"{sold.size} rows and no units sold: there is nothing to judge a forecast by")
    return Errors(
        sold.size, int(units), float(np.abs(sold - forecast).sum()) / units, float(forecast.sum()) / units - 1
    )


def coverage(sold: Numbers, low: Numbers, high: Numbers) -> float:
    """Share of rows whose units lie in the interval, its ends included."""
    return float(((sold >= low) & (sold <= high)).mean())


def difference(
    sold: Numbers, forecast: Numbers, other: Numbers, *, over: str, draws: int = DRAWS, seed: int = SEED
) -> Difference:
    """WAPE of `forecast` less that of `other`, with its 95 % interval.

    Args:
        sold: products by folds, as are the two forecasts.
        over: what is drawn with replacement, `products` (each with all its weeks) or `weeks` (each with all its
            products). The same draw serves both methods.
        draws: how many. seed: of the draws.

    Raises:
        ValueError: `over` is neither.
    """
    axes: Mapping[str, int] = {"products": 1, "weeks": 0}
    if over not in axes:
        raise ValueError(f"over is {over!r}; draw over one of {', '.join(axes)}")
    excess = (np.abs(sold - forecast) - np.abs(sold - other)).sum(axis=axes[over])
    units = sold.sum(axis=axes[over])
    rng = np.random.default_rng(seed)
    drawn = np.empty(draws)
    for draw in range(draws):
        chosen = rng.integers(0, len(units), len(units))
        drawn[draw] = excess[chosen].sum() / units[chosen].sum()
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Difference(float(excess.sum() / units.sum()), float(low), float(high))


def weeks_up_to(week: date) -> list[date]:
    """The Mondays that are known when `week` has ended: it and up to `HISTORY_WEEKS` before."""
    first = max(date.fromisoformat(FIRST_WEEK), week - timedelta(weeks=HISTORY_WEEKS))
    return [first + timedelta(weeks=n) for n in range((week - first).days // 7 + 1)]


def forecast_rows(predictions: pa.Table, sales: pa.Table, week: date) -> pa.Table:
    """What was forecast of `week`, by us and by the baselines, beside what it sold.

    Args:
        predictions: product_id, prediction, expected_units, low_units, high_units of the week.
        sales: product_id, week and units of that week and those before; of other weeks none is read.
        week: its Monday.

    Returns:
        `ROWS_SCHEMA`, in order of product_id.

    Raises:
        ValueError: nothing was asked about, or nothing of it was sold.
    """
    asked = predictions.sort_by("product_id")
    units = baselines.history(sales, asked["product_id"], weeks_up_to(week)) if asked.num_rows else np.zeros((0, 1))
    if not units[:, -1].any():
        raise ValueError(
            f"{week}: {asked.num_rows} products were forecast and none of them sold anything: there is nothing to "
            "judge a forecast by; materialize the week's product_weeks and product_demand_predictions again"
        )
    naive = {NAIVE_COLUMNS[name]: found[:, 0] for name, found in baselines.naive(units, 1).items()}
    imapa = baselines.statistical(units, 1, (baselines.IMAPA,))[baselines.IMAPA][:, 0]
    said = {"forecast": asked["prediction"]} | {
        name: asked[name] for name in ("expected_units", "low_units", "high_units")
    }
    found = {"product_id": asked["product_id"], "units": units[:, -1], **said, **naive, IMAPA_COLUMN: imapa}
    return pa.table({name: found[name] for name in ROWS_SCHEMA.names}, schema=ROWS_SCHEMA)


def summary(rows: pa.Table, sales: pa.Table, products: Sequence[int], week: date) -> pa.Table:
    """How good each method was over the `FOLDS` weeks up to `week`, on the same rows: `products` in each of them.

    Of a product that was not asked about in a week we said that it sells nothing; the baselines are asked all the same.

    Args:
        rows: of `forecast_rows`, with the week's `partition_key`, of those weeks.
        sales: product_id, week and units of those weeks and the ones before.
        products: whom to report on.
        week: Monday of the last week.

    Returns:
        `SUMMARY_SCHEMA`, one row per method, the smallest WAPE first. `difference` is our WAPE less the method's, with
        its 95 % interval over products; null in our own row.

    Raises:
        ValueError: a week is missing in `rows`, there are no products, or they sold nothing in a week.
    """
    weeks = weeks_up_to(week)
    folds = [one.isoformat() for one in weeks[-FOLDS:]]
    if missing := sorted(set(folds) - set(rows[PARTITION_KEY].unique().to_pylist())):
        raise ValueError(f"{week}: the backtest lacks {', '.join(missing)}; materialize these weeks of it first")
    if not products:
        raise ValueError(f"{week}: no product has sales in {MINIMUM_WEEKS} weeks up to it; build more weeks")
    units = baselines.history(sales, products, weeks)
    sold = units[:, -FOLDS:]
    forecast, expected, imapa = (
        _placed(rows, column, products, folds) for column in ("forecast", "expected_units", IMAPA_COLUMN)
    )
    ours = {OURS: np.nan_to_num(forecast), EXPECTATION: np.nan_to_num(expected)}
    unasked = np.isnan(imapa).any(axis=1)
    again = baselines.statistical(units[unasked], FOLDS, (baselines.IMAPA,))[baselines.IMAPA]
    imapa[unasked] = np.where(np.isnan(imapa[unasked]), again, imapa[unasked])
    methods = {**ours, **baselines.naive(units, FOLDS), f"StatsForecast {baselines.IMAPA}": imapa}
    found = []
    for name, said in methods.items():
        pooled = errors(sold, said)
        against = None if name == OURS else difference(sold, methods[OURS], said, over="products")
        found.append(
            {
                "method": name,
                "kind": "model" if name in ours else "baseline",
                **vars(pooled),
                **({"difference": against.wape, "low": against.low, "high": against.high} if against else {}),
                "wape_by_week": [errors(sold[:, n], said[:, n]).wape for n in range(FOLDS)],
            }
        )
    return pa.Table.from_pylist(sorted(found, key=lambda row: row["wape"]), schema=SUMMARY_SCHEMA)


def _placed(rows: pa.Table, column: str, products: Sequence[int], folds: Sequence[str]) -> Numbers:
    """A column of the rows as an array of products by folds, NaN where there is no row."""
    place = {product: n for n, product in enumerate(products)}
    fold = {week: n for n, week in enumerate(folds)}
    found = np.full((len(products), len(folds)), np.nan)
    at = [place.get(product, -1) for product in rows["product_id"].to_pylist()]
    of = [fold.get(week, -1) for week in rows[PARTITION_KEY].to_pylist()]
    there = (np.array(at) >= 0) & (np.array(of) >= 0)
    found[np.array(at)[there], np.array(of)[there]] = rows[column].to_numpy()[there]
    return found
