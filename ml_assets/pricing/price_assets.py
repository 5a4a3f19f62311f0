"""The assets that set prices: how demand answers to price in each category, and the price to set of each product.

Belongs here: what they read, which plain function they call, what the web UI shows, and the rules that prices keep to.
Not here: the arithmetic (`elasticity.py`, `recommendation.py`), the forecasts (`trainer.py`).
"""

import math
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ml_assets.pricing import elasticity, recommendation
from ml_assets.pricing.feature_views import DEMAND_SIGNALS
from ml_assets.pricing.features import HISTORY_WEEKS
from ml_assets.pricing.recommendation import Rules
from ml_assets.pricing.signals import PRODUCT_WEEKS, PRODUCTS
from ml_assets.pricing.weekly_tables import (
    FORECAST_WEEKS,
    Column,
    Evaluation,
    Sources,
    WeeklyTable,
    by_week,
    read,
    shown_table,
    weekly_asset,
)
from ml_assets.sdk.windows import Reads
from platform_assets.code_version import code_version
from platform_assets.partitions import COMMERCE_WEEKLY
from resources.warehouse import PARTITION_KEY, Warehouse

RULES = Rules()
"""The team's rules. The retail data say nothing of costs, so `cost_share` is left out and revenue is maximised; with a
share of the regular price declared here, margin is."""

PROMOTIONS = Reads(dg.AssetKey(["commerce", "int_promotions_summarized"]), COMMERCE_WEEKLY, -HISTORY_WEEKS, -1)
PREDICTIONS = Reads(dg.AssetKey(["commerce", "product_demand_predictions"]), FORECAST_WEEKS)
SIGNALS = Reads(DEMAND_SIGNALS.source_key, DEMAND_SIGNALS.calendar)
ELASTICITIES = Reads(dg.AssetKey(["commerce", "price_elasticities"]), FORECAST_WEEKS)

POSITIVE_SHARE = 0.1
"""Of more categories than this demand that grows with the price is no longer chance: something else is measured."""
_TOP = 10


def price_elasticities() -> dg.AssetsDefinition:
    """How demand answers to price, by category."""
    return weekly_asset(
        WeeklyTable(
            name="price_elasticities",
            description="One row per week and category, and one of all with no category: by how many per cent demand "
            "changes when the price rises by one, as known when the week begins.",
            calendar=FORECAST_WEEKS,
            reads=(PRODUCT_WEEKS, PROMOTIONS, PRODUCTS),
            columns=_ELASTICITY_COLUMNS,
            version=code_version(_elasticities),
            rows=_elasticities,
            shown=_elasticities_shown,
            check="plausible",
            asks="Demand falls when the price rises: the interval of all products lies below 0, and at most "
            f"{POSITIVE_SHARE:.0%} of the categories' elasticities are above it.",
            judge=plausible,
        )
    )


def price_recommendations(rules: Rules = RULES) -> dg.AssetsDefinition:
    """The price to set of each product, by `rules`."""

    def rows(warehouse: Warehouse, lake: duckdb.DuckDBPyConnection, weeks: Sequence[str]) -> pa.Table:
        asked = {one.table.path[-1]: read(warehouse, lake, one, FORECAST_WEEKS, weeks) for one in _OF_RECOMMENDATIONS}
        return by_week(
            {week: recommendation.recommend(priced(lake, week, **asked), rules) for week in weeks},
            recommendation.SCHEMA,
        )

    def judge(found: pa.Table) -> Evaluation:
        broken = recommendation.broken_rules(found, rules)
        return Evaluation(
            not broken,
            "; ".join(f"broken: {one}" for one in broken) or f"{found.num_rows} prices keep every rule",
            {"prices": found.num_rows, "rules": dg.MetadataValue.json(dict(vars(rules)))},
        )

    return weekly_asset(
        WeeklyTable(
            name="price_recommendations",
            description="One row per week and product of which a price is known: the price to set, what it is expected "
            "to bring in against the present one, and why it is not another.",
            calendar=FORECAST_WEEKS,
            reads=_OF_RECOMMENDATIONS,
            columns=_RECOMMENDATION_COLUMNS,
            version=code_version(priced, recommendation.recommend, constants={"rules": rules}),
            rows=rows,
            shown=_recommendations_shown,
            check="keeps_rules",
            asks="Every price is within bounds, step and endings or the present one, and no category's mean price "
            "moves by more than it may; computed from the stored rows alone.",
            judge=judge,
            blocking=True,
            is_product=True,
        )
    )


