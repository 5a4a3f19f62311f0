import errno
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time

from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.sources.arrival import (
    build_arrival_sensor,
    find_arrivals,
    materialization,
    pack,
    recorded_versions,
    unpack,
)
from platform_assets.sources.assets import build_raw, build_upstream
from platform_assets.sources.declaration import Column, Source
from platform_assets.sources.landing import MARKER
from resources.environment import Environment
from resources.warehouse import Warehouse

Deliver = Callable[..., Path]

HOURS = dg.HourlyPartitionsDefinition(
    "2016-11-01-00:00", end_date="2018-01-01-00:00", timezone="Asia/Seoul", fmt="%Y-%m-%d-%H:%M"
)
CLICKS = Source(
    team="webtoon",
    entity="clicks",
    description="One row per click.",
    partitions=HOURS,
    file_format="csv",
    columns=(Column("click_id", "BIGINT", "Click."),),
)
GENRES = replace(CLICKS, entity="genres", partitions=None)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


class Ticker:
    """Ticks a sensor as the daemon does: events are stored, then the cursor."""

    def __init__(self, instance: dg.DagsterInstance, *sources: Source) -> None:
        self.instance = instance
        self.sensor = build_arrival_sensor("webtoon", sources)
        self.cursor: str | None = None
        self.note = ""

    def tick(self, store_cursor: bool = True) -> list[tuple[str, str | None]]:
        with dg.build_sensor_context(self.instance, cursor=self.cursor) as context:
            result = self.sensor(context)
        assert isinstance(result, dg.SensorResult)
        assert result.asset_events is not None
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        if store_cursor:
            self.cursor = result.cursor
        self.note = str(result.skip_reason.skip_message) if result.skip_reason else ""
        return [(event.asset_key.path[-1], event.partition) for event in result.asset_events]


def hours(count: int) -> list[str]:
    return list(HOURS.get_partition_keys()[:count])


def click(number: int) -> list[dict[str, int]]:
    return [{"click_id": number}]


def test_only_new_or_changed_partitions_are_recorded(
    environment: Environment, instance: dg.DagsterInstance, deliver: Deliver
) -> None:
    ticker = Ticker(instance, CLICKS, GENRES)
    first, second, third = hours(3)
    assert ticker.tick() == []
    file = deliver(CLICKS, click(1), first)
    deliver(CLICKS, click(2), second)
    deliver(GENRES, click(3))
    assert ticker.tick() == [
        ("upstream_genres", None),
        ("upstream_clicks", first),
        ("upstream_clicks", second),
    ]
    assert ticker.tick() == []
    file.touch()
    assert ticker.tick() == [], "written again with equal content"
    deliver(CLICKS, click(9), first)
    deliver(CLICKS, click(3), third)
    deliver(GENRES, click(4))
    assert ticker.tick() == [
        ("upstream_genres", None),
        ("upstream_clicks", first),
        ("upstream_clicks", third),
    ]
    assert ticker.tick() == []


def test_a_change_back_to_an_earlier_content_is_recorded_too(
    environment: Environment, instance: dg.DagsterInstance, deliver: Deliver
) -> None:
    ticker = Ticker(instance, CLICKS)
    (hour,) = hours(1)
    for number in (1, 2, 1):
        deliver(CLICKS, click(number), hour)
        assert ticker.tick() == [("upstream_clicks", hour)]


def test_what_is_recorded_tells_version_rows_files_and_bytes(
    environment: Environment, instance: dg.DagsterInstance, deliver: Deliver
) -> None:
    (hour,) = hours(1)
    file = deliver(CLICKS, click(1), hour)
    Ticker(instance, CLICKS).tick()
    event = instance.get_latest_materialization_event(CLICKS.upstream_key)
    assert event is not None
    recorded = event.asset_materialization
    assert recorded is not None
    assert recorded.tags is not None
    assert recorded.tags["dagster/data_version"].startswith(f"1-{file.stat().st_size}-")
    facts = {name: value.value for name, value in recorded.metadata.items()}
    assert facts["dagster/partition_row_count"] == 1
    assert facts["files"] == 1
    assert facts["bytes"] == file.stat().st_size
    assert "delivered_at" in facts


