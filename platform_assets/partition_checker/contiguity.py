"""Freshness of partitioned data: how far the complete history reaches without a hole.

Belongs here: pure functions on keys. Not here: where the keys come from, Dagster checks.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from platform_assets.calendars import ended_by


@dataclass(frozen=True)
class Freshness:
    """Where an asset stands: the newest partition up to which nothing is missing, against what was due.

    `newest_complete` is None when the very first due partition is missing, `newest_due` when none is due yet.
    """

    newest_complete: str | None
    newest_due: str | None
    missing: tuple[str, ...]

    @property
    def fresh(self) -> bool:
        """Whether everything due is there."""
        return not self.missing


def freshness(due: Sequence[str], complete: Collection[str]) -> Freshness:
    """Compare `due`, the partition keys expected by now in order of time, with the `complete` ones.

    A later partition does not make up for a hole before it: the newest *contiguous* one counts.
    """
    there = set(complete)
    missing = tuple(key for key in due if key not in there)
    newest = None
    for key in due:
        if key not in there:
            break
        newest = key
    return Freshness(newest, due[-1] if due else None, missing)


def due_partitions(calendar: dg.TimeWindowPartitionsDefinition, delay: timedelta, now: datetime) -> Sequence[str]:
    """The keys of `calendar` that are expected by `now`: those that ended at least `delay` ago."""
    return ended_by(calendar, now - delay)
