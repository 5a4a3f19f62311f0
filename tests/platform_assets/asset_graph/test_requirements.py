"""Requirements name exactly what Dagster's mappings name, pair by pair."""

import time
from collections.abc import Sequence
from datetime import datetime, timedelta

import dagster as dg
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from platform_assets import partitions as p
from platform_assets.asset_graph.requirements import NONE, Requirement, compile_requirement
from platform_assets.calendars import HOUR_FORMAT

# Shrinking would ask Dagster for minutes.
PATIENT = settings(
    max_examples=30, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow]
)
ZONES = ["UTC", "America/New_York", "Asia/Seoul", "Europe/Berlin", "Australia/Lord_Howe"]
TURNS = [datetime(2017, 3, 12), datetime(2017, 3, 26), datetime(2017, 11, 5), datetime(2017, 12, 25)]
SCHEDULES = {
    "0 * * * *": timedelta(hours=1),
    "30 * * * *": timedelta(hours=1),
    "0 */6 * * *": timedelta(hours=6),
    "0 0 * * *": timedelta(days=1),
    "0 7 * * *": timedelta(days=1),
    "0 0 * * 1": timedelta(days=7),
    "0 0 * * 0": timedelta(days=7),
    "0 0 1 * *": timedelta(days=30),
}
EXCLUSIONS = [None, None, ["0 0 25 12 *"], ["0 0 5,6,7 11 *", "0 0 12 3 *"]]
WEEKENDS = ["0 0 * * 0,6", "0 7 * * 0,6"]


def named_by_dagster(
    mapping: dg.PartitionMapping, key: str, down: dg.PartitionsDefinition, up: dg.PartitionsDefinition
) -> list[str]:
    found = mapping.get_upstream_mapped_partitions_result_for_partitions(
        down.subset_with_partition_keys([key]), down, up
    )
    return sorted(set(map(str, found.partitions_subset.get_partition_keys())))


def assert_as_dagster(
    mapping: dg.PartitionMapping,
    down: dg.PartitionsDefinition,
    up: dg.PartitionsDefinition,
    given_mapping: dg.PartitionMapping | None,
    keys: Sequence[str] | None = None,
) -> None:
    requirement = compile_requirement(down, up, given_mapping)
    ours, theirs = list(map(str, down.get_partition_keys())), list(map(str, up.get_partition_keys()))
    assert (requirement.downstream_count, requirement.upstream_count) == (len(ours), len(theirs))
    for index, key in enumerate(ours):
        if keys is None or key in keys:
            needed = sorted(theirs[at] for at in requirement.upstream_of(index))
            assert needed == named_by_dagster(mapping, key, down, up), key


@st.composite
def calendars(
    draw: st.DrawFn, zone: str, turn: datetime, longest: timedelta = timedelta(days=30)
) -> dg.TimeWindowPartitionsDefinition:
    shortest = timedelta(days=1) if longest == timedelta(days=30) else timedelta(hours=1)
    offered = [item for item in SCHEDULES.items() if shortest <= item[1] <= longest]
    schedule, length = draw(st.sampled_from(offered))
    start = turn + draw(st.integers(-12, 3)) * max(length, timedelta(hours=4)) + draw(st.sampled_from([0, 5])) * length
    calendar = dg.TimeWindowPartitionsDefinition(
        start=start,
        end=start + draw(st.integers(0, 10)) * length,
        cron_schedule=schedule,
        timezone=zone,
        fmt="%Y-%m-%d-%H:%M",
        # Without its weekends a calendar of weeks has no partition at all, and Dagster looks for one for ever.
        exclusions=draw(st.sampled_from([*EXCLUSIONS, WEEKENDS] if schedule.endswith("* * *") else EXCLUSIONS)),
    )
    # Dagster gives a calendar of excluded days only one partition, after its end.
    first, last = calendar.get_first_partition_window(), calendar.get_last_partition_window()
    assume(first is None or last is None or first.start.timestamp() <= last.start.timestamp())
    return calendar


@st.composite
def related(draw: st.DrawFn) -> tuple[dg.TimeWindowPartitionsDefinition, dg.TimeWindowPartitionsDefinition]:
    zone, turn = draw(st.sampled_from(ZONES)), draw(st.sampled_from(TURNS))
    # Months of hours take Dagster too long; weeks of hours are among the repository's calendars below.
    longest = draw(st.sampled_from([timedelta(days=1), timedelta(days=1), timedelta(days=30)]))
    return draw(calendars(zone, turn, longest)), draw(calendars(zone, turn, longest))


