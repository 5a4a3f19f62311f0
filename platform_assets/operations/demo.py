"""The main job from end to end: history by backfills, then new days by sensors and automation alone.

Belongs here: the order of the stages and what counts as done. Not here: how anything is built, printing
(`report.py`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from rich.progress import Progress

from platform_assets.feed.delivery import deliver, select
from platform_assets.operations.client import BackfillStatus, Client
from platform_assets.operations.graph import UNPARTITIONED, Graph, code_locations, ranges
from platform_assets.operations.services import open_instance, running
from platform_assets.sources.arrival import recorded_versions
from platform_assets.sources.catalogue import SOURCES
from platform_assets.sources.landing import scan
from resources.environment import Environment

FIRST_DAY = date(2016, 12, 26)
LAST_DAY = date(2017, 12, 31)
_LOOK_SECONDS = 2.0
_STUCK_SECONDS = 120
"""After this long without a run, a backfill or a new pair, what is still missing will not come."""


class DemoError(RuntimeError):
    """A stage did not reach its end; the message names the pairs and where to look."""


@dataclass
class Outcome:
    """What the demo did: seconds by stage, and by stage the pairs that it built."""

    seconds: dict[str, float] = field(default_factory=dict)
    built: dict[str, int] = field(default_factory=dict)
    delivered: int = 0

    @property
    def changed(self) -> bool:
        """Whether anything was delivered or built."""
        return bool(self.delivered or sum(self.built.values()))


@dataclass(frozen=True)
class Pairs:
    """What is there and what could be, over the whole graph; `instance` is Dagster's."""

    instance: dg.DagsterInstance
    graph: Graph

    def built(self) -> dict[dg.AssetKey, set[str]]:
        """The pairs that are recorded as materialized."""
        return {node.key: self._built(node.key, node.calendar is not None) for node in self.graph.built}

    def missing(self) -> dict[dg.AssetKey, set[str]]:
        """The pairs that could be built from what has arrived and are not; assets without such are left out."""
        arrived = {
            source.upstream_key: set(versions if source.partitions else {UNPARTITIONED} if versions else ())
            for source in SOURCES
            for versions in [recorded_versions(self.instance, source)]
        }
        buildable = self.graph.buildable(arrived)
        built = self.built()
        missing = {key: buildable[key] - there for key, there in built.items()}
        return {key: keys for key, keys in missing.items() if keys}

    def _built(self, key: dg.AssetKey, partitioned: bool) -> set[str]:
        if partitioned:
            return self.instance.get_materialized_partitions(key)
        return {UNPARTITIONED} if self.instance.get_latest_materialization_event(key) else set()


def run_demo(environment: Environment, progress: Progress, *, new_days: int, seed: int, scale: float) -> Outcome:
    """Deliver all but the last `new_days`, backfill them, then deliver those days one by one.

    Raises:
        DemoError: pairs that could be built were not, or a delivery was not noticed.
    """
    outcome = Outcome()
    timer = _Timer(outcome, progress)
    days = [LAST_DAY - timedelta(days=back) for back in reversed(range(new_days))]
    history = f"{FIRST_DAY}..{days[0] - timedelta(days=1) if days else LAST_DAY}"
    with ExitStack() as stack:
        with timer.stage("start services, deliver history"):
            # Upstream systems do not wait for Headwater to be up.
            upstream = stack.enter_context(ThreadPoolExecutor(1))
            delivered = upstream.submit(_deliver, environment, progress, history, seed, scale)
            # Automation is off for the history: what arrives in bulk is built by backfills, in a few large runs.
            off = partial(_automation, on=False)
            client = stack.enter_context(running(environment, port=0, before_daemon=off))
            instance = stack.enter_context(open_instance(environment))
            pairs = Pairs(instance, Graph.of_workspace())
            outcome.delivered += delivered.result()
            _until_noticed(environment, instance, progress)
        with timer.stage("backfill history") as built:
            built(_backfill(client, pairs, progress))
        _automation(client, on=True)
        for day in days:
            with timer.stage(f"new day {day}") as built:
                outcome.delivered += _deliver(environment, progress, str(day), seed, scale)
                _until_noticed(environment, instance, progress)
                built(_until_built(client, pairs, progress))
        with timer.stage("freshness"):
            _judge_freshness(client)
    return outcome


@dataclass
class _Timer:
    outcome: Outcome
    progress: Progress

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int], None]]:
        task = self.progress.add_task(name, total=None)
        began = time.perf_counter()

        def built(count: int) -> None:
            self.outcome.built[name] = count

        yield built
        self.outcome.seconds[name] = time.perf_counter() - began
        self.progress.update(task, total=1, completed=1)


def _automation(client: Client, on: bool) -> None:
    for location in code_locations():
        client.set_sensor(location, f"{location}_automation", on)


