"""A fold learns from its window and nothing else, and older versions are asked in their own terms."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ml_assets.sdk.declarations import Search, Whole, Window
from ml_assets.sdk.folds import evaluate, fit, predict, predict_as_served, span_of
from ml_assets.sdk.metrics import Floats
from ml_assets.sdk.model_file import ModelFile, ModelMismatch
from ml_assets.sdk.trainers.lightgbm import LightGBM
from ml_assets.sdk.trainers.sklearn import Sklearn
from ml_assets.sdk.trainers.trainer import TrainedModel
from ml_assets.sdk.training_sets import TrainingDataError
from tests.ml_assets.sdk.bakery import WEEKS
from tests.ml_assets.sdk.lightgbm_project import BREAD

FOLD = "2017-03-20"
SPAN = span_of(BREAD, FOLD)


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Every week's rows, as the training set stores them."""
    rng, shops = np.random.default_rng(0), 60
    tables = []
    for week in WEEKS:
        footfall = rng.gamma(4.0, 25.0, shops)
        monday = datetime.fromisoformat(week).replace(tzinfo=UTC)
        tables.append(
            pa.table(
                {
                    "shop_id": np.arange(shops),
                    "week": [monday.date()] * shops,
                    "footfall": footfall,
                    "sold_before": rng.gamma(4.0, 15.0, shops),
                    "shop_known_at": pa.array([monday] * shops, pa.timestamp("us", tz="UTC")),
                    "sold": 10 + 0.5 * footfall + rng.normal(0, 4, shops),
                    "partition_key": [week] * shops,
                }
            )
        )
    return pa.concat_tables(tables)


def with_column(rows: pa.Table, name: str, values: object) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, pa.array(values))


def of_weeks(rows: pa.Table, weeks: tuple[str, ...]) -> pa.Table:
    return rows.filter(pc.is_in(rows["partition_key"], pa.array(weeks)))


def test_a_fold_learns_watches_and_judges_in_the_order_of_time() -> None:
    assert SPAN.training == tuple(WEEKS[3:9])
    assert SPAN.validation == (WEEKS[9],)
    assert SPAN.holdout == (WEEKS[10],)
    assert max(SPAN.known) < FOLD


def test_rows_in_any_order_and_rows_outside_the_window_give_the_same_model(rows: pa.Table, tmp_path: Path) -> None:
    first = fit(BREAD, FOLD, SPAN, of_weeks(rows, SPAN.learned), tmp_path / "first")
    outside = ~np.isin(rows["partition_key"].to_numpy(), SPAN.learned)
    noisy = with_column(rows, "sold", np.where(outside, 1e6, rows["sold"].to_numpy()))
    shuffled = noisy.take(np.random.default_rng(1).permutation(noisy.num_rows))
    second = fit(BREAD, FOLD, SPAN, shuffled, tmp_path / "second")
    assert second.file.text == first.file.text
    assert first.rows == 6 * 60


def test_a_changed_row_inside_the_window_gives_another_model_and_another_checkpoint(
    rows: pa.Table, tmp_path: Path
) -> None:
    first = fit(BREAD, FOLD, SPAN, rows, tmp_path)
    changed = with_column(rows, "sold", rows["sold"].to_numpy() + (rows["partition_key"].to_numpy() == WEEKS[5]))
    assert fit(BREAD, FOLD, SPAN, changed, tmp_path).file.text != first.file.text
    assert len(list(tmp_path.iterdir())) == 2


def test_a_search_within_a_fold_never_sees_the_holdout(rows: pa.Table, tmp_path: Path) -> None:
    space = Search({"num_leaves": Whole(2, 16)}, trials=3, splits=2)
    model = replace(BREAD, search=space, trainer=LightGBM(rounds=5, settings={"min_data_in_leaf": 5}))
    first = fit(model, FOLD, SPAN, rows, tmp_path / "first")
    holdout = np.isin(rows["partition_key"].to_numpy(), SPAN.holdout)
    blind = with_column(rows, "sold", np.where(holdout, 0.0, rows["sold"].to_numpy()))
    assert fit(model, FOLD, SPAN, blind, tmp_path / "second") == first
    assert first.parameters["num_leaves"] == min(first.trials, key=lambda trial: trial.error).parameters["num_leaves"]


