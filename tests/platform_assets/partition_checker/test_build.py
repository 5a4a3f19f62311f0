"""A step computes what has to be computed, in order, confirms the rest, and leaves a receipt for all of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import dagster as dg
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from platform_assets.asset_graph.completeness import Completeness
from platform_assets.asset_graph.graph import Graph, Node
from platform_assets.asset_graph.requirements import BoolArray
from platform_assets.automation import CUT_OFF
from platform_assets.partition_checker.build import Build
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partition_checker.states import Damage, State
from platform_assets.partition_checker.stored import Stored
from platform_assets.partitions import same_time
from resources.environment import Environment
from resources.lake_catalog import LakeCatalog
from resources.ledger import Input, Ledger, Receipt, schema_columns
from resources.warehouse import TableName, Warehouse
from tests.lake_shell import run_sql
from tests.platform_assets.partition_checker.columns import NOTHING, Known, facts_of
from tests.platform_assets.partition_checker.shop import DAYS, Shop

CUT = {CUT_OFF: "true"}
FIVE = dg.DailyPartitionsDefinition("2017-01-02", end_date="2017-01-07")
KEYS = list(FIVE.get_partition_keys())
OUTSIDE = "other/x"
"""What the step reads of another step."""

NEEDS: Mapping[str, Mapping[str, int]] = {
    OUTSIDE: {},
    "team/a": {OUTSIDE: 0},
    "team/b": {"team/a": 1},
    "team/c": {"team/a": 0, "team/b": 2, OUTSIDE: 0},
}
"""The days that each asset looks back on each of its upstream assets."""

STEP = ("team/a", "team/b", "team/c")
Pair = tuple[str, str]

while_running: Callable[[dg.AssetExecutionContext], None]
"""What the step does; a test sets it."""


def keyed(name: str) -> dg.AssetKey:
    return dg.AssetKey(name.split("/"))


@dg.multi_asset(
    specs=[dg.AssetSpec(keyed(name), partitions_def=FIVE, skippable=True) for name in STEP],
    can_subset=True,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def step(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
    while_running(context)
    yield from ()


def in_a_step(doing: Callable[[dg.AssetExecutionContext], None]) -> None:
    """Do something where there is a real step to do it in."""
    global while_running
    while_running = doing
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([step], instance=instance, partition_key=KEYS[0])


def needed(name: str, key: str) -> list[Pair]:
    """The upstream pairs of a pair, found one by one."""
    at = KEYS.index(key)
    return [
        (upstream, KEYS[day])
        for upstream, lookback in NEEDS[name].items()
        for day in range(max(0, at - lookback), at + 1)
    ]


@dataclass
class World:
    """Pairs whose content is a number, worked out from the numbers that they read.

    Half of a sum is stored, so that some changes vanish on their way.
    """

    outside: dict[str, int]
    code: dict[str, int]
    contents: dict[Pair, int] = field(default_factory=dict)
    read: dict[Pair, dict[Pair, int]] = field(default_factory=dict)
    built_by: dict[Pair, int] = field(default_factory=dict)
    damaged: set[Pair] = field(default_factory=set)
    failed: set[Pair] = field(default_factory=set)

    def now(self, name: str, key: str) -> dict[Pair, int]:
        """What a pair would read."""
        known = {**self.contents, **{(OUTSIDE, day): number for day, number in self.outside.items()}}
        return {pair: known[pair] for pair in needed(name, key) if pair in known}

    def compute(self, name: str, key: str) -> int:
        pair = name, key
        self.read[pair] = self.now(name, key)
        self.built_by[pair] = self.code[name]
        self.contents[pair] = sum(self.read[pair].values()) // 2 + self.code[name]
        self.damaged.discard(pair)
        self.failed.discard(pair)
        return self.contents[pair]

    def has_to_compute(self, name: str, key: str) -> bool:
        pair = name, key
        if pair not in self.contents or pair in self.damaged or pair in self.failed:
            return True
        return self.built_by[pair] != self.code[name] or self.read[pair] != self.now(name, key)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A world that was built once, and to which something happened since."""
    number = st.integers(0, 4)
    world = World({key: draw(number) for key in KEYS}, dict.fromkeys(STEP, 1))
    for key in KEYS:
        for name in STEP:
            world.compute(name, key)
    pairs = st.sampled_from([(name, key) for name in STEP for key in KEYS])
    for key in draw(st.sets(st.sampled_from(KEYS), max_size=3)):
        world.outside[key] = draw(number)
    for name in draw(st.sets(st.sampled_from(STEP), max_size=1)):
        world.code[name] = draw(st.sampled_from([1, 2]))
    for pair in draw(st.sets(pairs, max_size=3)):
        del world.contents[pair], world.read[pair], world.built_by[pair]
    left = st.sampled_from(sorted(world.contents))
    world.damaged = draw(st.sets(left, max_size=2))
    world.failed = draw(st.sets(left, max_size=2))
    return world


