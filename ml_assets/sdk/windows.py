"""Which partitions a partition reads: the same answer for the asset graph's mappings and for the queries.

Belongs here: what a declaration reads, and the keys that it comes to. Not here: what is read of those partitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from ml_assets.declaration_error import DeclarationError
from platform_assets.partitions import offset

Calendar = dg.TimeWindowPartitionsDefinition

_GROWN = timedelta(days=400)
"""A calendar without an end has partitions of every length after so long."""


@dataclass(frozen=True)
class Reads:
    """Which partitions of a table a query sees.

    Attributes:
        table: the asset that writes it.
        calendar: its partitions; None: it has none, and all of it is seen.
        first, last: from which to which partition, relative to the one that is computed, e.g. -8 to -1.
    """

    table: dg.AssetKey
    calendar: Calendar | None
    first: int = 0
    last: int = 0

    @property
    def dep(self) -> dg.AssetDep:
        """The edge of the asset graph."""
        return dg.AssetDep(
            self.table, partition_mapping=None if self.calendar is None else offset(self.first, self.last)
        )

    def keys(self, calendar: Calendar, partition: str) -> list[str] | None:
        """The keys that `partition` of `calendar` reads, in order; None: all of an unpartitioned table."""
        if self.calendar is None:
            return None
        return upstream_keys(calendar, partition, self.calendar, self.first, self.last)

    def lacks(self, calendar: Calendar, partition: str) -> str:
        """Why what `partition` of `calendar` reads is not all there by the table's own calendar; empty if it is.

        Before the table's first partition nothing is expected of it; of a closed day, and past its last, something is.
        """
        if self.calendar is None:
            return ""
        with dg.partition_loading_context():
            last = self.calendar.get_last_partition_window_ignoring_exclusions()
            if last is None:
                return "has no partition yet"
            needed = calendar.time_window_for_partition_key(partition).end
            for _ in range(abs(self.last)):
                beyond = calendar.get_next_partition_window if self.last > 0 else calendar.get_prev_partition_window
                window = beyond(needed, respect_bounds=False)
                assert window is not None
                needed = window.end if self.last > 0 else window.start
            if needed.timestamp() > last.end.timestamp():
                return f"has partitions until {last.end:%Y-%m-%d %H:%M %Z}, and {needed:%Y-%m-%d %H:%M %Z} is needed"
            return "" if self.keys(calendar, partition) else "has no partition of that time"

    def reaches_past(self, calendar: Calendar) -> str:
        """Why the table's calendar cannot follow `calendar`, whatever the time is; empty if it can.

        Both are looked at as they are once they have ended, and, of those that grow, at the end of one of the table's
        own partitions: nothing else than their ends can differ then.
        """
        if self.calendar is None:
            return ""
        grown = max(calendar.start, self.calendar.start) + _GROWN
        ended = [end + _GROWN for end in (calendar.end, self.calendar.end) if end is not None]
        for moment in (grown, *ended):
            tick = self.calendar.get_next_partition_window(moment, respect_bounds=False)
            assert tick is not None
            with dg.partition_loading_context(tick.start):
                last = calendar.get_last_partition_key()
                why = self.lacks(calendar, last) if last is not None else ""
            if why:
                return why
        return ""


def upstream_keys(calendar: Calendar, partition: str, upstream: Calendar, first: int, last: int) -> list[str]:
    """The keys of `upstream` that `partition` of `calendar` maps to by `offset(first, last)`, in order."""
    asked = calendar.empty_subset().with_partition_keys([partition])
    found = offset(first, last).get_upstream_mapped_partitions_result_for_partitions(asked, calendar, upstream)
    return sorted(found.partitions_subset.get_partition_keys())


def bounds(calendar: Calendar, partition: str) -> tuple[datetime, datetime]:
    """When the partition begins and ends."""
    window = calendar.time_window_for_partition_key(partition)
    return window.start, window.end


def merged(deps: Sequence[dg.AssetDep]) -> list[dg.AssetDep]:
    """One dep for each upstream asset; several that read different windows of one become one that spans them.

    Raises:
        DeclarationError: two mappings to one asset of which no span is known.
    """
    kept: dict[dg.AssetKey, dg.AssetDep] = {}
    for dep in deps:
        before = kept.setdefault(dep.asset_key, dep)
        mine, other = before.partition_mapping, dep.partition_mapping
        if mine == other:
            continue
        if not (isinstance(mine, dg.TimeWindowPartitionMapping) and isinstance(other, dg.TimeWindowPartitionMapping)):
            raise DeclarationError(
                f"{dep.asset_key.to_user_string()} is read by two partition mappings that cannot be joined "
                f"({mine}, {other}); read it by one"
            )
        span = offset(min(mine.start_offset, other.start_offset), max(mine.end_offset, other.end_offset))
        kept[dep.asset_key] = dg.AssetDep(dep.asset_key, partition_mapping=span)
    return list(kept.values())
