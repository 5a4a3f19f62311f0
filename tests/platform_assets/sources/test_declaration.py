import re
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from platform_assets.sources.catalogue import SOURCES, source_named
from platform_assets.sources.commerce import PROMOTIONS, TRANSACTIONS
from platform_assets.sources.declaration import Column, EventTime, Source, expect
from platform_assets.teams import TEAMS


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
        ({"columns": (Column("partition_key", "BIGINT", "A."),)}, "is added by the platform"),
        ({"key": ("basket",)}, "key names column 'basket', which is not declared"),
        ({"event_time": EventTime("at", "UTC")}, "event_time names column 'at'"),
        ({"partitions": None}, "event_time without partitions"),
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


def test_a_column_recorded_in_local_time_is_bounded_by_local_time() -> None:
    assert PROMOTIONS.event_bounds("2017-03-06") == (datetime(2017, 3, 6), datetime(2017, 3, 13))


def test_christmas_day_is_no_partition_of_the_stores() -> None:
    assert "2017-12-25" not in TRANSACTIONS.partition_keys()
    assert len(TRANSACTIONS.partition_keys()) == 364
