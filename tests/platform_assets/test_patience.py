"""Looks rest by what they take, and only what stands still exhausts patience."""

import time

import pytest

from platform_assets.patience import LONGEST_SECONDS, REST, Pace, Patience, rest


@pytest.mark.parametrize(
    ("took", "least", "rests"),
    [(0.0, 0.1, 0.1), (0.01, 0.1, 0.1), (1.0, 0.1, REST), (2.0, 0.0, 6.0), (99.0, 0.1, LONGEST_SECONDS)],
)
def test_a_rest_is_as_long_as_the_look_needs_and_no_shorter_than_asked_for(
    took: float, least: float, rests: float
) -> None:
    assert rest(took, least) == pytest.approx(rests)


def test_only_looking_counts_not_resting(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    pace = Pace(0.5)
    for look in (0.1, 2.0, 0.0):
        now += look
        pace.rest()
    assert slept == pytest.approx([0.5, 6.0, 0.5])


def test_patience_is_over_when_nothing_has_moved_and_begins_anew_with_every_movement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    patience = Patience(10)
    assert not patience.over("a")
    now = 10.0
    assert not patience.over("a")
    now = 10.1
    assert patience.over("a")
    assert not patience.over("b")
    assert patience.still("b") == 0.0
