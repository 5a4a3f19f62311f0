"""The Partition Checker over the few assets that a test declares itself, instead of every code location."""

from collections.abc import Mapping

import dagster as dg

from platform_assets.asset_graph.declared import declared_graph
from platform_assets.asset_graph.graph import Graph
from platform_assets.partition_checker.checker import PartitionChecker
from resources.environment import Environment


def checker_over(environment: Environment, graph: Graph) -> PartitionChecker:
    """The Partition Checker of `environment` for the assets of `graph`."""

    class CheckerOverGraph(PartitionChecker):
        def graph(self) -> Graph:
            return graph

    return CheckerOverGraph.of(environment)


def checker_of(
    environment: Environment, locations: Mapping[str, list[dg.AssetsDefinition | dg.AssetSpec]], **resources: object
) -> PartitionChecker:
    """The Partition Checker of `environment` for assets by code location; `resources` are those that they ask for."""
    provided = {**resources, "checker": PartitionChecker.of(environment)}
    graph = declared_graph({name: dg.Definitions(assets, resources=provided) for name, assets in locations.items()})
    return checker_over(environment, graph)
