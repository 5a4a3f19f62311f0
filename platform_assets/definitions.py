"""Code location `platform_assets`: upstream sources, dbt models, freshness. Composes; computes nothing."""

from collections.abc import Mapping

import dagster as dg

from platform_assets.automation import automation_sensor
from platform_assets.dbt_models.assets import DbtGraph, build_dbt_assets
from platform_assets.freshness.checks import build_freshness
from platform_assets.sources.arrival import build_arrival_sensors
from platform_assets.sources.assets import build_source, raw_columns
from platform_assets.sources.catalogue import SOURCES
from resources.dbt import Dbt
from resources.environment import Environment
from resources.warehouse import Warehouse


def build_defs(*, resources: Mapping[str, object]) -> dg.Definitions:
    """The location's definitions over `resources`: `warehouse`, `dbt` and what else its assets name."""
    dbt = resources["dbt"]
    assert isinstance(dbt, Dbt)
    sources = dg.Definitions.merge(*[build_source(source) for source in SOURCES])
    models = dg.Definitions(assets=build_dbt_assets(DbtGraph(dbt.manifest(), raw_columns(SOURCES))))
    graph = dg.Definitions.merge(sources, models)
    return dg.Definitions.merge(
        graph,
        build_freshness("platform_assets", graph, {source.raw_key: source.expected_by for source in SOURCES}),
        dg.Definitions(
            sensors=[*build_arrival_sensors(SOURCES), automation_sensor("platform_assets")],
            resources=dict(resources),
            executor=dg.in_process_executor,
        ),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions in the environment that the process's settings name."""
    environment = Environment.current()
    return build_defs(resources={"warehouse": Warehouse.of(environment), "dbt": Dbt.of(environment)})
