"""The asset that computes what is known of every product's demand when a week begins.

Belongs here: the thin asset, and the calendar of pricing. Not here: names and arithmetic of the features
(`features.py`), their declaration as a feature view (`ml_assets/features/commerce.py`), who reads them (`project.py`).
"""

from collections.abc import Iterator, Sequence

import dagster as dg
import duckdb
import pyarrow as pa

from ml_assets.features.commerce import DEMAND_SIGNALS
from ml_assets.pricing import features
from ml_assets.pricing.weekly_tables import read
from ml_assets.sdk.specs import completed
from ml_assets.sdk.windows import Reads
from platform_assets.backfills import ONE_RUN
from platform_assets.code_version import code_version
from platform_assets.completeness import Completeness
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partitions import COMMERCE_WEEKLY
from platform_assets.table_metadata import table_metadata
from resources.warehouse import PARTITION_KEY, Warehouse

PRODUCT_WEEKS = Reads(dg.AssetKey(["commerce", "product_weeks"]), COMMERCE_WEEKLY, -features.HISTORY_WEEKS, -1)
PROMOTIONS = Reads(dg.AssetKey(["commerce", "int_promotions_summarized"]), COMMERCE_WEEKLY, -features.HISTORY_WEEKS)
PRODUCTS = Reads(dg.AssetKey(["commerce", "int_products_classified"]), None)


def demand_signals() -> dg.AssetsDefinition:
    """The table behind the feature view `demand_signals`."""
    key, calendar = DEMAND_SIGNALS.source_key, DEMAND_SIGNALS.calendar

    @dg.multi_asset(
        name="commerce_demand_signals",
        specs=[
            completed(
                dg.AssetSpec(
                    key,
                    deps=[one.dep for one in (PRODUCT_WEEKS, PROMOTIONS, PRODUCTS)],
                    description="One row per week and product that sold in a fifth of the weeks before: what is known "
                    "of its demand when the week begins, the week's mailer and displays included.",
                    kinds={"duckdb"},
                    metadata={**_columns(), **Completeness(may_be_empty=False).metadata},
                ),
                DEMAND_SIGNALS.team,
                code_version(features.features),
            )
        ],
        partitions_def=calendar,
        backfill_policy=ONE_RUN["ml_assets"],
        can_subset=True,
    )
    def signals(
        context: dg.AssetExecutionContext, warehouse: Warehouse, checker: PartitionChecker
    ) -> Iterator[dg.MaterializeResult[None]]:
        def rows(weeks: Sequence[str]) -> pa.Table:
            with warehouse.reader() as lake:
                return _signals(warehouse, lake, weeks).to_arrow_table()

        with checker.building(context) as build:
            build.replace_table(key, rows, _columns())
            yield from build.outputs()

    return signals


def _signals(warehouse: Warehouse, lake: duckdb.DuckDBPyConnection, weeks: Sequence[str]) -> duckdb.DuckDBPyRelation:
    calendar = DEMAND_SIGNALS.calendar
    sales, plans, products = (
        read(warehouse, lake, one, calendar, weeks) for one in (PRODUCT_WEEKS, PROMOTIONS, PRODUCTS)
    )
    return features.features(lake, sales, plans, products, weeks)


def _columns() -> dict[str, object]:
    read = [
        *(dg.TableColumnDep(PRODUCT_WEEKS.table, column) for column in ("units", "baskets", "stores", "price_usd")),
        *(dg.TableColumnDep(PROMOTIONS.table, column) for column in ("mailer_stores", "display_stores")),
    ]
    return table_metadata(
        [
            dg.TableColumn("week", "DATE", "Monday of the week."),
            dg.TableColumn("product_id", "BIGINT", "Product."),
            *(dg.TableColumn(one.name, "FLOAT", one.description) for one in features.FEATURES),
            dg.TableColumn(PARTITION_KEY, "VARCHAR", "Dagster partition key of the row."),
        ],
        {one.name: read for one in features.FEATURES},
    )
