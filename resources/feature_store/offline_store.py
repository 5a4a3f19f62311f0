"""Feast's offline store on the lake: training sets as of each row's time, and what materialization reads.

Belongs here: translating Feast's views and requests into joins of point_in_time.py, running them, handing out or
storing the answer. Not here: what a join means, and writing feature tables (the assets of those names do).
"""
# Feast loads this module by name: there is nothing in it without Feast.

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.utils import (
    _get_requested_feature_views_to_features_dict,
    _get_requested_on_demand_feature_views,
    compute_non_entity_date_range,
)
from pydantic import Field, model_validator

from resources.environment import Environment
from resources.feature_store.lake_source import (
    LakeSource,
    SavedDatasetLakeStorage,
    duckdb_type_of,
    holds,
    value_type_of,
)
from resources.feature_store.point_in_time import (
    EntityRows,
    Feature,
    FeatureError,
    View,
    check_columns,
    columns_of,
    entity_rows,
    instant,
    instant_literal,
    point_in_time_sql,
    quoted,
    within,
)
from resources.warehouse import Commit, Warehouse

EntityData: TypeAlias = pd.DataFrame | pa.Table | str
"""Entity rows: a data frame, an Arrow table, or one SELECT over the lake (attached as `lake`)."""

_BATCH_ROWS = 100_000


