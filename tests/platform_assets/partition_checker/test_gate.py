"""The gate asks for just the upstream pairs that a step cannot do without, and names each it may not build upon."""

from collections.abc import Mapping
from dataclasses import replace

import dagster as dg
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platform_assets.asset_graph.completeness import Completeness, LatePolicy
from platform_assets.asset_graph.graph import Graph, Node
from platform_assets.partition_checker.gate import NotVerified, refuse_unless_verified
from platform_assets.partition_checker.states import AssetStates, judge
from platform_assets.partitions import same_time
from tests.platform_assets.partition_checker.columns import NOTHING, Known, facts_of

DAYS = dg.DailyPartitionsDefinition("2017-01-02", end_date="2017-01-16")
WEEKS = dg.WeeklyPartitionsDefinition("2017-01-02", end_date="2017-01-16", day_offset=1)
KEYS = DAYS.get_partition_keys()
LATE = replace(NOTHING, due=True)

Pairs = Mapping[str, set[str]]


def node(
    name: str,
    *needs: str,
    calendar: dg.PartitionsDefinition | None = DAYS,
    lookback: int = 0,
    location: str | None = "shop",
    **declared: object,
) -> Node:
    keyed = {dg.AssetKey(["shop", upstream]): same_time(lookback) for upstream in needs}
    return Node(
        dg.AssetKey(["shop", name]),
        location,
        calendar,
        {key: mapping if calendar is not None else None for key, mapping in keyed.items()},
        completeness=Completeness(**declared),  # type: ignore[arg-type]
    )


def graph(**declared: object) -> Graph:
    """What is delivered is loaded, cleaned together with the weather, and added up by day and by week."""
    return Graph.of(
        [
            node("upstream_sales", location=None),
            node("weather"),
            node("sales", "upstream_sales"),
            node("clean", "sales", "weather", **declared),
            node("sums", "clean", lookback=1),
            node("weeks", "sums", calendar=WEEKS),
            node("summary", "weeks", calendar=None),
        ]
    )


def masks(known: Graph, pairs: Pairs) -> dict[str, np.ndarray]:
    return {
        f"shop/{name}": np.array([key in keys for key in known.named[f"shop/{name}"].pairs], np.bool_)
        for name, keys in pairs.items()
    }


def needed(known: Graph, **requested: set[str]) -> dict[str, set[str]]:
    found = known.required(masks(known, requested))
    return {
        name.removeprefix("shop/"): {known.named[name].pairs[at] for at in np.flatnonzero(pairs).tolist()}
        for name, pairs in found.items()
    }


def test_a_pair_requires_what_its_mappings_name() -> None:
    days = set(KEYS[2:4])
    assert needed(graph(), clean=days) == {"sales": days, "weather": days}
    assert needed(graph(), sums=days) == {"clean": set(KEYS[1:4])}
    assert needed(graph(), weeks={"2017-01-09"}) == {"sums": set(KEYS[7:])}
    assert needed(graph(), summary={""}) == {"weeks": {"2017-01-02", "2017-01-09"}}


def test_pairs_of_the_same_step_are_not_required_and_others_of_the_same_assets_are() -> None:
    days = set(KEYS[2:4])
    assert needed(graph(), clean=days, sums=days) == {"sales": days, "weather": days, "clean": {KEYS[1]}}


def test_a_delivery_is_not_required() -> None:
    assert needed(graph(), sales=set(KEYS)) == {}


def test_what_an_asset_declares_optional_is_not_required_of_it_and_of_others_it_is() -> None:
    known = graph(optional=("shop/weather",))
    assert needed(known, clean=set(KEYS[:1])) == {"sales": set(KEYS[:1])}
    other = Graph.of([*known.nodes.values(), node("umbrellas", "weather")])
    assert needed(other, clean=set(KEYS[:1]), umbrellas=set(KEYS[3:4]))["weather"] == set(KEYS[3:4])


def test_what_was_not_asked_for_requires_nothing() -> None:
    assert needed(graph(), clean=set(), sums=set()) == {}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_required_pairs_are_those_of_a_walk_over_single_pairs(data: st.DataObject) -> None:
    known = graph(optional=data.draw(st.sampled_from([(), ("shop/weather",), ("shop/sales",)])))
    names = data.draw(st.lists(st.sampled_from(["sales", "clean", "sums", "weeks", "summary"]), unique=True))
    requested = {
        name: data.draw(st.sets(st.sampled_from(list(known.named[f"shop/{name}"].pairs)), max_size=6)) for name in names
    }
    expected: dict[str, set[str]] = {}
    for name, keys in requested.items():
        reader = known.named[f"shop/{name}"]
        for upstream, requirement in known.requirements(reader).items():
            short = upstream.removeprefix("shop/")
            if known.named[upstream].location is None or upstream in reader.completeness.optional:
                continue
            for key in keys:
                named = {known.named[upstream].pairs[at] for at in requirement.upstream_of(reader.pairs.index(key))}
                expected.setdefault(short, set()).update(named - requested.get(short, set()))
    assert needed(known, **requested) == {name: keys for name, keys in expected.items() if keys}