def _deliver(environment: Environment, progress: Progress, span: str, seed: int, scale: float) -> int:
    """Deliver the partitions of `span` and everything unpartitioned; returns how many were new or changed."""
    selection = select((), span)
    task = progress.add_task("  deliver", total=sum(map(len, selection.values())))
    deliveries = deliver(
        environment.landing, selection, seed=seed, scale=scale, report=lambda delivery: progress.advance(task)
    )
    progress.remove_task(task)
    return sum(delivery.outcome == "delivered" for delivery in deliveries)


def _until_noticed(environment: Environment, instance: dg.DagsterInstance, progress: Progress) -> None:
    """Wait until the arrival sensors have recorded every partition that was delivered."""
    task = progress.add_task("  arrivals noticed", total=None)
    patience = _Patience()
    waiting: dict[str, int] = {}
    while True:
        before, waiting = waiting, {}
        for source in SOURCES:
            unnoticed = scan(source, environment.landing).delivered.keys() - recorded_versions(instance, source)
            if unnoticed:
                waiting[source.name] = len(unnoticed)
        if not waiting:
            break
        if patience.over(waiting != before):
            raise DemoError(f"arrivals were not noticed: {waiting}; see the logs in {environment.home / 'logs'}")
        time.sleep(_LOOK_SECONDS)
    progress.remove_task(task)


def _backfill(client: Client, pairs: Pairs, progress: Progress) -> int:
    """Build what is missing by one Dagster backfill over both code locations; returns the pairs built.

    A backfill that an interrupted demo left behind goes on first: its daemon resumes it.
    """
    missing = pairs.missing()
    total = sum(map(len, missing.values()))
    unfinished = pairs.instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED]))
    for left_behind in unfinished:
        _await_backfill(client, left_behind.backfill_id, progress)
    missing = pairs.missing()
    if not missing:
        return total
    backfill = client.launch_backfill("history", _ranges(pairs.graph, missing), {"headwater/demo": "history"})
    status = _await_backfill(client, backfill, progress)
    if status.status not in ("COMPLETED_SUCCESS", "COMPLETED"):
        raise DemoError(
            f"backfill {backfill} ended as {status.status} with {status.failed} failed pairs. "
            f"{status.error or 'Open it in the web UI (make up) to see the failed runs.'}"
        )
    if left := pairs.missing():
        raise DemoError(f"the backfill ended and these pairs are still missing: {_named(left)}")
    return total


def _await_backfill(client: Client, backfill: str, progress: Progress) -> BackfillStatus:
    task = progress.add_task("  pairs", total=None)
    while not (status := client.backfill(backfill)).ended:
        progress.update(task, completed=status.materialized, total=status.targeted)
        time.sleep(_LOOK_SECONDS)
    progress.remove_task(task)
    return status


def _until_built(client: Client, pairs: Pairs, progress: Progress) -> int:
    """Wait until automation has built everything that can be built now; returns how many pairs that were."""
    first = missing = pairs.missing()
    task = progress.add_task("  pairs", total=sum(map(len, first.values())))
    deadline = _Patience()
    while missing:
        time.sleep(_LOOK_SECONDS)
        before, missing = missing, pairs.missing()
        progress.update(task, completed=sum(map(len, first.values())) - sum(map(len, missing.values())))
        if deadline.over(missing != before or client.active_runs() > 0):
            raise DemoError(f"automation has built nothing for {_STUCK_SECONDS} s; missing: {_named(missing)}")
    progress.remove_task(task)
    return sum(map(len, first.values()))


def _judge_freshness(client: Client) -> None:
    runs = [client.launch_job(location, f"{location}_freshness") for location in code_locations()]
    while any(client.run_status(run) not in ("SUCCESS", "FAILURE", "CANCELED") for run in runs):
        time.sleep(_LOOK_SECONDS)


@dataclass
class _Patience:
    """Counts the time since something last moved."""

    since: float = field(default_factory=time.monotonic)

    def over(self, moved: bool) -> bool:
        if moved:
            self.since = time.monotonic()
        return time.monotonic() - self.since > _STUCK_SECONDS


def _ranges(graph: Graph, pairs: Mapping[dg.AssetKey, set[str]]) -> dict[dg.AssetKey, Sequence[tuple[str, str]] | None]:
    found: dict[dg.AssetKey, Sequence[tuple[str, str]] | None] = {}
    for key, keys in pairs.items():
        calendar = graph.nodes[key].calendar
        found[key] = None if calendar is None else ranges(calendar, keys)
    return found


def _named(pairs: Mapping[dg.AssetKey, set[str]]) -> str:
    return "; ".join(
        f"{key.to_user_string()} {', '.join(sorted(keys)[:3])}{' …' if len(keys) > 3 else ''}"
        for key, keys in pairs.items()
    )
