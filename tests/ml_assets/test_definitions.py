"""The code location loads light, and every pair knows the pairs it needs."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from ml_assets.demand.folds import BEATS_BASELINES
from ml_assets.demand.tables import (
    EVALUATION,
    FEATURE_TABLE,
    FORECAST,
    MODEL,
    PRODUCT_WEEKS,
    TRAINING_TABLE,
    VERSION,
)

from ml_assets.definitions import build_defs
from platform_assets import partitions
from platform_assets.partition_checker.checker import PartitionChecker
from resources.environment import Environment
from resources.feature_store.online_resource import OnlineStore
from resources.model_registry import ModelRegistry
from resources.warehouse import Warehouse

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
    calendars = {k: spec.partitions_def for k, spec in specs.items()} | {PRODUCT_WEEKS: partitions.COMMERCE_WEEKLY}
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
        assert spec.group_name == "commerce"
        assert spec.kinds
        assert spec.automation_condition
        assert spec.key in checked


def test_the_gate_is_blocking_and_judged_by_fold(defs: dg.Definitions) -> None:
    gate = defs.resolve_asset_graph().get(BEATS_BASELINES.key)
    assert gate.blocking
    assert gate.partitions_def == partitions.DEMAND_FOLDS


@pytest.mark.parametrize(
    ("key", "upstream", "first", "last", "count"),
    [
        (FEATURE_TABLE, PRODUCT_WEEKS, "2017-10-30", "2017-12-18", 8),
        (TRAINING_TABLE, FEATURE_TABLE, "2017-12-25", "2017-12-25", 1),
        (TRAINING_TABLE, PRODUCT_WEEKS, "2017-12-25", "2017-12-25", 1),
        (MODEL, TRAINING_TABLE, "2017-09-25", "2017-12-18", 13),
        (EVALUATION, MODEL, "2017-12-25", "2017-12-25", 1),
        (VERSION, MODEL, "2017-12-25", "2017-12-25", 1),
        (FORECAST, VERSION, "2017-12-25", "2017-12-25", 1),
        (FORECAST, FEATURE_TABLE, "2017-12-25", "2017-12-25", 1),
    ],
)
def test_a_pair_needs_exactly_the_weeks_that_it_reads(
    defs: dg.Definitions, key: dg.AssetKey, upstream: dg.AssetKey, first: str, last: str, count: int
) -> None:
    weeks = needed(defs, key, "2017-12-25", upstream)
    assert (weeks[0], weeks[-1], len(weeks)) == (first, last, count)


@pytest.mark.parametrize("week", ["2017-06-05", "2018-01-01"])
def test_the_first_and_the_last_fold_have_their_whole_history(defs: dg.Definitions, week: str) -> None:
    assert len(needed(defs, MODEL, week, TRAINING_TABLE)) == 13
    assert len(needed(defs, FEATURE_TABLE, week, PRODUCT_WEEKS)) == 8
