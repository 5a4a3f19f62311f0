"""The demand features: the one list of them, and how a week's rows are computed.

Belongs here: names, meanings and arithmetic of the features. Not here: labels (`training.py`), Dagster,
storage.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

HISTORY_WEEKS = 8
"""How many weeks before its own a feature row looks at; a product without sales in them has no row."""


@dataclass(frozen=True)
class Feature:
    """One feature of a product at the start of a week.

    `sql` aggregates the product's rows of `product_weeks` in the weeks before, where `age` is 1 for the week
    just ended; `columns` are the columns of `product_weeks` that it reads, for the lineage. `drifts` is false
    where a changed distribution says nothing, because the calendar alone decides it.
    """

    name: str
    type: str
    sql: str
    description: str
    columns: tuple[str, ...]
    drifts: bool = True


def _lag(weeks: int) -> Feature:
    return Feature(
        f"units_lag_{weeks}",
        "BIGINT",
        f"coalesce(sum(units) filter (where age = {weeks}), 0)",
        f"Units sold {weeks} week(s) before; 0 when there was no sale.",
        ("units", "week"),
    )


def _mean(column: str, weeks: int) -> Feature:
    return Feature(
        f"{column}_mean_{weeks}",
        "DOUBLE",
        f"coalesce(sum({column}) filter (where age <= {weeks}), 0) / {weeks}",
        f"Mean weekly {column} over the {weeks} weeks before, weeks without a sale counting 0.",
        (column, "week"),
    )


def _last(column: str, description: str) -> Feature:
    return Feature(f"last_{column}", "DOUBLE", f"arg_min({column}, age)", description, (column, "week"))


def _share(kind: str) -> Feature:
    return Feature(
        f"{kind}_share_lag_1",
        "DOUBLE",
        f"coalesce(sum({kind}_stores) filter (where age = 1) "
        "/ nullif(sum(promoted_stores) filter (where age = 1), 0), 0)",
        f"Share of the stores promoting the product that used {kind} in the week before; 0 when none did.",
        (f"{kind}_stores", "promoted_stores", "week"),
    )


FEATURES: tuple[Feature, ...] = (
    *(_lag(weeks) for weeks in (1, 2, 3, 4, 8)),
    _mean("units", 4),
    _mean("units", HISTORY_WEEKS),
    _mean("households", 4),
    _mean("households", HISTORY_WEEKS),
    Feature(
        "units_max_8",
        "BIGINT",
        "max(units)",
        "Most units sold in one of the 8 weeks before.",
        ("units", "week"),
    ),
    Feature("weeks_sold_8", "BIGINT", "count(*)", "How many of the 8 weeks before had a sale.", ("week",)),
    Feature(
        "weeks_since_sale",
        "BIGINT",
        "min(age)",
        "Weeks since the last sale; 1 is the week before.",
        ("week",),
    ),
    _last("price_usd", "Price paid for a unit in the last week with a sale, in USD."),
    _last("regular_price_usd", "Shelf price before discounts in the last week with a sale, in USD."),
    _last("discount_depth", "Discount as a share of the regular price in the last week with a sale, 0 to 1."),
    _share("display"),
    _share("mailer"),
    # Week of the year would be worse than useless: a fold sees a quarter, so trees extrapolate it at every
    # turn.
    Feature(
        "week_of_month",
        "BIGINT",
        "(day(feature_week) - 1) // 7 + 1",
        "Which Monday of its month the week starts on, 1 to 5.",
        ("week",),
        drifts=False,
    ),
)

NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
MONITORED: tuple[str, ...] = tuple(feature.name for feature in FEATURES if feature.drifts)


def product_week_features(product_weeks: duckdb.DuckDBPyRelation, weeks: Sequence[str]) -> duckdb.DuckDBPyRelation:
    """Features of every product sold in the eight weeks before each of `weeks`, in one pass.

    Args:
        product_weeks: rows of `commerce.product_weeks`; those of a feature row's own week or later are not
        read. weeks: Mondays as ISO dates, the weeks to compute features for.

    Returns:
        One row per feature week and product: feature_week, product_id, the features, partition_key.
    """
    columns = ", ".join(f"({feature.sql})::{feature.type} as {feature.name}" for feature in FEATURES)
    mondays = ", ".join(f"(date '{week}')" for week in weeks)
    return product_weeks.query(
        "history",
        f"""
        with asked as (select * from (values {mondays}) as asked(feature_week)),
        aligned as (
            select asked.feature_week, history.*, datediff('week', history.week, asked.feature_week) as age
            from asked
            join history
              on history.week < asked.feature_week
             and history.week >= asked.feature_week - interval {HISTORY_WEEKS} week
        )
        select feature_week, product_id, {columns}, strftime(feature_week, '%Y-%m-%d') as partition_key
        from aligned
        group by feature_week, product_id
        order by feature_week, product_id
        """,
    )
