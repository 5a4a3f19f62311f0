"""Feast over the online store: what it applied, materialized and pushed is read by it and by our reader."""

import math
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resources.environment import Environment
from resources.feature_store.online_rows import OnlineStoreError, open_rows
from resources.feature_store.online_writer import refresh
from resources.feature_store.reader import OnlineReader
from resources.feature_store.served_view import ServedView
from tests.patience import SOON_SECONDS, slowness
from tests.resources.feature_store.conftest import Place

PROJECT = "shop"
NOON = datetime(2017, 3, 1, 12, tzinfo=UTC)
COUNT = 50


def customer_records() -> pd.DataFrame:
    """One row for each customer, with every type that a row has; some values are null."""

    def nth(at: int, value: Any) -> Any:
        return None if at % 7 == 3 else value

    customers = range(COUNT)
    return pd.DataFrame(
        {
            "customer": list(customers),
            "spent": [math.nan if at % 7 == 3 else at / 3 for at in customers],
            "ratio": pd.array([at / 4 for at in customers], "float32"),
            "baskets": list(customers),
            "visits": pd.array(list(customers), "int32"),
            "loyal": [at % 2 == 0 for at in customers],
            "name": [nth(at, f"Ærø {at}") for at in customers],
            "photo": [nth(at, bytes([at, 0])) for at in customers],
            "since": [NOON - timedelta(days=at) for at in customers],
            "lately": [nth(at, [at / 2, 1.0]) for at in customers],
            "words": [nth(at, ["a", str(at)]) for at in customers],
            "at": [NOON] * COUNT,
            "created": [NOON + timedelta(minutes=1)] * COUNT,
        }
    )


FEATURES = ["spent", "ratio", "baskets", "visits", "loyal", "name", "photo", "since", "lately", "words", "document"]


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Any]:
    """Makes a `FeatureStore` whose online store has the settings given, with its views applied."""
    stores: list[Any] = []

    def make(online_store: dict[str, Any], ttl: timedelta | None = None, apply: bool = True) -> Any:
        from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
        from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, Json, String, UnixTimestamp
        from feast.value_type import ValueType

        source = FileSource(path=str(tmp_path / "customers.parquet"), timestamp_field="at")
        source.created_timestamp_column = "created"
        frame = customer_records()
        frame["document"] = [f'{{"n": {at}}}' for at in range(COUNT)]
        pq.write_table(pa.Table.from_pandas(frame), tmp_path / "customers.parquet")
        customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.INT64)
        product = Entity(name="product", join_keys=["product"], value_type=ValueType.STRING)
        kinds: list[Any] = [Float64, Float32, Int64, Int32, Bool, String, Bytes, UnixTimestamp]
        kinds += [Array(Float64), Array(String), Json]
        view = FeatureView(
            name="customers",
            entities=[customer],
            schema=[
                Field(name="customer", dtype=Int64),
                *(Field(name=name, dtype=kind) for name, kind in zip(FEATURES, kinds, strict=True)),
            ],
            source=source,
            ttl=ttl,
        )
        few = FeatureView(
            name="pairs",
            entities=[customer, product],
            schema=[
                Field(name="customer", dtype=Int64),
                Field(name="product", dtype=String),
                Field(name="bought", dtype=Int64),
            ],
            source=FileSource(path=str(tmp_path / "pairs.parquet"), timestamp_field="at"),
        )
        pairs = {"customer": [1], "product": ["milk"], "bought": [3], "at": [NOON]}
        pq.write_table(pa.table(pairs), tmp_path / "pairs.parquet")
        store = FeatureStore(
            config=RepoConfig(
                project=PROJECT,
                provider="local",
                registry=str(tmp_path / f"registry_{len(stores)}.db"),
                online_store=online_store,
                offline_store={"type": "file"},
                entity_key_serialization_version=3,
            )
        )
        stores.append(store)
        if apply:
            store.apply([customer, product, view, few])
        return store

    return make


