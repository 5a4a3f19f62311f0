"""Code location `ml_assets`: ML projects over the platform's tables. Composes; computes nothing."""

from collections.abc import Mapping

import dagster as dg

from ml_assets.demand.assets import demand_training_set, feature_drift, product_week_features
from ml_assets.demand.computed_by import COMPUTED_BY
from ml_assets.demand.folds import demand_folds
from ml_assets.features.assets import feature_assets
from ml_assets.features.catalogue import catalogue
from platform_assets.automation import automation_sensor, when_upstream_complete
from platform_assets.code_version import code_version
from platform_assets.freshness.checks import build_freshness
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.reconcile import build_partition_health
from platform_assets.teams import team_of
from resources.environment import Environment
from resources.feature_store.online_resource import OnlineStore
from resources.model_registry import ModelRegistry
from resources.warehouse import Warehouse


def build_defs(*, resources: Mapping[str, object]) -> dg.Definitions:
    """The location's definitions over `resources`: `warehouse`, `model_registry`, `online_store`, `checker`."""
    features, feature_checks = feature_assets(catalogue())
    demand = [product_week_features, demand_training_set, demand_folds]
    graph = dg.Definitions(
        assets=dg.map_asset_specs(_with_defaults, [*demand, *features]),
        asset_checks=[feature_drift, *feature_checks],
        sensors=[automation_sensor("ml_assets")],
        resources=dict(resources),
        executor=dg.in_process_executor,
    )
    health = build_partition_health("ml_assets", graph)
    return dg.Definitions.merge(graph, build_freshness("ml_assets", graph, {}), health)


def _with_defaults(spec: dg.AssetSpec) -> dg.AssetSpec:
    team = team_of(spec.key.path[0])
    return spec.replace_attributes(
        group_name=team.name,
        owners=[team.owner],
        automation_condition=when_upstream_complete(spec),
        code_version=spec.code_version or code_version(*COMPUTED_BY[spec.key]),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions in the environment that the process's settings name."""
    environment = Environment.current()
    return build_defs(
        resources={
            "warehouse": Warehouse.of(environment),
            "model_registry": ModelRegistry.of(environment),
            "online_store": OnlineStore.of(environment),
            "checker": PartitionChecker.of(environment),
        }
    )
