"""A plan holds exactly what a naive closure finds, in an order that can be run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import dagster as dg
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from platform_assets.asset_graph.requirements import Requirement, compile_requirement
from platform_assets.plans.plan import Estimate, Plan, PlannedPair, PlannedRun, from_json, ranges_of, to_json
from platform_assets.plans.planning import PlannedAsset, differences, estimate, make_plan, remaining

PATIENT = settings(
    max_examples=30,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ZONE = "America/New_York"
HOURS = dg.HourlyPartitionsDefinition(
    "2017-11-04-00:00", end_date="2017-11-07-00:00", timezone=ZONE, fmt="%Y-%m-%d-%H:%M"
)
DAYS = dg.DailyPartitionsDefinition("2017-10-30", end_date="2017-11-13", timezone=ZONE, exclusions=["0 0 7 11 *"])
WEEKS = dg.WeeklyPartitionsDefinition("2017-10-23", end_date="2017-11-20", timezone=ZONE, day_offset=1)
LETTERS = dg.StaticPartitionsDefinition(["c", "a", "b"])
BOTH = dg.MultiPartitionsDefinition(
    {"day": dg.DailyPartitionsDefinition("2017-11-03", end_date="2017-11-06", timezone=ZONE), "letter": LETTERS}
)
DEFINITIONS = [None, HOURS, DAYS, DAYS, WEEKS, LETTERS, BOTH]
SAME_TIME = dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
BACK = dg.TimeWindowPartitionMapping(-2, 0, allow_nonexistent_upstream_partitions=True)
AHEAD = dg.TimeWindowPartitionMapping(0, 1, allow_nonexistent_upstream_partitions=True)
BEFORE = dg.TimeWindowPartitionMapping(-1, -1, allow_nonexistent_upstream_partitions=True)

Pair = tuple[str, str]
Needs = dict[Pair, set[Pair]]


@dataclass(frozen=True)
class Case:
    """A graph for planning, and the same graph as sets of pairs, made by Dagster's own mappings."""

    graph: list[PlannedAsset]
    needs: Needs
    roots: dict[str, dict[str, str]]
    additive: frozenset[str] = frozenset()


def keys_of(definition: dg.PartitionsDefinition | None) -> list[str]:
    return [""] if definition is None else [str(key) for key in definition.get_partition_keys()]


def mappings_between(
    down: dg.PartitionsDefinition | None, up: dg.PartitionsDefinition | None
) -> list[dg.PartitionMapping | None]:
    if down is None or up is None:
        return [None]
    offers: list[dg.PartitionMapping | None] = [dg.AllPartitionMapping(), dg.LastPartitionMapping()]
    if isinstance(down, dg.TimeWindowPartitionsDefinition) and isinstance(up, dg.TimeWindowPartitionsDefinition):
        offers += [SAME_TIME, SAME_TIME, BACK, AHEAD, BEFORE]
    if down == LETTERS and up == LETTERS:
        offers += [None, dg.StaticPartitionMapping({"a": ["b", "c"], "b": "a"})]
    if BOTH in (down, up):
        offers += [None, None] if {down, up} <= {BOTH, LETTERS} else []
    return offers


def needed_by(
    key: str,
    down: dg.PartitionsDefinition | None,
    up: dg.PartitionsDefinition | None,
    mapping: dg.PartitionMapping | None,
) -> set[str]:
    if down is None or up is None:
        return set(keys_of(up))
    if mapping is None:
        mapping = dg.IdentityPartitionMapping() if down == up else dg.MultiToSingleDimensionPartitionMapping()
    found = mapping.get_upstream_mapped_partitions_result_for_partitions(
        down.subset_with_partition_keys([key]), down, up
    )
    return {str(name) for name in found.partitions_subset.get_partition_keys()}


ANSWERS: dict[object, dict[str, set[str]]] = {}


