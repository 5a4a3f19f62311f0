"""What became of predictions: drift of what goes in and comes out, and the error over time.

Belongs here: the measures on plain tables. Not here: the asset and its check (`monitor_assets.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ml_assets.sdk.declarations import Model, Monitor
from ml_assets.sdk.metrics import Floats
from ml_assets.sdk.training_sets import matrix

_DECILES = np.arange(1, 10) / 10


@dataclass(frozen=True)
class Reading:
    """One thing measured: `value` is None where it could not be judged, `why` then says so."""

    subject: str
    measure: str
    value: float | None
    limit: float
    rows: int
    why: str = ""

    @property
    def within(self) -> bool:
        """Not above its limit, or not judged."""
        return self.value is None or self.value <= self.limit


def drift(monitor: Monitor, reference: Mapping[str, Floats], current: Mapping[str, Floats]) -> list[Reading]:
    """The population stability index of each subject between two sets of rows, where both are large enough.

    An effect size, not a p-value: at tens of thousands of rows every difference is significant and few matter.
    """
    found = []
    for subject, now in current.items():
        before = reference.get(subject, np.empty(0))
        rows = min(len(before), len(now))
        if rows < monitor.minimum_rows:
            why = f"{len(before)} rows before and {len(now)} now; {monitor.minimum_rows} are needed on either side"
            found.append(Reading(subject, "psi", None, monitor.psi, rows, why))
        else:
            found.append(Reading(subject, "psi", stability_index(before, now), monitor.psi, rows))
    return found


def error(monitor: Monitor, metric: str, expected: float, now: float | None, rows: int) -> Reading:
    """The error on labels that have come since, against that of the evaluation."""
    limit = expected * monitor.error_ratio
    if now is None or not np.isfinite(now):
        return Reading(metric, "error", None, limit, rows, "no labels have come for these predictions yet")
    return Reading(metric, "error", now, limit, rows)


def measured(
    model: Model,
    watched: Monitor,
    predictions: pa.Table,
    predicted_before: pa.Table,
    rows: pa.Table,
    reference: pa.Table,
    expected: float,
) -> list[Reading]:
    """Drift of features, label and predictions, and the error of the predictions whose labels have come.

    Args:
        model: the declaration.
        watched: what is measured.
        predictions: of the partition.
        predicted_before: predictions of those of the partitions before that have any.
        rows: of the training set, of the same partition; empty while there are no labels.
        reference: of the training set, of the partitions before.
        expected: the error in the evaluation.
    """
    subjects = [name for name in (*model.feature_names, model.training_set.label) if name not in watched.unwatched]
    columns = {name: matrix(rows, [name])[:, 0] for name in subjects}
    before = {name: matrix(reference, [name])[:, 0] for name in columns}
    columns["prediction"] = matrix(predictions, ["prediction"])[:, 0]
    before["prediction"] = matrix(predicted_before, ["prediction"])[:, 0]
    found = drift(watched, before, columns)
    same = [*model.training_set.keys, model.training_set.time]
    both = predictions.select([*same, "prediction"]).join(
        rows.select([*same, model.training_set.label]), same, join_type="inner"
    )
    now = None
    if both.num_rows:
        now = model.measure.of(matrix(both, [model.training_set.label])[:, 0], matrix(both, ["prediction"])[:, 0])
    return [*found, error(watched, model.metric, expected, now, both.num_rows)]


def stability_index(reference: Floats, current: Floats) -> float:
    """Population stability index over the deciles of `reference`; equal deciles share a bin, NaN has its own.

    A bin that one side lacks counts as half a row there, so that the index stays finite.
    """
    known = reference[~np.isnan(reference)]
    edges = np.unique(np.quantile(known, _DECILES, method="inverted_cdf")) if known.size else known
    before, after = _shares(reference, edges), _shares(current, edges)
    return float(((after - before) * np.log(after / before)).sum())


def _shares(values: Floats, edges: Floats) -> Floats:
    bins = np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="left"))
    counts = np.bincount(bins, minlength=len(edges) + 2)
    return np.maximum(counts, 0.5) / len(values)
