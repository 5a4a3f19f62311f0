"""The feed: which upstream system delivers which partitions into the landing zone.

Belongs here: choosing sources and partitions, and delivering them one after another. Not here: the command
line (`command.py`), the data (`commerce.py`, `webtoon.py`), the incidents, the writing (`landing.py`).
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import duckdb

from platform_assets.calendars import DAY_FORMAT, HOUR_FORMAT
from platform_assets.feed import commerce, webtoon
from platform_assets.feed.incidents import INCIDENTS, Draft, refuse_impossible
from platform_assets.feed.landing import Delivery, exclusive, put, restore, write_rows
from platform_assets.sources.catalogue import SOURCES
from platform_assets.sources.declaration import WHOLE, Source
from resources.engine import connect

SEED = 7
LARGEST_SCALE = 10_000

PLAYED: Mapping[str, Sequence[str]] = {"commerce": tuple(commerce.ENTITIES), "webtoon": webtoon.ENTITIES}
"""The entities per team that the feed delivers; whatever else is declared has a system of its own."""


class SelectionError(ValueError):
    """Sources, partitions or a scale that cannot be fed; the message names them and what can."""


def select(names: Sequence[str] = (), partitions: str | None = None) -> dict[str, tuple[str, ...]]:
    """The partition keys to deliver, by the name of their source.

    `names` are sources (`commerce.transactions` or `commerce/transactions`) and teams; none means every
    source. `partitions` is one bound or `first..last`, both included; a bound is a day, or an hour as in
    2017-12-04-13:00. Sources without partitions are delivered whole. Of a team, sources without a partition
    in the range are left out.

    Raises:
        SelectionError: an unknown source, or a range that is malformed or in which a source has no partition.
    """
    wanted = {name.replace("/", ".") for name in names}
    sources = _sources(wanted)
    if partitions is None:
        return {source.name: source.partition_keys() for source in sources}
    first, last = _bounds(partitions)
    selection = {source.name: _between(source, first, last) for source in sources}
    divided = [source for source in sources if source.partitions is not None]
    for source in divided:
        if source.name in wanted or not any(selection[other.name] for other in divided):
            _refuse_outside(source, first, last)
    return {name: keys for name, keys in selection.items() if keys}


def deliver(
    landing: Path,
    selection: Mapping[str, Sequence[str]],
    *,
    seed: int = SEED,
    scale: float = 1.0,
    incident: str | None = None,
    column: str | None = None,
    threads: int = 2,
    memory: str = "1GB",
    report: Callable[[Delivery], None] = lambda delivery: None,
) -> list[Delivery]:
    """Deliver the partitions of `selection` (keys by source name) into the zone `landing`, in that order.

    `seed` and `scale` are those of the synthetic sources (scale 1 is a million reads a week); `incident`
    happens to every partition, to `column` where it takes one. `report` is called after each partition.

    Raises:
        SelectionError: an unknown source, a partition that is not in its calendar, or a scale that is not
            positive.
        IncidentError: the incident cannot happen to one of the sources. Nothing has been delivered then.
        LandingBusyError: another feed is delivering.
        DeliveryError: a partition could not be written. What came before it is delivered, it and the rest are
            not.
    """
    orders = [(source_of(name), tuple(keys)) for name, keys in selection.items()]
    if not 0 < scale <= LARGEST_SCALE:
        raise SelectionError(f"scale {scale:g} is out of range; give more than 0 and at most {LARGEST_SCALE:,}")
    if seed < 0:
        raise SelectionError(f"seed {seed} is negative; give 0 or more")
    for source, keys in orders:
        refuse_impossible(source, incident, column)
        _refuse_unknown_partitions(source, keys)

    deliveries = []
    with exclusive(landing), _engine(threads, memory) as connection:
        for source, keys in orders:
            restore(source, landing)
            match source.team:
                case "commerce":
                    rows_of = commerce.upstream(connection, source, len(keys))
                case "webtoon":
                    rows_of = webtoon.upstream(connection, source, seed, scale)
            for key in keys:
                draft = Draft(source, key, rows_of, rows_of(key), column)
                delivery = _deliver_one(connection, landing, draft, incident)
                deliveries.append(delivery)
                report(delivery)
    return deliveries


def source_of(name: str) -> Source:
    """The source called `name`, if the feed can play its upstream system.

    Raises:
        SelectionError: no such source, or none that the feed plays; the message lists those.
    """
    for source in _played():
        if source.name == name:
            return source
    raise SelectionError(f"unknown source {name!r}; the feed plays {', '.join(s.name for s in _played())}")


def _engine(threads: int, memory: str) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that writes nothing but what it is told to."""
    return connect(config={"threads": threads, "memory_limit": memory, "temp_directory": ""})


