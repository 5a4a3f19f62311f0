"""The synthetic reading log: what it promises about itself."""

from collections.abc import Callable
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa
import pytest

from platform_assets.calendars import HOUR_FORMAT
from platform_assets.feed import webtoon
from platform_assets.partitions import WEBTOON_HOURLY
from platform_assets.sources.declaration import Source
from platform_assets.sources.webtoon import EPISODES, READS, SERIES

HOURS = WEBTOON_HOURLY.get_partition_keys()
BUSY_HOUR = "2017-12-10-22:00"
END = datetime(2018, 1, 1)


@pytest.fixture(scope="module")
def week() -> pa.Table:
    """A whole week of reads at a fifth of the usual scale."""
    return pa.concat_tables(webtoon.reads_of_hour(hour, 7, 0.2) for hour in HOURS[:168])


def one_row(sql: str, **tables: pa.Table) -> tuple:
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        row = connection.execute(sql).fetchone()
    assert row is not None
    return row


def test_the_same_seed_and_scale_give_the_same_hour():
    assert webtoon.reads_of_hour(BUSY_HOUR, 7, 0.5).equals(webtoon.reads_of_hour(BUSY_HOUR, 7, 0.5))


def test_another_seed_gives_another_hour():
    one, other = (webtoon.reads_of_hour(BUSY_HOUR, seed, 0.5).drop(["read_id"]) for seed in (7, 8))
    assert not one.equals(other)


def test_an_hour_does_not_depend_on_the_hours_made_before_it():
    in_sequence = [webtoon.reads_of_hour(hour, 7, 0.1) for hour in HOURS[:30]]
    webtoon._catalogue.cache_clear()
    assert webtoon.reads_of_hour(HOURS[29], 7, 0.1).equals(in_sequence[29])


@pytest.mark.parametrize("hour", [HOURS[0], BUSY_HOUR, HOURS[-1]])
def test_every_read_begins_in_the_local_hour_of_its_partition(hour: str):
    reads = webtoon.reads_of_hour(hour, 7, 1.0)
    start = datetime.strptime(hour, HOUR_FORMAT) - timedelta(hours=9)
    first, last = one_row("SELECT min(started_at), max(started_at) FROM reads", reads=reads)
    assert start <= first <= last < start + timedelta(hours=1)


def test_no_episode_is_read_before_its_release_nor_one_that_the_catalogue_lacks(week: pa.Table):
    (wrong,) = one_row(
        """SELECT count(*) FROM reads LEFT JOIN episodes USING (series_id, episode_number)
           WHERE episodes.released_at IS NULL OR reads.started_at < episodes.released_at""",
        reads=week,
        episodes=webtoon.episodes(7, END),
    )
    assert wrong == 0


def test_the_episodes_of_a_series_come_weekly_on_its_weekday_in_seoul():
    (wrong,) = one_row(
        """SELECT count(*) FROM episodes JOIN series USING (series_id)
           WHERE isodow(released_at + INTERVAL 9 HOUR) - 1 <> release_weekday
              OR (released_at + INTERVAL 9 HOUR)::DATE - first_released_on <> 7 * (episode_number - 1)""",
        series=webtoon.series(7),
        episodes=webtoon.episodes(7, END),
    )
    assert wrong == 0


def test_only_the_newest_three_episodes_cost_coins(week: pa.Table):
    (wrong,) = one_row(
        """SELECT count(*) FROM reads WHERE is_paid <> (coins > 0) OR is_paid <> (episode_number > greatest(3,
               (SELECT count(*) FROM episodes WHERE episodes.series_id = reads.series_id
                AND released_at <= date_trunc('hour', started_at)) - 3))""",
        reads=week.slice(0, 20_000),
        episodes=webtoon.episodes(7, END),
    )
    paid, total = one_row("SELECT count(*) FILTER (is_paid), count(*) FROM reads", reads=week)
    assert wrong == 0
    assert 0.01 < paid / total < 0.2


def test_at_the_end_of_the_calendar_three_episodes_of_every_older_series_are_paid():
    paid = one_row(
        """SELECT min(paid), max(paid) FROM (
               SELECT count(*) FILTER (is_paid) AS paid FROM episodes
               GROUP BY series_id HAVING count(*) > 5)""",
        episodes=webtoon.episodes(7, END),
    )
    assert paid == (3, 3)


def test_read_ids_are_unique_over_hours_and_batches(week: pa.Table):
    big = webtoon.reads_of_hour(BUSY_HOUR, 7, 12.0)
    assert big.column("read_id").num_chunks > 1
    for reads in (week, big):
        assert one_row("SELECT count(*) - count(DISTINCT read_id) FROM reads", reads=reads) == (0,)


