"""A whole project on LightGBM: how many loaves a shop will sell in a week."""

from ml_assets.sdk.declarations import Gate, Model, Monitor, Query, TrainingSet, Window
from ml_assets.sdk.trainers.lightgbm import LightGBM
from ml_assets.sdk.windows import Reads
from tests.ml_assets.sdk.bakery import FACT_FEATURES, FACTS, FOLD_CALENDAR, LOAVES, SALES_CALENDAR

SALES = TrainingSet(
    team="commerce",
    name="bread",
    description="One row per shop and week: what was known when the week began, and the loaves then sold.",
    calendar=SALES_CALENDAR,
    keys=("shop_id",),
    time="week",
    entity_rows=Query("select shop_id, known_at::date as week from facts", {"facts": Reads(FACTS, SALES_CALENDAR)}),
    labels=Query("select shop_id, week, sold from loaves", {"loaves": Reads(LOAVES, SALES_CALENDAR)}),
    label="sold",
    features=FACT_FEATURES,
)

BREAD = Model(
    name="bread",
    description="Loaves that a shop will sell in the week.",
    training_set=SALES,
    trainer=LightGBM(rounds=40, segment=20, patience=10, settings={"min_data_in_leaf": 10, "learning_rate": 0.2}),
    calendar=FOLD_CALENDAR,
    window=Window(training=6, validation=1, holdout=1),
    metric="wape",
    gate=Gate(beats={"last week": "sold_before"}),
    monitor=Monitor(minimum_rows=100),
    online=True,
    not_negative=True,
)
