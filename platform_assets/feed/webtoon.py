"""The upstream system of the team `webtoon`, played by a generator: all of it is SYNTHETIC, no one read it.

Belongs here: what a web-comics app's log and catalogue would hold, as a function of (seed, scale, hour).
Not here: files and formats (`landing.py`), what goes wrong with them (`incidents.py`).

An hour is made from its own key alone, so that any hour can be had without those before it, in batches that
need the same little memory at every scale. Scale 1 is about a million reads a week by some 60,000 readers;
both the reads and the readers grow with the scale, the catalogue does not. Distributions:

* volume: Poisson around a weekly rhythm (commute, lunch, late evening; weekend), raised after releases, with
  6 % lognormal weather from hour to hour;
* series: Zipf popularity (exponent 0.8); weekly episodes on the series' own weekday and hour in Seoul;
* readers: lognormal activity (sigma 1, by 1,024 classes, so that it has a largest value), an on-and-off life
  of 26-week cycles, twelve followed series each, most of them from two favourite genres;
* a session: one of the reader's series, the fresh ones first; from where the reader has got to, on and on:
  few episodes for who is up to date, a Pareto (1.7) binge for who is catching up; ends with the hour at the
  latest;
* the newest three episodes are early access and cost coins; 18 % of readers pay, the others stop before them;
* completion: all of it, or for the last read of a session, less often in a favourite genre, a Beta (1.5, 2)
  share.

Two sessions of one reader may overlap; nothing downstream may take that for an error.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from statistics import NormalDist
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from platform_assets.calendars import HOUR_FORMAT
from platform_assets.partitions import WEBTOON_HOURLY
from platform_assets.sources.declaration import Source

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

READS_SCHEMA = pa.schema(
    {
        "read_id": pa.string(),
        "reader_id": pa.int64(),
        "series_id": pa.int64(),
        "episode_number": pa.int64(),
        "started_at": pa.timestamp("us"),
        "seconds_read": pa.int64(),
        "completion": pa.float64(),
        "is_paid": pa.bool_(),
        "coins": pa.int64(),
        "device": pa.string(),
    }
)

ENTITIES = ("reads", "series", "episodes")
SERIES_COUNT = 400
EARLY_ACCESS_EPISODES = 3
FREE_START_EPISODES = 3
GENRES = (
    "romance",
    "fantasy",
    "action",
    "drama",
    "comedy",
    "thriller",
    "daily life",
    "school",
    "sports",
    "history",
)
DEVICES = np.array(["android", "ios", "web"])

_EPOCH = datetime(1970, 1, 1)
_SEOUL_HOURS = 9  # ahead of UTC; Seoul has had no daylight saving time since 1988
_HOURS_A_WEEK = 168
_FIRST_RELEASE_MONDAY = datetime(2014, 1, 6)
_RELEASE_WEEKS = 208  # first episodes are spread over these weeks, the last of which is that of 2017-12-25
_READING_SINCE = datetime(2017, 6, 5)
_READING_SINCE_HOURS = 30 * _HOURS_A_WEEK

_SESSIONS_PER_WEEK = 820_000  # drawn, of which those of readers who are away are dropped; a million reads remain
_SESSIONS_PER_BATCH = 16_384
_ACTIVITY_CLASSES = 1_024
_READERS_PER_CLASS = 60
_LIFE_HOURS = 26 * _HOURS_A_WEEK
_PAYING_SHARE = 0.18
_GENRE_WEIGHTS = (0.22, 0.18, 0.13, 0.12, 0.09, 0.08, 0.07, 0.05, 0.03, 0.03)
_SLOT_WEIGHTS = np.arange(1, 13) ** -0.8
_HOUR_OF_DAY = np.array(
    [
        5.2,
        3.2,
        1.7,
        0.9,
        0.6,
        0.7,
        1.6,
        3.8,
        4.9,
        3.2,
        2.5,
        2.8,
        4.6,
        3.9,
        2.7,
        2.7,
        3.0,
        3.9,
        5.2,
        4.6,
        4.7,
        5.6,
        7.2,
        7.4,
    ]
)
_DAY_OF_WEEK = np.array([1.0, 0.98, 0.98, 1.0, 1.03, 1.12, 1.1])


@dataclass(frozen=True)
class _Catalogue:
    """The series in order of genre; hours are counted from 1970 in Seoul's local time."""

    genre: Integers
    weekday: Integers
    first_release_hour: Integers
    popularity: Floats
    length_seconds: Floats
    coins: Integers
    rhythm: Floats
    """Share of the week's sessions by hour of the week; sums to 1."""

    def latest_episode(self, hour: int) -> Integers:
        """Per series, the number of the newest episode at the start of `hour`; 0 before the first."""
        return np.maximum(0, (hour - self.first_release_hour) // _HOURS_A_WEEK + 1)

    def hours_since_release(self, hour: int) -> Integers:
        """Per series, full hours since its weekly release."""
        return (hour - self.first_release_hour) % _HOURS_A_WEEK

    def drawn(self, u: Floats) -> Integers:
        """Indices of series by popularity, for uniform `u`."""
        return np.minimum(np.searchsorted(np.cumsum(self.popularity), u, side="right"), SERIES_COUNT - 1)

    def drawn_of_genre(self, genre: Integers, u: Floats) -> Integers:
        """Indices of series of `genre` by popularity, for uniform `u`."""
        ends = np.concatenate([[0.0], np.cumsum(np.bincount(self.genre, self.popularity, len(GENRES)))])
        return self.drawn(ends[genre] + u * (ends[genre + 1] - ends[genre]))


def series(seed: int) -> pa.Table:
    """Every series: series_id, title, genre, release_weekday (0: Monday), first_released_on (local date)."""
    catalogue = _catalogue(seed)
    ids = range(1, SERIES_COUNT + 1)
    genres = [GENRES[genre] for genre in catalogue.genre]
    first_days = [(_EPOCH + timedelta(hours=int(hour))).date() for hour in catalogue.first_release_hour]
    return pa.table(
        {
            "series_id": pa.array(ids, pa.int64()),
            "title": [f"Synthetic {genre} {number:03d}" for number, genre in zip(ids, genres, strict=True)],
            "genre": genres,
            "release_weekday": catalogue.weekday,
            "first_released_on": pa.array(first_days, pa.date32()),
        }
    )


def episodes(seed: int, until: datetime) -> pa.Table:
    """Every episode released before `until` (local time), the newest ones paid, as it stands then.

    Columns: series_id, episode_number, released_at (UTC), is_paid, coins (0 unless paid).
    """
    catalogue = _catalogue(seed)
    released = catalogue.latest_episode(_hour_number(until) - 1)
    of_series = np.repeat(np.arange(SERIES_COUNT), released)
    number = _positions(released) + 1
    hour = catalogue.first_release_hour[of_series] + (number - 1) * _HOURS_A_WEEK
    is_paid = number > _free_episodes(released)[of_series]
    return pa.table(
        {
            "series_id": of_series + 1,
            "episode_number": number,
            "released_at": _utc(hour, np.zeros_like(hour)),
            "is_paid": is_paid,
            "coins": np.where(is_paid, catalogue.coins[of_series], 0),
        }
    )


def reads_of_hour(hour_key: str, seed: int, scale: float) -> pa.Table:
    """The reads that began in the local hour `hour_key`, as `READS_SCHEMA`, from these arguments alone."""
    return pa.Table.from_batches(read_batches(hour_key, seed, scale), READS_SCHEMA)


def read_batches(hour_key: str, seed: int, scale: float) -> Iterator[pa.RecordBatch]:
    """`reads_of_hour` in batches of some 40,000 reads, roughly in the order in which they began."""
    catalogue = _catalogue(seed)
    hour = _hour_number(datetime.strptime(hour_key, HOUR_FORMAT))
    rng = np.random.default_rng([seed, hour])
    weather = rng.lognormal(-(0.06**2) / 2, 0.06)
    sessions = rng.poisson(_SESSIONS_PER_WEEK * scale * weather * catalogue.rhythm[_hour_of_week(hour)])
    batches = max(1, math.ceil(sessions / _SESSIONS_PER_BATCH))
    first = 0
    for number in range(batches):
        size = sessions * (number + 1) // batches - sessions * number // batches
        start_seconds = (number + rng.random(size)) / batches * 3600
        batch = _reads(rng, catalogue, hour, start_seconds, seed, scale, first)
        first += batch.num_rows
        yield batch


def upstream(
    connection: duckdb.DuckDBPyConnection, source: Source, seed: int, scale: float
) -> Callable[[str], duckdb.DuckDBPyRelation]:
    """What the app delivers for a partition of `source`, as relations of which each can be read once."""

    def rows(partition: str) -> duckdb.DuckDBPyRelation:
        match source.entity:
            case "reads":
                batches = read_batches(partition, seed, scale)
                return connection.from_arrow(pa.RecordBatchReader.from_batches(READS_SCHEMA, batches))
            case "series":
                return connection.from_arrow(series(seed))
            case "episodes":
                return connection.from_arrow(episodes(seed, until=_calendar_end()))
        raise KeyError(f"the generator makes no {source.name}; add it to platform_assets/feed/webtoon.py")

    return rows


def _reads(
    rng: np.random.Generator,
    catalogue: _Catalogue,
    hour: int,
    start_seconds: Floats,
    seed: int,
    scale: float,
    first: int,
) -> pa.RecordBatch:
    """The reads of the sessions that begin at `start_seconds` of `hour`; read_ids count from `first`."""
    reader, activity = _active_readers(rng, len(start_seconds), scale)
    there = _is_there(seed, reader, hour)
    reader, activity, start_seconds = reader[there], activity[there], start_seconds[there]
    of_series, taste = _chosen_series(rng, catalogue, hour, seed, reader)
    released = catalogue.latest_episode(hour)[of_series]
    free = _free_episodes(released)
    newest = np.where(_hash(seed, 5, reader) < _PAYING_SHARE, released, free)
    position, length = _runs(rng, seed, reader, activity, of_series, hour, newest)

    session = np.repeat(np.arange(len(reader)), length)
    step = _positions(length)
    number = position[session] + step
    is_last = step == length[session] - 1
    abandons = is_last & (rng.random(len(session)) < 0.6 - 0.5 * taste[session])
    completion = np.round(np.where(abandons, rng.beta(1.5, 2.0, len(session)), 1.0), 3)
    pace = catalogue.length_seconds[of_series] * np.exp(_hash(seed, 6, reader) - 0.5)
    seconds = np.maximum(1, np.rint(completion * pace[session] * rng.lognormal(-0.02, 0.2, len(session)))).astype(int)

    spent = np.cumsum(seconds + rng.integers(3, 20, len(session)))
    before = np.concatenate([[0], spent[:-1]]).astype(int) if len(spent) else spent
    started = (start_seconds[session] + before - before[np.cumsum(length) - length][session]).astype(int)
    order = np.argsort(started, kind="stable")
    order = order[started[order] < 3600]
    session, number = session[order], number[order]
    is_paid = number > free[session]
    ids = pc.utf8_lpad(pa.array(np.arange(first, first + len(order))).cast(pa.string()), 9, "0")
    main_device = np.searchsorted([0.5, 0.85], _hash(seed, 7, reader))
    return pa.record_batch(
        [
            pc.binary_join_element_wise((_EPOCH + timedelta(hours=hour)).strftime("%Y%m%d%H"), ids, "-"),
            reader[session],
            of_series[session] + 1,
            number,
            _utc(np.full(len(order), hour), started[order]),
            seconds[order],
            completion[order],
            is_paid,
            np.where(is_paid, catalogue.coins[of_series[session]], 0),
            DEVICES[main_device[session]],
        ],
        schema=READS_SCHEMA,
    )


def _active_readers(rng: np.random.Generator, count: int, scale: float) -> tuple[Integers, Floats]:
    """Reader ids from 1, drawn by their activity, and that activity (1 is the mean of all readers)."""
    per_class = max(1, round(_READERS_PER_CLASS * scale))
    activity = _activity()
    cumulated = np.cumsum(activity)
    of_class = np.searchsorted(cumulated / cumulated[-1], rng.random(count), side="right")
    index = of_class + _ACTIVITY_CLASSES * rng.integers(per_class, size=count)
    # A Mersenne prime spreads the classes over the ids, so that no id says how active its reader is.
    return 1 + index * (2**31 - 1) % (_ACTIVITY_CLASSES * per_class), activity[of_class]


def _is_there(seed: int, reader: Integers, hour: int) -> npt.NDArray[np.bool_]:
    """Whether each reader is in one of the on-phases of their life with the app."""
    phase = (hour / _LIFE_HOURS + _hash(seed, 1, reader)) % 1.0
    return phase < 0.35 + 0.6 * _hash(seed, 2, reader)


def _chosen_series(
    rng: np.random.Generator, catalogue: _Catalogue, hour: int, seed: int, reader: Integers
) -> tuple[Integers, Floats]:
    """Per session the index of the series, and how much its genre is to the reader's taste, 0 to 1."""
    favourite = catalogue.genre[catalogue.drawn(_hash(seed, 3, reader))]
    second = catalogue.genre[catalogue.drawn(_hash(seed, 4, reader))]
    slot = np.arange(len(_SLOT_WEIGHTS))
    from_genre = _hash(seed, 8, reader[:, None], slot)
    u = _hash(seed, 9, reader[:, None], slot)
    anything = catalogue.genre[catalogue.drawn(_hash(seed, 10, reader[:, None], slot))]
    genre = np.where(from_genre < 0.65, favourite[:, None], np.where(from_genre < 0.88, second[:, None], anything))
    followed = catalogue.drawn_of_genre(genre, u)

    freshness = 1 + 8 * np.exp(-catalogue.hours_since_release(hour) / 8)
    attraction = np.where(catalogue.latest_episode(hour) > 0, freshness, 1e-12)[followed] * _SLOT_WEIGHTS
    slot_chosen = np.argmin(rng.standard_exponential(followed.shape) / attraction, axis=1)[:, None]
    chosen = np.take_along_axis(followed, slot_chosen, axis=1)[:, 0]
    taste = np.where(catalogue.genre[chosen] == favourite, 1.0, np.where(catalogue.genre[chosen] == second, 0.7, 0.2))
    return chosen, taste


def _runs(
    rng: np.random.Generator,
    seed: int,
    reader: Integers,
    activity: Floats,
    of_series: Integers,
    hour: int,
    newest: Integers,
) -> tuple[Integers, Integers]:
    """Per session the first episode and the number of consecutive ones, none beyond `newest`."""
    since = _hour_number(_READING_SINCE) + _hash(seed, 11, reader, of_series) * _READING_SINCE_HOURS
    episodes_a_week = 3 * activity * (0.5 + _hash(seed, 12, reader, of_series))
    reached = (1 + episodes_a_week * np.maximum(0, hour - since) / _HOURS_A_WEEK).astype(int)
    is_up_to_date = reached >= newest
    position = np.where(is_up_to_date, newest + 1 - rng.geometric(0.6, len(reader)), reached)
    position = np.clip(position, 1, np.maximum(1, newest))
    binge = 1 + np.minimum(2 * rng.pareto(1.7, len(reader)), 60).astype(int)
    wanted = np.where(is_up_to_date, rng.geometric(0.7, len(reader)), binge)
    return position, np.clip(wanted, 0, np.maximum(0, newest - position + 1))


def _free_episodes(released: Integers) -> Integers:
    """How many episodes of a series are free when `released` are out."""
    return np.minimum(released, np.maximum(released - EARLY_ACCESS_EPISODES, FREE_START_EPISODES))


@cache
def _activity() -> Floats:
    """Activity by class of readers, from the least to the most; the mean is 1."""
    classes = (np.arange(_ACTIVITY_CLASSES) + 0.5) / _ACTIVITY_CLASSES
    weights: Floats = np.exp([NormalDist().inv_cdf(quantile) for quantile in classes])
    mean: float = weights.mean()
    return weights / mean


@cache
def _catalogue(seed: int) -> _Catalogue:
    rng = np.random.default_rng(seed)
    genre = np.sort(rng.choice(len(GENRES), SERIES_COUNT, p=_GENRE_WEIGHTS))
    weekday = rng.integers(0, 7, SERIES_COUNT)
    release_hour = rng.choice([10, 18, 22], SERIES_COUNT, p=[0.15, 0.15, 0.7])
    weeks = rng.integers(0, _RELEASE_WEEKS, SERIES_COUNT)
    first_release = _hour_number(_FIRST_RELEASE_MONDAY) + weeks * _HOURS_A_WEEK + weekday * 24 + release_hour
    popularity = rng.permutation(np.arange(1, SERIES_COUNT + 1) ** -0.8)
    popularity /= popularity.sum()

    age = (np.arange(_HOURS_A_WEEK)[:, None] - weekday * 24 - release_hour) % _HOURS_A_WEEK
    surge = 1 + 3 * (np.exp(-age / 5) @ popularity)
    rhythm = (_DAY_OF_WEEK[:, None] * _HOUR_OF_DAY).ravel() * surge
    return _Catalogue(
        genre=genre,
        weekday=weekday,
        first_release_hour=first_release,
        popularity=popularity,
        length_seconds=rng.uniform(90, 330, SERIES_COUNT),
        coins=rng.integers(2, 5, SERIES_COUNT),
        rhythm=rhythm / rhythm.sum(),
    )


def _hash(*parts: Any) -> Floats:
    """Uniform numbers in [0, 1) from `parts` alone, broadcast: SplitMix64 (Steele et al., 2014)."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = state + np.asarray(part).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _positions(lengths: Integers) -> Integers:
    """0, 1, … within each of consecutive runs of `lengths`."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _utc(local_hour: Integers, seconds: Integers) -> pa.Array:
    """UTC timestamps of seconds within local hours."""
    return pa.array(((local_hour - _SEOUL_HOURS) * 3600 + seconds) * 1_000_000, pa.timestamp("us"))


def _hour_number(local: datetime) -> int:
    return (local - _EPOCH) // timedelta(hours=1)


def _hour_of_week(hour: int) -> int:
    """0 on Monday from midnight; 1970 began on a Thursday."""
    return (hour + 3 * 24) % _HOURS_A_WEEK


def _calendar_end() -> datetime:
    """The local end of the last hour that is delivered."""
    last = WEBTOON_HOURLY.get_last_partition_key()
    if last is None:
        raise ValueError("the calendar WEBTOON_HOURLY in platform_assets/partitions.py is empty")
    return datetime.strptime(last, HOUR_FORMAT) + timedelta(hours=1)
