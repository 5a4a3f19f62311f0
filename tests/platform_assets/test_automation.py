"""Automation asks for a pair when its whole upstream is there, not before, and not for ever."""

from collections.abc import Iterator

import dagster as dg
import pytest

from platform_assets.automation import when_upstream_complete
from platform_assets.partitions import same_time

DAILY = dg.DailyPartitionsDefinition("2017-01-02", end_date="2017-01-16")
WEEKLY = dg.WeeklyPartitionsDefinition("2017-01-02", end_date="2017-01-16", day_offset=1)
FIRST_WEEK = [f"2017-01-{day:02d}" for day in range(2, 9)]

upstream = dg.AssetSpec("days", partitions_def=DAILY)


@dg.asset(
    deps=[dg.AssetDep("days", partition_mapping=same_time())],
    partitions_def=WEEKLY,
    automation_condition=when_upstream_complete(
        dg.AssetSpec("weeks", deps=[dg.AssetDep("days", partition_mapping=same_time())])
    ),
)
def weeks() -> None:
    while_running()
    raise dg.Failure("always")


def while_running() -> None:
    """What happens during a run; a test looks again then, as the daemon does every few seconds."""


class Ticks:
    """Evaluates automation tick by tick, as the daemon would."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.defs = dg.Definitions(assets=[upstream, weeks])
        self.cursor = None

    def requested(self) -> set[str]:
        found = dg.evaluate_automation_conditions(self.defs, self.instance, cursor=self.cursor)
        self.cursor = found.cursor
        return found.get_requested_partitions(dg.AssetKey("weeks")) - {None}

    def arrive(self, *days: str) -> None:
        for day in days:
            self.instance.report_runless_asset_event(dg.AssetMaterialization("days", partition=day))

    def built(self, week: str) -> None:
        self.instance.report_runless_asset_event(dg.AssetMaterialization("weeks", partition=week))

    def fail(self, week: str) -> None:
        """A run of `week` that the daemon sees running before it fails."""
        global while_running
        while_running = lambda: self.requested() and None  # noqa: E731
        assert not dg.materialize([weeks], instance=self.instance, partition_key=week, raise_on_error=False).success


@pytest.fixture
def ticks() -> Iterator[Ticks]:
    with dg.DagsterInstance.ephemeral() as instance:
        state = Ticks(instance)
        assert state.requested() == set()
        yield state


def test_a_week_is_requested_with_its_last_day_and_only_once(ticks: Ticks) -> None:
    ticks.arrive(*FIRST_WEEK[:-1])
    assert ticks.requested() == set()
    ticks.arrive(FIRST_WEEK[-1])
    assert ticks.requested() == {"2017-01-02"}
    assert ticks.requested() == set()
    ticks.built("2017-01-02")
    assert ticks.requested() == set()


def test_what_arrived_before_automation_first_looked_is_requested() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        late = Ticks(instance)
        late.arrive(*FIRST_WEEK)
        assert late.requested() == {"2017-01-02"}
        assert late.requested() == set()


def test_a_redelivered_old_day_requests_its_week_again(ticks: Ticks) -> None:
    ticks.arrive(*FIRST_WEEK)
    assert ticks.requested() == {"2017-01-02"}
    ticks.built("2017-01-02")
    assert ticks.requested() == set()
    ticks.arrive("2017-01-04")
    assert ticks.requested() == {"2017-01-02"}


def test_what_arrives_between_a_request_and_the_next_look_is_not_lost(ticks: Ticks) -> None:
    ticks.arrive(*FIRST_WEEK)
    assert ticks.requested() == {"2017-01-02"}
    ticks.arrive("2017-01-04")
    assert ticks.requested() == {"2017-01-02"}
    assert ticks.requested() == set()


def test_a_hole_in_another_week_keeps_nobody_waiting(ticks: Ticks) -> None:
    ticks.arrive(*FIRST_WEEK[1:], *[f"2017-01-{day:02d}" for day in range(9, 16)])
    assert ticks.requested() == {"2017-01-09"}


def test_a_failed_pair_is_retried_once_until_its_upstream_moves(ticks: Ticks) -> None:
    ticks.arrive(*FIRST_WEEK)
    assert ticks.requested() == {"2017-01-02"}
    ticks.fail("2017-01-02")
    assert ticks.requested() == {"2017-01-02"}
    ticks.fail("2017-01-02")
    for _ in range(5):
        assert ticks.requested() == set()
    ticks.arrive("2017-01-08")
    assert ticks.requested() == {"2017-01-02"}
    ticks.fail("2017-01-02")
    assert ticks.requested() == {"2017-01-02"}
    ticks.fail("2017-01-02")
    assert ticks.requested() == set()