def test_a_partition_delivered_before_it_has_ended_is_told_so_and_recorded_once_it_has(
    environment: Environment, instance: dg.DagsterInstance, deliver: Deliver
) -> None:
    growing = replace(CLICKS, partitions=dg.DailyPartitionsDefinition("2026-11-01", timezone="America/New_York"))
    ticker = Ticker(instance, growing)
    with freeze_time(datetime(2026, 11, 30, 22, tzinfo=UTC)):
        deliver(growing, click(1), "2026-11-30")
        deliver(growing, click(2), "2026-11-29")
        assert ticker.tick() == [("upstream_clicks", "2026-11-29")]
        assert "dt=2026-11-30 not ended yet, looked at then; the first ends at 2026-12-01 00:00 EST" in ticker.note
        assert "calendar" not in ticker.note
    with freeze_time(datetime(2026, 12, 1, 5, tzinfo=UTC)):
        assert ticker.tick() == [("upstream_clicks", "2026-11-30")]


def test_partitions_wait_for_their_marker_and_foreign_names_are_told(
    environment: Environment, instance: dg.DagsterInstance, deliver: Deliver
) -> None:
    ticker = Ticker(instance, CLICKS)
    (hour,) = hours(1)
    file = deliver(CLICKS, click(1), hour, marker=False)
    (CLICKS.landing(environment.landing) / "dt=someday").mkdir()
    assert ticker.tick() == []
    assert f"webtoon.clicks: {hour} without _SUCCESS" in ticker.note
    assert "webtoon.clicks: dt=someday not in its calendar" in ticker.note
    (file.parent / MARKER).touch()
    assert ticker.tick() == [("upstream_clicks", hour)]


def test_a_damaged_partition_is_recorded_so_that_its_check_can_name_it(
    environment: Environment, instance: dg.DagsterInstance, deliver: Deliver
) -> None:
    ticker = Ticker(instance, CLICKS)
    (hour,) = hours(1)
    file = deliver(CLICKS, click(1), hour)
    file.write_bytes(file.read_bytes()[:-1])
    assert ticker.tick() == [("upstream_clicks", hour)]
    assert recorded_versions(instance, CLICKS)[hour].startswith("?-")


@pytest.mark.parametrize("cursor", [None, "", "garbage", pack({"webtoon.clicks": {}})])
def test_a_lost_cursor_repeats_nothing(
    environment: Environment, instance: dg.DagsterInstance, deliver: Deliver, cursor: str | None
) -> None:
    for number, hour in enumerate(hours(5)):
        deliver(CLICKS, click(number), hour)
    deliver(GENRES, click(1))
    assert len(Ticker(instance, CLICKS, GENRES).tick()) == 6
    restarted = Ticker(instance, CLICKS, GENRES)
    restarted.cursor = cursor
    assert restarted.tick() == []


def test_a_crash_after_the_events_and_before_the_cursor_loses_and_repeats_nothing(
    environment: Environment, instance: dg.DagsterInstance, deliver: Deliver
) -> None:
    for number, hour in enumerate(hours(3)):
        deliver(CLICKS, click(number), hour)
    ticker = Ticker(instance, CLICKS)
    assert len(ticker.tick(store_cursor=False)) == 3
    deliver(CLICKS, click(7), hours(1)[0])
    assert ticker.tick() == [("upstream_clicks", hours(1)[0])]


def test_a_crash_amid_the_events_records_just_the_rest(
    environment: Environment, instance: dg.DagsterInstance, deliver: Deliver
) -> None:
    for number, hour in enumerate(hours(3)):
        deliver(CLICKS, click(number), hour)
    found = find_arrivals([CLICKS], environment.landing, lambda source: {}, {})
    instance.report_runless_asset_event(materialization(found.arrivals[0]))
    assert [partition for _, partition in Ticker(instance, CLICKS).tick()] == hours(3)[1:]


