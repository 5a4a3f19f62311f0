"""What a renamed or deleted asset leaves behind is listed, and removed when a person says so."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import dagster as dg
import pyarrow as pa
import pytest

from platform_assets.asset_graph.graph import Graph
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partition_checker.orphans import Orphan, forget, orphans
from resources.feature_store.entity_keys import EntityKeys
from resources.feature_store.online_rows import OnlineRows, open_rows
from resources.feature_store.packed_rows import RowSchema
from resources.feature_store.served_view import stored_as
from resources.warehouse import Commit, TableName
from tests.platform_assets.partition_checker.shop import DAYS, Shop

REDIS = os.environ.get("HEADWATER_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
VIEW = "store_sales"


@pytest.fixture(params=["sqlite", "redis"])
def online(request: pytest.FixtureRequest, shop: Shop) -> Iterator[OnlineRows]:
    """An empty online store."""
    if request.param == "sqlite":
        yield open_rows(shop.environment.online_store)
        return
    import redis

    namespace = f"test-{uuid4().hex}"
    client = redis.Redis.from_url(REDIS)
    try:
        client.ping()
    except redis.ConnectionError as error:
        pytest.skip(f"no Redis at {REDIS} ({error}); set HEADWATER_TEST_REDIS_URL")
    yield open_rows(REDIS, namespace)
    for key in client.scan_iter(f"{namespace}:*"):
        client.delete(key)


def serve(online: OnlineRows, view: str, keys: int) -> None:
    """Bring some keys of a view to the online store."""
    online.prepare()
    stored, schema = stored_as("headwater", view), RowSchema.of({"n": "int64"})
    encoded = EntityKeys(stored, {"store": "int64"}).of_values({"store": range(keys)}, keys)
    times = pa.array([datetime(2017, 1, 2, tzinfo=UTC)] * keys, pa.timestamp("us", "UTC"))
    rows = schema.pack(pa.table({"n": list(range(keys))}), times, None)
    online.write(stored, schema, encoded, rows, generation=online.begin(stored))


def held(online: OnlineRows, view: str) -> int:
    return online.count(stored_as("headwater", view))


def without(inspector: Inspector, *names: str) -> Inspector:
    """The same, after the declarations of some assets were deleted."""
    gone = {f"shop/{name}" for name in names}
    nodes = [node for node in inspector.graph.nodes.values() if node.name not in gone]
    return replace(inspector, graph=Graph.of(nodes))


def test_what_is_declared_is_no_orphan(built: Shop, online: OnlineRows) -> None:
    assert orphans(built.inspector(), online) == []


def test_a_deleted_asset_is_listed_and_removed(built: Shop, online: OnlineRows) -> None:
    inspector = without(built.inspector(), "summary")
    (orphan,) = orphans(inspector, online)
    assert orphan == Orphan("shop/summary", receipts=1, is_table=True)
    forget(inspector, online, orphan)
    assert orphans(inspector, online) == []
    assert TableName("shop", "summary") not in built.warehouse.tables()
    assert built.ledger.history("shop/summary", "") == []
    assert set(built.wrong()) == {"summary@"}, "nothing else was touched"


def test_views_and_tables_without_receipts_are_listed_too(built: Shop, online: OnlineRows) -> None:
    built.warehouse.replace_partitions(TableName("shop", "old"), None, pa.table({"n": [1]}), Commit("somebody", ""))
    with built.warehouse._attached() as lake:
        lake.execute("create view lake.shop.seen as select * from lake.shop.sales")
    found = orphans(built.inspector(), online)
    assert found == [Orphan("shop/old", is_table=True), Orphan("shop/seen", is_table=True)]
    for orphan in found:
        forget(built.inspector(), online, orphan)
    assert orphans(built.inspector(), online) == []
    assert built.pair("sales", DAYS[0]).state == "verified"


def test_online_rows_of_a_view_that_is_gone_are_listed_and_removed(built: Shop, online: OnlineRows) -> None:
    serve(online, VIEW, 3)
    serve(online, "other", 2)
    table = TableName("shop", f"{VIEW}_online")
    built.warehouse.replace_partitions(table, None, pa.table({"n": [1]}), Commit("somebody", ""))
    found = orphans(built.inspector(), online)
    assert found == [Orphan("other_online", online_rows=2), Orphan("shop/store_sales_online", 0, True, 3)]
    forget(built.inspector(), online, found[1])
    assert (held(online, VIEW), held(online, "other")) == (0, 2)
    assert orphans(built.inspector(), online) == found[:1]


def test_events_stay_unless_they_are_to_go_too(shop: Shop, online: OnlineRows) -> None:
    assert shop.build("sales").success
    key = dg.AssetKey(["shop", "sales"])
    inspector = without(shop.inspector(), "sales", "evens", "sums", "weeks", "summary")
    (orphan,) = orphans(inspector, online)
    forget(inspector, online, orphan)
    assert shop.instance.get_materialized_partitions(key)
    forget(inspector, online, replace(orphan, is_table=False), with_events=True)
    assert not shop.instance.get_materialized_partitions(key)
