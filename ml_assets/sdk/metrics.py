"""Error measures that a model is trained for, judged by and watched with. Smaller is better in all of them.

Belongs here: each measure as a ratio of sums over rows, which is what lets a paired bootstrap resample it exactly. Not
here: intervals and verdicts (`gates.py`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_SMALLEST_PROBABILITY = 1e-15


@dataclass(frozen=True)
class Metric:
    """A measure: the sum of `loss` over the rows divided by the sum of `weight` over them."""

    name: str
    description: str
    loss: Callable[[Floats, Floats], Floats]
    weight: Callable[[Floats], Floats]

    def of(self, label: Floats, prediction: Floats) -> float:
        """The measure over all rows; NaN where its denominator is zero.

        The sums are exact, so that the order in which rows come does not show in the last digit.
        """
        denominator = math.fsum(self.weight(label).tolist())
        return math.fsum(self.loss(label, prediction).tolist()) / denominator if denominator else math.nan


def _absolute(label: Floats, prediction: Floats) -> Floats:
    return np.abs(label - prediction)


def _squared(label: Floats, prediction: Floats) -> Floats:
    return np.square(label - prediction)


def _log_loss(label: Floats, prediction: Floats) -> Floats:
    certain = np.clip(prediction, _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    return -(label * np.log(certain) + (1 - label) * np.log1p(-certain))


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("wape", "Sum of absolute errors over the sum of absolute labels.", _absolute, np.abs),
        Metric("mae", "Mean absolute error.", _absolute, np.ones_like),
        Metric("mse", "Mean squared error.", _squared, np.ones_like),
        Metric("brier", "Mean squared error of a probability.", _squared, np.ones_like),
        Metric("log_loss", "Mean negative log-likelihood of a probability.", _log_loss, np.ones_like),
    )
}
