"""A week of signals is refused when a forecast of some product would have nothing to start from."""

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ml_assets.pricing.features import LEVEL
from ml_assets.pricing.signals import levels_known
from tests.ml_assets.pricing.shop import feature_rows, grocery


@pytest.fixture
def week(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    return feature_rows(connection, grocery(12, 40), [11])


def test_a_week_whose_products_all_have_a_level_passes(week: pa.Table) -> None:
    assert week.num_rows > 0
    assert levels_known(week).passed


@pytest.mark.parametrize("level", [0.0, None])
def test_a_product_without_a_level_is_named(week: pa.Table, level: float | None) -> None:
    product = week["product_id"][3]
    levels = pc.if_else(pc.equal(week["product_id"], product), pa.scalar(level, pa.float32()), week[LEVEL])
    said = levels_known(week.set_column(week.column_names.index(LEVEL), LEVEL, levels))
    assert not said.passed
    assert f"1 of {week.num_rows} products have no level, the first {product}" in said.description


def test_a_week_without_products_fails(week: pa.Table) -> None:
    assert not levels_known(week.slice(0, 0)).passed