def needs_between(
    down: dg.PartitionsDefinition | None, up: dg.PartitionsDefinition | None, mapping: dg.PartitionMapping | None
) -> dict[str, set[str]]:
    question = (repr(down), repr(up), repr(mapping))
    if question not in ANSWERS:
        ANSWERS[question] = {key: needed_by(key, down, up, mapping) for key in keys_of(down)}
    return ANSWERS[question]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    definitions: dict[str, dg.PartitionsDefinition | None] = {}
    graph: list[PlannedAsset] = []
    needs: Needs = {}
    chosen = draw(st.lists(st.sampled_from(DEFINITIONS), min_size=2, max_size=4))
    for number in range(draw(st.integers(2, 9))):
        name, definition = f"team/asset_{number}", draw(st.sampled_from(chosen))
        keys = keys_of(definition)
        location = draw(st.sampled_from([None, "platform", "platform", "platform", "ml"]))
        requirements = {}
        upstreams = draw(st.lists(st.sampled_from(sorted(definitions)), unique=True, max_size=3)) if definitions else []
        links = [(u, draw(st.sampled_from(mappings_between(definition, definitions[u])))) for u in upstreams]
        if isinstance(definition, dg.TimeWindowPartitionsDefinition) and draw(st.integers(0, 4)) == 0:
            links.append((name, BEFORE))
        definitions[name] = definition
        for upstream, mapping in links:
            if upstream == name and definition == DAYS:
                continue  # the day after an excluded one names itself
            requirements[upstream] = compile_requirement(definition, definitions[upstream], mapping)
            for key, named in needs_between(definition, definitions[upstream], mapping).items():
                needs.setdefault((name, key), set()).update((upstream, other) for other in named)
        limit = draw(st.sampled_from([None, None, *keys]))
        graph.append(PlannedAsset(name, keys, requirements, location, limit or None, draw(st.booleans())))
    roots: dict[str, dict[str, str]] = {}
    for number in range(draw(st.integers(0, 6))):
        asset = draw(st.sampled_from(graph))
        roots.setdefault(asset.key, {})[draw(st.sampled_from(list(asset.partitions)))] = f"cause {number}"
    additive = frozenset(draw(st.sets(st.sampled_from(sorted(roots)), max_size=2))) if roots else frozenset()
    return Case(graph, needs, roots, additive)


def closure(case: Case) -> tuple[set[Pair], set[Pair], set[Pair]]:
    """All pairs whose change is followed, those that we build, and those refused: by asking until none comes."""
    assets = {asset.key: asset for asset in case.graph}
    given_pairs = {(asset, partition) for asset, pairs in case.roots.items() for partition in pairs}
    everything = [(asset.key, key) for asset in case.graph for key in asset.partitions]
    changed: set[Pair] = set()
    built: set[Pair] = set()
    refused: set[Pair] = set()
    while True:
        before = len(changed), len(built), len(refused)
        for pair in everything:
            asset = assets[pair[0]]
            limit = asset.immutable_before
            if asset.location is None:
                changed |= {pair} & given_pairs
                continue
            itself = {need for need in case.needs.get(pair, set()) if need[0] == pair[0]}
            is_behind = bool((case.needs.get(pair, set()) - itself) & changed)
            follows = is_behind or bool(itself & built)
            if pair in given_pairs or follows:
                if limit is not None and pair[1] != "" and pair[1] < limit:
                    refused.add(pair)
                    continue
                built.add(pair)
                if pair[0] not in case.additive or is_behind or itself & changed:
                    changed.add(pair)
        if before == (len(changed), len(built), len(refused)):
            return changed, built, refused


def plan_of(case: Case, **settings: object) -> Plan:
    return make_plan(
        case.graph,
        case.roots,
        environment="prod",
        created_at=NOON,
        additive=case.additive,
        **settings,  # type: ignore[arg-type]
    )


def order_of(case: Case) -> Mapping[Pair, tuple[int, int]]:
    return {(a.key, key): (n, at) for n, a in enumerate(case.graph) for at, key in enumerate(a.partitions)}


