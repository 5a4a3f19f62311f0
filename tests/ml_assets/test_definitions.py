"""The code location loads light, and every pair knows the pairs it needs."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from ml_assets.definitions import build_defs
from ml_assets.pricing.feature_views import DEMAND_SIGNALS
from ml_assets.pricing.project import DEMAND, PRODUCT_DEMAND
from ml_assets.pricing.signals import PRODUCT_WEEKS, PROMOTIONS
from ml_assets.sdk.tables import ProjectTables
from platform_assets import partitions
from platform_assets.partition_checker.checker import PartitionChecker
from resources.environment import Environment
from resources.feature_store.online_resource import OnlineStore
from resources.model_registry import ModelRegistry
from resources.warehouse import Warehouse

TABLES = ProjectTables(PRODUCT_DEMAND)
SIGNALS = DEMAND_SIGNALS.source_key
SALES, PLANS = PRODUCT_WEEKS.table, PROMOTIONS.table

HEAVY = (
    "torch",
    "lightgbm",
    "mlflow",
    "feast",
    "great_expectations",
    "dagster_dbt",
    "dbt",
    "pandas",
    "sklearn",
)
LOAD = """
import sys
from ml_assets.definitions import defs
defs().get_repository_def()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.fixture
def defs(environment: Environment) -> dg.Definitions:
    return build_defs(
        resources={
            "warehouse": Warehouse.of(environment),
            "model_registry": ModelRegistry.of(environment),
            "online_store": OnlineStore.of(environment),
            "checker": PartitionChecker.of(environment),
        }
    )


def needed(defs: dg.Definitions, key: dg.AssetKey, week: str, upstream: dg.AssetKey) -> list[str]:
    """The upstream partitions that the pair (key, week) maps to."""
    specs = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
    calendars = {k: spec.partitions_def for k, spec in specs.items()}
    calendars |= dict.fromkeys((SALES, PLANS), partitions.COMMERCE_WEEKLY)
    (dep,) = [dep for dep in specs[key].deps if dep.asset_key == upstream]
    mapping = dep.partition_mapping or dg.TimeWindowPartitionMapping()
    asked = calendars[key].empty_subset().with_partition_keys([week])
    found = mapping.get_upstream_mapped_partitions_result_for_partitions(asked, calendars[key], calendars[upstream])
    return sorted(found.partitions_subset.get_partition_keys())


def test_loading_the_location_imports_nothing_heavy(environment: Environment) -> None:
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD],
        cwd=Path(__file__).parents[2],
        env=environment.variables | {"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    assert set(HEAVY).isdisjoint(loaded.stdout.split())


def test_every_asset_is_described_owned_grouped_kinded_and_checked(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    checked = {key.asset_key for key in graph.asset_check_keys}
    for spec in defs.resolve_all_asset_specs():
        if spec.key not in graph.materializable_asset_keys:
            continue
        assert spec.description
        assert spec.owners == ["team:commerce"]
        assert spec.group_name in ("commerce_features", "commerce_pricing", "commerce_product_demand")
        assert spec.kinds
        assert spec.automation_condition
        assert spec.key in checked


def test_the_gate_is_blocking_and_judged_by_fold(defs: dg.Definitions) -> None:
    gate = defs.resolve_asset_graph().get(dg.AssetCheckKey(TABLES.evaluation, "passes_gate"))
    assert gate.blocking
    assert gate.partitions_def == PRODUCT_DEMAND.calendar


@pytest.mark.parametrize(
    ("key", "upstream", "first", "last", "count"),
    [
        (SIGNALS, SALES, "2016-12-26", "2017-12-18", 52),
        (SIGNALS, PLANS, "2016-12-26", "2017-12-25", 53),
        (DEMAND.key, SIGNALS, "2017-12-18", "2017-12-25", 2),
        (DEMAND.key, SALES, "2017-12-25", "2017-12-25", 1),
        (TABLES.candidate, DEMAND.key, "2017-06-19", "2017-12-18", 27),
        (TABLES.evaluation, TABLES.candidate, "2017-12-25", "2017-12-25", 1),
        (TABLES.version, TABLES.candidate, "2017-12-25", "2017-12-25", 1),
        (TABLES.predictions, TABLES.champion, "2017-12-25", "2017-12-25", 1),
        (TABLES.predictions, SIGNALS, "2017-12-18", "2017-12-25", 2),
    ],
)
def test_a_pair_needs_exactly_the_weeks_that_it_reads(
    defs: dg.Definitions, key: dg.AssetKey, upstream: dg.AssetKey, first: str, last: str, count: int
) -> None:
    weeks = needed(defs, key, "2017-12-25", upstream)
    assert (weeks[0], weeks[-1], len(weeks)) == (first, last, count)


def test_the_first_fold_knows_enough_and_the_last_one_is_for_the_week_after_the_data(defs: dg.Definitions) -> None:
    folds = PRODUCT_DEMAND.calendar.get_partition_keys()
    assert (folds[0], folds[-1], len(folds)) == ("2017-07-03", "2018-01-01", 27)
    assert len(needed(defs, TABLES.candidate, folds[0], DEMAND.key)) == 22
    assert len(needed(defs, TABLES.candidate, folds[-1], DEMAND.key)) == 27
    assert needed(defs, SIGNALS, folds[-1], PLANS)[-1] == "2017-12-25"
