"""What a calendar tells, on the days and in the zones that break naive answers, and across a day's end."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st

from platform_assets import calendars as c
from platform_assets.asset_graph.graph import Graph, Node
from platform_assets.partition_checker.contiguity import due_partitions
from platform_assets.partitions import same_time, since, weeks_from

NEW_YORK = "America/New_York"
ZONES = [
    NEW_YORK,
    "Europe/Berlin",
    "America/Sao_Paulo",
    "America/Havana",
    "Australia/Adelaide",
    "Asia/Kathmandu",
    "UTC",
]


def hours(zone: str, **more: object) -> dg.HourlyPartitionsDefinition:
    return dg.HourlyPartitionsDefinition("2017-01-01-00:00", timezone=zone, **more)  # type: ignore[arg-type]


def days(zone: str, **more: object) -> dg.DailyPartitionsDefinition:
    return dg.DailyPartitionsDefinition("2017-01-01", timezone=zone, **more)  # type: ignore[arg-type]


def weeks(zone: str, day: int, **more: object) -> dg.WeeklyPartitionsDefinition:
    return dg.WeeklyPartitionsDefinition("2017-01-01", timezone=zone, day_offset=day, **more)  # type: ignore[arg-type]


def months(zone: str, **more: object) -> dg.MonthlyPartitionsDefinition:
    return dg.MonthlyPartitionsDefinition("2017-01-01", timezone=zone, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("zone", ZONES)
def test_hours_are_told_apart_sort_as_text_and_leave_no_gap(zone: str) -> None:
    calendar = hours(zone, end_date="2018-01-01-00:00")
    assert c.grain_of(calendar) == "hourly"
    keys = calendar.get_partition_keys()
    assert list(keys) == sorted(set(keys))
    windows = [calendar.time_window_for_partition_key(key) for key in keys]
    begins = [window.start.timestamp() for window in windows]
    assert {later - earlier for earlier, later in zip(begins, begins[1:], strict=False)} == {3600.0}
    assert all(window.end.timestamp() - window.start.timestamp() == 3600 for window in windows)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_changes_of_clocks_are_those_of_zoneinfo(data: st.DataObject) -> None:
    zone = ZoneInfo(data.draw(st.sampled_from([*ZONES, "Australia/Lord_Howe", "Antarctica/Troll"])))
    first = data.draw(st.datetimes(datetime(2015, 1, 1), datetime(2018, 1, 1))).replace(tzinfo=UTC)
    last = first + timedelta(days=data.draw(st.integers(0, 500)))
    _are_those_of_zoneinfo(zone, first, last, moment=first + (last - first) * data.draw(st.floats(0, 1)))


@pytest.mark.parametrize("second", range(-3, 4))
@pytest.mark.parametrize("microsecond", [0, 1, 500_000, 999_999])
def test_a_change_of_clocks_beside_either_end_is_found_or_left_out(second: int, microsecond: int) -> None:
    change = datetime(2017, 3, 26, 1, tzinfo=UTC)
    beside = change + timedelta(seconds=second, microseconds=microsecond)
    for first, last in [(beside - timedelta(days=1), beside), (beside, beside + timedelta(days=1))]:
        _are_those_of_zoneinfo(ZoneInfo("Europe/Berlin"), first, last, moment=last)
        assert [at for at, _ in c.clock_changes("Europe/Berlin", first, last)] == [change] * (first < change <= last)


def _are_those_of_zoneinfo(zone: ZoneInfo, first: datetime, last: datetime, moment: datetime) -> None:
    changes = c.clock_changes(str(zone), first, last)
    for at, by in changes:
        before, after = ((at + step).astimezone(zone).utcoffset() for step in (-timedelta(seconds=1), timedelta(0)))
        assert after - before == by != timedelta(0)
    ahead = first.astimezone(zone).utcoffset() + sum((by for at, by in changes if at <= moment), timedelta())
    assert ahead == moment.astimezone(zone).utcoffset()


@pytest.mark.parametrize(
    ("calendar", "grain"),
    [
        (hours(NEW_YORK), "hourly"),
        (days("Australia/Lord_Howe"), "daily"),
        (weeks(NEW_YORK, 0), "weekly"),
        (weeks(NEW_YORK, 6), "weekly"),
        (months("Europe/Berlin"), "monthly"),
    ],
)
def test_a_calendar_tells_its_grain(calendar: dg.TimeWindowPartitionsDefinition, grain: str) -> None:
    assert c.grain_of(calendar) == grain


@pytest.mark.parametrize(
    ("calendar", "words"),
    [
        (hours("Australia/Lord_Howe"), r"set by other than one hour \(2017-04-01\).*declare days"),
        (hours("Antarctica/Troll"), "set by other than one hour"),
        (hours(NEW_YORK, minute_offset=30), "hours on the hour"),
        (days(NEW_YORK, hour_offset=6), "must begin at midnight"),
        (days(NEW_YORK, fmt="%Y-%d-%m"), "written as '%Y-%m-%d', not '%Y-%d-%m'"),
        (months(NEW_YORK, day_offset=15), "must begin on their first day"),
        (dg.DailyPartitionsDefinition("2011-01-01", timezone="Pacific/Apia"), "leaves out or repeats a whole day"),
        (dg.TimeWindowPartitionsDefinition("2017-01-01", "%Y-%m-%d", cron_schedule="0 0 1 */3 *"), "hours on the hour"),
    ],
)
def test_a_calendar_that_pairs_cannot_be_built_by_is_refused(
    calendar: dg.TimeWindowPartitionsDefinition, words: str
) -> None:
    with pytest.raises(c.UnfitCalendar, match=words):
        c.grain_of(calendar)


def test_local_time_tells_no_hour_where_clocks_are_set_back_and_a_day_it_does() -> None:
    bound = c.first_ambiguous_bound(hours(NEW_YORK), NEW_YORK)
    assert bound
    assert bound.isoformat() == "2017-11-05T01:00:00-05:00"
    assert c.first_ambiguous_bound(hours(NEW_YORK), "UTC") is None
    assert c.first_ambiguous_bound(hours("Asia/Seoul"), "Asia/Seoul") is None
    assert all(c.first_ambiguous_bound(days(zone), zone) is None for zone in ZONES)
    # A day of Cape Verde begins when Lisbon's clocks are set back.
    assert c.first_ambiguous_bound(days("Atlantic/Cape_Verde"), "Europe/Lisbon") is not None


DOUBLED = ["2026-11-01-00:00", "2026-11-01-01:00", "2026-11-01-01:00-0500", "2026-11-01-02:00"]
MAKERS: dict[str, Callable[..., dg.TimeWindowPartitionsDefinition]] = {
    "hours": partial(hours, NEW_YORK),
    "days": partial(days, NEW_YORK),
    "weeks from Sunday": partial(weeks, NEW_YORK, 0),
    "weeks from Wednesday": partial(weeks, NEW_YORK, 3),
    "months": partial(months, NEW_YORK),
}


@pytest.mark.parametrize(
    ("made", "first", "now", "keys"),
    [
        ("hours", "2026-11-01-00:00", "2026-11-01T05:30", DOUBLED[:3]),
        ("hours", "2026-11-01-00:00", "2026-11-01T06:30", DOUBLED[1:]),
        ("days", "2026-11-01", "2026-11-30T04:59", ["2026-11-28", "2026-11-29", "2026-11-30"]),
        ("days", "2026-11-01", "2026-11-30T05:00", ["2026-11-29", "2026-11-30", "2026-12-01"]),
        ("weeks from Sunday", "2026-10-25", "2026-11-30T05:00", ["2026-11-22", "2026-11-29", "2026-12-06"]),
        ("weeks from Wednesday", "2026-10-28", "2026-12-02T05:00", ["2026-11-25", "2026-12-02", "2026-12-09"]),
        ("months", "2026-10-01", "2026-12-01T04:59", ["2026-10-01", "2026-11-01", "2026-12-01"]),
        ("months", "2026-10-01", "2026-12-01T05:00", ["2026-11-01", "2026-12-01", "2027-01-01"]),
    ],
)
def test_what_is_forecast_reaches_ahead_of_a_calendar_that_grows(
    made: str, first: str, now: str, keys: list[str]
) -> None:
    moment = datetime.fromisoformat(f"{now}+00:00")
    with freeze_time(moment):
        for calendar in (MAKERS[made](), MAKERS[made](end_date=datetime(2030, 1, 6))):
            assert calendar.get_last_partition_key() == keys[0]
            for ahead, expected in enumerate(keys):
                longer = since(first, calendar, ahead=ahead)
                assert longer.get_last_partition_key() == expected
                assert c.grain_of(longer) == c.grain_of(calendar)
                assert c.ended_by(longer, moment)[-1] == keys[0]
                assert due_partitions(longer, timedelta(0), moment)[-1] == keys[0]


def test_weeks_ahead_of_a_calendar_that_has_ended_follow_its_end() -> None:
    assert weeks_from("2017-12-18", ahead=2).get_partition_keys()[-3:] == ["2017-12-25", "2018-01-01", "2018-01-08"]
    cut = weeks(NEW_YORK, 1, end_date="2017-01-25")  # a Wednesday: the last week that it has begins on the 16th
    assert since("2017-01-02", cut, ahead=1).get_partition_keys()[-1] == "2017-01-23"
    with pytest.raises(KeyError, match="2017-12-19 begins no partition of the calendar"):
        weeks_from("2017-12-19")


def test_a_partition_that_has_not_ended_is_known_and_says_when_it_does() -> None:
    with freeze_time(datetime(2026, 11, 30, 12, tzinfo=UTC)):
        end = c.end_of(days(NEW_YORK), "2026-11-30")
        assert end
        assert end.isoformat() == "2026-12-01T00:00:00-05:00"
        assert c.end_of(days(NEW_YORK), "2016-11-30") is None
        assert c.end_of(weeks(NEW_YORK, 0), "2026-11-30") is None
        assert c.end_of(days(NEW_YORK, exclusions=["0 0 25 12 *"]), "2026-12-25") is None
        assert c.end_of(days(NEW_YORK), "today") is None
        assert since("2026-11-29", weeks(NEW_YORK, 0)).get_partition_keys() == []


@pytest.mark.parametrize("grow", [timedelta(hours=2), timedelta(days=2), timedelta(days=40)])
def test_a_graph_keeps_its_pairs_while_days_end(grow: timedelta) -> None:
    keys = {name: dg.AssetKey(["shop", name]) for name in ("hours", "days", "weeks", "months")}
    calendars = [hours(NEW_YORK), days(NEW_YORK), weeks(NEW_YORK, 0), months(NEW_YORK)]
    start = {"hours": "2026-10-01-00:00", "days": "2026-10-01", "weeks": "2026-10-04", "months": "2026-10-01"}
    before = datetime(2026, 11, 30, 4, 30, tzinfo=UTC)
    with freeze_time(before):
        nodes, upstream = [], None
        for (name, key), calendar in zip(keys.items(), calendars, strict=True):
            deps = {upstream: same_time()} if upstream else {}
            nodes.append(Node(key, "here", since(start[name], calendar, ahead=1), deps))
            upstream = key
        graph, again = Graph.of(nodes), Graph.of(nodes)
        known = {node.name: list(node.pairs) for node in again.nodes.values()}
    with freeze_time(before + grow):
        for node in graph.nodes.values():
            assert list(node.pairs) == known[node.name]
            assert len(node.ends) == len(node.pairs)
            for requirement in graph.requirements(node).values():
                assert requirement.downstream_count == len(node.pairs)
        assert len(Graph.of(nodes).node("shop/hours").pairs) > len(known["shop/hours"])


def test_a_calendar_is_named_by_what_it_is() -> None:
    named = [days(NEW_YORK), days(NEW_YORK, end_date="2018-01-01"), days("UTC"), weeks(NEW_YORK, 0), months(NEW_YORK)]
    named += [since("2017-01-01", named[0]), since("2017-01-08", weeks(NEW_YORK, 0), ahead=1)]
    names = [c.name_of(calendar) for calendar in [*named, dg.StaticPartitionsDefinition(["a", "b"]), None]]
    assert names[0].startswith("daily_20170101_")
    assert names[0] == names[5] == c.name_of(days(NEW_YORK))
    assert len(set(names)) == len(names) - 1
    assert all(name.isidentifier() for name in names)
