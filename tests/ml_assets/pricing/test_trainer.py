"""Equal rows make equal models, a higher price never sells more, and forecasts are what they say they are."""

from pathlib import Path

import duckdb
import numpy as np
import pytest

from ml_assets.pricing.features import NAMES
from ml_assets.pricing.trainer import COVERAGE, DETAILS, DemandModel, DemandTrainer
from ml_assets.sdk.model_file import ModelMismatch, Signature
from ml_assets.sdk.trainers.trainer import Checkpoint, DetailedTrainer, Examples, Training, details_of
from tests.ml_assets.pricing.shop import examples, feature_rows, grocery

TRAINER = DemandTrainer()


def fit(
    known: Examples, trainer: DemandTrainer = TRAINER, seed: int = 7, *, held: Examples | None = None
) -> DemandModel:
    signature, checkpoint = Signature(NAMES, "regression"), Checkpoint(Path("unused"))
    return trainer.fit(Training(known, held, signature, trainer.parameters, seed, checkpoint))


@pytest.fixture(scope="module")
def known() -> Examples:
    with duckdb.connect() as connection:
        return examples(feature_rows(connection, grocery(30, 200, level=1.5), range(8, 30)))


@pytest.fixture(scope="module")
def fitted(known: Examples) -> DemandModel:
    return fit(known)


def test_it_says_more_than_one_number_of_each_row(known: Examples, fitted: DemandModel) -> None:
    assert isinstance(TRAINER, DetailedTrainer)
    assert details_of(TRAINER).keys() == DETAILS.keys() == TRAINER.detail(fitted, known.features).keys()
    assert all(len(column) == len(known.labels) for column in TRAINER.detail(fitted, known.features).values())


def test_the_same_rows_give_the_same_model_bytes(known: Examples, fitted: DemandModel) -> None:
    assert TRAINER.save(fit(known)) == TRAINER.save(fitted)


def test_another_seed_or_other_rows_give_another_model(known: Examples, fitted: DemandModel) -> None:
    half = len(known.labels) // 2
    assert TRAINER.save(fit(known, seed=8)) != TRAINER.save(fitted)
    assert TRAINER.save(fit(Examples(known.features[:half], known.labels[:half]))) != TRAINER.save(fitted)


def test_a_saved_model_predicts_the_same_when_it_is_loaded(known: Examples, fitted: DemandModel) -> None:
    loaded = TRAINER.load(TRAINER.save(fitted))
    np.testing.assert_array_equal(TRAINER.predict(loaded, known.features), TRAINER.predict(fitted, known.features))
    assert TRAINER.signature(loaded) == Signature(NAMES, "regression")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"expected": "tree", "bands": {}}', b"\x80\x04K\x01."])
def test_a_body_that_is_no_such_model_is_refused(body: bytes) -> None:
    with pytest.raises(ModelMismatch, match="no demand model.*materialize the candidate again"):
        TRAINER.load(body)


def test_a_higher_planned_price_never_sells_more_and_a_foreseen_one_sells_less(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    known = examples(feature_rows(connection, grocery(30, 400, level=1.5, steady=True), range(8, 30)))
    fitted, at, forecasts = fit(known), NAMES.index("planned_price_ratio"), []
    for ratio in (0.5, 0.7, 0.8, 0.9, 1.0):
        asked = known.features.copy()
        asked[:, at] = ratio
        forecasts.append(TRAINER.detail(fitted, asked)["expected_units"])
    assert (np.diff(forecasts, axis=0) <= 1e-9).all()
    assert forecasts[0].sum() > 1.02 * forecasts[-1].sum()


def test_expectations_add_up_and_medians_have_the_lesser_absolute_error(known: Examples, fitted: DemandModel) -> None:
    expected = TRAINER.detail(fitted, known.features)["expected_units"]
    median = TRAINER.predict(fitted, known.features)
    assert expected.sum() == pytest.approx(known.labels.sum(), rel=0.05)
    assert np.abs(known.labels - median).sum() < np.abs(known.labels - expected).sum()


def test_intervals_are_in_order_and_hold_what_they_promise(known: Examples, fitted: DemandModel) -> None:
    detail, median = TRAINER.detail(fitted, known.features), TRAINER.predict(fitted, known.features)
    low, high = detail["low_units"], detail["high_units"]
    assert (low >= 0).all()
    assert (low <= median).all()
    assert (median <= high).all()
    held = ((known.labels >= low) & (known.labels <= high)).mean()
    assert COVERAGE - 0.05 <= held <= 0.95


def test_intervals_are_read_off_validation_rows_where_there_are_some(known: Examples, fitted: DemandModel) -> None:
    calm = Examples(known.features[-500:], TRAINER.detail(fitted, known.features[-500:])["expected_units"])
    detail = TRAINER.detail(fit(known, held=calm), calm.features)
    np.testing.assert_allclose(detail["low_units"], detail["high_units"])


def test_products_that_sell_little_are_forecast_little(known: Examples, fitted: DemandModel) -> None:
    idle = known.features[known.features[:, NAMES.index("units_mean_known")] < 0.3]
    assert len(idle) > 0
    assert TRAINER.detail(fitted, idle)["expected_units"].max() < 1


def test_only_regular_products_are_learned_from(known: Examples, fitted: DemandModel) -> None:
    regular = known.features[:, NAMES.index("sold_share_known")] >= TRAINER.regular_share
    assert 0 < regular.sum() < len(regular)
    again = fit(Examples(known.features[regular], known.labels[regular]))
    assert TRAINER.save(again) == TRAINER.save(fitted)
    with pytest.raises(ValueError, match=f"none of {(~regular).sum()} rows.*lower regular_share"):
        fit(Examples(known.features[~regular], known.labels[~regular]))


def test_features_that_lack_what_the_method_reads_are_refused(known: Examples) -> None:
    names = tuple(name for name in NAMES if name != "usual_units")
    signature = Signature(names, "regression")
    features = np.delete(known.features, NAMES.index("usual_units"), axis=1)
    with pytest.raises(ModelMismatch, match="usual_units"):
        TRAINER.fit(
            Training(
                Examples(features, known.labels), None, signature, TRAINER.parameters, 7, Checkpoint(Path("unused"))
            )
        )


def test_no_rows_are_forecast_as_nothing(known: Examples, fitted: DemandModel) -> None:
    nothing = known.features[:0]
    assert TRAINER.predict(fitted, nothing).shape == (0,)
    assert all(column.shape == (0,) for column in TRAINER.detail(fitted, nothing).values())
