"""What the team `webtoon` receives: the reading log of a web-comics app. Synthetic, made by our generator.

Declarations only; `headwater feed` delivers the data.
"""

from datetime import timedelta

from platform_assets.partitions import WEBTOON_HOURLY
from platform_assets.sources.declaration import Column, EventTime, Source, expect

TEAM = "webtoon"

READS = Source(
    team=TEAM,
    entity="reads",
    description="One row per reading session of an episode by a reader. Synthetic.",
    partitions=WEBTOON_HOURLY,
    file_format="jsonl",
    compression="gzip",
    columns=(
        Column("read_id", "VARCHAR", "Identifier of the reading session."),
        Column("reader_id", "BIGINT", "Reader who read."),
        Column("series_id", "BIGINT", "Series that was read."),
        Column("episode_number", "BIGINT", "Episode of the series, counted from 1."),
        Column("started_at", "TIMESTAMP", "When the session began, in UTC without a zone."),
        Column("seconds_read", "BIGINT", "Length of the session in seconds."),
        Column("completion", "DOUBLE", "Share of the episode that was scrolled through, 0 to 1."),
        Column("is_paid", "BOOLEAN", "Whether the episode was unlocked with coins."),
        Column("coins", "BIGINT", "Coins spent on it; 0 unless paid."),
        Column("device", "VARCHAR", "ios, android or web."),
    ),
    key=("read_id",),
    event_time=EventTime("started_at", zone="UTC"),
    expectations=(
        expect("column_values_to_be_between", column="seconds_read", min_value=0),
        expect("column_values_to_be_between", column="completion", min_value=0, max_value=1),
        expect("column_values_to_be_between", column="coins", min_value=0),
        expect("column_values_to_be_in_set", column="device", value_set=["ios", "android", "web"]),
    ),
    expected_by=timedelta(hours=1),
)

SERIES = Source(
    team=TEAM,
    entity="series",
    description="One row per series of the app. Synthetic.",
    partitions=None,
    file_format="csv",
    columns=(
        Column("series_id", "BIGINT", "Series."),
        Column("title", "VARCHAR", "Title of the series."),
        Column("genre", "VARCHAR", "Genre of the series."),
        Column("release_weekday", "BIGINT", "Weekday on which episodes appear in Seoul, 0 is Monday."),
        Column("first_released_on", "DATE", "Day of the first episode in Seoul."),
    ),
    key=("series_id",),
    expectations=(expect("column_values_to_be_between", column="release_weekday", min_value=0, max_value=6),),
)

EPISODES = Source(
    team=TEAM,
    entity="episodes",
    description="One row per series and episode. Synthetic.",
    partitions=None,
    file_format="jsonl",
    compression="gzip",
    columns=(
        Column("series_id", "BIGINT", "Series of the episode."),
        Column("episode_number", "BIGINT", "Number of the episode, counted from 1."),
        Column("released_at", "TIMESTAMP", "When the episode appeared, in UTC without a zone."),
        Column("is_paid", "BOOLEAN", "Whether the episode costs coins."),
        Column("coins", "BIGINT", "Price in coins; 0 unless paid."),
    ),
    key=("series_id", "episode_number"),
    expectations=(expect("column_values_to_be_between", column="coins", min_value=0),),
)

SOURCES = (READS, SERIES, EPISODES)
