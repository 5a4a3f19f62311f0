"""The demand model behind the SDK's trainer protocol: what is expected to sell, and what else may happen.

Belongs here: LightGBM and its parameters for weekly demand. Not here: which rows and features (`project.py`,
`features.py`), choosing prices (`recommendation.py`).

One LightGBM forecasts the expectation; what else may happen is read off how far the last rows fell from theirs. Two
numbers are given, since one cannot serve both uses. The expectation adds up, so revenue is computed from it. The
median, which is the prediction, has the least absolute error and adds up to too little, as most products mostly sell
little and sometimes much.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ml_assets.pricing.features import LEVEL, REGULAR_SHARE
from ml_assets.sdk.metrics import Floats
from ml_assets.sdk.model_file import ModelMismatch, Signature
from ml_assets.sdk.trainers.lightgbm import DETERMINISTIC
from ml_assets.sdk.trainers.trainer import Parameters, Training

if TYPE_CHECKING:
    from lightgbm import Booster

_SETTINGS: Parameters = {
    # Zeros and a heavy tail in one distribution; its log link lets the level be an offset. Fitting the median itself
    # (regression_l1) took half as long again and had the larger absolute error: most rows' median is 0 or 1, so trees
    # learn little from it.
    "objective": "tweedie",
    "tweedie_variance_power": 1.3,
    "learning_rate": 0.1,
    "num_leaves": 63,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "max_bin": 127,
    "rounds": 70,
}

NON_INCREASING = ("planned_price_ratio",)
"""Features in which no forecast increases: a higher price never sells more."""
REGULAR = "sold_share_known"
"""The feature that says how regularly a product sells."""

BANDS = 24
COVERAGE = 0.8
_QUANTILES: Mapping[str, float] = {"low": (1 - COVERAGE) / 2, "median": 0.5, "high": (1 + COVERAGE) / 2}
BAND_ROWS = 60_000
"""Median and interval are read off this many last rows, six retail weeks, in bands of expected units."""

DETAILS: Mapping[str, str] = {
    "expected_units": "Units expected; adds up over products.",
    "low_units": f"Low end of the interval that is meant to hold {COVERAGE:.0%} of what is sold.",
    "high_units": "High end of that interval.",
}


@dataclass(frozen=True)
class DemandModel:
    """A fitted model: the expectation's trees, and quantiles of units over expected units by band of expected units."""

    booster: "Booster"
    bands: Mapping[str, list[float]]

    def expected(self, features: Floats) -> Floats:
        """Units expected of each row of `features`."""
        level = features[:, self.booster.feature_name().index(LEVEL)]
        ratio = np.exp(np.asarray(self.booster.predict(features, raw_score=True, num_threads=1)))
        return np.asarray(ratio * level, dtype=np.float64)

    def quantile(self, side: str, expected: Floats) -> Floats:
        """Units that are not exceeded with the probability of `side` (low, median, high)."""
        return np.asarray(expected * np.interp(np.log(expected), self.bands["log_expected"], self.bands[side]))


