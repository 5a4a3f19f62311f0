"""Code location `platform_assets`: upstream sources, dbt models, freshness. Composes; computes nothing."""

from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from platform_assets.automation import automation_sensor
from platform_assets.dbt_models.assets import DbtGraph, build_dbt_assets
from platform_assets.dbt_models.window import refuse_other_calendars
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.freshness import build_freshness
from platform_assets.partition_checker.reconcile import build_partition_health, build_reconciliation
from platform_assets.partitions import CALENDARS
from platform_assets.plans.jobs import build_recovery
from platform_assets.sources.assets import build_sources
from platform_assets.sources.catalogue import SOURCES
from resources.dbt import Dbt
from resources.environment import Environment
from resources.warehouse import TableName, Warehouse


def build_defs(*, resources: Mapping[str, object]) -> dg.Definitions:
    """The location's definitions over `resources`: `warehouse`, `dbt` and `checker`."""
    dbt = resources["dbt"]
    assert isinstance(dbt, Dbt)
    refuse_other_calendars(dbt.project_variables["calendars"], CALENDARS)
    raw_tables = {TableName.of_key(source.raw_key): source.stored_columns for source in SOURCES}
    graph = dg.Definitions.merge(
        build_sources(SOURCES),
        build_reconciliation(),
        build_recovery(),
        dg.Definitions(
            assets=build_dbt_assets(DbtGraph(dbt.manifest(), raw_tables, Path(dbt.target) / "lineage.json")),
            sensors=[automation_sensor("platform_assets")],
            resources=dict(resources),
            executor=dg.in_process_executor,
        ),
    )
    due_after = {key: source.expected_by for source in SOURCES for key in (source.upstream_key, source.raw_key)}
    return dg.Definitions.merge(
        graph, build_freshness("platform_assets", graph, due_after), build_partition_health("platform_assets", graph)
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions in the environment that the process's settings name."""
    environment = Environment.current()
    return build_defs(
        resources={
            "warehouse": Warehouse.of(environment),
            "dbt": Dbt.of(environment),
            "checker": PartitionChecker.of(environment),
        }
    )
