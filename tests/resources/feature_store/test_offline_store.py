"""Feast reads training sets and what it materializes from the lake, as declared or not at all."""
# What is tested is a plugin of Feast.

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, RequestSource
from feast.errors import FeatureViewNotFoundException, SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from resources.feature_store.lake_source import LakeSource, SavedDatasetLakeStorage
from resources.feature_store.offline_store import LakeOfflineStore, LakeRetrievalJob
from resources.feature_store.point_in_time import FeatureError
from resources.warehouse import Commit, TableName, Warehouse

# Feast says so of views on demand and of saved datasets.
pytestmark = pytest.mark.filterwarnings("ignore:.*is an experimental feature:RuntimeWarning")

FIRST = datetime(2017, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TIME = pa.timestamp("us", "UTC")
TYPE = "resources.feature_store.offline_store.LakeOfflineStore"
RUN = Commit("run-1", "features")

HOUSEHOLD = Entity(name="household", join_keys=["household_id"], value_type=ValueType.INT64)
PRODUCT = Entity(name="product", join_keys=["product_id"], value_type=ValueType.INT64)

SPENT = pa.table(
    {
        "household_id": pa.array([1, 1, 1, 2, 2], pa.int64()),
        "as_of": pa.array([FIRST, FIRST + DAY, FIRST + DAY, FIRST, FIRST + 9 * DAY], TIME),
        "written_at": pa.array([FIRST, FIRST + DAY, FIRST + 3 * DAY, FIRST, FIRST + 9 * DAY], TIME),
        "spent_usd": [1.0, 2.0, 2.5, 4.0, 5.0],
        "visits": pa.array([1, 2, 3, 4, 5], pa.int32()),
        "partition_key": ["2017-01-01", "2017-01-02", "2017-01-02", "2017-01-01", "2017-01-10"],
    }
)
PRICES = pa.table(
    {
        "sku": pa.array([10, 20], pa.int64()),
        "day": pa.array([FIRST.date(), FIRST.date()]),
        "price": pa.array([0.5, 1.5], pa.float64()),
        "vector": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32())),
    }
)


def household_view(**changes: Any) -> FeatureView:
    settings: dict[str, Any] = {
        "name": "household_spend",
        "entities": [HOUSEHOLD],
        "ttl": timedelta(days=5),
        "schema": [Field(name="spent_usd", dtype=Float64), Field(name="visits", dtype=Int64)],
        "source": LakeSource(
            table="commerce/household_spend", timestamp_field="as_of", created_timestamp_column="written_at"
        ),
    }
    return FeatureView(**{**settings, **changes})


def price_view() -> FeatureView:
    return FeatureView(
        name="prices",
        entities=[PRODUCT],
        ttl=None,
        schema=[Field(name="price_usd", dtype=Float64), Field(name="vector", dtype=Array(Float32))],
        source=LakeSource(
            table="commerce.prices",
            timestamp_field="day",
            field_mapping={"sku": "product_id", "price": "price_usd"},
        ),
    )


def cost_view() -> Any:
    request = RequestSource(name="basket", schema=[Field(name="units", dtype=Int64)])

    @on_demand_feature_view(
        sources=[price_view(), request], schema=[Field(name="cost_usd", dtype=Float64)], mode="pandas", name="cost"
    )
    def cost(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"cost_usd": inputs["price_usd"] * inputs["units"]})

    return cost


def feature_store(folder: Path, **settings: Any) -> FeatureStore:
    return FeatureStore(
        config=RepoConfig(
            project="shop",
            provider="local",
            registry=str(folder / "registry.db"),
            offline_store={"type": TYPE, **settings},
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            entity_key_serialization_version=3,
        )
    )


def stored(warehouse: Warehouse, tables: Mapping[str, pa.Table]) -> None:
    for name, table in tables.items():
        partitions = sorted(set(table["partition_key"].to_pylist())) if "partition_key" in table.column_names else None
        warehouse.replace_partitions(TableName("commerce", name), partitions, table, RUN)


@pytest.fixture
def shop(warehouse: Warehouse, tmp_path: Path) -> FeatureStore:
    """A project with two views of the lake and one computed on demand."""
    stored(warehouse, {"household_spend": SPENT, "prices": PRICES})
    store = feature_store(tmp_path)
    store.apply([HOUSEHOLD, PRODUCT, household_view(), price_view(), cost_view()])
    return store


