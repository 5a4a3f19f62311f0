import re
from dataclasses import replace
from datetime import datetime
from typing import Any

import dagster as dg
import pytest

from platform_assets.sources.catalogue import SOURCES, source_named
from platform_assets.sources.commerce import PROMOTIONS, TRANSACTIONS
from platform_assets.sources.declaration import Column, EventTime, Source, expect
from platform_assets.teams import TEAMS

HOURS = dg.HourlyPartitionsDefinition("2017-01-01-00:00", timezone="America/New_York")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"team": "komerce"}, "unknown team 'komerce'"),
        ({"file_format": "xlsx"}, "file_format 'xlsx' is unknown; use parquet, csv or jsonl"),
        ({"compression": "zip", "file_format": "csv"}, "compression 'zip' is unknown"),
        ({"compression": "gzip"}, "parquet compresses inside the file"),
        ({"columns": ()}, "no columns"),
        ({"columns": (Column("a", "TEXT", "A."),)}, "column 'a' has type 'TEXT'; use one of BIGINT"),
        ({"columns": (Column("a", "BIGINT", ""),)}, "column 'a' has no description"),
        ({"columns": (Column("a", "BIGINT", "A."),) * 2}, "column 'a' is declared more than once"),
        (
            {"columns": (Column("week", "BIGINT", "A."), Column("Week", "BIGINT", "B."))},
            "columns 'week' and 'Week' differ by case alone",
        ),
        ({"columns": (Column(" ", "BIGINT", "A."),)}, "column ' ' has no name"),
        ({"columns": (Column("a", "BIGINT", "A.", allow_nan=True),)}, "is BIGINT, which holds no NaN"),
        ({"columns": (Column("a", "TIMESTAMP", "A.", zone="Mars/Base"),)}, "is TIMESTAMP with zone 'Mars/Base'"),
        ({"columns": (Column("a", "DATE", "A.", zone="UTC"),)}, "is DATE with zone 'UTC'"),
        ({"key": ("basket",)}, "key names column 'basket', which is not declared"),
        ({"event_time": EventTime("at", "UTC")}, "event_time names column 'at'"),
        ({"partitions": None}, "event_time without partitions"),
        (
            {"partitions": dg.HourlyPartitionsDefinition("2017-01-01-00:00", timezone="Australia/Lord_Howe")},
            "the zone's clocks are set by other than one hour",
        ),
        (
            {"partitions": HOURS, "event_time": EventTime("week", "America/New_York")},
            "event_time 'week' is local time of America/New_York, which comes twice around 2017-11-05 01:00 EST",
        ),
        (
            {"expectations": (expect("column_values_to_be_between", column="price"),)},
            "expect_column_values_to_be_between names column 'price'",
        ),
        (
            {"expectations": (expect("compound_columns_to_be_unique", column_list=["week", "no"]),)},
            "names column 'no'",
        ),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, KeyError), match=re.escape(message)):
        replace(TRANSACTIONS, **change)


def test_a_column_has_no_other_zone_than_the_event_time_says() -> None:
    at = TRANSACTIONS.columns[-1]
    columns = (*TRANSACTIONS.columns[:-1], replace(at, zone="America/New_York"))
    with pytest.raises(ValueError, match="has zone 'America/New_York', but another as event_time"):
        replace(TRANSACTIONS, columns=columns)
    assert TRANSACTIONS.zone_of(at) == "UTC"


def test_a_column_that_is_called_as_the_lakes_own_is_stored_under_another_name() -> None:
    source = replace(TRANSACTIONS, columns=(*TRANSACTIONS.columns, Column("Partition_Key", "BIGINT", "A.")))
    assert source.stored_columns["delivered_Partition_Key"] == "BIGINT"
    assert source.stored_columns["partition_key"] == "VARCHAR"


def test_every_source_is_known_by_its_name_and_no_two_share_one() -> None:
    assert [source_named(source.name) for source in SOURCES] == list(SOURCES)
    assert len({source.name for source in SOURCES}) == len(SOURCES)
    with pytest.raises(KeyError, match=r"unknown source 'commerce\.sale'; declared .*commerce\.transactions"):
        source_named("commerce.sale")


def test_every_team_but_our_own_delivers_something() -> None:
    assert {source.team for source in SOURCES} == set(TEAMS) - {"platform"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_every_description_states_the_grain(source: Source) -> None:
    assert source.description.startswith("One row per ")


@pytest.mark.parametrize(
    ("day", "start", "end"),
    [
        ("2017-03-11", datetime(2017, 3, 11, 5), datetime(2017, 3, 12, 5)),
        ("2017-03-12", datetime(2017, 3, 12, 5), datetime(2017, 3, 13, 4)),
        ("2017-11-05", datetime(2017, 11, 5, 4), datetime(2017, 11, 6, 5)),
        ("2017-12-24", datetime(2017, 12, 24, 5), datetime(2017, 12, 25, 5)),
    ],
)
def test_a_day_is_bounded_by_the_clocks_of_the_stores_in_the_zone_of_the_column(
    day: str, start: datetime, end: datetime
) -> None:
    assert TRANSACTIONS.event_bounds(day) == (start, end)


def test_two_hours_of_one_name_are_bounded_apart_in_utc() -> None:
    hourly = replace(TRANSACTIONS, partitions=HOURS)
    first, second = (hourly.event_bounds(f"2017-11-05-01:00{offset}") for offset in ("", "-0500"))
    assert first == (datetime(2017, 11, 5, 5), datetime(2017, 11, 5, 6))
    assert second == (datetime(2017, 11, 5, 6), datetime(2017, 11, 5, 7))


def test_a_column_recorded_in_local_time_is_bounded_by_local_time() -> None:
    assert PROMOTIONS.event_bounds("2017-03-06") == (datetime(2017, 3, 6), datetime(2017, 3, 13))


def test_christmas_day_is_no_partition_of_the_stores() -> None:
    assert "2017-12-25" not in TRANSACTIONS.partition_keys()
    assert len(TRANSACTIONS.partition_keys()) == 364
