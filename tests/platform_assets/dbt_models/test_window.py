"""A run's partitions become the window of dbt's event-time flags, and the windows of the macros."""

from collections.abc import Mapping

import dagster as dg
import pytest

from platform_assets import partitions as p
from platform_assets.dbt_models.translator import LakeTranslator
from platform_assets.dbt_models.window import WINDOWS, event_time_flags, refuse_other_calendars, windows_variable
from resources.dbt import Dbt
from resources.environment import Environment

NEW_YORK_HOURS = dg.HourlyPartitionsDefinition(
    "2017-11-01-00:00", end_date="2017-12-01-00:00", timezone=p.COMMERCE_ZONE
)


@pytest.mark.parametrize(
    ("calendar", "keys", "start", "end"),
    [
        (p.COMMERCE_DAILY, ["2017-03-12"], "2017-03-12 00:00:00", "2017-03-13 00:00:00"),
        (p.COMMERCE_DAILY, ["2017-12-24"], "2017-12-24 00:00:00", "2017-12-25 00:00:00"),
        (p.COMMERCE_DAILY, ["2017-01-01", "2017-12-31"], "2017-01-01 00:00:00", "2018-01-01 00:00:00"),
        (p.COMMERCE_WEEKLY, ["2017-12-25"], "2017-12-25 00:00:00", "2018-01-01 00:00:00"),
        (p.WEBTOON_HOURLY, ["2017-12-04-23:00"], "2017-12-04 23:00:00", "2017-12-05 00:00:00"),
        (NEW_YORK_HOURS, ["2017-11-05-01:00"], "2017-11-05 01:00:00", "2017-11-05 02:00:00"),
    ],
)
def test_the_window_is_local_time_and_ends_where_the_last_partition_ends(
    calendar: dg.TimeWindowPartitionsDefinition, keys: list[str], start: str, end: str
) -> None:
    assert event_time_flags(calendar, keys) == ["--event-time-start", start, "--event-time-end", end]


def test_an_unpartitioned_model_has_no_window() -> None:
    assert event_time_flags(None, []) == []
    assert windows_variable(None, [""]) == {}


@pytest.mark.parametrize(
    ("calendar", "keys", "windows"),
    [
        (p.COMMERCE_DAILY, ["2017-03-02", "2017-03-01"], "2017-03-01-00:00/2017-03-03-00:00"),
        (p.COMMERCE_DAILY, ["2017-12-24", "2017-12-26"], "2017-12-24-00:00/2017-12-27-00:00"),
        (p.WEBTOON_HOURLY, ["2017-12-04-23:00", "2017-12-05-00:00"], "2017-12-04-23:00/2017-12-05-01:00"),
        (
            p.COMMERCE_DAILY,
            ["2017-03-12", "2017-03-01", "2017-12-24"],
            "2017-03-01-00:00/2017-03-02-00:00,2017-03-12-00:00/2017-03-13-00:00,2017-12-24-00:00/2017-12-25-00:00",
        ),
        (NEW_YORK_HOURS, ["2017-11-05-01:00"], "2017-11-05-01:00/2017-11-05-01:00-0500"),
        (NEW_YORK_HOURS, ["2017-11-05-01:00-0500"], "2017-11-05-01:00-0500/2017-11-05-02:00"),
    ],
)
def test_windows_name_each_stretch_and_which_of_two_hours_of_one_name(
    calendar: dg.TimeWindowPartitionsDefinition, keys: list[str], windows: str
) -> None:
    assert windows_variable(calendar, keys) == {WINDOWS: windows}


def test_the_project_computes_by_the_calendars_that_the_pairs_have(environment: Environment) -> None:
    said: Mapping[str, Mapping[str, str]] = Dbt.of(environment).project_variables["calendars"]
    refuse_other_calendars(said, p.CALENDARS)
    sundays = dg.WeeklyPartitionsDefinition("2017-01-01", timezone=p.COMMERCE_ZONE, day_offset=0)
    for calendars, words in (
        ({"commerce": {"weekly": sundays}}, "week_begins sunday in .* and monday in vars.calendars"),
        ({"commerce": {"daily": p.WEBTOON_DAILY}}, "time_zone Asia/Seoul in .* and America/New_York in"),
        ({"bakery": {"daily": p.WEBTOON_DAILY}}, "team 'bakery' has time_zone Asia/Seoul in .* and none in"),
        ({"commerce": {"daily": p.COMMERCE_DAILY, "hourly": p.WEBTOON_HOURLY}}, "America/New_York, Asia/Seoul"),
    ):
        with pytest.raises(ValueError, match=words):
            refuse_other_calendars(said, calendars)


def test_an_hourly_model_may_not_tell_its_pairs_by_local_time_where_an_hour_comes_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def node(column: str) -> dict[str, object]:
        meta = {"partitions": "hourly", "partition_column": column}
        return {"schema": "webtoon", "config": {"meta": meta}, "original_file_path": "models/hours.sql"}

    assert LakeTranslator().get_partitions_def(node("hour")) == p.WEBTOON_HOURLY
    monkeypatch.setitem(p.CALENDARS["webtoon"], "hourly", NEW_YORK_HOURS)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="models/hours.sql: partition_column 'hour' is local time .* comes twice; pass"
    ):
        LakeTranslator().get_partitions_def(node("hour"))
    assert LakeTranslator().get_partitions_def(node("partition_key")) == NEW_YORK_HOURS
