"""Recovery with the real daemon: a lost file is named, refused and healed exactly; repeated kills change no result."""

import math
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dagster as dg
import pytest

from platform_assets.asset_graph.selections import pairs_named
from platform_assets.feed.delivery import deliver, select
from platform_assets.instance.client import Client
from platform_assets.instance.services import open_instance, running
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partition_checker.states import State
from platform_assets.patience import Patience
from platform_assets.plans.launching import RecoveryRefused, done_since, launch
from platform_assets.plans.plan import Plan
from platform_assets.plans.roots import PairStates, changed, unhealthy
from platform_assets.sources.arrival import find_arrivals, recorded_versions
from platform_assets.sources.catalogue import SOURCES
from resources.environment import Environment
from resources.lake_catalog import LakeCatalog
from resources.warehouse import TableName, Warehouse
from tests.patience import PATIENCE_SECONDS, SOAK, wait, work_of

pytestmark = pytest.mark.xdist_group("recovery")

WEEK = "2017-12-04..2017-12-10"
SCALE = 0.02
KILLS = 8 if SOAK else 3
SERVICES = ("instance.web_server", "instance.daemon", "instance.code_server", "dagster._cli", "grpc")

Receipts = dict[str, dict[str, str]]
"""Ids by asset and partition."""


@dataclass
class Platform:
    """The services of one environment, automation off, and the pairs as they stand."""

    environment: Environment
    instance: dg.DagsterInstance
    stack: ExitStack
    client: Client

    def restart(self) -> None:
        self.stack.close()
        self.client = self.stack.enter_context(running(self.environment, 0, before_daemon=_automation_off))

    def inspector(self) -> Inspector:
        return PartitionChecker.of(self.environment).inspector(self.instance)

    def healing(self) -> Plan:
        situation = PairStates.now(self.inspector())
        return situation.plan(unhealthy(situation, pairs_named(situation.graph, ["webtoon"], WEEK)))

    def carry_out(self, plan: Plan) -> None:
        launched = launch(plan, self.inspector(), self.client)
        assert launched.backfill
        wait("the recovery", lambda: self.client.backfill(launched.backfill or "").ended, self.moves)
        assert not self.left(plan)

    def moves(self) -> object:
        return work_of(self.instance)()

    def left(self, plan: Plan) -> list[str]:
        done = done_since(plan, self.inspector())
        return [f"{pair.asset}@{pair.partition}" for pair in plan.pairs if not done(pair.asset, pair.partition)]

    def receipts(self) -> Receipts:
        standings = self.inspector().ledger.standings()
        return {
            name: dict(zip(found.partitions, found.ids, strict=True))
            for name, found in standings.items()
            if name.startswith("webtoon/")
        }

    def built_by(self) -> dict[str, str]:
        """The run of each current receipt whose pair was computed, by pair."""
        ledger = self.inspector().ledger
        return {
            f"{name}@{receipt.partition}": receipt.run_id
            for name in ledger.standings()
            for receipt in ledger.current(name).values()
            if not receipt.reused
        }

    def checksums(self) -> dict[str, dict[str, str]]:
        warehouse = Warehouse.of(self.environment)
        return {str(table): warehouse.checksums(table) for table in warehouse.tables() if table.schema == "webtoon"}

    def deliver(self, span: str, incident: str | None = None) -> None:
        deliver(self.environment.landing, select(["webtoon"], span), scale=SCALE, incident=incident)
        wait("the delivery to be noticed", self._noticed, self.moves)

    def _noticed(self) -> bool:
        """Whether the sensor has recorded the version of everything that lies there, corrections included."""
        recorded = partial(recorded_versions, self.instance)
        return not find_arrivals(SOURCES, self.environment.landing, recorded, {}, seconds=math.inf).arrivals


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, extensions: Path) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("recovery") / "home"
    home.mkdir()
    environment = Environment.of({"HEADWATER_HOME": str(home)})
    environment.extensions.symlink_to(extensions)
    patch = pytest.MonkeyPatch()
    patch.setenv("HEADWATER_HOME", str(home))
    with open_instance(environment) as instance, ExitStack() as stack:
        client = stack.enter_context(running(environment, 0, before_daemon=_automation_off))
        platform = Platform(environment, instance, stack, client)
        platform.deliver(WEEK)
        platform.carry_out(platform.healing())
        yield platform
    patch.undo()


def _automation_off(client: Client) -> None:
    for location in ("platform_assets", "ml_assets"):
        client.set_sensor(location, f"{location}_automation", False)


