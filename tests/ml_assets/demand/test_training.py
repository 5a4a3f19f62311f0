"""Labelled rows are the features and what was then sold; equal rows give equal model bytes."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from ml_assets.demand.features import NAMES, product_week_features
from ml_assets.demand.training import LABEL, ModelMismatch, fit, labelled, predict
from tests.ml_assets.demand.grocery import grocery, weeks_from


@pytest.fixture
def sales() -> pa.Table:
    return grocery(20, 300)


@pytest.fixture
def rows(connection: duckdb.DuckDBPyConnection, sales: pa.Table) -> pa.Table:
    mart = connection.from_arrow(sales)
    return labelled(product_week_features(mart, weeks_from("2017-02-27", 8)), mart).to_arrow_table()


def test_labels_equal_a_row_by_row_lookup(rows: pa.Table, sales: pa.Table) -> None:
    sold = {(r["week"], r["product_id"]): r["units"] for r in sales.select(["week", "product_id", "units"]).to_pylist()}
    labels = rows.select(["feature_week", "product_id", LABEL]).to_pylist()
    assert any(row[LABEL] == 0 for row in labels)
    for row in labels:
        assert row[LABEL] == sold.get((row["feature_week"], row["product_id"]), 0)


def test_the_same_rows_in_any_order_give_the_same_model_bytes(rows: pa.Table) -> None:
    shuffled = rows.take(np.random.default_rng(1).permutation(rows.num_rows))
    assert fit(rows) == fit(shuffled)


def test_other_rows_give_another_model(rows: pa.Table) -> None:
    assert fit(rows) != fit(rows.slice(0, rows.num_rows // 2))


def test_predictions_are_one_per_row_never_negative_and_unbiased(rows: pa.Table) -> None:
    expected = predict(fit(rows), rows)
    assert expected.shape == (rows.num_rows,)
    assert expected.min() >= 0
    assert expected.sum() == pytest.approx(rows[LABEL].to_numpy().sum(), rel=0.1)


def test_no_rows_to_forecast_give_no_forecast(rows: pa.Table) -> None:
    assert predict(fit(rows), rows.slice(0, 0)).shape == (0,)


def test_an_empty_training_set_is_refused_by_name(rows: pa.Table) -> None:
    with pytest.raises(ValueError, match="demand_training_set is empty"):
        fit(rows.slice(0, 0))


def test_a_model_of_other_features_is_refused(rows: pa.Table) -> None:
    renamed = fit(rows).replace(NAMES[0], "something_else")
    with pytest.raises(ModelMismatch, match="something_else.*rebuild demand_model"):
        predict(renamed, rows)
