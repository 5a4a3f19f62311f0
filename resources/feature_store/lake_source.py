"""A table of the lake as Feast's data source, and as the place of a saved dataset.

Belongs here: the table's name, the columns that are computed from it, its registry round trip, how its column types
map to Feast's. Not here: reading features from it (offline_store.py).
"""
# Feast loads this module by name: there is nothing in it without Feast.

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import duckdb
from feast.data_source import DataSource
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.protos.feast.core.SavedDataset_pb2 import SavedDatasetStorage as SavedDatasetStorageProto
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.value_type import ValueType

from resources.feature_store.point_in_time import FeatureError, check_columns, columns_of, is_time, with_computed
from resources.warehouse import TableName, Warehouse

_TIMESTAMPTZ = "TIMESTAMP WITH TIME ZONE"

DUCKDB_TYPES: dict[ValueType, str] = {
    ValueType.BOOL: "BOOLEAN",
    ValueType.INT32: "INTEGER",
    ValueType.INT64: "BIGINT",
    ValueType.FLOAT: "FLOAT",
    ValueType.DOUBLE: "DOUBLE",
    ValueType.STRING: "VARCHAR",
    ValueType.BYTES: "BLOB",
    ValueType.UNIX_TIMESTAMP: _TIMESTAMPTZ,
}
"""The DuckDB type in which features of each of Feast's scalar types leave the store."""

# What is wider than Feast's widest is narrowed when read; a number that does not fit is an error then.
_SCALARS: dict[str, ValueType] = {
    "BOOLEAN": ValueType.BOOL,
    **dict.fromkeys(["TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT"], ValueType.INT32),
    **dict.fromkeys(["BIGINT", "UINTEGER", "UBIGINT", "HUGEINT", "UHUGEINT"], ValueType.INT64),
    "FLOAT": ValueType.FLOAT,
    "DOUBLE": ValueType.DOUBLE,
    "DECIMAL": ValueType.DOUBLE,
    **dict.fromkeys(["VARCHAR", "UUID", "ENUM"], ValueType.STRING),
    "BLOB": ValueType.BYTES,
    **dict.fromkeys(
        ["DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", _TIMESTAMPTZ], ValueType.UNIX_TIMESTAMP
    ),
}
_WIDER: dict[ValueType, tuple[ValueType, ...]] = {
    ValueType.INT32: (ValueType.INT64, ValueType.DOUBLE),
    ValueType.FLOAT: (ValueType.DOUBLE,),
}
_LIST = re.compile(r"(.*)\[\d*\]", re.DOTALL)


@runtime_checkable
class ReadsLake(Protocol):
    """An offline store's settings that say which lake it reads."""

    def warehouse(self) -> Warehouse:
        """The lake."""


