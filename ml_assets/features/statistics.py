"""What a partition of a view looks like: counts, extremes, and sketches of its values that can be merged.

Belongs here: computing a partition's statistics, storing them as rows, merging those of many. Not here: judging them.

The sketches are Apache DataSketches': a t-digest of the numbers (Dunning & Ertl 2019) and a weighted frequent-items
sketch of the texts (Anderson et al. 2017). Both are merged without the data. Values are handed over in sorted order, so
that equal partitions give equal bytes however their files lie; KLL and REQ sketches are random and would not.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml_assets.features.joins import refuse_unfit
from ml_assets.features.views import FeatureView
from resources.feature_store.point_in_time import quoted
from resources.warehouse import PARTITION_KEY, Warehouse

if TYPE_CHECKING:
    from datasketches import frequent_strings_sketch, tdigest_double

# Rank errors stay below a hundredth, also of years that were merged week by week; a sketch has 10 kB at most.
_CENTROIDS = 500
_LOG_ITEMS = 8
_TOP = 10
_PARTITIONS_AT_ONCE = 20

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""The quantiles that are stored beside the sketch, for whoever reads the table."""

_QUANTILE_COLUMNS = {f"p{round(rank * 100):02}": rank for rank in QUANTILES}

STATISTICS_COLUMNS = {
    "feature": ("VARCHAR", "Name of the feature."),
    "rows": ("BIGINT", "Rows of the partition."),
    "nulls": ("BIGINT", "Rows in which it is null or not a number."),
    "minimum": ("DOUBLE", "Smallest number; null where it has none."),
    "maximum": ("DOUBLE", "Largest number; null where it has none."),
    "mean": ("DOUBLE", "Mean of the numbers; null where it has none."),
    "total": ("DOUBLE", "Sum of the numbers, from which means are merged; null where it has none."),
    **{
        column: ("DOUBLE", f"Approximate {rank:.0%} quantile; null where it has no numbers.")
        for column, rank in _QUANTILE_COLUMNS.items()
    },
    "top_values": ("VARCHAR[]", f"The {_TOP} most frequent values as text, the most frequent first."),
    "top_counts": ("BIGINT[]", "How often each of them occurs, at least."),
    "quantile_sketch": ("BLOB", "Apache DataSketches t-digest (double) of the numbers."),
    "frequent_sketch": ("BLOB", "Apache DataSketches frequent-items sketch of the values as text."),
    PARTITION_KEY: ("VARCHAR", "Dagster partition key of the mart, and of this."),
}
"""Type and meaning of each column of a view's statistics."""

_SCHEMA = pa.schema(
    [
        ("feature", pa.string()),
        ("rows", pa.int64()),
        ("nulls", pa.int64()),
        *((name, pa.float64()) for name in ("minimum", "maximum", "mean", "total", *_QUANTILE_COLUMNS)),
        ("top_values", pa.list_(pa.string())),
        ("top_counts", pa.list_(pa.int64())),
        ("quantile_sketch", pa.binary()),
        ("frequent_sketch", pa.binary()),
        (PARTITION_KEY, pa.string()),
    ]
)


@dataclass(frozen=True)
class Statistics:
    """What one feature's values look like; numbers are None where it has none."""

    feature: str
    rows: int
    nulls: int
    minimum: float | None
    maximum: float | None
    total: float | None
    quantile_sketch: bytes
    frequent_sketch: bytes

    @property
    def mean(self) -> float | None:
        """Mean of the numbers."""
        return None if self.total is None else self.total / (self.rows - self.nulls)

    def quantile(self, rank: float) -> float | None:
        """The value below which a share `rank` of the numbers lies, approximately."""
        digest = _digest(self.quantile_sketch)
        return None if digest.is_empty() else float(digest.get_quantile(rank))

    def top(self, count: int = _TOP) -> list[tuple[str, int]]:
        """The most frequent values as text with how often each occurs at least, the most frequent first."""
        from datasketches import frequent_items_error_type

        found = _frequent(self.frequent_sketch).get_frequent_items(frequent_items_error_type.NO_FALSE_POSITIVES)
        counted = sorted(((item, int(lower)) for item, _, lower, _ in found), key=lambda one: (-one[1], one[0]))
        return counted[:count]


