"""Clocks of time zones: the hours that they skip when they are put forward.

Belongs here: what the wall clocks of a zone have shown. Not here: the partitions of calendars (`partitions.py`).
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

# Before, hardly any zone has put its clocks forward; what is declared for later is a guess.
_FIRST_YEAR, _LAST_YEAR = 1900, 2100


def skipped_hours(zone: str, first: datetime, last: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Begin and exclusive end, naive in `zone`, of what its clocks skipped between two naive times of the zone.

    Only the years 1900 to 2100 are looked at.
    """
    clock = ZoneInfo(zone)

    def offset(moment: datetime) -> timedelta:
        return moment.astimezone(clock).utcoffset() or timedelta(0)

    moment = datetime(max(first.year, _FIRST_YEAR), 1, 1, tzinfo=UTC) - timedelta(days=1)
    end = datetime(min(last.year, _LAST_YEAR) + 1, 1, 1, tzinfo=UTC) + timedelta(days=1)
    while moment < end:
        following = moment + timedelta(days=1)
        before, after = offset(moment), offset(following)
        if after > before:
            early, late = moment, following
            while late - early > timedelta(seconds=1):
                middle = early + timedelta(seconds=(late - early) // timedelta(seconds=2))
                early, late = (middle, late) if offset(middle) == before else (early, middle)
            start = late.replace(tzinfo=None) + before
            yield start, start + (after - before)
        moment = following
