"""Words name exactly the pairs that people mean, and what names none is refused with what there is."""

import dagster as dg
import pytest

from platform_assets.asset_graph.graph import Graph, Node
from platform_assets.asset_graph.selections import (
    SelectionError,
    Span,
    assets_named,
    pair_named,
    pairs_named,
    runs_of_same,
)
from platform_assets.calendars import HOUR_FORMAT

DAYS = dg.DailyPartitionsDefinition("2017-03-01", end_date="2017-03-11")
WEEKS = dg.WeeklyPartitionsDefinition("2017-02-27", end_date="2017-03-13", day_offset=1)
HOURS = dg.HourlyPartitionsDefinition("2017-03-03-00:00", end_date="2017-03-05-00:00", fmt=HOUR_FORMAT)
REGIONS = dg.StaticPartitionsDefinition(["west", "east", "north"])
KEYS = DAYS.get_partition_keys()


def node(name: str, calendar: dg.PartitionsDefinition | None, *needs: str) -> Node:
    return Node(dg.AssetKey(name.split("/")), "here", calendar, {dg.AssetKey(need.split("/")): None for need in needs})


@pytest.fixture
def graph() -> Graph:
    return Graph.of(
        [
            node("shop/weeks", WEEKS, "shop/days"),
            node("shop/days", DAYS),
            node("shop/products", None),
            node("comics/hours", HOURS),
            node("comics/regions", REGIONS),
        ]
    )


def named(graph: Graph, *names: str) -> list[str]:
    return [found.name for found in assets_named(graph, names)]


def test_no_name_is_every_asset_and_a_team_is_all_of_its_assets(graph: Graph) -> None:
    assert set(named(graph)) == set(graph.named)
    assert set(named(graph, "shop")) == {"shop/days", "shop/weeks", "shop/products"}


def test_assets_come_once_and_in_the_order_of_the_graph(graph: Graph) -> None:
    assert named(graph, "shop/weeks", "shop", "shop/days") == [name for name in graph.named if name.startswith("shop/")]
    assert named(graph, "shop/weeks", "shop/days") == ["shop/days", "shop/weeks"]


def test_a_dot_names_an_asset_as_a_slash_does(graph: Graph) -> None:
    assert named(graph, "shop.days") == ["shop/days"]
    assert pairs_named(graph, ["shop.days"], "2017-03-02") == {"shop/days": ["2017-03-02"]}
    assert pair_named(graph, "shop.days@2017-03-02")[1] == "2017-03-02"


@pytest.mark.parametrize(("name", "hint"), [("shop/dayz", "shop/days"), ("comics/hour", "comics/hours")])
def test_a_name_of_nothing_is_refused_with_the_nearest(graph: Graph, name: str, hint: str) -> None:
    with pytest.raises(SelectionError, match=f"no asset is called '{name}'; did you mean .*{hint}"):
        assets_named(graph, [name])


def test_a_name_like_no_other_is_refused_with_all_there_are(graph: Graph) -> None:
    with pytest.raises(SelectionError, match="there are: comics/hours, comics/regions, shop/days"):
        assets_named(graph, ["zzz"])


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("2017-03-02", KEYS[1:2]),
        ("2017-03-02..2017-03-04", KEYS[1:4]),
        ("2017-03-02..2017-03-02", KEYS[1:2]),
        ("2016-01-01..2017-03-02", KEYS[:2]),
        ("2017-03-09..2020-01-01", KEYS[8:]),
        ("2017-03", KEYS),
        ("2017-02..2017-03", KEYS),
        ("2018-01-01..2018-02-01", []),
    ],
)
def test_a_span_holds_the_days_between_its_bounds(graph: Graph, text: str, keys: list[str]) -> None:
    assert Span.of(text).keys(graph.named["shop/days"]) == keys


def test_a_bound_that_is_a_day_holds_all_its_hours(graph: Graph) -> None:
    hours = graph.named["comics/hours"]
    assert Span.of("2017-03-03").keys(hours) == [f"2017-03-03-{hour:02}:00" for hour in range(24)]
    assert len(Span.of("2017-03-03..2017-03-04").keys(hours)) == 48
    assert Span.of("2017-03-03-05:00..2017-03-03-07:00").keys(hours) == [
        f"2017-03-03-{hour:02}:00" for hour in (5, 6, 7)
    ]
    assert len(Span.of("2017-03-03-05:00..2017-03-03").keys(hours)) == 19


def test_a_span_of_keys_without_time_follows_their_declared_order(graph: Graph) -> None:
    regions = graph.named["comics/regions"]
    assert Span.of("east").keys(regions) == ["east"]
    assert Span("west", "east").keys(regions) == ["west", "east"]


@pytest.mark.parametrize("text", ["", "..", "2017-03-01..", "..2017-03-01", "2017-03-01..2017-03-02..2017-03-03"])
def test_a_span_without_a_bound_is_refused(text: str) -> None:
    with pytest.raises(SelectionError, match="is no range of partitions: give one key, or two as"):
        Span.of(text)


