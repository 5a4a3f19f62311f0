"""The main job from end to end: history by backfills, then new days by sensors and automation alone.

Belongs here: the order of the stages and what counts as done. Not here: which days there are (`extent.py`), what a
stage is said to show (`milestones.py`), how anything is built, printing (`report.py`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from rich.progress import Progress

from ml_assets.demo.extent import Extent, Selection
from ml_assets.demo.milestones import BEGUN, reached
from platform_assets.asset_graph.graph import UNPARTITIONED, Graph, ranges
from platform_assets.asset_graph.locations import code_locations
from platform_assets.asset_graph.published import workspace_graph
from platform_assets.feed.delivery import deliver
from platform_assets.instance.client import BackfillStatus, Client
from platform_assets.instance.services import open_instance, running
from platform_assets.partition_checker.causes import Causes
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.patience import Pace, Patience
from platform_assets.progress import tell
from platform_assets.sources.arrival import recorded_versions
from platform_assets.sources.catalogue import SOURCES
from platform_assets.sources.landing import scan
from resources.environment import Environment

STUCK_SECONDS = 600
"""After this long without any event, run or new pair, what is still missing will not come."""
_TELL_SECONDS = 60
"""After this long of the same it says what it waits for."""
_LOOK_SECONDS = 2.0
_WORKING = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]

Key = TypeVar("Key")
Missing = dict[dg.AssetKey, set[str]]
"""Partition keys by asset; assets without any are left out."""


class DemoError(RuntimeError):
    """A stage did not reach its end; the message names the pairs, what they wait for, and where to look."""


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

    def built(self) -> Missing:
        """The pairs that are recorded as materialized."""
        return {node.key: self._built(node.key, node.calendar is not None) for node in self.graph.built}

    def missing(self) -> Missing:
        """The pairs that could be built from what has arrived and are not."""
        arrived = {
            source.upstream_key: set(versions if source.partitions else {UNPARTITIONED} if versions else ())
            for source in SOURCES
            for versions in [recorded_versions(self.instance, source)]
        }
        buildable = self.graph.buildable(arrived)
        built = self.built()
        missing = {key: buildable[key] - there for key, there in built.items()}
        return {key: keys for key, keys in missing.items() if keys}

    def movement(self) -> object:
        """Changes with every event that Dagster records of an asset, and all the time while a run is at work.

        A run whose worker is gone is no longer at work: run monitoring sees to that.
        """
        if self.instance.get_runs_count(dg.RunsFilter(statuses=_WORKING)):
            return time.monotonic()
        queued = self.instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
        return self.instance.event_log_storage.get_maximum_record_id(), queued

    def _built(self, key: dg.AssetKey, partitioned: bool) -> set[str]:
        if partitioned:
            return self.instance.get_materialized_partitions(key)
        return {UNPARTITIONED} if self.instance.get_latest_materialization_event(key) else set()


def run_demo(
    environment: Environment, progress: Progress, extent: Extent, *, new_days: int, seed: int, scale: float
) -> Outcome:
    """Deliver all days of `extent` but the last `new_days`, backfill them, then deliver those days one by one.

    Raises:
        ExtentError: the extent has too few days.
        DemoError: pairs that could be built were not, or a delivery was not noticed.
    """
    history = extent.history(new_days)
    outcome = Outcome()
    feed = partial(_deliver, environment, progress, seed=seed, scale=scale)
    stage = _Stages(outcome, progress).stage
    with ExitStack() as stack:
        with stage("start services, deliver history", BEGUN["start"]):
            # Upstream systems do not wait for Headwater to be up.
            upstream = stack.enter_context(ThreadPoolExecutor(1))
            delivered = upstream.submit(feed, history)
            # Automation is off for the history: what arrives in bulk is built by backfills, in a few large runs.
            off = partial(_automation, on=False)
            client = stack.enter_context(running(environment, port=0, before_daemon=off))
            tell(progress, f"The web UI, while this runs: {client.url}")
            instance = stack.enter_context(open_instance(environment))
            work = _Work(environment, client, Pairs(instance, workspace_graph(environment.home)), progress)
            outcome.delivered += delivered.result()
            work.until_noticed()
        with stage("backfill history", BEGUN["history"]) as built:
            built(work.backfill())
        _automation(client, on=True)
        for back in reversed(range(new_days)):
            with stage(f"new day {extent.named(back)}", BEGUN["day"]) as built:
                outcome.delivered += feed(extent.day(back))
                work.until_noticed()
                built(work.until_built())
        with stage("freshness", BEGUN["freshness"]):
            work.judge_freshness()
    return outcome


@dataclass
class _Stages:
    outcome: Outcome
    progress: Progress

    @contextmanager
    def stage(self, name: str, shows: str) -> Iterator[Callable[[int], None]]:
        tell(self.progress, shows)
        task = self.progress.add_task(name, total=None)
        began = time.perf_counter()

        def built(count: int) -> None:
            self.outcome.built[name] = count

        yield built
        self.outcome.seconds[name] = time.perf_counter() - began
        self.progress.update(task, total=1, completed=1)


@dataclass(frozen=True)
class _Work:
    """Waits for Dagster, as long as anything moves."""

    environment: Environment
    client: Client
    pairs: Pairs
    progress: Progress

    def until_noticed(self) -> None:
        """Wait until the arrival sensors have recorded every partition that was delivered."""

        def unnoticed() -> dict[str, set[str]]:
            found = {}
            for source in SOURCES:
                there = scan(source, self.environment.landing).delivered.keys()
                if waiting := there - recorded_versions(self.pairs.instance, source):
                    found[source.name] = set(waiting)
            return found

        def named(waiting: Mapping[str, set[str]]) -> str:
            counts = ", ".join(f"{len(keys):,} of {name}" for name, keys in waiting.items())
            return f"for arrivals to be noticed: {counts}; see the logs in {self.environment.home / 'logs'}"

        self._until("arrivals noticed", unnoticed, named)

    def backfill(self) -> int:
        """Build what is missing by one Dagster backfill over both code locations; returns the pairs built.

        A backfill that an interrupted demo left behind goes on first: its daemon resumes it.
        """
        first = self.pairs.missing()
        unfinished = BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])
        for left_behind in self.pairs.instance.get_backfills(filters=unfinished):
            self._await(left_behind.backfill_id, first)
        missing = self.pairs.missing()
        if missing:
            asked = _ranges(self.pairs.graph, missing)
            backfill = self.client.launch_backfill("history", asked, {"headwater/demo": "history"})
            status = self._await(backfill, missing)
            if status.status not in ("COMPLETED_SUCCESS", "COMPLETED"):
                raise DemoError(
                    f"backfill {backfill} ended as {status.status} with {status.failed} failed pairs. "
                    f"{status.error or 'Open it in the web UI (make up) to see the failed runs.'}"
                )
            if left := self.pairs.missing():
                raise DemoError(f"the backfill ended and these pairs are still missing: {self._causes(left)}")
        return _count(first)

    def until_built(self) -> int:
        """Wait until automation has built all that can be built now; returns how many pairs that were."""
        first = self.pairs.missing()
        self._until("pairs", self.pairs.missing, lambda missing: f"for automation to build {self._causes(missing)}")
        return _count(first)

    def judge_freshness(self) -> None:
        """Run the job of each location that judges the freshness of its assets."""
        runs = [self.client.launch_job(location, f"{location}_freshness") for location in code_locations()]

        def unfinished() -> dict[str, set[str]]:
            ended = ("SUCCESS", "FAILURE", "CANCELED")
            return {run: {run} for run in runs if self.client.run_status(run) not in ended}

        self._until("runs", unfinished, lambda left: f"for runs to end: {', '.join(left)}")

    def _await(self, backfill: str, missing: Missing) -> BackfillStatus:
        """Wait for the end of a backfill of `missing`, telling of each milestone that it reaches."""
        task = self.progress.add_task("  pairs", total=None)
        moves = self._moves(lambda: f"for backfill {backfill}: {self._causes(self.pairs.missing())}")
        pace, materialized, left = Pace(_LOOK_SECONDS), -1, missing
        while True:
            status = self.client.backfill(backfill)
            if status.materialized != materialized or status.ended:
                materialized, before, left = status.materialized, left, self._left(missing)
                for milestone in reached(before, left):
                    tell(self.progress, str(milestone))
            if status.ended:
                self.progress.remove_task(task)
                return status
            self.progress.update(task, completed=status.materialized, total=status.targeted)
            moves(status)
            pace.rest()

    def _left(self, missing: Missing) -> Missing:
        built = self.pairs.built()
        return {key: keys - built[key] for key, keys in missing.items()}

    def _until(
        self, name: str, look: Callable[[], Mapping[Key, set[str]]], waits: Callable[[Mapping[Key, set[str]]], str]
    ) -> None:
        """Look until nothing is left; `waits` says in words what for."""
        left = look()
        total = _count(left)
        task = self.progress.add_task(f"  {name}", total=total)
        moves, pace = self._moves(lambda: waits(left)), Pace(_LOOK_SECONDS)
        while left:
            moves(_count(left))
            pace.rest()
            left = look()
            self.progress.update(task, completed=total - _count(left))
        self.progress.remove_task(task)

    def _moves(self, waits: Callable[[], str]) -> Callable[[object], None]:
        """What is called with a state at every look: it tells what is waited for, and gives up when nothing moves.

        Raises:
            DemoError: nothing has moved for `STUCK_SECONDS`.
        """
        patience = Patience(STUCK_SECONDS)
        told = 0.0

        def moves(state: object) -> None:
            nonlocal told
            still = patience.still((state, self.pairs.movement()))
            if still > patience.seconds:
                raise DemoError(f"nothing has moved for {STUCK_SECONDS} s while waiting {waits()}")
            told = min(told, still)
            if still - told > _TELL_SECONDS:
                told = still
                tell(self.progress, f"Nothing has moved for {still:.0f} s, waiting {waits()}")

        return moves

    def _causes(self, missing: Mapping[dg.AssetKey, set[str]]) -> str:
        """The first of the missing pairs, upstream before downstream, and what it waits for."""
        if not missing:
            return "no pair that could be built is missing"
        causes = Causes(PartitionChecker.of(self.environment).inspector(self.pairs.instance))
        key = next(key for key in self.pairs.graph.nodes if missing.get(key))
        said = ", ".join(map(str, causes.chain("/".join(key.path), min(missing[key]))))
        more = _count(missing) - 1
        return said + (f"; and {more:,} more pairs" if more else "")


def _automation(client: Client, on: bool) -> None:
    for location in code_locations():
        client.set_sensor(location, f"{location}_automation", on)


def _deliver(environment: Environment, progress: Progress, selection: Selection, *, seed: int, scale: float) -> int:
    """Deliver `selection`, and everything unpartitioned with it; returns how many were new or changed."""
    task = progress.add_task("  deliver", total=sum(map(len, selection.values())))
    deliveries = deliver(
        environment.landing, selection, seed=seed, scale=scale, report=lambda delivery: progress.advance(task)
    )
    progress.remove_task(task)
    return sum(delivery.outcome == "delivered" for delivery in deliveries)


def _ranges(graph: Graph, pairs: Mapping[dg.AssetKey, set[str]]) -> dict[dg.AssetKey, Sequence[tuple[str, str]] | None]:
    found: dict[dg.AssetKey, Sequence[tuple[str, str]] | None] = {}
    for key, keys in pairs.items():
        calendar = graph.nodes[key].calendar
        found[key] = None if calendar is None else ranges(calendar, keys)
    return found


def _count(pairs: Mapping[Key, set[str]]) -> int:
    return sum(map(len, pairs.values()))
