"""A table of the lake is a data source that the registry gives back as it was."""
# What is tested is a plugin of Feast.

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from duckdb.sqltypes import DATE
from feast import Entity, FeatureStore, FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.saved_dataset import SavedDatasetStorage
from feast.value_type import ValueType

from resources.feature_store.lake_source import (
    LakeSource,
    SavedDatasetLakeStorage,
    duckdb_type_of,
    holds,
    table_name,
    value_type_of,
)
from resources.feature_store.point_in_time import FeatureError
from resources.warehouse import Commit, TableName, Warehouse

TABLE = pa.table(
    {
        "household_id": [1],
        "as_of": pa.array([0], pa.timestamp("us", "UTC")),
        "spent_usd": [1.5],
        "basket": pa.array([["milk"]], pa.list_(pa.string())),
    }
)


def a_source(**changes: Any) -> LakeSource:
    settings: dict[str, Any] = {
        "table": "commerce/spend",
        "name": "spend",
        "timestamp_field": "as_of",
        "created_timestamp_column": "written_at",
        "field_mapping": {"spent": "spent_usd"},
        "description": "what households spend",
        "tags": {"tier": "gold"},
        "owner": "team:commerce",
    }
    return LakeSource(**{**settings, **changes})


def project(folder: Path, offline: str = "resources.feature_store.offline_store.LakeOfflineStore") -> RepoConfig:
    return RepoConfig(
        project="shop",
        provider="local",
        registry=str(folder / "registry.db"),
        offline_store={"type": offline},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
    )


def test_a_source_survives_its_registry_form() -> None:
    source = a_source()
    again = DataSource.from_proto(source.to_proto())
    assert again == source
    assert hash(again) == hash(source)
    assert isinstance(again, LakeSource)
    assert again.table == TableName("commerce", "spend")
    assert again != a_source(table="commerce/other")
    assert again != a_source(owner="team:marketing")