@PATIENT
@given(related(), st.integers(-3, 3), st.integers(-3, 3), st.booleans())
def test_any_two_calendars_at_any_offsets_relate_as_dagster_says(
    pair: tuple[dg.TimeWindowPartitionsDefinition, dg.TimeWindowPartitionsDefinition], start: int, end: int, lax: bool
) -> None:
    mapping = dg.TimeWindowPartitionMapping(start, end, lax)
    assert_as_dagster(mapping, *pair, mapping)


@PATIENT
@given(st.data())
def test_calendars_of_one_schedule_that_start_and_end_apart_relate_as_dagster_says(data: st.DataObject) -> None:
    longest = data.draw(st.sampled_from([timedelta(days=1), timedelta(days=30)]))
    down = data.draw(calendars(data.draw(st.sampled_from(ZONES)), data.draw(st.sampled_from(TURNS)), longest))
    hours = data.draw(st.integers(-60, 60)), data.draw(st.integers(-60, 60))
    assert down.end
    up = dg.TimeWindowPartitionsDefinition(
        start=down.start.replace(tzinfo=None) + timedelta(hours=hours[0]),
        end=down.end.replace(tzinfo=None) + timedelta(hours=hours[1]),
        cron_schedule=down.cron_schedule,
        timezone=down.timezone,
        fmt=down.fmt,
        exclusions=data.draw(st.sampled_from([down.exclusions, None])),
    )
    first, last = up.get_first_partition_window(), up.get_last_partition_window()
    assume(first is None or last is None or first.start.timestamp() <= last.start.timestamp())
    mapping = p.same_time(data.draw(st.integers(0, 3)))
    assert_as_dagster(mapping, down, up, mapping)


@pytest.mark.parametrize("mapping", [p.same_time(), p.same_time(1), p.offset(-8, -1), None])
@pytest.mark.parametrize(
    ("down", "up"),
    [
        (p.COMMERCE_DAILY, p.COMMERCE_DAILY),
        (p.COMMERCE_WEEKLY, p.COMMERCE_DAILY),
        (p.COMMERCE_DAILY, p.COMMERCE_WEEKLY),
        (p.weeks_from("2017-02-27", ahead=1), p.COMMERCE_WEEKLY),
        (p.weeks_from("2017-06-05", ahead=1), p.weeks_from("2017-02-27")),
        (p.WEBTOON_DAILY, p.WEBTOON_HOURLY),
        (p.WEBTOON_WEEKLY, p.WEBTOON_HOURLY),
        (p.WEBTOON_HOURLY, p.WEBTOON_DAILY),
    ],
)
def test_the_calendars_of_the_repository_relate_as_dagster_says(
    down: dg.TimeWindowPartitionsDefinition,
    up: dg.TimeWindowPartitionsDefinition,
    mapping: dg.PartitionMapping | None,
) -> None:
    keys = down.get_partition_keys()
    assert_as_dagster(
        mapping or dg.TimeWindowPartitionMapping(), down, up, mapping, [*keys[:9], *keys[60:70], *keys[-16:]]
    )


def test_the_week_of_a_closed_day_reaches_back_to_the_last_open_one() -> None:
    weeks, days = p.COMMERCE_WEEKLY.get_partition_keys(), p.COMMERCE_DAILY.get_partition_keys()
    needed = compile_requirement(p.COMMERCE_WEEKLY, p.COMMERCE_DAILY, p.same_time())
    named = [days[at] for at in needed.upstream_of(weeks.index("2017-12-25"))]
    assert named == ["2017-12-24", *(f"2017-12-{day}" for day in range(26, 32))]


@pytest.mark.parametrize(("key", "count"), [("2017-03-12", 23), ("2017-11-05", 25), ("2017-06-01", 24)])
def test_a_new_york_day_needs_all_its_hours(key: str, count: int) -> None:
    days = dg.DailyPartitionsDefinition("2017-01-01", end_date="2018-01-01", timezone=p.COMMERCE_ZONE)
    hours = dg.HourlyPartitionsDefinition(
        "2017-01-01-00:00", end_date="2018-01-01-00:00", timezone=p.COMMERCE_ZONE, fmt=HOUR_FORMAT
    )
    needed = compile_requirement(days, hours, p.same_time()).upstream_of(days.get_partition_keys().index(key))
    assert len(needed) == count


