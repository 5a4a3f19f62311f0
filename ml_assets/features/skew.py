"""Training-serving skew: what the online store answers against what the lake says of the same keys at the same instant.

Belongs here: sampling keys, comparing, and naming the cause of a difference. Not here: the table and check that keep
the findings (`assets.py`).
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from ml_assets.features.joins import LAST_EVENT, asked_keys, served_view, values_as_of
from ml_assets.features.views import EVENT_TIME, FeatureView, OnDemandTransform
from resources.feature_store.online_rows import OnlineRows
from resources.feature_store.packed_rows import arrow_type
from resources.feature_store.reader import OnlineFeatures, OnlineReader, Status
from resources.feature_store.served_view import ServedView
from resources.warehouse import PARTITION_KEY, TableName

SAMPLED_KEYS = 500
"""Keys of a view that are read and joined again."""

BOUND = 0.0
"""The share of compared values that may differ."""


class Cause(StrEnum):
    """Why the online store and the lake say different things of one key at one instant."""

    MISSING_ROW = "missing row"
    STALE_ROW = "stale row"
    WITHDRAWN_ROW = "withdrawn row"
    LATE_DATA = "late data"
    TTL = "TTL"
    TYPE = "type"
    TRANSFORM = "transform"


MEANINGS: Mapping[Cause, str] = {
    Cause.MISSING_ROW: "the store has no row of the key; materialize the view's newest partition again",
    Cause.STALE_ROW: "the store has an older row than the lake; materialize the partitions since",
    Cause.WITHDRAWN_ROW: "the store has a row that has left the lake; materialize its partition again",
    Cause.LATE_DATA: "the lake's row was corrected after it was served; materialize its partition again",
    Cause.TTL: "one of the two counts the row as too old; apply the declaration to Feast again",
    Cause.TYPE: "the value is the same but for its type; apply the declaration, and materialize again",
    Cause.TRANSFORM: "equal inputs, different outputs; the transform depends on more than its inputs",
}
"""What each cause means, and what to do about it."""

SKEW_COLUMNS = {
    "view": ("VARCHAR", "Feature view, or on-request transform."),
    "feature": ("VARCHAR", "Feature that was compared."),
    "as_of": ("TIMESTAMP WITH TIME ZONE", "Instant at which it was read online and joined offline."),
    "sampled": ("BIGINT", "Keys that were sampled."),
    "compared": ("BIGINT", "Keys that were compared; of the others the store has a row of after the instant."),
    "skewed": ("BIGINT", "Keys of which the two values differ."),
    "skew": ("DOUBLE", "The share of compared keys that differ, 0 to 1."),
    "cause": ("VARCHAR", "The most frequent cause; null without a difference."),
    "causes": ("VARCHAR", "Every cause with its number of keys; null without a difference."),
    "example": ("VARCHAR", "One key with both values; null without a difference."),
    PARTITION_KEY: ("VARCHAR", "Dagster partition key: the period with which what was compared is known."),
}
"""Type and meaning of each column of the findings."""

SKEW_SCHEMA = pa.schema(
    [
        ("view", pa.string()),
        ("feature", pa.string()),
        ("as_of", pa.timestamp("us", tz="UTC")),
        ("sampled", pa.int64()),
        ("compared", pa.int64()),
        ("skewed", pa.int64()),
        ("skew", pa.float64()),
        ("cause", pa.string()),
        ("causes", pa.string()),
        ("example", pa.string()),
        (PARTITION_KEY, pa.string()),
    ]
)


@dataclass
class Skew:
    """How far one feature differs between the online store and the lake."""

    view: str
    feature: str
    as_of: datetime
    sampled: int
    compared: int
    causes: Counter[Cause] = field(default_factory=Counter)
    example: str | None = None

    @property
    def skewed(self) -> int:
        """Keys of which the two values differ."""
        return self.causes.total()

    @property
    def skew(self) -> float:
        """The share of compared keys that differ."""
        return self.skewed / self.compared if self.compared else 0.0

    @property
    def cause(self) -> Cause | None:
        """The most frequent cause."""
        return min(self.causes, key=lambda cause: (-self.causes[cause], cause)) if self.causes else None

    def row(self, partition: str) -> dict[str, Any]:
        """The finding as a row of the table."""
        causes = ", ".join(f"{cause}: {count}" for cause, count in sorted(self.causes.items()))
        return {
            "view": self.view,
            "feature": self.feature,
            "as_of": self.as_of,
            "sampled": self.sampled,
            "compared": self.compared,
            "skewed": self.skewed,
            "skew": self.skew,
            "cause": self.cause,
            "causes": causes or None,
            "example": self.example,
            PARTITION_KEY: partition,
        }


@dataclass(frozen=True)
class _Sample:
    """The sampled keys of a view with what the store says of them, and the lake of those to compare.

    `places` says where the keys of the lake's rows are in the store's answer.
    """

    view: FeatureView
    instant: datetime
    size: int
    online: OnlineFeatures
    places: Sequence[int]
    lake: pa.Table

    @cached_property
    def statuses(self) -> Mapping[str, Sequence[Status]]:
        """By feature, what the store says of each key's value."""
        return self.online.statuses()

    @cached_property
    def events(self) -> Mapping[str, Sequence[datetime | None]]:
        """By feature, the event time of each key's value in the store."""
        return self.online.event_times()

    def key(self, at: int) -> str:
        """The key of the lake's row `at`, for people."""
        return ", ".join(f"{name}={self.lake[name][at].as_py()}" for name in self.view.keys)


