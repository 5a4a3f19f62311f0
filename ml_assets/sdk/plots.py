"""Pictures of an evaluation, as PNG bytes.

Belongs here: drawing. Not here: computing what is drawn (`folds.py`), keeping it (`tracking.py`).
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ml_assets.sdk.folds import CalibrationBin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_FEATURES = 20


def importance(shares: Mapping[str, float]) -> bytes:
    """How much the error grows when a feature is shuffled, the most important first."""
    figure, axes = _figure()
    first = sorted(shares.items(), key=lambda item: item[1], reverse=True)[:_MOST_FEATURES][::-1]
    axes.barh([name for name, _ in first], [share for _, share in first])
    axes.set(xlabel="growth of the error when shuffled, as a share", title="Importance of features")
    return _png(figure)


def calibration(bins: Sequence[CalibrationBin]) -> bytes:
    """What was predicted against what then was, in bins of equally many rows."""
    figure, axes = _figure()
    predicted, observed = [one.predicted for one in bins], [one.observed for one in bins]
    ends = [min(predicted + observed), max(predicted + observed)]
    axes.plot(ends, ends, linestyle="--", color="grey")
    axes.plot(predicted, observed, marker="o")
    axes.set(xlabel="mean prediction", ylabel="mean label", title="Calibration on the holdout")
    return _png(figure)


def errors_over_time(metric: str, errors: Mapping[str, Mapping[str, float]]) -> bytes:
    """The error by partition, a line for each method."""
    figure, axes = _figure()
    for method, by_partition in errors.items():
        axes.plot(list(by_partition), list(by_partition.values()), marker="o", label=method)
    axes.tick_params(axis="x", rotation=90)
    axes.set(ylabel=metric, title="Error by fold")
    # Beside the lines, which many methods let fill the axes.
    figure.legend(loc="outside lower center", ncols=3)
    return _png(figure)


def _figure() -> "tuple[Figure, Axes]":
    # Without pyplot: that keeps figures in a global list, and threads draw at the same time.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    return figure, figure.add_subplot()


def _png(figure: "Figure") -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=80)
    return written.getvalue()