def test_two_time_zones_are_refused() -> None:
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="America/New_York"):
        compile_requirement(p.COMMERCE_DAILY, p.WEBTOON_DAILY, p.same_time())


def test_a_calendar_without_an_end_grows_with_time() -> None:
    open_ended = dg.DailyPartitionsDefinition("2026-01-01")
    with dg_time("2026-02-01"):
        assert compile_requirement(open_ended, open_ended, None).downstream_count == 31
    with dg_time("2026-02-03"):
        grown = compile_requirement(open_ended, open_ended, p.same_time(1))
        assert grown.downstream_count == compile_requirement(open_ended, open_ended, None).downstream_count == 33
        assert list(grown.upstream_of(32)) == [31, 32]


def dg_time(day: str):  # type: ignore[no-untyped-def]
    from dagster._core.definitions.partitions.context import partition_loading_context

    return partition_loading_context(datetime.fromisoformat(f"{day}T00:00:00+00:00"))


LETTERS = dg.StaticPartitionsDefinition(["a", "b", "c", "d"])
OTHERS = dg.StaticPartitionsDefinition(["d", "b", "x"])
DAYS = dg.DailyPartitionsDefinition("2017-03-10", end_date="2017-03-16", timezone=p.COMMERCE_ZONE)
BOTH = dg.MultiPartitionsDefinition({"day": DAYS, "letter": LETTERS})
OTHER_BOTH = dg.MultiPartitionsDefinition({"day": DAYS, "name": OTHERS})
CROSSED = dg.MultiPartitionMapping(
    {
        "day": dg.DimensionPartitionMapping("day", dg.TimeWindowPartitionMapping(-1, 0, True)),
        "name": dg.DimensionPartitionMapping("letter", dg.StaticPartitionMapping({"x": ["a", "c"], "b": "b"})),
    }
)