def plausible(found: pa.Table) -> Evaluation:
    """Whether the elasticities of a week say that a higher price sells less."""
    rows = found.to_pylist()
    (pooled,) = [row for row in rows if row["category"] is None]
    own = [row for row in rows if row["category"] is not None]
    positive = [row["category"] for row in own if row["elasticity"] > 0]
    share = len(positive) / len(own)
    said = [f"of all products {pooled['elasticity']:.2f}, from {pooled['low']:.2f} to {pooled['high']:.2f}"]
    if pooled["high"] >= 0:
        said.append("which is not certainly below 0")
    if positive:
        said.append(f"above 0 in {len(positive)} of {len(own)} categories: {', '.join(positive[:5])}")
    return Evaluation(
        pooled["high"] < 0 and share <= POSITIVE_SHARE, "; ".join(said), {"share of categories above 0": share}
    )


def priced(
    lake: duckdb.DuckDBPyConnection,
    week: str,
    *,
    product_demand_predictions: duckdb.DuckDBPyRelation,
    demand_signals: duckdb.DuckDBPyRelation,
    price_elasticities: duckdb.DuckDBPyRelation,
    int_products_classified: duckdb.DuckDBPyRelation,
) -> pa.Table:
    """What `recommend` is asked for one week: the products that were ever sold at a cent or more.

    The present price is the last one paid, in whole cents. The regular price is the shelf price of that time; where
    that is unknown or below what was paid, the present price. A category without an elasticity has that of all.

    Args:
        lake: where the relations live.
        week: the partition.
        product_demand_predictions: rows of that table, as of the other tables of these names, of any weeks.
        demand_signals: as named.
        price_elasticities: as named.
        int_products_classified: as named.

    Returns:
        product_id, category, present_price_usd, regular_price_usd, expected_units, elasticity, elasticity_low,
        elasticity_high, in order of product_id.
    """
    of_week = duckdb.ColumnExpression(PARTITION_KEY) == duckdb.ConstantExpression(week)
    product_demand_predictions.filter(of_week).create_view("priced_predictions", replace=True)
    demand_signals.filter(of_week).create_view("priced_signals", replace=True)
    price_elasticities.filter(of_week).create_view("priced_elasticities", replace=True)
    int_products_classified.create_view("priced_products", replace=True)
    return lake.sql(
        """
        with last_prices as (
            select
                product_id, round(last_price_usd::double, 2) as present,
                round(last_price_usd::double / nullif(last_price_ratio::double, 0), 2) as regular
            from priced_signals
        )
        select
            product_id, coalesce(product_category, department, '') as category,
            present as present_price_usd, greatest(present, coalesce(regular, present)) as regular_price_usd,
            expected_units, coalesce(own.elasticity, pooled.elasticity) as elasticity,
            coalesce(own.low, pooled.low) as elasticity_low, coalesce(own.high, pooled.high) as elasticity_high
        from priced_predictions
        join last_prices using (product_id)
        left join priced_products using (product_id)
        left join priced_elasticities as own on own.category = coalesce(product_category, department, '')
        join priced_elasticities as pooled on pooled.category is null
        where present <> 0
        order by product_id
        """
    ).to_arrow_table()


def _elasticities(warehouse: Warehouse, lake: duckdb.DuckDBPyConnection, weeks: Sequence[str]) -> pa.Table:
    def kept(one: Reads, columns: str) -> duckdb.DuckDBPyRelation:
        # Read from the lake once, though weeks that are computed together look at nearly the same history.
        return lake.from_arrow(read(warehouse, lake, one, FORECAST_WEEKS, weeks).project(columns).to_arrow_table())

    sales = kept(PRODUCT_WEEKS, "product_id, week, units, price_usd")
    promotions = kept(PROMOTIONS, "product_id, week, mailer_stores, display_stores")
    products = kept(PRODUCTS, "product_id, product_category, department")
    return by_week(dict(_elasticities_of(lake, sales, promotions, products, weeks)), elasticity.SCHEMA)


def _elasticities_of(
    lake: duckdb.DuckDBPyConnection,
    sales: duckdb.DuckDBPyRelation,
    promotions: duckdb.DuckDBPyRelation,
    products: duckdb.DuckDBPyRelation,
    weeks: Sequence[str],
) -> Iterator[tuple[str, pa.Table]]:
    for week in weeks:
        known = _known_before(date.fromisoformat(week))
        found = elasticity.observations(lake, sales.filter(known), promotions.filter(known), products).to_arrow_table()
        if not found.num_rows:
            raise ValueError(
                f"{ELASTICITIES.table.to_user_string()} {week}: in the weeks before it no product has "
                f"{elasticity.MINIMUM_WEEKS} weeks with a sale, in most of its weeks and at prices that vary; "
                f"build more weeks of {PRODUCT_WEEKS.table.to_user_string()}, or start later"
            )
        yield week, elasticity.elasticities(found)


def _known_before(week: date) -> str:
    return f"week >= date '{week - timedelta(weeks=HISTORY_WEEKS)}' and week < date '{week}'"


