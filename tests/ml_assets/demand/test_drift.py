"""Drift is a large shift of a feature's distribution, not a significant one, and never judged on few rows."""

import numpy as np
import pyarrow as pa
import pytest

from ml_assets.demand.drift import MINIMUM_ROWS, THRESHOLD, feature_drift, stability_index

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("draw", [RNG.standard_normal, lambda n: RNG.poisson(0.4, n).astype(float)])
def test_two_samples_of_one_distribution_do_not_drift(draw) -> None:
    assert stability_index(draw(100_000), draw(30_000)) < 0.01


def test_a_shift_by_one_standard_deviation_is_above_the_threshold() -> None:
    assert stability_index(RNG.standard_normal(5000), RNG.standard_normal(5000) + 1) > THRESHOLD


def test_a_zero_inflated_feature_that_fills_up_is_above_the_threshold() -> None:
    before, after = RNG.poisson(0.2, 5000).astype(float), RNG.poisson(2.0, 5000).astype(float)
    assert stability_index(before, after) > THRESHOLD


def test_the_index_is_the_textbook_sum_over_deciles() -> None:
    reference = np.arange(1000.0)
    current = np.concatenate([np.arange(500.0), np.arange(500.0)])
    shares = [(0.1, 0.2)] * 5 + [(0.1, 0.5 / 1000)] * 5
    expected = sum((b - a) * np.log(b / a) for a, b in shares)
    assert stability_index(reference, current) == pytest.approx(expected)


def test_values_that_go_missing_are_drift_and_none_known_is_none() -> None:
    known, missing = np.arange(1000.0), np.full(1000, np.nan)
    half = np.where(np.arange(1000) % 2, known, np.nan)
    assert stability_index(known, half) > THRESHOLD
    assert stability_index(missing, missing) == 0.0


@pytest.mark.parametrize("small", ["reference", "current"])
def test_too_few_rows_on_either_side_are_not_judged(small: str) -> None:
    tables = {side: pa.table({"x": np.arange(MINIMUM_ROWS - (side == small))}) for side in ("reference", "current")}
    assert feature_drift(tables["reference"], tables["current"], ["x"]) is None


def test_each_feature_has_its_own_index() -> None:
    before = pa.table({"still": np.arange(1000), "moved": np.arange(1000.0)})
    after = pa.table({"still": np.arange(1000), "moved": np.arange(1000.0) * 3})
    found = feature_drift(before, after, ["still", "moved"])
    assert found is not None
    assert found["still"] == 0
    assert found["moved"] > THRESHOLD