def test_a_source_survives_the_registry_itself(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.replace_partitions(TableName("commerce", "spend"), None, TABLE, Commit("run-1", "commerce/spend"))
    store = FeatureStore(config=project(tmp_path))
    entity = Entity(name="household", join_keys=["household_id"], value_type=ValueType.INT64)
    source = LakeSource(table="commerce/spend", timestamp_field="as_of")
    store.apply([entity, FeatureView(name="spend", entities=[entity], source=source)])
    again = FeatureStore(config=project(tmp_path))
    assert again.get_data_source("commerce/spend") == source
    # Nothing was declared, so Feast took the features from the table.
    fields = {field.name: field.dtype.to_value_type() for field in again.get_feature_view("spend").features}
    assert fields == {"spent_usd": ValueType.DOUBLE, "basket": ValueType.STRING_LIST}


def test_a_source_with_a_computed_column_survives_and_has_the_column(warehouse: Warehouse) -> None:
    computed = {"known_at": "timezone('Europe/Berlin', day + interval 1 day)"}
    source = LakeSource(table="shop/days", timestamp_field="known_at", computed=computed)
    assert DataSource.from_proto(source.to_proto()) == source
    assert source != LakeSource(table="shop/days", timestamp_field="known_at", computed={"known_at": "now()"})
    with warehouse.reader() as lake, pytest.raises(FeatureError, match=r'^lake\."shop"\."days" is not there'):
        source.columns(lake)
    commit = Commit("run", "shop/days")
    day = "select date '2017-03-26' as day"
    warehouse.replace_partitions(TableName("shop", "days"), None, lambda lake: lake.sql(day), commit)
    with warehouse.reader() as lake:
        assert source.columns(lake) == {"day": "DATE", "known_at": "TIMESTAMP WITH TIME ZONE"}
        (row,) = lake.execute(f"select epoch(known_at) from {source.relation}").fetchall()
    # The day on which clocks went forward.
    assert row == (datetime(2017, 3, 26, 22, tzinfo=UTC).timestamp(),)


def test_what_depends_on_one_column_is_computed_once_for_each_of_its_values(warehouse: Warehouse) -> None:
    computed = {"known_at": "noted(day) + interval 1 day"}
    once = LakeSource(table="shop/days", timestamp_field="known_at", computed=computed, computed_from="day")
    each = LakeSource(table="shop/days", timestamp_field="known_at", computed=computed)
    assert DataSource.from_proto(once.to_proto()) == once != each
    days = "select unnest([date '2017-03-25', '2017-03-26', '2017-03-26', null]) as day, unnest([1, 2, 3, 4]) as n"
    commit = Commit("run", "shop/days")
    warehouse.replace_partitions(TableName("shop", "days"), None, lambda lake: lake.sql(days), commit)
    noted: list[date] = []

    def note(day: date) -> date:
        noted.append(day)
        return day

    with warehouse.reader() as lake:
        lake.create_function("noted", note, [DATE], DATE)
        assert once.columns(lake) == each.columns(lake)
        assert lake.sql(f"from {once.relation} order by n").fetchall() == (
            lake.sql(f"from {each.relation} order by n").fetchall()
        )
        noted.clear()
        # Several terms about it, as in a join, which the database would like to look at as early as it can.
        filtered = f"from {once.relation} where known_at > date '2017-03-26' and epoch_us(known_at) is not null"
        assert lake.sql(f"select n {filtered} order by n").fetchall() == [(2,), (3,)]
    assert sorted(noted) == [date(2017, 3, 25), date(2017, 3, 26)]


def test_a_saved_datasets_place_survives_its_registry_form() -> None:
    storage = SavedDatasetStorage.from_proto(SavedDatasetLakeStorage("training/set").to_proto())
    assert isinstance(storage, SavedDatasetLakeStorage)
    assert storage.table == TableName("training", "set")
    assert storage.to_data_source().get_table_query_string() == 'lake."training"."set"'


def test_a_table_is_named_by_its_asset_or_by_its_schema() -> None:
    assert table_name("commerce/spend") == table_name("commerce.spend") == TableName("commerce", "spend")
    for text in ("spend", "lake.commerce.spend", "/spend", "commerce.", ""):
        with pytest.raises(FeatureError, match="write team/entity"):
            table_name(text)


def test_validation_names_what_the_table_lacks(warehouse: Warehouse, tmp_path: Path) -> None:
    config = project(tmp_path)
    with pytest.raises(FeatureError, match="is not there; materialize"):
        a_source().validate(config)
    warehouse.replace_partitions(TableName("commerce", "spend"), None, TABLE, Commit("run-1", "commerce/spend"))
    with pytest.raises(FeatureError, match="commerce.spend lacks 'written_at', 'spent'; it has household_id, as_of"):
        a_source().validate(config)
    with pytest.raises(FeatureError, match="'spent_usd' is DOUBLE, not a time"):
        LakeSource(table="commerce/spend", timestamp_field="spent_usd").validate(config)
    LakeSource(table="commerce/spend", timestamp_field="as_of").validate(config)


def test_a_project_with_another_offline_store_is_told_which_to_use(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="DaskOfflineStoreConfig, which cannot read a table of the lake"):
        a_source().validate(project(tmp_path, "file"))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("BOOLEAN", ValueType.BOOL),
        ("SMALLINT", ValueType.INT32),
        ("BIGINT", ValueType.INT64),
        ("HUGEINT", ValueType.INT64),
        ("DECIMAL(18,3)", ValueType.DOUBLE),
        ("FLOAT", ValueType.FLOAT),
        ("VARCHAR", ValueType.STRING),
        ("ENUM('a', 'b')", ValueType.STRING),
        ("BLOB", ValueType.BYTES),
        ("DATE", ValueType.UNIX_TIMESTAMP),
        ("TIMESTAMP WITH TIME ZONE", ValueType.UNIX_TIMESTAMP),
        ("VARCHAR[]", ValueType.STRING_LIST),
        ("FLOAT[384]", ValueType.FLOAT_LIST),
        ("DECIMAL(18,3)[]", ValueType.DOUBLE_LIST),
    ],
)
def test_every_column_type_in_use_has_a_type_in_feast(kind: str, expected: ValueType) -> None:
    assert value_type_of(kind) == expected
    assert duckdb_type_of(expected).endswith("[]") == kind.endswith("]")


@pytest.mark.parametrize("kind", ["BIGINT[][]", "STRUCT(a BIGINT)", "MAP(VARCHAR, BIGINT)", "INTERVAL", "TIME"])
def test_a_column_that_cannot_be_a_feature_is_refused_by_its_type(kind: str) -> None:
    with pytest.raises(FeatureError, match="cast it in its model"):
        value_type_of(kind)


def test_only_what_loses_nothing_may_be_declared_wider() -> None:
    assert holds(ValueType.INT64, ValueType.INT32)
    assert holds(ValueType.DOUBLE_LIST, ValueType.FLOAT_LIST)
    assert not holds(ValueType.INT32, ValueType.INT64)
    assert not holds(ValueType.DOUBLE, ValueType.INT64)
    assert not holds(ValueType.DOUBLE_LIST, ValueType.DOUBLE)
