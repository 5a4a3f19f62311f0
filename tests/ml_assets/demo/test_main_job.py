"""Which days a demo delivers and what can be built of them; and that it gives up only on what does not move."""

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from io import StringIO

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ml_assets.demo import main_job as demo
from ml_assets.demo.extent import FULL, PLANS, SHORT, Extent, ExtentError, Selection
from ml_assets.demo.main_job import DemoError, Pairs
from ml_assets.demo.milestones import MILESTONES, reached
from platform_assets.asset_graph.declared import declared_graph
from platform_assets.feed.delivery import select
from platform_assets.instance.client import Client
from platform_assets.patience import Patience
from platform_assets.progress import PlainProgress
from platform_assets.sources.catalogue import SOURCES
from resources.environment import Environment

Buildable = Callable[[Mapping[str, set[str]]], dict[dg.AssetKey, set[str]]]
FOLDS = dg.AssetKey(["commerce", "product_demand_candidate"])


def together(*parts: Selection) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for part in parts:
        for name, keys in part.items():
            found.setdefault(name, set()).update(keys)
    return found


def all_of(extent: Extent) -> dict[str, set[str]]:
    return together(extent.history(0))


@pytest.fixture(scope="module")
def buildable(locations: Mapping[str, dg.Definitions]) -> Buildable:
    graph = declared_graph(locations)
    upstream = {source.name: source for source in SOURCES}

    def of(delivered: Mapping[str, set[str]]) -> dict[dg.AssetKey, set[str]]:
        arrived = {
            upstream[name].upstream_key: keys if upstream[name].partitions else {""} for name, keys in delivered.items()
        }
        found = graph.buildable(arrived)
        return {node.key: found[node.key] for node in graph.built}

    return of


@pytest.mark.parametrize("extent", [SHORT, FULL])
@pytest.mark.parametrize("new_days", [0, 1, 3, 6])
def test_history_and_new_days_are_the_whole_extent_however_many_days_are_new(extent: Extent, new_days: int) -> None:
    days = [extent.day(back) for back in reversed(range(new_days))]
    assert together(extent.history(new_days), *days) == all_of(extent)
    for number, day in enumerate(days):
        before = together(extent.history(new_days), *days[:number])
        assert not before["commerce.transactions"] & set(day.get("commerce.transactions", ()))
        assert len(set(day["webtoon.reads"]) - before["webtoon.reads"]) == 24


def test_the_full_extent_is_all_that_there_is_and_holds_the_short_one() -> None:
    full, short = all_of(FULL), all_of(SHORT)
    assert full == together(select())
    assert all(keys <= full[name] for name, keys in short.items())


def test_what_is_planned_for_a_week_arrives_the_day_before_it_and_no_earlier() -> None:
    assert "2017-07-10" not in SHORT.history(1)[PLANS]
    assert SHORT.day(0)[PLANS] == ("2017-07-10",)


def test_more_new_days_than_there_are_leave_no_history() -> None:
    with pytest.raises(ExtentError, match="7 new days leave no history: at most 6"):
        SHORT.history(7)


def test_half_a_year_shows_every_part_of_the_path(buildable: Buildable) -> None:
    found = buildable(all_of(SHORT))
    assert [key.to_user_string() for key, keys in found.items() if not keys] == ["commerce/demand_backtest_summary"]
    assert found[FOLDS] == {"2017-07-03", "2017-07-10"}
    by_day = buildable(together(SHORT.history(1)))
    assert by_day[FOLDS] == {"2017-07-03"}, "the other one comes with the new day"
    assert all(found[one.key] for one in MILESTONES)
    assert buildable(all_of(FULL))[FOLDS] > found[FOLDS]


@pytest.mark.parametrize("weeks_later", range(0, 40, 3))
def test_no_quarter_of_the_year_holds_a_fold(weeks_later: int, buildable: Buildable) -> None:
    first = date(2016, 12, 26) + timedelta(weeks=weeks_later)
    quarter = Extent({"commerce": (first, first + timedelta(weeks=13))}, new_days=0)
    assert not buildable(all_of(quarter))[FOLDS]


def test_a_week_less_shows_less(buildable: Buildable) -> None:
    first, last = SHORT.days["commerce"]
    less = Extent({"commerce": (first, last - timedelta(weeks=1))}, new_days=0)
    found = buildable(all_of(less))
    assert found[FOLDS] == {"2017-07-03"}
    assert not found[dg.AssetKey(["commerce", "demand_backtest"])]


def test_a_milestone_is_told_when_the_last_of_its_pairs_comes_and_once() -> None:
    key = MILESTONES[0].key
    assert list(reached({key: {"a", "b"}}, {key: {"b"}})) == []
    assert list(reached({key: {"b"}}, {key: set()})) == [MILESTONES[0]]
    assert list(reached({key: set()}, {key: set()})) == []
    assert "Assets > commerce > raw_transactions" in str(MILESTONES[0])


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=40))
def test_patience_ends_only_without_movement(looks: list[tuple[float, bool]]) -> None:
    clock = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("platform_assets.patience.time.monotonic", lambda: clock[0])
        patience, state, since = Patience(10), 0, 0.0
        patience.still(state)
        for seconds, moves in looks:
            clock[0] += seconds
            if moves:
                state, since = state + 1, clock[0]
            assert patience.over(state) == (clock[0] - since > 10)


def test_a_demo_that_does_not_move_ends_and_says_what_for(
    shared_environment: Environment, locations: Mapping[str, dg.Definitions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_HOME", str(shared_environment.home))
    monkeypatch.setattr(demo, "STUCK_SECONDS", 0.5)
    monkeypatch.setattr(demo, "_LOOK_SECONDS", 0.05)
    shown = PlainProgress(Console(file=StringIO()))
    with dg.DagsterInstance.ephemeral() as instance:
        for key in (["commerce", "upstream_households"], ["platform", "unhealthy_pairs"]):
            delivered = dg.AssetMaterialization(key, tags={"dagster/data_version": "1"})
            instance.report_runless_asset_event(delivered)
        pairs = Pairs(instance, declared_graph(locations))
        work = demo._Work(shared_environment, Client("http://127.0.0.1:9"), pairs, shown)
        with pytest.raises(DemoError) as stuck:
            work.until_built()
    said = str(stuck.value)
    assert said.startswith(
        "nothing has moved for 0.5 s while waiting for automation to build commerce/raw_households is "
    )
    assert said.endswith("; and 1 more pairs")
