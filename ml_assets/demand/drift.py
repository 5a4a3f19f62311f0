"""Drift of feature values between weeks, by the size of the effect.

Belongs here: the population stability index on plain tables. Not here: the asset check that reports it.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

THRESHOLD = 0.25
"""PSI above which a shift is large, by the usual reading: to 0.1 none, to 0.25 moderate (Siddiqi 2006)."""

MINIMUM_ROWS = 500
"""Rows that reference and current week each need: deciles of fewer say more about chance than about drift."""

_DECILES = np.arange(1, 10) / 10


def feature_drift(reference: pa.Table, current: pa.Table, features: Sequence[str]) -> dict[str, float] | None:
    """PSI of each feature between two tables, or None when either is too small to tell.

    An effect size, not a p-value: at tens of thousands of rows every difference is significant and few
    matter.
    """
    if min(reference.num_rows, current.num_rows) < MINIMUM_ROWS:
        return None
    return {name: stability_index(_values(reference, name), _values(current, name)) for name in features}


def stability_index(reference: np.ndarray, current: np.ndarray) -> float:
    """Population stability index over the deciles of `reference`; equal deciles share a bin, NaN has its own.

    A bin that one side lacks counts as half a row there, so that the index stays finite.
    """
    known = reference[~np.isnan(reference)]
    edges = np.unique(np.quantile(known, _DECILES, method="inverted_cdf")) if known.size else known
    before, after = _shares(reference, edges), _shares(current, edges)
    return float(((after - before) * np.log(after / before)).sum())


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    bins = np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="left"))
    counts = np.bincount(bins, minlength=len(edges) + 2)
    return np.maximum(counts, 0.5) / len(values)


def _values(table: pa.Table, name: str) -> np.ndarray:
    values: np.ndarray = table[name].cast(pa.float64()).to_numpy()
    return values