def test_an_evaluation_says_which_feature_the_model_lives_on(rows: pa.Table, tmp_path: Path) -> None:
    file = fit(BREAD, FOLD, SPAN, rows, tmp_path).file
    found = evaluate(BREAD, FOLD, SPAN, file, None, rows)
    assert found.rows == 60
    assert found.champion_error is None
    assert found.importance["footfall"] > 1 > abs(found.importance["sold_before"])
    assert sum(one.rows for one in found.calibration) == 60
    assert [one.predicted for one in found.calibration] == sorted(one.predicted for one in found.calibration)


def test_a_leak_anywhere_in_the_window_is_found(rows: pa.Table, tmp_path: Path) -> None:
    file = fit(BREAD, FOLD, SPAN, rows, tmp_path).file
    late = [
        moment + timedelta(days=1) if week == SPAN.training[0] else moment
        for moment, week in zip(rows["shop_known_at"].to_pylist(), rows["partition_key"].to_pylist(), strict=True)
    ]
    leaking = with_column(rows, "shop_known_at", late)
    found = evaluate(BREAD, FOLD, SPAN, file, None, of_weeks(leaking, SPAN.known))
    assert found.evidence.leaks == {"footfall": 60, "sold_before": 60}


def test_a_champion_of_another_framework_with_other_features_is_compared_with(rows: pa.Table, tmp_path: Path) -> None:
    linear = replace(BREAD, trainer=Sklearn("sklearn.linear_model.Ridge"), features=("footfall",))
    champion = fit(linear, FOLD, SPAN, rows, tmp_path / "linear").file
    candidate = fit(BREAD, FOLD, SPAN, rows, tmp_path / "trees").file
    found = evaluate(BREAD, FOLD, SPAN, candidate, champion, rows)
    asked = of_weeks(rows, SPAN.holdout)
    assert np.array_equal(predict_as_served(BREAD, champion, asked), predict(linear, champion, asked))
    assert found.champion_error is not None
    assert found.evidence.champion is not None
    with pytest.raises(ModelMismatch, match="of scikitlearn, the declaration of lightgbm"):
        predict(BREAD, champion, asked)


def test_a_version_whose_features_are_gone_is_refused_with_a_way_out(rows: pa.Table, tmp_path: Path) -> None:
    file = fit(BREAD, FOLD, SPAN, rows, tmp_path).file
    gone = ModelFile(file.framework, replace(file.signature, features=("footfall", "weather")), file.body)
    with pytest.raises(ModelMismatch, match="which lacks weather.*against_champion=False"):
        predict_as_served(BREAD, gone, rows)


def test_predictions_that_are_no_numbers_are_refused(rows: pa.Table, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Broken(LightGBM):
        def predict(self, model: TrainedModel, features: Floats) -> Floats:
            return np.full(len(features), np.nan)

    file = fit(BREAD, FOLD, SPAN, rows, tmp_path).file
    with pytest.raises(TrainingDataError, match="60 of 60 predictions are NaN"):
        predict(replace(BREAD, trainer=Broken()), file, of_weeks(rows, SPAN.holdout))


def test_a_holdout_or_a_validation_without_rows_is_refused_by_its_partition(rows: pa.Table, tmp_path: Path) -> None:
    file = fit(BREAD, FOLD, SPAN, rows, tmp_path).file
    with pytest.raises(TrainingDataError, match=rf"{SPAN.holdout[0]} have no rows to judge"):
        evaluate(BREAD, FOLD, SPAN, file, None, of_weeks(rows, SPAN.learned))
    with pytest.raises(TrainingDataError, match=rf"no rows in {SPAN.validation[0]} to stop early on"):
        fit(BREAD, FOLD, SPAN, of_weeks(rows, SPAN.training), tmp_path)


def test_a_longer_holdout_is_taken_of_the_end() -> None:
    longer = span_of(replace(BREAD, window=Window(training=4, holdout=3)), FOLD)
    assert (longer.training, longer.validation, longer.holdout) == (tuple(WEEKS[4:8]), (), tuple(WEEKS[8:11]))
