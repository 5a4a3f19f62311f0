"""What is known of a product's demand when a week begins: the one list of features, and how they are computed.

Belongs here: names, meanings and arithmetic of the features. Not here: labels, models, prices to set, storage.

A row describes one product at the start of one week. Everything in it is from the weeks before, except the features
marked `planned`: the retailer decides the week's mailer and displays before it begins. (The calendar is known too.) No
feature reads the price of its own week: the marts know a price only where something was sold, so it would tell the
model that the product sold. `planned_price_ratio` is the price to expect instead: what was charged the last time that
the product was promoted in the way now planned.

A week's rows are the same bytes whichever other weeks are computed with it. So only what was known by then decides
which products are listed and which make up their category's uplift, and what is summed is whole numbers, prices in
ten-thousandths of a dollar for one: sums of fractions depend on their order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

FIRST_WEEK = "2017-01-02"
"""The first whole week: the retail year begins on a Sunday, and one day would look like a week without demand."""
LISTED_SHARE = 0.2
"""Products are listed that sold in this share of the weeks known; all with twenty weeks of sales are, but for 0.2 %."""
REGULAR_SHARE = 20 / 53
"""Products that sold in this share of the weeks known tell what promotions do in their category."""
HISTORY_WEEKS = 52
"""How far back a week looks: over all there is."""
STATES = (0, 1, 2)
"""How a product is promoted: not, on display only, in the mailer."""
WINDOWS = (2, 4, 8, 13, 26)
HALF_LIVES = (2, 6, 16)
LEVEL_FLOOR = 0.05
"""Units a week that are taken for the level of a product without sales."""
PRIOR_UNITS = 5.0
"""A product's own uplift weighs as much as its category's once its promoted weeks have this many units of level."""

CATEGORY_PRIOR_UNITS = 50.0
"""The same for a category's uplift against that of all products."""
LEVEL_HALF_LIFE = 6
LEVEL = "usual_units"
"""The feature that forecasts start from: trees do not extrapolate, so they learn the ratio to it."""
LEVEL_OFFSET_UNITS = 0.1
"""Keeps a level of 0 a number."""
UPLIFT_FROM = 4
"""The first weeks of the history have no level yet that an uplift could be measured against."""

HOLIDAYS = (
    "2017-01-01",
    "2017-02-14",
    "2017-04-16",
    "2017-05-14",
    "2017-05-29",
    "2017-07-04",
    "2017-09-04",
    "2017-10-31",
    "2017-11-23",
    "2017-12-25",
)
CLOSED = ("2017-12-25",)
"""Days on which no store opens."""


@dataclass(frozen=True)
class Feature:
    """One feature of a product at the start of a week; a planned one reads the promotions decided for that week."""

    name: str
    sql: str
    description: str
    planned: bool = False


def _smoothed(column: str, half_life: int) -> str:
    weight = f"round(1e9 * exp(ln(2) / {half_life} * age))::hugeint"
    return f"sum({column} * {weight}) over known::double / sum({weight}) over known"


def _as_planned(aggregate: str) -> str:
    """`aggregate` over the past weeks promoted in the way now planned; `{}` in it stands for their state."""
    return "case state " + " ".join(f"when {n} then {aggregate.format(n)}" for n in STATES) + " end"


def _days_in(days: tuple[str, ...], weeks_ahead: int) -> str:
    listed = ", ".join(f"date '{day}'" for day in days)
    first = f"week + {7 * weeks_ahead}"
    return f"(select count(*) from unnest([{listed}]) as listed(day) where day between {first} and {first} + 6)"


