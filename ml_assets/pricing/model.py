"""The demand model: labelled rows, fitting, predicting.

Belongs here: LightGBM and its parameters, on Arrow tables. Not here: judging a model (`backtest.py`), choosing prices
(`recommendation.py`), where models and tables are kept.

One LightGBM forecasts the expectation; what else may happen is read off how far the last weeks' rows fell from theirs.
Two numbers are given, since one cannot serve both uses. `expected_units` is an expectation: it adds up, so revenue is
computed from it. `median_units` has the least absolute error and adds up to too little, as most products mostly sell
little and sometimes much.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ml_assets.pricing.features import NAMES

LABEL = "units"
Numbers = npt.NDArray[np.float64]

LEVEL = "units_smoothed_6"
LEVEL_OFFSET_UNITS = 0.1
"""Trees do not extrapolate, so they learn the ratio to the product's level; this keeps a level of 0 a number."""

PARAMETERS: Mapping[str, str | int | float | bool] = {
    # Zeros and a heavy tail in one distribution; its log link lets the level be an offset. Fitting the median itself
    # (regression_l1) took half as long again and had the larger absolute error: most rows' median is 0 or 1, so trees
    # learn little from it.
    "objective": "tweedie",
    "tweedie_variance_power": 1.3,
    "learning_rate": 0.06,
    "num_leaves": 63,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "max_bin": 127,
    # Same rows, same bytes: what the order of threads could change is switched off.
    "deterministic": True,
    "force_row_wise": True,
    # Folds are fitted side by side, one a core.
    "num_threads": 1,
    "verbosity": -1,
}
ROUNDS = 120
SEED = 7

NON_INCREASING = ("planned_price_ratio",)
"""Features in which no forecast increases: a higher price never sells more."""

BANDS = 24
COVERAGE = 0.8
QUANTILES: Mapping[str, float] = {"low": (1 - COVERAGE) / 2, "median": 0.5, "high": (1 + COVERAGE) / 2}
BAND_WEEKS = 13
"""Median and interval are read off the training rows of this many last weeks, in bands of expected units."""


class ModelMismatch(ValueError):
    """A model that was made for other features than those it is asked to read."""


@dataclass(frozen=True)
class Forecast:
    """Units of each row, none negative; `low_units` to `high_units` is meant to hold `COVERAGE` of what is sold."""

    expected_units: Numbers
    median_units: Numbers
    low_units: Numbers
    high_units: Numbers


def labelled(features: duckdb.DuckDBPyRelation, product_weeks: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Feature rows with the units then sold in their own week, 0 without a sale.

    Args:
        features: rows of `features.features`.
        product_weeks: rows of `commerce.product_weeks` for at least the same weeks.

    Returns:
        The columns of `features`, then `units` BIGINT, in order of week and product.
    """
    rows, sales = features.set_alias("rows"), product_weeks.set_alias("sales")
    joined = rows.join(sales, "rows.product_id = sales.product_id and rows.week = sales.week", how="left")
    return joined.project(f"rows.*, coalesce(sales.units, 0)::bigint as {LABEL}").order("week, product_id")


def fit(rows: pa.Table, names: tuple[str, ...] = NAMES, seed: int = SEED) -> str:
    """Train on labelled rows in any order, reading the features `names`; returns the model as JSON text.

    Raises:
        ValueError: there are no rows to learn from.
    """
    if rows.num_rows == 0:
        raise ValueError("no labelled rows to train on: give rows of weeks before the one to forecast")
    rows = rows.sort_by([("week", "ascending"), ("product_id", "ascending")])
    import lightgbm as lgb

    values, sold, level = _matrix(rows, names), _column(rows, LABEL), _level(rows)
    constraints = [-1 if name in NON_INCREASING else 0 for name in names]
    data = lgb.Dataset(values, sold, init_score=np.log(level), feature_name=list(names))
    booster = lgb.train({**PARAMETERS, "seed": seed, "monotone_constraints": constraints}, data, ROUNDS)
    recent = _recent(rows)
    return json.dumps(
        {
            "names": list(names),
            "expected": booster.model_to_string(),
            "bands": _bands(_expected(booster, values[recent], level[recent]), sold[recent]),
        }
    )


def predict(model: str, rows: pa.Table) -> Forecast:
    """Forecast each row.

    Raises:
        ModelMismatch: the model reads a feature that the rows lack.
    """
    read = json.loads(model)
    names = tuple(read["names"])
    if missing := [name for name in names if name not in rows.column_names]:
        raise ModelMismatch(f"the model reads {', '.join(missing)}, which the rows lack; fit it again on such rows")
    if rows.num_rows == 0:
        nothing = np.empty(0)
        return Forecast(nothing, nothing, nothing, nothing)
    import lightgbm as lgb

    expected = _expected(lgb.Booster(model_str=read["expected"]), _matrix(rows, names), _level(rows))
    bands = read["bands"]
    at = np.log(expected)
    low, median, high = (expected * np.interp(at, bands["log_expected"], bands[side]) for side in QUANTILES)
    return Forecast(expected, median, low, high)


def _expected(booster: Any, values: npt.NDArray[np.float32], level: Numbers) -> Numbers:
    ratio: Numbers = np.exp(booster.predict(values, raw_score=True, num_threads=1))
    return ratio * level


def _bands(expected: Numbers, sold: Numbers) -> dict[str, list[float]]:
    """Quantiles of units over expected units, in bands of as many rows each, a row weighing as its expected units.

    A split conformal interval would keep rows back from training; among some 100,000 rows the residuals of those
    trained on are nearly as wide, and the backtest reports the coverage that is reached.
    """
    order = np.argsort(expected, kind="stable")
    found: dict[str, list[float]] = {"log_expected": [], **{side: [] for side in QUANTILES}}
    for band in np.array_split(order, min(BANDS, len(order))):
        found["log_expected"].append(float(np.log(expected[band].mean())))
        ratio = sold[band] / expected[band]
        by_ratio = np.argsort(ratio, kind="stable")
        weight = np.cumsum(expected[band][by_ratio])
        for side, quantile in QUANTILES.items():
            found[side].append(float(ratio[by_ratio][np.searchsorted(weight, quantile * weight[-1])]))
    return found


def _recent(rows: pa.Table) -> npt.NDArray[np.bool_]:
    weeks = rows["week"].cast(pa.date32()).cast(pa.int32()).to_numpy()
    return np.asarray(weeks > weeks.max() - 7 * BAND_WEEKS)


def _level(rows: pa.Table) -> Numbers:
    """The units a week that a product sells lately, for as many days as stores open in the row's week."""
    recent = np.nan_to_num(_column(rows, LEVEL))
    return (recent + LEVEL_OFFSET_UNITS) * _column(rows, "open_days") / 7


def _column(rows: pa.Table, name: str) -> Numbers:
    return np.asarray(rows[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def _matrix(rows: pa.Table, names: tuple[str, ...]) -> npt.NDArray[np.float32]:
    return np.column_stack([rows[name].cast(pa.float32()).to_numpy() for name in names])