def test_activity_and_popularity_are_heavy_tailed_and_taste_is_narrow(week: pa.Table):
    (readers_share,) = one_row(
        """SELECT sum(n) FILTER (place <= 0.1) / sum(n) FROM (
               SELECT n, percent_rank() OVER (ORDER BY n DESC) AS place
               FROM (SELECT count(*) AS n FROM reads GROUP BY reader_id))""",
        reads=week,
    )
    (series_share,) = one_row(
        """SELECT sum(n) FILTER (place <= 0.1) / sum(n) FROM (
               SELECT n, percent_rank() OVER (ORDER BY n DESC) AS place
               FROM (SELECT count(*) AS n FROM reads GROUP BY series_id))""",
        reads=week,
    )
    (two_genres_share,) = one_row(
        """SELECT avg(share) FROM (
               SELECT list_sum(list_sort(list(n), 'DESC')[:2]) / sum(n) AS share
               FROM (SELECT reader_id, genre, count(*) AS n
                     FROM reads JOIN series USING (series_id) GROUP BY ALL)
               GROUP BY reader_id HAVING sum(n) >= 20)""",
        reads=week,
        series=webtoon.series(7),
    )
    assert readers_share > 0.3
    assert series_share > 0.4
    assert two_genres_share > 0.75


def test_a_binge_reads_consecutive_episodes_one_after_the_other(week: pa.Table):
    longest, follows = one_row(
        """WITH gaps AS (
               SELECT *, row_number() OVER w - episode_number AS run, lag(started_at) OVER w AS before
               FROM reads WHERE started_at < (SELECT min(started_at) FROM reads) + INTERVAL 1 HOUR
               WINDOW w AS (PARTITION BY reader_id, series_id ORDER BY started_at))
           SELECT max(n), avg((seconds > 0)::INT) FROM (
               SELECT count(*) AS n, date_diff('second', min(started_at), max(started_at)) AS seconds
               FROM gaps GROUP BY reader_id, series_id, run HAVING count(*) > 1)""",
        reads=week,
    )
    assert longest >= 10
    assert follows == 1


def test_completion_is_higher_in_a_favourite_genre(week: pa.Table):
    favourite, other = one_row(
        """WITH by_genre AS (
               SELECT reader_id, genre, count(*) AS n, avg(completion) AS completion
               FROM reads JOIN series USING (series_id) GROUP BY reader_id, genre
               QUALIFY sum(count(*)) OVER (PARTITION BY reader_id) >= 20),
           ranked AS (SELECT *, rank() OVER (PARTITION BY reader_id ORDER BY n DESC) AS place FROM by_genre)
           SELECT avg(completion) FILTER (place = 1), avg(completion) FILTER (place > 2) FROM ranked""",
        reads=week,
        series=webtoon.series(7),
    )
    assert favourite > other + 0.02


def test_the_evening_is_busy_and_the_night_is_quiet(week: pa.Table):
    evening, night = one_row(
        """SELECT count(*) FILTER (h IN (22, 23)), count(*) FILTER (h IN (3, 4))
           FROM (SELECT hour(started_at + INTERVAL 9 HOUR) AS h FROM reads)""",
        reads=week,
    )
    assert evening > 5 * night


def test_a_series_is_read_more_in_the_hours_after_its_release(week: pa.Table):
    after, later = one_row(
        """SELECT count(*) FILTER (hours < 12) / 12, count(*) FILTER (hours >= 72 AND hours < 96) / 24 FROM (
               SELECT date_diff('hour', max(released_at), started_at) AS hours
               FROM reads JOIN episodes USING (series_id) WHERE released_at <= started_at
               GROUP BY read_id, started_at)""",
        reads=week.slice(0, 60_000),
        episodes=webtoon.episodes(7, END),
    )
    assert after > 2 * later


@pytest.mark.parametrize("seed", [7, 11])
def test_scale_one_is_about_a_million_reads_a_week(seed: int):
    sampled = sum(webtoon.reads_of_hour(hour, seed, 1.0).num_rows for hour in HOURS[3:171:5])
    assert sampled * 5 == pytest.approx(1_000_000, rel=0.15)


def test_reads_and_readers_grow_with_the_scale():
    small, large = (webtoon.reads_of_hour(BUSY_HOUR, 7, scale) for scale in (0.5, 5.0))
    assert large.num_rows == pytest.approx(10 * small.num_rows, rel=0.15)
    (readers,) = one_row("SELECT max(reader_id) FROM reads", reads=large)
    assert readers > 200_000


def test_a_big_hour_comes_in_batches_of_bounded_size():
    sizes = [batch.num_rows for batch, _ in zip(webtoon.read_batches(BUSY_HOUR, 7, 100.0), range(3), strict=False)]
    assert len(sizes) == 3
    assert max(sizes) < 100_000


def test_a_tiny_scale_may_leave_an_hour_empty_but_typed():
    reads = webtoon.reads_of_hour("2017-12-05-04:00", 7, 0.00001)
    assert reads.num_rows == 0
    assert reads.schema == webtoon.READS_SCHEMA


@pytest.mark.parametrize(
    ("source", "generate"),
    [
        (READS, lambda: webtoon.reads_of_hour(HOURS[0], 7, 0.01)),
        (SERIES, lambda: webtoon.series(7)),
        (EPISODES, lambda: webtoon.episodes(7, END)),
    ],
    ids=["reads", "series", "episodes"],
)
def test_the_generated_columns_are_those_declared(source: Source, generate: Callable[[], pa.Table]):
    with duckdb.connect() as connection:
        relation = connection.from_arrow(generate())
        columns = list(zip(relation.columns, map(str, relation.types), strict=True))
    assert columns == [(column.name, column.type) for column in source.columns]


def test_titles_say_that_they_are_synthetic():
    assert all(title.as_py().startswith("Synthetic ") for title in webtoon.series(7).column("title"))
