"""Weeks of a real lake go through features, training set and folds; a refused week stops only itself."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ml_assets.demand.assets import DRIFT, demand_training_set, feature_drift, product_week_features
from ml_assets.demand.folds import BEATS_BASELINES, REGISTERED_NAME, demand_folds
from ml_assets.demand.tables import (
    COLUMNS,
    EVALUATION,
    FEATURE_TABLE,
    FORECAST,
    MODEL,
    PRODUCT_WEEKS,
    TRAINING_TABLE,
    VERSION,
)
from platform_assets import partitions
from platform_assets.partition_checker.checker import PartitionChecker
from resources.environment import Environment
from resources.model_registry import ModelRegistry, RegistryError
from resources.warehouse import Commit, TableName, Warehouse
from tests.ml_assets.demand.grocery import grocery, weeks_from
from tests.small_graph import checker_of

# MLflow's own tables use a loader strategy that SQLAlchemy retires.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

SALES_WEEKS = weeks_from("2016-12-26", 26)
FOLDS = weeks_from("2017-06-05", 4)
REFUSED = FOLDS[2]
"""In the week before this one every product sells what it sold a week earlier: no model beats that."""


@dataclass
class Shop:
    """A lake, an MLflow database and a Dagster instance of their own."""

    warehouse: Warehouse
    registry: ModelRegistry
    instance: dg.DagsterInstance
    checker: PartitionChecker

    @classmethod
    def of(cls, environment: Environment, instance: dg.DagsterInstance) -> "Shop":
        sales = dg.AssetSpec(PRODUCT_WEEKS, partitions_def=partitions.COMMERCE_WEEKLY)
        warehouse, registry = Warehouse.of(environment), ModelRegistry.of(environment)
        assets = [sales, product_week_features, demand_training_set, demand_folds]
        checker = checker_of(environment, {"ml_assets": assets}, warehouse=warehouse, model_registry=registry)
        return cls(warehouse, registry, instance, checker)

    def deliver(self, sales: pa.Table, weeks: Iterable[str]) -> None:
        arrived = sales.filter(pc.is_in(sales["partition_key"], pa.array(weeks)))
        self.warehouse.replace_partitions(
            TableName.of_key(PRODUCT_WEEKS), list(weeks), arrived, Commit("test", "product_weeks")
        )

    def build(
        self,
        weeks: list[str],
        *assets: dg.AssetsDefinition | dg.AssetChecksDefinition,
        only: list[dg.AssetKey] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """One run of all `weeks`, as a single-run backfill makes it."""
        return dg.materialize(
            assets,
            instance=self.instance,
            resources={"warehouse": self.warehouse, "model_registry": self.registry, "checker": self.checker},
            selection=dg.AssetSelection.assets(*only) if only else None,
            tags={
                "dagster/asset_partition_range_start": weeks[0],
                "dagster/asset_partition_range_end": weeks[-1],
            },
            raise_on_error=False,
        )

    def checksums(self, key: dg.AssetKey) -> dict[str, str]:
        return self.warehouse.checksums(TableName.of_key(key))

    def rows(self, key: dg.AssetKey, week: str) -> list[dict[str, Any]]:
        with self.warehouse.reader() as lake:
            return self.warehouse.relation(lake, TableName.of_key(key), [week]).to_arrow_table().to_pylist()


def failures(result: dg.ExecuteInProcessResult) -> str:
    return " ".join(
        str(event.step_failure_data.error.message + str(event.step_failure_data.error.cause or ""))
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.error
    )


def sales_with_a_repeated_week() -> pa.Table:
    """Sales whose holdout week of the fold `REFUSED` repeats the week before it."""
    sales = grocery(len(SALES_WEEKS), 400)
    copied, repeat = SALES_WEEKS[SALES_WEEKS.index(REFUSED) - 2 : SALES_WEEKS.index(REFUSED)]
    again = sales.filter(pc.equal(sales["partition_key"], copied)).drop(["week", "partition_key"])
    key = pa.array([repeat] * again.num_rows)
    again = again.append_column("week", key.cast(pa.date32())).append_column("partition_key", key)
    kept = sales.filter(pc.not_equal(sales["partition_key"], repeat))
    return pa.concat_tables([kept, again.select(kept.column_names)])


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, extensions: Path, instance: dg.DagsterInstance) -> Shop:
    """A year's first half of sales, with features and training set."""
    home = tmp_path_factory.mktemp("shop")
    environment = Environment.of({"HEADWATER_HOME": str(home)})
    environment.extensions.symlink_to(extensions)
    shop = Shop.of(environment, instance)
    shop.deliver(sales_with_a_repeated_week(), SALES_WEEKS)
    assert shop.build(weeks_from("2017-02-27", 18), product_week_features, feature_drift).success
    assert shop.build(weeks_from("2017-02-27", 17), demand_training_set).success
    return shop