class Rehearsal:
    """A `Build` of the step over a world: receipts in a real ledger, nothing in a lake."""

    def __init__(self, context: dg.AssetExecutionContext, world: World, ledger: Ledger, catalog: LakeCatalog) -> None:
        self.world, self.ledger, self.computed = world, ledger, list[Pair]()
        nodes = [
            Node(
                keyed(name),
                "location",
                FIVE,
                {keyed(upstream): same_time(lookback) for upstream, lookback in reads.items()},
                code_version=f"v{world.code.get(name, 1)}",
                completeness=Completeness(storage="files"),
            )
            for name, reads in NEEDS.items()
        ]
        self.inspector = Inspector(Graph.of(nodes), ledger, catalog, context.instance)
        self.context = context
        receipts = self._receipts()
        ledger.record(list(receipts.values()))
        self.facts = {name: facts_of(name, {key: self._known(receipts, name, key) for key in KEYS}) for name in NEEDS}
        for (name, key), receipt in receipts.items():
            self.facts[name].ids[KEYS.index(key)] = receipt.id

    def build(self, requested: set[Pair], forced: set[Pair]) -> Build:
        return Build(self.context, self.inspector, self.facts, self._masks(requested), self._masks(forced))

    def record(self, build: Build, name: str, keys: list[str]) -> None:
        """Compute and record, as a step does."""
        numbers = {key: self.world.compute(name, key) for key in keys}
        self.computed += [(name, key) for key in keys]
        build.record(keyed(name), {key: Stored(1, f"{number}") for key, number in numbers.items()})

    def _masks(self, pairs: set[Pair]) -> dict[str, np.ndarray]:
        return {name: np.array([(name, key) in pairs for key in KEYS], np.bool_) for name in STEP}

    def _receipts(self) -> dict[Pair, Receipt]:
        """What was recorded of each pair; an input is named by the receipt that held that number."""
        found: dict[Pair, Receipt] = {}
        for key, number in self.world.outside.items():
            found[OUTSIDE, key] = self._receipt(OUTSIDE, key, number, 1, ())
        for key in KEYS:
            for name in STEP:
                if (name, key) in self.world.contents:
                    read = tuple(self._read(pair, number) for pair, number in self.world.read[name, key].items())
                    found[name, key] = self._receipt(
                        name, key, self.world.contents[name, key], self.world.built_by[name, key], read
                    )
        return found

    def _read(self, pair: Pair, number: int) -> Input:
        return Input(*pair, f"id of {number}", self._receipt(*pair, number, 1, ()).content)

    def _receipt(self, name: str, key: str, number: int, code: int, inputs: tuple[Input, ...]) -> Receipt:
        environment = self.ledger.environment
        return Receipt(name, key, f"v{code}", inputs, 1, f"{number}", "", environment, "earlier", recorded_at=1.0)

    def _known(self, receipts: Mapping[Pair, Receipt], name: str, key: str) -> Known:
        receipt = receipts.get((name, key))
        if receipt is None:
            return NOTHING
        return Known(
            receipt.content,
            tuple((read.asset, read.partition, read.content) for read in receipt.inputs),
            rows=1,
            stored=1,
            same_code=name == OUTSIDE or self.world.built_by[name, key] == self.world.code[name],
            damage=Damage(State.LOST, "its file is gone", ()) if (name, key) in self.world.damaged else None,
            failed="boom" if (name, key) in self.world.failed else None,
        )


