"""What is watched is the size of a shift and the error against that of the evaluation, never judged on few rows."""

import numpy as np
import pyarrow as pa

from ml_assets.sdk.declarations import Monitor
from ml_assets.sdk.monitors import Reading, drift, error, measured, stability_index
from tests.ml_assets.sdk.bakery import facts, loaves
from tests.ml_assets.sdk.lightgbm_project import BREAD

WATCHED = Monitor(minimum_rows=100)
RNG = np.random.default_rng(3)


def test_the_index_is_the_textbook_sum_over_deciles() -> None:
    reference = np.arange(1000.0)
    current = np.concatenate([np.arange(500.0), np.arange(500.0)])
    shares = [(0.1, 0.2)] * 5 + [(0.1, 0.5 / 1000)] * 5
    assert np.isclose(stability_index(reference, current), sum((b - a) * np.log(b / a) for a, b in shares))


def test_a_shift_by_one_standard_deviation_is_above_the_limit_and_none_is_not() -> None:
    before = {"still": RNG.standard_normal(5000), "moved": RNG.standard_normal(5000)}
    after = {"still": RNG.standard_normal(5000), "moved": RNG.standard_normal(5000) + 1}
    assert {one.subject: one.within for one in drift(WATCHED, before, after)} == {"still": True, "moved": False}


def test_values_that_go_missing_are_drift() -> None:
    half = np.where(np.arange(1000) % 2, np.arange(1000.0), np.nan)
    assert stability_index(np.arange(1000.0), half) > WATCHED.psi


def test_few_rows_on_either_side_are_not_judged_and_it_is_said() -> None:
    (reading,) = drift(WATCHED, {"x": np.arange(99.0)}, {"x": np.arange(500.0)})
    assert reading.value is None
    assert reading.within
    assert "99 rows before and 500 now" in reading.why
    (unknown,) = drift(WATCHED, {}, {"x": np.arange(500.0)})
    assert unknown.value is None


def test_an_error_above_its_share_of_the_evaluated_one_is_not_within() -> None:
    assert error(WATCHED, "wape", expected=0.2, now=0.3, rows=5).within
    assert not error(WATCHED, "wape", expected=0.2, now=0.31, rows=5).within
    assert error(WATCHED, "wape", expected=0.2, now=None, rows=0).value is None


def predicted(shops: int, sold: np.ndarray) -> pa.Table:
    week = facts(shops, weeks=1)["known_at"][0].as_py().date()
    return pa.table({"shop_id": list(range(shops)), "week": [week] * shops, "prediction": sold})


def test_predictions_that_move_are_drift_though_features_and_labels_stay() -> None:
    known, then = facts(200, weeks=1).slice(0, 200), loaves(200, weeks=1)
    rows = known.select(["shop_id", "footfall", "sold_before"]).append_column("sold", then["sold"])
    rows = rows.append_column("week", then["week"])
    right = predicted(200, then["sold"].to_numpy())

    def readings(now: pa.Table, before: pa.Table) -> dict[str, Reading]:
        return {one.subject: one for one in measured(BREAD, WATCHED, now, before, rows, rows, expected=0.1)}

    same = readings(right, right)
    assert {name for name, one in same.items() if one.within} == {
        "footfall",
        "sold_before",
        "sold",
        "prediction",
        "wape",
    }
    assert same["prediction"].value == 0
    moved = readings(predicted(200, then["sold"].to_numpy() * 2), right)
    assert {name for name, one in moved.items() if not one.within} == {"prediction", "wape"}
    alone = readings(right, right.slice(0, 0))["prediction"]
    assert (alone.value, alone.within) == (None, True)
    assert "0 rows before and 200 now" in alone.why
