"""The commerce team's features, over its marts: products and categories for pricing, households for targeting.

Belongs here: declarations, and the functions of on-request transforms. Not here: how a mart is computed (`dbt/`).
"""

from datetime import timedelta

from ml_assets.features.views import (
    EndOf,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    OnDemandTransform,
    RequestSource,
    StartOf,
)
from ml_assets.pricing import features as demand
from platform_assets.partitions import weeks_from

TEAM = "commerce"

PRODUCT = Entity("product", "product_id", "BIGINT", "One product of the assortment.")
HOUSEHOLD = Entity("household", "household_id", "BIGINT", "One household of the panel.")
DEPARTMENT = Entity("department", "department", "VARCHAR", "One department of the stores.")
CATEGORY = Entity("category", "product_category", "VARCHAR", "One category of a department's products.")

PRODUCT_PRICES = FeatureView(
    name="product_prices",
    team=TEAM,
    entities=(PRODUCT,),
    source="commerce/product_weeks",
    grain="weekly",
    timestamp=EndOf("week"),
    ttl=timedelta(weeks=4),
    description="One row per product and week it was sold in: price, volume and promotions, known when the week ended.",
    features=(
        Feature("regular_price_usd", "DOUBLE", "Shelf price of a unit before discounts, in USD."),
        Feature("price_usd", "DOUBLE", "Price paid for a unit, in USD."),
        Feature("discount_depth", "DOUBLE", "Discount as a share of the regular price, 0 to 1."),
        Feature("units_sold", "BIGINT", "Units sold in the week.", column="units"),
        Feature("sales_usd", "DOUBLE", "Sales of the week after discounts, in USD."),
        Feature("buying_households", "BIGINT", "Households that bought the product.", column="households"),
        Feature("selling_stores", "BIGINT", "Stores that sold the product.", column="stores"),
        Feature("days_sold", "BIGINT", "Days of the week that the product was sold on."),
        Feature("display_stores", "BIGINT", "Stores that had the product on display."),
        Feature("mailer_stores", "BIGINT", "Stores whose mailer showed the product."),
    ),
)

HOUSEHOLD_HABITS = FeatureView(
    name="household_habits",
    team=TEAM,
    entities=(HOUSEHOLD,),
    source="commerce/household_weeks",
    grain="weekly",
    timestamp=EndOf("week"),
    ttl=timedelta(weeks=8),
    description="One row per household and week it shopped in: how much, how often and at what discount.",
    features=(
        Feature("baskets_bought", "BIGINT", "Baskets bought in the week.", column="baskets"),
        Feature("days_shopped", "BIGINT", "Days of the week that the household shopped on."),
        Feature("spent_usd", "DOUBLE", "Sales of the week, fuel included, in USD.", column="sales_usd"),
        Feature("saved_usd", "DOUBLE", "Discounts of the week, in USD.", column="discount_usd"),
        Feature("saved_by_coupons_usd", "DOUBLE", "The part of it from coupons, in USD.", column="coupon_discount_usd"),
        Feature("running_campaigns", "BIGINT", "Campaigns sent to it that ran in the week.", column="campaigns"),
        Feature("age_band", "VARCHAR", "Age band; UNKNOWN where no survey was answered.", column="age"),
        Feature("income_band", "VARCHAR", "Income band; UNKNOWN where no survey was answered.", column="income"),
    ),
)

CATEGORY_DEMAND = FeatureView(
    name="category_demand",
    team=TEAM,
    entities=(DEPARTMENT, CATEGORY),
    source="commerce/category_days",
    grain="daily",
    timestamp=EndOf("day"),
    ttl=timedelta(days=7),
    description="One row per department, category and day with sales: what it sold, known when the day ended.",
    features=(
        Feature("category_products", "BIGINT", "Products of the category that were sold.", column="products"),
        Feature("category_units", "BIGINT", "Units of the category sold on the day.", column="units"),
        Feature("category_sales_usd", "DOUBLE", "Sales of the category on the day, in USD.", column="sales_usd"),
        Feature("category_discount_usd", "DOUBLE", "Discounts in the category, in USD.", column="discount_usd"),
        Feature("category_households", "BIGINT", "Households that bought of the category.", column="households"),
    ),
)

DEMAND_SIGNALS = FeatureView(
    name="demand_signals",
    team=TEAM,
    entities=(PRODUCT,),
    source="commerce/demand_signals",
    grain="weekly",
    # Four weeks of history before the first, and one week past the data, which is the one to forecast.
    partitions=weeks_from("2017-01-30", ahead=1),
    timestamp=StartOf("week"),
    ttl=timedelta(weeks=1),
    description="One row per week and product that sells regularly: what is known of its demand when the week begins.",
    features=tuple(Feature(one.name, "DOUBLE", one.description) for one in demand.FEATURES),
)

PRICE_PROPOSAL = RequestSource(
    "price_proposal",
    (Feature("proposed_price_usd", "DOUBLE", "Price of a unit that is considered, in USD."),),
    "A price that a pricing service considers for a product.",
)


def proposed_discount(proposed_price_usd: float | None, regular_price_usd: float | None) -> float | None:
    """The proposed price's discount as a share of the last regular price; negative above it, None without one."""
    if proposed_price_usd is None or regular_price_usd is None or regular_price_usd <= 0:
        return None
    return 1 - proposed_price_usd / regular_price_usd


PROPOSED_DISCOUNT = OnDemandTransform(
    name="price_proposal_discount",
    team=TEAM,
    request=PRICE_PROPOSAL,
    reads=PRODUCT_PRICES.select("regular_price_usd"),
    output=Feature("proposed_discount", "DOUBLE", "Discount of the proposed price against the last regular price."),
    function=proposed_discount,
    description="One value per product and proposed price: how deep a discount the price would be.",
    examples=({"proposed_price_usd": 1.99}, {"proposed_price_usd": 0.0}, {"proposed_price_usd": None}),
)

PRICING = FeatureService(
    name="pricing",
    team=TEAM,
    selections=(PRODUCT_PRICES.select(), CATEGORY_DEMAND.select("category_units", "category_discount_usd")),
    transforms=(PROPOSED_DISCOUNT,),
    description="What a price is set from: the product's own prices and volumes, and its category's demand.",
)

DEMAND = FeatureService(
    name="demand",
    team=TEAM,
    selections=(DEMAND_SIGNALS.select(),),
    description="What a product's demand in a week is forecast from, in training and online alike.",
)