def by_waves(rehearsal: Rehearsal, build: Build, requested: set[Pair]) -> None:
    for wave in build.waves():
        for key, partitions in wave.items():
            name = "/".join(key.path)
            done = {*rehearsal.computed}
            for partition in partitions:
                unsettled = {*needed(name, partition)} & requested - done - settled(rehearsal)
                assert not unsettled, f"{name}@{partition} before {unsettled}"
            rehearsal.record(build, name, partitions)


def one_by_one(rehearsal: Rehearsal, build: Build, requested: set[Pair]) -> None:
    """As the folds of an ML model go: day by day, each through its stages."""
    for partition in KEYS:
        for name in STEP:
            if build.wants(keyed(name), partition):
                assert {*needed(name, partition)} & requested <= settled(rehearsal)
                rehearsal.record(build, name, [partition])


def settled(rehearsal: Rehearsal) -> set[Pair]:
    """The pairs that have a receipt of this very run."""
    run = rehearsal.context.run.run_id
    return {
        (name, key) for name in STEP for key, receipt in rehearsal.ledger.current(name).items() if receipt.run_id == run
    }


def rebuilt(world: World, requested: set[Pair], forced: set[Pair]) -> set[Pair]:
    """What has to be computed, by going through the asked pairs one by one; leaves the world as it then is."""
    computed = set()
    for key in KEYS:
        for name in STEP:
            if (name, key) in requested and ((name, key) in forced or world.has_to_compute(name, key)):
                world.compute(name, key)
                computed.add((name, key))
            elif (name, key) in requested:
                world.read[name, key] = world.now(name, key)
    return computed


def copy_of(world: World) -> World:
    return World(
        dict(world.outside),
        dict(world.code),
        dict(world.contents),
        dict(world.read),
        dict(world.built_by),
        set(world.damaged),
        set(world.failed),
    )


EVERYTHING = {(name, key) for name in STEP for key in KEYS}


