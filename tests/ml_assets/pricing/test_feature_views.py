"""The commerce team's declarations fit their marts, and its transform its golden rows."""

from collections.abc import Mapping

import pyarrow as pa
import pytest

from ml_assets.features.catalogue import catalogue
from ml_assets.features.joins import unfit_columns
from ml_assets.features.types import TYPES
from ml_assets.features.views import FeatureView
from ml_assets.pricing.feature_views import PRODUCT_PRICES, PROPOSED_DISCOUNT
from ml_assets.projects import declared_assets
from resources.dbt import Dbt
from resources.environment import Environment
from resources.warehouse import Warehouse

pytestmark = pytest.mark.xdist_group("definitions")

GOLDEN = [
    (1.5, 2.0, 0.25),
    (2.0, 2.0, 0.0),
    (3.0, 2.0, -0.5),
    (0.0, 2.0, 1.0),
    (None, 2.0, None),
    (1.5, None, None),
    (1.5, 0.0, None),
]
"""Proposed price, regular price, discount."""

DUCKDB_NAMES = {"decimal(18, 2)": "DECIMAL(18,2)"}


def contracted(environment: Environment, view: FeatureView) -> Mapping[str, str]:
    """The columns of the view's mart and their types, by dbt's contract of it, or by the asset of a project."""
    Warehouse.of(environment).ensure()
    nodes = Dbt.of(environment).manifest()["nodes"].values()
    models = [node for node in nodes if [node["schema"], node["name"]] == view.source.split("/")]
    if not models:
        (spec,) = [spec for asset in declared_assets() for spec in asset.specs if spec.key == view.source_key]
        return {column.name: column.type for column in spec.metadata["dagster/column_schema"].columns}
    columns = models[0]["columns"].values()
    return {c["name"]: DUCKDB_NAMES.get(c["data_type"], c["data_type"].upper()) for c in columns}


@pytest.mark.parametrize("view", catalogue().views, ids=lambda view: view.name)
def test_every_view_fits_the_contract_of_its_mart(shared_environment: Environment, view: FeatureView) -> None:
    assert unfit_columns(view, contracted(shared_environment, view)) == []


def test_a_mart_that_changed_is_refused_with_view_table_column_and_what_to_do(shared_environment: Environment) -> None:
    columns = dict(contracted(shared_environment, PRODUCT_PRICES))
    del columns["price_usd"]
    columns["units"] = "VARCHAR"
    assert unfit_columns(PRODUCT_PRICES, columns) == [
        "view 'product_prices': commerce.product_weeks lacks the column 'price_usd'; build the mart with it, or take "
        "it out of the declaration",
        "view 'product_prices': column 'units' of commerce.product_weeks is VARCHAR, which is none of "
        f"{', '.join(TYPES['BIGINT'].holds)}; cast it in the mart, or correct the declaration",
    ]


@pytest.mark.parametrize(("proposed", "regular", "discount"), GOLDEN)
def test_a_proposed_price_is_compared_with_the_last_regular_one(
    proposed: float | None, regular: float | None, discount: float | None
) -> None:
    assert PROPOSED_DISCOUNT.of_row({"proposed_price_usd": proposed, "regular_price_usd": regular}) == discount


def test_a_batch_of_proposed_prices_gives_the_same_in_the_declared_type() -> None:
    names = ("proposed_price_usd", "regular_price_usd", "discount")
    columns = [pa.array(column, pa.float64()) for column in zip(*GOLDEN, strict=True)]
    table = pa.table(columns, names)
    assert PROPOSED_DISCOUNT.of_table(table).equals(table["discount"].combine_chunks())