ASKED = pd.DataFrame(
    {
        "household_id": [2, 1, 1, 3, 2],
        "product_id": [20, 10, 10, 10, 30],
        "event_timestamp": [
            pd.Timestamp("2017-01-06"),
            pd.Timestamp("2017-01-02 12:00", tz="Europe/Berlin").tz_convert(None),
            pd.Timestamp("2017-01-01"),
            pd.Timestamp("2017-01-02"),
            pd.Timestamp("2017-01-08"),
        ],
        "units": [1, 2, 3, 4, 5],
        "bought": [True, False, True, True, False],
    }
)
FEATURES = ["household_spend:spent_usd", "household_spend:visits", "prices:price_usd", "prices:vector"]


def columns(table: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def test_a_training_set_has_each_rows_features_as_of_its_time(shop: FeatureStore) -> None:
    job = shop.get_historical_features(entity_df=ASKED, features=[*FEATURES, "cost:cost_usd"])
    table = job.to_arrow()
    assert table["household_id"].to_pylist() == [2, 1, 1, 3, 2]
    assert table["bought"].to_pylist() == [True, False, True, True, False]
    assert columns(table, "spent_usd", "visits", "price_usd", "vector", "cost_usd") == [
        (4.0, 4, 1.5, [3.0, 4.0], 1.5),
        (2.5, 3, 0.5, [1.0, 2.0], 1.0),
        (1.0, 1, 0.5, [1.0, 2.0], 1.5),
        (None, None, 0.5, [1.0, 2.0], 2.0),
        (None, None, None, None, None),
    ]
    assert table.schema.field("visits").type == pa.int64()
    assert job.to_df()["spent_usd"].tolist()[:3] == [4.0, 2.5, 1.0]


def test_full_feature_names_carry_their_view(shop: FeatureStore) -> None:
    job = shop.get_historical_features(ASKED, [*FEATURES, "cost:cost_usd"], full_feature_names=True)
    assert job.to_arrow().column_names[5:] == [
        "household_spend__spent_usd",
        "household_spend__visits",
        "prices__price_usd",
        "prices__vector",
        "cost__cost_usd",
    ]


def test_with_the_created_filter_a_later_correction_is_not_seen(shop: FeatureStore) -> None:
    job = shop.get_historical_features(ASKED, ["household_spend:spent_usd"], filter_by_created_timestamp=True)
    assert job.to_arrow()["spent_usd"].to_pylist() == [4.0, 2.0, 1.0, None, None]


@pytest.mark.parametrize("how", ["frame", "arrow", "sql"])
def test_entity_rows_may_be_a_frame_an_arrow_table_or_a_select(shop: FeatureStore, how: str, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pandas(ASKED, preserve_index=False), tmp_path / "asked.parquet")
    given: Any = {
        "frame": ASKED,
        "arrow": pa.Table.from_pandas(ASKED, preserve_index=False),
        "sql": f"select * from read_parquet('{tmp_path}/asked.parquet')",
    }[how]
    job = shop.get_historical_features(given, ["household_spend:visits"])
    assert job.to_arrow()["visits"].to_pylist() == [4, 3, 1, None, None]
    assert job.metadata is not None
    assert job.metadata.min_event_timestamp == FIRST
    assert job.metadata.max_event_timestamp == FIRST + 7 * DAY
    assert "household_id" in job.metadata.keys
    assert "event_timestamp" not in job.metadata.keys


def test_the_query_of_a_select_runs_by_itself(shop: FeatureStore, warehouse: Warehouse) -> None:
    asked = "select household_id, as_of as event_timestamp from lake.commerce.household_spend order by all"
    job = shop.get_historical_features(asked, ["household_spend:visits"])
    with warehouse.reader() as lake:
        assert lake.sql(job.to_sql()).fetchall() == [tuple(row.values()) for row in job.to_arrow().to_pylist()]
    in_memory = shop.get_historical_features(ASKED, ["household_spend:visits"])
    with pytest.raises(FeatureError, match="give them as SQL"):
        in_memory.to_sql()


@pytest.mark.parametrize("sql", ["drop table lake.commerce.prices", "select 1; select 2", "create table t as select 1"])
def test_entity_sql_other_than_one_select_is_refused(shop: FeatureStore, sql: str) -> None:
    with pytest.raises(FeatureError, match="not one SELECT"):
        shop.get_historical_features(sql, FEATURES)


def test_without_entity_rows_every_key_of_the_period_is_answered_at_its_end(shop: FeatureStore) -> None:
    def at(start: datetime, end: datetime) -> list[tuple[Any, ...]]:
        job = shop.get_historical_features(features=["household_spend:visits"], start_date=start, end_date=end)
        return columns(job.to_arrow(), "household_id", "event_timestamp", "visits")

    assert at(FIRST, FIRST + DAY) == [(1, FIRST + DAY, 3), (2, FIRST + DAY, 4)]
    assert at(FIRST + DAY, FIRST + DAY) == [(1, FIRST + DAY, 3)]
    with pytest.raises(FeatureError, match="'household_spend' and 'prices' have different keys"):
        shop.get_historical_features(features=FEATURES, start_date=FIRST, end_date=FIRST + DAY).to_arrow()


def test_a_parquet_file_holds_what_the_table_holds(shop: FeatureStore, tmp_path: Path) -> None:
    for number, features in enumerate([FEATURES, [*FEATURES, "cost:cost_usd"]]):
        job = shop.get_historical_features(ASKED, features)
        assert isinstance(job, LakeRetrievalJob)
        path = tmp_path / f"it's {number}.parquet"
        assert job.to_parquet(path) == 5
        assert pq.read_table(path).to_pylist() == job.to_arrow().to_pylist()
    assert not list(tmp_path.glob(".*.partial"))


def test_a_training_set_can_be_kept_as_a_table_of_the_lake(shop: FeatureStore, warehouse: Warehouse) -> None:
    job = shop.get_historical_features(ASKED, FEATURES)
    storage = SavedDatasetLakeStorage("training/purchases")
    shop.create_saved_dataset(job, "purchases", storage)
    kept = shop.get_saved_dataset("purchases")
    assert kept.storage.table == TableName("training", "purchases")
    rows = kept.to_df().sort_values(["event_timestamp", "household_id"])
    assert rows["visits"].fillna(0).tolist() == [1, 0, 3, 4, 0]
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)
    job.persist(storage, allow_overwrite=True)
    assert warehouse.partitions(TableName("training", "purchases"))[""].rows == 5
    with pytest.raises(FeatureError, match="use SavedDatasetLakeStorage"):
        job.persist(SavedDatasetFileStorage("somewhere.parquet"))