def ours(place: Place, **settings: Any) -> dict[str, Any]:
    return {
        "type": "resources.feature_store.online_store.HeadwaterOnlineStore",
        "address": place.address,
        "namespace": place.namespace,
        **settings,
    }


def asked(store: Any, *features: str, count: int = COUNT + 2) -> Any:
    rows = [{"customer": at} for at in range(count)]
    return store.get_online_features(features=[f"customers:{name}" for name in features], entity_rows=rows)


def statuses(response: Any) -> set[str]:
    from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

    return {
        FieldStatus.Name(status)
        for name, vector in zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True)
        for status in vector.statuses
        if name != "customer"
    }


def test_feast_reads_what_it_materialized_as_from_its_own_store(
    make_store: Callable[..., Any], place: Place, tmp_path: Path
) -> None:
    store, theirs = make_store(ours(place)), make_store({"type": "sqlite", "path": str(tmp_path / "feast.db")})
    for each in (store, theirs):
        each.materialize(NOON - timedelta(days=1), NOON + timedelta(days=1), disable_event_timestamp=False)
    found, expected = (asked(each, *FEATURES) for each in (store, theirs))
    assert str(found.to_dict(include_event_timestamps=True)) == str(expected.to_dict(include_event_timestamps=True))
    assert found.proto.results == expected.proto.results
    assert found.proto.metadata == expected.proto.metadata
    versions = [
        each.get_online_features(
            features=["customers:spent", "pairs:bought"],
            entity_rows=[{"customer": 1, "product": "milk"}],
            full_feature_names=True,
            include_feature_view_version_metadata=True,
        ).proto
        for each in (store, theirs)
    ]
    assert versions[0] == versions[1]
    values = found.to_dict()
    assert values["name"][0] == "Ærø 0"
    assert values["name"][3] is None
    assert values["baskets"][: COUNT + 1] == [*range(COUNT), None]
    assert values["document"][1] == {"n": 1}
    assert values["since"][1] == NOON - timedelta(days=1)


def test_feast_and_our_reader_see_the_same_rows(make_store: Callable[..., Any], place: Place) -> None:
    from resources.feature_store.online_store import served_view

    store = make_store(ours(place))
    store.materialize(NOON - timedelta(days=1), NOON + timedelta(days=1))
    views = [served_view(store.get_feature_view(name), PROJECT) for name in ("customers", "pairs")]
    reader = OnlineReader(open_rows(place.address, place.namespace), views)
    names = [name for name in FEATURES if name not in ("document", "spent")]
    found = reader.read([f"customers:{name}" for name in names], {"customer": range(COUNT + 2)})
    expected = asked(store, *names).to_dict()
    assert {name: list(values) for name, values in found.columns.items()} == {name: expected[name] for name in names}
    pair = reader.read(["pairs:bought"], {"product": ["milk"], "customer": [1]})
    assert pair.columns == {"bought": (3,)}


def test_what_our_writer_refreshes_feast_reads(make_store: Callable[..., Any], place: Place) -> None:
    from resources.feature_store.online_store import served_view

    store = make_store(ours(place))
    pairs = served_view(store.get_feature_view("pairs"), PROJECT)
    table = pa.table({"customer": [1, 2], "product": ["milk", "bread"], "bought": [4, 5], "at": [NOON, NOON]})
    rows = open_rows(place.address, place.namespace)
    refresh(rows, pairs, [table], NOON, "at")
    response = store.get_online_features(
        features=["pairs:bought"],
        entity_rows=[{"customer": c, "product": p} for c, p in [(2, "bread"), (1, "milk"), (1, "bread"), (2, "bread")]],
    )
    assert response.to_dict()["bought"] == [5, 4, None, 5]


def test_several_views_are_read_together(make_store: Callable[..., Any], place: Place) -> None:
    store = make_store(ours(place))
    store.materialize(NOON - timedelta(days=1), NOON + timedelta(days=1))
    response = store.get_online_features(
        features=["customers:baskets", "pairs:bought"],
        entity_rows=[{"customer": 2, "product": "milk"}, {"customer": 1, "product": "milk"}],
        full_feature_names=True,
    )
    assert response.to_dict()["customers__baskets"] == [2, 1]
    assert response.to_dict()["pairs__bought"] == [None, 3]


