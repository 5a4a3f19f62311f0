"""A whole project on scikit-learn: whether a shop will have a busy week."""

from ml_assets.sdk.declarations import Gate, Model, Monitor, Query, Real, Search, TrainingSet, Window
from ml_assets.sdk.trainers.sklearn import Sklearn
from ml_assets.sdk.windows import Reads
from tests.ml_assets.sdk.bakery import FACT_FEATURES, FACTS, FOLD_CALENDAR, LOAVES, SALES_CALENDAR

BUSY_WEEKS = TrainingSet(
    team="commerce",
    name="busy",
    description="One row per shop and week: what was known when the week began, and whether it then was busy.",
    calendar=SALES_CALENDAR,
    keys=("shop_id",),
    time="week",
    entity_rows=Query("select shop_id, known_at::date as week from facts", {"facts": Reads(FACTS, SALES_CALENDAR)}),
    labels=Query("select shop_id, week, busy from loaves", {"loaves": Reads(LOAVES, SALES_CALENDAR)}),
    label="busy",
    features=FACT_FEATURES,
    task="binary",
)

BUSY = Model(
    name="busy",
    description="The probability that a shop sells more than 70 loaves in the week.",
    training_set=BUSY_WEEKS,
    trainer=Sklearn("sklearn.linear_model.LogisticRegression", scale=True),
    calendar=FOLD_CALENDAR,
    window=Window(training=6, holdout=2),
    metric="log_loss",
    gate=Gate(at_most=0.5),
    search=Search({"C": Real(0.01, 10.0, log=True)}, trials=4, splits=2),
    monitor=Monitor(minimum_rows=100),
)
