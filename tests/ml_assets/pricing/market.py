"""The grocery's year in a real lake, with forecasts that somebody made of it, and the assets that read them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ml_assets.pricing import backtest_assets, price_assets
from ml_assets.pricing.features import features
from ml_assets.pricing.weekly_tables import FORECAST_WEEKS
from platform_assets.partition_checker.checker import PartitionChecker
from resources.environment import Environment
from resources.warehouse import Commit, TableName, Warehouse
from tests.ml_assets.pricing.shop import grocery
from tests.small_graph import checker_of

FOLDS = FORECAST_WEEKS.get_partition_keys()
UNFORECAST = FOLDS[-1]
"""The week past the data, of which there is no forecast."""

READS = (
    price_assets.PRODUCT_WEEKS,
    price_assets.PROMOTIONS,
    price_assets.PRODUCTS,
    price_assets.PREDICTIONS,
    price_assets.SIGNALS,
)


def key_of(name: str) -> dg.AssetKey:
    return dg.AssetKey(["commerce", name])


def tables(seed: int = 0) -> dict[str, pa.Table]:
    """What the assets read, by name."""
    shop = grocery(52, 80, seed)
    with duckdb.connect() as connection:
        sales, promotions, products = map(connection.from_arrow, (shop.product_weeks, shop.promotions, shop.products))
        signals = features(connection, sales, promotions, products, FOLDS).to_arrow_table()
        connection.register("signals", signals)
        dated = "*, strftime(week, '%Y-%m-%d') as partition_key"
        return {
            "product_weeks": sales.project(dated).to_arrow_table(),
            "int_promotions_summarized": promotions.project(dated).to_arrow_table(),
            "int_products_classified": shop.products,
            "demand_signals": signals,
            "product_demand_predictions": connection.sql(
                "select product_id, floor(expected) as prediction, expected as expected_units, 0.0 as low_units, "
                "3 * expected + 2 as high_units, partition_key "
                "from (select *, units_mean_known::double as expected from signals) "
                f"where partition_key <> '{UNFORECAST}'"
            ).to_arrow_table(),
        }


@dataclass
class Market:
    """A lake and an event log, with the assets of prices and of the backtest."""

    environment: Environment
    instance: dg.DagsterInstance
    rows: dict[str, pa.Table] = field(default_factory=tables)

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse.of(self.environment)

    def open(self) -> "Market":
        for read in READS:
            name = read.table.path[-1]
            self.deliver(name, self.rows[name])
        return self

    def deliver(self, name: str, rows: pa.Table) -> None:
        """Replace the partitions that are in `rows`."""
        partitioned = "partition_key" in rows.column_names
        weeks = sorted(set(rows["partition_key"].to_pylist())) if partitioned else None
        self.warehouse.replace_partitions(TableName("commerce", name), weeks, rows, Commit("test", "delivery"))

    def changed(self, name: str, week: str, column: str, change: Callable[[pa.Array], pa.Array]) -> None:
        """Deliver a week again with one column changed."""
        rows = self.of(name, week)
        values = change(rows[column].combine_chunks()).cast(rows.schema.field(column).type)
        self.deliver(name, rows.set_column(rows.column_names.index(column), column, values))

    def of(self, name: str, week: str) -> pa.Table:
        """A week as it was first delivered."""
        rows = self.rows[name]
        return rows.filter(pc.equal(rows["partition_key"], week))

    def build(self, name: str, weeks: Sequence[str], *, check_only: str = "") -> dg.ExecuteInProcessResult:
        """One run of `commerce/<name>`, as a backfill of neighbouring weeks makes it; or of its check alone."""
        selection = dg.AssetSelection.assets(key_of(name))
        if check_only:
            selection = dg.AssetSelection.checks(dg.AssetCheckKey(key_of(name), check_only))
        assets = self.assets()
        return dg.materialize(
            assets,
            instance=self.instance,
            resources={"warehouse": self.warehouse, "checker": self._checker(assets)},
            selection=selection,
            tags={"dagster/asset_partition_range_start": weeks[0], "dagster/asset_partition_range_end": weeks[-1]},
            raise_on_error=False,
        )

    def assets(self) -> list[dg.AssetsDefinition]:
        return [
            price_assets.price_elasticities(),
            price_assets.price_recommendations(),
            backtest_assets.demand_backtest(),
            backtest_assets.demand_backtest_summary(),
        ]

    def stored(self, name: str, week: str) -> list[dict[str, Any]]:
        with self.warehouse.reader() as lake:
            return self.warehouse.relation(lake, TableName("commerce", name), [week]).to_arrow_table().to_pylist()

    def checksums(self, name: str) -> Mapping[str, str]:
        return self.warehouse.checksums(TableName("commerce", name))

    def shown(self, name: str, week: str) -> dict[str, Any]:
        """What the web UI shows of the newest materialization of a week."""
        wanted = dg.AssetRecordsFilter(key_of(name), asset_partitions=[week])
        (record,) = self.instance.fetch_materializations(wanted, limit=1).records
        assert record.asset_materialization
        return {name: entry.value for name, entry in record.asset_materialization.metadata.items()}

    def _checker(self, assets: Sequence[dg.AssetsDefinition]) -> PartitionChecker:
        upstream = [dg.AssetSpec(read.table, partitions_def=read.calendar) for read in READS]
        return checker_of(self.environment, {"ml_assets": [*upstream, *assets]}, warehouse=self.warehouse)


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Why a run failed."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    error = event.step_failure_data.error
    assert error
    return error.message + (error.cause.message if error.cause else "")