def test_a_pushed_row_does_not_replace_a_newer_one(make_store: Callable[..., Any], place: Place) -> None:
    store = make_store(ours(place))
    for bought, moment in ((1, NOON), (2, NOON - timedelta(seconds=1)), (3, NOON + timedelta(seconds=1)), (4, NOON)):
        frame = pd.DataFrame({"customer": [1], "product": ["milk"], "bought": [bought], "at": [moment]})
        store.write_to_online_store("pairs", frame)
    response = store.get_online_features(features=["pairs:bought"], entity_rows=[{"customer": 1, "product": "milk"}])
    assert response.to_dict()["bought"] == [3]


@pytest.mark.parametrize(
    ("now", "status", "value"),
    [
        (NOON + timedelta(days=2), "PRESENT", 0),
        (NOON + timedelta(days=2, microseconds=1), "OUTSIDE_MAX_AGE", None),
    ],
)
def test_feast_serves_nothing_that_is_too_old_and_says_so(
    make_store: Callable[..., Any], place: Place, now: datetime, status: str, value: int | None
) -> None:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    store = make_store(ours(place, now=now), ttl=timedelta(days=2))
    store.materialize(NOON - timedelta(days=1), NOON + timedelta(days=1))
    response = asked(store, "baskets", "spent", count=COUNT)
    assert statuses(response) == {status}
    assert response.to_dict()["baskets"][0] == value
    view = store.get_feature_view("customers")
    key = EntityKey(join_keys=["customer"], entity_values=[Value(int64_val=0)])
    ((moment, values),) = store._get_provider().online_read(store.config, view, [key], ["baskets"])
    assert (moment, values) == ((NOON, {"baskets": Value(int64_val=0)}) if value == 0 else (None, None))


def test_a_view_that_is_removed_and_one_that_is_torn_down_leave_no_rows(
    make_store: Callable[..., Any], place: Place
) -> None:
    store = make_store(ours(place))
    store.materialize(NOON - timedelta(days=1), NOON + timedelta(days=1))
    rows = open_rows(place.address, place.namespace)
    assert (rows.count("shop/customers"), rows.count("shop/pairs")) == (COUNT, 1)
    store.apply([], objects_to_delete=[store.get_feature_view("pairs")], partial=False)
    assert (rows.count("shop/customers"), rows.count("shop/pairs")) == (COUNT, 0)
    store.teardown()
    assert rows.count("shop/customers") == 0


def test_a_store_that_is_down_fails_a_read_soon(make_store: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        place = Place(address, "headwater")
        store = make_store(ours(place), apply=False)
        view = ServedView("pairs", {"customer": "int64"}, {"bought": "int64"})
        began = time.monotonic()
        with pytest.raises(OnlineStoreError, match=f"{address} does not answer"):
            OnlineReader(open_rows(address), [view]).read(["pairs:bought"], {"customer": [1]})
        assert time.monotonic() - began < SOON_SECONDS * slowness()
        began = time.monotonic()
        with pytest.raises(OnlineStoreError, match=f"{address} does not answer"):
            _read_by_feast(store, view)
        assert time.monotonic() - began < SOON_SECONDS * slowness()


def _read_by_feast(store: Any, view: ServedView) -> None:
    from feast import FeatureView
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    key = EntityKey(join_keys=["customer"], entity_values=[Value(int64_val=0)])
    store._get_provider().online_read(store.config, FeatureView(name=view.name, source=None), [key])


def test_without_an_address_the_environments_own_store_is_used(
    make_store: Callable[..., Any], environment: Environment
) -> None:
    store = make_store({"type": "resources.feature_store.online_store.HeadwaterOnlineStore"})
    store.materialize(NOON - timedelta(days=1), NOON + timedelta(days=1))
    assert environment.online_store == str(environment.home / "online" / "rows.sqlite")
    assert open_rows(environment.online_store).count("shop/customers") == COUNT
