"""Which time window a set of partition keys is, in the words of dbt's event-time flags.

Belongs here: pure functions on partitions definitions and keys. Not here: starting dbt.
"""

from collections.abc import Sequence
from datetime import datetime

import dagster as dg

from platform_assets.operations.graph import ranges

WINDOWS = "HEADWATER_WINDOWS"
"""The variable that names several windows to the dbt macros, as start/end parted by commas; see window.sql."""


def event_time_flags(calendar: dg.TimeWindowPartitionsDefinition | None, keys: Sequence[str]) -> list[str]:
    """The flags that make dbt build from the first to the last of `keys`; none for an unpartitioned model.

    The window is in the team's local time, as the keys are, end exclusive.
    """
    if calendar is None:
        return []
    start, end = _window(calendar, min(keys), max(keys))
    return ["--event-time-start", start, "--event-time-end", end]


def windows_variable(calendar: dg.TimeWindowPartitionsDefinition | None, keys: Sequence[str]) -> dict[str, str]:
    """The variable by which dbt builds `keys` and nothing between them; empty where nothing is between them."""
    stretches = ranges(calendar, set(keys)) if calendar is not None else []
    if len(stretches) < 2:
        return {}
    assert calendar is not None
    return {WINDOWS: ",".join("/".join(_window(calendar, first, last)) for first, last in stretches)}


def _window(calendar: dg.TimeWindowPartitionsDefinition, first: str, last: str) -> tuple[str, str]:
    start = calendar.time_window_for_partition_key(first).start
    return _naive(start), _naive(calendar.time_window_for_partition_key(last).end)


def _naive(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(sep=" ")
