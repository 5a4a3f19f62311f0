"""What the main job left behind, as data, as a table and as a file.

Belongs here: reading results and showing them. Not here: producing them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg
from rich.console import Console
from rich.table import Table

from ml_assets.demo.main_job import Outcome
from ml_assets.pricing.summary import PricingSummary, pricing_summary, show_pricing
from platform_assets.asset_graph.graph import Graph
from platform_assets.instance.services import open_instance
from platform_assets.partitioned_checks import failing_evaluations
from resources.environment import Environment
from resources.warehouse import TableName, Warehouse

REPORT = "demo-report.json"


@dataclass(frozen=True)
class AssetSummary:
    """An asset at the end: pairs it has of those in its calendar, rows and bytes in the lake, its checks.

    A check that warns, of a feature that drifts for one, is told; one that fails is what the main job fails by.
    """

    asset: str
    pairs: int
    pairs_in_calendar: int
    rows: int | None
    bytes: int | None
    checks: int
    checks_failed: int
    checks_warned: int


@dataclass(frozen=True)
class Report:
    """All that the main job reports."""

    changed: bool
    succeeded: bool
    assets: list[AssetSummary]
    pairs_built_by_stage: Mapping[str, int]
    seconds_by_stage: Mapping[str, float]
    pricing: PricingSummary

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def summarize(environment: Environment, outcome: Outcome, graph: Graph) -> Report:
    """Read back what is recorded and stored after `outcome`."""
    warehouse = Warehouse.of(environment)
    with open_instance(environment) as instance:
        assets = [_summary(instance, warehouse, graph, key) for key, node in graph.nodes.items() if node.location]
    return Report(
        changed=outcome.changed,
        succeeded=all(asset.checks_failed == 0 for asset in assets),
        assets=assets,
        pairs_built_by_stage=outcome.built,
        seconds_by_stage={stage: round(seconds, 1) for stage, seconds in outcome.seconds.items()},
        pricing=pricing_summary(warehouse),
    )


def show(report: Report, console: Console) -> None:
    """Print the report as tables."""
    assets = Table("asset", "pairs", "rows", "MB", "checks", title="Assets", title_justify="left")
    for column in assets.columns[1:]:
        column.justify = "right"
    for asset in report.assets:
        passed = asset.checks - asset.checks_failed - asset.checks_warned
        colour = "red" if asset.checks_failed else "yellow"
        assets.add_row(
            asset.asset,
            f"{asset.pairs:,}/{asset.pairs_in_calendar:,}",
            "" if asset.rows is None else f"{asset.rows:,}",
            "" if asset.bytes is None else f"{asset.bytes / 1e6:,.1f}",
            f"{asset.checks}" if passed == asset.checks else f"[{colour}]{passed}/{asset.checks}[/]",
        )
    console.print(assets)
    stages = Table("stage", "seconds", "pairs built", title="Time by stage", title_justify="left")
    for stage, seconds in report.seconds_by_stage.items():
        stages.add_row(stage, f"{seconds:,.1f}", f"{report.pairs_built_by_stage.get(stage, 0):,}")
    console.print(stages)
    show_pricing(report.pricing, console)
    if not report.changed:
        console.print("Nothing changed: everything was delivered and built before.")


def _summary(instance: dg.DagsterInstance, warehouse: Warehouse, graph: Graph, key: dg.AssetKey) -> AssetSummary:
    node = graph.nodes[key]
    stored = warehouse.partitions(TableName.of_key(key)).values()
    if node.calendar is None:
        pairs = int(instance.get_latest_materialization_event(key) is not None)
    else:
        pairs = len(instance.get_materialized_partitions(key))
    failing = failing_evaluations(instance, node.checks)
    failed = {one.check_name for one in failing if one.severity is dg.AssetCheckSeverity.ERROR}
    warned = {one.check_name for one in failing} - failed
    return AssetSummary(
        asset="/".join(key.path),
        pairs=pairs,
        pairs_in_calendar=len(node.pairs),
        rows=sum(partition.rows for partition in stored) if stored else None,
        bytes=sum(partition.bytes for partition in stored) if stored else None,
        checks=len(node.checks),
        checks_failed=len(failed),
        checks_warned=len(warned),
    )