def assert_runs_build_in_order(case: Case, runs: list[PlannedRun], pairs: set[Pair], there: set[Pair]) -> None:
    """Every run finds what it reads, the runs build all pairs, none of them twice."""
    assets = {asset.key: asset for asset in case.graph}
    built = set(there)
    for run in runs:
        for name in run.assets:
            assert assets[name].location == run.location
            keys = list(assets[name].partitions)
            span = keys[keys.index(run.first or "") : keys.index(run.last or "") + 1]
            for key in span:
                assert (name, key) in pairs
                assert (name, key) not in built
                built.add((name, key))
                assert case.needs.get((name, key), set()) & pairs <= built
    assert built == pairs


@PATIENT
@given(cases())
def test_a_plan_is_the_roots_and_all_downstream_of_them_and_nothing_else(case: Case) -> None:
    changed, ours, refused = closure(case)
    plan, order = plan_of(case), order_of(case)
    listed = [(pair.asset, pair.partition) for pair in plan.pairs]
    assert listed == sorted(ours, key=order.__getitem__)
    assert [(pair.asset, pair.partition) for pair in plan.refused] == sorted(refused, key=order.__getitem__)
    assert plan.pair_count == len(listed)
    for pair in plan.pairs:
        reason = case.roots.get(pair.asset, {}).get(pair.partition)
        if reason is None:
            causes = case.needs[pair.asset, pair.partition] & (changed | {one for one in ours if one[0] == pair.asset})
            asset, partition = min(causes, key=order.__getitem__)
            reason = f"reads {asset}@{partition}" if partition else f"reads {asset}"
        assert pair.reason == reason
    for pair in plan.refused:
        assert pair.reason.startswith("immutable before ")
    ends = {asset.key for asset in case.graph if asset.is_end_point}
    assert {end.asset: end.pairs for end in plan.end_points} == {
        name: sum(asset == name for asset, _ in listed) for name in ends if any(asset == name for asset, _ in listed)
    }


@PATIENT
@given(cases())
def test_runs_build_every_pair_once_after_what_it_reads(case: Case) -> None:
    assert_runs_build_in_order(case, plan_of(case).runs, closure(case)[1], set())


@PATIENT
@given(cases())
def test_a_plan_survives_json(case: Case) -> None:
    plan = plan_of(case, durations={"team/asset_1": [3.0, 5.0]})
    read = from_json(json.loads(json.dumps(to_json(plan))))
    assert (read, read.pairs, read.refused, read.runs) == (plan, plan.pairs, plan.refused, plan.runs)
    assert (read.end_points, read.estimate, read.created_at) == (plan.end_points, plan.estimate, NOON)
    assert ranges_of(read) == ranges_of(plan)


@PATIENT
@given(cases(), st.data())
def test_what_remains_is_what_is_not_done_and_builds_in_order(case: Case, data: st.DataObject) -> None:
    plan = plan_of(case)
    if data.draw(st.booleans()):
        plan = from_json(to_json(plan))
    ours = closure(case)[1]
    done = data.draw(st.sets(st.sampled_from(sorted(ours)))) if ours else set()
    rest = remaining(plan, lambda asset, partition: (asset, partition) in done)
    assert rest.pairs == [pair for pair in plan.pairs if (pair.asset, pair.partition) not in done]
    assert_runs_build_in_order(case, rest.runs, ours, done)
    assert rest.recovers == plan.id
    assert remaining(rest, lambda asset, partition: True).recovers == plan.id
    assert from_json(to_json(rest)) == rest
    assert from_json(to_json(rest)).runs == rest.runs
    assert differences(rest, case.graph) == differences(from_json(to_json(rest)), case.graph) == []