@pytest.mark.parametrize("text", ["2017-02-30..2017-03-02", "2017-02-01..2017-02-29", "2017-02-30-04:00"])
def test_a_span_of_a_day_in_no_calendar_is_refused(text: str) -> None:
    with pytest.raises(SelectionError, match="there is no day 2017-02-(29|30)$"):
        Span.of(text)


@pytest.mark.parametrize("text", ["2017-03-04..2017-03-02", "2017-03..2017-02"])
def test_a_span_that_ends_before_it_begins_is_refused(text: str) -> None:
    with pytest.raises(SelectionError, match="ends before it begins"):
        Span.of(text)


def test_a_span_is_written_as_people_write_it() -> None:
    assert [str(Span.of(text)) for text in ("2017-03-01", "2017-03-01..2017-03-02")] == [
        "2017-03-01",
        "2017-03-01..2017-03-02",
    ]


def test_without_a_span_all_pairs_of_the_named_assets_are_meant(graph: Graph) -> None:
    assert pairs_named(graph, ["shop"], None) == {
        "shop/days": KEYS,
        "shop/products": [""],
        "shop/weeks": ["2017-02-27", "2017-03-06"],
    }


def test_a_span_over_a_team_means_its_assets_that_have_partitions_there(graph: Graph) -> None:
    assert pairs_named(graph, ["shop"], "2017-03-06..2017-03-07") == {
        "shop/days": ["2017-03-06", "2017-03-07"],
        "shop/weeks": ["2017-03-06"],
    }
    assert set(pairs_named(graph, [], "2017-03-03")) == {"shop/days", "comics/hours"}


def test_a_named_asset_without_a_partition_in_the_span_is_refused_with_those_it_has(graph: Graph) -> None:
    with pytest.raises(
        SelectionError, match="shop/days has no partition 2018-01-01; its partitions run from 2017-03-01 to 2017-03-10"
    ):
        pairs_named(graph, ["shop/days"], "2018-01-01")
    with pytest.raises(SelectionError, match="shop/products has no partitions: leave 2017-03-01 out"):
        pairs_named(graph, ["shop/days", "shop/products"], "2017-03-01")


def test_a_span_in_which_nothing_lies_is_refused(graph: Graph) -> None:
    with pytest.raises(SelectionError, match="no asset has a partition in 2018-01-01"):
        pairs_named(graph, [], "2018-01-01")
    with pytest.raises(SelectionError, match="no asset has a partition in 2018-01-01"):
        pairs_named(graph, ["shop"], "2018-01-01")


def test_a_pair_is_named_by_asset_and_partition(graph: Graph) -> None:
    found, partition = pair_named(graph, "comics/hours@2017-03-03-05:00")
    assert (found.name, partition) == ("comics/hours", "2017-03-03-05:00")
    assert pair_named(graph, "shop/products")[1] == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shop", "'shop' is no pair; name one as team/entity@partition"),
        ("shop@2017-03-01", "'shop@2017-03-01' is no pair"),
        ("shop/days", "shop/days has partitions: name one, as shop/days@2017-03-10"),
        ("shop/days@", "shop/days has partitions: name one, as shop/days@2017-03-10"),
        ("shop/days@2018-01-01", "shop/days has no partition 2018-01-01; its partitions run from 2017-03-01 to"),
        ("shop/weeks@2017-03-03", "from 2017-02-27 to 2017-03-06, of which 2017-02-27 is the one before"),
        ("shop/products@2017-03-01", "shop/products has no partitions: leave 2017-03-01 out"),
        ("shop/dayz@2017-03-01", "did you mean shop/days"),
    ],
)
def test_what_names_no_pair_is_refused_with_what_to_name(graph: Graph, text: str, said: str) -> None:
    with pytest.raises(SelectionError) as refused:
        pair_named(graph, text)
    assert said in str(refused.value)


def test_neighbours_with_the_same_words_become_one_line() -> None:
    lines = [
        ("shop/days", "d1", "is late"),
        ("shop/days", "d2", "is late"),
        ("shop/days", "d3", "is lost: file 3 is gone"),
        ("shop/weeks", "d3", "is late"),
    ]
    assert list(runs_of_same(lines)) == [
        ("shop/days", "d1..d2", "is late", 2),
        ("shop/days", "d3", "is lost: file 3 is gone", 1),
        ("shop/weeks", "d3", "is late", 1),
    ]


def test_words_that_name_other_partitions_of_the_same_asset_are_the_same() -> None:
    lines = [("shop/sums", f"d{day}", f"behind shop/days@d{day}; wait") for day in (1, 2, 3)]
    assert list(runs_of_same(lines)) == [("shop/sums", "d1..d3", "behind shop/days; wait", 3)]
    assert list(runs_of_same(lines[:1])) == [("shop/sums", "d1", "behind shop/days@d1; wait", 1)]


def test_static_partitions_are_named_in_the_order_of_their_calendar(graph: Graph) -> None:
    assert pairs_named(graph, ["comics/regions"], "west..east") == {"comics/regions": ["west", "east"]}
    with pytest.raises(SelectionError, match=r"no partition north\.\.west"):
        pairs_named(graph, ["comics/regions"], "north..west")


def test_equal_graphs_have_one_order(graph: Graph) -> None:
    assert list(Graph.of(list(graph.nodes.values())[::-1]).nodes) == list(graph.nodes)