def test_entity_rows_of_the_future_are_refused_unless_allowed(shop: FeatureStore, tmp_path: Path) -> None:
    later = pd.concat([ASKED, ASKED.assign(event_timestamp=pd.Timestamp("2200-01-01"))], ignore_index=True)
    job = shop.get_historical_features(later, ["prices:price_usd"])
    with pytest.raises(FeatureError, match=r"5 of 10 are later than now \(.* UTC\), first row 5 \(household_id=2, "):
        job.to_arrow()
    allowing = feature_store(tmp_path, allow_future_entity_rows=True)
    assert allowing.get_historical_features(later, ["prices:price_usd"]).to_arrow().num_rows == 10


def test_unknown_views_and_features_are_refused_by_name(shop: FeatureStore) -> None:
    with pytest.raises(FeatureViewNotFoundException, match="nothing"):
        shop.get_historical_features(ASKED, ["nothing:price_usd"])
    with pytest.raises(Exception, match="colour"):
        shop.get_historical_features(ASKED, ["prices:colour"])
    with pytest.raises(FeatureError, match=r"view 'household_spend' has no feature 'colour'; it has spent_usd, visits"):
        LakeOfflineStore.get_historical_features(
            shop.config,
            [household_view()],
            ["household_spend:colour"],
            ASKED,
            shop.registry,
            "shop",
        )


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (Field(name="colour", dtype=String), r"'household_spend': commerce.household_spend lacks 'colour'"),
        (Field(name="spent_usd", dtype=Int64), "'spent_usd' of commerce.household_spend is DOUBLE, but declared INT64"),
        (Field(name="visits", dtype=Array(Int32)), "'visits' of commerce.household_spend is INTEGER"),
    ],
)
def test_a_table_that_is_not_as_declared_is_refused(shop: FeatureStore, declared: Field, message: str) -> None:
    shop.apply([household_view(schema=[declared])])
    with pytest.raises(FeatureError, match=message):
        shop.get_historical_features(ASKED, [f"household_spend:{declared.name}"]).to_arrow()


def test_a_table_that_is_not_there_is_refused_by_name(shop: FeatureStore) -> None:
    shop.apply([household_view(source=LakeSource(table="commerce/nothing", timestamp_field="as_of"))])
    with pytest.raises(FeatureError, match=r'lake."commerce"."nothing" is not there; materialize'):
        shop.get_historical_features(ASKED, ["household_spend:visits"]).to_arrow()


