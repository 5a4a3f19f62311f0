"""In the catalog a prediction's columns lead over model and training set to the columns of the marts, and no further
than its own upstream."""

from collections.abc import Mapping
from dataclasses import replace

import dagster as dg
import pytest

from ml_assets.pricing.project import DEMAND, PRODUCT_DEMAND
from ml_assets.sdk.tables import ProjectTables, training_set_columns
from resources.feature_store.point_in_time import Feature, View
from resources.warehouse import TableName
from tests.locations import specs
from tests.ml_assets.sdk.bakery import FACT_FEATURES, FACTS
from tests.ml_assets.sdk.lightgbm_project import SALES

pytestmark = pytest.mark.xdist_group("definitions")

Column = tuple[dg.AssetKey, str]


def sources(metadata: Mapping[str, object]) -> dict[str, set[Column]]:
    """By column of an asset, the columns that the catalog says it comes from."""
    lineage = metadata.get("dagster/column_lineage")
    if lineage is None:
        return {}
    assert isinstance(lineage, dg.TableColumnLineage)
    return {name: {(dep.asset_key, dep.column_name) for dep in deps} for name, deps in lineage.deps_by_column.items()}


def test_every_source_of_a_column_is_a_column_upstream_of_it(
    locations: Mapping[str, dg.Definitions],
) -> None:
    every = {spec.key: spec for location in locations.values() for spec in specs(location)}
    declared = {
        key: {column.name for column in spec.metadata["dagster/column_schema"].columns}
        for key, spec in every.items()
        if "dagster/column_schema" in spec.metadata
    }
    for spec in specs(locations["ml_assets"]):
        # At any distance: a champion's columns come from the evaluation, on which it depends over a version's files.
        upstream, frontier = set(), {spec.key}
        while frontier:
            frontier = {dep.asset_key for key in frontier for dep in every[key].deps} - upstream
            upstream |= frontier
        for name, found in sources(spec.metadata).items():
            for asset, column in found:
                assert asset in upstream, f"{spec.key} {name} comes from {asset}, on which it does not depend"
                # Of a dbt model only some columns may be declared; of what is not served, none.
                known = declared[asset] or {column}
                assert column in known, f"{spec.key} {name} comes from {asset} {column}, which is no column"


def test_a_prediction_comes_over_training_set_and_features_from_the_columns_of_the_marts(
    locations: Mapping[str, dg.Definitions],
) -> None:
    every = {spec.key: sources(spec.metadata) for location in locations.values() for spec in specs(location)}
    reached: set[Column] = set()
    frontier = {(ProjectTables(PRODUCT_DEMAND).predictions, "prediction")}
    while frontier:
        reached |= frontier
        frontier = {one for asset, column in frontier for one in every[asset].get(column, ())} - reached
    for name in PRODUCT_DEMAND.feature_names:
        assert (DEMAND.key, name) in reached
        (signal,) = every[DEMAND.key][name]
        assert signal in reached
    assert (dg.AssetKey(["commerce", "product_weeks"]), "units") in reached
    assert {asset.path[1] for asset, _ in reached} >= {"stg_commerce__transactions"}


def test_features_of_lake_tables_name_their_columns_and_those_of_sql_name_none() -> None:
    found = sources(training_set_columns(SALES))
    assert found == {
        "footfall": {(FACTS, "footfall")},
        "sold_before": {(FACTS, "sold_before")},
        "shop_known_at": {(FACTS, "known_at")},
    }
    (shop,) = FACT_FEATURES.views
    renamed = View("shop", shop.table, shop.keys, "known_at", [Feature("footfall", "visitors", "DOUBLE")], ttl=shop.ttl)
    features = replace(FACT_FEATURES, views=(renamed,))
    assert features.lineage["visitors"] == [dg.TableColumnDep(FACTS, "footfall")]
    sql = replace(renamed, table=f"(select * from {TableName.of_key(FACTS).sql})", called="facts")
    assert replace(FACT_FEATURES, views=(sql,)).lineage == {}
