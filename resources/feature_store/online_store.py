"""The online store as Feast's plugin: Feast's own API reads and writes the same packed rows as `reader.py` does.

Belongs here: turning Feast's views and protocol-buffer values into columns and back. Not here: the rows' layout
(`packed_rows.py`) and where they are kept (`online_rows.py`). Only Feast imports this module.

    online_store:
      type: resources.feature_store.online_store.HeadwaterOnlineStore
      address: redis://127.0.0.1:6379/0
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal

import pyarrow as pa
from feast import Entity, FeatureView, Field, utils
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types import Value_pb2 as proto
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp

from resources.environment import Environment
from resources.feature_store.entity_keys import EntityKeys, JoinKeyError
from resources.feature_store.online_rows import OnlineRows, open_rows
from resources.feature_store.packed_rows import (
    NEVER,
    Decode,
    arrow_type,
    microseconds_of,
    moment_of,
)
from resources.feature_store.served_view import ServedView, row_schema, stored_as

_NAME = "resources.feature_store.online_store.HeadwaterOnlineStore"
_SECOND = 1_000_000
_NO_TIME = NEVER
"""What Feast writes for a timestamp that is not there."""

_COLUMN_TYPES: Mapping[ValueType, str] = {
    ValueType.INT32: "int64",
    ValueType.INT64: "int64",
    ValueType.DOUBLE: "float64",
    ValueType.FLOAT: "float32",
    ValueType.BOOL: "bool",
    ValueType.STRING: "string",
    ValueType.BYTES: "bytes",
    ValueType.UNIX_TIMESTAMP: "timestamp",
    ValueType.INT32_LIST: "list<int64>",
    ValueType.INT64_LIST: "list<int64>",
    ValueType.DOUBLE_LIST: "list<float64>",
    ValueType.FLOAT_LIST: "list<float32>",
    ValueType.BOOL_LIST: "list<bool>",
    ValueType.STRING_LIST: "list<string>",
    ValueType.BYTES_LIST: "list<bytes>",
    ValueType.UNIX_TIMESTAMP_LIST: "list<timestamp>",
}
"""Types of Feast that rows have too; a value of any other is kept as Feast's own bytes."""

_KEY_TYPES: Mapping[str, str] = {
    "int32_val": "int64",
    "int64_val": "int64",
    "string_val": "string",
    "bytes_val": "bytes",
    "unix_timestamp_val": "timestamp",
}

_NULL = proto.Value()
_NO_MOMENT = Timestamp()


@dataclass(frozen=True)
class _ReadPlan:
    """How rows of a view with these features are read: its bytes, and each value asked for into Feast's form."""

    features: list[Field]
    decode: Decode
    wrap: list[tuple[str, Callable[[Any], proto.Value]]]


class HeadwaterOnlineStoreConfig(FeastConfigBaseModel):
    """Where the rows are; without an address, where the process's environment has them."""

    type: Literal["resources.feature_store.online_store.HeadwaterOnlineStore"] = _NAME  # type: ignore[assignment]
    address: str | None = None
    """A SQLite file, or redis://user@host:port/number; the password is in REDISCLI_AUTH."""

    namespace: str | None = None
    """Keeps environments that share one Redis apart; the environment's name when there is no address."""

    now: datetime | None = None
    """The instant that ages are measured from; the clock's without it."""