UNITS = (
    *(
        Feature(f"units_lag_{n}", f"lag(units, {n}) over ordered", f"Units sold {n} week(s) before.")
        for n in (1, 2, 3, 4)
    ),
    *(
        Feature(f"units_mean_{n}", f"avg(units) over last_{n}", f"Mean weekly units of the {n} weeks before.")
        for n in WINDOWS
    ),
    *(
        Feature(f"units_median_{n}", f"median(units) over last_{n}", f"Median units of the {n} weeks before.")
        for n in (8, 26)
    ),
    *(
        Feature(
            f"units_smoothed_{n}",
            _smoothed("units", n),
            f"Mean of all weeks before, a week counting half as much as one {n} weeks later.",
        )
        for n in HALF_LIVES
    ),
    Feature("units_mean_known", "avg(units) over known", "Mean weekly units of all weeks before."),
    Feature(
        "units_deviation_13",
        "sqrt(greatest(0, avg(units * units) over last_13 - (avg(units) over last_13) ** 2))",
        "Standard deviation of the 13 weeks before.",
    ),
    Feature("units_max_13", "max(units) over last_13", "Most units in one of the 13 weeks before."),
    *(
        Feature(f"sold_share_{n}", f"avg(sold) over last_{n}", f"Share of the {n} weeks before with a sale.")
        for n in (4, 8, 13, 26)
    ),
    Feature("sold_share_known", "avg(sold) over known", "Share of all weeks before with a sale."),
    Feature("weeks_since_sale", "age - max(age) filter (sold = 1) over known", "Weeks since the last sale."),
    Feature("weeks_known", "age - min(age) filter (sold = 1) over known", "Weeks since the first sale."),
    Feature("baskets_mean_4", "avg(baskets) over last_4", "Mean weekly baskets of the 4 weeks before."),
    Feature("baskets_mean_13", "avg(baskets) over last_13", "Mean weekly baskets of the 13 weeks before."),
    Feature("stores_mean_8", "avg(stores) over last_8", "Mean number of stores that sold it, 8 weeks before."),
    Feature(
        "units_per_basket",
        "sum(units) over known / nullif(sum(baskets) over known, 0)",
        "Units in a basket that has the product, all weeks before.",
    ),
    Feature("units_ordinary_8", "avg(units) filter (state = 0) over last_8", "Mean units, unpromoted of 8 weeks."),
    Feature("units_ordinary_26", "avg(units) filter (state = 0) over last_26", "Mean units, unpromoted of 26 weeks."),
)

PRICES = (
    Feature(
        "last_price_usd", "last_value(price ignore nulls) over known / 1e4", "Price paid in the last week with a sale."
    ),
    Feature(
        "last_price_ratio",
        "last_value(ratio ignore nulls) over known / 1e6",
        "Price paid over the shelf price in the last week with a sale.",
    ),
    Feature("price_ratio_mean_8", "avg(ratio) over last_8 / 1e6", "Mean of that over 8 weeks."),
    Feature("price_ratio_mean_26", "avg(ratio) over last_26 / 1e6", "Mean of that over 26 weeks."),
    Feature("price_ratio_min_13", "min(ratio) over last_13 / 1e6", "Least of that in 13 weeks."),
    Feature(
        "discounted_share_13",
        "avg((depth > 0.02)::int) over last_13",
        "Share of the 13 weeks before in which it was discounted, of those with a sale.",
    ),
    Feature(
        "regular_trend",
        "last_value(regular ignore nulls) over known / nullif(avg(regular) over last_13, 0)",
        "Last shelf price over its mean of the 13 weeks before.",
    ),
)

PROMOTIONS = (
    Feature("mailer_lag_1", "lag(mailer, 1) over ordered", "Stores with it in the mailer in the week before."),
    Feature("display_lag_1", "lag(display, 1) over ordered", "Stores with it on display in the week before."),
    Feature("mailer_mean_8", "avg(mailer) over last_8", "Mean stores with it in the mailer, 8 weeks before."),
    Feature("display_mean_8", "avg(display) over last_8", "Mean stores with it on display, 8 weeks before."),
    Feature("mailer_share_26", "avg((mailer > 0)::int) over last_26", "Share of 26 weeks in the mailer."),
)

PLANNED = (
    Feature("mailer_planned", "mailer", "Stores that will have it in the mailer.", planned=True),
    Feature("display_planned", "display", "Stores that will have it on display.", planned=True),
    Feature(
        "mailer_change", "mailer - avg(mailer) over last_8", "Mailer stores against the 8 weeks before.", planned=True
    ),
    Feature(
        "display_change",
        "display - avg(display) over last_8",
        "Display stores against the 8 weeks before.",
        planned=True,
    ),
    Feature(
        "planned_price_ratio",
        _as_planned("last_value(case when state = {} then ratio end ignore nulls) over known / 1e6"),
        "Price over shelf price in the last week with a sale that was promoted in the way now planned.",
        planned=True,
    ),
    Feature(
        "units_as_planned",
        _as_planned("avg(units) filter (state = {}) over last_26"),
        "Mean units in those of the 26 weeks before that were promoted in the way now planned.",
        planned=True,
    ),
    Feature(
        "weeks_as_planned",
        _as_planned("count(*) filter (state = {}) over last_26"),
        "How many of the 26 weeks before were.",
        planned=True,
    ),
    Feature(
        "uplift",
        f"(coalesce(own_units, 0) + {PRIOR_UNITS} * category_ratio) / (coalesce(own_level, 0) / 1e6 + {PRIOR_UNITS})",
        "Units over level in all weeks before that were promoted in the way now planned, drawn to its category's.",
        planned=True,
    ),
    Feature(
        "category_uplift",
        "category_ratio",
        "The same over the regular products of its category, drawn to all products'.",
        planned=True,
    ),
    Feature("category_mailer", "category_mailer", "Products of its category that will be in the mailer.", planned=True),
    Feature(
        "category_mailer_change",
        "category_mailer - category_mailer_8",
        "That against the mean of the 8 weeks before.",
        planned=True,
    ),
)

