"""How good a demand model was on its holdout week, and whether that is good enough.

Belongs here: error measures, the naive baselines, the rule of the gate. Not here: Dagster's check of it.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ml_assets.demand.training import LABEL

BASELINES = {"last week": "units_lag_1", "four-week mean": "units_mean_4"}
"""Naive forecasts that a model must beat, each with the feature that is that forecast."""


@dataclass(frozen=True)
class Evaluation:
    """Errors on one holdout week. WAPE is the sum of absolute errors over the sum of units sold; bias is the
    forecast's sum over the same."""

    rows: int
    units: int
    bias: float
    wape_model: float
    wape_last_week: float
    wape_four_week_mean: float

    @property
    def errors(self) -> dict[str, float]:
        """WAPE by method, the model first."""
        return {
            "model": self.wape_model,
            "last week": self.wape_last_week,
            "four-week mean": self.wape_four_week_mean,
        }


def evaluate(rows: pa.Table, forecast: np.ndarray) -> Evaluation:
    """Compare `forecast`, one number a row, and the baselines with what the labelled `rows` then sold.

    Raises:
        ValueError: nothing was sold, so that no relative error exists.
    """
    sold = rows[LABEL].to_numpy()
    total = int(sold.sum())
    if total == 0:
        raise ValueError(
            f"the holdout week has {rows.num_rows} rows and no units sold: nothing to judge a model by; "
            "look at commerce.product_weeks of that week"
        )

    def wape(guess: np.ndarray) -> float:
        return _exact_sum(np.abs(sold - guess)) / total

    return Evaluation(
        rows=rows.num_rows,
        units=total,
        bias=_exact_sum(forecast) / total,
        wape_model=wape(forecast),
        wape_last_week=wape(rows[BASELINES["last week"]].to_numpy()),
        wape_four_week_mean=wape(rows[BASELINES["four-week mean"]].to_numpy()),
    )


def _exact_sum(values: np.ndarray) -> float:
    """Rounded once, so that the order in which rows come does not show in the last digit."""
    return math.fsum(values.tolist())


def lost_to(evaluation: Evaluation) -> list[str]:
    """The baselines that the model does not beat; the gate is open when there are none."""
    return [name for name in BASELINES if not evaluation.wape_model < evaluation.errors[name]]