@dataclass(frozen=True)
class DemandTrainer:
    """Gradient-boosted trees for units a week of products that mostly sell little.

    A fit takes seconds, so one that was interrupted starts anew.

    Attributes:
        regular_share: rows are learned from whose product sold in this share of the weeks known.
    """

    regular_share: float = REGULAR_SHARE

    @property
    def framework(self) -> str:
        """`lightgbm-demand`."""
        return "lightgbm-demand"

    @property
    def parameters(self) -> Parameters:
        """Of LightGBM, and `rounds`, the number of trees."""
        return _SETTINGS

    @property
    def details(self) -> Mapping[str, str]:
        """The expectation and the interval."""
        return DETAILS

    def fit(self, training: Training) -> DemandModel:
        """Boost the expectation, then read the bands off the validation rows, or off the last ones.

        Raises:
            ModelMismatch: the features lack one that the method needs.
            ValueError: no product sells regularly enough to learn from.
        """
        import lightgbm as lgb

        names = list(training.signature.features)
        if missing := [name for name in (LEVEL, REGULAR) if name not in names]:
            raise ModelMismatch(f"the demand trainer reads {', '.join(missing)}; add it to the model's features")
        features, sold = training.examples.features, training.examples.labels
        regular = features[:, names.index(REGULAR)] >= self.regular_share
        if not regular.any():
            raise ValueError(
                f"none of {len(sold)} rows is of a product with {REGULAR} of {self.regular_share:.2f} or more: train "
                "on more weeks, or lower regular_share"
            )
        features, sold = features[regular], sold[regular]
        given = dict(training.parameters)
        rounds = int(given.pop("rounds") or 0)
        monotone = [-1 if name in NON_INCREASING else 0 for name in names]
        start = np.log(features[:, names.index(LEVEL)])
        data = lgb.Dataset(features, sold, init_score=start, feature_name=names)
        booster = lgb.train(
            {**given, **DETERMINISTIC, "seed": training.seed, "monotone_constraints": monotone}, data, rounds
        )
        model = DemandModel(booster, {})
        judged = training.validation
        if judged is None:
            features, sold = features[-BAND_ROWS:], sold[-BAND_ROWS:]
        else:
            features, sold = judged.features, judged.labels
        return DemandModel(booster, _bands(model.expected(features), sold))

    def predict(self, model: DemandModel, features: Floats) -> Floats:
        """The median of each row."""
        return model.quantile("median", model.expected(features)) if len(features) else np.empty(0)

    def detail(self, model: DemandModel, features: Floats) -> Mapping[str, Floats]:
        """The columns of `details`."""
        if not len(features):
            return {name: np.empty(0) for name in DETAILS}
        expected = model.expected(features)
        low, high = (model.quantile(side, expected) for side in ("low", "high"))
        return {"expected_units": expected, "low_units": low, "high_units": high}

    def save(self, model: DemandModel) -> bytes:
        """JSON with LightGBM's text and the bands."""
        return json.dumps({"expected": model.booster.model_to_string(), "bands": model.bands}).encode()

    def load(self, body: bytes) -> DemandModel:
        """The model that `save` wrote.

        Raises:
            ModelMismatch: it is none.
        """
        import lightgbm as lgb

        try:
            read = json.loads(body)
            bands = {side: list(map(float, read["bands"][side])) for side in ("log_expected", *_QUANTILES)}
            return DemandModel(lgb.Booster(model_str=read["expected"]), bands)
        except (ValueError, KeyError, TypeError, lgb.basic.LightGBMError) as error:
            raise ModelMismatch(
                f"the body is no demand model: {str(error).splitlines()[0]}; materialize the candidate again"
            ) from error

    def signature(self, model: DemandModel) -> Signature:
        """The feature names of the trees; demand is a number."""
        return Signature(tuple(model.booster.feature_name()), "regression")


def _bands(expected: Floats, sold: Floats) -> dict[str, list[float]]:
    """Quantiles of units over expected units, in bands of as many rows each, a row weighing as its expected units.

    A split conformal interval would keep rows back from training; among some 100,000 rows the residuals of those
    trained on are nearly as wide, and the backtest reports the coverage that is reached.
    """
    order = np.argsort(expected, kind="stable")
    found: dict[str, list[float]] = {"log_expected": [], **{side: [] for side in _QUANTILES}}
    for band in np.array_split(order, min(BANDS, len(order))):
        found["log_expected"].append(float(np.log(expected[band].mean())))
        ratio = sold[band] / expected[band]
        by_ratio = np.argsort(ratio, kind="stable")
        weight = np.cumsum(expected[band][by_ratio])
        for side, quantile in _QUANTILES.items():
            found[side].append(float(ratio[by_ratio][np.searchsorted(weight, quantile * weight[-1])]))
    return found
