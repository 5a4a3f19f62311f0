"""Which time window a set of partition keys is, in the words of dbt's event-time flags and of the macros.

Belongs here: pure functions on partitions definitions and keys. Not here: starting dbt.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
from dagster._time import dst_safe_strftime

from platform_assets.asset_graph.graph import ranges
from platform_assets.calendars import HOUR_FORMAT, first_weekday, grain_of

WINDOWS = "HEADWATER_WINDOWS"
"""The variable that names the windows to the dbt macros, as start/end parted by commas; see window.sql."""

_HOURLY = "0 * * * *"


def event_time_flags(calendar: dg.TimeWindowPartitionsDefinition | None, keys: Sequence[str]) -> list[str]:
    """The flags that make dbt build from the first to the last of `keys`; none for an unpartitioned model.

    The window is in the team's local time, end exclusive. It cannot tell two hours of one name apart, and dbt takes
    none that ends when it begins: `windows_variable` is exact.
    """
    if calendar is None:
        return []
    first, last = _window(calendar, min(keys), max(keys))
    start, end = first.replace(tzinfo=None), last.replace(tzinfo=None)
    end = max(end, start + timedelta(hours=1))
    return ["--event-time-start", start.isoformat(sep=" "), "--event-time-end", end.isoformat(sep=" ")]


def windows_variable(calendar: dg.TimeWindowPartitionsDefinition | None, keys: Sequence[str]) -> dict[str, str]:
    """The variable by which dbt builds `keys` and nothing between them; empty for an unpartitioned model."""
    if calendar is None:
        return {}
    windows = (_window(calendar, first, last) for first, last in ranges(calendar, set(keys)))
    return {WINDOWS: ",".join(f"{_as_hour(start)}/{_as_hour(end)}" for start, end in windows)}


def refuse_other_calendars(
    said: Mapping[str, Any], calendars: Mapping[str, Mapping[str, dg.TimeWindowPartitionsDefinition | None]]
) -> None:
    """Make sure that the macros compute by the calendars that the pairs have.

    Args:
        said: `vars.calendars` of dbt_project.yml, by team.
        calendars: by team and grain.

    Raises:
        ValueError: a team's zone, or the day on which its weeks begin, is another there; or the team is missing.
    """
    for team, by_grain in calendars.items():
        declared = [calendar for calendar in by_grain.values() if calendar is not None]
        zones = {calendar.timezone for calendar in declared}
        days = {first_weekday(calendar) for calendar in declared if grain_of(calendar) == "weekly"}
        for name, expected in (("time_zone", zones), ("week_begins", days)):
            found = said.get(team, {}).get(name)
            if expected and expected != {found}:
                raise ValueError(
                    f"team {team!r} has {name} {', '.join(sorted(expected))} in platform_assets/partitions.py and "
                    f"{found or 'none'} in vars.calendars of dbt/dbt_project.yml; a team has one, in both"
                )


def _window(calendar: dg.TimeWindowPartitionsDefinition, first: str, last: str) -> tuple[datetime, datetime]:
    start = calendar.time_window_for_partition_key(first).start
    return start, calendar.time_window_for_partition_key(last).end


def _as_hour(moment: datetime) -> str:
    """The key of the hour that begins at a local moment; the second of two with one name carries its offset."""
    return dst_safe_strftime(moment, str(moment.tzinfo), HOUR_FORMAT, _HOURLY)
