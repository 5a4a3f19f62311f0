"""The demand model itself: labelled rows, fitting, predicting.

Belongs here: LightGBM and its parameters, on Arrow tables. Not here: judging a model (`evaluation.py`), where
models and tables are kept, Dagster.
"""

from collections.abc import Mapping

import duckdb
import numpy as np
import pyarrow as pa

from ml_assets.demand.features import NAMES

LABEL = "units"
TRAINING_WEEKS = 12
"""Labelled weeks that a fold learns from; the week after them, the last one known, is its holdout."""

ROUNDS = 40
PARAMETERS: Mapping[str, str | int | float | bool] = {
    # Most products sell nothing in most weeks. Tweedie keeps the forecast an expectation: an absolute-error
    # objective has a lower WAPE and sells 38 % too little.
    "objective": "tweedie",
    "tweedie_variance_power": 1.5,
    "learning_rate": 0.15,
    "num_leaves": 31,
    "min_data_in_leaf": 200,
    "seed": 7,
    # Same rows, same bytes: what the order of threads could change is switched off.
    "deterministic": True,
    "force_row_wise": True,
    # Folds are fitted side by side, one a core; a second thread made one fit only a tenth faster. The model's bytes
    # do not depend on it.
    "num_threads": 1,
    "verbosity": -1,
}


class ModelMismatch(ValueError):
    """A model file that was made for other features than those it is asked to read."""


def labelled(features: duckdb.DuckDBPyRelation, product_weeks: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Feature rows with the units then sold in their own week, 0 without a sale.

    Args:
        features: rows of `product_week_features`.
        product_weeks: rows of `product_weeks` for at least the same weeks.

    Returns:
        The columns of `features`, then `units` BIGINT.
    """
    rows, sales = features.set_alias("rows"), product_weeks.set_alias("sales")
    return rows.join(
        sales, "rows.product_id = sales.product_id and rows.feature_week = sales.week", how="left"
    ).project(f"rows.*, coalesce(sales.units, 0)::bigint as {LABEL}")


def fit(rows: pa.Table) -> str:
    """Train on labelled rows in any order; returns the model as LightGBM text.

    Raises:
        ValueError: there are no rows to learn from.
    """
    import lightgbm as lgb

    if rows.num_rows == 0:
        raise ValueError("no labelled rows to train on: demand_training_set is empty in all training weeks")
    rows = rows.sort_by([("feature_week", "ascending"), ("product_id", "ascending")])
    data = lgb.Dataset(_matrix(rows), rows[LABEL].to_numpy(), feature_name=list(NAMES))
    return lgb.train(dict(PARAMETERS), data, num_boost_round=ROUNDS).model_to_string()


def predict(model: str, rows: pa.Table) -> np.ndarray:
    """Expected units of each row, never negative.

    Raises:
        ModelMismatch: the model was trained on other features, or on the same in another order.
    """
    import lightgbm as lgb

    booster = lgb.Booster(model_str=model)
    if booster.feature_name() != list(NAMES):
        raise ModelMismatch(
            f"the model reads {', '.join(booster.feature_name())}, but ml_assets/demand/features.py declares "
            f"{', '.join(NAMES)}; rebuild demand_model for this week"
        )
    if rows.num_rows == 0:
        return np.empty(0)
    expected = np.asarray(booster.predict(_matrix(rows), num_threads=1), dtype=np.float64)
    return expected.clip(min=0.0)


def _matrix(rows: pa.Table) -> np.ndarray:
    columns: list[np.ndarray] = [rows[name].cast(pa.float64()).to_numpy() for name in NAMES]
    return np.column_stack(columns)
