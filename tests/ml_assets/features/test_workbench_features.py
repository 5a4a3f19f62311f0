"""A data frame gets declared features as known at each row's time, through the workbench."""

from datetime import timedelta

import pandas as pd
import pytest

from ml_assets.declaration_error import DeclarationError
from ml_assets.features.view_features import ViewFeatures
from ml_assets.features.views import FeatureService
from ml_assets.sdk.declarations import Query, TrainingSet
from ml_assets.sdk.training_sets import MissingPartition
from ml_assets.sdk.windows import Reads
from ml_assets.sdk.workbench import Workbench
from platform_assets.partitions import COMMERCE_WEEKLY
from resources.feature_store.point_in_time import FeatureError
from tests.ml_assets.features.grocery import DISCOUNT, PRICES, WEEKS, Grocery

OFFERS = FeatureService(
    "offers", "commerce", (PRICES.select("units_sold"),), "What an offer is made from.", (DISCOUNT,)
)
ENDED = PRICES.known_at(WEEKS[3])


@pytest.fixture
def bench(grocery: Grocery) -> Workbench:
    grocery.write({week: grocery.rows[week] for week in WEEKS})
    return Workbench.open(grocery.environment)


def asked(*products: int, at: object = ENDED) -> pd.DataFrame:
    """Rows in no order, under an index that is no count."""
    return pd.DataFrame(
        {"product_id": products, "event_timestamp": at, "note": "kept"}, index=[f"r{p}" for p in products]
    )


def test_a_view_gives_all_its_features_in_the_order_and_under_the_index_of_the_rows(
    bench: Workbench, grocery: Grocery
) -> None:
    found = bench.features(asked(7, 1, 99), PRICES)
    assert list(found.index) == ["r7", "r1", "r99"]
    assert list(found.columns) == [
        *("product_id", "event_timestamp", "note", "regular_price_usd", "units_sold", "shelf", "prices_known_at")
    ]
    # Every product is missing in every third week.
    for product in (7, 1):
        (known,) = [row for row in (*grocery.rows[WEEKS[3]], *grocery.rows[WEEKS[2]]) if row[0] == product][:1]
        assert tuple(found.loc[f"r{product}", ["regular_price_usd", "units_sold", "shelf"]]) == known[1:]
    assert found.loc["r99", ["units_sold", "prices_known_at"]].isna().all()


def test_a_minute_earlier_the_week_is_not_known(bench: Workbench) -> None:
    found = bench.features(asked(1, 2, at=ENDED - timedelta(minutes=1)), PRICES.select("units_sold"))
    assert (found["prices_known_at"] < ENDED).all()


def test_a_service_computes_its_transforms_from_the_request(bench: Workbench) -> None:
    found = bench.features(asked(1, 4).assign(proposed_price_usd=[1.0, None]), OFFERS)
    assert list(found.columns)[4:] == ["units_sold", "proposed_discount", "prices_known_at"]
    assert found.loc["r1", "proposed_discount"] == pytest.approx(1 - 1.0 / 1.75)
    assert pd.isna(found.loc["r4", "proposed_discount"])
    with pytest.raises(DeclarationError, match="'proposed_discount' .* give the rows a column 'proposed_price_usd'"):
        bench.features(asked(1), OFFERS)


def test_a_mart_that_lacks_a_week_is_refused_by_name(grocery: Grocery) -> None:
    grocery.write({week: grocery.rows[week] for week in WEEKS if week != WEEKS[2]})
    with pytest.raises(MissingPartition, match=f"product_weeks has no rows for {WEEKS[2]}; materialize"):
        Workbench.open(grocery.environment).features(asked(1), PRICES)


def test_rows_of_the_future_and_rows_without_a_key_are_refused(bench: Workbench) -> None:
    with pytest.raises(FeatureError, match="later than now"):
        bench.features(asked(1, at=pd.Timestamp("2100-01-01", tz="UTC")), PRICES)
    with pytest.raises(FeatureError, match="lack its key 'product_id'"):
        bench.features(asked(1).drop(columns="product_id"), PRICES)


def test_a_training_set_without_an_asset_is_refused_while_its_mart_lacks_a_week(grocery: Grocery) -> None:
    grocery.write({week: grocery.rows[week] for week in WEEKS if week != WEEKS[2]})
    sold = Reads(PRICES.source_key, COMMERCE_WEEKLY)
    units = TrainingSet(
        team="commerce",
        name="units",
        description="One row per product and week.",
        calendar=COMMERCE_WEEKLY,
        keys=("product_id",),
        time="began",
        entity_rows=Query("select product_id, starts_at as began from sold, asked", {"sold": sold}),
        labels=Query("select product_id, starts_at as began, units from sold, asked", {"sold": sold}),
        label="units",
        features=ViewFeatures((PRICES.select("regular_price_usd"),)),
    )
    bench = Workbench.open(grocery.environment)
    with pytest.raises(MissingPartition, match=f"product_weeks has no rows for {WEEKS[2]}; materialize"):
        bench.computed_rows(units, [WEEKS[4]])
    grocery.write({WEEKS[2]: grocery.rows[WEEKS[2]]})
    rows = bench.computed_rows(units, [WEEKS[4]])
    assert rows.num_rows == len(grocery.rows[WEEKS[4]])
