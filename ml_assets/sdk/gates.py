"""Whether a candidate is good enough: against the naive predictions, against the champion, and without a leak.

Belongs here: the paired bootstrap and the rule of the gate, on plain data. Not here: Dagster's check of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_assets.sdk.declarations import Gate
from ml_assets.sdk.metrics import Floats, Metric


@dataclass(frozen=True)
class Interval:
    """How much worse the candidate is than the champion, as a share of the champion's error: below zero is better."""

    difference: float
    low: float
    high: float
    confidence: float

    def __str__(self) -> str:
        return f"{self.difference:+.2%} [{self.low:+.2%}, {self.high:+.2%}] at {self.confidence:.0%}"


@dataclass(frozen=True)
class Evidence:
    """What a gate judges: errors on the holdout partitions, and how many feature values were newer than their row."""

    error: float
    baselines: Mapping[str, float]
    champion: Interval | None
    leaks: Mapping[str, int]


def refusals(gate: Gate, metric: str, evidence: Evidence) -> list[str]:
    """Why the candidate is refused, each in words; it passes when there are none."""
    found = [
        f"feature {name!r} leaks: {count} of its values are newer than their row"
        for name, count in evidence.leaks.items()
    ]
    if not math.isfinite(evidence.error):
        found.append(f"its {metric} is {evidence.error}, which nothing can be compared with")
        return found
    if gate.at_most is not None and evidence.error > gate.at_most:
        found.append(f"its {metric} of {evidence.error:.4g} is above {gate.at_most:.4g}")
    found += [
        f"does not beat {name} ({metric} {evidence.error:.4g} against {naive:.4g})"
        for name, naive in evidence.baselines.items()
        if not evidence.error < naive
    ]
    against = evidence.champion
    if against is not None and against.low > gate.tolerance:
        found.append(f"is worse than the champion by {against}, more than the {gate.tolerance:.0%} that are tolerated")
    elif against is not None and gate.must_improve and not against.high < 0:
        found.append(f"is not certain to improve on the champion: {against}")
    return found


def paired_interval(
    metric: Metric,
    labels: Floats,
    candidate: Floats,
    champion: Floats,
    entities: NDArray[np.int64],
    gate: Gate,
    seed: int,
) -> Interval:
    """The bootstrap percentile interval of the relative difference of two models' errors on the same rows.

    Whole entities are resampled, because the rows of one are not independent (cluster bootstrap; Davison and Hinkley
    1997, 3.8). Both models see each resample, so that what is hard for both cancels out.

    Args:
        metric: the error measure.
        labels: the truth, one a row.
        candidate: predictions of the candidate.
        champion: predictions of the champion.
        entities: a number for each row, equal for rows of one entity.
        gate: confidence and number of resamples.
        seed: of the resampling.
    """
    mine, theirs = metric.loss(labels, candidate), metric.loss(labels, champion)
    _, group = np.unique(entities, return_inverse=True)
    sums = np.stack([np.bincount(group, weights=loss) for loss in (mine, theirs)], axis=1)
    count = len(sums)
    rng = np.random.default_rng(seed)
    totals = np.empty((gate.resamples, 2))
    for number in range(gate.resamples):
        totals[number] = np.bincount(rng.integers(0, count, count), minlength=count) @ sums
    # The denominators of both errors are the same sum of weights, which the ratio loses.
    drawn = _relative(totals[:, 0], totals[:, 1])
    low, high = np.quantile(drawn, [(1 - gate.confidence) / 2, (1 + gate.confidence) / 2])
    whole = _relative(*(np.array([math.fsum(loss.tolist())]) for loss in (mine, theirs)))
    return Interval(float(whole[0]), float(low), float(high), gate.confidence)


def _relative(mine: Floats, theirs: Floats) -> Floats:
    """(mine - theirs) / theirs; a perfect champion is infinitely better than any other, and as good as a perfect "
    "one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (mine - theirs) / theirs
    return np.where(theirs > 0, found, np.where(mine > 0, 1e9, 0.0))
