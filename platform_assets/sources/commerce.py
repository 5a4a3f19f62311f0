"""What the team `commerce` receives: the 84.51° Complete Journey, grocery retail, 2017.

Declarations only. The calendar of the data is assigned (an original day number mapped to 2017), not live.
"""

from datetime import timedelta

from platform_assets.partitions import COMMERCE_DAILY, COMMERCE_WEEKLY, COMMERCE_ZONE
from platform_assets.sources.declaration import Column, EventTime, Source, expect

TEAM = "commerce"

TRANSACTIONS = Source(
    team=TEAM,
    entity="transactions",
    description="One row per basket and product: what a household bought in a store, as the till saw it.",
    partitions=COMMERCE_DAILY,
    file_format="parquet",
    columns=(
        Column("household_id", "BIGINT", "Household of the loyalty card."),
        Column("store_id", "BIGINT", "Store of the basket."),
        Column("basket_id", "BIGINT", "Basket: one purchase occasion of one household."),
        Column("product_id", "BIGINT", "Product; 4,836 rows of the year name one that the catalogue lacks."),
        Column("quantity", "BIGINT", "Units sold; 0 occurs, and fuel counts thousandths of a gallon."),
        Column("sales_value", "DOUBLE", "Dollars the retailer received, after its own discounts."),
        Column("retail_disc", "DOUBLE", "Dollars off by the loyalty card, positive."),
        Column("coupon_disc", "DOUBLE", "Dollars off by the manufacturer's coupon, positive."),
        Column("coupon_match_disc", "DOUBLE", "Dollars off by the retailer's match of a coupon, positive."),
        Column("week", "BIGINT", "Week of the study, 1 to 53, Monday to Sunday."),
        Column("transaction_timestamp", "TIMESTAMP", "When the basket was paid, in UTC without a zone."),
    ),
    key=("basket_id", "product_id"),
    # The stores are in New York and the tills write UTC: read as it is, 17 % of the rows would be a day off.
    event_time=EventTime("transaction_timestamp", zone="UTC"),
    expectations=(
        expect("column_values_to_be_between", column="quantity", min_value=0),
        expect("column_values_to_be_between", column="sales_value", min_value=0),
        expect("column_values_to_be_between", column="retail_disc", min_value=0),
        expect("column_values_to_be_between", column="coupon_disc", min_value=0),
        expect("column_values_to_be_between", column="coupon_match_disc", min_value=0),
        expect("column_values_to_be_between", column="week", min_value=1, max_value=53),
    ),
    expected_by=timedelta(hours=6),
)

PROMOTIONS = Source(
    team=TEAM,
    entity="promotions",
    description="One row per placement of a product in a store and week: where it is displayed or mailed, as decided before "
    "the week, with whose beginning it is delivered.",
    partitions=COMMERCE_WEEKLY,
    file_format="parquet",
    columns=(
        Column("product_id", "BIGINT", "Product that was promoted."),
        Column("store_id", "BIGINT", "Store that promoted it."),
        Column("display_location", "VARCHAR", "Place of the display in the store; 0 is none."),
        Column("mailer_location", "VARCHAR", "Place in the weekly mailer; 0 is none."),
        Column("week", "BIGINT", "Week of the study, 1 to 53; week 1 is the one of Monday 2016-12-26."),
    ),
    event_time=EventTime("week", zone=COMMERCE_ZONE, sql="TIMESTAMP '2016-12-26' + to_days(7 * (week::INT - 1))"),
    expectations=(
        expect("column_values_to_be_in_set", column="display_location", value_set=list("012345679A")),
        expect("column_values_to_be_in_set", column="mailer_location", value_set=list("0ACDFHJLPXZ")),
    ),
    expected_by=timedelta(days=1),
)

PRODUCTS = Source(
    team=TEAM,
    entity="products",
    description="One row per product of the catalogue, with its place in the hierarchy.",
    partitions=None,
    file_format="csv",
    compression="gzip",
    columns=(
        Column("product_id", "BIGINT", "Product."),
        Column("manufacturer_id", "BIGINT", "Manufacturer of the product."),
        Column("department", "VARCHAR", "Top of the hierarchy, e.g. GROCERY; FUEL and COUPON are not goods."),
        Column("brand", "VARCHAR", "National or Private (the retailer's own)."),
        Column("product_category", "VARCHAR", "Middle of the hierarchy.", nullable=True),
        Column("product_type", "VARCHAR", "Bottom of the hierarchy.", nullable=True),
        Column("package_size", "VARCHAR", "Size as printed, in free text.", nullable=True),
    ),
    key=("product_id",),
    expectations=(expect("column_values_to_be_in_set", column="brand", value_set=["National", "Private"]),),
)

HOUSEHOLDS = Source(
    team=TEAM,
    entity="households",
    description="One row per household that answered the survey (801 of 2,469), with its demographics.",
    partitions=None,
    file_format="csv",
    columns=(
        Column("household_id", "BIGINT", "Household of the loyalty card."),
        Column("age", "VARCHAR", "Age range of the head, in years."),
        Column("income", "VARCHAR", "Range of yearly income, in dollars."),
        Column("home_ownership", "VARCHAR", "Homeowner, Renter, or probably so.", nullable=True),
        Column("marital_status", "VARCHAR", "Married or Unmarried.", nullable=True),
        Column("household_size", "VARCHAR", "Number of people; 5+ is the last range."),
        Column("household_comp", "VARCHAR", "Composition, e.g. 2 Adults No Kids."),
        Column("kids_count", "VARCHAR", "Number of children; 3+ is the last range."),
    ),
    key=("household_id",),
    expectations=(
        expect("column_values_to_be_in_set", column="marital_status", value_set=["Married", "Unmarried"]),
        expect("column_values_to_be_in_set", column="kids_count", value_set=["0", "1", "2", "3+"]),
    ),
)

CAMPAIGNS = Source(
    team=TEAM,
    entity="campaigns",
    description="One row per campaign and household that it addressed, with the campaign's type and dates.",
    partitions=None,
    file_format="jsonl",
    columns=(
        Column("campaign_id", "BIGINT", "Campaign."),
        Column("campaign_type", "VARCHAR", "Type A (personal coupons), Type B or Type C."),
        Column("start_date", "DATE", "First day of the campaign, local."),
        Column("end_date", "DATE", "Last day of the campaign, local."),
        Column("household_id", "BIGINT", "Household that the campaign addressed."),
    ),
    key=("campaign_id", "household_id"),
    expectations=(
        expect("column_values_to_be_in_set", column="campaign_type", value_set=["Type A", "Type B", "Type C"]),
        expect("column_pair_values_a_to_be_greater_than_b", column_A="end_date", column_B="start_date"),
    ),
)

COUPONS = Source(
    team=TEAM,
    entity="coupons",
    description="One row per coupon, product it may be redeemed for, and campaign; repeats occur upstream.",
    partitions=None,
    file_format="csv",
    compression="gzip",
    columns=(
        Column("coupon_upc", "BIGINT", "Code printed on the coupon."),
        Column("product_id", "BIGINT", "Product for which the coupon is valid."),
        Column("campaign_id", "BIGINT", "Campaign that issued the coupon."),
    ),
    expectations=(expect("column_values_to_be_between", column="campaign_id", min_value=1),),
)

SOURCES = (TRANSACTIONS, PROMOTIONS, PRODUCTS, HOUSEHOLDS, CAMPAIGNS, COUPONS)