CATEGORIES = (
    Feature("category_units_mean_8", "category_units_8", "Mean weekly units of its category in the 8 weeks before."),
    Feature(
        "category_trend_1",
        "category_units_1 / nullif(category_units_8, 0)",
        "Its category's units of the week before over their mean of 8 weeks.",
    ),
    Feature(
        "category_trend_4",
        "category_units_4 / nullif(category_units_13, 0)",
        "Its category's mean units of 4 weeks over those of 13.",
    ),
)

OPEN_DAYS = f"7 - {_days_in(CLOSED, 0)}"
CALENDAR = (
    Feature("day_of_month", "day(week)", "Day of the month on which the week begins."),
    Feature(
        "early_days",
        "(select count(*) from range(7) days(n) where day(week + n::integer) <= 7)",
        "Days of the week that are among the first 7 of a month.",
    ),
    Feature("holidays", _days_in(HOLIDAYS, 0), "Holidays in the week."),
    Feature("holidays_next", _days_in(HOLIDAYS, 1), "Holidays in the week after."),
    Feature("open_days", OPEN_DAYS, "Days of the week on which stores open."),
    Feature(
        LEVEL,
        f"(coalesce(units_smoothed_{LEVEL_HALF_LIFE}, 0) + {LEVEL_OFFSET_UNITS}) * ({OPEN_DAYS}) / 7",
        "Units that it sells lately in as many days as stores open in the week, and a tenth.",
    ),
)

FEATURES: tuple[Feature, ...] = (*UNITS, *PRICES, *PROMOTIONS, *PLANNED, *CATEGORIES, *CALENDAR)
NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
UNPLANNED: tuple[str, ...] = tuple(feature.name for feature in FEATURES if not feature.planned)
_OF_PRODUCT = tuple(
    f for f in (*UNITS, *PRICES, *PROMOTIONS, *PLANNED) if "own_" not in f.sql and "category" not in f.sql
)
_OF_OTHERS = tuple(f for f in FEATURES if f not in _OF_PRODUCT)