def judged(known: Graph, name: str, wrong: Mapping[str, Known]) -> dict[str, AssetStates]:
    pairs = {key: wrong.get(key, Known()) for key in known.named[f"shop/{name}"].pairs}
    return {f"shop/{name}": judge(facts_of(f"shop/{name}", pairs), {}, {})}


def refusal(known: Graph, wrong: Mapping[str, Known], **requested: set[str]) -> str:
    """What the gate says to the `requested` readers of sales, of which some pairs are `wrong`; nothing if they pass."""
    pairs = masks(known, requested)
    required_pairs = {name: some for name, some in known.required(pairs).items() if name == "shop/sales"}
    try:
        refuse_unless_verified(known, pairs, required_pairs, judged(known, "sales", wrong))
    except NotVerified as refused:
        return str(refused)
    return ""


def test_what_is_verified_passes_whatever_else_the_same_asset_lacks() -> None:
    assert refusal(graph(), {KEYS[5]: Known(stored=None)}, clean=set(KEYS[:5])) == ""


def test_a_refusal_names_each_pair_its_state_and_reason_and_the_commands_that_heal_it() -> None:
    wrong = {KEYS[1]: Known(stored=2), KEYS[2]: LATE, KEYS[9]: LATE}
    said = refusal(graph(), wrong, clean=set(KEYS[:5])).splitlines()
    assert (
        said[0] == "refused to build shop/clean: 2 of the upstream pairs needed are not verified. Nothing was changed."
    )
    assert said[1] == f"shop/sales@{KEYS[1]} is short: its receipt says 3 rows, storage has 2"
    assert said[2] == f"shop/sales@{KEYS[2]} is late: it was expected by now and was never built"
    assert "headwater plan --unhealthy -o plan.json" in said[3]
    assert "headwater recover plan.json" in said[3]
    assert said[3].endswith(f"headwater explain shop/sales@{KEYS[1]}")
    assert len(said) == 4


def test_a_refusal_for_one_pair_speaks_of_one() -> None:
    assert "1 of the upstream pairs needed is not verified" in refusal(graph(), {KEYS[0]: NOTHING}, clean={KEYS[0]})


def test_a_refusal_for_many_pairs_shows_the_first_and_counts_the_rest() -> None:
    hours = dg.HourlyPartitionsDefinition("2017-01-02-00:00", end_date="2017-01-04-00:00")
    known = Graph.of([node("sales", calendar=hours), node("clean", "sales")])
    keys = hours.get_partition_keys()
    said = refusal(known, dict.fromkeys(keys, NOTHING), clean=set(KEYS[:2])).splitlines()
    assert [line.split(" ")[0] for line in said[1:21]] == [f"shop/sales@{key}" for key in keys[:20]]
    assert said[21] == "and 28 more: headwater check lists them"


def test_an_asset_without_partitions_is_named_alone() -> None:
    known = Graph.of([node("sales", calendar=None), node("clean", "sales", calendar=None)])
    assert "\nshop/sales is lost: " in refusal(known, {"": Known(stored=None)}, clean={""})


@pytest.mark.parametrize("policy", ["wait", "alert"])
def test_a_late_pair_is_waited_for_unless_its_reader_declares_to_go_on(policy: LatePolicy) -> None:
    known = graph(when_late={"shop/sales": policy})
    assert "is late" in refusal(known, {KEYS[0]: LATE}, clean=set(KEYS[:1]))


def test_a_reader_that_goes_on_does_without_what_is_absent_and_not_with_what_is_damaged() -> None:
    known = graph(when_late={"shop/sales": "go_on"})
    assert refusal(known, {KEYS[0]: LATE, KEYS[1]: NOTHING}, clean=set(KEYS[:3])) == ""
    for wrong in (Known(stored=None), Known(stored=2), Known(rewritten="run-9"), Known(failed="boom")):
        said = refusal(known, {KEYS[0]: LATE, KEYS[1]: wrong}, clean=set(KEYS[:3]))
        assert f"shop/sales@{KEYS[1]} is " in said
        assert f"shop/sales@{KEYS[0]}" not in said


def test_a_reader_that_goes_on_does_without_what_could_not_be_built() -> None:
    known = graph(when_late={"shop/sales": "go_on"})
    assert refusal(known, {KEYS[0]: replace(LATE, failed="run-1 failed: boom")}, clean={KEYS[0]}) == ""


def test_one_reader_that_waits_is_enough_to_refuse_the_step() -> None:
    patient = node("patient", "sales")
    known = Graph.of([*graph(when_late={"shop/sales": "go_on"}).nodes.values(), patient])
    assert refusal(known, {KEYS[0]: LATE}, clean={KEYS[0]}) == ""
    assert "is late" in refusal(known, {KEYS[0]: LATE}, clean={KEYS[0]}, patient={KEYS[0]})
