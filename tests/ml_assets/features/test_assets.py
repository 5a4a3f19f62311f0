"""The assets of a view: through the gate, into the store, with a receipt; and what they say when they cannot."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from ml_assets.features import assets
from ml_assets.features.catalogue import Catalogue
from ml_assets.features.joins import served_view
from ml_assets.features.views import Feature, StartOf
from platform_assets.partitions import weeks_from
from resources.feature_store.online_resource import OnlineStore
from resources.feature_store.reader import OnlineReader
from resources.ledger import Ledger
from tests.ml_assets.features.grocery import PRICES, WEEKS, Grocery

ASSETS = ("prices_online", "prices_statistics", "feature_skew")


@pytest.fixture
def built(grocery: Grocery) -> Grocery:
    """The grocery with every asset built for all weeks."""
    for name in ("product_weeks", *ASSETS):
        assert grocery.build(name).success, name
    return grocery


def units(grocery: Grocery) -> list[int | None]:
    """What is served of the first three products when the last week has ended."""
    reader = OnlineReader(grocery.store.rows(), [served_view(PRICES)], now=PRICES.known_at(WEEKS[-1]).timestamp)
    return list(reader.read(["prices:units_sold"], {"product_id": [1, 2, 3]}).columns["units_sold"])


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    error = event.step_failure_data.error
    assert error
    return error.message + (error.cause.message if error.cause else "")


def ids(grocery: Grocery, name: str) -> Mapping[str, str]:
    receipts = Ledger.of(grocery.environment).current(f"commerce/{name}")
    return {partition: receipt.checksum for partition, receipt in receipts.items()}


def test_every_week_of_a_view_has_a_receipt(built: Grocery) -> None:
    for name in ASSETS:
        assert list(ids(built, name)) == WEEKS
    assert units(built) == [4, 10, 15]


def test_building_a_week_again_gives_the_same_checksum(built: Grocery) -> None:
    before = {name: ids(built, name) for name in ("prices_online", "prices_statistics")}
    for name in before:
        assert built.build(name, WEEKS[2]).success
    assert {name: ids(built, name) for name in before} == before
    assert units(built) == [4, 10, 15]


def test_a_corrected_week_is_refused_until_what_reads_it_is_materialized(built: Grocery) -> None:
    built.rows[WEEKS[-1]] = [(1, 1.0, 77, "s1")]
    assert built.build("product_weeks", WEEKS[-1]).success
    assert f"commerce/prices_online@{WEEKS[-1]} is outdated" in failure(built.build("feature_skew", WEEKS[-1]))
    assert built.build("prices_online", WEEKS[-1]).success
    assert units(built) == [77, 6, 12]
    assert built.build("feature_skew", WEEKS[-1]).success
    assert {row["skewed"] for row in built.table("feature_skew") if row["partition_key"] == WEEKS[-1]} == {0}


def test_a_store_that_is_down_fails_the_step_with_advice_and_a_retry_loses_nothing(
    grocery: Grocery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "RETRIES", dg.RetryPolicy(max_retries=1))
    assert grocery.build("product_weeks").success
    (tmp_path / "file").write_text("in the way")
    grocery.online = OnlineStore(address=str(tmp_path / "file" / "rows.sqlite"), namespace="headwater:prod")
    result = grocery.build("prices_online")
    assert [event.event_type_value for event in result.all_events].count("STEP_RESTARTED") == 1
    said = failure(result)
    assert "commerce/prices_online: the online store" in said
    assert "Nothing was recorded and nothing is lost: start the store or correct HEADWATER_ONLINE_STORE" in said
    assert ids(grocery, "prices_online") == {}
    (tmp_path / "file").unlink()
    assert grocery.build("prices_online").success
    assert list(ids(grocery, "prices_online")) == WEEKS
    assert units(grocery) == [4, 10, 15]


@pytest.mark.parametrize("name", ["prices_online", "prices_statistics"])
def test_a_view_whose_mart_lacks_a_column_is_refused_once_with_what_to_do(grocery: Grocery, name: str) -> None:
    wider = replace(PRICES, features=(*PRICES.features, Feature("margin", "DOUBLE", "Margin.")))
    grocery.catalogue = Catalogue((wider,))
    assert grocery.build("product_weeks").success
    result = grocery.build(name)
    assert "view 'prices': commerce.product_weeks lacks the column 'margin'; build the mart with it" in failure(result)
    assert "STEP_RESTARTED" not in [event.event_type_value for event in result.all_events]


def test_the_mart_is_checked_against_the_declaration(built: Grocery) -> None:
    (said,) = built.judged("prices_statistics", "mart_as_declared")
    assert (said.passed, said.description) == (True, "as declared")
    built.catalogue = Catalogue((replace(PRICES, features=(Feature("shelf", "BIGINT", "Shelf."),)),))
    (said,) = built.judged("prices_statistics", "mart_as_declared")
    assert not said.passed
    assert "view 'prices': column 'shelf' of commerce.product_weeks is VARCHAR" in (said.description or "")


def test_skew_beyond_its_bound_fails_the_check_with_cause_and_advice(built: Grocery) -> None:
    assert all(said.passed for said in built.judged("feature_skew", "within_bound"))
    built.store.rows().delete(served_view(PRICES).stored_as)
    assert built.build("feature_skew", WEEKS[-1]).success
    *before, last = built.judged("feature_skew", "within_bound")
    assert all(said.passed for said in before)
    assert (last.partition, last.passed) == (WEEKS[-1], False)
    assert "4 of 4 features" not in (last.description or "")
    assert "3 of 4 features differ, most prices:" in (last.description or "")
    assert "missing row: 19" in (last.description or "")
    assert "materialize the view's newest partition again" in (last.description or "")


def test_a_view_that_is_known_when_its_week_begins_is_served_and_compared_as_of_then(grocery: Grocery) -> None:
    ahead = replace(PRICES, timestamp=StartOf("week"), ttl=timedelta(weeks=1))
    grocery.catalogue = Catalogue((ahead,))
    for name in ("product_weeks", *ASSETS):
        assert grocery.build(name).success, name
    begins = ahead.known_at(WEEKS[-1])
    reader = OnlineReader(grocery.store.rows(), [served_view(ahead)], now=begins.timestamp)
    products = [row[0] for row in grocery.rows[WEEKS[-1]]]
    answer = reader.read(["prices:units_sold"], {"product_id": products})
    assert list(answer.columns["units_sold"]) == [row[2] for row in grocery.rows[WEEKS[-1]]]
    assert set(next(iter(answer.event_times().values()))) == {begins}
    summary = grocery.table("prices_online")
    assert [one["known_at"] for one in summary] == [ahead.known_at(week) for week in WEEKS]
    assert [one["newest_keys"] for one in summary] == [len(grocery.rows[week]) for week in WEEKS]
    found = grocery.table("feature_skew")
    assert {one["as_of"] for one in found if one["partition_key"] == WEEKS[-1]} == {begins}
    assert sum(one["compared"] for one in found) > 0  # type: ignore[misc]
    assert all(one["skewed"] == 0 for one in found)
    assert all(said.passed for said in grocery.judged("feature_skew", "within_bound"))


def test_views_known_when_a_week_begins_and_when_it_ends_are_compared_at_one_instant(grocery: Grocery) -> None:
    grocery.catalogue = Catalogue((replace(PRICES, name="plans", timestamp=StartOf("week")), PRICES))
    assert grocery.build("product_weeks").success
    past, begun = WEEKS[:-1], WEEKS[-1]
    assert grocery.build("prices_online", *past).success
    assert grocery.build("plans_online", *past).success
    # The store is at the beginning of the week before the instant of the comparison: nothing is to be made of that.
    assert f"commerce/plans_online@{begun} is late" in failure(grocery.build("feature_skew", past[-1]))
    assert grocery.build("plans_online", begun).success
    assert grocery.build("feature_skew", past[-1]).success
    found = grocery.table("feature_skew")
    assert {(one["view"], one["as_of"], one["compared"] == one["sampled"], one["skewed"]) for one in found} == {
        ("plans", PRICES.known_at(past[-1]), True, 0),
        ("prices", PRICES.known_at(past[-1]), True, 0),
    }


def test_before_a_view_begins_skew_needs_nothing_of_it(grocery: Grocery) -> None:
    later = replace(PRICES, name="later_prices", partitions=weeks_from(WEEKS[3]))
    grocery.catalogue = Catalogue((later, PRICES))
    for name in ("product_weeks", "prices_online"):
        assert grocery.build(name).success
    assert grocery.build("feature_skew", *WEEKS[:3]).success
    assert {(one["view"], one["partition_key"]) for one in grocery.table("feature_skew")} == {
        ("prices", week) for week in WEEKS[:3]
    }


def test_a_view_that_is_not_served_has_statistics_only() -> None:
    found, _ = assets.feature_assets(Catalogue((replace(PRICES, online=False),)))
    assert [one.key for one in found] == [assets.statistics_key(PRICES)]