def test_a_partition_wiped_from_the_log_is_recorded_again_although_its_files_are_vouched_for(
    environment: Environment, instance: dg.DagsterInstance, deliver: Deliver
) -> None:
    ticker = Ticker(instance, CLICKS)
    (hour,) = hours(1)
    deliver(CLICKS, click(1), hour)
    assert len(ticker.tick()) == 1
    instance.wipe_assets([CLICKS.upstream_key])
    assert ticker.tick() == [("upstream_clicks", hour)]


def test_a_backlog_of_ten_thousand_partitions_is_drained_once_in_bounded_looks(
    environment: Environment, deliver: Deliver
) -> None:
    keys = hours(10_000)
    folder = CLICKS.landing(environment.landing)
    folder.mkdir(parents=True)
    for number, hour in enumerate(keys):
        (folder / f"dt={hour}").mkdir()
        (folder / f"dt={hour}" / "part-00000.csv").write_text(f"click_id\n{number}\n")
        (folder / f"dt={hour}" / MARKER).touch()
    deliver(GENRES, click(1))
    recorded: dict[str, dict[str, str]] = {CLICKS.name: {}, GENRES.name: {}}
    seen: list[str] = []
    cursor: str | None = None
    for look_number in range(6):
        found = find_arrivals(
            [CLICKS, GENRES], environment.landing, lambda source: recorded[source.name], unpack(cursor), 2500, math.inf
        )
        cursor = pack(found.memo)
        assert len(found.arrivals) <= 2500
        if look_number == 0:
            assert found.arrivals[0].source == GENRES, "a long backlog keeps nobody waiting"
        for arrival in found.arrivals:
            seen.append(arrival.delivery.partition)
            recorded[arrival.source.name][arrival.delivery.partition] = arrival.fingerprint.data_version
    assert found.arrivals == []
    assert sorted(seen) == sorted([*keys, "full"])
    assert len(cursor or "") < 200_000


def test_a_look_that_takes_too_long_stops_after_one_and_the_next_goes_on(
    environment: Environment, deliver: Deliver
) -> None:
    for number, hour in enumerate(hours(3)):
        deliver(CLICKS, click(number), hour)
    nothing: Callable[[Source], Mapping[str, str]] = lambda source: {}  # noqa: E731
    slow = find_arrivals([CLICKS], environment.landing, nothing, {}, seconds=-1)
    assert [arrival.delivery.partition for arrival in slow.arrivals] == [hours(1)[0]]
    assert len(find_arrivals([CLICKS], environment.landing, nothing, {}).arrivals) == 3


def test_a_source_that_cannot_be_read_is_told_and_the_others_go_on(
    environment: Environment, instance: dg.DagsterInstance, deliver: Deliver
) -> None:
    broken = replace(CLICKS, entity="broken")
    broken.landing(environment.landing).parent.mkdir(parents=True)
    broken.landing(environment.landing).write_text("a file where a folder should be")
    (hour,) = hours(1)
    deliver(CLICKS, click(1), hour)
    ticker = Ticker(instance, broken, CLICKS)
    assert ticker.tick() == [("upstream_clicks", hour)]
    assert "webtoon.broken: its folder cannot be read" in ticker.note


def test_automation_requests_the_raw_pairs_of_what_arrived_and_again_when_it_changes(
    environment: Environment, warehouse: Warehouse, instance: dg.DagsterInstance, deliver: Deliver
) -> None:
    raw = build_raw(CLICKS)
    resources = {"warehouse": warehouse, "checker": PartitionChecker.of(environment)}
    definitions = dg.Definitions([build_upstream(CLICKS), raw], resources=resources)
    ticker = Ticker(instance, CLICKS)
    cursor = None

    def requested() -> Any:
        nonlocal cursor
        result = dg.evaluate_automation_conditions(definitions, instance, cursor=cursor)
        cursor = result.cursor
        return result.get_requested_partitions(CLICKS.raw_key)

    assert requested() == set()
    first, second = hours(2)
    deliver(CLICKS, click(1), first)
    ticker.tick()
    assert requested() == {first}
    assert requested() == set()
    ticker.tick()
    assert requested() == set()
    deliver(CLICKS, click(2), first)
    deliver(CLICKS, click(3), second)
    ticker.tick()
    assert requested() == {first, second}


