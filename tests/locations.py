"""Both code locations as tests see them, and their specs as text.

Run as a program it rewrites the snapshot: python -m tests.locations
"""

from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from ml_assets.definitions import build_defs as build_ml
from platform_assets.definitions import build_defs as build_platform
from platform_assets.partition_checker.checker import PartitionChecker
from resources.dbt import Dbt
from resources.environment import Environment
from resources.feature_store.online_resource import OnlineStore
from resources.model_registry import ModelRegistry
from resources.warehouse import Warehouse

SNAPSHOT = Path(__file__).with_name("specs.txt")
_STUB = "dagster/auto_created_stub_asset"


def load(environment: Environment) -> dict[str, dg.Definitions]:
    """The definitions of both locations over `environment`, whose lake is created."""
    warehouse = Warehouse.of(environment)
    warehouse.snapshot()
    checker = PartitionChecker.of(environment)
    return {
        "platform_assets": build_platform(
            resources={"warehouse": warehouse, "dbt": Dbt.of(environment), "checker": checker}
        ),
        "ml_assets": build_ml(
            resources={
                "warehouse": warehouse,
                "model_registry": ModelRegistry.of(environment),
                "online_store": OnlineStore.of(environment),
                "checker": checker,
            }
        ),
    }


def specs(location: dg.Definitions) -> list[dg.AssetSpec]:
    """The specs that `location` declares itself."""
    return [spec for spec in location.resolve_all_asset_specs() if not spec.metadata.get(_STUB)]


def described(locations: Mapping[str, dg.Definitions]) -> str:
    """Every spec of every location as text that diffs well."""
    blocks = []
    for name, location in locations.items():
        graph = location.resolve_asset_graph()
        for spec in sorted(specs(location), key=lambda spec: spec.key.path):
            checks = [
                f"{check.name}{' (blocking)' if graph.get(check).blocking else ''}"  # type: ignore[attr-defined]
                for check in sorted(graph.get_check_keys_for_assets({spec.key}))
            ]
            blocks.append(
                "\n".join(
                    [
                        f"{spec.key.to_user_string()}  [{name}]",
                        f"  group {spec.group_name}, owners {', '.join(spec.owners)}",
                        f"  kinds {', '.join(sorted(spec.kinds))}",
                        f"  partitions {spec.partitions_def or 'none'}",
                        *(
                            f"  needs {dep.asset_key.to_user_string()} {dep.partition_mapping or ''}".rstrip()
                            for dep in sorted(spec.deps, key=lambda dep: dep.asset_key.path)
                        ),
                        *(f"  check {check}" for check in checks),
                    ]
                )
            )
    return "\n".join(blocks) + "\n"


if __name__ == "__main__":
    SNAPSHOT.write_text(described(load(Environment.current())))
