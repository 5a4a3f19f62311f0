"""A step's passage through the gate: refused before anything is changed, and its failures are remembered."""

import time
from collections.abc import Mapping

import dagster as dg
import pytest

from platform_assets.automation import CUT_OFF, VERIFIED
from platform_assets.partition_checker.checker import PLAN
from platform_assets.partition_checker.states import State
from resources.ledger import Recovery
from tests.platform_assets.partition_checker.shop import DAYS, Shop, key_of

DAY, NEXT = DAYS[3], DAYS[4]


def failure(run: dg.ExecuteInProcessResult) -> str:
    """Why the one step that failed did."""
    (event,) = [event for event in run.all_events if event.is_step_failure]
    assert event.step_failure_data.error
    return event.step_failure_data.error.message


def verdicts(shop: Shop, name: str) -> dict[str | None, tuple[bool, str | None]]:
    """The latest verdict of the check `verified` by partition: passed, and why not."""
    history = shop.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(key_of(name), VERIFIED), limit=100
    )
    return {
        record.partition: (record.evaluation.passed, record.evaluation.description)
        for record in reversed(history)
        if record.evaluation
    }


def lose(shop: Shop) -> str:
    file = shop.file("evens", DAY)
    file.unlink()
    return str(file)


def test_a_step_that_needs_a_lost_pair_is_refused_before_anything_is_changed(built: Shop) -> None:
    file, snapshot, receipts = lose(built), built.warehouse.snapshot(), built.ids()
    run = built.build("sums", first=DAY, last=NEXT)
    said = failure(run)
    assert "refused to build shop/sums: 1 of the upstream pairs needed is not verified. Nothing was changed." in said
    assert f"shop/evens@{DAY} is lost: its file {file} is gone" in said
    assert f"headwater explain shop/evens@{DAY}" in said
    assert (built.computed, built.warehouse.snapshot(), built.ids()) == ([], snapshot, receipts)
    assert built.ledger.attempts() == []


def test_a_refusal_is_shown_on_the_asset_that_lost_the_pair(built: Shop) -> None:
    file = lose(built)
    built.build("sums", first=DAY)
    assert verdicts(built, "evens") == {DAY: (False, f"lost: its file {file} is gone")}
    assert verdicts(built, "sums") == {}
    built.build("sums", first=DAY)
    history = built.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(key_of("evens"), VERIFIED), limit=100
    )
    assert len(history) == 1, "the same verdict was reported again"


def test_a_refusal_for_what_was_never_built_fails_no_check(shop: Shop) -> None:
    assert "is late: it was expected by now and was never built" in failure(shop.build("evens", first=DAY))
    assert verdicts(shop, "sales") == {}
    assert shop.warehouse.tables() == []


@pytest.mark.parametrize("reader", ["sums", "weeks"])
def test_the_gate_looks_at_other_locations_and_calendars_too(built: Shop, reader: str) -> None:
    upstream = {"sums": "evens", "weeks": "sums"}[reader]
    built.file(upstream, DAY).unlink()
    said = failure(built.build(reader, first=DAYS[0], last=DAYS[7]))
    assert f"shop/{upstream}@{DAY} is lost" in said


def test_pairs_that_the_same_step_builds_first_are_not_asked_for(built: Shop) -> None:
    lose(built)
    assert built.build("evens", "sums", first=DAY).success
    assert built.wrong() == {}


def test_what_the_step_does_not_need_does_not_matter(built: Shop) -> None:
    lose(built)
    assert built.build("sums", first=DAYS[0], last=DAYS[2]).success
    assert built.build("sums", first=DAYS[5]).success


def test_an_outdated_pair_is_not_built_upon(built: Shop) -> None:
    built.sales[DAY].append(8)
    assert built.build("sales", first=DAY).success
    assert f"shop/evens@{DAY} is outdated: an input has changed" in failure(built.build("sums", first=DAY))


def test_a_failed_step_leaves_its_error_on_the_pairs_it_did_not_record(built: Shop) -> None:
    built.sql["sums"] = "select nothing from nowhere where partition_key in {keys}"
    run = built.build("evens", "sums", first=DAY, last=NEXT)
    tried = built.ledger.attempts()
    assert {(one.asset, one.partition, one.run_id) for one in tried} == {
        ("shop/sums", day, run.run_id) for day in (DAY, NEXT)
    }
    assert all("nowhere" in one.error and "\n" not in one.error for one in tried)
    assert built.receipts("evens")[DAY].run_id == run.run_id
    assert built.wrong() == {f"sums@{DAY}": "failed", f"sums@{NEXT}": "failed"}


def test_a_failed_pair_is_computed_again_and_then_its_failure_is_over(built: Shop) -> None:
    working = built.sql["sums"]
    built.sql["sums"] = "select nothing from nowhere where partition_key in {keys}"
    assert not built.build("sums", first=DAY).success
    built.sql["sums"] = working
    assert built.build("sums", first=DAY, last=NEXT, tags={CUT_OFF: "true"}).success
    assert built.computed == [f"sums@{DAY}"]
    assert built.ledger.attempts() == []


def recover(shop: Shop, plan: Mapping[str, list[str]], roots: Mapping[str, list[str]]) -> dict[str, str]:
    """Note a launched plan; returns the tags of its runs."""
    pairs, computed = ({f"shop/{name}": keys for name, keys in some.items()} for some in (plan, roots))
    with shop.ledger.launching() as launches:
        launches.add(Recovery("plan-1", time.time(), pairs, computed), "backfill-1")
    return {PLAN: "plan-1", CUT_OFF: "true"}


def test_the_roots_of_a_plan_are_computed_whatever_they_read_and_the_rest_if_it_has_changed(built: Shop) -> None:
    days = {"evens": [DAY, NEXT], "sums": [DAY, NEXT]}
    tags = recover(built, days, roots={"evens": [DAY]})
    assert built.build("evens", "sums", first=DAY, last=NEXT, tags=tags).success
    assert built.computed == [f"evens@{DAY}"]


def test_a_run_of_a_plan_that_is_repeated_computes_nothing_twice(built: Shop) -> None:
    tags = recover(built, {"evens": [DAY, NEXT]}, roots={"evens": [DAY, NEXT]})
    assert built.build("evens", first=DAY, tags=tags).success
    assert built.build("evens", first=DAY, last=NEXT, tags=tags).success
    assert built.computed == [f"evens@{NEXT}"]


def test_a_plan_that_nobody_launched_forces_nothing(built: Shop) -> None:
    assert built.build("evens", first=DAY, tags={PLAN: "unheard-of", CUT_OFF: "true"}).success
    assert built.computed == []


def test_a_reader_that_goes_on_is_built_without_the_late_pair_and_outdated_once_that_is_there(shop: Shop) -> None:
    shop.declare("sums", when_late={"shop/evens": "go_on"})
    assert shop.build("sales", "evens", first=DAY).success
    assert shop.build("sums", first=DAY).success
    read = shop.receipts("sums")[DAY].inputs
    assert [(one.asset, one.partition) for one in read] == [("shop/evens", DAY)]
    assert shop.pair("sums", DAY).state is State.VERIFIED
    assert shop.build("sales", "evens", first=DAYS[2]).success
    assert shop.pair("sums", DAY).state is State.OUTDATED