def test_a_snapshot_pins_what_is_read(shop: FeatureStore, warehouse: Warehouse, tmp_path: Path) -> None:
    before = warehouse.snapshot()
    stored(warehouse, {"prices": PRICES.set_column(2, "price", pa.array([7.0, 8.0]))})
    pinned = feature_store(tmp_path, snapshot=before)
    asked, features = ASKED.head(2), ["prices:price_usd"]
    assert shop.get_historical_features(asked, features).to_df()["price_usd"].tolist() == [8.0, 7.0]
    assert pinned.get_historical_features(asked, features).to_df()["price_usd"].tolist() == [1.5, 0.5]


def test_a_lake_elsewhere_is_named_whole_or_not_at_all(
    shop: FeatureStore, warehouse: Warehouse, tmp_path: Path
) -> None:
    place = {"catalog": warehouse.catalog, "data": warehouse.data, "extensions": warehouse.extensions}
    elsewhere = feature_store(tmp_path, **place, memory="700MB")
    assert elsewhere.config.offline_store.warehouse().memory == "700MB"
    assert elsewhere.get_historical_features(ASKED, FEATURES).to_arrow().num_rows == 5
    with pytest.raises(ValueError, match="say data, extensions too"):
        _ = feature_store(tmp_path, catalog=warehouse.catalog).config.offline_store


def pulled(job: LakeRetrievalJob) -> list[dict[str, Any]]:
    return job.to_arrow().to_pylist()


def test_materialization_reads_the_newest_row_of_each_key_in_the_period(shop: FeatureStore) -> None:
    def latest(first: datetime, last: datetime) -> list[tuple[Any, ...]]:
        source = household_view().batch_source
        job = LakeOfflineStore.pull_latest_from_table_or_query(
            shop.config, source, ["household_id"], ["visits"], "as_of", "written_at", first, last
        )
        return sorted(columns(job.to_arrow(), "household_id", "visits"))

    assert latest(FIRST, FIRST + 8 * DAY) == [(1, 3), (2, 4)]
    assert latest(FIRST, FIRST + 9 * DAY) == [(1, 3), (2, 5)]
    assert latest(FIRST, FIRST) == [(1, 1), (2, 4)]


def test_every_row_of_the_period_can_be_read_with_all_columns(shop: FeatureStore) -> None:
    job = LakeOfflineStore.pull_all_from_table_or_query(
        shop.config, price_view().batch_source, ["sku"], [], "day", None, FIRST, FIRST
    )
    assert pulled(job) == [
        {"sku": 10, "price": 0.5, "vector": [1.0, 2.0], "day": FIRST},
        {"sku": 20, "price": 1.5, "vector": [3.0, 4.0], "day": FIRST},
    ]
    assert job.metadata is None
    keyless = LakeOfflineStore.pull_latest_from_table_or_query(
        shop.config, price_view().batch_source, [], ["price"], "day", None, FIRST, FIRST
    )
    assert pulled(keyless) == [{"price": 1.5, "day": FIRST, "__dummy_id": ""}]


def test_materialized_features_are_served(shop: FeatureStore) -> None:
    shop.materialize(FIRST - DAY, FIRST + 8 * DAY)
    served = shop.get_online_features(
        ["household_spend:visits", "prices:price_usd", "prices:vector"],
        [{"household_id": 1, "product_id": 20}, {"household_id": 2, "product_id": 30}],
    ).to_dict()
    assert served["price_usd"] == [1.5, None]
    assert served["vector"] == [[3.0, 4.0], None]


def test_writing_is_refused_with_the_asset_that_writes(shop: FeatureStore) -> None:
    with pytest.raises(FeatureError, match="by the asset commerce/household_spend alone"):
        LakeOfflineStore.offline_write_batch(shop.config, household_view(), SPENT, None)
    with pytest.raises(FeatureError, match="not logged to the lake"):
        LakeOfflineStore.write_logged_features(
            shop.config,
            SPENT,
            None,
            None,
            shop.registry,  # type: ignore[arg-type]
        )


def test_a_view_of_another_kind_of_source_is_refused(shop: FeatureStore, tmp_path: Path) -> None:
    pq.write_table(SPENT, tmp_path / "spent.parquet")
    source = FileSource(path=str(tmp_path / "spent.parquet"), timestamp_field="as_of")
    shop.apply([household_view(source=source)])
    with pytest.raises(FeatureError, match="view 'household_spend' reads a FileSource"):
        shop.get_historical_features(ASKED, ["household_spend:visits"])


