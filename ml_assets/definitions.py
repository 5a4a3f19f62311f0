"""Code location `ml_assets`: ML projects over the platform's tables. Composes; computes nothing."""

from collections.abc import Mapping

import dagster as dg

from ml_assets.defaults import with_defaults
from ml_assets.features.assets import feature_assets
from ml_assets.features.catalogue import catalogue
from ml_assets.projects import declared_assets, declared_models
from ml_assets.sdk.assets import project_assets
from platform_assets.automation import automation_sensor
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.freshness import build_freshness
from platform_assets.partition_checker.reconcile import build_partition_health
from resources.environment import Environment
from resources.feature_store.online_resource import OnlineStore
from resources.model_registry import ModelRegistry
from resources.warehouse import Warehouse


def build_defs(*, resources: Mapping[str, object]) -> dg.Definitions:
    """The location's definitions over `resources`: `warehouse`, `model_registry`, `online_store`, `checker`."""
    features, feature_checks = feature_assets(catalogue())
    own = dg.Definitions(
        assets=[*dg.map_asset_specs(with_defaults, features), *declared_assets()],
        asset_checks=feature_checks,
        sensors=[automation_sensor("ml_assets")],
        resources=dict(resources),
        executor=dg.in_process_executor,
    )
    graph = dg.Definitions.merge(own, project_assets(*declared_models()))
    health = build_partition_health("ml_assets", graph)
    return dg.Definitions.merge(graph, build_freshness("ml_assets", graph, {}), health)


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