@PATIENT
@given(cases())
def test_ranges_are_the_fewest_that_hold_exactly_the_pairs(case: Case) -> None:
    plan = plan_of(case)
    keys = {asset.key: list(asset.partitions) for asset in case.graph}
    for name, found in ranges_of(plan).items():
        mine = [pair.partition for pair in plan.pairs if pair.asset == name]
        if found is None:
            assert mine == [""]
            continue
        spans = [(keys[name].index(first), keys[name].index(last)) for first, last in found]
        assert [keys[name][at] for low, high in spans for at in range(low, high + 1)] == mine
        assert all(high + 1 < low for (_, high), (low, _) in zip(spans, spans[1:], strict=False))


NAMES = ["2017-01-01", "2017-01-02", "2017-01-03", "2017-01-04"]
IDENTITY = Requirement.of([[at] for at in range(4)], 4)
RAW = PlannedAsset("feed/raw", NAMES, {}, None)
STAGED = PlannedAsset("team/staged", NAMES, {"feed/raw": IDENTITY}, "platform")
MART = PlannedAsset("team/mart", NAMES, {"team/staged": IDENTITY}, "platform", is_end_point=True)
TOTAL = PlannedAsset("team/total", [""], {"team/mart": Requirement.of([range(4)], 4)}, "platform")
CHAIN = [RAW, STAGED, MART, TOTAL]


def chain(*days: int) -> Plan:
    roots = {"feed/raw": {NAMES[day]: "delivered again" for day in days}}
    return make_plan(CHAIN, roots, environment="prod", created_at=NOON)


def test_assets_of_a_location_with_equal_ranges_share_a_run() -> None:
    assert chain(0, 1, 3).runs == [
        PlannedRun("platform", ("team/staged", "team/mart"), NAMES[0], NAMES[1]),
        PlannedRun("platform", ("team/staged", "team/mart"), NAMES[3], NAMES[3]),
        PlannedRun("platform", ("team/total",), None, None),
    ]


def test_a_pair_without_partition_is_null_in_json_and_its_reason_names_the_first_cause() -> None:
    written = to_json(chain(2, 3))
    assert written["pairs"][-1] == {"asset": "team/total", "partition": None, "reason": "reads team/mart@2017-01-03"}
    assert ranges_of(chain(2, 3)) == {
        "team/staged": [(NAMES[2], NAMES[3])],
        "team/mart": [(NAMES[2], NAMES[3])],
        "team/total": None,
    }


def test_an_immutable_pair_stays_and_so_does_what_reads_it() -> None:
    graph = [RAW, replace(STAGED, immutable_before=NAMES[1]), MART, TOTAL]
    plan = make_plan(graph, {"feed/raw": {NAMES[0]: "delivered again"}}, environment="prod")
    reason = "immutable before 2017-01-02; reads feed/raw@2017-01-01"
    assert (plan.pairs, plan.runs) == ([], [])
    assert plan.refused == [PlannedPair("team/staged", NAMES[0], reason)]


def test_equal_contents_have_equal_ids_and_other_contents_others() -> None:
    assert chain(1).id == chain(1).id
    assert len({chain(1).id, chain(2).id, replace(chain(1), environment="dev-a").id}) == 3


def test_a_plan_fits_a_graph_in_which_what_it_rebuilds_needs_the_same() -> None:
    plan = chain(1)
    grown = [*NAMES, "2017-01-05"]
    longer = Requirement.of([[at] for at in range(5)], 5)
    later = [
        replace(RAW, partitions=grown),
        replace(STAGED, partitions=grown, requirements={"feed/raw": longer}),
        replace(MART, partitions=grown, requirements={"team/staged": longer}),
    ]
    assert differences(plan, CHAIN) == differences(plan, [PlannedAsset("a/new", NAMES, {}, "ml"), *CHAIN]) == []
    assert differences(plan, [*later, replace(TOTAL, requirements={"team/mart": Requirement.of([range(5)], 5)})]) == [
        "team/total: what its planned pairs need of team/mart has changed"
    ]
    moved = replace(MART, location="ml")
    assert differences(plan, [RAW, STAGED, moved, TOTAL]) == ["team/mart: ml builds it now, not platform"]
    assert differences(plan, [RAW, STAGED, MART]) == ["team/total is no longer in the graph"]
    shorter = replace(STAGED, partitions=NAMES[:1], requirements={"feed/raw": Requirement.of([[0]], 4)})
    assert "team/staged@2017-01-02 no longer exists" in differences(plan, [RAW, shorter])[0]


