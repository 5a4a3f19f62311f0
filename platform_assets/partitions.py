"""Every partitions definition and partition mapping of both code locations.

Belongs here: calendars, their time zones, and how pairs of one calendar map to pairs of another.
Not here: which asset uses which calendar (the declaration of the asset says so), what any calendar tells
(`calendars.py`).

A partition key is local time of the team. Keys of one calendar sort as text in the order of time, which the
dbt window macros and the lake's range deletes rely on. Of the two hours that have one name when clocks are set back,
the second carries its UTC offset, as Dagster names it: 2017-11-05-01:00, then 2017-11-05-01:00-0500.
"""

from collections.abc import Mapping

import dagster as dg

from platform_assets.calendars import HOUR_FORMAT, UnfitCalendar, grain_of, has_ever

MONDAY = 1
"""As `day_offset`; Sunday is 0."""

COMMERCE_ZONE = "America/New_York"
WEBTOON_ZONE = "Asia/Seoul"

COMMERCE_DAILY = dg.DailyPartitionsDefinition(
    start_date="2017-01-01",
    end_date="2018-01-01",
    timezone=COMMERCE_ZONE,
    # The stores are closed on Christmas Day: nothing is sold, nothing is delivered, no pair is expected.
    exclusions=["0 0 25 12 *"],
)
COMMERCE_WEEKLY = dg.WeeklyPartitionsDefinition(
    start_date="2016-12-26", end_date="2018-01-01", timezone=COMMERCE_ZONE, day_offset=MONDAY
)

WEBTOON_HOURLY = dg.HourlyPartitionsDefinition(
    start_date="2017-12-04-00:00", end_date="2018-01-01-00:00", timezone=WEBTOON_ZONE, fmt=HOUR_FORMAT
)
WEBTOON_DAILY = dg.DailyPartitionsDefinition(start_date="2017-12-04", end_date="2018-01-01", timezone=WEBTOON_ZONE)
WEBTOON_WEEKLY = dg.WeeklyPartitionsDefinition(
    start_date="2017-12-04", end_date="2018-01-01", timezone=WEBTOON_ZONE, day_offset=MONDAY
)

CALENDARS: Mapping[str, Mapping[str, dg.TimeWindowPartitionsDefinition | None]] = {
    "commerce": {"daily": COMMERCE_DAILY, "weekly": COMMERCE_WEEKLY, "none": None},
    "webtoon": {"hourly": WEBTOON_HOURLY, "daily": WEBTOON_DAILY, "weekly": WEBTOON_WEEKLY, "none": None},
}


def calendar_of(team: str, grain: str) -> dg.TimeWindowPartitionsDefinition | None:
    """The calendar of `team` at `grain` (hourly, daily, weekly, monthly or none).

    Raises:
        KeyError: the team has no such calendar; the message lists those it has.
        UnfitCalendar: pairs cannot be built by it.
    """
    calendars = CALENDARS.get(team, {})
    if grain not in calendars:
        raise KeyError(
            f"team {team!r} has no {grain!r} calendar; platform_assets/partitions.py declares "
            f"{', '.join(sorted(calendars)) or 'none for this team'}"
        )
    calendar = calendars[grain]
    if calendar is not None:
        found = grain_of(calendar)
        if found != grain:
            raise UnfitCalendar(f"the {grain} calendar of team {team!r} is {found}; see platform_assets/partitions.py")
    return calendar


def since(
    first: str, calendar: dg.TimeWindowPartitionsDefinition, *, ahead: int = 0
) -> dg.TimeWindowPartitionsDefinition:
    """The partitions of `calendar` from `first` on, for what needs some history behind it.

    Args:
        first: key of the first partition; it need not have ended.
        calendar: whose partitions.
        ahead: how many partitions past those of `calendar`, for what is forecast: past its end, and, while it is still
            growing, past the last that has ended, so that the one that is running, and so on, can be built.

    Raises:
        KeyError: the calendar has no such partition.
    """
    if not has_ever(calendar, first):
        raise KeyError(
            f"{first} begins no partition of the calendar; one of its {grain_of(calendar)} partitions begins on "
            f"{calendar.start:{calendar.fmt}}"
        )
    end = calendar.end
    if end is not None and ahead:
        last = calendar.get_prev_partition_window(end, respect_bounds=False)
        for _ in range(ahead):
            assert last is not None
            last = calendar.get_next_partition_window(last.end, respect_bounds=False)
        end = last and last.end
    return dg.TimeWindowPartitionsDefinition(
        start=first,
        end=end,
        timezone=calendar.timezone,
        fmt=calendar.fmt,
        cron_schedule=calendar.cron_schedule,
        end_offset=calendar.end_offset + ahead,
        exclusions=calendar.exclusions,
    )


def weeks_from(
    first: str, calendar: dg.TimeWindowPartitionsDefinition = COMMERCE_WEEKLY, *, ahead: int = 0
) -> dg.TimeWindowPartitionsDefinition:
    """The weeks of `calendar` from the one that begins on `first` on; see `since`."""
    return since(first, calendar, ahead=ahead)


def same_time(lookback: int = 0) -> dg.PartitionMapping:
    """Pairs map to the upstream pairs that cover the same time, and to those `lookback` of their own lengths before.

    Hourly rolls up to daily, and daily to weekly and monthly, by the same mapping: a day needs all its hours, a week
    all its days. Upstream pairs outside the upstream's calendar (before its first day, a closed day) are not needed.
    """
    return offset(-lookback, 0)


def offset(first: int, last: int) -> dg.TimeWindowPartitionMapping:
    """A pair maps to the upstream pairs `first` to `last` relative to its own time, as far as the upstream has them."""
    return dg.TimeWindowPartitionMapping(first, last, allow_nonexistent_upstream_partitions=True)