def statistics_of(feature: str, values: pa.Array | pa.ChunkedArray) -> Statistics:
    """The statistics of a column; numbers count by value, everything by its text."""
    known = pc.drop_null(values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values)
    if pa.types.is_floating(known.type):
        # Adding zero makes one zero of both: they are equal and have different texts.
        known = pc.add(known.filter(pc.invert(pc.is_nan(known))), 0.0)
    is_number = pa.types.is_integer(known.type) or pa.types.is_floating(known.type)
    numbers = pc.sort_indices(known) if is_number else None
    digest, frequent = _digest(), _frequent()
    lowest = highest = total = None
    if numbers is not None and len(known):
        # A copy: the digest takes no array that cannot be written.
        ordered = np.array(known.take(numbers).cast(pa.float64(), safe=False))
        digest.update(ordered)
        lowest, highest, total = float(ordered[0]), float(ordered[-1]), math.fsum(ordered.tolist())
    for text, count in sorted(_counts(known).items()):
        frequent.update(text, count)
    digest.compress()
    return Statistics(
        feature, len(values), len(values) - len(known), lowest, highest, total, digest.serialize(), frequent.serialize()
    )


def merged(statistics: Iterable[Statistics]) -> Statistics:
    """The statistics of all values together, from those of their parts, given in a fixed order.

    Counts, extremes and means are exact up to rounding; quantiles and frequent values keep the sketches' bounds.

    Raises:
        ValueError: nothing to merge, or parts of different features.
    """
    parts = list(statistics)
    if len({part.feature for part in parts}) != 1:
        raise ValueError(f"statistics of one feature can be merged, not of {sorted({p.feature for p in parts})}")
    digest, frequent = _digest(), _frequent()
    for part in parts:
        digest.merge(_digest(part.quantile_sketch))
        frequent.merge(_frequent(part.frequent_sketch))
    totals = [part.total for part in parts if part.total is not None]
    counted = reduce(_counted_together, parts)
    return replace(
        counted,
        total=math.fsum(totals) if totals else None,
        quantile_sketch=digest.serialize(),
        frequent_sketch=frequent.serialize(),
    )


def partition_statistics(
    warehouse: Warehouse, lake: duckdb.DuckDBPyConnection, view: FeatureView, partitions: Sequence[str]
) -> pa.Table:
    """One row per partition and feature, as `STATISTICS_COLUMNS` says.

    Raises:
        DeclarationError: the mart is not as the view declares.
    """
    refuse_unfit(lake, view)
    rows, wanted = [], sorted(partitions)
    chosen = ", ".join(f"{quoted(f.read_from)}::{f.kind.duckdb} as {quoted(f.name)}" for f in view.features)
    for begin in range(0, len(wanted), _PARTITIONS_AT_ONCE):
        some = wanted[begin : begin + _PARTITIONS_AT_ONCE]
        mart = warehouse.relation(lake, view.table, some).project(f"{chosen}, {PARTITION_KEY}").to_arrow_table()
        for partition in some:
            values = mart.filter(pc.equal(mart[PARTITION_KEY], partition))
            rows += [_row(statistics_of(f.name, values[f.name]), partition) for f in view.features]
    return pa.Table.from_pylist(rows, _SCHEMA)


def stored_statistics(rows: pa.Table) -> dict[str, Statistics]:
    """The statistics of each feature over all partitions of `rows` of a view's table of statistics."""
    found: dict[str, list[Statistics]] = {}
    fields = Statistics.__dataclass_fields__
    for row in rows.sort_by([("feature", "ascending"), (PARTITION_KEY, "ascending")]).to_pylist():
        found.setdefault(row["feature"], []).append(Statistics(**{name: row[name] for name in fields}))
    return {feature: merged(parts) for feature, parts in found.items()}


def _row(found: Statistics, partition: str) -> dict[str, Any]:
    top = found.top()
    return {
        **vars(found),
        "mean": found.mean,
        **{column: found.quantile(rank) for column, rank in _QUANTILE_COLUMNS.items()},
        "top_values": [value for value, _ in top],
        "top_counts": [count for _, count in top],
        PARTITION_KEY: partition,
    }


def _counted_together(one: Statistics, other: Statistics) -> Statistics:
    lows = [low for low in (one.minimum, other.minimum) if low is not None]
    highs = [high for high in (one.maximum, other.maximum) if high is not None]
    return replace(
        one,
        rows=one.rows + other.rows,
        nulls=one.nulls + other.nulls,
        minimum=min(lows, default=None),
        maximum=max(highs, default=None),
    )


def _counts(known: pa.Array) -> Mapping[str, int]:
    counted = pc.value_counts(known)
    values, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
    return {value if isinstance(value, str) else str(value): count for value, count in zip(values, counts, strict=True)}


def _digest(stored: bytes | None = None) -> "tdigest_double":
    from datasketches import tdigest_double

    return tdigest_double(_CENTROIDS) if stored is None else tdigest_double.deserialize(stored)


def _frequent(stored: bytes | None = None) -> "frequent_strings_sketch":
    from datasketches import frequent_strings_sketch

    return frequent_strings_sketch(_LOG_ITEMS) if stored is None else frequent_strings_sketch.deserialize(stored)
