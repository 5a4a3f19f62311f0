"""Naive forecasts are those of a loop, and look only back."""

import numpy as np
import pytest

from ml_assets.pricing.baselines import NAIVE, QUARTER, history, naive, statistical
from tests.ml_assets.pricing.shop import grocery, week_of

FOLDS = 5


@pytest.fixture(scope="module")
def units() -> np.ndarray:
    return np.random.default_rng(0).poisson(2.0, (30, 24)).astype(float)


def test_history_is_units_by_product_and_week_and_zero_without_a_sale() -> None:
    sales = grocery(20, 15).product_weeks
    found = history(sales, [1003, 1001], [week_of(n) for n in range(5, 12)])
    sold = {(row["product_id"], row["week"]): row["units"] for row in sales.to_pylist()}
    expected = [[sold.get((product, week_of(n)), 0) for n in range(5, 12)] for product in (1003, 1001)]
    np.testing.assert_array_equal(found, expected)


def test_naive_forecasts_equal_a_loop_over_products_and_folds(units: np.ndarray) -> None:
    found = naive(units, FOLDS)
    for name, (first, last, made) in NAIVE.items():
        for product in range(len(units)):
            for n, fold in enumerate(range(units.shape[1] - FOLDS, units.shape[1])):
                assert found[name][product, n] == pytest.approx(made(units[product, fold - last : fold - first + 1]))


def test_what_is_sold_in_a_fold_or_later_does_not_change_its_naive_forecast(units: np.ndarray) -> None:
    changed = units.copy()
    changed[:, -2:] += 5
    before, after = naive(units, FOLDS), naive(changed, FOLDS)
    for name in NAIVE:
        np.testing.assert_array_equal(before[name][:, : FOLDS - 1], after[name][:, : FOLDS - 1])
    assert not np.array_equal(before["last week"], after["last week"])


def test_too_short_a_history_is_refused(units: np.ndarray) -> None:
    with pytest.raises(ValueError, match=f"{QUARTER} needed"):
        naive(units, 20)


def test_a_librarys_forecasts_look_only_back_and_are_zero_before_the_first_sale(units: np.ndarray) -> None:
    changed = units.copy()
    changed[:, -2:] += 5
    changed[0, :-1] = 0
    before, after = (statistical(one, FOLDS, ("TSB",))["TSB"] for one in (units, changed))
    np.testing.assert_array_equal(before[1:, : FOLDS - 1], after[1:, : FOLDS - 1])
    assert not np.array_equal(before[1:, -1], after[1:, -1])
    assert (after[0] == 0).all()
