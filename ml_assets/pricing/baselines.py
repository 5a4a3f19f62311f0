"""What anybody could forecast without a model: the naive methods, and a forecasting library's.

Belongs here: forecasts from a product's own past sales alone. Not here: our model, judging any of them.

A seasonal naive forecast (the same week a year before) does not exist for any fold of a single year of data.
`QUARTER`, thirteen weeks before, is the nearest that does, and repeats neither holidays nor seasons.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Numbers = npt.NDArray[np.float64]

QUARTER = 13
NAIVE: Mapping[str, tuple[int, int, Callable[..., Numbers]]] = {
    "last week": (1, 1, np.mean),
    "four-week mean": (1, 4, np.mean),
    "eight-week mean": (1, 8, np.mean),
    # As WAPE rewards medians, the naive method has one as well.
    "eight-week median": (1, 8, np.median),
    "thirteen weeks before": (QUARTER, QUARTER, np.mean),
}
"""Each method, the first and last of the weeks before that it looks at, and what it makes of them."""

INTERMITTENT = ("ADIDA", "CrostonSBA", "IMAPA", "SESOpt", "TSB")
"""StatsForecast's methods for intermittent demand, and optimised exponential smoothing; seconds for all products."""

IMAPA = "IMAPA"
"""The best of them on the retail year (Petropoulos and Kourentzes, Forecast combinations for intermittent demand,
Journal of the Operational Research Society 66, 2015)."""


def history(product_weeks: pa.Table, products: npt.ArrayLike, weeks: Sequence[date]) -> Numbers:
    """Units of each of `products` (rows) in each of `weeks` (columns, ascending), 0 without a sale."""
    asked, columns = np.asarray(products), np.array(weeks, dtype="datetime64[D]")
    order = np.argsort(asked)
    product = product_weeks["product_id"].to_numpy()
    week = product_weeks["week"].to_numpy().astype("datetime64[D]")
    row = order[np.searchsorted(asked, product, sorter=order).clip(max=len(asked) - 1)]
    column = np.searchsorted(columns, week).clip(max=len(columns) - 1)
    wanted = (asked[row] == product) & (columns[column] == week)
    units = np.zeros((len(asked), len(columns)))
    units[row[wanted], column[wanted]] = product_weeks["units"].to_numpy()[wanted]
    return units


def naive(units: Numbers, folds: int) -> dict[str, Numbers]:
    """Forecasts of the last `folds` columns of `units` by each of `NAIVE`, from the columns before each.

    Raises:
        ValueError: the history before the first fold is too short for a method.
    """
    weeks = units.shape[1]
    if weeks - folds < QUARTER:
        raise ValueError(f"{weeks - folds} weeks before the first fold, {QUARTER} needed: ask for fewer folds")
    ends = range(weeks - folds, weeks)
    return {
        name: np.column_stack([made(units[:, end - last : end - first + 1], axis=1) for end in ends])
        for name, (first, last, made) in NAIVE.items()
    }


def statistical(units: Numbers, folds: int, methods: Sequence[str] = INTERMITTENT) -> dict[str, Numbers]:
    """Forecasts of the last `folds` columns by StatsForecast's `methods`, each fitted again on the columns before.

    A method is the name of a class of `statsforecast.models`; those with a season get none, as a year has one of each.
    """
    models = importlib.import_module("statsforecast.models")
    made = {name: _method(models, name) for name in methods}
    weeks = units.shape[1]
    found = {name: np.zeros((len(units), folds)) for name in methods}
    for name, method in made.items():
        for n, series in enumerate(units):
            for fold in range(folds):
                known = series[: weeks - folds + fold]
                # A product that never sold is expected to sell nothing; the methods divide by its sales.
                if known.any():
                    found[name][n, fold] = method.forecast(y=known, h=1)["mean"][0]
    return {name: np.maximum(np.nan_to_num(values), 0.0) for name, values in found.items()}


def _method(models: ModuleType, name: str) -> Any:
    settings: dict[str, dict[str, object]] = {
        "TSB": {"alpha_d": 0.2, "alpha_p": 0.2},
        "AutoETS": {"season_length": 1},
        "AutoARIMA": {"season_length": 1},
    }
    found = {"SESOpt": "SimpleExponentialSmoothingOptimized"}.get(name, name)
    return getattr(models, found)(**settings.get(name, {}))