@pytest.fixture
def empty_shop(environment: Environment) -> Iterator[Shop]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Shop.of(environment, instance)


@pytest.fixture(scope="module")
def backtest(shop: Shop) -> dg.ExecuteInProcessResult:
    """Four folds built in one run, the third of them refused."""
    return shop.build(FOLDS, demand_folds)


def test_a_run_with_a_refused_fold_fails_and_names_the_fold_and_what_beat_it(
    backtest: dg.ExecuteInProcessResult,
) -> None:
    assert not backtest.success
    assert f"{REFUSED} does not beat last week" in failures(backtest)
    assert not any(week in failures(backtest) for week in FOLDS if week != REFUSED)


def test_only_the_refused_fold_is_left_without_version_and_forecast(
    shop: Shop, backtest: dg.ExecuteInProcessResult
) -> None:
    passed = set(FOLDS) - {REFUSED}
    assert shop.instance.get_materialized_partitions(MODEL) == set(FOLDS)
    assert shop.instance.get_materialized_partitions(EVALUATION) == set(FOLDS)
    assert shop.instance.get_materialized_partitions(VERSION) == passed
    assert shop.instance.get_materialized_partitions(FORECAST) == passed
    assert set(shop.warehouse.partitions(TableName.of_key(FORECAST))) == passed
    with pytest.raises(RegistryError, match=REFUSED):
        shop.registry.registered(REGISTERED_NAME, REFUSED)


def test_the_gate_has_a_blocking_verdict_for_each_fold(backtest: dg.ExecuteInProcessResult) -> None:
    verdicts = {e.partition: e for e in backtest.get_asset_check_evaluations() if e.check_name == BEATS_BASELINES.name}
    assert {week: e.passed for week, e in verdicts.items()} == {week: week != REFUSED for week in FOLDS}
    assert all(e.blocking and e.target_materialization_data for e in verdicts.values())


def test_the_champion_is_the_version_of_the_newest_fold(shop: Shop, backtest: dg.ExecuteInProcessResult) -> None:
    assert shop.registry.registered(REGISTERED_NAME).partition == FOLDS[-1]


def test_a_fold_built_alone_and_again_leaves_the_same_bytes(shop: Shop, backtest: dg.ExecuteInProcessResult) -> None:
    before = {key: shop.checksums(key) for key in (EVALUATION, FORECAST)}
    version = shop.registry.registered(REGISTERED_NAME, FOLDS[0])
    assert shop.build(FOLDS[:1], demand_folds).success
    assert {key: shop.checksums(key) for key in (EVALUATION, FORECAST)} == before
    assert shop.registry.registered(REGISTERED_NAME, FOLDS[0]) == version


def test_a_forecast_can_be_built_alone_from_the_registered_version(
    shop: Shop, backtest: dg.ExecuteInProcessResult
) -> None:
    before = shop.checksums(FORECAST)
    counts = {
        key: len(shop.instance.fetch_materializations(key, limit=99).records)
        for key in (MODEL, EVALUATION, VERSION, FORECAST)
    }
    assert shop.build(FOLDS[1:2], demand_folds, only=[FORECAST]).success
    again = {key: len(shop.instance.fetch_materializations(key, limit=99).records) for key in counts}
    assert again == {**counts, FORECAST: counts[FORECAST] + 1}
    assert shop.checksums(FORECAST) == before


def test_a_refused_candidate_cannot_be_registered_by_asking_for_the_version_alone(
    shop: Shop, backtest: dg.ExecuteInProcessResult
) -> None:
    result = shop.build([REFUSED], demand_folds, only=[VERSION])
    assert not result.success
    assert f"{REFUSED} does not beat last week" in failures(result)


