"""Which upstream pairs each downstream pair needs: Dagster's partition mappings, compiled to arrays.

Belongs here: turning (calendar, calendar, mapping) into a `Requirement`, and set arithmetic on it. Not here: which
pairs are there, what to rebuild.

A requirement is exactly what Dagster's own mapping names among the pairs that exist, quirks included: a window that
starts on an excluded day reaches back to the last day that is not, so the week of 25 December also needs 24 December.
Two programs that answer the same question differently are worse than one day too many. Upstream pairs that a mapping
names outside the upstream's calendar are not part of a requirement.

Pairs are indices in the order of `get_partition_keys()`; an asset without partitions has one pair, index 0.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import dagster as dg
import numpy as np
from dagster._core.definitions.partitions.utils.mapping import infer_partition_mapping
from numpy.typing import NDArray

from platform_assets.calendars import changed

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

NONE = -1
"""Where there is no such pair."""

_INSTANT = "%Y-%m-%dT%H:%M:%S%z"
_HOUR_S = 3600


@dataclass(frozen=True, eq=False)
class Requirement:
    """For each downstream pair the upstream pairs that it needs.

    Pair `i` needs the upstream pairs `low[i]` up to, not including, `high[i]`; where these are not contiguous, the
    bounds are positions in `members`, which holds the upstream pairs of one downstream pair after the other.
    """

    low: IntArray
    high: IntArray
    upstream_count: int
    members: IntArray | None = None

    @classmethod
    def of(cls, rows: Iterable[Iterable[int]], upstream_count: int) -> "Requirement":
        """The requirement whose downstream pair `i` needs `rows[i]`."""
        ordered = [sorted(set(row)) for row in rows]
        if all(not row or row[-1] - row[0] == len(row) - 1 for row in ordered):
            return cls(
                np.array([row[0] if row else 0 for row in ordered], np.int64),
                np.array([row[-1] + 1 if row else 0 for row in ordered], np.int64),
                upstream_count,
            )
        ends = np.cumsum([len(row) for row in ordered], dtype=np.int64)
        members = np.array([index for row in ordered for index in row], np.int64)
        return cls(np.concatenate(([0], ends[:-1])), ends, upstream_count, members)

    @property
    def downstream_count(self) -> int:
        """How many pairs the downstream asset has."""
        return len(self.low)

    @cached_property
    def fingerprint(self) -> str:
        """Equal for requirements that are stored alike."""
        digest = hashlib.sha256(f"{self.downstream_count} {self.upstream_count}".encode())
        for part in (self.low, self.high, self.members):
            digest.update(b"|" if part is None else part.tobytes())
        return digest.hexdigest()

    def upstream_of(self, index: int) -> Sequence[int]:
        """The upstream pairs that the downstream pair `index` needs, ascending."""
        low, high = int(self.low[index]), int(self.high[index])
        if self.members is None:
            return range(low, high)
        found: list[int] = self.members[low:high].tolist()
        return found

    def needed(self, wanted: BoolArray) -> BoolArray:
        """The upstream pairs that any of the `wanted` downstream pairs needs."""
        size = self.upstream_count if self.members is None else len(self.members)
        opened = np.bincount(self.low[wanted], minlength=size + 1)
        closed = np.bincount(self.high[wanted], minlength=size + 1)
        covered: BoolArray = np.cumsum(opened - closed)[:size] > 0
        if self.members is None:
            return covered
        found = np.zeros(self.upstream_count, np.bool_)
        found[self.members[covered]] = True
        return found

    def affected(self, changed: BoolArray) -> BoolArray:
        """The downstream pairs that need any of the `changed` upstream pairs."""
        before = np.concatenate(([0], np.cumsum(self._seen(changed))))
        found: BoolArray = before[self.high] > before[self.low]
        return found

    def sums(self, values: IntArray) -> IntArray:
        """For each downstream pair the sum of the rows of `values` of the upstream pairs it needs, wrapping around."""
        seen = values if self.members is None else values[self.members]
        before = np.concatenate((np.zeros((1, *seen.shape[1:]), np.int64), np.cumsum(seen, axis=0)))
        found: IntArray = before[self.high] - before[self.low]
        return found

    def first(self, changed: BoolArray) -> IntArray:
        """For each downstream pair the first of the `changed` upstream pairs that it needs, or NONE."""
        return self._bounding(changed, last=False)

    def last(self, changed: BoolArray) -> IntArray:
        """For each downstream pair the last of the `changed` upstream pairs that it needs, or NONE."""
        return self._bounding(changed, last=True)

    def _bounding(self, changed: BoolArray, last: bool) -> IntArray:
        places = np.flatnonzero(self._seen(changed))
        if not len(places):
            return np.full(self.downstream_count, NONE, np.int64)
        at = np.searchsorted(places, self.high) - 1 if last else np.searchsorted(places, self.low)
        found = places[np.clip(at, 0, len(places) - 1)]
        inside = (self.low <= found) & (found < self.high)
        return np.where(inside, found if self.members is None else self.members[found], NONE)

    def _seen(self, changed: BoolArray) -> BoolArray:
        return changed if self.members is None else changed[self.members]


def compile_requirement(
    downstream: dg.PartitionsDefinition | None,
    upstream: dg.PartitionsDefinition | None,
    mapping: dg.PartitionMapping | None,
) -> Requirement:
    """What `downstream` needs of `upstream`, computed once for equal arguments while their calendars do not grow.

    Without a mapping, Dagster's default holds. Where either side has no partitions everything is needed, unless the
    mapping picks among all upstream pairs without looking at the downstream one (the last, some named ones).

    Raises:
        DagsterInvalidDefinitionError: a time window mapping between two time zones.
        CheckError: the mapping does not fit these calendars; Dagster's words.
    """
    with dg.partition_loading_context():  # one moment for all that is asked of calendars that grow
        ends = (last_key(downstream), last_key(upstream))
        return _compiled(downstream, upstream, _Named(repr(mapping), mapping), ends)


@dataclass(frozen=True)
class _Named:
    """A mapping that hashes and compares by what it says: Dagster's mappings that hold a dict or a list do not hash."""

    text: str
    mapping: dg.PartitionMapping | None = field(compare=False)


