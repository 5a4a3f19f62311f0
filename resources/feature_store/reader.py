"""Reading features for serving, in process: one round trip to the store, whatever the number of views and entities.

Belongs here: which features of which entities, and for each value whether it is there. Not here: where rows are kept
(`online_rows.py`), their layout (`packed_rows.py`), and Feast's own way to the same rows (`online_store.py`).
"""

import difflib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

import pyarrow as pa

from resources.feature_store.entity_keys import EntityKeys, JoinKeyError
from resources.feature_store.online_rows import OnlineRows
from resources.feature_store.packed_rows import NEVER, Decode, arrow_type, moment_of
from resources.feature_store.served_view import ServedView

_PLANS_KEPT = 256


class UnknownFeatureError(ValueError):
    """A feature that no view serves, or two of the same name; the message names it."""


class Status(IntEnum):
    """What there is to say about one value; the numbers are Feast's."""

    PRESENT = 1
    NULL = 2
    NOT_FOUND = 3
    OUTSIDE_TTL = 4


@dataclass(frozen=True)
class _Part:
    """What is read of one view: its features in the order of the request, and what each is called in the answer."""

    view: ServedView
    labels: tuple[str, ...]
    keys: EntityKeys
    decode: Decode
    kinds: tuple[str, ...]
    nothing: tuple[None, ...]
    ttl: int | None


@dataclass(frozen=True)
class _Found:
    """The rows of one part: event times in microseconds, None where there is no row, and the oldest that is served."""

    part: _Part
    events: list[int | None]
    oldest: int


class OnlineFeatures:
    """An answer: `columns` holds the values of each feature, in the order of the entities; None where there is none."""

    def __init__(self, columns: dict[str, Sequence[Any]], found: Sequence[_Found]) -> None:
        self.columns = columns
        self._found = found

    def statuses(self) -> dict[str, list[Status]]:
        """For each feature and entity, whether the value is there, and why not."""
        statuses = {}
        for found in self._found:
            rows = [_status(event, found.oldest) for event in found.events]
            for label in found.part.labels:
                statuses[label] = [
                    Status.NULL if status is Status.PRESENT and value is None else status
                    for status, value in zip(rows, self.columns[label], strict=True)
                ]
        return {label: statuses[label] for label in self.columns}

    def event_times(self) -> dict[str, list[datetime | None]]:
        """For each feature and entity, when the stored value was true; also of one that is too old to be served."""
        times = {}
        for found in self._found:
            moments = [None if event is None else moment_of(event) for event in found.events]
            times.update(dict.fromkeys(found.part.labels, moments))
        return {label: times[label] for label in self.columns}

    def to_arrow(self) -> pa.Table:
        """The values as a table of the declared types."""
        kinds = {
            label: kind
            for found in self._found
            for label, kind in zip(found.part.labels, found.part.kinds, strict=True)
        }
        return pa.table({label: pa.array(values, arrow_type(kinds[label])) for label, values in self.columns.items()})


class OnlineReader:
    """Reads the features of `views` from `rows`; `now` gives the seconds since 1970 that ages are measured from."""

    def __init__(self, rows: OnlineRows, views: Iterable[ServedView], now: Callable[[], float] = time.time) -> None:
        self._rows = rows
        self._views = {view.name: view for view in views}
        self._now = now
        self._plans: dict[tuple[tuple[str, ...], bool], tuple[list[_Part], tuple[str, ...]]] = {}

    def read(
        self,
        features: Sequence[str],
        entities: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
        *,
        full_names: bool = False,
    ) -> OnlineFeatures:
        """The `features` ("view:feature") of `entities`: columns of join keys, or one mapping for each entity.

        An answer calls a feature by its name, or with `full_names` view__feature, as Feast does.

        Raises:
            UnknownFeatureError: nothing serves a feature, or two would be called the same.
            JoinKeyError: a join key is missing, null, or of another type than declared.
            OnlineStoreError: the store does not answer.
            RowError: a row cannot be read.
        """
        parts, order = self._plan(tuple(features), full_names)
        values, count = _by_column(entities)
        keys: list[bytes] = []
        for part in parts if count else ():
            keys += part.keys.of_values(values, count)
        rows = self._rows.read(keys)
        now = int(self._now() * 1e6)
        columns: dict[str, Sequence[Any]] = {}
        found = []
        for at, part in enumerate(parts):
            oldest = NEVER if part.ttl is None else now - part.ttl
            decode, nothing = part.decode, part.nothing
            events: list[int | None] = []
            records: list[Sequence[Any]] = []
            for row in rows[at * count : (at + 1) * count]:
                if row is None:
                    events.append(None)
                    records.append(nothing)
                else:
                    event, record = decode(row)
                    events.append(event)
                    records.append(record if event >= oldest else nothing)
            columns.update(
                zip(part.labels, zip(*records, strict=True) if records else [()] * len(nothing), strict=True)
            )
            found.append(_Found(part, events, oldest))
        return OnlineFeatures({label: columns[label] for label in order}, found)

    def _plan(self, features: tuple[str, ...], full_names: bool) -> tuple[list[_Part], tuple[str, ...]]:
        plan = self._plans.get((features, full_names))
        if plan is None:
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            plan = self._plans[features, full_names] = self._planned(features, full_names)
        return plan

    def _planned(self, features: tuple[str, ...], full_names: bool) -> tuple[list[_Part], tuple[str, ...]]:
        by_view: dict[str, list[str]] = {}
        order = []
        for feature in features:
            view, _, name = feature.partition(":")
            if view not in self._views or name not in self._views[view].features:
                raise self._unknown(feature)
            by_view.setdefault(view, []).append(name)
            order.append(f"{view}__{name}" if full_names else name)
        if len(set(order)) < len(order):
            twice = sorted({label for label in order if order.count(label) > 1})
            raise UnknownFeatureError(f"asked for twice: {', '.join(twice)}; full_names tells equal names apart")
        return [self._part(self._views[view], names, full_names) for view, names in by_view.items()], tuple(order)

    def _part(self, view: ServedView, names: Sequence[str], full_names: bool) -> _Part:
        return _Part(
            view,
            tuple(f"{view.name}__{name}" if full_names else name for name in names),
            view.keys,
            view.schema.decoder(names, self._rows.declaration),
            tuple(view.features[name] for name in names),
            (None,) * len(names),
            view.ttl // timedelta(microseconds=1) if view.ttl else None,
        )

    def _unknown(self, feature: str) -> UnknownFeatureError:
        served = [f"{view.name}:{name}" for view in self._views.values() for name in view.features]
        close = difflib.get_close_matches(feature, served, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return UnknownFeatureError(f"no view serves {feature!r}{hint}")


def _status(event: int | None, oldest: int) -> Status:
    if event is None:
        return Status.NOT_FOUND
    return Status.PRESENT if event >= oldest else Status.OUTSIDE_TTL


def _by_column(
    entities: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
) -> tuple[Mapping[str, Sequence[Any]], int]:
    if not isinstance(entities, Mapping):
        if any(entity.keys() != entities[0].keys() for entity in entities):
            raise JoinKeyError("the entities have different join keys")
        return {name: [entity[name] for entity in entities] for name in (entities[0] if entities else ())}, len(
            entities
        )
    lengths = {len(values) for values in entities.values()}
    if len(lengths) > 1:
        raise JoinKeyError("the join keys have different numbers of values")
    return entities, lengths.pop() if lengths else 0