def _elasticities_shown(found: pa.Table) -> dict[str, Any]:
    rows = found.to_pylist()
    pooled = next(row for row in rows if row["category"] is None)
    largest = sorted((row for row in rows if row["category"] is not None), key=lambda row: -row["weeks"])[:_TOP]
    return {
        "elasticity": pooled["elasticity"],
        "elasticity low": pooled["low"],
        "elasticity high": pooled["high"],
        "products": pooled["products"],
        "categories": len(rows) - 1,
        "largest categories": shown_table(largest, _SHOWN_OF_CATEGORY),
    }


def _recommendations_shown(found: pa.Table) -> dict[str, Any]:
    changed = pc.subtract(found["price_usd"], found["present_price_usd"]).to_numpy()
    best = found.sort_by([("gain_usd", "descending"), ("product_id", "ascending")]).slice(0, _TOP).to_pylist()
    rules = sorted(found.group_by("rule").aggregate([("rule", "count")]).to_pylist(), key=lambda row: row["rule"])
    return {
        "raised": int((changed > 0).sum()),
        "lowered": int((changed < 0).sum()),
        "kept": int((changed == 0).sum()),
        **{f"expected gain{end}, USD": math.fsum(found[name].to_pylist()) for end, name in _GAINS.items()},
        "prices by what keeps them from gaining more": dg.MetadataValue.json(
            {row["rule"]: row["rule_count"] for row in rules}
        ),
        "largest gains": shown_table([row for row in best if row["gain_usd"] > 0], _SHOWN_OF_PRODUCT),
    }


_SHOWN_OF_CATEGORY = {"category": "string", "products": "int", "elasticity": "float", "low": "float", "high": "float"}
_SHOWN_OF_PRODUCT = {
    "product_id": "int",
    "category": "string",
    "present_price_usd": "float",
    "price_usd": "float",
    "gain_usd": "float",
    "reason": "string",
}
_GAINS = {"": "gain_usd", ", low": "gain_low_usd", ", high": "gain_high_usd"}
_OF_RECOMMENDATIONS = (PREDICTIONS, SIGNALS, ELASTICITIES, PRODUCTS)

_REGRESSED: Sources = {
    PRODUCT_WEEKS.table: ("units", "price_usd"),
    PROMOTIONS.table: ("mailer_stores", "display_stores"),
    PRODUCTS.table: ("product_category", "department"),
}
_ELASTICITY_COLUMNS = {
    "category": Column("VARCHAR", "Product category; null in the row of all.", _REGRESSED),
    "products": Column("BIGINT", "Products that sell in most weeks and whose price varied.", _REGRESSED),
    "weeks": Column("BIGINT", "Their weeks, which are regressed.", _REGRESSED),
    "estimate": Column("DOUBLE", "Of the category's own regression; null with few products.", _REGRESSED),
    "elasticity": Column("DOUBLE", "That, drawn to the mean of all categories by empirical Bayes.", _REGRESSED),
    "low": Column("DOUBLE", f"Low end of its {elasticity.COVERAGE:.0%} interval.", _REGRESSED),
    "high": Column("DOUBLE", "High end of that.", _REGRESSED),
}

_PRESENT: Sources = {SIGNALS.table: ("last_price_usd",)}
_REGULAR: Sources = {SIGNALS.table: ("last_price_usd", "last_price_ratio")}
_CHOSEN: Sources = {
    **_REGULAR,
    PREDICTIONS.table: ("expected_units",),
    ELASTICITIES.table: ("elasticity", "low", "high"),
    PRODUCTS.table: ("product_category", "department"),
}
_RECOMMENDATION_COLUMNS = {
    "product_id": Column("BIGINT", "Product.", {PREDICTIONS.table: ("product_id",)}),
    "category": Column("VARCHAR", "Its category.", {PRODUCTS.table: ("product_category", "department")}),
    "regular_price_usd": Column("DOUBLE", "Last shelf price of a unit, at least the present price.", _REGULAR),
    "present_price_usd": Column("DOUBLE", "Last price paid for a unit, in whole cents.", _PRESENT),
    "price_usd": Column("DOUBLE", "The price to set.", _CHOSEN),
    "present_units": Column("DOUBLE", "Units expected in the week at the present price.", _CHOSEN),
    "expected_units": Column("DOUBLE", "Units expected in the week at the price to set.", _CHOSEN),
    "gain_usd": Column("DOUBLE", "What the price brings in a week more than the present one.", _CHOSEN),
    "gain_low_usd": Column("DOUBLE", "The least of that within the elasticity's interval.", _CHOSEN),
    "gain_high_usd": Column("DOUBLE", "The most of it.", _CHOSEN),
    "rule": Column(
        "VARCHAR", "What keeps it from gaining more: none, step, bounds, endings, uncertain, category.", _CHOSEN
    ),
    "reason": Column("VARCHAR", "What to do and why, in words.", _CHOSEN),
}
