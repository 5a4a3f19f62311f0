"""A candidate is judged by its error, by an interval against the champion on the same rows, and by what it knew."""

import math

import numpy as np
import pytest

from ml_assets.sdk.declarations import Gate
from ml_assets.sdk.gates import Evidence, Interval, paired_interval, refusals
from ml_assets.sdk.metrics import METRICS

GATE = Gate(beats={"last week": "sold_before"})
RNG = np.random.default_rng(5)
LABELS = RNG.gamma(2.0, 10.0, 2000)
CHAMPION = LABELS + RNG.normal(0, 3, 2000)
WORSE = LABELS + RNG.normal(0, 4, 2000)
ENTITIES = np.arange(2000) // 4


def interval(candidate: np.ndarray, gate: Gate = GATE, entities: np.ndarray = ENTITIES) -> Interval:
    return paired_interval(METRICS["wape"], LABELS, candidate, CHAMPION, entities, gate, seed=7)


def evidence(error: float = 0.1, champion: Interval | None = None, **leaks: int) -> Evidence:
    return Evidence(error, {"last week": 0.2}, champion, leaks)


def test_a_candidate_that_beats_everything_passes() -> None:
    assert refusals(GATE, "wape", evidence()) == []


def test_a_candidate_that_is_worse_than_the_champion_is_refused_with_the_interval() -> None:
    found = interval(WORSE)
    assert 0 < found.low < found.difference < found.high
    (why,) = refusals(GATE, "wape", evidence(champion=found))
    assert why.startswith("is worse than the champion by")
    assert str(found) in why
    assert f"[{found.low:+.2%}, {found.high:+.2%}] at 95%" in why


def test_a_difference_within_the_tolerance_is_tolerated() -> None:
    found = interval(WORSE)
    assert refusals(Gate(tolerance=found.low + 0.01), "wape", evidence(champion=found)) == []


def test_a_candidate_that_must_improve_is_refused_when_the_interval_holds_zero() -> None:
    same = interval(CHAMPION + RNG.normal(0, 0.01, 2000))
    assert refusals(GATE, "wape", evidence(champion=same)) == []
    assert "not certain to improve" in refusals(Gate(must_improve=True), "wape", evidence(champion=same))[0]
    better = interval(LABELS + RNG.normal(0, 1, 2000))
    assert refusals(Gate(must_improve=True), "wape", evidence(champion=better)) == []


def test_the_interval_is_that_of_resampling_whole_entities_one_by_one() -> None:
    found = interval(WORSE)
    rng, differences = np.random.default_rng(1), []
    mine, theirs = np.abs(LABELS - WORSE), np.abs(LABELS - CHAMPION)
    for _ in range(1000):
        rows = (rng.integers(0, 500, 500)[:, None] * 4 + np.arange(4)).ravel()
        differences.append(mine[rows].sum() / theirs[rows].sum() - 1)
    low, high = np.quantile(differences, [0.025, 0.975])
    assert found.difference == pytest.approx(mine.sum() / theirs.sum() - 1)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))


def test_the_same_seed_gives_the_same_interval() -> None:
    assert interval(WORSE) == interval(WORSE)


def test_rows_of_one_entity_count_as_one_so_that_the_interval_is_wider() -> None:
    shared = np.repeat(RNG.normal(0, 4, 500), 4)
    alone = interval(LABELS + shared, entities=np.arange(2000))
    together = interval(LABELS + shared)
    assert together.high - together.low > 1.3 * (alone.high - alone.low)


def test_nine_in_ten_intervals_of_equal_models_hold_zero() -> None:
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = rng.gamma(2.0, 10.0, 300)
        mine, theirs = labels + rng.normal(0, 3, 300), labels + rng.normal(0, 3, 300)
        gate = Gate(confidence=0.9, resamples=300)
        found = paired_interval(METRICS["mae"], labels, mine, theirs, np.arange(300), gate, seed)
        held += found.low <= 0 <= found.high
    assert 82 <= held <= 97


def test_a_feature_that_is_newer_than_its_row_is_refused_by_name() -> None:
    (why,) = refusals(GATE, "wape", evidence(footfall=3))
    assert why == "feature 'footfall' leaks: 3 of its values are newer than their row"


@pytest.mark.parametrize("error", [0.2, 0.3])
def test_a_tie_with_a_naive_prediction_does_not_pass(error: float) -> None:
    assert "does not beat last week" in refusals(GATE, "wape", evidence(error))[0]


def test_an_error_above_the_declared_one_is_refused() -> None:
    assert "above 0.05" in refusals(Gate(at_most=0.05), "wape", evidence(0.1))[0]


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_an_undefined_error_is_refused(error: float) -> None:
    assert "nothing can be compared with" in refusals(GATE, "wape", evidence(error))[0]


def test_a_perfect_champion_is_beaten_by_nobody() -> None:
    perfect = paired_interval(METRICS["mae"], LABELS, WORSE, LABELS, ENTITIES, GATE, 7)
    assert "worse than the champion" in refusals(GATE, "mae", evidence(champion=perfect))[0]
    equal = paired_interval(METRICS["mae"], LABELS, LABELS, LABELS, ENTITIES, GATE, 7)
    assert refusals(GATE, "mae", evidence(champion=equal)) == []


def test_metrics_equal_hand_computed_ones() -> None:
    labels, found = np.array([1.0, 0.0, 1.0]), np.array([0.5, 0.0, 1.0])
    values = {name: metric.of(labels, found) for name, metric in METRICS.items()}
    assert values["wape"] == 0.25
    assert values["mae"] == pytest.approx(1 / 6)
    assert values["mse"] == values["brier"] == pytest.approx(1 / 12)
    assert values["log_loss"] == pytest.approx(math.log(2) / 3)