def test_a_forecast_covers_every_product_with_features_and_names_its_model(
    shop: Shop, backtest: dg.ExecuteInProcessResult
) -> None:
    week = FOLDS[-1]
    forecast = shop.rows(FORECAST, week)
    assert {row["product_id"] for row in forecast} == {row["product_id"] for row in shop.rows(FEATURE_TABLE, week)}
    assert {row["model_digest"] for row in forecast} == {shop.registry.registered(REGISTERED_NAME, week).digest}


def test_every_table_has_the_declared_columns(shop: Shop, backtest: dg.ExecuteInProcessResult) -> None:
    with shop.warehouse.reader() as lake:
        for key, columns in COLUMNS.items():
            table = lake.table(TableName.of_key(key).sql)
            stored = dict(zip(table.columns, map(str, table.types), strict=True))
            assert {column.name: column.type for column in columns} == stored


def test_lineage_of_the_forecast_reaches_the_mart_through_columns_that_exist() -> None:
    upstream = {(FORECAST, "forecast_units")}
    reached: set[tuple[dg.AssetKey, str]] = set()
    while upstream:
        key, name = upstream.pop()
        reached.add((key, name))
        if key != PRODUCT_WEEKS:
            (column,) = [column for column in COLUMNS[key] if column.name == name]
            upstream |= set(column.sources)
    assert {name for key, name in reached if key == PRODUCT_WEEKS} >= {
        "units",
        "price_usd",
        "display_stores",
        "week",
    }


def test_each_week_carries_its_row_count(shop: Shop) -> None:
    for key in (FEATURE_TABLE, TRAINING_TABLE):
        for week, partition in shop.warehouse.partitions(TableName.of_key(key)).items():
            (record,) = shop.instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=key, asset_partitions=[week]), limit=1
            ).records
            assert record.asset_materialization is not None
            assert record.asset_materialization.metadata["dagster/partition_row_count"].value == partition.rows


def test_later_sales_do_not_reach_an_earlier_fold(shop: Shop, backtest: dg.ExecuteInProcessResult) -> None:
    forecast, model = (
        shop.checksums(FORECAST)[FOLDS[0]],
        shop.registry.registered(REGISTERED_NAME, FOLDS[0]).digest,
    )
    later = weeks_from(FOLDS[0], 3)
    shop.deliver(grocery(26, 400, seed=9, level=5.0), later)
    assert shop.build(weeks_from("2017-02-27", 18), product_week_features).success
    assert shop.build(weeks_from("2017-02-27", 17), demand_training_set).success
    assert shop.build(FOLDS[:1], demand_folds).success
    assert shop.checksums(FORECAST)[FOLDS[0]] == forecast
    assert shop.registry.registered(REGISTERED_NAME, FOLDS[0]).digest == model
    shop.deliver(sales_with_a_repeated_week(), later)


def test_features_without_their_history_name_the_missing_weeks(empty_shop: Shop) -> None:
    empty_shop.deliver(grocery(26, 20), [week for week in SALES_WEEKS[:10] if week != "2017-01-30"])
    result = empty_shop.build(["2017-02-27"], product_week_features)
    assert "commerce.product_weeks has no rows for 2017-01-30; materialize" in failures(result)


def test_drift_is_judged_week_by_week_and_only_warns(empty_shop: Shop) -> None:
    empty_shop.deliver(grocery(14, 700), SALES_WEEKS[:14])
    empty_shop.deliver(grocery(14, 700, level=6.0), SALES_WEEKS[13:14])
    weeks = weeks_from("2017-03-20", 3)
    result = empty_shop.build(weeks, product_week_features, feature_drift)
    verdicts = {e.partition: e for e in result.get_asset_check_evaluations() if e.check_name == DRIFT.name}
    assert result.success
    assert "fewer than" in str(verdicts[weeks[0]].description)
    assert verdicts[weeks[1]].passed
    assert not verdicts[weeks[2]].passed
    assert "units_lag_1" in str(verdicts[weeks[2]].description)
    assert verdicts[weeks[2]].severity == dg.AssetCheckSeverity.WARN
