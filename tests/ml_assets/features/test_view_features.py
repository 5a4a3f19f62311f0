"""A training set gets of declared views what was known at each row's time, and reads no more than it says."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import duckdb
import pyarrow as pa
import pytest

from ml_assets.declaration_error import DeclarationError
from ml_assets.features.joins import served_view
from ml_assets.features.materialization import materialize
from ml_assets.features.view_features import ViewFeatures
from ml_assets.features.views import FeatureView, StartOf
from ml_assets.sdk.declarations import Query, TrainingSet
from ml_assets.sdk.training_sets import TrainingDataError, leaks, questions
from ml_assets.sdk.windows import Reads, upstream_keys
from platform_assets.partitions import COMMERCE_WEEKLY
from resources.feature_store.online_rows import open_rows
from resources.feature_store.reader import OnlineReader
from tests.ml_assets.features.grocery import BEFORE, DISCOUNT, PRICES, WEEKS, Grocery, Row

AHEAD = replace(PRICES, timestamp=StartOf("week"))
"""The same rows, known when their week begins."""
VIEWS = pytest.mark.parametrize("view", [PRICES, AHEAD], ids=["end", "start"])
PRODUCTS = range(1, 20)


def filled(grocery: Grocery, only: list[str] | None = None) -> Grocery:
    there = WEEKS if only is None else only
    grocery.write({week: grocery.rows[week] if week in WEEKS and week in there else [] for week in [*BEFORE, *WEEKS]})
    return grocery


def moments(week: str) -> list[datetime]:
    """When the week begins, in the middle of it, and just before it ends."""
    window = COMMERCE_WEEKLY.time_window_for_partition_key(week)
    return [window.start, window.start + timedelta(days=3), window.end - timedelta(microseconds=1)]


def features(view: FeatureView) -> ViewFeatures:
    return ViewFeatures((view.select("units_sold", "regular_price_usd"),))


def asked(lake: duckdb.DuckDBPyConnection, view: FeatureView, week: str) -> list[tuple[object, ...]]:
    rows = [(product, moment) for moment in moments(week) for product in PRODUCTS]
    products, times = zip(*rows, strict=True)
    table = pa.table(
        {"product_id": pa.array(products, pa.int64()), "asked_at": pa.array(times, pa.timestamp("us", tz="UTC"))}
    )
    return features(view).join(lake, lake.from_arrow(table)).order("asked_at, product_id").fetchall()


def known(grocery: Grocery, view: FeatureView, product: int, moment: datetime) -> tuple[object, object, object]:
    """By plain loops: the newest row of the product that was known and not too old, and when it was known."""
    found: Row | None = None
    since: datetime | None = None
    for week in WEEKS:
        for row in grocery.rows[week]:
            if row[0] == product and moment - view.ttl <= view.known_at(week) <= moment:
                found, since = row, view.known_at(week)
    return (found[2], found[1], since) if found else (None, None, None)


@VIEWS
@pytest.mark.parametrize("week", WEEKS)
def test_features_are_what_was_known_at_the_rows_time(grocery: Grocery, view: FeatureView, week: str) -> None:
    with filled(grocery).warehouse.reader() as lake:
        for product, moment, *found in asked(lake, view, week):
            assert isinstance(moment, datetime)
            assert isinstance(product, int)
            units, price, since = found
            moment = moment.astimezone(UTC)
            assert (units, price, since) == known(grocery, view, product, moment), (product, moment)


@pytest.mark.parametrize(("view", "first"), [(PRICES, 1), (AHEAD, 2)], ids=["end", "start"])
def test_the_partitions_that_it_says_it_reads_are_enough(grocery: Grocery, view: FeatureView, first: int) -> None:
    week = WEEKS[4]
    with filled(grocery).warehouse.reader() as lake:
        whole = asked(lake, view, week)
    (dep,) = features(view).deps
    mapping = dep.partition_mapping
    read = upstream_keys(COMMERCE_WEEKLY, week, COMMERCE_WEEKLY, mapping.start_offset, mapping.end_offset)  # type: ignore[union-attr]
    assert read == WEEKS[first : first + 3]
    with filled(grocery, read).warehouse.reader() as lake:
        assert asked(lake, view, week) == whole


def test_what_is_selected_twice_is_refused() -> None:
    with pytest.raises(DeclarationError, match="view prices is selected twice"):
        ViewFeatures((PRICES.select("shelf"), PRICES.select("units_sold")))
    with pytest.raises(DeclarationError, match="feature shelf is selected twice"):
        ViewFeatures((PRICES.select("shelf", "shelf"),))


def test_a_mart_that_lacks_a_declared_column_is_refused_by_name(grocery: Grocery) -> None:
    with grocery.warehouse.reader() as lake, pytest.raises(DeclarationError, match="view 'prices'.*product_weeks"):
        asked(lake, PRICES, WEEKS[4])


PROPOSED = ViewFeatures((PRICES.select("units_sold"),), (DISCOUNT,))
PROPOSALS = TrainingSet(
    team="commerce",
    name="proposals",
    description="One row per product and week in which a price is proposed for it.",
    calendar=COMMERCE_WEEKLY,
    keys=("product_id",),
    time="asked_at",
    # A decimal, as SQL writes prices; a service sends floats.
    entity_rows=Query(
        "select product_id, starts_at as asked_at, (product_id / 2)::decimal(9, 2) as proposed_price_usd "
        "from sold, asked where product_id <> 7 union all select 7, starts_at, null from asked",
        {"sold": Reads(PRICES.source_key, COMMERCE_WEEKLY)},
    ),
    labels=Query("select 1", {}),
    label="bought",
    features=PROPOSED,
)


def test_a_transform_in_a_training_set_gives_what_it_gives_online(grocery: Grocery, tmp_path: Path) -> None:
    week, before = WEEKS[4], WEEKS[3]
    rows = open_rows(str(tmp_path / "rows.sqlite"))
    with filled(grocery).warehouse.reader() as lake:
        materialize(lake, PRICES, rows, WEEKS[:4])
        batch = questions(lake, PROPOSALS, week).to_arrow_table()
    assert batch.column_names == ["product_id", "asked_at", "units_sold", "proposed_discount", "prices_known_at"]
    products = batch["product_id"].to_pylist()
    reader = OnlineReader(rows, [served_view(PRICES)], now=PRICES.known_at(before).timestamp)
    found = reader.read(["prices:units_sold", "prices:regular_price_usd"], {"product_id": products}).columns
    proposed = [None if product == 7 else product / 2 for product in products]
    online = DISCOUNT.of_columns({**found, "proposed_price_usd": proposed})
    assert batch["units_sold"].to_pylist() == list(found["units_sold"])
    assert batch["proposed_discount"].to_pylist() == online["proposed_discount"]
    # The golden row: product 1 cost 1 + 3/4 in the week before, and 0.50 is proposed.
    assert batch["proposed_discount"].to_pylist()[products.index(1)] == 1 - 0.5 / 1.75
    assert batch["proposed_discount"].to_pylist()[products.index(7)] is None
    assert leaks(batch, PROPOSALS, ["units_sold", "proposed_discount"]) == {}


def test_a_transform_needs_its_request_of_the_entity_rows(grocery: Grocery) -> None:
    without = replace(PROPOSALS, entity_rows=Query("select 1 as product_id, starts_at as asked_at from asked", {}))
    said = "entity rows of 'proposals': the query gives no proposed_price_usd"
    with filled(grocery).warehouse.reader() as lake, pytest.raises(TrainingDataError, match=said):
        questions(lake, without, WEEKS[4])
    with pytest.raises(DeclarationError, match="computed from the label 'proposed_price_usd'"):
        replace(PROPOSALS, label="proposed_price_usd")
    with pytest.raises(DeclarationError, match="proposed_discount is the name of more than one"):
        ViewFeatures((PRICES.select("units_sold"),), (DISCOUNT, replace(DISCOUNT, name="again")))


def halved(proposed_price_usd: float | None, regular_price_usd: float | None) -> float | None:
    return None if not regular_price_usd or proposed_price_usd is None else proposed_price_usd / 2


def test_what_a_transform_reads_is_known_to_graph_catalog_and_code_version() -> None:
    assert [dep.asset_key for dep in PROPOSED.deps] == [PRICES.source_key]
    assert PROPOSED.lineage["proposed_discount"] == [dg.TableColumnDep(PRICES.source_key, "regular_price_usd")]
    assert PROPOSED.lineage.keys() == {"units_sold", "proposed_discount", "prices_known_at"}
    assert PROPOSED.known_at["proposed_discount"] == "prices_known_at"
    assert repr(replace(PROPOSED, transforms=(replace(DISCOUNT, function=halved),))) != repr(PROPOSED)
    assert repr(replace(PROPOSED, transforms=(replace(DISCOUNT, description="Other words."),))) == repr(PROPOSED)