def test_what_was_never_built_is_left_out_unless_it_is_a_root() -> None:
    existing = {"team/mart": np.array([True, False, True, True])}
    roots = {"team/staged": {NAMES[0]: "lost", NAMES[1]: "missing"}}
    plan = make_plan(CHAIN, roots, environment="prod", existing=existing)
    assert [pair.partition for pair in plan.pairs if pair.asset == "team/mart"] == [NAMES[0]]
    assert differences(plan, CHAIN) == []
    wanted = {**roots, "team/mart": {NAMES[1]: "missing"}}
    both = make_plan(CHAIN, wanted, environment="prod", existing=existing)
    assert [pair.partition for pair in both.pairs if pair.asset == "team/mart"] == NAMES[:2]


def test_a_contained_change_is_rebuilt_and_not_followed() -> None:
    roots = {"team/staged": {NAMES[1]: "its column x is new"}}
    plan = make_plan(CHAIN, roots, environment="prod", additive={"team/staged"})
    assert [(pair.asset, pair.partition) for pair in plan.pairs] == [("team/staged", NAMES[1])]
    assert plan.roots == {"team/staged": [NAMES[1]]}
    both = {**roots, "feed/raw": {NAMES[1]: "delivered again"}}
    assert make_plan(CHAIN, both, environment="prod", additive={"team/staged"}).pair_count == 3


PREVIOUS = Requirement.of([[], [0], [1], [2]], 4)
RUNNING = replace(STAGED, requirements={"feed/raw": IDENTITY, "team/staged": PREVIOUS})


def pairs_of(plan: Plan, asset: str) -> list[str]:
    return [pair.partition for pair in plan.pairs if pair.asset == asset]


def test_a_change_from_upstream_is_followed_through_the_own_past_of_a_contained_asset() -> None:
    roots = {"team/staged": {NAMES[0]: "its column x is new"}, "feed/raw": {NAMES[2]: "delivered again"}}
    plan = make_plan([RAW, RUNNING, MART], roots, environment="prod", additive={"team/staged"})
    assert pairs_of(plan, "team/staged") == NAMES
    assert pairs_of(plan, "team/mart") == NAMES[2:]


def test_a_pair_behind_an_own_root_of_a_contained_asset_names_it() -> None:
    roots = {"team/staged": {NAMES[1]: "its column x is new"}}
    plan = make_plan([RAW, RUNNING, MART], roots, environment="prod", additive={"team/staged"})
    assert plan.pairs == [
        PlannedPair("team/staged", NAMES[1], "its column x is new"),
        PlannedPair("team/staged", NAMES[2], f"reads team/staged@{NAMES[1]}"),
        PlannedPair("team/staged", NAMES[3], f"reads team/staged@{NAMES[2]}"),
    ]


def test_a_root_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="team/staged@2017-01-01 has no reason"):
        make_plan(CHAIN, {"team/staged": {NAMES[0]: ""}}, environment="prod")


