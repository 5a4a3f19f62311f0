"""Every partitions definition and partition mapping of both code locations.

Belongs here: calendars, their time zones, and how pairs of one calendar map to pairs of another.
Not here: which asset uses which calendar (the declaration of the asset says so).

A partition key is local time of the team. Keys of one calendar sort as text in the order of time, which the
dbt window macros and the lake's range deletes rely on.
"""

from collections.abc import Mapping
from datetime import timedelta

import dagster as dg

HOUR_FORMAT = "%Y-%m-%d-%H:%M"
DAY_FORMAT = "%Y-%m-%d"
MONDAY = 1

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
    """The calendar of `team` at `grain` (hourly, daily, weekly or none).

    Raises:
        KeyError: the team has no such calendar; the message lists those it has.
    """
    calendars = CALENDARS.get(team, {})
    if grain not in calendars:
        raise KeyError(
            f"team {team!r} has no {grain!r} calendar; platform_assets/partitions.py declares "
            f"{', '.join(sorted(calendars)) or 'none for this team'}"
        )
    return calendars[grain]


def weeks_from(
    first: str, calendar: dg.WeeklyPartitionsDefinition = COMMERCE_WEEKLY, *, ahead: int = 0
) -> dg.WeeklyPartitionsDefinition:
    """The weeks of `calendar` from `first` on, for what needs some weeks of history behind it.

    Args:
        first: the Monday of the first week, as an ISO date.
        calendar: whose weeks.
        ahead: how many weeks past the end of `calendar`, for what is forecast.

    Raises:
        KeyError: the calendar has no such week.
    """
    if not calendar.has_partition_key(first):
        raise KeyError(
            f"{first} begins no week of the calendar; its weeks begin on {calendar.get_first_partition_key()}"
        )
    end = calendar.end
    return dg.WeeklyPartitionsDefinition(
        start_date=first,
        end_date=end and end + timedelta(weeks=ahead),
        timezone=calendar.timezone,
        day_offset=calendar.day_offset,
    )


def same_time(lookback: int = 0) -> dg.PartitionMapping:
    """Pairs map to the upstream pairs that cover the same time, and to those `lookback` of their own lengths before.

    Hourly rolls up to daily and daily to weekly by the same mapping: a day needs all its hours, a week all its
    days. Upstream pairs outside the upstream's calendar (before its first day, a closed day) are not needed.
    """
    return offset(-lookback, 0)


def offset(first: int, last: int) -> dg.TimeWindowPartitionMapping:
    """A pair maps to the upstream pairs `first` to `last` relative to its own time, as far as the upstream has them."""
    return dg.TimeWindowPartitionMapping(first, last, allow_nonexistent_upstream_partitions=True)
