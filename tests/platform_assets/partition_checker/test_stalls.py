"""What could be built and is not is named with cause and remedy; what is being built or waits for something is not."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import pytest
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent
from dagster._core.storage.dagster_run import DagsterRunStatus
from hypothesis import given, settings
from hypothesis import strategies as st

from platform_assets.asset_graph.completeness import Completeness
from platform_assets.asset_graph.graph import Graph, Node
from platform_assets.asset_graph.requirements import Requirement
from platform_assets.partition_checker import activity as looking
from platform_assets.partition_checker.causes import Causes
from platform_assets.partition_checker.stalls import (
    PATIENCE_SECONDS,
    Activity,
    Attempt,
    Stall,
    _latest,
    stalls,
    waiting,
)
from platform_assets.partition_checker.states import NONE, STATES, AssetStates, Facts, State
from tests.platform_assets.partition_checker.shop import DAYS, Shop, key_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO = NOW.timestamp() - 2 * PATIENCE_SECONDS
JUST_NOW = NOW.timestamp() - PATIENCE_SECONDS / 2


def node(name: str, count: int, *deps: str, location: str | None = "here", **declared: object) -> Node:
    keys = [f"{number:07}" for number in range(count)]
    return Node(
        dg.AssetKey(name.split("/")),
        location,
        dg.StaticPartitionsDefinition(keys),
        {dg.AssetKey(dep.split("/")): None for dep in deps},
        completeness=Completeness(**declared),  # type: ignore[arg-type]
    )


def judged(
    of: Node, states: Mapping[int, State] | None = None, at: float = LONG_AGO, same_code: bool = True
) -> AssetStates:
    """All pairs verified and recorded at that time, but for those that are said to be otherwise."""
    count = len(of.pairs)
    numbers = np.full(count, STATES.index(State.VERIFIED), np.int64)
    for place, state in (states or {}).items():
        numbers[place] = STATES.index(state)
    recorded = np.ones(count, np.bool_)
    facts = Facts(
        of.name, of.pairs, recorded, [""] * count, [""] * count, np.zeros((count, 2), np.int64),
        np.zeros((count, 2), np.int64), np.full(count, same_code), ~recorded, np.full(count, NONE), np.full(count, at),
        np.full(count, NONE), recorded, recorded, ~recorded, is_delivered=of.location is None,
    )  # fmt: skip
    return AssetStates(facts, numbers)


SOURCE, TABLE = node("shop/source", 4, location=None), node("shop/table", 4, "shop/source")
GRAPH = Graph.of([SOURCE, TABLE, node("shop/mart", 4, "shop/table"), node("shop/extra", 4, "shop/mart")])


def found(
    states: Mapping[str, Mapping[int, State]],
    activity: Activity | None = None,
    attempts: Mapping[str, Mapping[str, Attempt]] | None = None,
    at: float = LONG_AGO,
) -> list[Stall]:
    all_judged = {name: judged(one, states.get(name), at) for name, one in GRAPH.named.items()}
    delivered = {"shop/source": np.full(4, at)}
    going = activity or Activity()
    going = Activity(going.under_way, going.delivered_at or delivered, going.off)
    return list(stalls(GRAPH, all_judged, going, attempts or {}, NOW))


def only(*places: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    mask = np.zeros(4, np.bool_)
    mask[list(places)] = True
    return mask


def test_where_everything_is_built_nothing_stalls() -> None:
    assert found({}) == []


@pytest.mark.parametrize("state", [State.MISSING, State.LATE, State.OUTDATED])
def test_what_could_be_built_and_is_not_is_named_with_cause_and_remedy(state: State) -> None:
    (stall,) = found({"shop/table": {2: state}})
    assert str(stall) == (
        "shop/table@0000002 could be built and is not: no run was ever to build it: automation has not asked for it. "
        "To build it: headwater plan shop/table --unhealthy --partitions 0000002 -o plan.json, "
        "then headwater recover plan.json"
    )


@pytest.mark.parametrize("state", [State.FAILED, State.LOST, State.SHORT, State.UNRECORDED, State.EMPTY])
def test_what_is_named_by_its_own_state_is_not_named_twice(state: State) -> None:
    assert found({"shop/table": {2: state}}) == []


def test_only_the_first_of_a_chain_stalls_and_what_waits_behind_it_waits_for_a_named_pair() -> None:
    missing = {1: State.MISSING}
    stalled = found({"shop/table": missing, "shop/mart": missing, "shop/extra": missing})
    assert [stall.asset for stall in stalled] == ["shop/table"]


def test_what_waits_for_a_delivery_does_not_stall() -> None:
    assert found({"shop/source": {1: State.LATE}, "shop/table": {1: State.LATE}}) == []


def test_what_is_being_built_does_not_stall_however_long_it_takes() -> None:
    missing = {1: State.MISSING, 2: State.MISSING}
    (stall,) = found({"shop/table": missing}, Activity({"shop/table": only(1)}))
    assert stall.partition == "0000002"


def test_what_reads_what_is_built_anew_does_not_stall_however_far_behind_it_comes() -> None:
    missing = {1: State.MISSING, 2: State.MISSING}
    (stall,) = found({"shop/extra": missing}, Activity({"shop/table": only(1)}))
    assert (stall.asset, stall.partition) == ("shop/extra", "0000002")


def test_patience_counts_from_when_something_last_moved_for_that_pair() -> None:
    missing = {1: State.MISSING}
    assert found({"shop/table": missing}, at=JUST_NOW) == []
    fresh = np.array([LONG_AGO, JUST_NOW, LONG_AGO, LONG_AGO])
    assert found({"shop/table": missing}, Activity(delivered_at={"shop/source": fresh})) == []
    ended = {"shop/table": {"0000001": Attempt("run r was cancelled", JUST_NOW)}}
    assert found({"shop/table": missing}, attempts=ended) == []


def test_what_a_person_turned_off_or_cancelled_is_the_cause() -> None:
    missing = {1: State.MISSING}
    cancelled = {"shop/table": {"0000001": Attempt("run r, which was to build it, was cancelled", LONG_AGO)}}
    (stall,) = found({"shop/table": missing}, attempts=cancelled)
    assert stall.cause == "run r, which was to build it, was cancelled, and automation has not asked for it since"
    (stall,) = found({"shop/table": missing}, Activity(off={"here": "the sensor here_automation is turned off"}))
    assert stall.cause == "the sensor here_automation is turned off"
    assert stall.remedy.startswith("Turn it on in the web UI under Automation; or build the pair alone: headwater plan")


def test_what_waits_for_a_plan_because_its_code_changed_does_not_stall() -> None:
    all_judged = {name: judged(one) for name, one in GRAPH.named.items()}
    all_judged["shop/table"] = judged(TABLE, {1: State.OUTDATED}, same_code=False)
    assert waiting(GRAPH, all_judged, Activity(), NOW) == {}


def test_an_optional_or_late_upstream_explains_no_waiting() -> None:
    daily = dg.DailyPartitionsDefinition("2017-01-02", end_date="2017-01-04")
    for declared in ({"optional": ("shop/source",)}, {"when_late": {"shop/source": "go_on"}}):
        graph = Graph.of(
            [
                Node(dg.AssetKey(["shop", "source"]), None, daily, {}),
                Node(
                    dg.AssetKey(["shop", "table"]), "here", daily, {dg.AssetKey(["shop", "source"]): None},
                    completeness=Completeness(**declared),  # type: ignore[arg-type]
                ),
            ]
        )  # fmt: skip
        states = {name: judged(one, {0: State.LATE}) for name, one in graph.named.items()}
        states["shop/source"].facts.recorded[0] = states["shop/source"].facts.is_stored[0] = False
        assert {name: pairs.tolist() for name, pairs in waiting(graph, states, Activity(), NOW).items()} == {
            "shop/table": [True, False]
        }


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 9), min_size=1, max_size=6).flatmap(
        lambda values: st.tuples(
            st.just(values), st.lists(st.sets(st.integers(0, len(values) - 1)), min_size=1, max_size=6)
        )
    )
)
def test_the_latest_of_ranges_is_as_one_by_one(case: tuple[list[float], list[set[int]]]) -> None:
    values, rows = case
    latest = _latest(Requirement.of(rows, len(values)), np.array(values))
    assert latest.tolist() == [max((values[at] for at in row), default=0.0) for row in rows]


def _compared(count: int) -> float:
    """Seconds of CPU that it takes to find what stalls of eleven tables with `count` pairs each."""
    nodes = [node("shop/a0", count, location=None)]
    nodes += [node(f"shop/a{number}", count, f"shop/a{number - 1}") for number in range(1, 11)]
    graph = Graph.of(nodes)
    states = {one.name: judged(one, {7: State.MISSING}) for one in nodes}
    for one in nodes:
        graph.requirements(one)
    began = time.process_time()
    stalled = list(stalls(graph, states, Activity(delivered_at={"shop/a0": np.full(count, LONG_AGO)}), {}, NOW))
    assert [stall.asset for stall in stalled] == []
    states["shop/a0"] = judged(nodes[0])
    stalled = list(stalls(graph, states, Activity(delivered_at={"shop/a0": np.full(count, LONG_AGO)}), {}, NOW))
    assert [stall.asset for stall in stalled] == ["shop/a1"]
    return time.process_time() - began


def test_a_million_pairs_take_no_longer_each_than_ten_thousand() -> None:
    few, many = _compared(10_000), _compared(100_000)
    assert many < 2 * 10 * few


# On a real instance -----------------------------------------------------------------------------------------------


LATER = timedelta(seconds=2 * PATIENCE_SECONDS)


@pytest.fixture
def late(shop: Shop) -> Shop:
    """A shop with three days of sales and nothing built from the last of them, an hour ago."""
    assert shop.build("sales", "evens", first=DAYS[0], last=DAYS[1]).success
    assert shop.build("sales", first=DAYS[2]).success
    return shop


def stalled(shop: Shop, off: Mapping[str, str] | None = None) -> list[Stall]:
    """What stalls an hour from now, when nothing has happened since."""
    inspector, now = shop.inspector(), datetime.now(UTC) + LATER
    states = inspector.judged(dict.fromkeys(inspector.graph.named))
    going = looking.activity(shop.instance, shop.graph)
    going = Activity(going.under_way, going.delivered_at, off or going.off)
    tried = looking.attempts(shop.instance, shop.graph, waiting(shop.graph, states, going, now))
    return [one for one in stalls(shop.graph, states, going, tried, now) if one.asset == "shop/evens"]


def planned(shop: Shop, run_id: str, status: DagsterRunStatus) -> None:
    """A run that was created to build the third day of evens."""
    tags = {"dagster/partition": DAYS[2]}
    selection = frozenset({key_of("evens")})
    shop.instance.add_run(dg.DagsterRun("job", run_id=run_id, status=status, tags=tags, asset_selection=selection))
    event = DagsterEvent(
        dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value,
        job_name="job",
        event_specific_data=AssetMaterializationPlannedData(key_of("evens"), DAYS[2]),
        step_key="step",
    )
    shop.instance.report_dagster_event(event, run_id)


def test_a_pair_for_which_nobody_asked_is_found_on_a_real_instance(late: Shop) -> None:
    (stall,) = stalled(late)
    assert (stall.asset, stall.partition) == ("shop/evens", DAYS[2])
    assert stall.cause == "no run was ever to build it: automation has not asked for it"


def test_a_request_that_was_lost_names_its_run(late: Shop) -> None:
    planned(late, "gone", DagsterRunStatus.CANCELED)
    (stall,) = stalled(late)
    assert stall.cause.startswith("run gone, which was to build it, was cancelled")


def test_a_busy_slow_system_raises_no_alarm(late: Shop) -> None:
    planned(late, "slow", DagsterRunStatus.STARTED)
    assert stalled(late) == []


def test_explain_says_the_same_cause(late: Shop) -> None:
    planned(late, "gone", DagsterRunStatus.CANCELED)
    (link,) = Causes(late.inspector()).chain("shop/evens", DAYS[2])
    assert "though all that it needs is there: run gone, which was to build it, was cancelled" in link.words
    assert "headwater plan shop/evens --unhealthy" in link.words