@st.composite
def pasts(draw: st.DrawFn) -> tuple[Case, dict[str, set[str]]]:
    """Assets of four pairs with arbitrary needs, most of their own past, and which pairs were ever built."""
    graph: list[PlannedAsset] = []
    needs: Needs = {}
    some = st.sets(st.integers(0, 3), max_size=2)
    for number in range(draw(st.integers(2, 5))):
        name = f"team/asset_{number}"
        upstreams = draw(st.lists(st.sampled_from([a.key for a in graph]), unique=True, max_size=2)) if graph else []
        rows = {upstream: [draw(some) for _ in NAMES] for upstream in upstreams}
        if draw(st.integers(0, 3)):
            rows[name] = [{past for past in draw(some) if past < at} for at in range(4)]
        for upstream, wanted in rows.items():
            for key, row in zip(NAMES, wanted, strict=True):
                needs.setdefault((name, key), set()).update((upstream, NAMES[at]) for at in row)
        requirements = {upstream: Requirement.of(wanted, 4) for upstream, wanted in rows.items()}
        limit = draw(st.sampled_from([None, None, NAMES[1], NAMES[2]]))
        graph.append(PlannedAsset(name, list(NAMES), requirements, "platform" if number else None, limit))
    roots: dict[str, dict[str, str]] = {}
    for asset in graph:
        for key in draw(st.sets(st.sampled_from(NAMES), max_size=2)):
            roots.setdefault(asset.key, {})[key] = "given"
    additive = draw(st.sets(st.sampled_from([asset.key for asset in graph[1:]])))
    existing = {asset.key: draw(st.sets(st.sampled_from(NAMES), min_size=2)) for asset in graph}
    return Case(graph, needs, roots, frozenset(additive)), existing


@settings(PATIENT, max_examples=300)
@given(pasts())
def test_what_is_followed_through_its_own_past_is_what_asking_pair_by_pair_finds(
    case_and_existing: tuple[Case, dict[str, set[str]]],
) -> None:
    case, existing = case_and_existing
    built: set[Pair] = set()
    concerns_readers: set[Pair] = set()
    refused: set[Pair] = set()
    reasons: dict[Pair, str] = {}
    for asset in case.graph:  # in topological order, and no pair needs itself or a later one
        for key in asset.partitions:
            pair = (asset.key, key)
            given_here = key in case.roots.get(asset.key, {})
            if asset.location is None:
                concerns_readers |= {pair} if given_here else set()
                continue
            reads = case.needs.get(pair, set())
            causes = [one for one in reads if one in (built if one[0] == asset.key else concerns_readers)]
            if not given_here and not (causes and key in existing[asset.key]):
                continue
            cause = min(causes, key=order_of(case).__getitem__) if causes else None
            reasons[pair] = "given" if given_here or cause is None else f"reads {cause[0]}@{cause[1]}"
            if asset.immutable_before is not None and key < asset.immutable_before:
                refused.add(pair)
                continue
            built.add(pair)
            if asset.key not in case.additive or reads & concerns_readers:
                concerns_readers.add(pair)
    masks = {asset: np.array([key in keys for key in NAMES]) for asset, keys in existing.items()}
    plan = plan_of(case, existing=masks)
    assert {(pair.asset, pair.partition): pair.reason for pair in plan.pairs} == {p: reasons[p] for p in built}
    assert {(pair.asset, pair.partition): pair.reason.split("; ")[1] for pair in plan.refused} == {
        pair: reasons[pair] for pair in refused
    }


def inserted(plan: Plan, key: str) -> list[str]:
    keys = sorted([*NAMES, key])
    rows = Requirement.of([[at] for at in range(5)], 5)
    return differences(
        plan,
        [
            replace(RAW, partitions=keys),
            replace(STAGED, partitions=keys, requirements={"feed/raw": rows}),
            replace(MART, partitions=keys, requirements={"team/staged": rows}),
        ],
    )


def test_a_partition_that_appeared_inside_a_planned_range_keeps_a_plan_from_being_carried_out() -> None:
    plan = make_plan(CHAIN[:3], {"feed/raw": dict.fromkeys([*NAMES[:2], NAMES[3]], "again")}, environment="prod")
    for checked in (plan, from_json(to_json(plan))):
        assert inserted(checked, "2017-01-01b") == [
            f"{asset}@2017-01-01b has appeared inside a planned range, one of 1 that its runs would build too"
            for asset in ("team/staged", "team/mart")
        ]
        for outside in ("2016-12-31", "2017-01-02b", "2017-01-03b", "2017-01-05"):
            assert inserted(checked, outside) == []