@pytest.mark.parametrize(
    ("down", "up", "mapping"),
    [
        (LETTERS, DAYS, dg.AllPartitionMapping()),
        (DAYS, LETTERS, dg.LastPartitionMapping()),
        (BOTH, DAYS, dg.LastPartitionMapping()),
        (DAYS, BOTH, dg.LastPartitionMapping()),
        (LETTERS, OTHERS, dg.StaticPartitionMapping({"d": ["a", "d"], "x": "a", "b": "c"})),
        (OTHERS, LETTERS, dg.IdentityPartitionMapping()),
        (LETTERS, LETTERS, dg.IdentityPartitionMapping()),
        (DAYS, LETTERS, dg.SpecificPartitionsPartitionMapping(["a", "d"])),
        (DAYS, BOTH, dg.MultiToSingleDimensionPartitionMapping("day")),
        (BOTH, DAYS, dg.MultiToSingleDimensionPartitionMapping("day")),
        (LETTERS, BOTH, dg.MultiToSingleDimensionPartitionMapping()),
        (BOTH, OTHER_BOTH, CROSSED),
        (BOTH, BOTH, dg.IdentityPartitionMapping()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_other_mapping_needs_what_dagster_names(
    down: dg.PartitionsDefinition, up: dg.PartitionsDefinition, mapping: dg.PartitionMapping
) -> None:
    assert_as_dagster(mapping, down, up, mapping)


@pytest.mark.parametrize(
    ("down", "up", "inferred"),
    [
        (LETTERS, LETTERS, dg.IdentityPartitionMapping()),
        (DAYS, BOTH, dg.MultiToSingleDimensionPartitionMapping()),
        (BOTH, DAYS, dg.MultiToSingleDimensionPartitionMapping()),
        (BOTH, BOTH, dg.IdentityPartitionMapping()),
    ],
)
def test_without_a_mapping_dagsters_default_holds(
    down: dg.PartitionsDefinition, up: dg.PartitionsDefinition, inferred: dg.PartitionMapping
) -> None:
    assert_as_dagster(inferred, down, up, None)


@pytest.mark.parametrize("mapping", [None, p.same_time()])
@pytest.mark.parametrize(("down", "up", "counts"), [(None, DAYS, (1, 6)), (DAYS, None, (6, 1)), (None, None, (1, 1))])
def test_where_a_side_has_no_partitions_everything_is_needed(
    down: dg.PartitionsDefinition | None,
    up: dg.PartitionsDefinition | None,
    counts: tuple[int, int],
    mapping: dg.PartitionMapping | None,
) -> None:
    requirement = compile_requirement(down, up, mapping)
    assert (requirement.downstream_count, requirement.upstream_count) == counts
    assert all(list(requirement.upstream_of(at)) == list(range(counts[1])) for at in range(counts[0]))


def test_an_asset_without_partitions_can_need_the_last_or_a_named_one() -> None:
    assert list(compile_requirement(None, DAYS, dg.LastPartitionMapping()).upstream_of(0)) == [5]
    named = dg.SpecificPartitionsPartitionMapping(["a", "d"])
    assert list(compile_requirement(None, LETTERS, named).upstream_of(0)) == [0, 3]


def test_equal_arguments_are_compiled_once() -> None:
    one = dg.StaticPartitionMapping({"d": ["a", "d"]})
    two = dg.StaticPartitionMapping({"d": ["a", "d"]})
    other = dg.StaticPartitionMapping({"d": ["a"]})
    compiled = compile_requirement(LETTERS, OTHERS, one)
    assert compile_requirement(LETTERS, OTHERS, two) is compiled
    assert compile_requirement(LETTERS, OTHERS, other) is not compiled


def test_a_year_of_days_compiles_in_a_small_part_of_the_time_that_dagster_maps_its_weeks_in() -> None:
    weeks, days, mapping = p.COMMERCE_WEEKLY, p.COMMERCE_DAILY, p.same_time(lookback=6)
    requirement = compile_requirement(weeks, days, p.same_time(lookback=7))
    began = time.process_time()
    again = compile_requirement(weeks, days, mapping)
    compiled = time.process_time()
    for week in weeks.get_partition_keys():
        subset = weeks.subset_with_partition_keys([week])
        found = mapping.get_upstream_mapped_partitions_result_for_partitions(subset, weeks, days)
        assert found.partitions_subset.get_partition_keys()
    assert compiled - began < (time.process_time() - compiled) / 4
    assert again.fingerprint != requirement.fingerprint


@st.composite
def requirements(draw: st.DrawFn) -> tuple[Requirement, list[set[int]]]:
    count = draw(st.integers(0, 9))
    row = st.sets(st.integers(0, count - 1)) if count else st.just(set())
    if draw(st.booleans()) and count:
        ends = st.tuples(st.integers(0, count), st.integers(0, count))
        row = ends.map(lambda pair: set(range(min(pair), max(pair))))
    rows = draw(st.lists(row, max_size=9))
    return Requirement.of(rows, count), rows


@given(requirements(), st.data())
def test_both_directions_agree_with_sets(made: tuple[Requirement, list[set[int]]], data: st.DataObject) -> None:
    requirement, rows = made
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), np.bool_)
    count = requirement.upstream_count
    changed = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), np.bool_)
    hit = [sorted(row & set(np.flatnonzero(changed).tolist())) for row in rows]
    assert [set(requirement.upstream_of(at)) for at in range(len(rows))] == rows
    assert set(np.flatnonzero(requirement.needed(wanted))) == set().union(
        *(row for row, want in zip(rows, wanted, strict=True) if want)
    )
    assert requirement.affected(changed).tolist() == [bool(row) for row in hit]
    assert requirement.first(changed).tolist() == [row[0] if row else NONE for row in hit]
    assert requirement.last(changed).tolist() == [row[-1] if row else NONE for row in hit]


NUMBERS = st.integers(-(2**63), 2**63 - 1)


@given(requirements(), st.data())
def test_sums_over_what_each_pair_needs_agree_with_sums_one_by_one_and_wrap_around(
    made: tuple[Requirement, list[set[int]]], data: st.DataObject
) -> None:
    requirement, rows = made
    count = requirement.upstream_count
    values = data.draw(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=count, max_size=count))
    found = requirement.sums(np.array(values, np.int64).reshape(count, 2))
    for row, sums in zip(rows, found.tolist(), strict=True):
        for column in (0, 1):
            assert (sums[column] - sum(values[at][column] for at in row)) % 2**64 == 0
