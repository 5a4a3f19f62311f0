"""A run's partitions become the window of dbt's event-time flags."""

import pytest

from platform_assets import partitions as p
from platform_assets.dbt_models.window import WINDOWS, event_time_flags, windows_variable


@pytest.mark.parametrize(
    ("calendar", "keys", "start", "end"),
    [
        (p.COMMERCE_DAILY, ["2017-03-12"], "2017-03-12 00:00:00", "2017-03-13 00:00:00"),
        (p.COMMERCE_DAILY, ["2017-12-24"], "2017-12-24 00:00:00", "2017-12-25 00:00:00"),
        (p.COMMERCE_DAILY, ["2017-01-01", "2017-12-31"], "2017-01-01 00:00:00", "2018-01-01 00:00:00"),
        (p.COMMERCE_WEEKLY, ["2017-12-25"], "2017-12-25 00:00:00", "2018-01-01 00:00:00"),
        (p.WEBTOON_HOURLY, ["2017-12-04-23:00"], "2017-12-04 23:00:00", "2017-12-05 00:00:00"),
    ],
)
def test_the_window_is_local_time_and_ends_where_the_last_partition_ends(
    calendar: p.dg.TimeWindowPartitionsDefinition, keys: list[str], start: str, end: str
) -> None:
    assert event_time_flags(calendar, keys) == ["--event-time-start", start, "--event-time-end", end]


def test_an_unpartitioned_model_has_no_window() -> None:
    assert event_time_flags(None, []) == []


@pytest.mark.parametrize(
    ("calendar", "keys"),
    [
        (p.COMMERCE_DAILY, ["2017-03-01"]),
        (p.COMMERCE_DAILY, ["2017-03-02", "2017-03-01", "2017-03-03"]),
        (p.COMMERCE_DAILY, ["2017-12-24", "2017-12-26"]),
        (p.WEBTOON_HOURLY, ["2017-12-04-23:00", "2017-12-05-00:00"]),
        (None, [""]),
    ],
)
def test_partitions_with_nothing_between_them_need_no_windows(
    calendar: p.dg.TimeWindowPartitionsDefinition | None, keys: list[str]
) -> None:
    assert windows_variable(calendar, keys) == {}


def test_partitions_with_others_between_them_are_named_stretch_by_stretch() -> None:
    keys = ["2017-03-12", "2017-03-01", "2017-03-02", "2017-12-24"]
    assert windows_variable(p.COMMERCE_DAILY, keys) == {
        WINDOWS: "2017-03-01 00:00:00/2017-03-03 00:00:00,"
        "2017-03-12 00:00:00/2017-03-13 00:00:00,"
        "2017-12-24 00:00:00/2017-12-25 00:00:00"
    }
