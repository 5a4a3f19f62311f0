"""Automation asks for a pair when its whole upstream is there, not before, and not for ever."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context

from platform_assets.asset_graph.completeness import Completeness
from platform_assets.automation import when_upstream_complete
from platform_assets.conditions import (
    ComesAgainCondition,
    OvertakenCondition,
    PartitionEndedCondition,
    UpstreamUnknownCondition,
    UpstreamUnsettledCondition,
)
from platform_assets.partition_checker.evaluations import report, verified_check
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


SALES, WEATHER, CLEAN = (dg.AssetKey(["shop", name]) for name in ("sales", "weather", "clean"))
WEEK_OF_DAYS = DAILY.get_partition_keys()[:7]
LONG_AFTER = datetime(2017, 2, 1, tzinfo=UTC)
DAY = "2017-01-07"
NEXT_MORNING = datetime(2017, 1, 8, tzinfo=UTC)


@dg.multi_asset_check(specs=[verified_check(key, DAILY) for key in (SALES, WEATHER)], can_subset=True)
def health() -> Iterator[dg.AssetCheckEvaluation]:
    """Never run here; verdicts are reported."""
    yield from ()


class Clean:
    """Evaluates automation of an asset that reads sales and weather day by day, at times that the test tells."""

    def __init__(self, instance: dg.DagsterInstance, **declared: object) -> None:
        self.instance = instance
        self.cursor = None
        spec = dg.AssetSpec(
            CLEAN,
            deps=[SALES, WEATHER],
            partitions_def=DAILY,
            metadata=Completeness(**declared).metadata,  # type: ignore[arg-type]
        )
        condition = when_upstream_complete(spec)

        @dg.multi_asset(specs=[spec.replace_attributes(automation_condition=condition)])
        def clean() -> None: ...

        upstream = [dg.AssetSpec(key, partitions_def=DAILY) for key in (SALES, WEATHER)]
        self.defs = dg.Definitions([*upstream, clean], asset_checks=[health])

    def requested(self, at: datetime = LONG_AFTER) -> set[str]:
        # Calendars ask the clock unless this is told them too.
        with partition_loading_context(at):
            found = dg.evaluate_automation_conditions(self.defs, self.instance, cursor=self.cursor, evaluation_time=at)
        self.cursor = found.cursor
        return found.get_requested_partitions(CLEAN) - {None}

    def arrive(self, key: dg.AssetKey, *days: str) -> None:
        for day in days:
            self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=day))

    def find(self, key: dg.AssetKey, *lost: str) -> None:
        """Let the Partition Checker find what is lost of an asset, and nothing else."""
        failing = dict.fromkeys(lost, "lost: its file is gone")
        report(self.instance, str(uuid.uuid4()), verified_check(key, DAILY), failing)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def test_a_pair_that_was_found_lost_holds_back_what_reads_it_and_nothing_else(instance: dg.DagsterInstance) -> None:
    clean = Clean(instance)
    clean.arrive(SALES, *WEEK_OF_DAYS[:3])
    clean.find(SALES, WEEK_OF_DAYS[1])
    clean.arrive(WEATHER, *WEEK_OF_DAYS[:3])
    assert clean.requested() == {WEEK_OF_DAYS[0], WEEK_OF_DAYS[2]}
    assert clean.requested() == set()


def test_what_waited_for_a_lost_pair_is_asked_for_once_it_is_healed(instance: dg.DagsterInstance) -> None:
    clean = Clean(instance)
    clean.arrive(SALES, WEEK_OF_DAYS[0])
    clean.arrive(WEATHER, WEEK_OF_DAYS[0])
    clean.find(SALES, WEEK_OF_DAYS[0])
    assert clean.requested() == set()
    clean.arrive(SALES, WEEK_OF_DAYS[0])
    clean.find(SALES)
    assert clean.requested() == {WEEK_OF_DAYS[0]}
    assert clean.requested() == set()


def test_a_lost_pair_that_is_found_again_after_it_was_healed_holds_back_again(instance: dg.DagsterInstance) -> None:
    clean = Clean(instance)
    clean.arrive(SALES, WEEK_OF_DAYS[0])
    for found in ([WEEK_OF_DAYS[0]], [], [WEEK_OF_DAYS[0]]):
        clean.find(SALES, *found)
    clean.arrive(WEATHER, WEEK_OF_DAYS[0])
    assert clean.requested() == set()


def test_what_is_optional_keeps_nobody_waiting(instance: dg.DagsterInstance) -> None:
    clean = Clean(instance, optional=("shop/weather",))
    clean.arrive(SALES, *WEEK_OF_DAYS[:2])
    assert clean.requested() == set(WEEK_OF_DAYS[:2])
    assert clean.requested() == set()


def test_what_is_optional_is_followed_when_it_comes(instance: dg.DagsterInstance) -> None:
    clean = Clean(instance, optional=("shop/weather",))
    clean.arrive(SALES, WEEK_OF_DAYS[0])
    assert clean.requested() == {WEEK_OF_DAYS[0]}
    clean.arrive(CLEAN, WEEK_OF_DAYS[0])
    assert clean.requested() == set()
    clean.arrive(WEATHER, WEEK_OF_DAYS[0])
    assert clean.requested() == {WEEK_OF_DAYS[0]}


def test_what_is_not_optional_is_waited_for(instance: dg.DagsterInstance) -> None:
    clean = Clean(instance, optional=("shop/weather",))
    clean.arrive(WEATHER, *WEEK_OF_DAYS)
    assert clean.requested() == set()


def test_the_last_pair_of_a_calendar_goes_on_without_a_late_one_too(instance: dg.DagsterInstance) -> None:
    last = DAILY.get_partition_keys()[-1]
    clean = Clean(instance, when_late={"shop/weather": "go_on"})
    clean.arrive(SALES, last)
    assert clean.requested() == {last}


def test_a_pair_that_goes_on_does_not_wait_when_all_is_there(instance: dg.DagsterInstance) -> None:
    clean = Clean(instance, when_late={"shop/weather": "go_on"})
    clean.arrive(SALES, DAY)
    clean.arrive(WEATHER, DAY)
    assert clean.requested(NEXT_MORNING + timedelta(hours=1)) == {DAY}


def test_a_pair_that_goes_on_without_a_late_one_is_asked_for_again_when_that_comes(
    instance: dg.DagsterInstance,
) -> None:
    clean = Clean(instance, when_late={"shop/weather": "go_on"})
    clean.arrive(SALES, DAY)
    assert clean.requested(NEXT_MORNING + timedelta(days=2, hours=7)) == {DAY}
    clean.arrive(CLEAN, DAY)
    assert clean.requested(NEXT_MORNING + timedelta(days=2, hours=8)) == set()
    clean.arrive(WEATHER, DAY)
    assert clean.requested(NEXT_MORNING + timedelta(days=2, hours=9)) == {DAY}


def test_a_pair_that_goes_on_still_waits_for_the_others(instance: dg.DagsterInstance) -> None:
    clean = Clean(instance, when_late={"shop/weather": "go_on"})
    clean.arrive(WEATHER, DAY)
    assert clean.requested() == set()


@pytest.mark.parametrize("policy", ["wait", "alert"])
def test_a_pair_that_waits_is_not_asked_for_however_late_the_other_is(
    instance: dg.DagsterInstance, policy: str
) -> None:
    clean = Clean(instance, when_late={"shop/weather": policy})
    clean.arrive(SALES, *WEEK_OF_DAYS)
    assert clean.requested() == set()


@pytest.mark.parametrize(
    ("hours", "late_at"),
    [(6.0, datetime(2017, 1, 8, 6, tzinfo=UTC)), (30.0, datetime(2017, 1, 9, 6, tzinfo=UTC))],
)
def test_a_pair_that_goes_on_waits_until_the_other_is_late_and_no_longer(
    instance: dg.DagsterInstance, hours: float, late_at: datetime
) -> None:
    clean = Clean(instance, when_late={"shop/weather": "go_on"}, late_after_hours=hours)
    assert clean.requested(NEXT_MORNING) == set()
    clean.arrive(SALES, DAY)
    assert clean.requested(NEXT_MORNING + timedelta(minutes=1)) == set()
    assert clean.requested(late_at - timedelta(minutes=1)) == set()
    assert clean.requested(late_at + timedelta(minutes=1)) == {DAY}
    assert clean.requested(late_at + timedelta(minutes=2)) == set()


def test_the_daemon_and_the_web_server_can_read_every_condition() -> None:
    declared = Completeness(when_late={"shop/weather": "go_on"}, late_after_hours=30.0)
    condition = when_upstream_complete(dg.AssetSpec(CLEAN, deps=[SALES, WEATHER], metadata=declared.metadata))
    assert condition.is_serializable
    launcher = "import dagster, sys; import platform_assets.instance.run_launcher"
    reads = f"{launcher}; print(dagster.deserialize_value(sys.stdin.read()))"
    text = dg.serialize_value(condition)
    read = subprocess.run([sys.executable, "-c", reads], input=text, capture_output=True, text=True, check=True)
    assert read.stdout.strip() == str(condition)


def test_nothing_is_asked_for_while_what_it_reads_is_declared_nowhere() -> None:
    """As when another code location does not load: Dagster takes what is declared nowhere for never missing."""
    with dg.DagsterInstance.ephemeral() as instance:
        for day in FIRST_WEEK:
            instance.report_runless_asset_event(dg.AssetMaterialization("days", partition=day))
        alone, whole = dg.Definitions(assets=[weeks]), dg.Definitions(assets=[upstream, weeks])
        found = dg.evaluate_automation_conditions(alone, instance)
        assert found.total_requested == 0
        found = dg.evaluate_automation_conditions(whole, instance, cursor=found.cursor)
        assert found.get_requested_partitions(dg.AssetKey("weeks")) == {"2017-01-02"}


def test_conditions_keep_their_names() -> None:
    """What automation remembers of a home is kept by them: under another it would look for the first time."""
    conditions = {
        "comes_again": ComesAgainCondition(),
        "overtaken": OvertakenCondition(),
        "partition_ended(hours=6)": PartitionEndedCondition(hours=6.0),
        "upstream_unknown": UpstreamUnknownCondition(),
        "upstream_unsettled": UpstreamUnsettledCondition(),
    }
    assert {condition.name for condition in conditions.values()} == conditions.keys()
    assert all(condition.description for condition in conditions.values())