def _deliver_one(connection: duckdb.DuckDBPyConnection, landing: Path, draft: Draft, incident: str | None) -> Delivery:
    began = time.perf_counter()
    happened = INCIDENTS[incident](draft) if incident else draft
    if happened is None:
        return Delivery(draft.source.name, draft.partition, "withheld", 0, 0, 0, 0.0)
    write = partial(_write, connection, happened)
    outcome, rows, size = put(draft.source, landing, draft.partition, write, is_marked=happened.is_marked)
    seconds = time.perf_counter() - began
    return Delivery(draft.source.name, draft.partition, outcome, 1, rows, size, seconds)


def _write(connection: duckdb.DuckDBPyConnection, draft: Draft, file: Path) -> int:
    rows = write_rows(connection, draft.rows, draft.source, file)
    if draft.is_cut:
        os.truncate(file, file.stat().st_size // 2)
    return rows


def _played() -> list[Source]:
    return [source for source in SOURCES if source.entity in PLAYED.get(source.team, ())]


def _sources(wanted: AbstractSet[str]) -> list[Source]:
    """The sources that names of sources and teams mean, in the order of their declaration."""
    played = _played()
    known = {source.name for source in played} | {source.team for source in played}
    for name in sorted(wanted - known):
        raise SelectionError(f"unknown source {name!r}; choose from {', '.join(sorted(known))}")
    return [source for source in played if not wanted or {source.name, source.team} & wanted]


def _bounds(partitions: str) -> tuple[str, str]:
    first, dots, last = partitions.partition("..")
    bounds = (first, last) if dots else (first, first)
    for bound in bounds:
        if not _is_time(bound):
            raise SelectionError(
                f"{partitions!r} is no range of partitions: {bound!r} is neither a day such as 2017-12-04 "
                f"nor an hour such as 2017-12-04-13:00; give one, or two as 2017-12-04..2017-12-10"
            )
    if bounds[1] < bounds[0][: len(bounds[1])]:
        raise SelectionError(f"{partitions!r} ends before it begins; give the earlier bound first")
    return bounds


def _is_time(text: str) -> bool:
    for form in (DAY_FORMAT, HOUR_FORMAT):
        try:
            return datetime.strptime(text, form).strftime(form) == text
        except ValueError:
            continue
    return False


def _between(source: Source, first: str, last: str) -> tuple[str, ...]:
    """The keys within the bounds, as text, which sorts by time; a bound that is a day holds all its hours."""
    keys = source.partition_keys()
    if source.partitions is None:
        return keys
    return tuple(key for key in keys if key >= first[: len(key)] and key[: len(last)] <= last)


def _refuse_outside(source: Source, first: str, last: str) -> None:
    """Check that the calendar of `source` holds both bounds and at least one partition between them."""
    if source.partitions is None:
        return
    keys = source.partition_keys()
    start = source.partitions.time_window_for_partition_key(keys[0]).start.strftime(HOUR_FORMAT)
    end = source.partitions.time_window_for_partition_key(keys[-1]).end - timedelta(minutes=1)
    asked = first if first == last else f"{first}..{last}"
    if first < start[: len(first)] or last > end.strftime(HOUR_FORMAT)[: len(last)]:
        raise SelectionError(f"{source.name} has no such partitions: {asked}; they run from {keys[0]} to {keys[-1]}")
    if not _between(source, first, last):
        before = max((key for key in keys if key < first), default="the beginning")
        after = min((key for key in keys if key > last), default="the end")
        raise SelectionError(
            f"{source.name} has no partition in {asked} (a closed day, or not the start of a period); "
            f"next to it are {before} and {after}"
        )


def _refuse_unknown_partitions(source: Source, keys: Sequence[str]) -> None:
    known = source.partition_keys()
    for key in sorted({*keys} - {*known}):
        there = f"its only one is {WHOLE!r}" if len(known) == 1 else f"they run from {known[0]} to {known[-1]}"
        raise SelectionError(f"{source.name} has no partition {key!r}; {there} (closed days have none)")
