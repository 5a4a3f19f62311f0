"""Every state of a pair, and which of several is named."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platform_assets.asset_graph.requirements import Requirement
from platform_assets.partition_checker.states import (
    Damage,
    Facts,
    PairState,
    State,
    inputs_changed,
    inputs_of,
    judge,
    presence,
)
from resources.ledger import Input
from tests.platform_assets.partition_checker.columns import NOTHING, Known, facts_of

DAYS = ("d1", "d2")
RAW = {day: Known(f"content-{day}", rows=5, stored=5) for day in DAYS}
MART = {day: Known("c", read=(("shop/raw", day, f"content-{day}"),)) for day in DAYS}
NEEDS = {"shop/raw": Requirement.of([[0], [1]], 2)}
GONE = Damage(State.LOST, "its file part-1.parquet is gone", ("part-1.parquet",))
CUT = Damage(State.SHORT, "its file part-1.parquet has 12 bytes of 90", ("part-1.parquet",))


def pairs(mart: Mapping[str, Known], raw: Mapping[str, Known] = RAW, **declared: bool) -> dict[str, PairState]:
    facts = facts_of("shop/mart", mart, **declared)
    judged = judge(facts, {"shop/raw": facts_of("shop/raw", raw)}, NEEDS)
    return {pair.partition: pair for pair in judged.pairs()}


def states(mart: Mapping[str, Known], raw: Mapping[str, Known] = RAW, **declared: bool) -> dict[str, State]:
    return {key: pair.state for key, pair in pairs(mart, raw, **declared).items()}


def first(known: Known, **declared: bool) -> PairState:
    """The first pair of the mart, when this is known of it."""
    return pairs({**MART, "d1": known}, **declared)["d1"]


def day(**known: object) -> Known:
    return replace(MART["d1"], **known)  # type: ignore[arg-type]


def test_a_recorded_pair_that_is_stored_as_recorded_is_verified() -> None:
    assert states(MART) == {"d1": State.VERIFIED, "d2": State.VERIFIED}
    assert first(day()) == PairState("shop/mart", "d1", State.VERIFIED, 3, "")


def test_the_inputs_of_a_pair_are_the_recorded_ones_that_it_requires() -> None:
    facts = {"shop/mart": facts_of("shop/mart", MART), "shop/raw": facts_of("shop/raw", {**RAW, "d1": NOTHING})}
    assert inputs_of(facts, NEEDS, "shop/mart", "d2") == (Input("shop/raw", "d2", "id of content-d2", "content-d2"),)
    assert inputs_of(facts, NEEDS, "shop/mart", "d1") == ()


@pytest.mark.parametrize(
    ("known", "state", "reason"),
    [
        (day(stored=None), State.LOST, "recorded, but storage has nothing of it"),
        (day(damage=GONE), State.LOST, "its file part-1.parquet is gone"),
        (day(stored=None, damage=GONE), State.LOST, "its file part-1.parquet is gone"),
        (day(damage=CUT), State.SHORT, "its file part-1.parquet has 12 bytes of 90"),
        (day(stored=2), State.SHORT, "its receipt says 3 rows, storage has 2"),
        (day(rows=4_000, stored=3_999), State.SHORT, "its receipt says 4,000 rows, storage has 3,999"),
    ],
)
def test_what_storage_does_not_hold_as_recorded_is_lost_or_short(known: Known, state: State, reason: str) -> None:
    found = first(known)
    assert (found.state, found.reason) == (state, reason)


def test_a_pair_without_a_receipt_is_missing_late_failed_or_unrecorded() -> None:
    assert first(NOTHING) == PairState("shop/mart", "d1", State.MISSING, None, "it was never built")
    assert first(replace(NOTHING, due=True)).state == State.LATE
    assert states({"d1": replace(NOTHING, due=True), "d2": NOTHING}) == {"d1": State.LATE, "d2": State.MISSING}
    failed = replace(NOTHING, due=True, failed="run 1 failed: boom")
    assert (first(failed).state, first(failed).reason) == (State.FAILED, "run 1 failed: boom")
    stored = replace(failed, stored=3)
    assert (first(stored).state, first(stored).rows) == (State.UNRECORDED, 3)
    said = "it is in storage, and no receipt says how it came there"
    assert first(stored).reason == f"{said}; run 1 failed: boom"
    assert first(replace(stored, failed=None)).reason == said
    assert first(replace(stored, damage=GONE)).state == State.FAILED


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (day(rewritten="run-9 (snapshot 12)"), "storage was written to after its receipt, by run-9 (snapshot 12)"),
        (day(forged=True), "its receipt was changed by hand after it was written, so nothing vouches for it"),
        (day(forged=True, stored=None), "its receipt was changed by hand after it was written"),
        (day(forged=True, damage=GONE), "its receipt was changed by hand after it was written"),
    ],
)
def test_a_pair_that_its_receipt_does_not_vouch_for_is_unrecorded(known: Known, reason: str) -> None:
    assert first(known).state == State.UNRECORDED
    assert reason in first(known).reason


def test_a_rewritten_pair_with_other_rows_is_short_before_it_is_unrecorded() -> None:
    assert first(day(rewritten="run-9", stored=2)).state == State.SHORT


def test_no_rows_are_no_loss_unless_the_asset_declares_that_it_has_some() -> None:
    nothing = day(rows=0, stored=None)
    assert first(nothing).state == State.VERIFIED
    assert first(nothing, may_be_empty=False).state == State.EMPTY
    assert first(day(rows=0, stored=0), may_be_empty=False).state == State.EMPTY
    assert first(day(rows=0, stored=2)).state == State.SHORT
    assert first(day(), may_be_empty=False).state == State.VERIFIED


def test_where_no_rows_are_counted_presence_is_enough() -> None:
    kept = day(rows=None, stored=None, is_stored=True)
    assert first(kept, counts=False) == PairState("shop/mart", "d1", State.VERIFIED, None, "")
    assert first(replace(kept, is_stored=False), counts=False).state == State.LOST
    assert first(kept, counts=False, may_be_empty=False).state == State.VERIFIED


def test_a_pair_is_outdated_when_its_code_or_the_content_of_an_input_changed() -> None:
    older = {key: replace(known, same_code=False) for key, known in MART.items()}
    assert states(older) == {"d1": State.OUTDATED, "d2": State.OUTDATED}
    assert pairs(older)["d1"].reason == "its code has changed since it was built"
    corrected = pairs(MART, {**RAW, "d2": Known("corrected")})
    assert {key: pair.state for key, pair in corrected.items()} == {"d1": State.VERIFIED, "d2": State.OUTDATED}
    assert corrected["d2"].reason == "an input has changed since it was built"
    assert states(MART, {**RAW, "d2": NOTHING})["d2"] == State.OUTDATED


def test_a_pair_is_outdated_when_it_reads_more_or_fewer_inputs_than_its_receipt_names() -> None:
    assert first(day(read=())).state == State.OUTDATED
    more = (*MART["d1"].read, ("shop/raw", "d2", "content-d2"))
    assert first(day(read=more)).state == State.OUTDATED


def test_an_input_that_was_rebuilt_with_equal_content_outdates_nothing() -> None:
    rebuilt = {key: replace(known, rows=5, recorded_at=9.0) for key, known in RAW.items()}
    assert set(states(MART, rebuilt).values()) == {State.VERIFIED}


def test_an_immutable_pair_is_never_outdated_but_can_be_lost() -> None:
    immutable = day(immutable=True, same_code=False, read=())
    assert first(immutable).state == State.VERIFIED
    assert first(replace(immutable, stored=None)).state == State.LOST
    assert first(replace(immutable, failed="run 9 failed: boom")).state == State.FAILED


def test_a_failed_rebuild_is_named_before_what_is_outdated_and_after_what_is_lost() -> None:
    failed = day(failed="run 9 failed: boom", same_code=False)
    assert first(failed).state == State.FAILED
    assert first(failed).reason == "run 9 failed: boom; what is stored is from before"
    assert first(replace(failed, stored=None)).state == State.LOST
    assert first(replace(failed, rewritten="run-9")).state == State.UNRECORDED


def test_a_delivery_is_there_late_or_missing() -> None:
    upstream = facts_of(
        "shop/upstream",
        {"d1": Known("5-90-ab", stored=None), "d2": replace(NOTHING, due=True), "d3": NOTHING},
        is_delivered=True,
    )
    found = list(judge(upstream, {}, {}).pairs())
    assert [pair.state for pair in found] == [State.VERIFIED, State.LATE, State.MISSING]
    assert [pair.reason for pair in found] == ["", *["its upstream system has not delivered it"] * 2]
    assert upstream.contents[0] == "5-90-ab"


def test_a_delivery_that_the_event_log_has_lost_outdates_nobody() -> None:
    facts = facts_of("shop/raw", {"d1": Known("c", read=(("shop/up", "d1", "v1"),)), "d2": Known("c")})
    needs = {"shop/up": Requirement.of([[0], [1]], 2)}
    upstream = facts_of("shop/up", {"d1": NOTHING, "d2": Known("v2", stored=None)}, is_delivered=True)
    assert inputs_changed(facts, {"shop/up": upstream}, needs).tolist() == [False, True]


@dataclass(frozen=True)
class Case:
    """An asset, what it requires of up to three others, and all of them pair by pair."""

    pairs: dict[str, Known]
    upstream: dict[str, dict[str, Known]]
    delivered: frozenset[str]
    needs: dict[str, list[set[int]]]
    may_be_empty: bool
    counts: bool

    def facts(self) -> Facts:
        return facts_of("team/asset", self.pairs, may_be_empty=self.may_be_empty, counts=self.counts)

    def upstream_facts(self) -> dict[str, Facts]:
        return {
            name: facts_of(name, known, is_delivered=name in self.delivered) for name, known in self.upstream.items()
        }

    def requirements(self) -> dict[str, Requirement]:
        return {name: Requirement.of(rows, len(self.upstream[name])) for name, rows in self.needs.items()}


CONTENTS = st.sampled_from([None, "a", "b"])
DAMAGES = st.sampled_from([None, None, None, GONE, CUT])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    upstream: dict[str, dict[str, Known]] = {}
    needs: dict[str, list[set[int]]] = {}
    count = draw(st.integers(1, 5))
    for number in range(draw(st.integers(0, 3))):
        name = f"team/upstream_{number}"
        upstream[name] = {f"u{at}": Known(draw(CONTENTS)) for at in range(draw(st.integers(0, 4)))}
        needed = st.sets(st.integers(0, len(upstream[name]) - 1)) if upstream[name] else st.just(set())
        needs[name] = [draw(needed) for _ in range(count)]
    pairs: dict[str, Known] = {}
    for at in range(count):
        now = [
            (name, key, known.content)
            for name, rows in needs.items()
            for number, (key, known) in enumerate(upstream[name].items())
            if number in rows[at] and known.content is not None
        ]
        read = draw(st.sampled_from([now, now, now[1:], [(asset, key, "a") for asset, key, _ in now]]))
        pairs[f"p{at}"] = Known(
            content=draw(st.sampled_from([None, "c", "c", "c"])),
            read=tuple(draw(st.permutations(read))),
            rows=draw(st.sampled_from([0, 3, 3, 3])),
            stored=draw(st.sampled_from([None, 0, 3, 3, 3])),
            same_code=draw(st.integers(0, 3)) > 0,
            forged=draw(st.integers(0, 5)) == 0,
            rewritten=draw(st.sampled_from([None, None, None, "run-9"])),
            damage=draw(DAMAGES),
            failed=draw(st.sampled_from([None, None, None, "boom"])),
            due=draw(st.booleans()),
            immutable=draw(st.integers(0, 3)) == 0,
        )
    delivered = frozenset(draw(st.sets(st.sampled_from(sorted(upstream))))) if upstream else frozenset()
    return Case(pairs, upstream, delivered, needs, draw(st.booleans()), draw(st.booleans()))


def has_changed_inputs(case: Case, at: int, known: Known) -> bool:
    now = []
    for name, rows in case.needs.items():
        for number, (key, read) in enumerate(case.upstream[name].items()):
            if number not in rows[at]:
                continue
            if read.content is None and name in case.delivered:
                return False
            if read.content is not None:
                now.append((name, key, read.content))
    return known.recorded and sorted(now) != sorted(known.read)


def expected(case: Case, known: Known, has_changed: bool) -> State:
    """The state of one pair, in words one after the other."""
    is_gone = known.damage is not None and known.damage.state is State.LOST
    if not known.recorded:
        if known.stored is not None and not is_gone:
            return State.UNRECORDED
        if known.failed:
            return State.FAILED
        return State.LATE if known.due else State.MISSING
    if known.forged:
        return State.UNRECORDED
    if is_gone or (known.stored is None and known.rows != 0):
        return State.LOST
    if known.damage or (case.counts and known.stored is not None and known.stored != known.rows):
        return State.SHORT
    if known.rewritten:
        return State.UNRECORDED
    if known.rows == 0 and not case.may_be_empty:
        return State.EMPTY
    if known.failed:
        return State.FAILED
    if not known.immutable and (has_changed or not known.same_code):
        return State.OUTDATED
    return State.VERIFIED


@settings(max_examples=300, deadline=None)
@given(cases())
def test_all_pairs_at_once_are_judged_as_one_by_one(case: Case) -> None:
    facts, upstream, needs = case.facts(), case.upstream_facts(), case.requirements()
    changed = [has_changed_inputs(case, at, known) for at, known in enumerate(case.pairs.values())]
    assert inputs_changed(facts, upstream, needs).tolist() == changed
    judged = judge(facts, upstream, needs)
    found = {pair.partition: pair for pair in judged.pairs()}
    for (key, known), has_changed in zip(case.pairs.items(), changed, strict=True):
        state = expected(case, known, has_changed)
        assert found[key].state == state, key
        assert bool(found[key].reason) is (state is not State.VERIFIED)
        stored_well = state in (State.VERIFIED, State.FAILED, State.OUTDATED) and known.recorded
        assert presence(facts).verified[facts.place[key]] == stored_well
    assert [pair.partition for pair in judged.pairs(~judged.verified)] == [
        key for key, pair in found.items() if pair.state is not State.VERIFIED
    ]


@settings(deadline=None)
@given(cases())
def test_the_inputs_of_a_pair_are_its_recorded_requirements_one_by_one(case: Case) -> None:
    facts = {"team/asset": case.facts(), **case.upstream_facts()}
    for at, key in enumerate(case.pairs):
        named = [
            (name, upstream, known.content)
            for name, rows in case.needs.items()
            for number, (upstream, known) in enumerate(case.upstream[name].items())
            if number in rows[at] and known.content is not None
        ]
        found = inputs_of(facts, case.requirements(), "team/asset", key)
        assert [(read.asset, read.partition, read.content) for read in found] == named


def test_of_a_lost_pair_no_rows_are_told() -> None:
    assert [first(day(stored=None)).rows, first(day(damage=GONE)).rows, first(day()).rows] == [None, None, 3]