def view_skew(
    lake: duckdb.DuckDBPyConnection,
    view: FeatureView,
    rows: OnlineRows,
    partition: str,
    reach: Sequence[str],
    transforms: Iterable[OnDemandTransform] = (),
    served: ServedView | None = None,
    moved_on: bool = False,
) -> list[Skew]:
    """Compare the view, and the `transforms` that read it, when `partition` is known: one finding a feature.

    Args:
        lake: a reading connection.
        view: what is compared.
        rows: the online store.
        partition: of the mart; when it is known is read online and joined offline.
        reach: the partitions from which keys are sampled; more than count, so that expired ones are among them.
        transforms: of a request; computed from both sides' inputs with their examples.
        served: the view as the readers of the online store know it; as it is declared, unless given.
        moved_on: the store was brought to a later instant since. What it then lacks may have expired, so that a key
            without a row is not compared.
    """
    sample = _sampled(lake, view, rows, partition, reach, served or served_view(view), moved_on)
    found = [_compared(sample, feature.name) for feature in view.features]
    return [*found, *(_transformed(sample, transform) for transform in transforms if transform.reads.view == view)]


def newest_instant(lake: duckdb.DuckDBPyConnection, materialized: TableName) -> datetime:
    """The latest instant that a view was materialized for, by the table that its materializations leave."""
    found = lake.execute(f"select max(known_at) from {materialized.sql}").fetchone()
    assert found is not None, "the table has a row for every partition"
    newest: datetime = found[0]
    return newest


def _sampled(
    lake: duckdb.DuckDBPyConnection,
    view: FeatureView,
    rows: OnlineRows,
    partition: str,
    reach: Sequence[str],
    served: ServedView,
    moved_on: bool,
) -> _Sample:
    keys = asked_keys(lake, view, {partition: reach}, at_most=SAMPLED_KEYS)
    instant = view.known_at(partition)
    reader = OnlineReader(rows, [served], now=instant.timestamp)
    online = reader.read(view.select().references, {key: keys[key].to_pylist() for key in view.keys})
    events = next(iter(online.event_times().values()))
    places = [at for at, event in enumerate(events) if (not moved_on if event is None else event <= instant)]
    # Long after the instant the store has moved on from nearly all keys: only the others are worth a join.
    compared = keys.take(pa.array(places, pa.int64()))
    offline = values_as_of(lake, view, compared, reach, with_last_event=True)
    return _Sample(view, instant, keys.num_rows, online, places, offline)


def _compared(sample: _Sample, feature: str) -> Skew:
    found = Skew(sample.view.name, feature, sample.instant, sample.size, len(sample.places))
    offline, online = sample.lake[feature].to_pylist(), sample.online.columns[feature]
    for at, cause in _differences(sample, feature, offline, online):
        found.causes[cause] += 1
        found.example = found.example or f"{sample.key(at)}: online {online[sample.places[at]]!r}, lake {offline[at]!r}"
    return found


def _differences(
    sample: _Sample, feature: str, offline: Sequence[Any], online: Sequence[Any]
) -> Iterator[tuple[int, Cause]]:
    statuses, events = sample.statuses[feature], sample.events[feature]
    counts, newest = sample.lake[EVENT_TIME].to_pylist(), sample.lake[LAST_EVENT].to_pylist()
    for at, place in enumerate(sample.places):
        if _same(offline[at], online[place]):
            continue
        served, known = events[place], newest[at]
        if served is None:
            yield at, Cause.MISSING_ROW
        elif known is None or served > known:
            yield at, Cause.WITHDRAWN_ROW
        elif served < known:
            yield at, Cause.STALE_ROW
        elif (counts[at] is None) != (statuses[place] is Status.OUTSIDE_TTL):
            yield at, Cause.TTL
        else:
            yield at, Cause.TYPE if _alike(offline[at], online[place]) else Cause.LATE_DATA


def _transformed(sample: _Sample, transform: OnDemandTransform) -> Skew:
    """Both paths over the same requests: a batch of the lake's inputs, and row by row of the store's."""
    output = transform.output.name
    found = Skew(transform.name, output, sample.instant, sample.size, len(sample.places))
    requests = [transform.examples[at % len(transform.examples)] for at in range(sample.lake.num_rows)]
    types = {one.name: arrow_type(one.kind.packed) for one in transform.request.fields}
    batch = sample.lake.select(list(transform.reads.names))
    for name, kind in types.items():
        batch = batch.append_column(name, pa.array([request[name] for request in requests], kind))
    offline = transform.of_table(batch).to_pylist()
    for at, place in enumerate(sample.places):
        inputs = {name: sample.online.columns[name][place] for name in transform.reads.names}
        online = transform.of_row({**inputs, **requests[at]})
        if _same(offline[at], online) or any(
            not _same(sample.lake[name][at].as_py(), value) for name, value in inputs.items()
        ):
            # Of other inputs the difference is that of the inputs, which has been counted.
            continue
        found.causes[Cause.TRANSFORM] += 1
        found.example = found.example or f"{sample.key(at)}: online {online!r}, lake {offline[at]!r}"
    return found


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return True
    return type(one) is type(other) and bool(one == other)


def _alike(one: Any, other: Any) -> bool:
    """Equal but for the type, or for the digits that a narrower one does not hold."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other or np.float32(one) == np.float32(other)
    return one is not None and other is not None and str(one) == str(other)
