"""The asset graph of every code location as plain data: calendars, dependencies, which pairs can be built.

Belongs here: loading the locations that workspace.yaml names, and pure set arithmetic on pairs. Not here:
launching anything.
"""

import importlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from graphlib import TopologicalSorter

import dagster as dg
import yaml

from platform_assets.partitions import same_time
from resources.environment import REPOSITORY

WORKSPACE = REPOSITORY / "workspace.yaml"
UNPARTITIONED = ""
"""The one pair of an asset without partitions."""


def code_locations() -> dict[str, str]:
    """The modules of the code locations by name, as workspace.yaml says."""
    entries = [entry["python_module"] for entry in yaml.safe_load(WORKSPACE.read_text())["load_from"]]
    return {entry["location_name"]: entry["module_name"] for entry in entries}


@dataclass(frozen=True)
class Node:
    """An asset: the location that builds it (None: an upstream system does), its calendar and dependencies."""

    key: dg.AssetKey
    location: str | None
    calendar: dg.TimeWindowPartitionsDefinition | None
    deps: Mapping[dg.AssetKey, dg.PartitionMapping]
    checks: Sequence[dg.AssetCheckKey]

    @property
    def pairs(self) -> Sequence[str]:
        """Every partition key, in order of time."""
        return [UNPARTITIONED] if self.calendar is None else self.calendar.get_partition_keys()


@dataclass(frozen=True)
class Graph:
    """Assets of every code location in topological order."""

    nodes: Mapping[dg.AssetKey, Node]

    @classmethod
    def of(cls, locations: Mapping[str, dg.Definitions]) -> "Graph":
        """Join the definitions of several code locations into one graph.

        Raises:
            ValueError: an asset depends on one that no location declares.
        """
        nodes: dict[dg.AssetKey, Node] = {}
        for location, definitions in locations.items():
            asset_graph = definitions.resolve_asset_graph()
            for spec in definitions.resolve_all_asset_specs():
                executable = asset_graph.get(spec.key).is_executable
                if spec.key in nodes and not executable:
                    continue
                nodes[spec.key] = Node(
                    spec.key,
                    location if executable else None,
                    _calendar(spec),
                    {dep.asset_key: dep.partition_mapping or same_time() for dep in spec.deps},
                    sorted(asset_graph.get_check_keys_for_assets({spec.key})),
                )
        for node in nodes.values():
            for key in node.deps.keys() - nodes.keys():
                raise ValueError(f"{node.key.to_user_string()} depends on {key.to_user_string()}, declared nowhere")
        order = TopologicalSorter({key: node.deps.keys() - {key} for key, node in nodes.items()}).static_order()
        return cls({key: nodes[key] for key in order})

    @classmethod
    def of_workspace(cls) -> "Graph":
        """The graph of the locations that workspace.yaml names, loaded in this process."""
        return cls.of({name: importlib.import_module(module).defs() for name, module in code_locations().items()})

    @property
    def built(self) -> list[Node]:
        """The assets that Headwater builds, in topological order."""
        return [node for node in self.nodes.values() if node.location]

    def buildable(self, delivered: Mapping[dg.AssetKey, Set[str]]) -> dict[dg.AssetKey, set[str]]:
        """The pairs whose whole required upstream is delivered or itself buildable.

        Args:
            delivered: for each upstream asset the partition keys that have arrived.
        """
        there: dict[dg.AssetKey, set[str]] = {}
        for key, node in self.nodes.items():
            if node.location is None:
                there[key] = set(delivered.get(key, ()))
                continue
            there[key] = set(node.pairs)
            for upstream, mapping in node.deps.items():
                missing = set(self.nodes[upstream].pairs) - there[upstream]
                there[key] -= self._needing(node, self.nodes[upstream], mapping, missing)
        return there

    def _needing(self, node: Node, upstream: Node, mapping: dg.PartitionMapping, missing: Set[str]) -> Set[str]:
        """The pairs of `node` that need any of the `missing` ones of `upstream`."""
        if not missing:
            return set()
        if node.calendar is None or upstream.calendar is None:
            return set(node.pairs)
        return set(
            mapping.get_downstream_partitions_for_partitions(
                upstream.calendar.subset_with_partition_keys(missing), upstream.calendar, node.calendar
            ).get_partition_keys()
        )


def ranges(calendar: dg.TimeWindowPartitionsDefinition, keys: Set[str]) -> list[tuple[str, str]]:
    """`keys` as the fewest (first, last) ranges of consecutive partitions."""
    subset = calendar.subset_with_partition_keys(keys)
    return [(found.start, found.end) for found in subset.get_partition_key_ranges(calendar)]


def _calendar(spec: dg.AssetSpec) -> dg.TimeWindowPartitionsDefinition | None:
    calendar = spec.partitions_def
    if calendar is not None and not isinstance(calendar, dg.TimeWindowPartitionsDefinition):
        raise TypeError(f"{spec.key.to_user_string()} is partitioned by {type(calendar).__name__}, not by time")
    return calendar