class _Windows(NamedTuple):
    """Starts and ends of the partitions of a calendar, in seconds since 1970."""

    start: IntArray
    end: IntArray


def last_key(definition: dg.PartitionsDefinition | None) -> object:
    """What changes when a calendar gains a partition by the passing of time; part of the key of what is kept of it."""
    if isinstance(definition, dg.TimeWindowPartitionsDefinition):
        return definition.get_last_partition_key()
    if isinstance(definition, dg.MultiPartitionsDefinition):
        return tuple(last_key(dimension.partitions_def) for dimension in definition.partitions_defs)
    return None


def partition_ends(calendar: dg.TimeWindowPartitionsDefinition) -> IntArray:
    """When each partition of a calendar ends, in seconds since 1970."""
    with dg.partition_loading_context():
        return _windows(calendar, last_key(calendar)).end


@lru_cache(maxsize=1024)
def _compiled(
    downstream: dg.PartitionsDefinition | None, upstream: dg.PartitionsDefinition | None, named: _Named, ends: object
) -> Requirement:
    if upstream is None:
        return _everything(1 if downstream is None else len(downstream.get_partition_keys()), 1)
    mapping = infer_partition_mapping(named.mapping, downstream, upstream)
    chosen = isinstance(mapping, dg.LastPartitionMapping | dg.SpecificPartitionsPartitionMapping)
    if isinstance(mapping, dg.AllPartitionMapping) or (downstream is None and not chosen):
        downstream_count = 1 if downstream is None else len(downstream.get_partition_keys())
        return _everything(downstream_count, len(upstream.get_partition_keys()))
    if type(mapping) is dg.TimeWindowPartitionMapping and downstream is not None:
        mapping.validate_partition_mapping(upstream, downstream)
        assert isinstance(downstream, dg.TimeWindowPartitionsDefinition)
        assert isinstance(upstream, dg.TimeWindowPartitionsDefinition)
        return _same_time(downstream, upstream, mapping)
    places = {str(key): index for index, key in enumerate(upstream.get_partition_keys())}
    if type(mapping) is dg.IdentityPartitionMapping and downstream is not None:
        rows = [[places[key]] if key in places else [] for key in downstream.get_partition_keys()]
        return Requirement.of(rows, len(places))
    if chosen:
        row = _asked(mapping, None, None, upstream, places)
        return Requirement.of([row] * (1 if downstream is None else len(downstream.get_partition_keys())), len(places))
    assert downstream is not None
    return Requirement.of(
        [_asked(mapping, key, downstream, upstream, places) for key in downstream.get_partition_keys()], len(places)
    )


def _everything(downstream_count: int, upstream_count: int) -> Requirement:
    return Requirement(
        np.zeros(downstream_count, np.int64), np.full(downstream_count, upstream_count, np.int64), upstream_count
    )


def _asked(
    mapping: dg.PartitionMapping,
    key: str | None,
    downstream: dg.PartitionsDefinition | None,
    upstream: dg.PartitionsDefinition,
    places: dict[str, int],
) -> list[int]:
    """What Dagster answers for one downstream pair."""
    subset = downstream.subset_with_partition_keys([key]) if downstream is not None and key is not None else None
    found = mapping.get_upstream_mapped_partitions_result_for_partitions(subset, downstream, upstream)
    return [places[str(name)] for name in found.partitions_subset.get_partition_keys() if str(name) in places]