def test_planned_partitions_in_another_order_keep_a_plan_from_being_carried_out() -> None:
    plan = make_plan(CHAIN[:2], {"team/staged": dict.fromkeys(NAMES[:3], "lost")}, environment="prod")
    turned = [NAMES[at] for at in (0, 2, 1, 3)]
    graph = [
        RAW,
        replace(STAGED, partitions=turned, requirements={"feed/raw": Requirement.of([[0], [2], [1], [3]], 4)}),
    ]
    assert differences(plan, graph) == ["team/staged: its planned partitions are in another order now"]


def test_pairs_that_have_become_immutable_keep_a_plan_from_being_carried_out() -> None:
    plan = chain(0, 1, 3)
    assert differences(plan, [RAW, STAGED, replace(MART, immutable_before=NAMES[2]), TOTAL]) == [
        "team/mart@2017-01-01 has become immutable, one of 2 planned pairs: what is before 2017-01-03 stays as it is"
    ]
    assert differences(chain(3), [RAW, STAGED, replace(MART, immutable_before=NAMES[2]), TOTAL]) == []


def test_what_is_left_of_a_plan_fits_the_graph_that_the_plan_fits_and_no_other() -> None:
    plan = chain(0, 1, 3)
    rest = remaining(plan, lambda asset, partition: partition == NAMES[0])
    again = remaining(from_json(to_json(rest)), lambda asset, partition: partition == NAMES[3])
    other = [RAW, replace(STAGED, requirements={"feed/raw": Requirement.of([[0], [0], [2], [3]], 4)}), MART, TOTAL]
    for left in (rest, again, from_json(to_json(again))):
        assert differences(left, CHAIN) == []
        assert differences(left, other) == ["team/staged: what its planned pairs need of feed/raw has changed"]
    assert again.done == {"team/staged": [NAMES[0], NAMES[3]], "team/mart": [NAMES[0], NAMES[3]]}


def test_equal_calendars_in_lists_of_their_own_are_planned_as_one() -> None:
    own = [replace(asset, partitions=list(asset.partitions)) for asset in CHAIN]
    roots = {"feed/raw": {NAMES[1]: "delivered again"}}
    plan = make_plan(own, roots, environment="prod", created_at=NOON)
    assert plan == chain(1)
    staged, mart, _ = plan.selections
    assert staged.keys is mart.keys


@PATIENT
@given(cases(), st.data())
def test_recovering_again_runs_exactly_what_failed_until_nothing_is_left(case: Case, data: st.DataObject) -> None:
    plan = plan_of(case)
    done: set[Pair] = set()
    for attempt in range(20):
        settled = frozenset(done)
        rest = remaining(plan, lambda asset, partition, settled=settled: (asset, partition) in settled)
        if not rest.pair_count:
            break
        for run in rest.runs:
            assets = {asset.key: list(asset.partitions) for asset in case.graph}
            pairs = [
                (name, key)
                for name in run.assets
                for key in assets[name][assets[name].index(run.first or "") : assets[name].index(run.last or "") + 1]
            ]
            mine = {(pair.asset, pair.partition) for pair in plan.pairs}
            ready = all(case.needs.get(pair, set()) & mine <= done | set(pairs) for pair in pairs)
            if ready and (attempt > 9 or data.draw(st.booleans())):
                assert not done & set(pairs), "a pair was rebuilt twice"
                done |= set(pairs)
    assert done == {(pair.asset, pair.partition) for pair in plan.pairs}


