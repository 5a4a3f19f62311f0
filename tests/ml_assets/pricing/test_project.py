"""A fold of the pricing project learns from what was known, and the project is small."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ml_assets.pricing.project import DEMAND, PRODUCT_DEMAND
from ml_assets.pricing.trainer import DETAILS
from ml_assets.sdk import folds
from resources.environment import REPOSITORY
from resources.warehouse import PARTITION_KEY
from tests.ml_assets.pricing.shop import feature_rows, grocery, week_of

FOLD = str(week_of(28))


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Rows of the training set, from its first partition on."""
    with duckdb.connect() as connection:
        found = feature_rows(connection, grocery(30, 120), range(4, 30))
    return found.rename_columns([DEMAND.time if name == "week" else name for name in found.column_names])


def test_a_project_is_at_most_sixty_lines() -> None:
    assert len((REPOSITORY / "ml_assets" / "pricing" / "project.py").read_text().splitlines()) <= 60


def test_a_fold_knows_only_weeks_before_its_holdout() -> None:
    span = folds.span_of(PRODUCT_DEMAND, FOLD)
    assert span.learned == tuple(str(week_of(age)) for age in range(4, 27))
    assert span.holdout == (str(week_of(27)),)


def test_what_is_sold_from_the_holdout_on_does_not_change_a_forecast(rows: pa.Table, tmp_path: Path) -> None:
    later = pc.greater_equal(rows[PARTITION_KEY], str(week_of(27)))
    sold = pc.if_else(later, pc.add(pc.multiply(rows["units"], 3.0), 2.0), rows["units"])
    changed = rows.set_column(rows.column_names.index("units"), "units", sold)
    asked = rows.filter(pc.equal(rows[PARTITION_KEY], FOLD))
    span = folds.span_of(PRODUCT_DEMAND, FOLD)
    before, after = (folds.fit(PRODUCT_DEMAND, FOLD, span, one, tmp_path).file for one in (rows, changed))
    assert before.text == after.text
    np.testing.assert_array_equal(
        folds.predict(PRODUCT_DEMAND, before, asked), folds.predict(PRODUCT_DEMAND, after, asked)
    )
    assert asked.num_rows > 0


def test_a_fold_says_of_each_product_what_to_expect_and_an_interval(rows: pa.Table, tmp_path: Path) -> None:
    asked = rows.filter(pc.equal(rows[PARTITION_KEY], FOLD))
    file = folds.fit(PRODUCT_DEMAND, FOLD, folds.span_of(PRODUCT_DEMAND, FOLD), rows, tmp_path).file
    answers = folds.answers_as_served(PRODUCT_DEMAND, file, asked)
    assert list(answers) == ["prediction", *DETAILS]
    assert all(np.isfinite(one).all() and len(one) == asked.num_rows for one in answers.values())
    np.testing.assert_array_equal(answers["prediction"], folds.predict(PRODUCT_DEMAND, file, asked))