class LakeSource(DataSource):
    """A table of the lake: the asset `team/entity` writes it, feature views read it."""

    def __init__(
        self,
        *,
        table: str,
        name: str | None = None,
        computed: Mapping[str, str] | None = None,
        computed_from: str | None = None,
        timestamp_field: str | None = None,
        created_timestamp_column: str | None = None,
        field_mapping: dict[str, str] | None = None,
        description: str = "",
        tags: dict[str, str] | None = None,
        owner: str = "",
    ) -> None:
        """A source over `table`.

        Args:
            table: `team/entity`, or `schema.table`, which is the same table.
            name: unique in the project; by default `team/entity`.
            computed: further columns by name, each as SQL over the table's own. It is run as it is: code declares it.
            computed_from: the only column that they depend on, if there is one, and of which null makes them null; they
                are computed once for each of its values then.
            timestamp_field: the column with the event time.
            created_timestamp_column: the column with the time at which the row was written, if there is one.
            field_mapping: the table's column -> the name that feature views use.
            description: for people.
            tags: anything.
            owner: for people.

        Raises:
            FeatureError: `table` is no such name.
        """
        self.table = table_name(table)
        self.computed = dict(computed or {})
        self.computed_from = computed_from
        super().__init__(
            name=name or f"{self.table.schema}/{self.table.name}",
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            field_mapping=field_mapping,
            description=description,
            tags=tags,
            owner=owner,
        )

    def __hash__(self) -> int:
        return hash((self.name, self.timestamp_field, self.table))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LakeSource) and self._same_columns(other) and self._same_settings(other)

    def _same_columns(self, other: "LakeSource") -> bool:
        ours, theirs = ((one.table, one.computed, one.computed_from) for one in (self, other))
        return ours == theirs

    def _same_settings(self, other: "LakeSource") -> bool:
        return bool(DataSource.__eq__(self, other))  # type: ignore[no-untyped-call] # Feast leaves it unannotated

    def source_type(self) -> Any:
        """Feast's name for a source that is not its own."""
        return DataSourceProto.CUSTOM_SOURCE

    @staticmethod
    def from_proto(data_source: DataSourceProto) -> "LakeSource":
        """The source that `to_proto` wrote to the registry."""
        return LakeSource(
            **json.loads(data_source.custom_options.configuration),
            name=data_source.name,
            timestamp_field=data_source.timestamp_field,
            created_timestamp_column=data_source.created_timestamp_column,
            field_mapping=dict(data_source.field_mapping),
            description=data_source.description,
            tags=dict(data_source.tags),
            owner=data_source.owner,
        )

    def _to_proto_impl(self) -> DataSourceProto:
        return DataSourceProto(
            name=self.name,
            type=DataSourceProto.CUSTOM_SOURCE,
            data_source_class_type=f"{LakeSource.__module__}.{LakeSource.__qualname__}",
            custom_options=_options(self.table, self.computed, self.computed_from),
            timestamp_field=self.timestamp_field,
            created_timestamp_column=self.created_timestamp_column,
            field_mapping=self.field_mapping,
            description=self.description,
            tags=self.tags,
            owner=self.owner,
        )

    def validate(self, config: RepoConfig) -> None:
        """Look at the table.

        Raises:
            FeatureError: it is not there, or a column of times is missing or has none.
        """
        columns = dict(self.get_table_column_names_and_types(config))
        times = [column for column in (self.timestamp_field, self.created_timestamp_column) if column]
        stored = {new: old for old, new in self.field_mapping.items()}
        wanted = [stored.get(column, column) for column in times]
        check_columns(self.name, str(self.table), [*wanted, *self.field_mapping], columns)
        for column in wanted:
            if not is_time(columns[column]):
                raise FeatureError(f"{self.table}: {column!r} is {columns[column]}, not a time")

    @staticmethod
    def source_datatype_to_feast_value_type() -> Callable[[str], ValueType]:
        """How DuckDB's types map to Feast's."""
        return value_type_of

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:
        """The table's columns and their DuckDB types."""
        with lake_of(config).reader() as lake:
            return list(self.columns(lake).items())

    def columns(self, lake: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """The same on a connection that is already open."""
        if self.computed:
            # First without them, so that a table that is not there is named as such.
            columns_of(lake, self.table.sql)
        return columns_of(lake, self.relation)

    @property
    def relation(self) -> str:
        """What stands behind `from`: the table, with what is computed from it."""
        if not self.computed:
            return self.table.sql
        return with_computed(self.table.sql, self.computed, self.computed_from)

    def get_table_query_string(self) -> str:
        """The same, as Feast calls it."""
        return self.relation


class SavedDatasetLakeStorage(SavedDatasetStorage):
    """A saved dataset that is a table of the lake."""

    _proto_attr_name = "custom_storage"

    def __init__(self, table: str) -> None:
        self.table = table_name(table)

    @staticmethod
    def from_proto(storage_proto: SavedDatasetStorageProto) -> "SavedDatasetLakeStorage":
        """The storage that `to_proto` wrote to the registry."""
        return SavedDatasetLakeStorage(json.loads(storage_proto.custom_storage.configuration)["table"])

    def to_proto(self) -> SavedDatasetStorageProto:
        """What the registry keeps."""
        return self._custom_storage_proto(_options(self.table))

    def to_data_source(self) -> LakeSource:
        """The dataset as something to read."""
        return LakeSource(table=f"{self.table.schema}/{self.table.name}")


def table_name(text: str) -> TableName:
    """The table that `team/entity` or `schema.table` names.

    Raises:
        FeatureError: `text` is neither.
    """
    parts = text.split("/") if "/" in text else text.split(".")
    if len(parts) != 2 or not all(parts):
        raise FeatureError(f"{text!r} names no table of the lake; write team/entity")
    return TableName(*parts)


def value_type_of(kind: str) -> ValueType:
    """Feast's type for a column of DuckDB type `kind`.

    Raises:
        FeatureError: Feast has none, or none that this store carries.
    """
    inner = _LIST.fullmatch(kind)
    element = inner.group(1) if inner else kind
    found = _SCALARS.get(element.partition("(")[0])
    if found is None:
        raise FeatureError(f"a column of type {kind} cannot be a feature; cast it in its model")
    return ValueType[f"{found.name}_LIST"] if inner else found


def duckdb_type_of(value_type: ValueType) -> str:
    """The DuckDB type in which features of Feast's `value_type` leave the store.

    Raises:
        FeatureError: this store does not carry the type.
    """
    element = ValueType[value_type.name.removesuffix("_LIST")]
    if element not in DUCKDB_TYPES:
        raise FeatureError(f"features of type {value_type.name} are not carried by this store")
    return DUCKDB_TYPES[element] + ("[]" if value_type.name.endswith("_LIST") else "")


def holds(declared: ValueType, stored: ValueType) -> bool:
    """Whether every value of `stored` is one of `declared`."""
    if declared.name.endswith("_LIST") and stored.name.endswith("_LIST"):
        declared, stored = (ValueType[kind.name.removesuffix("_LIST")] for kind in (declared, stored))
    return declared == stored or declared in _WIDER.get(stored, ())


def lake_of(config: RepoConfig) -> Warehouse:
    """The lake that the project's offline store reads.

    Raises:
        FeatureError: the project has another offline store.
    """
    settings = config.offline_store
    if not isinstance(settings, ReadsLake):
        raise FeatureError(
            f"the project's offline store is {type(settings).__name__}, which cannot read a table of the lake; "
            "set its type to resources.feature_store.offline_store.LakeOfflineStore"
        )
    return settings.warehouse()


def _options(
    table: TableName, computed: Mapping[str, str] | None = None, computed_from: str | None = None
) -> DataSourceProto.CustomSourceOptions:
    said = {"table": f"{table.schema}/{table.name}", "computed": computed, "computed_from": computed_from}
    written = json.dumps({name: value for name, value in said.items() if value})
    return DataSourceProto.CustomSourceOptions(configuration=written.encode())