def test_the_estimate_adds_medians_and_quantiles_over_runs() -> None:
    durations = {"team/staged": [10.0, 20.0, 30.0], "team/mart": [1.0], "team/never_run": []}
    # Two runs of staged and mart; the total was never timed and takes the quantiles of all: 1, 10, 20, 30.
    assert estimate(chain(0, 2), durations) == Estimate(2 * 21 + 15, 2 * 13 + 3.7, 2 * 29 + 27)
    assert estimate(chain(0), {}) is None


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ([STAGED], "team/staged needs feed/raw, which is not in the graph"),
        ([STAGED, RAW], "team/staged comes before feed/raw"),
        ([RAW, RAW, STAGED], "feed/raw is in the graph twice"),
        ([replace(RAW, partitions=NAMES[:3]), STAGED], "4 and 4 pairs, but they have 4 and 3"),
        ([replace(RAW, requirements={"team/staged": IDENTITY}), STAGED], "need each other: .*team/staged"),
        ([replace(RAW, requirements={"feed/raw": IDENTITY})], "feed/raw@2017-01-01 needs itself"),
    ],
)
def test_a_graph_that_cannot_be_planned_is_refused_by_name(graph: list[PlannedAsset], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(graph, {}, environment="prod")


@pytest.mark.parametrize(
    ("roots", "message"),
    [({"team/gone": {}}, "team/gone is not"), ({"feed/raw": {"2018-01-01": "x"}}, "feed/raw@2018-01-01 does not")],
)
def test_a_root_outside_the_graph_is_refused_by_name(roots: dict[str, dict[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(CHAIN, roots, environment="prod")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "format 1, this version reads 3: make the plan again"),
        ({"roots": {"team/mart": ["2017-01-02"]}}, "somebody changed it"),
        ({"graph": {}}, "somebody changed it"),
        ({"id": "0"}, "somebody changed it"),
        ({"environment": "dev-a"}, "somebody changed it"),
        ({"refused": [{"asset": "team/mart", "partition": None, "reason": ""}]}, "somebody changed it"),
        ({"pairs": []}, "incomplete"),
        ({"created_at": "yesterday"}, "the plan is incomplete .*: make the plan again"),
        ({"created_at": "2026-01-01T12:00:00"}, "the plan is incomplete .*no time zone.*: make the plan again"),
        ({"created_at": None}, "the plan is incomplete .*: make the plan again"),
        ({"graph": None}, "the plan is incomplete .*: make the plan again"),
        ({"estimate_seconds": 1.0, "estimate_seconds_spread": [1.0, 1.0]}, "somebody changed it"),
    ],
)
def test_a_plan_that_was_edited_or_is_of_another_version_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json({**to_json(chain(1)), **change})


@PATIENT
@given(cases(), st.data())
def test_pairs_in_another_order_are_noticed(case: Case, data: st.DataObject) -> None:
    written = to_json(plan_of(case))
    part = data.draw(st.sampled_from(["pairs", "refused"]))
    shuffled = data.draw(st.permutations(written[part]))
    if [(pair["asset"], pair["partition"]) for pair in shuffled] != [
        (pair["asset"], pair["partition"]) for pair in written[part]
    ]:
        with pytest.raises(ValueError, match="somebody changed it"):
            from_json({**written, part: shuffled})


def test_two_pairs_that_change_places_are_noticed_though_all_else_is_the_same() -> None:
    written = to_json(chain(0, 1, 2))
    first, second, *others = written["pairs"]
    with pytest.raises(ValueError, match="somebody changed it"):
        from_json({**written, "pairs": [second, first, *others]})
    with pytest.raises(ValueError, match="somebody changed it"):
        from_json({**written, "pairs": [*others, first, second]})
    middle = to_json(chain(0, 1, 2, 3))
    with pytest.raises(ValueError, match="somebody changed it"):
        from_json({**middle, "pairs": [middle["pairs"][at] for at in (0, 2, 1, *range(3, 9))]})


def test_an_edited_pair_or_run_is_noticed() -> None:
    written = to_json(chain(1))
    for part, change in (
        ("pairs", {"partition": NAMES[0]}),
        ("runs", {"first": NAMES[0]}),
        ("runs", {"location": "ml"}),
    ):
        edited = {**written, part: [{**written[part][0], **change}, *written[part][1:]]}
        with pytest.raises(ValueError, match="make the plan again|Make the plan again"):
            from_json(edited)