def test_a_lost_file_is_named_refused_downstream_and_healed_with_what_depends_on_it(platform: Platform) -> None:
    sums, receipts = platform.checksums(), platform.receipts()
    table = TableName("webtoon", "int_reads_sessionized")
    files = LakeCatalog(Warehouse.of(platform.environment)).files([table])[table]
    file = Path(files.paths[files.partitions.index("2017-12-06-13:00")])
    file.unlink()

    pair = _state(platform, "webtoon/int_reads_sessionized", "2017-12-06-13:00")
    assert (pair.state, file.name in pair.reason) == (State.LOST, True)

    refused = platform.client.launch_backfill(
        "by hand", {dg.AssetKey(["webtoon", "series_days"]): [("2017-12-06",) * 2]}, {}
    )
    wait("the refusal", lambda: platform.client.backfill(refused).ended, platform.moves)
    run = platform.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": refused}))[0]
    failures = [
        str(log.dagster_event.event_specific_data)
        for log in platform.instance.all_logs(run.run_id, dg.DagsterEventType.STEP_FAILURE)
        if log.dagster_event
    ]
    assert any("webtoon/int_reads_sessionized@2017-12-06-13:00 is lost" in failure for failure in failures)

    before = platform.built_by()
    plan = platform.healing()
    assert {pair.asset for pair in plan.pairs} >= {"webtoon/int_reads_sessionized", "webtoon/series_days"}
    platform.carry_out(plan)
    computed = {pair for pair, run in platform.built_by().items() if before.get(pair) != run}
    assert computed == {"webtoon/int_reads_sessionized@2017-12-06-13:00"}, "more was computed than was lost"
    assert platform.checksums() == sums
    assert platform.receipts() == receipts
    again = launch(plan, platform.inspector(), platform.client)
    assert again.backfill is None, "a plan that was carried out was launched again"


def test_a_recovery_under_repeated_kills_ends_like_an_undisturbed_one(platform: Platform) -> None:
    platform.deliver("2017-12-05..2017-12-08", incident="corrected")
    wait("the new versions", lambda: platform.healing().pair_count >= 200, platform.moves)
    plan = platform.healing()
    assert plan.pair_count >= 200
    chance = random.Random(int(os.environ.get("HEADWATER_TEST_SEED", "7")))
    launched = launch(plan, platform.inspector(), platform.client)
    other = PairStates.now(platform.inspector()).plan(
        changed(platform.inspector().graph, ["webtoon/raw_reads@2017-12-06"])
    )
    with pytest.raises(RecoveryRefused, match=plan.id):
        launch(other, platform.inspector(), platform.client)
    killed: list[str] = []
    patience = Patience(PATIENCE_SECONDS)
    while left := platform.left(plan):
        still = patience.over((left, len(killed), platform.moves()))
        assert not still, f"nothing moves after {len(killed)} kills: {left[:5]}"
        time.sleep(chance.uniform(0.5, 4.0))
        if len(killed) < KILLS:
            victim = _kill_one(platform.environment, chance)
            killed.append(victim)
            if any(name in victim for name in SERVICES):
                platform.restart()
        if launched.backfill and platform.client.backfill(launched.backfill).ended:
            launched = launch(plan, platform.inspector(), platform.client)
    assert len(killed) > KILLS / 2, "it was over before anything was disturbed"
    if launched.backfill:
        last = launched.backfill
        wait("the last backfill", lambda: platform.client.backfill(last).ended, platform.moves)
    disturbed = platform.checksums(), platform.receipts()

    platform.restart()
    whole = PairStates.now(platform.inspector())
    platform.carry_out(whole.plan(changed(whole.graph, ["webtoon/raw_reads@2017-12-05..2017-12-08"])))
    assert (platform.checksums(), platform.receipts()) == disturbed
    print(f"killed {len(killed)}: {killed}")


def _state(platform: Platform, asset: str, partition: str):  # type: ignore[no-untyped-def]
    judged = platform.inspector().judged({asset: None})[asset]
    return judged.pair(judged.facts.place[partition])


def _kill_one(environment: Environment, chance: random.Random) -> str:
    """Kill a random process of the environment, as a lack of memory would; returns what it was."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            variables = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if f"HEADWATER_HOME={environment.home}\0".encode() in variables and command:
            found[int(folder.name)] = command
    # There are more services than run workers and dbt processes, and these do the work: one time in two one of them.
    services = {pid for pid, command in found.items() if any(name in command for name in SERVICES)}
    kinds = [kind for kind in (services, found.keys() - services) if kind]
    if not kinds:
        return "nothing"
    victim = chance.choice(sorted(chance.choice(kinds)))
    os.kill(victim, signal.SIGKILL)
    return found[victim]
