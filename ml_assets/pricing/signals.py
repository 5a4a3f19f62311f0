"""The asset that computes what is known of every product's demand when a week begins.

Belongs here: what it reads, and its check. Not here: names and arithmetic of the features (`features.py`), their
declaration as a feature view (`ml_assets/pricing/feature_views.py`), who reads them (`project.py`).
"""

from collections.abc import Sequence

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ml_assets.pricing import features
from ml_assets.pricing.feature_views import DEMAND_SIGNALS
from ml_assets.pricing.weekly_tables import Column, Evaluation, Sources, WeeklyTable, read, weekly_asset
from ml_assets.sdk.windows import Reads
from platform_assets.code_version import code_version
from platform_assets.partitions import COMMERCE_WEEKLY
from resources.warehouse import Warehouse

PRODUCT_WEEKS = Reads(dg.AssetKey(["commerce", "product_weeks"]), COMMERCE_WEEKLY, -features.HISTORY_WEEKS, -1)
PROMOTIONS = Reads(dg.AssetKey(["commerce", "int_promotions_summarized"]), COMMERCE_WEEKLY, -features.HISTORY_WEEKS)
PRODUCTS = Reads(dg.AssetKey(["commerce", "int_products_classified"]), None)


def demand_signals() -> dg.AssetsDefinition:
    """The table behind the feature view `demand_signals`."""
    return weekly_asset(
        WeeklyTable(
            name=DEMAND_SIGNALS.source_key.path[-1],
            description="One row per week and product that sold in a fifth of the weeks before: what is known of its "
            "demand when the week begins, the week's mailer and displays included.",
            calendar=DEMAND_SIGNALS.calendar,
            reads=(PRODUCT_WEEKS, PROMOTIONS, PRODUCTS),
            columns=_COLUMNS,
            version=code_version(features.features),
            rows=_signals,
            shown=lambda found: {"products": found.num_rows},
            check="levels_known",
            asks="There are products, and the level that forecasts start from is known of each and above 0.",
            judge=levels_known,
            blocking=True,
        )
    )


def levels_known(found: pa.Table) -> Evaluation:
    """Whether a forecast of every product of a week has something to start from."""
    without = found.filter(pc.invert(pc.greater(pc.fill_null(found[features.LEVEL], 0), 0)))["product_id"].to_pylist()
    said = f"{len(without)} of {found.num_rows} products have no level"
    if without:
        said += f", the first {without[0]}"
    return Evaluation(found.num_rows > 0 and not without, said, {"products": found.num_rows, "without": len(without)})


def _signals(warehouse: Warehouse, lake: duckdb.DuckDBPyConnection, weeks: Sequence[str]) -> pa.Table:
    calendar = DEMAND_SIGNALS.calendar
    sales, plans, products = (
        read(warehouse, lake, one, calendar, weeks) for one in (PRODUCT_WEEKS, PROMOTIONS, PRODUCTS)
    )
    return features.features(lake, sales, plans, products, weeks).to_arrow_table()


_KNOWN: Sources = {
    PRODUCT_WEEKS.table: ("units", "baskets", "stores", "price_usd"),
    PROMOTIONS.table: ("mailer_stores", "display_stores"),
}
_COLUMNS = {
    "product_id": Column("BIGINT", "Product.", {PRODUCT_WEEKS.table: ("product_id",)}),
    **{one.name: Column("FLOAT", one.description, _KNOWN) for one in features.FEATURES},
}
