"""The dbt macros name the same pairs as Dagster's mappings, whatever the clocks of a zone do."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platform_assets import partitions as p
from platform_assets.asset_graph.requirements import compile_requirement
from platform_assets.calendars import WEEKDAYS, clock_changes, first_weekday
from platform_assets.dbt_models.window import event_time_flags, windows_variable
from tests.platform_assets.dbt_models.macros import MacroError, Macros

ZONES = ["America/New_York", "Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Asia/Kathmandu", "UTC"]
FIRST, LAST = datetime(2016, 12, 1, tzinfo=UTC), datetime(2018, 12, 1, tzinfo=UTC)
TEAM = "shop"


@cache
def calendar(grain: str, zone: str, first: datetime, last: datetime, day: str) -> dg.TimeWindowPartitionsDefinition:
    """The partitions of `grain` around two local dates, widened to whole months."""
    start = first.replace(day=1)
    end = (last.replace(day=1) + timedelta(days=40)).replace(day=1)
    text = {"start_date": f"{start:%Y-%m-%d}", "end_date": f"{end:%Y-%m-%d}", "timezone": zone}
    if grain == "hourly":
        hours = {name: f"{value}-00:00" if name != "timezone" else value for name, value in text.items()}
        return dg.HourlyPartitionsDefinition(**hours)
    if grain == "weekly":
        return dg.WeeklyPartitionsDefinition(**text, day_offset=WEEKDAYS.index(day))
    return {"daily": dg.DailyPartitionsDefinition, "monthly": dg.MonthlyPartitionsDefinition}[grain](**text)


def _month(moment: datetime) -> datetime:
    return datetime(moment.year, moment.month, 1)


def declared(zone: str, day: str = "monday") -> Mapping[str, Mapping[str, str]]:
    return {TEAM: {"time_zone": zone, "week_begins": day}}


def macros(zone: str, day: str, built: dg.TimeWindowPartitionsDefinition, keys: Sequence[str]) -> Macros:
    _, start, _, end = event_time_flags(built, keys)
    (windows,) = windows_variable(built, keys).values()
    return Macros(declared(zone, day), windows, {"event_time_start": start, "event_time_end": end})


def keys_within(condition: str, keys: Sequence[str]) -> list[str]:
    rows = _duckdb().execute(f"from (select unnest(?) as partition_key) where {condition}", [list(keys)])
    return sorted(key for (key,) in rows.fetchall())


@cache
def _duckdb() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'Asia/Tokyo'")  # no answer may depend on it
    return connection


@st.composite
def _moments(draw: st.DrawFn, zone: str) -> datetime:
    """A moment, as often as not within hours of a change of the clocks."""
    changes = [change.at for change in clock_changes(zone, FIRST, LAST)]
    near = draw(st.sampled_from(changes)) if changes and draw(st.booleans()) else None
    if near is None:
        return draw(st.datetimes(FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None))).replace(tzinfo=UTC)
    return near + timedelta(minutes=draw(st.integers(-180, 180)))


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_run_reads_of_every_grain_exactly_the_pairs_that_the_mapping_names(data: st.DataObject) -> None:
    zone = data.draw(st.sampled_from(ZONES))
    moment = data.draw(_moments(zone)).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    day = data.draw(st.sampled_from(WEEKDAYS))
    down_grain = data.draw(st.sampled_from(["hourly", "hourly", "daily", "weekly", "monthly"]))
    up_grain = data.draw(st.sampled_from(["hourly", "hourly", "daily", "weekly", "monthly"]))
    lookback = data.draw(st.integers(0, 3))
    month = _month(moment)
    down, up = (calendar(grain, zone, month, month, day) for grain in (down_grain, up_grain))
    all_down, all_up = down.get_partition_keys(), up.get_partition_keys()
    near = next((at for at, key in enumerate(all_down) if key >= f"{moment:%Y-%m-%d-%H}"), len(all_down)) - 1
    near = min(max(near, lookback), len(all_down) - 1)
    places = data.draw(st.sets(st.integers(max(0, near - 3), min(near + 3, len(all_down) - 1)), min_size=1, max_size=4))
    keys = [all_down[at] for at in places]
    rendered = macros(zone, day, down, keys)
    condition = rendered.within_windows(up_grain, rendered.windows(down_grain, TEAM, lookback), TEAM)
    needed = compile_requirement(down, up, p.same_time(lookback))
    expected = {all_up[number] for at in places for number in needed.upstream_of(at)}
    assert keys_within(condition, all_up) == sorted(expected)
    own = rendered.within_windows(down_grain, rendered.windows(down_grain, TEAM), TEAM)
    assert keys_within(own, all_down) == sorted(keys)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_key_of_a_row_is_the_key_of_the_pair_whose_time_it_lies_in(data: st.DataObject) -> None:
    zone, day = data.draw(st.sampled_from(ZONES)), data.draw(st.sampled_from(WEEKDAYS))
    moment = data.draw(_moments(zone)).replace(microsecond=0)
    local = moment.astimezone(ZoneInfo(zone))
    rendered = Macros(declared(zone, day), model={"schema": TEAM})
    naive = f"timestamp '{moment.replace(tzinfo=None)}'"
    columns = {
        "hourly": rendered.hour_key(naive),
        "daily": f"strftime({rendered.local_time(naive)}, '%Y-%m-%d')",
        "weekly": f"strftime({rendered.week_of(rendered.local_time(naive))}, '%Y-%m-%d')",
        "weekly of a date": f"strftime({rendered.week_of('date ' + repr(str(local.date())))}, '%Y-%m-%d')",
        "monthly": f"strftime(date_trunc('month', {rendered.local_time(naive)}), '%Y-%m-%d')",
    }
    found = _duckdb().execute(f"select {', '.join(columns.values())}").fetchone()
    assert found is not None
    for name, key in zip(columns, found, strict=True):
        pairs = calendar(
            name.split()[0], zone, _month(local - timedelta(days=31)), _month(local + timedelta(days=31)), day
        )
        window = pairs.time_window_for_partition_key(key)
        assert window.start.timestamp() <= moment.timestamp() < window.end.timestamp(), name
        assert key in pairs.get_partition_keys(), name


@pytest.mark.parametrize(("day", "hours"), [("2017-03-12", 23), ("2017-06-01", 24), ("2017-11-05", 25)])
def test_each_of_23_24_and_25_hours_is_a_window_of_its_own(day: str, hours: int) -> None:
    zone = "America/New_York"
    pairs = dg.HourlyPartitionsDefinition("2017-01-01-00:00", end_date="2018-01-01-00:00", timezone=zone)
    keys = [key for key in pairs.get_partition_keys() if key.startswith(day)]
    assert len(keys) == hours
    for key in keys:
        rendered = macros(zone, "monday", pairs, [key])
        condition = rendered.within_windows("hourly", rendered.windows("hourly", TEAM), TEAM)
        assert keys_within(condition, keys) == [key]


def test_by_hand_a_window_of_local_time_holds_both_hours_of_one_name() -> None:
    flags = {"event_time_start": "2017-11-05 01:00:00", "event_time_end": "2017-11-05 02:00:00"}
    rendered = Macros(declared("America/New_York"), flags=flags)
    condition = rendered.within_windows("hourly", rendered.windows("hourly", TEAM), TEAM)
    keys = ["2017-11-05-00:00", "2017-11-05-01:00", "2017-11-05-01:00-0500", "2017-11-05-02:00"]
    assert keys_within(condition, keys) == keys[1:3]


def test_a_team_that_the_project_does_not_know_is_refused_with_what_to_say() -> None:
    with pytest.raises(MacroError, match="has no team 'bakery': give its time_zone and week_begins"):
        Macros(declared("UTC")).calendar_of("bakery")
    with pytest.raises(MacroError, match="week_begins of team 'shop' is 'Sonntag'; use one of monday"):
        Macros(declared("UTC", "Sonntag")).calendar_of(TEAM)


def test_the_day_on_which_weeks_begin_is_read_from_a_calendar() -> None:
    for day in WEEKDAYS:
        assert first_weekday(calendar("weekly", "UTC", FIRST, FIRST, day)) == day
