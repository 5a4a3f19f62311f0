"""Which time window a set of partition keys is, in the words of dbt's event-time flags.

Belongs here: pure functions on partitions definitions and keys. Not here: starting dbt.
"""

from collections.abc import Sequence
from datetime import datetime

import dagster as dg


def event_time_flags(calendar: dg.TimeWindowPartitionsDefinition | None, keys: Sequence[str]) -> list[str]:
    """The flags that make dbt build exactly the partitions `keys` of `calendar`; none for an unpartitioned model.

    The window is in the team's local time, as the keys are, end exclusive.
    """
    if calendar is None:
        return []
    first, last = min(keys), max(keys)
    start = calendar.time_window_for_partition_key(first).start
    end = calendar.time_window_for_partition_key(last).end
    return ["--event-time-start", _naive(start), "--event-time-end", _naive(end)]


def _naive(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(sep=" ")