def random_history(chance: random.Random) -> tuple[pa.Table, pd.DataFrame]:
    """Features and questions of which every question has an answer in time, and none is asked twice.

    Feast's file store drops an entity row whose every candidate is too old or too new, and all but one of equal rows;
    this store keeps both. Of rows that tie in event time it takes any: it sorts by created time, then again by event
    time, and that sort is not stable. So no key has two rows of one event time here.
    """
    keys = range(8)
    source = [(key, FIRST, 1.0 * key, FIRST) for key in keys]
    for _ in range(80):
        at = FIRST + timedelta(hours=chance.randrange(1, 400))
        source.append((chance.choice(keys), at, chance.random(), at + timedelta(hours=chance.randrange(50))))
    unique = {(key, at): (value, written) for key, at, value, written in source}
    asked = {(chance.choice(keys), FIRST + timedelta(hours=chance.randrange(400))) for _ in range(60)}
    table = pa.table(
        {
            "household_id": pa.array([key for key, _ in unique], pa.int64()),
            "as_of": pa.array([at for _, at in unique], TIME),
            "written_at": pa.array([written for _, written in unique.values()], TIME),
            "spent_usd": pa.array([value for value, _ in unique.values()], pa.float64()),
            "visits": pa.array(range(len(unique)), pa.int32()),
        }
    )
    frame = pd.DataFrame(sorted(asked), columns=["household_id", "event_timestamp"])
    return table, frame


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cutoff", [False, True])
@pytest.mark.parametrize("ttl", [None, timedelta(days=30)])
def test_the_answer_is_that_of_feasts_own_file_store(
    warehouse: Warehouse, tmp_path: Path, seed: int, cutoff: bool, ttl: timedelta | None
) -> None:
    table, asked = random_history(random.Random(seed))
    stored(warehouse, {"household_spend": table})
    pq.write_table(table, tmp_path / "spent.parquet")
    file = FileSource(
        path=str(tmp_path / "spent.parquet"), timestamp_field="as_of", created_timestamp_column="written_at"
    )
    answers = []
    for kind, source in ((TYPE, household_view().batch_source), ("file", file)):
        folder = tmp_path / kind
        folder.mkdir()
        store = FeatureStore(
            config=RepoConfig(
                project="shop",
                provider="local",
                registry=str(folder / "registry.db"),
                offline_store={"type": kind},
                online_store={"type": "sqlite", "path": str(folder / "online.db")},
                entity_key_serialization_version=3,
            )
        )
        store.apply([HOUSEHOLD, household_view(source=source, ttl=ttl)])
        job = store.get_historical_features(
            asked, ["household_spend:spent_usd", "household_spend:visits"], filter_by_created_timestamp=cutoff
        )
        order = ["household_id", "event_timestamp"]
        answers.append(job.to_df().sort_values(order, ignore_index=True)[[*order, "spent_usd", "visits"]])
    ours, theirs = answers
    pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)


def test_columns_of_every_type_in_use_come_back_as_declared(warehouse: Warehouse, tmp_path: Path) -> None:
    everything = """
        select 1::bigint as household_id, timestamp '2017-01-01' as as_of, true as flag, 1::smallint as small,
               2::hugeint as huge, 3::uinteger as positive, 1.5::decimal(10, 2) as money, 1.5::float as single,
               'x' as words, 'y'::blob as bytes, date '2017-01-01' as day, [1::bigint, null] as numbers,
               ['a', 'b'] as names, [1.5::decimal(5, 1)] as amounts, [timestamp '2017-01-01'] as times
    """
    table = TableName("commerce", "everything")
    warehouse.replace_partitions(table, None, lambda lake: lake.sql(everything), RUN)
    declared = {
        "flag": Bool, "small": Int64, "huge": Int64, "positive": Int64, "money": Float64, "single": Float64,
        "words": String, "day": UnixTimestamp, "numbers": Array(Int64), "names": Array(String),
        "amounts": Array(Float64), "times": Array(UnixTimestamp),
    }  # fmt: skip
    store = feature_store(tmp_path)
    view = household_view(
        schema=[Field(name=name, dtype=kind) for name, kind in declared.items()],
        source=LakeSource(table="commerce/everything", timestamp_field="as_of"),
    )
    service = FeatureService(name="all", features=[view])
    store.apply([HOUSEHOLD, view, service])
    asked = pa.table({"household_id": [1], "event_timestamp": pa.array([FIRST], TIME)})
    answer = store.get_historical_features(asked, service).to_arrow()
    assert answer.drop_columns(["household_id", "event_timestamp"]).to_pylist() == [
        {
            "flag": True, "small": 1, "huge": 2, "positive": 3, "money": 1.5, "single": 1.5, "words": "x", "day": FIRST,
            "numbers": [1, None], "names": ["a", "b"], "amounts": [1.5], "times": [FIRST],
        }
    ]  # fmt: skip
    assert answer.schema.field("huge").type == pa.int64()
    assert answer.schema.field("money").type == pa.float64()
