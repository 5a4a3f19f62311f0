"""Every state of a pair, and which of several is named."""

from dataclasses import replace

import pytest

from platform_assets.partition_checker.requirements import Requirement
from platform_assets.partition_checker.states import Facts, State, Stored, inputs_of, judge, presence
from resources.ledger import Standing, contents_digest

DAYS = ("d1", "d2")
RAW = Facts(
    "shop/raw",
    DAYS,
    standings={day: Standing(f"id-{day}", f"content-{day}", "r1", "", 5, 0.0) for day in DAYS},
    stored={day: Stored(5) for day in DAYS},
)


def standing(day: str, rows: int = 3, code: str = "v1") -> Standing:
    return Standing(f"m-{day}", "c", code, contents_digest([("shop/raw", day, f"content-{day}")]), rows, 0.0)


MART = Facts(
    "shop/mart",
    DAYS,
    standings={day: standing(day) for day in DAYS},
    stored={day: Stored(3) for day in DAYS},
    requirements={"shop/raw": Requirement.of([[0], [1]], 2)},
    code_version="v1",
)


def states(facts: Facts, raw: Facts = RAW) -> dict[str, State]:
    return {pair.partition: pair.state for pair in judge(facts, {"shop/raw": raw})}


def test_a_recorded_pair_that_is_stored_as_recorded_is_verified() -> None:
    assert states(MART) == {"d1": State.VERIFIED, "d2": State.VERIFIED}
    assert list(inputs_of(MART, {"shop/raw": RAW}, 1)) == [("shop/raw", "d2")]


@pytest.mark.parametrize(
    ("stored", "state", "reason"),
    [
        (None, State.LOST, "storage has nothing of it"),
        (Stored(3, gone="part-1.parquet is gone"), State.LOST, "part-1.parquet is gone"),
        (Stored(3, damage="part-1.parquet has 12 bytes of 90"), State.SHORT, "12 bytes of 90"),
        (Stored(2), State.SHORT, "its receipt says 3 rows, storage has 2"),
    ],
)
def test_what_storage_does_not_hold_as_recorded_is_lost_or_short(
    stored: Stored | None, state: State, reason: str
) -> None:
    there = {"d2": Stored(3)} | ({} if stored is None else {"d1": stored})
    found = next(judge(replace(MART, stored=there), {"shop/raw": RAW}, ["d1"]))
    assert found.state == state
    assert reason in found.reason


def test_a_pair_without_a_receipt_is_missing_late_failed_or_unrecorded() -> None:
    bare = replace(MART, standings={}, stored={})
    assert states(bare)["d1"] == State.MISSING
    assert states(replace(bare, due={"d1"})) == {"d1": State.LATE, "d2": State.MISSING}
    assert states(replace(bare, due={"d1"}, failed={"d1": "run-1"}))["d1"] == State.FAILED
    assert states(replace(bare, failed={"d1": "run-1"}, stored={"d1": Stored(3)}))["d1"] == State.UNRECORDED


def test_no_rows_are_no_loss_unless_the_asset_declares_that_it_has_some() -> None:
    nothing = replace(MART, standings={"d1": standing("d1", rows=0)}, stored={})
    assert presence(nothing, "d1").state == State.VERIFIED
    assert presence(replace(nothing, may_be_empty=False), "d1").state == State.EMPTY
    assert presence(replace(nothing, stored={"d1": Stored(2)}), "d1").state == State.SHORT


def test_a_pair_is_outdated_when_its_code_or_the_content_of_an_input_changed() -> None:
    assert states(replace(MART, code_version="v2")) == {"d1": State.OUTDATED, "d2": State.OUTDATED}
    corrected = {**RAW.standings, "d2": replace(RAW.standings["d2"], content="corrected")}
    assert states(MART, replace(RAW, standings=corrected)) == {"d1": State.VERIFIED, "d2": State.OUTDATED}
    forgotten = {"d1": RAW.standings["d1"]}
    assert states(MART, replace(RAW, standings=forgotten))["d2"] == State.OUTDATED


def test_an_input_that_was_rebuilt_with_equal_content_outdates_nothing() -> None:
    rebuilt = {day: replace(RAW.standings[day], id="another", code_version="r2") for day in DAYS}
    assert set(states(MART, replace(RAW, standings=rebuilt)).values()) == {State.VERIFIED}


def test_a_failed_rebuild_is_named_before_what_is_outdated_and_after_what_is_lost() -> None:
    failed = replace(MART, failed={"d1": "run-9"}, code_version="v2")
    assert states(failed)["d1"] == State.FAILED
    assert states(replace(failed, stored={}))["d1"] == State.LOST


def test_a_delivery_is_there_late_or_missing() -> None:
    upstream = Facts("shop/upstream", DAYS, delivered={"d1": "5-90-ab"}, due={"d2"})
    assert [presence(upstream, day).state for day in DAYS] == [State.VERIFIED, State.LATE]
    assert upstream.content("d1") == "5-90-ab"