class HeadwaterOnlineStore(OnlineStore):
    """Feast's online store over packed rows."""

    def __init__(self) -> None:
        self._opened: dict[tuple[str | None, str | None], OnlineRows] = {}
        self._plans: dict[tuple[OnlineRows, str, tuple[str, ...] | None], _ReadPlan] = {}

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKeyProto, dict[str, proto.Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows of one view; a row does not replace a newer one.

        Raises:
            OnlineStoreError: the store cannot be written.
            RowError: a value is not of the declared type.
        """
        if not data:
            return
        kinds = _kinds_of(table)
        columns = {
            name: pa.array(_plain([values.get(name, _NULL) for _, values, _, _ in data], kind), arrow_type(kind))
            for name, kind in kinds.items()
        }
        batch = pa.table(columns) if columns else pa.table({"": pa.nulls(len(data))})
        microseconds = pa.timestamp("us", tz="UTC")
        events = pa.array([microseconds_of(event) for _, _, event, _ in data], microseconds)
        created = pa.array([None if at is None else microseconds_of(at) for _, _, _, at in data], microseconds)
        schema = row_schema(kinds)
        self._rows(config).write(
            stored_as(config.project, table.name),
            schema,
            _keys_of(config, table, [_join_keys(key) for key, _, _, _ in data]),
            schema.pack(batch, events, created),
            ttl=table.ttl or None,
        )
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, proto.Value] | None]]:
        """For each key its event time and values; nothing where there is no row or it is older than the view's TTL.

        Raises:
            OnlineStoreError: the store does not answer.
            RowError: a row cannot be read.
        """
        rows = self._rows(config)
        found = rows.read(_keys_of(config, table, [_join_keys(key) for key in entity_keys]))
        oldest = _oldest_served(config, table)
        return [
            (None, None) if event is None or event < oldest else (moment_of(event), values)
            for event, values in self._decoded(rows, table, found, requested_features)
        ]

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: list[Any],
        join_key_values: dict[str, Any],
        entity_name_to_join_key_map: dict[str, str],
        online_features_response: Any,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """Read all views in one round trip, and say of a value that is too old that it is."""
        rows = self._rows(config)
        work, keys = [], []
        for table, requested in grouped_refs:
            entities, places, count = utils._get_unique_entities(table, join_key_values, entity_name_to_join_key_map)
            own = _keys_of(config, table, entities)
            work.append((table, requested, places, count, len(own)))
            keys += own
        found, at = rows.read(keys), 0
        for table, requested, places, count, size in work:
            self._answer(
                online_features_response,
                rows,
                table,
                requested,
                found[at : at + size],
                places,
                count,
                _oldest_served(config, table),
            )
            at += size
            called = table.projection.name_to_use()
            online_features_response.metadata.feature_names.val.extend(
                f"{called}__{name}" if full_feature_names else name for name in requested
            )
            if include_feature_view_version_metadata:
                _say_version(online_features_response, table)

    def _answer(
        self,
        response: GetOnlineFeaturesResponse,
        rows: OnlineRows,
        table: FeatureView,
        requested: Sequence[str],
        found: Sequence[bytes | None],
        places: Sequence[Sequence[int]],
        count: int,
        oldest: int,
    ) -> None:
        """Put the features of one view into the response: what `found` says at the `places` of each row.

        Feast's own way of doing so builds the status and the time of every value; all values of a row share theirs.
        """
        # Feast loads it, and all that it measures with, with the first answer.
        from feast.metrics import track_feature_statuses

        plan = self._plan(rows, table, tuple(requested))
        columns = [[_NULL] * count for _ in plan.wrap]
        shared = GetOnlineFeaturesResponse.FeatureVector()
        statuses, times = [FieldStatus.NOT_FOUND] * count, [_NO_MOMENT] * count
        present = 0
        for row, own in zip(found, places, strict=True):
            if row is None:
                continue
            event, values = plan.decode(row)
            moment = Timestamp()
            moment.FromMicroseconds(event)
            fresh = event >= oldest
            for place in own:
                times[place] = moment
                statuses[place] = FieldStatus.PRESENT if fresh else FieldStatus.OUTSIDE_MAX_AGE
            if fresh:
                present += len(own)
                for column, (_, put), value in zip(columns, plan.wrap, values, strict=True):
                    if value is not None:
                        wrapped = put(value)
                        for place in own:
                            column[place] = wrapped
        shared.statuses.extend(statuses)
        shared.event_timestamps.extend(times)
        for column in columns:
            vector = response.results.add()
            vector.CopyFrom(shared)
            vector.values.extend(column)
        track_feature_statuses(table.name, present * len(columns), (count - present) * len(columns))

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Make the store ready for the views that stay, and delete the rows of the others."""
        rows = self._rows(config)
        rows.prepare()
        for table in tables_to_delete:
            rows.delete(stored_as(config.project, table.name))

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Delete the rows of `tables`; others may share the database."""
        self.update(config, tables, [], entities, [], partial=False)

    def _rows(self, config: RepoConfig) -> OnlineRows:
        settings: HeadwaterOnlineStoreConfig = config.online_store
        place = settings.address, settings.namespace
        if place not in self._opened:
            if settings.address is None:
                environment = Environment.current()
                address, namespace = environment.online_store, settings.namespace or f"headwater:{environment.name}"
            else:
                address, namespace = settings.address, settings.namespace or "headwater"
            self._opened[place] = open_rows(address, namespace)
        return self._opened[place]

    def _decoded(
        self, rows: OnlineRows, table: FeatureView, found: Sequence[bytes | None], requested: Sequence[str] | None
    ) -> list[tuple[int | None, dict[str, proto.Value] | None]]:
        plan = self._plan(rows, table, None if requested is None else tuple(requested))
        answer: list[tuple[int | None, dict[str, proto.Value] | None]] = []
        for row in found:
            if row is None:
                answer.append((None, None))
                continue
            event, values = plan.decode(row)
            answer.append(
                (
                    event,
                    {
                        name: _NULL if value is None else put(value)
                        for (name, put), value in zip(plan.wrap, values, strict=True)
                    },
                )
            )
        return answer

    def _plan(self, rows: OnlineRows, table: FeatureView, requested: tuple[str, ...] | None) -> "_ReadPlan":
        """How rows of the view are read; made once, for making it takes longer than reading one row."""
        plan = self._plans.get((rows, table.name, requested))
        # Feast hands out the same fields again and again, and others when the view was declared anew.
        if plan is None or plan.features != table.features:
            kinds = _kinds_of(table)
            names = [*kinds] if requested is None else [name for name in requested if name in kinds]
            types = {field.name: field.dtype.to_value_type() for field in table.features}
            plan = self._plans[rows, table.name, requested] = _ReadPlan(
                list(table.features),
                row_schema(kinds).decoder(tuple(names), rows.declaration),
                [(name, _wrapper(types[name])) for name in names],
            )
        return plan


def served_view(view: FeatureView, project: str) -> ServedView:
    """The view as `OnlineReader` and `online_writer` know it.

    Raises:
        ValueError: a join key of a type that a key cannot have.
    """
    join_keys = {}
    for column in view.entity_columns:
        if column.name == DUMMY_ENTITY_ID:
            continue
        attribute = f"{column.dtype.to_value_type().name.lower()}_val"
        if attribute not in _KEY_TYPES:
            raise ValueError(f"join key {column.name!r} of view {view.name!r} is {column.dtype}, which is no key type")
        join_keys[column.name] = _KEY_TYPES[attribute]
    return ServedView(view.name, join_keys, _kinds_of(view), view.ttl or None, project=project)


def _kinds_of(table: FeatureView) -> dict[str, str]:
    return {field.name: _COLUMN_TYPES.get(field.dtype.to_value_type(), "opaque") for field in table.features}


def _oldest_served(config: RepoConfig, table: FeatureView) -> int:
    """The earliest event time that the view's TTL lets through."""
    if not table.ttl:
        return NEVER
    now = config.online_store.now
    instant = int(time.time() * _SECOND) if now is None else microseconds_of(now)
    return instant - table.ttl // timedelta(microseconds=1)


def _say_version(response: GetOnlineFeaturesResponse, table: FeatureView) -> None:
    said = response.metadata.feature_view_metadata
    name = table.projection.name_alias or table.projection.name
    if all(one.name != name for one in said):
        said.add(name=name, version=table.current_version_number or 0)


def _join_keys(key: EntityKeyProto) -> dict[str, proto.Value]:
    return dict(zip(key.join_keys, key.entity_values, strict=True))


def _keys_of(config: RepoConfig, table: FeatureView, keys: Sequence[Mapping[str, proto.Value]]) -> list[bytes]:
    """The keys as `OnlineReader` encodes them."""
    if not keys:
        return []
    kinds: dict[str, str] = {}
    columns: dict[str, list[Any]] = {name: [] for name in keys[0] if name != DUMMY_ENTITY_ID}
    for key in keys:
        for name, value in key.items():
            if name == DUMMY_ENTITY_ID:
                continue
            attribute = value.WhichOneof("val")
            if attribute is None or attribute not in _KEY_TYPES or name not in columns:
                raise JoinKeyError(f"join key {name!r} of view {table.name!r} is {attribute or 'null'}")
            plain = getattr(value, attribute)
            kinds[name] = _KEY_TYPES[attribute]
            columns[name].append(moment_of(plain * _SECOND) if attribute == "unix_timestamp_val" else plain)
    return _encoder(stored_as(config.project, table.name), tuple(kinds.items())).of_values(columns, len(keys))


@cache
def _encoder(view: str, join_keys: tuple[tuple[str, str], ...]) -> EntityKeys:
    return EntityKeys(view, dict(join_keys))


def _plain(values: Sequence[proto.Value], kind: str) -> list[Any]:
    """The values of one column as Arrow takes them."""
    if kind == "opaque":
        return [value.SerializeToString() if value.WhichOneof("val") else None for value in values]
    found: list[Any] = []
    for value in values:
        attribute = value.WhichOneof("val")
        if attribute is None or attribute == "null_val":
            found.append(None)
        elif kind.startswith("list<"):
            elements = getattr(value, attribute).val
            found.append([_in_microseconds(at) for at in elements] if kind == "list<timestamp>" else list(elements))
        else:
            plain = getattr(value, attribute)
            found.append(_in_microseconds(plain) if kind == "timestamp" else plain)
    return found


def _in_microseconds(seconds: int) -> int | None:
    return None if seconds == _NO_TIME else seconds * _SECOND


def _in_seconds(moment: datetime | None) -> int:
    return _NO_TIME if moment is None else microseconds_of(moment) // _SECOND


@cache
def _wrapper(kind: ValueType) -> Callable[[Any], proto.Value]:
    """From a value to Feast's form of it."""
    if kind not in _COLUMN_TYPES:
        return lambda value: proto.Value.FromString(value)
    attribute = f"{kind.name.lower()}_val"
    if kind is ValueType.UNIX_TIMESTAMP:
        return lambda value: proto.Value(unix_timestamp_val=_in_seconds(value))
    if kind is ValueType.UNIX_TIMESTAMP_LIST:
        return lambda value: proto.Value(unix_timestamp_list_val=proto.Int64List(val=[_in_seconds(at) for at in value]))
    if kind.name.endswith("_LIST"):
        listed = type(getattr(proto.Value(), attribute))
        return lambda value: proto.Value(**{attribute: listed(val=value)})
    return lambda value: proto.Value(**{attribute: value})