def _same_time(
    downstream: dg.TimeWindowPartitionsDefinition,
    upstream: dg.TimeWindowPartitionsDefinition,
    mapping: dg.TimeWindowPartitionMapping,
) -> Requirement:
    """`TimeWindowPartitionMapping._map_partitions` of Dagster 1.13 for every downstream pair at once.

    Its shortcuts for equal calendars give what its general rule gives, so that only the rule is here.
    """
    down, up = _windows(downstream, last_key(downstream)), _windows(upstream, last_key(upstream))
    if not len(down.start) or not len(up.start):
        return _everything(len(down.start), 0) if not len(up.start) else Requirement.of([], len(up.start))
    bounds = (up.start[0], up.end[-1])
    low = _bounded(_moved(downstream, down.start, mapping.start_offset), mapping.start_offset, bounds)
    high = _bounded(_moved(downstream, down.end, mapping.end_offset), mapping.end_offset, bounds)
    hours_of_days = downstream.is_basic_daily and upstream.is_basic_hourly
    if downstream.cron_schedule != upstream.cron_schedule and not hours_of_days:
        low, high = _covering(upstream, low, high)
    there = (low < high) & (low <= up.start[-1]) & (high >= up.end[0])
    first = np.searchsorted(up.start, np.maximum(low, bounds[0]))
    after = np.searchsorted(up.start, np.minimum(high, bounds[1]))
    there &= first < after
    return Requirement(np.where(there, first, 0), np.where(there, after, 0), len(up.start))


def _bounded(instants: IntArray, offset: int, bounds: tuple[np.int64, np.int64]) -> IntArray:
    """An offset moves no window across the end of the upstream calendar towards which it moves."""
    if offset < 0:
        return np.maximum(instants, bounds[0])
    return np.minimum(instants, bounds[1]) if offset > 0 else instants


def _moved(calendar: dg.TimeWindowPartitionsDefinition, instants: IntArray, offset: int) -> IntArray:
    """Window boundaries moved by `offset` partitions of their calendar, beyond its ends if need be."""
    if offset == 0:
        return instants
    if calendar.is_basic_hourly:
        return instants + offset * _HOUR_S
    every, open_ = _ticks_around(calendar, instants, abs(offset))
    at = np.searchsorted(open_, instants)
    if offset < 0:
        return open_[at + offset]
    return every[np.searchsorted(every, open_[at + offset - 1], side="right")]


def _covering(calendar: dg.TimeWindowPartitionsDefinition, low: IntArray, high: IntArray) -> tuple[IntArray, IntArray]:
    """The windows from `low` to `high` widened to whole partitions of `calendar`, beyond its ends if need be."""
    every, open_ = _ticks_around(calendar, np.concatenate((low, high)), 1)
    start = open_[np.searchsorted(open_, low, side="right") - 1]
    last = open_[np.searchsorted(open_, high, side="left") - 1]
    return start, every[np.searchsorted(every, last, side="right")]


def _ticks_around(
    calendar: dg.TimeWindowPartitionsDefinition, instants: IntArray, steps: int
) -> tuple[IntArray, IntArray]:
    """All ticks of the calendar's schedule, and those not excluded, with `steps` of the latter on both sides."""
    first, last = int(instants.min()), int(instants.max())
    windows = _windows(calendar, last_key(calendar))
    margin = int((windows.end - windows.start).max()) * (steps + 2)
    while True:
        every = _ticks(calendar, first - margin, last + margin, excluding=False)
        open_ = _ticks(calendar, first - margin, last + margin, excluding=True)[:-1] if calendar.exclusions else every
        before, after = np.searchsorted(open_, first), len(open_) - np.searchsorted(open_, last)
        if before >= steps and after > steps:
            return every, open_
        margin *= 2


@lru_cache(maxsize=256)
def _windows(calendar: dg.TimeWindowPartitionsDefinition, last_key: object) -> _Windows:
    """The partitions of the calendar; `last_key` only tells apart what it was at different times."""
    whole = changed(calendar, fmt=_INSTANT)
    keys = whole.get_partition_keys()
    if not keys:
        return _Windows(np.zeros(0, np.int64), np.zeros(0, np.int64))
    start = _instants(keys)
    end = int(whole.time_window_for_partition_key(keys[-1]).end.timestamp())
    if not calendar.exclusions:
        return _Windows(start, np.append(start[1:], end))
    every = _ticks(calendar, int(start[0]), end, excluding=False)
    return _Windows(start, every[np.searchsorted(every, start, side="right")])


def _ticks(calendar: dg.TimeWindowPartitionsDefinition, first: int, last: int, excluding: bool) -> IntArray:
    """The ticks of the calendar's schedule from `first` to `last`, its own bounds set aside.

    The last one is the end of the last window: a tick whether excluded or not.
    """
    zone = ZoneInfo(calendar.timezone)
    whole = changed(
        calendar,
        start=datetime.fromtimestamp(first, zone),
        end=datetime.fromtimestamp(last, zone),
        end_offset=0,
        exclusions=calendar.exclusions if excluding else None,
        fmt=_INSTANT,
    )
    later = datetime.fromtimestamp(last, zone) + timedelta(days=1)
    keys = whole.get_partition_keys(current_time=later)
    if not keys:
        return np.array([], np.int64)
    end = whole.time_window_for_partition_key(keys[-1]).end
    return np.append(_instants(keys), int(end.timestamp()))


def _instants(keys: Sequence[str]) -> IntArray:
    return np.array([datetime.fromisoformat(key).timestamp() for key in keys], np.int64)