@pytest.mark.parametrize("walk", [by_waves, one_by_one])
def test_computed_is_what_has_changed_or_is_not_intact_or_forced_and_all_that_was_asked_for_is_recorded(
    environment: Environment, walk: Callable[[Rehearsal, Build, set[Pair]], None]
) -> None:
    catalog, uri = LakeCatalog(Warehouse.of(environment)), environment.ledger_uri
    names = (f"dev-{number}" for number in range(10_000))

    def rehearse(context: dg.AssetExecutionContext) -> None:
        @settings(
            max_examples=15,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(worlds(), st.data())
        def case(world: World, data: st.DataObject) -> None:
            pairs = st.sampled_from(sorted(EVERYTHING))
            requested = data.draw(st.one_of(st.just(EVERYTHING), st.sets(pairs, min_size=1)))
            forced = data.draw(st.sets(st.sampled_from(sorted(requested)), max_size=2))
            expected = copy_of(world)
            wanted = rebuilt(expected, requested, forced)
            rehearsal = Rehearsal(context, world, Ledger(uri=uri, environment=next(names)), catalog)
            walk(rehearsal, rehearsal.build(requested, forced), requested)
            assert len(rehearsal.computed) == len(set(rehearsal.computed))
            assert set(rehearsal.computed) == wanted
            assert settled(rehearsal) == requested
            assert world.contents == expected.contents
            receipts = {name: rehearsal.ledger.current(name) for name in STEP}
            assert {pair for pair in requested if receipts[pair[0]][pair[1]].reused} == requested - wanted
            for name, key in requested:
                read = {(one.asset, one.partition): one.id for one in receipts[name][key].inputs}
                now = {pair: rehearsal.facts[pair[0]].ids[KEYS.index(pair[1])] for pair in expected.now(name, key)}
                assert read == now, f"{name}@{key} names other receipts than those of what it reads"
            assert rehearsal.ledger.attempts() == []
            if requested == EVERYTHING:
                clean = Rehearsal(context, copy_of(world), Ledger(uri=uri, environment=next(names)), catalog)
                walk(clean, clean.build(EVERYTHING, EVERYTHING), EVERYTHING)
                assert set(clean.computed) == EVERYTHING
                for name in STEP:
                    ids = {key: receipt.id for key, receipt in clean.ledger.current(name).items()}
                    assert ids == {key: receipt.id for key, receipt in receipts[name].items()}

        case()

    in_a_step(rehearse)


def test_a_wave_that_is_not_recorded_is_refused_instead_of_asked_for_again(environment: Environment) -> None:
    def forget(context: dg.AssetExecutionContext) -> None:
        world = World(dict.fromkeys(KEYS, 1), dict.fromkeys(STEP, 1))
        catalog = LakeCatalog(Warehouse.of(environment))
        rehearsal = Rehearsal(context, world, Ledger.of(environment), catalog)
        with pytest.raises(RuntimeError, match="team/a, team/b, team/c: what was to be computed was not recorded"):
            list(rehearsal.build(EVERYTHING, set()).waves())

    in_a_step(forget)


def test_what_was_not_asked_for_is_not_wanted(environment: Environment) -> None:
    def ask(context: dg.AssetExecutionContext) -> None:
        world = World(dict.fromkeys(KEYS, 1), dict.fromkeys(STEP, 1))
        rehearsal = Rehearsal(context, world, Ledger.of(environment), LakeCatalog(Warehouse.of(environment)))
        build = rehearsal.build({("team/a", KEYS[1])}, set())
        assert not build.wants(keyed("team/a"), KEYS[0])
        assert not build.wants(keyed("team/b"), KEYS[1])
        assert build.wants(keyed("team/a"), KEYS[1])
        assert rehearsal.ledger.attempts()[0].partition == KEYS[1]

    in_a_step(ask)


DAY, NEXT = DAYS[3], DAYS[4]


def test_a_run_without_the_cut_off_computes_all_that_was_asked_for(built: Shop) -> None:
    assert built.build("evens", "sums", first=DAY).success
    assert built.computed == [f"evens@{DAY}", f"sums@{DAY}"]


def test_a_run_with_the_cut_off_confirms_what_is_as_it_was(built: Shop) -> None:
    assert built.build("sales", "evens", "sums", first=DAY, last=NEXT).success
    before, plots = built.ids(), {day: built.event("sums", day).metadata["plot"] for day in (DAY, NEXT)}
    run = built.build("sales", "evens", "sums", first=DAY, last=NEXT, tags=CUT)
    assert run.success
    assert built.computed == []
    assert built.ids() == before
    receipt = built.receipts("sums")[DAY]
    assert (receipt.run_id, receipt.reused) == (run.run_id, True)
    shown = built.event("sums", DAY).metadata
    assert shown["computed"].value == "no: all that it reads is as it was"
    assert {day: built.event("sums", day).metadata["plot"] for day in (DAY, NEXT)} == plots
    assert built.event("sums", NEXT).metadata["dagster/row_count"].value == len(DAYS)


def test_a_pair_that_another_run_records_meanwhile_keeps_that_receipt_and_its_readers_are_computed(
    built: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm, theirs = Build._confirm, replace(built.receipts("evens")[DAY], checksum="other", run_id="another")

    def overtaken(self: Build, name: str, pairs: BoolArray) -> None:
        if name == "shop/evens":
            built.ledger.record([theirs])
        confirm(self, name, pairs)

    monkeypatch.setattr(Build, "_confirm", overtaken)
    assert built.build("evens", "sums", first=DAY, tags=CUT).success
    assert built.receipts("evens")[DAY].run_id == "another"
    assert built.computed == [f"sums@{DAY}"]
    (read,) = [one for one in built.receipts("sums")[DAY].inputs if one.partition == DAY]
    assert read.content == theirs.read_as


def test_a_table_without_partitions_that_is_confirmed_goes_on_showing_its_plot(built: Shop) -> None:
    assert built.build("summary").success
    plot = built.event("summary", "").metadata["plot"]
    assert built.build("summary", tags=CUT).success
    assert built.computed == []
    shown = built.event("summary", "").metadata
    assert (shown["computed"].value, shown["plot"]) == ("no: all that it reads is as it was", plot)
    assert shown["dagster/row_count"].value == 1


def test_what_lies_behind_a_pair_that_was_rebuilt_with_equal_rows_is_confirmed(built: Shop) -> None:
    built.sales[DAY] = [3, 5, *built.sales[DAY]]
    assert built.build("sales", first=DAY).success
    assert built.build("evens", "sums", first=DAY, last=NEXT, tags=CUT).success
    assert built.computed == [f"evens@{DAY}"]
    receipts = built.receipts("sums")
    assert (receipts[DAY].reused, receipts[NEXT].reused, receipts[DAYS[5]].reused) == (True, True, False)
    assert built.build("weeks", tags=CUT).success
    assert built.build("summary", tags=CUT).success
    assert built.computed == []
    assert built.wrong() == {}
    mended = built.ids()
    built.build_all()
    assert built.ids() == mended, "a clean rebuild leaves other receipts"


def test_what_lies_behind_a_pair_that_changed_is_computed_and_nothing_else(built: Shop) -> None:
    built.sales[DAY].append(8)
    assert built.build("sales", first=DAY).success
    assert built.build("evens", "sums", tags=CUT).success
    assert built.computed == [f"evens@{DAY}", f"sums@{DAY}", f"sums@{NEXT}"]


def test_a_pair_whose_file_is_gone_is_computed_again_with_the_same_receipt(built: Shop) -> None:
    before, sums = built.ids(), built.checksums()
    built.file("evens", DAY).unlink()
    assert built.build("evens", "sums", tags=CUT).success
    assert built.computed == [f"evens@{DAY}"]
    assert (built.ids(), built.checksums(), built.wrong()) == (before, sums, {})


def test_a_dropped_table_is_computed_again_with_the_same_receipts(built: Shop) -> None:
    before, sums = built.ids(), built.checksums()
    run_sql(built.warehouse, "drop table lake.shop.evens")
    assert built.build("evens", "sums", tags=CUT).success
    assert built.computed == [f"evens@{day}" for day in DAYS]
    assert (built.ids(), built.checksums(), built.wrong()) == (before, sums, {})


WIDER = "select partition_key, n, 2 * n as twice from lake.shop.sales where n % 2 = 0 and partition_key in {keys}"


def widen(shop: Shop) -> None:
    """Give the even numbers another column, by code that says so."""
    shop.sql["evens"], shop.code["evens"] = WIDER, "v2"


def test_readers_of_a_table_that_only_gained_a_column_need_not_follow(built: Shop) -> None:
    narrow = built.receipts("evens")[DAY]
    widen(built)
    assert built.build("evens", first=DAY).success
    wide = built.receipts("evens")[DAY]
    assert set(schema_columns(wide.schema)) == {"partition_key", "n", "twice"}
    assert (wide.extends, wide.read_as, wide.content == narrow.content) == (narrow.content, narrow.content, False)
    assert {built.pair("sums", day).state for day in DAYS} == {State.VERIFIED}
    assert built.build("evens", first=DAYS[2]).success
    assert built.build("sums", first=DAY, tags=CUT).success
    assert built.computed == []


def test_a_table_that_gained_two_columns_one_after_the_other_still_extends_the_first(built: Shop) -> None:
    narrow = built.receipts("evens")[DAY]
    widen(built)
    assert built.build("evens", first=DAY).success
    built.sql["evens"], built.code["evens"] = WIDER.replace("twice", "twice, 3 * n as thrice"), "v3"
    assert built.build("evens", first=DAY).success
    assert built.receipts("evens")[DAY].extends == narrow.content
    assert {built.pair("sums", day).state for day in DAYS} == {State.VERIFIED}


def test_a_table_that_gained_a_column_and_changed_is_followed(built: Shop) -> None:
    widen(built)
    built.sql["evens"] = WIDER.replace("n % 2 = 0", "n % 2 = 0 and n > 5")
    assert built.build("evens", first=DAY).success
    assert built.receipts("evens")[DAY].extends is None
    assert {day for day in DAYS if built.pair("sums", day).state is State.OUTDATED} == {DAY, NEXT}


def test_a_receipt_tells_what_was_read_and_what_storage_holds(built: Shop) -> None:
    run = built.build("evens", "sums", first=DAY)
    receipt = built.receipts("sums")[DAY]
    assert {(read.asset, read.partition): read.id for read in receipt.inputs} == {
        ("shop/evens", day): built.receipts("evens")[day].id for day in DAYS[2:4]
    }
    assert (receipt.run_id, receipt.rows, receipt.environment) == (run.run_id, 1, "prod")
    assert receipt.checksum == built.warehouse.checksums(TableName("shop", "sums"))[DAY]
    assert receipt.snapshot == built.warehouse.snapshot()
    event = built.event("sums", DAY)
    assert event.metadata["receipt"].value == receipt.id
    assert event.metadata["dagster/partition_row_count"].value == 1
    tags = event.tags or {}
    assert (tags["dagster/data_version"], tags["dagster/code_version"]) == (receipt.id, "v1")


def test_a_pair_that_reads_its_own_assets_day_before_names_the_receipt_that_this_run_left(
    environment: Environment,
) -> None:
    before = dg.TimeWindowPartitionMapping(-1, -1, allow_nonexistent_upstream_partitions=True)
    node = Node(keyed("team/a"), "location", FIVE, {keyed("team/a"): before}, code_version="v1")

    def add_up(context: dg.AssetExecutionContext) -> None:
        ledger = Ledger.of(environment)
        inspector = Inspector(Graph.of([node]), ledger, LakeCatalog(Warehouse.of(environment)), context.instance)
        facts = {"team/a": facts_of("team/a", dict.fromkeys(KEYS, NOTHING))}
        everything = {"team/a": np.ones(len(KEYS), np.bool_)}
        build = Build(context, inspector, facts, everything, everything)
        for wave in build.waves():
            build.record(keyed("team/a"), {key: Stored(1, f"sum up to {key}") for key in wave[keyed("team/a")]})
        receipts = ledger.current("team/a")
        read = {key: [one.id for one in receipt.inputs] for key, receipt in receipts.items()}
        assert read == {key: [receipts[KEYS[at - 1]].id] if at else [] for at, key in enumerate(KEYS)}

    in_a_step(add_up)


def test_an_immutable_pair_is_left_alone_when_what_it_reads_changes(built: Shop) -> None:
    assert built.build("evens", first=DAY).success
    built.declare("evens", immutable_before=DAYS[7])
    built.sales[DAY].append(8)
    assert built.build("sales", first=DAY).success
    before, receipt = built.checksums()["evens"], built.receipts("evens")[DAY]
    plot = built.event("evens", DAY).metadata["plot"]
    built.build("evens", first=DAY, tags=CUT)
    assert (built.computed, built.checksums()["evens"]) == ([], before)
    assert built.receipts("evens")[DAY] == receipt
    shown = built.event("evens", DAY).metadata
    assert (shown["computed"].value, shown["plot"]) == ("no: it is immutable", plot)
    assert built.pair("evens", DAY).state is State.VERIFIED


def test_a_widened_table_that_is_rebuilt_with_equal_rows_outdates_nobody(built: Shop) -> None:
    widen(built)
    assert built.build("evens", first=DAY).success
    assert built.build("evens", first=DAY).success
    assert {built.pair("sums", day).state for day in DAYS} == {State.VERIFIED}
