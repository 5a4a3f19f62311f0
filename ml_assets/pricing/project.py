"""Dynamic pricing: what each product will sell in a week, how its demand answers to price, which price to set."""

from ml_assets.features.view_features import ViewFeatures
from ml_assets.pricing.backtest_assets import demand_backtest, demand_backtest_summary
from ml_assets.pricing.feature_views import DEMAND_SIGNALS
from ml_assets.pricing.price_assets import price_elasticities, price_recommendations
from ml_assets.pricing.signals import PRODUCT_WEEKS, demand_signals
from ml_assets.pricing.trainer import DemandTrainer
from ml_assets.pricing.weekly_tables import FORECAST_WEEKS
from ml_assets.sdk.declarations import Gate, Model, Monitor, Query, TrainingSet, Window
from ml_assets.sdk.windows import Reads
from platform_assets.partitions import COMMERCE_WEEKLY, weeks_from

DEMAND = TrainingSet(
    team="commerce",
    name="product_demand",
    description="One row per product and week: what was known of its demand when the week began, and what it sold.",
    calendar=weeks_from("2017-01-30"),
    keys=("product_id",),
    time="week_began",
    entity_rows=Query(
        "select product_id, starts_at as week_began from signals, asked",
        {"signals": Reads(DEMAND_SIGNALS.source_key, DEMAND_SIGNALS.calendar)},
    ),
    labels=Query(
        "select product_id, starts_at as week_began, units from sold, asked",
        {"sold": Reads(PRODUCT_WEEKS.table, COMMERCE_WEEKLY)},
    ),
    label="units",
    unlabelled=0.0,
    features=ViewFeatures((DEMAND_SIGNALS.select(),)),
)

PRODUCT_DEMAND = Model(
    name="product_demand",
    description="Units of a product that sell in a week: the number with the least absolute error, what to expect, "
    "and an interval.",
    training_set=DEMAND,
    trainer=DemandTrainer(),
    calendar=FORECAST_WEEKS,
    window=Window(training=26),
    metric="wape",
    gate=Gate(
        beats={"last week": "units_lag_1", "four-week mean": "units_mean_4", "eight-week median": "units_median_8"},
        tolerance=0.05,  # a week is judged by one week, and holidays weigh in it
    ),
    monitor=Monitor(unwatched=("weeks_known", "day_of_month", "early_days", "holidays", "holidays_next", "open_days")),
    online=True,
    not_negative=True,
)

MODELS = (PRODUCT_DEMAND,)
ASSETS = (
    demand_signals(),
    price_elasticities(),
    price_recommendations(),
    demand_backtest(),
    demand_backtest_summary(),
)
