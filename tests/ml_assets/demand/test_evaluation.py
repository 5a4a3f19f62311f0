"""A model is judged by WAPE on the holdout week and must beat every naive baseline."""

import numpy as np
import pyarrow as pa
import pytest

from ml_assets.demand.evaluation import evaluate, lost_to

ROWS = pa.table({"units": [4, 0, 6], "units_lag_1": [2, 0, 6], "units_mean_4": [3.0, 1.0, 4.0]})


def test_errors_match_hand_computed_ones() -> None:
    found = evaluate(ROWS, np.array([4.0, 1.0, 6.0]))
    assert (found.rows, found.units, found.bias) == (3, 10, 1.1)
    assert found.errors == {"model": 0.1, "last week": 0.2, "four-week mean": 0.4}


def test_a_model_better_than_both_baselines_passes() -> None:
    assert lost_to(evaluate(ROWS, np.array([4.0, 1.0, 6.0]))) == []


def test_a_model_worse_than_one_baseline_is_refused_by_that_one() -> None:
    assert lost_to(evaluate(ROWS, np.array([4.0, 3.0, 6.0]))) == ["last week"]


@pytest.mark.parametrize("forecast", [[2.0, 0.0, 6.0], [float("nan")] * 3])
def test_a_tie_or_an_undefined_error_does_not_pass(forecast: list[float]) -> None:
    assert "last week" in lost_to(evaluate(ROWS, np.array(forecast)))


def test_a_week_without_sales_is_refused_by_name() -> None:
    idle = ROWS.set_column(0, "units", pa.array([0, 0, 0]))
    with pytest.raises(ValueError, match=r"no units sold.*commerce\.product_weeks"):
        evaluate(idle, np.zeros(3))
