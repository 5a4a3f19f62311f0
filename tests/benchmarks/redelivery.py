"""A redelivery of 30 days of which in truth 3 were corrected, recovered with the early cut-off and without.

Belongs here: playing it on the demo's own lake with the real services, and taking it back. Each recovery is timed from
its launch to the end of its backfill. Which pairs had to be computed is told by an oracle that knows nothing of plans:
those of which an input's content differs before and after.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg

from platform_assets.asset_graph.locations import code_locations
from platform_assets.asset_graph.selections import pairs_named
from platform_assets.feed.delivery import deliver, select
from platform_assets.instance.client import Client
from platform_assets.instance.services import open_instance, running
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.facts import Inspector
from platform_assets.plans.launching import follow, launch
from platform_assets.plans.plan import Plan, ranges_of
from platform_assets.plans.roots import PairStates, unhealthy
from platform_assets.sources.arrival import recorded_versions
from platform_assets.sources.catalogue import SOURCES
from platform_assets.sources.landing import fingerprint, look
from resources.environment import Environment

DAYS = "2017-12-01..2017-12-30"
CORRECTED = ("2017-12-27", "2017-12-28", "2017-12-30")
"""Late ones: what reads a day also reads its week, and the eight and thirteen weeks that follow."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Redelivery:
    """How long it took, and how many pairs were computed."""

    cut_off_seconds: float
    computed: int
    whole_seconds: float
    whole: int


def redelivered(environment: Environment) -> Redelivery:
    """Deliver, recover, recover without the cut-off, and take it back."""
    with open_instance(environment) as instance, _services(environment) as client:
        checker = PartitionChecker.of(environment)
        _deliver(environment, instance, None, DAYS)
        if wrong := _plan(checker.inspector(instance)).pair_count:
            raise SystemExit(f"{wrong} pairs are not verified: headwater plan --unhealthy, then recover them first")
        before = _contents(checker.inspector(instance))
        _deliver(environment, instance, "reordered", DAYS)
        for day in CORRECTED:
            _deliver(environment, instance, "corrected", day)
        plan = _plan(checker.inspector(instance))
        seconds = _timed(lambda: launch(plan, checker.inspector(instance), client).backfill, client)
        computed = _computed(checker.inspector(instance), plan)
        expected = _oracle(checker.inspector(instance), before, plan)
        assert computed == expected, sorted(computed ^ expected)[:5]
        everything = {dg.AssetKey(asset.split("/")): spans for asset, spans in ranges_of(plan).items()}
        whole = _timed(lambda: client.launch_backfill("all of it again", everything, {}), client)
        _deliver(environment, instance, None, DAYS)
        back = _plan(checker.inspector(instance))
        _timed(lambda: launch(back, checker.inspector(instance), client).backfill, client)
        assert _contents(checker.inspector(instance)) == before, "the lake is not what it was"
    return Redelivery(seconds, len(computed), whole, plan.pair_count)


@contextmanager
def _services(environment: Environment) -> Iterator[Client]:
    """The services with automation off, which is on again afterwards."""

    def automation(client: Client, on: bool) -> None:
        for location in code_locations():
            client.set_sensor(location, f"{location}_automation", on)

    with running(environment, 0, before_daemon=lambda client: automation(client, False)) as client:
        yield client
        automation(client, True)


def _deliver(environment: Environment, instance: dg.DagsterInstance, incident: str | None, span: str) -> None:
    """Deliver, and wait until the sensor has recorded every version."""
    selection = select(["commerce/transactions"], span)
    deliver(environment.landing, selection, incident=incident)
    (source,) = [source for source in SOURCES if source.name in selection]
    versions = {}
    for key in selection[source.name]:
        delivery = look(source, environment.landing, key)
        assert delivery
        versions[key] = fingerprint(source, delivery).data_version
    while not versions.items() <= recorded_versions(instance, source).items():
        time.sleep(0.5)


def _plan(inspector: Inspector) -> Plan:
    situation = PairStates.now(inspector)
    return situation.plan(unhealthy(situation, pairs_named(situation.graph, ["commerce"], None)))


def _timed(begin: Callable[[], str | None], client: Client) -> float:
    began = time.perf_counter()
    backfill = begin()
    assert backfill
    status = follow(backfill, client, lambda _: None)
    assert status.status == "COMPLETED_SUCCESS", status
    return time.perf_counter() - began


def _contents(inspector: Inspector) -> dict[Pair, str]:
    """What readers see of every pair, deliveries aside."""
    everything = dict.fromkeys(node.name for node in inspector.graph.built if node.key.path[0] == "commerce")
    facts = {name: judged.facts for name, judged in inspector.judged(everything).items()}
    return {(name, key): found.contents[at] for name, found in facts.items() for key, at in found.place.items()}


def _computed(inspector: Inspector, plan: Plan) -> set[Pair]:
    """The planned pairs that were computed since the plan was made."""
    made = plan.created_at.timestamp()
    return {
        (selection.asset, receipt.partition)
        for selection in plan.selections
        for receipt in inspector.ledger.current(selection.asset, selection.partitions).values()
        if receipt.recorded_at >= made and not receipt.reused
    }


def _oracle(inspector: Inspector, before: dict[Pair, str], plan: Plan) -> set[Pair]:
    """The raw days that were delivered again, and every pair that reads one whose content is another than before."""
    after = _contents(inspector)
    changed = {pair for pair in after if after[pair] != before[pair]}
    found: set[Pair] = set()
    for node in inspector.graph.built:
        reads = inspector.graph.requirements(node)
        for at, key in enumerate(node.pairs):
            for name, needed in reads.items():
                keys = inspector.graph.named[name].pairs
                if any((name, keys[number]) in changed for number in needed.upstream_of(at)):
                    found.add((node.name, key))
    raw = {("commerce/raw_transactions", key) for key in plan.roots["commerce/raw_transactions"]}
    return found | raw
