"""Calendars and mappings, on the days that break naive ones."""

from collections.abc import Sequence

import dagster as dg
import pytest

from platform_assets import partitions as p
from platform_assets.calendars import HOUR_FORMAT


def upstream(
    mapping: dg.PartitionMapping, key: str, down: dg.PartitionsDefinition, up: dg.PartitionsDefinition
) -> list[str]:
    found = mapping.get_upstream_mapped_partitions_result_for_partitions(
        down.subset_with_partition_keys([key]), down, up
    )
    return sorted(found.partitions_subset.get_partition_keys())


def hours(zone: str) -> dg.HourlyPartitionsDefinition:
    return dg.HourlyPartitionsDefinition(
        "2017-01-01-00:00", end_date="2018-01-01-00:00", timezone=zone, fmt=HOUR_FORMAT
    )


def days(zone: str) -> dg.DailyPartitionsDefinition:
    return dg.DailyPartitionsDefinition("2017-01-01", end_date="2018-01-01", timezone=zone)


def test_the_retail_year_has_364_days_without_christmas() -> None:
    keys = p.COMMERCE_DAILY.get_partition_keys()
    assert len(keys) == 364
    assert "2017-12-25" not in keys


@pytest.mark.parametrize(("key", "count"), [("2017-03-12", 23), ("2017-11-05", 25), ("2017-06-01", 24)])
def test_a_new_york_day_needs_all_its_hours_on_days_of_23_and_25(key: str, count: int) -> None:
    needed = upstream(p.same_time(), key, days(p.COMMERCE_ZONE), hours(p.COMMERCE_ZONE))
    assert len(needed) == count
    assert all(hour.startswith(key) for hour in needed)


@pytest.mark.parametrize("key", ["2017-12-04", "2017-12-31"])
def test_a_seoul_day_needs_its_24_hours(key: str) -> None:
    needed = upstream(p.same_time(), key, p.WEBTOON_DAILY, p.WEBTOON_HOURLY)
    assert needed == [f"{key}-{hour:02d}:00" for hour in range(24)]


@pytest.mark.parametrize(
    ("week", "first", "count"),
    [("2017-12-18", "2017-12-18", 7), ("2016-12-26", "2017-01-01", 1)],
)
def test_a_week_needs_its_days_and_no_day_before_the_calendar(week: str, first: str, count: int) -> None:
    needed = upstream(p.same_time(), week, p.COMMERCE_WEEKLY, p.COMMERCE_DAILY)
    assert (needed[0], len(needed)) == (first, count)


def test_the_week_of_a_closed_day_needs_its_six_open_days() -> None:
    needed = upstream(p.same_time(), "2017-12-25", p.COMMERCE_WEEKLY, p.COMMERCE_DAILY)
    assert set(needed) >= {f"2017-12-{day}" for day in range(26, 32)}
    assert "2017-12-25" not in needed


def test_a_lookback_counts_in_partitions_of_the_one_that_looks_back() -> None:
    needed = upstream(p.same_time(lookback=1), "2017-12-18", p.WEBTOON_WEEKLY, p.WEBTOON_DAILY)
    assert (needed[0], needed[-1], len(needed)) == ("2017-12-11", "2017-12-24", 14)


def test_features_of_a_week_need_only_weeks_before_it() -> None:
    needed = upstream(p.offset(-8, -1), "2018-01-01", p.weeks_from("2017-02-27", ahead=1), p.COMMERCE_WEEKLY)
    assert (needed[0], needed[-1], len(needed)) == ("2017-11-06", "2017-12-25", 8)


@pytest.mark.parametrize(
    "calendar", [calendar for grains in p.CALENDARS.values() for calendar in grains.values() if calendar]
)
def test_keys_sort_as_text_in_the_order_of_time(calendar: dg.TimeWindowPartitionsDefinition) -> None:
    keys: Sequence[str] = calendar.get_partition_keys()
    assert list(keys) == sorted(keys)


def test_an_unknown_calendar_is_refused_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="commerce.*hourly.*daily, none, weekly"):
        p.calendar_of("commerce", "hourly")
