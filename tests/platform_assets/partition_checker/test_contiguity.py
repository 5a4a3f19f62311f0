"""Freshness counts the newest contiguous complete partition."""

from datetime import UTC, datetime, timedelta

import pytest

from platform_assets.partition_checker.contiguity import Freshness, due_partitions, freshness
from platform_assets.partitions import COMMERCE_DAILY

DUE = ["d1", "d2", "d3", "d4"]


@pytest.mark.parametrize(
    ("complete", "newest", "missing"),
    [
        (DUE, "d4", ()),
        (["d1", "d2"], "d2", ("d3", "d4")),
        (["d1", "d2", "d4"], "d2", ("d3",)),
        (["d2", "d3", "d4"], None, ("d1",)),
        ([*DUE, "d5"], "d4", ()),
        ([], None, tuple(DUE)),
    ],
)
def test_a_hole_ends_the_contiguous_history(complete: list[str], newest: str | None, missing: tuple[str, ...]) -> None:
    assert freshness(DUE, complete) == Freshness(newest, "d4", missing)


def test_nothing_due_is_fresh() -> None:
    assert freshness([], []).fresh


@pytest.mark.parametrize(("hours_after_midnight", "newest"), [(5, "2017-06-13"), (7, "2017-06-14")])
def test_a_day_is_due_only_its_delay_after_its_local_end(hours_after_midnight: int, newest: str) -> None:
    midnight_of_the_15th = datetime(2017, 6, 15, 4, tzinfo=UTC)  # New York, daylight saving time
    now = midnight_of_the_15th + timedelta(hours=hours_after_midnight)
    assert due_partitions(COMMERCE_DAILY, timedelta(hours=6), now)[-1] == newest