def test_what_is_in_the_way_of_one_partition_is_recorded_as_damaged_and_the_others_go_on(
    environment: Environment, instance: dg.DagsterInstance, deliver: Deliver
) -> None:
    ticker = Ticker(instance, CLICKS, GENRES)
    pipe, circle, fine = hours(3)
    file = deliver(CLICKS, click(1), pipe)
    os.mkfifo(file.with_name("part-00001.csv"))
    CLICKS.partition_dir(environment.landing, circle).symlink_to(f"dt={circle}")
    deliver(CLICKS, click(2), fine)
    deliver(GENRES, click(3))
    everything = [("upstream_genres", None), *(("upstream_clicks", hour) for hour in (pipe, circle, fine))]
    assert ticker.tick() == everything
    versions = recorded_versions(instance, CLICKS)
    assert [versions[hour][:2] for hour in (pipe, circle, fine)] == ["?-", "?-", "1-"]
    assert ticker.tick() == []
    file.with_name("part-00001.csv").unlink()
    assert ticker.tick() == [("upstream_clicks", pipe)]


def test_what_could_not_be_read_for_a_cause_that_may_pass_is_read_again_at_every_look(
    environment: Environment, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hour,) = hours(1)
    file = deliver(CLICKS, click(1), hour)
    # A file system that fails is not to be had: one open fails as it would.
    opened = Path.open
    failing = {file}

    def broken(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path in failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", broken)
    found = find_arrivals([CLICKS], environment.landing, lambda source: {}, {})
    (arrival,) = found.arrivals
    assert dict(arrival.fingerprint.damages) == {file: "it cannot be read (Input/output error)"}
    failing.clear()
    recorded = {hour: arrival.fingerprint.data_version}
    (arrival,) = find_arrivals([CLICKS], environment.landing, lambda source: recorded, found.memo).arrivals
    assert arrival.fingerprint.rows == 1


def test_a_correction_with_the_size_and_the_times_of_before_is_recorded(
    environment: Environment, instance: dg.DagsterInstance, deliver: Deliver
) -> None:
    ticker = Ticker(instance, CLICKS)
    (hour,) = hours(1)
    file = deliver(CLICKS, click(1), hour)
    ticker.tick()
    for number, in_place in ((2, True), (3, False)):
        stat = file.stat()
        written = file if in_place else file.with_name(".part")
        written.write_text(f"click_id\n{number}\n")
        os.utime(written, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        written.replace(file)
        (file.parent / MARKER).touch()
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
        assert ticker.tick() == [("upstream_clicks", hour)]
        assert ticker.tick() == []


def test_a_marker_written_again_is_looked_at_and_equal_content_is_no_arrival(
    environment: Environment, deliver: Deliver
) -> None:
    (hour,) = hours(1)
    file = deliver(CLICKS, click(1), hour)
    first = find_arrivals([CLICKS], environment.landing, lambda source: {}, {})
    recorded = {hour: first.arrivals[0].fingerprint.data_version}
    (file.parent / MARKER).write_text("again")
    again = find_arrivals([CLICKS], environment.landing, lambda source: recorded, first.memo)
    assert again.arrivals == []
    assert again.memo != first.memo


def test_what_was_recorded_with_another_number_of_rows_is_not_recorded_again(
    environment: Environment, instance: dg.DagsterInstance, deliver: Deliver
) -> None:
    (hour,) = hours(1)
    deliver(CLICKS, click(1), hour)
    (arrival,) = find_arrivals([CLICKS], environment.landing, lambda source: {}, {}).arrivals
    rows, _, content = arrival.fingerprint.data_version.partition("-")
    assert rows == "1"
    recorded = {hour: f"666668-{content}"}
    found = find_arrivals([CLICKS], environment.landing, lambda source: recorded, {})
    assert found.arrivals == []
    again = find_arrivals([CLICKS], environment.landing, lambda source: recorded, found.memo, seconds=-1)
    assert again.memo == found.memo, "and it is vouched for"
