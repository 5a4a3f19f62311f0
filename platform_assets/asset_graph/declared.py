"""What the definitions of a code location declare, as nodes of the graph.

Belongs here: reading definitions and the metadata of specs. Not here: loading code locations (`locations.py`).
"""

from collections.abc import Mapping

import dagster as dg

from platform_assets.asset_graph.completeness import completeness_of
from platform_assets.asset_graph.graph import Graph, Node
from platform_assets.code_version import former_versions

EQUAL_VERSIONS = "headwater/equal_code_versions"
"""Metadata of a spec: the other versions of its code that store the same as the present one."""

PRODUCT = {"headwater/product": True}
"""Metadata of a spec that people and products look at, as a mart, a forecast or what an online service reads."""

_STUB = "dagster/auto_created_stub_asset"
"""Marks what Dagster adds for an upstream asset of another code location, of which it knows nothing but the key."""


def declared_nodes(location: str, definitions: dg.Definitions) -> list[Node]:
    """The assets that the definitions of a code location declare, and those of upstream systems that they read.

    Raises:
        TypeError: an asset has partitions of which nobody can say whether all are there.
    """
    asset_graph = definitions.resolve_asset_graph()
    specs = [spec for spec in definitions.resolve_all_asset_specs() if not spec.metadata.get(_STUB)]
    found = []
    for spec in specs:
        executable = asset_graph.get(spec.key).is_executable
        _refuse_dynamic(spec)
        found.append(
            Node(
                spec.key,
                location if executable else None,
                spec.partitions_def,
                {dep.asset_key: dep.partition_mapping for dep in spec.deps},
                sorted(asset_graph.get_check_keys_for_assets({spec.key})),
                spec.code_version,
                completeness_of(spec),
                PRODUCT.items() <= spec.metadata.items(),
                (*spec.metadata.get(EQUAL_VERSIONS, ()), *former_versions(spec.code_version or "")),
            )
        )
    return found


def declared_graph(locations: Mapping[str, dg.Definitions]) -> Graph:
    """The graph of the definitions of several code locations.

    Raises:
        ValueError: an asset depends on one that no location declares.
    """
    return Graph.of([node for name, definitions in locations.items() for node in declared_nodes(name, definitions)])


def _refuse_dynamic(spec: dg.AssetSpec) -> None:
    if isinstance(spec.partitions_def, dg.DynamicPartitionsDefinition):
        raise TypeError(
            f"{spec.key.to_user_string()} has dynamic partitions, which nothing expects to be complete: "
            "give it time, static or multi partitions"
        )
