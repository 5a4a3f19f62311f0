"""A small grocery whose customers answer to prices in a known way, made from a seed."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

import duckdb
import numpy as np
import pyarrow as pa

from ml_assets.pricing.features import NAMES, features
from ml_assets.sdk.trainers.trainer import Examples

FIRST_WEEK = date(2017, 1, 2)
CATEGORIES = 4


@dataclass(frozen=True)
class Grocery:
    """Rows as the marts have them: a week without a sale has no row in `product_weeks`."""

    product_weeks: pa.Table
    promotions: pa.Table
    products: pa.Table


def week_of(age: int) -> date:
    return FIRST_WEEK + timedelta(weeks=age)


def grocery(
    weeks: int,
    products: int,
    seed: int = 0,
    elasticities: tuple[float, ...] = (-1.0, -1.5, -2.0, -2.5),
    level: float = 3,
    steady: bool = False,
) -> Grocery:
    """Poisson sales; prices are cut in a quarter of the weeks, half of the cuts are in the mailer too.

    In a `steady` shop a product's cuts are always as deep and always in the mailer, so that its price is foreseen.
    """
    rng = np.random.default_rng(seed)
    rate = rng.gamma(1.0, level, size=products)
    regular = np.round(1 + 9 * rng.random(products), 2)
    category = np.arange(products) % CATEGORIES
    cut = rng.random((weeks, products)) < 0.25
    ratio = np.where(cut, rng.choice([0.9, 0.8, 0.6], size=(weeks, products)), 1.0)
    mailer = np.where(rng.random((weeks, products)) < 0.5, 0, np.where(cut, 100, 0))
    if steady:
        ratio = np.where(cut, rng.choice([0.9, 0.8, 0.6], size=products), 1.0)
        mailer = np.where(cut, 100, 0)
    display = np.where(rng.random((weeks, products)) < 0.2, 40, 0)
    demand = rate * ratio ** np.array(elasticities)[category] * np.exp(0.4 * mailer / 100 + 0.3 * display / 100)
    units = rng.poisson(demand)
    week, product = np.nonzero(units)
    sold = units[week, product]
    promoted_week, promoted_product = np.nonzero(mailer + display)
    return Grocery(
        pa.table(
            {
                "week": [week_of(int(age)) for age in week],
                "product_id": product.astype("int64") + 1000,
                "units": sold.astype("int64"),
                "baskets": np.maximum(1, sold // 2).astype("int64"),
                "stores": np.minimum(sold, 9).astype("int64"),
                "days_sold": np.minimum(sold, 7).astype("int64"),
                "regular_price_usd": regular[product],
                "price_usd": regular[product] * ratio[week, product],
                "discount_depth": 1 - ratio[week, product],
                "display_stores": display[week, product].astype("int64"),
                "mailer_stores": mailer[week, product].astype("int64"),
            }
        ),
        pa.table(
            {
                "week": [week_of(int(age)) for age in promoted_week],
                "product_id": promoted_product.astype("int64") + 1000,
                "display_stores": display[promoted_week, promoted_product].astype("int64"),
                "mailer_stores": mailer[promoted_week, promoted_product].astype("int64"),
            }
        ),
        pa.table(
            {
                "product_id": np.arange(products, dtype="int64") + 1000,
                "department": ["GROCERY"] * products,
                "product_category": [f"CATEGORY {n}" for n in category],
            }
        ),
    )


def feature_rows(connection: duckdb.DuckDBPyConnection, shop: Grocery, ages: Iterable[int]) -> pa.Table:
    """Feature rows of the weeks `ages`, with the `units` then sold as the label."""
    sales, promotions, products = map(connection.from_arrow, (shop.product_weeks, shop.promotions, shop.products))
    found = features(connection, sales, promotions, products, [str(week_of(age)) for age in ages])
    found.create_view("found", replace=True)
    sales.create_view("sales", replace=True)
    return connection.sql(
        "select found.*, coalesce(units, 0)::double as units from found left join sales using (week, product_id) "
        "order by week, product_id"
    ).to_arrow_table()


def examples(rows: pa.Table) -> Examples:
    """What a trainer is given of labelled feature rows."""
    columns = [np.asarray(rows[name].to_numpy(), dtype=np.float64) for name in NAMES]
    return Examples(np.column_stack(columns), np.asarray(rows["units"].to_numpy(), dtype=np.float64))