class LakeOfflineStoreConfig(FeastConfigBaseModel):
    """What `offline_store` in feature_store.yaml may say; by default the process's own environment is read."""

    type: str = "resources.feature_store.offline_store.LakeOfflineStore"
    catalog: str | None = Field(None, description="The lake's catalog, as in Warehouse; with data and extensions.")
    data: str | None = Field(None, description="Folder or URL of the lake's Parquet files.")
    extensions: str | None = Field(None, description="Folder where DuckDB's extensions are unpacked.")
    threads: int | None = Field(None, description="DuckDB threads; by default the environment's.")
    memory: str | None = Field(None, description="DuckDB memory limit; what exceeds it goes to `spill`.")
    spill: str | None = Field(None, description="Folder for what does not fit into memory; default: the system's.")
    snapshot: int | None = Field(None, description="Read the lake as it was then; by default as it is.")
    allow_future_entity_rows: bool = Field(False, description="Answer entity rows that are later than now.")

    @model_validator(mode="after")
    def _whole_place(self) -> "LakeOfflineStoreConfig":
        place = {"catalog": self.catalog, "data": self.data, "extensions": self.extensions}
        missing = [name for name, value in place.items() if value is None]
        if 0 < len(missing) < len(place):
            raise ValueError(f"offline_store: say {', '.join(missing)} too, or leave catalog, data and extensions out")
        return self

    def warehouse(self) -> Warehouse:
        """The lake that these settings name."""
        if self.catalog is None or self.data is None or self.extensions is None:
            lake = Warehouse.of(Environment.current())
        else:
            lake = Warehouse(catalog=self.catalog, data=self.data, extensions=self.extensions)
        return lake.model_copy(update={"threads": self.threads or lake.threads, "memory": self.memory or lake.memory})

    @contextmanager
    def reader(self, timeout: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to the lake that may spill, and that is interrupted after `timeout` seconds."""
        with (
            tempfile.TemporaryDirectory(prefix="features-", dir=self.spill) as spill,
            self.warehouse().reader(self.snapshot) as lake,
        ):
            lake.execute(f"set temp_directory = {_literal(spill)}")
            clock = threading.Timer(timeout, lake.interrupt) if timeout else None
            if clock:
                clock.start()
            try:
                yield lake
            finally:
                if clock:
                    clock.cancel()


@dataclass(frozen=True)
class Planned:
    """A query that is ready to run on the connection it was planned on."""

    sql: str
    entity: EntityRows | None = None


Plan: TypeAlias = Callable[[duckdb.DuckDBPyConnection], Planned]


class LakeRetrievalJob(RetrievalJob):
    """A query over the lake that runs when its answer is asked for, each time anew."""

    def __init__(
        self,
        settings: LakeOfflineStoreConfig,
        plan: Plan,
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        features: Sequence[str] | None = None,
        entity_sql: str | None = None,
        in_memory: bool = False,
    ) -> None:
        """A job that has not run.

        Args:
            settings: where the lake is.
            plan: makes the query on a connection to the lake.
            full_feature_names: whether columns are called view__feature.
            on_demand_feature_views: what Feast computes from the answer.
            features: the references asked for; None where the answer is no training set.
            entity_sql: the SELECT of the entity rows, if that is how they came.
            in_memory: whether the entity rows came as data.
        """
        self._settings = settings
        self._plan = plan
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._features = features
        self._entity_sql = entity_sql
        self._in_memory = in_memory
        self._entity: EntityRows | None = None

    @property
    def full_feature_names(self) -> bool:
        """Whether columns are called view__feature."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """What Feast computes from the answer."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked, and the range of the entity rows' times; None for what materialization reads."""
        if self._features is None:
            return None
        if self._entity is None:
            with self._settings.reader() as lake:
                self._planned(lake)
        assert self._entity is not None
        return RetrievalMetadata(
            features=list(self._features),
            keys=[name for name in self._entity.columns if name != self._entity.timestamp],
            min_event_timestamp=self._entity.first,
            max_event_timestamp=self._entity.last,
        )

    def to_sql(self) -> str:
        """The query, on a connection with the lake attached as `lake`.

        Raises:
            FeatureError: the entity rows are in memory, where SQL cannot name them.
        """
        if self._in_memory:
            raise FeatureError("the entity rows are in memory; give them as SQL to get the query that joins them")
        with self._settings.reader() as lake:
            planned = self._planned(lake)
        if self._entity_sql is None or planned.entity is None:
            return planned.sql
        return f"create temp table {planned.entity.relation} as {self._entity_sql};\n{planned.sql}"

    def to_parquet(self, path: str | Path, timeout: int | None = None) -> int:
        """Write the answer to the file `path` without holding it, and return its number of rows.

        The file appears when it is whole. What on-demand views compute is computed batch by batch.

        Args:
            path: of the file; its folder exists.
            timeout: seconds after which the query is given up.
        """
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with self._settings.reader(timeout) as lake:
                sql = self._planned(lake).sql
                rows = (
                    self._transformed(lake, sql, partial)
                    if self._on_demand_feature_views
                    else _copied(lake, sql, partial)
                )
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return rows

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Store the answer as a table of the lake.

        Raises:
            FeatureError: `storage` is no table of the lake.
            SavedDatasetLocationAlreadyExists: the table exists, and `allow_overwrite` is not set.
        """
        if not isinstance(storage, SavedDatasetLakeStorage):
            raise FeatureError(
                f"{type(storage).__name__} is not of this store; use SavedDatasetLakeStorage('team/entity'), or write "
                "a file with to_parquet(path)"
            )
        warehouse = self._settings.warehouse()
        if not allow_overwrite and storage.table in warehouse.tables():
            raise SavedDatasetLocationAlreadyExists(location=str(storage.table))
        if self._on_demand_feature_views:
            data: Any = self.to_arrow(timeout=timeout)
        else:
            data = lambda lake: lake.sql(self._planned(lake).sql)  # noqa: E731
        warehouse.replace_partitions(storage.table, None, data, Commit("feast", str(storage.table)))

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with self._settings.reader(timeout) as lake:
            return lake.execute(self._planned(lake).sql).to_arrow_table()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    def _planned(self, lake: duckdb.DuckDBPyConnection) -> Planned:
        planned = self._plan(lake)
        self._entity = planned.entity
        return planned

    def _transformed(self, lake: duckdb.DuckDBPyConnection, sql: str, path: Path) -> int:
        rows, writer = 0, None
        try:
            for batch in lake.execute(sql).to_arrow_reader(_BATCH_ROWS):
                table = _Answered(self, pa.Table.from_batches([batch])).to_arrow()
                writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
                writer.write_table(table)
                rows += table.num_rows
            if writer is None:
                pq.write_table(self.to_arrow(), path, compression="zstd")
        finally:
            if writer is not None:
                writer.close()
        return rows


class _Answered(RetrievalJob):
    """A part of another job's answer, of which Feast computes the on-demand views."""

    def __init__(self, job: LakeRetrievalJob, part: pa.Table) -> None:
        self._job = job
        self._part = part

    @property
    def full_feature_names(self) -> bool:
        return self._job.full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._job.on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._job.metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._part


class LakeOfflineStore(OfflineStore):
    """Reads features from tables of the lake, each a LakeSource; writes none."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: EntityData | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> LakeRetrievalJob:
        """The entity rows with the features of `feature_refs` as of each row's time (see point_in_time.py).

        Without entity rows there is one for each key that has a row of any of the views between `start_date` and
        `end_date`, and its features are as of `end_date`; the views share their keys then.

        Raises:
            FeatureError: a view or feature is unknown, or cannot be read as it is declared.
        """
        requested, _ = _get_requested_feature_views_to_features_dict(
            feature_refs,
            feature_views,
            _get_requested_on_demand_feature_views(feature_refs, config.project, registry),
        )
        settings = _settings(config)
        wanted = {view: list(dict.fromkeys(features)) for view, features in requested.items()}
        joined = [_view(view, features, full_feature_names) for view, features in wanted.items()]
        period = None if entity_df is not None else compute_non_entity_date_range(feature_views, start_date, end_date)
        if isinstance(entity_df, str):
            _refuse_other_than_select(entity_df)

        def plan(lake: duckdb.DuckDBPyConnection) -> Planned:
            views = [_checked(view, asked, lake) for view, asked in zip(wanted, joined, strict=True)]
            if period is not None:
                rows, not_after = lake.sql(_keys_sql(views, lake, *period)), None
            else:
                rows = _relation(lake, entity_df)
                not_after = None if settings.allow_future_entity_rows else datetime.now(UTC)
            entity = entity_rows(lake, rows, not_after=not_after)
            return Planned(point_in_time_sql(lake, entity, views, filter_by_created_timestamp), entity)

        return LakeRetrievalJob(
            settings,
            plan,
            full_feature_names,
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            feature_refs,
            entity_sql=entity_df if isinstance(entity_df, str) else None,
            in_memory=entity_df is not None and not isinstance(entity_df, str),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> LakeRetrievalJob:
        """The newest row of each key between the dates, both included; rows without a key or a time are left out."""
        return _pull(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column,
            (start_date, end_date),
            latest=True,
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> LakeRetrievalJob:
        """Every row between the dates, both included; rows without a time are left out."""
        return _pull(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column,
            (start_date, end_date),
            latest=False,
        )

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> NoReturn:
        """Refuse: a table of the lake has one writer, its asset."""
        source = _source(feature_view)
        asset = "/".join((source.table.schema, source.table.name))
        raise FeatureError(
            f"view {feature_view.name!r}: {source.table} is written by the asset {asset} alone; deliver the rows to "
            f"what it reads, and materialize it"
        )

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> NoReturn:
        """Refuse: a table of the lake has one writer, its asset."""
        raise FeatureError(
            "served features are not logged to the lake, whose tables assets alone write; leave logging_config out of "
            "the feature service, and let an asset read the server's log"
        )


def _settings(config: RepoConfig) -> LakeOfflineStoreConfig:
    settings = config.offline_store
    assert isinstance(settings, LakeOfflineStoreConfig)
    return settings


def _source(view: FeatureView) -> LakeSource:
    if not isinstance(view.batch_source, LakeSource):
        kind = type(view.batch_source).__name__
        raise FeatureError(f"view {view.name!r} reads a {kind}; give it a LakeSource, or another offline store")
    return view.batch_source


def _view(view: FeatureView, features: Sequence[str], full_feature_names: bool) -> View:
    """Feast's `view`, narrowed to `features`, as a side of the join."""
    source = _source(view)
    stored = {new: old for old, new in source.field_mapping.items()}
    declared = {field.name: field.dtype.to_value_type() for field in view.features}
    unknown = [feature for feature in features if feature not in declared]
    if unknown:
        raise FeatureError(
            f"view {view.name!r} has no feature {', '.join(map(repr, unknown))}; it has {', '.join(declared)}"
        )
    prefix = f"{view.projection.name_alias or view.name}__" if full_feature_names else ""
    keys = [field.name for field in view.entity_columns if field.name != DUMMY_ENTITY_ID]
    created = source.created_timestamp_column
    return View(
        name=view.name,
        table=source.relation,
        called=str(source.table),
        keys={view.projection.join_key_map.get(key, key): stored.get(key, key) for key in keys},
        timestamp=stored.get(source.timestamp_field, source.timestamp_field),
        created=stored.get(created, created) or None,
        ttl=view.ttl,
        features=[
            Feature(stored.get(name, name), f"{prefix}{name}", duckdb_type_of(declared[name])) for name in features
        ],
    )


def _checked(view: FeatureView, asked: View, lake: duckdb.DuckDBPyConnection) -> View:
    """`asked`, after a look at what its table really has.

    Raises:
        FeatureError: a column is missing or has a type that its declaration does not hold.
    """
    source = _source(view)
    types = source.columns(lake)
    check_columns(view.name, str(source.table), [feature.column for feature in asked.features], types)
    declared = {field.name: field.dtype.to_value_type() for field in view.features}
    stored = {new: old for old, new in source.field_mapping.items()}
    for name, value_type in declared.items():
        column = stored.get(name, name)
        if any(feature.column == column for feature in asked.features) and not holds(
            value_type, value_type_of(types[column])
        ):
            raise FeatureError(
                f"view {view.name!r}: {column!r} of {source.table} is {types[column]}, but declared {value_type.name}; "
                "correct the declaration, or cast the column in its model"
            )
    return asked


def _relation(lake: duckdb.DuckDBPyConnection, entity_df: EntityData | None) -> duckdb.DuckDBPyRelation:
    if isinstance(entity_df, str):
        return lake.sql(entity_df)
    if isinstance(entity_df, pd.DataFrame):
        return lake.from_arrow(pa.Table.from_pandas(entity_df, preserve_index=False))
    if isinstance(entity_df, pa.Table):
        return lake.from_arrow(entity_df)
    raise FeatureError(f"entity rows: a {type(entity_df).__name__}; give a data frame, an Arrow table, or a SELECT")


def _refuse_other_than_select(sql: str) -> None:
    statements = duckdb.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise FeatureError("entity rows: the SQL is not one SELECT statement")


def _keys_sql(views: Sequence[View], lake: duckdb.DuckDBPyConnection, start: datetime, end: datetime) -> str:
    """One entity row at `end` for each key that has a row of any of `views` between `start` and `end`."""
    names = list(views[0].keys)
    other = next((view for view in views if set(view.keys) != set(names)), None)
    if other is not None:
        raise FeatureError(
            f"views {views[0].name!r} and {other.name!r} have different keys ({', '.join(names) or 'none'}; "
            f"{', '.join(other.keys) or 'none'}): say for which entity rows they are wanted"
        )
    time = f"{instant_literal(end)} as event_timestamp"
    if not names:
        return f"select {time}"
    parts = []
    for view in views:
        kind = columns_of(lake, view.relation)[view.timestamp]
        chosen = ", ".join(f"{quoted(view.keys[name])} as {quoted(name)}" for name in names)
        there = " and ".join(f"{quoted(view.keys[name])} is not null" for name in names)
        parts.append(
            f"select {chosen} from {view.relation} where {within(quoted(view.timestamp), kind, start, end)} and {there}"
        )
    return f"select distinct *, {time} from ({' union all '.join(parts)}) order by all"


def _pull(
    config: RepoConfig,
    data_source: DataSource,
    keys: list[str],
    features: list[str],
    timestamp: str,
    created: str | None,
    period: tuple[datetime | None, datetime | None],
    latest: bool,
) -> LakeRetrievalJob:
    if not isinstance(data_source, LakeSource):
        raise FeatureError(f"{data_source.name!r} is a {type(data_source).__name__}; this store reads LakeSources")
    source = data_source

    def plan(lake: duckdb.DuckDBPyConnection) -> Planned:
        types = source.columns(lake)
        times = [timestamp, *([created] if created else [])]
        # Feast asks for every column by naming none.
        asked = features or [column for column in types if column not in {*keys, *times}]
        check_columns(source.name, str(source.table), [*keys, *asked, *times], types)
        values = list(dict.fromkeys(name for name in [*keys, *asked] if name not in times))
        chosen = [f"{quoted(name)}::{duckdb_type_of(value_type_of(types[name]))} as {quoted(name)}" for name in values]
        chosen += [f"{instant(quoted(name), types[name])} as {quoted(name)}" for name in times]
        if not keys:
            chosen.append(f"{_literal(DUMMY_ENTITY_VAL)} as {quoted(DUMMY_ENTITY_ID)}")
        where = [within(quoted(timestamp), types[timestamp], *period)]
        newest = ""
        if latest:
            where += [f"{quoted(key)} is not null" for key in keys]
            order = [timestamp, *([created] if created else []), *(name for name in values if name not in keys)]
            of = f"partition by {', '.join(map(quoted, keys))} " if keys else ""
            by = ", ".join(f"{quoted(name)} desc nulls last" for name in order)
            newest = f" qualify row_number() over ({of}order by {by}) = 1"
        return Planned(
            f"select {', '.join(chosen)} from {source.get_table_query_string()} where {' and '.join(where)}{newest}"
        )

    return LakeRetrievalJob(_settings(config), plan)


def _copied(lake: duckdb.DuckDBPyConnection, sql: str, path: Path) -> int:
    found = lake.execute(f"copy ({sql}) to {_literal(str(path))} (format parquet, compression zstd)").fetchone()
    assert found is not None
    return int(found[0])


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
