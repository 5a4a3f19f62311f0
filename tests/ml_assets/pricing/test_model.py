"""Equal rows make equal models, a higher price never sells more, and forecasts are what they say they are."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from ml_assets.pricing import model
from ml_assets.pricing.features import UNPLANNED
from tests.ml_assets.pricing.shop import feature_rows, grocery


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    with duckdb.connect() as connection:
        return feature_rows(connection, grocery(30, 200, level=1.5), range(8, 30))


@pytest.fixture(scope="module")
def fitted(rows: pa.Table) -> str:
    return model.fit(rows)


def test_the_same_rows_in_any_order_give_the_same_model_bytes(rows: pa.Table, fitted: str) -> None:
    shuffled = rows.take(np.random.default_rng(1).permutation(rows.num_rows))
    assert model.fit(shuffled) == fitted


def test_another_seed_or_other_rows_give_another_model(rows: pa.Table, fitted: str) -> None:
    assert model.fit(rows, seed=8) != fitted
    assert model.fit(rows.slice(0, rows.num_rows // 2)) != fitted


def test_a_higher_planned_price_never_sells_more(rows: pa.Table, fitted: str) -> None:
    at = rows.column_names.index("planned_price_ratio")
    forecasts = [
        model.predict(
            fitted,
            rows.set_column(at, "planned_price_ratio", pa.array(np.full(rows.num_rows, ratio, dtype=np.float32))),
        ).expected_units
        for ratio in (0.5, 0.7, 0.8, 0.9, 1.0)
    ]
    assert (np.diff(forecasts, axis=0) <= 1e-9).all()
    assert forecasts[0].sum() > 1.02 * forecasts[-1].sum()


def test_expectations_add_up_and_medians_have_the_lesser_absolute_error(rows: pa.Table, fitted: str) -> None:
    forecast, sold = model.predict(fitted, rows), rows[model.LABEL].to_numpy()
    assert forecast.expected_units.sum() == pytest.approx(sold.sum(), rel=0.05)
    assert np.abs(sold - forecast.median_units).sum() < np.abs(sold - forecast.expected_units).sum()


def test_intervals_are_in_order_and_hold_what_they_promise(rows: pa.Table, fitted: str) -> None:
    forecast, sold = model.predict(fitted, rows), rows[model.LABEL].to_numpy()
    assert (forecast.low_units >= 0).all()
    assert (forecast.low_units <= forecast.median_units).all()
    assert (forecast.median_units <= forecast.high_units).all()
    held = ((sold >= forecast.low_units) & (sold <= forecast.high_units)).mean()
    assert model.COVERAGE - 0.05 <= held <= 0.95


def test_products_that_never_sold_are_forecast_little(rows: pa.Table, fitted: str) -> None:
    idle = rows.filter(pa.array(rows["units_mean_known"].to_numpy() < 0.2))
    assert idle.num_rows > 0
    assert model.predict(fitted, idle).expected_units.max() < 1


def test_labels_are_the_units_sold_and_zero_without_a_sale(rows: pa.Table) -> None:
    sales = grocery(30, 200, level=1.5).product_weeks.select(["week", "product_id", "units"]).to_pylist()
    sold = {(row["week"], row["product_id"]): row["units"] for row in sales}
    labels = rows.select(["week", "product_id", model.LABEL]).to_pylist()
    assert any(row[model.LABEL] == 0 for row in labels)
    for row in labels:
        assert row[model.LABEL] == sold.get((row["week"], row["product_id"]), 0)


def test_a_model_that_reads_missing_features_is_refused(rows: pa.Table, fitted: str) -> None:
    with pytest.raises(model.ModelMismatch, match="mailer_planned"):
        model.predict(fitted, rows.drop_columns(["mailer_planned"]))


def test_a_model_without_the_weeks_plan_does_not_read_it(rows: pa.Table) -> None:
    unplanned = model.fit(rows, UNPLANNED)
    planned = [name for name in rows.column_names if name not in (*UNPLANNED, "week", "product_id", model.LABEL)]
    assert len(planned) > 5
    assert model.predict(unplanned, rows.drop_columns(planned)).expected_units.shape == (rows.num_rows,)


def test_no_rows_are_refused_to_train_on_and_forecast_as_nothing(rows: pa.Table, fitted: str) -> None:
    with pytest.raises(ValueError, match="no labelled rows"):
        model.fit(rows.slice(0, 0))
    assert model.predict(fitted, rows.slice(0, 0)).high_units.shape == (0,)
