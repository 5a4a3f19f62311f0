"""Sensors rest after a look, and automation looks again when something has happened, not for the sake of looking.

Dagster evaluates every condition of every asset each few seconds, whether or not anything has moved since: on an idle
instance a fifth of a core, and on a busy machine, where a look takes longer than the pause, a core for each sensor.
Belongs here: what may change the outcome of a look, and whether one is due. Not here: what a look does, which is
Dagster's, and how often one may be at most (`automation.py`).
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import dagster as dg
from dagster._core.remote_representation.external import RemoteSensor
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus
from dagster._core.workspace.context import BaseWorkspaceRequestContext, IWorkspaceProcessContext
from dagster._core.workspace.workspace import CodeLocationEntry
from dagster._daemon.asset_daemon import AssetDaemon

from platform_assets.patience import rest

AT_LEAST_EVERY_SECONDS = 60.0
"""The clock moves too: partitions begin, and pairs become late."""


class Seen(NamedTuple):
    """What there was to look at: all that a condition reads grows one of these, except the time."""

    newest_event: int | None
    newest_change_of_a_run: str
    locations: frozenset[tuple[str, str]]

    @classmethod
    def now(cls, instance: dg.DagsterInstance, locations: Mapping[str, CodeLocationEntry]) -> "Seen":
        """What there is in `instance`, and which load of each code location."""
        runs = instance.get_run_records(limit=1, order_by="update_timestamp", ascending=False)
        return cls(
            instance.event_log_storage.get_maximum_record_id(),
            "".join(f"{run.dagster_run.run_id} {run.dagster_run.status} {run.update_timestamp}" for run in runs),
            frozenset((name, entry.version_key) for name, entry in locations.items()),
        )


class Looks:
    """Which looks led to nothing, and what there was to see when they began; by sensor."""

    def __init__(self) -> None:
        self._settled: dict[str, tuple[Seen, float]] = {}

    def is_due(self, sensor: str, seen: Seen, now: float) -> bool:
        """Whether a look could find what the last one did not.

        Args:
            sensor: whose conditions would be looked at.
            seen: what there is to look at.
            now: the moment, in seconds of a clock that never goes back.
        """
        last = self._settled.get(sensor)
        return last is None or last[0] != seen or now - last[1] >= AT_LEAST_EVERY_SECONDS

    def ended(self, sensor: str, seen: Seen, began: float, is_settled: bool) -> None:
        """Remember a look: what there was to see *before* it began, and whether it is done with that.

        One that asked for something or failed is not: the next one sees what it asked for, or tries again.
        """
        if is_settled:
            self._settled[sensor] = (seen, began)
        else:
            self._settled.pop(sensor, None)


class Rests:
    """Until when each sensor rests, for as long as its last look needs."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def now(self, sensor: str) -> bool:
        """Whether `sensor` rests at this moment."""
        return time.monotonic() < self._until.get(sensor, 0.0)

    @contextmanager
    def after(self, sensor: str, clock: Callable[[], float]) -> Iterator[None]:
        """A look of `sensor`, which rests afterwards, for how long the look took by `clock`."""
        began = clock()
        try:
            yield
        finally:
            self._until[sensor] = time.monotonic() + rest(clock() - began, 0.0)


def resting(tick: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """`tick` of a sensor, left out while it rests. It is the sensor's code server that works meanwhile."""
    rests = Rests()

    @functools.wraps(tick)
    def ticked(
        process: IWorkspaceProcessContext[Any], logger: logging.Logger, sensor: RemoteSensor, *rest: Any
    ) -> list[Any]:
        if rests.now(sensor.selector_id):
            return []
        with rests.after(sensor.selector_id, time.monotonic):
            return tick(process, logger, sensor, *rest)

    return ticked


def when_due(tick: Callable[..., Any]) -> Callable[..., Any]:
    """`tick` of automation, left out while it rests, and while nothing has happened since one that led to nothing.

    It works in its own thread: what it waited for there, a run that is being launched, is no reason to rest.
    """
    looks, rests = Looks(), Rests()

    @functools.wraps(tick)
    def ticked(
        daemon: AssetDaemon,
        process: IWorkspaceProcessContext[Any],
        workspace: BaseWorkspaceRequestContext,
        repository: Any,
        sensor: RemoteSensor | None,
        crash_flags: Any,
    ) -> None:
        if sensor is None:
            tick(daemon, process, workspace, repository, sensor, crash_flags)
            return
        if rests.now(sensor.selector_id):
            return
        began, clock = time.monotonic(), time.time()
        seen = Seen.now(process.instance, workspace.get_code_location_entries())
        if looks.is_due(sensor.selector_id, seen, began):
            with rests.after(sensor.selector_id, time.thread_time):
                tick(daemon, process, workspace, repository, sensor, crash_flags)
            ticks = process.instance.get_ticks(sensor.get_remote_origin_id(), sensor.selector_id, limit=1)
            # Dagster may have left it out: then the newest tick is of before, and has not seen this.
            settled = any(one.timestamp >= clock and _asked_for_nothing(one) for one in ticks)
            looks.ended(sensor.selector_id, seen, began, settled)

    return ticked


def _asked_for_nothing(tick: InstigatorTick) -> bool:
    return tick.status is TickStatus.SKIPPED and not tick.tick_data.user_interrupted