def features(
    connection: duckdb.DuckDBPyConnection,
    product_weeks: duckdb.DuckDBPyRelation,
    promotions: duckdb.DuckDBPyRelation,
    products: duckdb.DuckDBPyRelation,
    weeks: Sequence[str],
) -> duckdb.DuckDBPyRelation:
    """Feature rows of `weeks`, in one pass over the history.

    Args:
        connection: where the relations live.
        product_weeks: rows of `commerce.product_weeks` since `FIRST_WEEK`; of an asked week or later none is read.
        promotions: rows of `commerce.int_promotions_summarized` since then, those of the asked weeks included. A week
            of which there is none yet is taken to be promoted as the week before.
        products: rows of `commerce.int_products_classified`.
        weeks: Mondays as ISO dates, after `FIRST_WEEK`.

    Returns:
        One row per week and product that sold in `LISTED_SHARE` of the weeks before, in order of both: week,
        product_id, each of `NAMES` as FLOAT, null where it is not known, and partition_key.
    """
    given = {"product_weeks": product_weeks, "promotions": promotions, "products": products}
    for name, relation in given.items():
        relation.create_view(f"pricing_{name}", replace=True)
    asked = connection.from_arrow(pa.table({"week": pa.array(sorted(weeks)).cast(pa.date32())}))
    asked.create_view("pricing_asked", replace=True)
    windows = ", ".join(f"last_{n} as (ordered rows between {n} preceding and 1 preceding)" for n in WINDOWS)
    lags = ", ".join(
        f"avg(units) over (ordered rows between {n} preceding and 1 preceding) as category_units_{n}"
        for n in (1, 4, 8, 13)
    )
    return connection.sql(
        f"""
        with weeks as (
            select unnest(generate_series(
                timestamp '{FIRST_WEEK}', (select max(week) from pricing_asked)::timestamp, interval 7 day
            ))::date as week
        ),
        calendar as (
            select week, (datediff('day', date '{FIRST_WEEK}', week) // 7)::integer as age, planned_in
            from weeks
            left join (select distinct week, week as planned_in from pricing_promotions) using (week)
        ),
        sold_in as (
            select product_id, age, count(*) over (partition by product_id order by age) as weeks_sold
            from pricing_product_weeks join calendar using (week)
        ),
        panel as (
            select
                asked.product_id, week, age, coalesce(product_category, department, '') as category,
                coalesce(units, 0) as units, (units is not null)::integer as sold,
                coalesce(baskets, 0) as baskets, coalesce(stores, 0) as stores,
                round(10000 * price_usd)::bigint as price, round(10000 * regular_price_usd)::bigint as regular,
                round(1e6 * price_usd / nullif(regular_price_usd, 0))::bigint as ratio, discount_depth as depth,
                coalesce(promotions.mailer_stores, 0) as mailer, coalesce(promotions.display_stores, 0) as display,
                case
                    when promotions.mailer_stores > 0 then 2 when promotions.display_stores > 0 then 1 else 0
                end as state
            from (select distinct product_id from sold_in where weeks_sold >= {LISTED_SHARE} * (age + 1)) as asked
            cross join calendar
            left join pricing_product_weeks as sales using (product_id, week)
            left join pricing_promotions as promotions
                on promotions.product_id = asked.product_id
                and promotions.week = coalesce(planned_in, calendar.week - 7)
            left join pricing_products on pricing_products.product_id = asked.product_id
        ),
        own as (
            select
                product_id, week, age, category, state, units,
                round(1e6 * coalesce(
                    greatest({LEVEL_FLOOR}, {_smoothed("units", LEVEL_HALF_LIFE)}), {LEVEL_FLOOR}
                ))::bigint as level,
                {_columns(_OF_PRODUCT)}
            from panel
            window ordered as (partition by product_id order by age),
                known as (ordered rows between unbounded preceding and 1 preceding), {windows}
        ),
        own_states as (
            select
                product_id, age,
                sum(units) over before as own_units, sum(level) over before as own_level
            from own
            where age >= {UPLIFT_FROM}
            window before as (
                partition by product_id, state order by age rows between unbounded preceding and 1 preceding
            )
        ),
        -- A week in which nothing of a category was promoted in some way has a row too.
        state_weeks as (
            select category, state, age, coalesce(sum(units), 0) as units, coalesce(sum(level), 0) as level
            from (select distinct category from own)
            cross join (select unnest({list(STATES)}) as state)
            cross join (select age from calendar where age >= {UPLIFT_FROM})
            left join (from own where sold_share_known >= {REGULAR_SHARE}) using (category, state, age)
            group by category, state, age
        ),
        category_states as (
            select
                category, state, age,
                sum(units) over by_category as units, sum(level) over by_category as level,
                1e6 * sum(units) over by_state / nullif(sum(level) over by_state, 0) as ratio
            from state_weeks
            window by_category as (
                partition by category, state order by age rows between unbounded preceding and 1 preceding
            ), by_state as (
                partition by state order by age range between unbounded preceding and 1 preceding
            )
        ),
        sales_weeks as (
            select category, age, sum(units)::bigint as units, max(in_mailer) as in_mailer
            from (
                select coalesce(product_category, department, '') as category, age, units, 0 as in_mailer
                from pricing_product_weeks
                join calendar using (week)
                left join pricing_products using (product_id)
                union all
                select coalesce(product_category, department, ''), age, 0, count(*) over one
                from pricing_promotions as promotions
                join calendar on promotions.week = coalesce(planned_in, calendar.week - 7)
                left join pricing_products using (product_id)
                where mailer_stores > 0
                window one as (partition by coalesce(product_category, department, ''), age)
            )
            group by category, age
        ),
        category_weeks as (
            select
                category, age, coalesce(in_mailer, 0) as category_mailer, {lags},
                avg(coalesce(in_mailer, 0)) over (ordered rows between 8 preceding and 1 preceding)
                    as category_mailer_8
            from (
                select category, age, coalesce(units, 0) as units, in_mailer
                from (select distinct category from own) cross join calendar
                left join sales_weeks using (category, age)
            )
            window ordered as (partition by category order by age)
        ),
        others as (
            select
                own.*, own_units, own_level, category_weeks.* exclude (category, age),
                (coalesce(category_states.units, 0) + {CATEGORY_PRIOR_UNITS} * coalesce(ratio, 1))
                    / (coalesce(category_states.level, 0) / 1e6 + {CATEGORY_PRIOR_UNITS}) as category_ratio
            from own
            semi join pricing_asked using (week)
            join category_weeks using (category, age)
            left join own_states using (product_id, age)
            left join category_states using (category, state, age)
            where sold_share_known >= {LISTED_SHARE}
        )
        select
            week, product_id, {", ".join(f.name if f in _OF_PRODUCT else _columns((f,)) for f in FEATURES)},
            strftime(week, '%Y-%m-%d') as partition_key
        from others
        order by week, product_id
        """
    )


def _columns(chosen: tuple[Feature, ...]) -> str:
    return ", ".join(f"({feature.sql})::float as {feature.name}" for feature in chosen)
