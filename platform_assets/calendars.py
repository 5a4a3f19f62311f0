"""What a calendar tells, and what it must be: grain, ends of partitions, and the clocks of its zone.

Belongs here: pure functions on any time partitions definition. Not here: the calendars there are (`partitions.py`),
which pairs need which (`asset_graph/requirements.py`).
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import dagster as dg
from dagster._core.definitions.partitions.schedule_type import ScheduleType

HOUR_FORMAT = "%Y-%m-%d-%H:%M"
DAY_FORMAT = "%Y-%m-%d"
WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
"""By their number in `day_offset`."""

_GRAINS = {
    ScheduleType.HOURLY: "hourly",
    ScheduleType.DAILY: "daily",
    ScheduleType.WEEKLY: "weekly",
    ScheduleType.MONTHLY: "monthly",
}
_HOUR, _DAY, _SECOND = timedelta(hours=1), timedelta(days=1), timedelta(seconds=1)
_FORESEEN = datetime(2038, 1, 1, tzinfo=UTC)
"""Until when the clocks of a calendar without an end are looked at: far enough for their rules to show."""


class UnfitCalendar(ValueError):
    """A calendar that pairs cannot be built by; the message says what is wrong with it and what to declare."""


class ClockChange(NamedTuple):
    """When the clocks of a zone are set, and by how much: less than nothing where an hour comes twice."""

    at: datetime
    by: timedelta


@lru_cache(maxsize=256)
def grain_of(calendar: dg.TimeWindowPartitionsDefinition) -> str:
    """hourly, daily, weekly or monthly: how long the partitions of `calendar` are.

    Raises:
        UnfitCalendar: they are of another length, begin at another time than the dbt macros know, or have keys of
            another form; or the zone's clocks make keys that do not sort.
    """
    kind = calendar.schedule_type
    where = f"calendar {calendar.cron_schedule!r} from {calendar.start:%Y-%m-%d} in {calendar.timezone}"
    if kind is None or calendar.minute_offset:
        raise UnfitCalendar(f"{where}: partitions must be hours on the hour, days, weeks or months")
    if kind is not ScheduleType.HOURLY and calendar.hour_offset:
        raise UnfitCalendar(f"{where}: days, weeks and months must begin at midnight; leave hour_offset out")
    if kind is ScheduleType.MONTHLY and calendar.day_offset != 1:
        raise UnfitCalendar(f"{where}: months must begin on their first day; leave day_offset out")
    expected = HOUR_FORMAT if kind is ScheduleType.HOURLY else DAY_FORMAT
    if calendar.fmt != expected:
        raise UnfitCalendar(f"{where}: keys must be written as {expected!r}, not {calendar.fmt!r}")
    if kind is ScheduleType.HOURLY:
        _refuse_odd_hours(calendar, where)
    elif any(abs(change.by) >= _DAY for change in _changes_of(calendar, calendar.timezone)):
        raise UnfitCalendar(f"{where}: the zone leaves out or repeats a whole day in that time; start later")
    return _GRAINS[kind]


def name_of(calendar: dg.PartitionsDefinition | None) -> str:
    """A name for what belongs to a calendar, e.g. `daily_20170101_5f0c1e`: the same whatever others there are."""
    if calendar is None:
        return "unpartitioned"
    kind = type(calendar).__name__.removesuffix("PartitionsDefinition").lower()
    if isinstance(calendar, dg.TimeWindowPartitionsDefinition):
        schedule = calendar.schedule_type
        kind = f"{schedule.value.lower() if schedule else 'cron'}_{calendar.start:%Y%m%d}"
    return f"{kind}_{calendar.get_serializable_unique_identifier()[:6]}"


def first_weekday(calendar: dg.TimeWindowPartitionsDefinition) -> str:
    """On which day the weeks of a weekly calendar begin, e.g. `monday`."""
    return WEEKDAYS[calendar.day_offset % len(WEEKDAYS)]


def has_ever(calendar: dg.TimeWindowPartitionsDefinition, key: str) -> bool:
    """Whether the calendar has a partition called `key`, or will have it once that has ended."""
    try:
        start = calendar.start_time_for_partition_key(key).timestamp()
    except ValueError:
        return False
    end = calendar.end_timestamp
    return (
        calendar.start_timestamp <= start
        and (end is None or start < end)
        and calendar.get_partition_key_for_timestamp(start) == key
    )


def end_of(calendar: dg.TimeWindowPartitionsDefinition, key: str) -> datetime | None:
    """When the partition called `key` ends, be that in the future; None: the calendar has no such partition."""
    return calendar.time_window_for_partition_key(key).end if has_ever(calendar, key) else None


def changed(calendar: dg.TimeWindowPartitionsDefinition, **settings: Any) -> dg.TimeWindowPartitionsDefinition:
    """The calendar with other `settings`, as `dg.TimeWindowPartitionsDefinition` takes them."""
    own = {
        "start": calendar.start,
        "end": calendar.end,
        "timezone": calendar.timezone,
        "fmt": calendar.fmt,
        "cron_schedule": calendar.cron_schedule,
        "end_offset": calendar.end_offset,
        "exclusions": calendar.exclusions,
    }
    return dg.TimeWindowPartitionsDefinition(**own | settings)


def ended_by(calendar: dg.TimeWindowPartitionsDefinition, moment: datetime) -> Sequence[str]:
    """The keys of the partitions that had ended by `moment`, in order: none of those that a calendar reaches ahead."""
    ended = changed(calendar, end_offset=min(calendar.end_offset, 0))
    return ended.get_partition_keys(current_time=moment)


def first_ambiguous_bound(calendar: dg.TimeWindowPartitionsDefinition, zone: str) -> datetime | None:
    """The first begin of a partition that the wall clocks of `zone` do not tell: within hours that they show twice.

    Of a row with a time in such an hour nobody can say the partition. None: there is no such bound.
    """
    for change in _changes_of(calendar, zone):
        if change.by < timedelta():
            window = calendar.get_next_partition_window(change.at + change.by + _SECOND, respect_bounds=False)
            if window is not None and window.start.astimezone(UTC) < change.at - change.by:
                return window.start
    return None


def has_doubled_midnights(calendar: dg.TimeWindowPartitionsDefinition) -> bool:
    """Whether clocks are set back to midnight, so that a local day begins twice: a pair begins with the first."""
    zone = ZoneInfo(calendar.timezone)
    return any(
        change.by < timedelta() and change.at.astimezone(zone).time() == datetime.min.time()
        for change in _changes_of(calendar, calendar.timezone)
    )


@lru_cache(maxsize=256)
def clock_changes(zone: str, first: datetime, last: datetime) -> tuple[ClockChange, ...]:
    """When the clocks of `zone` are set between two moments, in order of time: on whole seconds, as all clocks are."""
    found, clock = [], ZoneInfo(zone)
    at, end = (moment.astimezone(UTC).replace(microsecond=0) for moment in (first, last))
    before = _ahead_of_utc(at, clock)
    while at < end:
        after = min(at + _DAY, end)
        now = _ahead_of_utc(after, clock)
        if now != before:
            low, high = at, after
            while high - low > _SECOND:
                middle = low + (high - low) // _SECOND // 2 * _SECOND
                low, high = (middle, high) if _ahead_of_utc(middle, clock) == before else (low, middle)
            found.append(ClockChange(high, now - before))
        at, before = after, now
    return tuple(found)


def _ahead_of_utc(moment: datetime, clock: ZoneInfo) -> timedelta:
    offset = moment.astimezone(clock).utcoffset()
    assert offset is not None
    return offset


def _changes_of(calendar: dg.TimeWindowPartitionsDefinition, zone: str) -> Iterator[ClockChange]:
    yield from clock_changes(zone, calendar.start, calendar.end or max(_FORESEEN, calendar.start))


def _refuse_odd_hours(calendar: dg.TimeWindowPartitionsDefinition, where: str) -> None:
    """Refuse clocks that are set by other than one hour: keys would not sort, or Dagster give an hour two names.

    Dagster 1.13 finds the minute at which hours begin by the offset that the zone has *today*.
    """
    zone = ZoneInfo(calendar.timezone)
    odd = next((change.at for change in _changes_of(calendar, calendar.timezone) if abs(change.by) != _HOUR), None)
    at_first, today = (_ahead_of_utc(moment, zone) for moment in (calendar.start, datetime.now(UTC)))
    if odd is None and at_first % _HOUR and not today % _HOUR:
        odd = calendar.start
    if odd is not None:
        raise UnfitCalendar(
            f"{where}: the zone's clocks are set by other than one hour ({odd:%Y-%m-%d}), so that its hours have no "
            "keys that sort in the order of time; declare days, or hours in another zone"
        )
