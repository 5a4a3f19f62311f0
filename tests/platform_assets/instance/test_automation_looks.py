"""Automation looks when something has happened; a look that could find nothing new is left out, and no other."""

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus
from dagster._utils.error import SerializableErrorInfo

from platform_assets.instance import automation_looks
from platform_assets.instance.automation_looks import AT_LEAST_EVERY_SECONDS, resting, when_due

SENSOR = SimpleNamespace(selector_id="selector", get_remote_origin_id=lambda: "origin")


class Daemon:
    """Dagster's look as far as it is seen from outside: it leaves a tick behind, with a status."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.locations = {"one": SimpleNamespace(version_key="1"), "two": SimpleNamespace(version_key="1")}
        self.outcome: TickStatus | None = TickStatus.SKIPPED
        self.interrupted = False
        self.meanwhile: Callable[[], object] = lambda: None
        self.looks = 0
        self._tick = when_due(self._look)

    def look(self, sensor: Any = SENSOR) -> bool:
        """Whether it looked."""
        before = self.looks
        workspace = SimpleNamespace(get_code_location_entries=lambda: self.locations)
        self._tick(self, SimpleNamespace(instance=self.instance), workspace, None, sensor, {})
        return self.looks > before

    def _look(self, *_: object) -> None:
        self.looks += 1
        self.meanwhile()
        if self.outcome:
            tick = TickData(
                "origin",
                "automation",
                InstigatorType.SENSOR,
                self.outcome,
                time.time(),
                selector_id="selector",
                user_interrupted=self.interrupted,
                run_ids=["run"] if self.outcome is TickStatus.SUCCESS else [],
                error=SerializableErrorInfo("", [], None) if self.outcome is TickStatus.FAILURE else None,
            )
            self.instance.create_tick(tick)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time in seconds, `now`, and what the thread has `worked`: both stand still, unless a test moves them."""
    clock = SimpleNamespace(now=1_000.0, worked=0.0)
    told = SimpleNamespace(monotonic=lambda: clock.now, thread_time=lambda: clock.worked, time=time.time)
    monkeypatch.setattr(automation_looks, "time", told)
    return clock


@pytest.fixture
def daemon(clock: SimpleNamespace) -> Iterator[Daemon]:
    with dg.instance_for_test() as instance:
        yield Daemon(instance)


def materialize(daemon: Daemon) -> None:
    daemon.instance.report_runless_asset_event(dg.AssetMaterialization("one"))


def add_run(daemon: Daemon) -> None:
    daemon.instance.add_run(dg.DagsterRun("job", run_id=f"run-{daemon.looks}"))


def reload(daemon: Daemon) -> None:
    daemon.locations = {**daemon.locations, "two": SimpleNamespace(version_key="2")}


def test_after_one_that_found_nothing_there_is_none_in_vain(daemon: Daemon) -> None:
    assert [daemon.look() for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("happening", [materialize, add_run, reload])
def test_whatever_happens_is_looked_at(daemon: Daemon, happening: Callable[[Daemon], None]) -> None:
    daemon.look()
    happening(daemon)
    assert [daemon.look(), daemon.look()] == [True, False]


def test_the_end_of_a_run_is_looked_at(daemon: Daemon) -> None:
    add_run(daemon)
    daemon.look()
    run = daemon.instance.get_runs()[0]
    daemon.instance.report_run_failed(run)
    assert [daemon.look(), daemon.look()] == [True, False]


def test_what_happens_while_it_looks_is_looked_at_next(daemon: Daemon) -> None:
    daemon.meanwhile = lambda: materialize(daemon)
    daemon.look()
    daemon.meanwhile = lambda: None
    assert [daemon.look(), daemon.look()] == [True, False]


@pytest.mark.parametrize("outcome", [TickStatus.SUCCESS, TickStatus.FAILURE, TickStatus.STARTED, None])
def test_one_that_asked_for_something_or_came_to_nothing_is_followed_by_another(
    daemon: Daemon, outcome: TickStatus | None
) -> None:
    daemon.look()
    materialize(daemon)
    daemon.outcome = outcome
    assert [daemon.look(), daemon.look()] == [True, True]
    daemon.outcome = TickStatus.SKIPPED
    assert [daemon.look(), daemon.look()] == [True, False]


def test_one_that_a_person_stopped_is_followed_by_another(daemon: Daemon) -> None:
    daemon.interrupted = True
    assert [daemon.look(), daemon.look()] == [True, True]


def test_the_time_that_passes_is_looked_at(daemon: Daemon, clock: SimpleNamespace) -> None:
    daemon.look()
    clock.now += AT_LEAST_EVERY_SECONDS
    assert [daemon.look(), daemon.look()] == [True, False]


def test_each_sensor_looks_for_itself_and_what_is_no_sensor_always(daemon: Daemon) -> None:
    other = SimpleNamespace(selector_id="other", get_remote_origin_id=lambda: "origin")
    assert [daemon.look(), daemon.look(other), daemon.look(None), daemon.look(None)] == [True] * 4
    assert daemon.look() is False


def test_after_a_look_that_worked_long_automation_rests_longer(daemon: Daemon, clock: SimpleNamespace) -> None:
    def slowly() -> None:
        materialize(daemon)
        clock.worked += 4
        clock.now += 30

    daemon.meanwhile = slowly
    assert [daemon.look(), daemon.look()] == [True, False]
    clock.now += 11.9
    assert daemon.look() is False
    clock.now += 0.2
    assert daemon.look() is True


def test_every_sensor_rests_after_its_own_looks_and_after_failures_too(clock: SimpleNamespace) -> None:
    seen: list[str] = []

    def slowly(process: object, logger: object, sensor: Any, *rest: object) -> list[object]:
        seen.append(sensor.selector_id)
        clock.now += 2
        if sensor.selector_id == "broken":
            raise OSError("broken")
        return [*rest]

    tick = resting(slowly)

    def look(sensor: str) -> list[object]:
        return tick(None, None, SimpleNamespace(selector_id=sensor), "state")

    assert (look("quick"), look("quick")) == (["state"], [])
    with pytest.raises(OSError, match="broken"):
        look("broken")
    assert look("broken") == []
    clock.now += 5
    assert (look("broken"), look("quick")) == ([], ["state"])
    assert seen == ["quick", "broken", "quick"]
