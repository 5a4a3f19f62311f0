"""A store that is down: whoever reads is told so, by its name, before a request would give up."""

import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from resources.feature_store.online_rows import OnlineStoreError, open_rows
from resources.feature_store.reader import OnlineReader
from resources.feature_store.served_view import ServedView
from tests.patience import SOON_SECONDS, slowness

"""Within which a reader is told: twice what it waits for an answer, on a busy machine."""

VIEW = ServedView("customers", {"customer": "int64"}, {"baskets": "int64"}, ttl=timedelta(days=1), project="shop")

Down = tuple[str, str]
"""An address, and what is said of it."""


def missing(folder: Path, held: ExitStack) -> Down:
    return str(folder / "nowhere" / "rows.sqlite"), "cannot be used (unable to open database file)"


def no_database(folder: Path, held: ExitStack) -> Down:
    (folder / "rows.sqlite").write_bytes(b"no database" * 1000)
    return str(folder / "rows.sqlite"), "cannot be used (file is not a database)"


def never_materialized(folder: Path, held: ExitStack) -> Down:
    (folder / "rows.sqlite").touch()
    return str(folder / "rows.sqlite"), "cannot be used (no such table: online_rows)"


def locked(folder: Path, held: ExitStack) -> Down:
    other = sqlite3.connect(folder / "rows.sqlite", isolation_level=None)
    held.callback(other.close)
    other.execute("begin exclusive")
    other.execute("create table anything (x)")
    return str(folder / "rows.sqlite"), "cannot be used (database is locked)"


def nobody_listens(folder: Path, held: ExitStack) -> Down:
    bound = held.enter_context(socket.socket())
    bound.bind(("127.0.0.1", 0))
    return f"redis://127.0.0.1:{bound.getsockname()[1]}/0", "does not answer as it should (Error 111"


def never_answers(folder: Path, held: ExitStack) -> Down:
    silent = held.enter_context(socket.create_server(("127.0.0.1", 0)))
    return f"redis://127.0.0.1:{silent.getsockname()[1]}/0", "does not answer as it should (Timeout"


@pytest.fixture(params=[missing, no_database, never_materialized, locked, nobody_listens, never_answers])
def down(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Down]:
    """A store of each kind, each down in its way."""
    with ExitStack() as held:
        yield request.param(tmp_path, held)


def refused_soon(read: Callable[[], Any], down: Down) -> None:
    address, said = down
    began = time.monotonic()
    with pytest.raises(OnlineStoreError) as refused:
        read()
    assert time.monotonic() - began < SOON_SECONDS * slowness()
    assert f"the online store {address} {said}" in str(refused.value)
    assert "HEADWATER_ONLINE_STORE names it" in str(refused.value)


def test_our_reader_is_told_every_time_it_asks(down: Down) -> None:
    reader = OnlineReader(open_rows(down[0]), [VIEW])
    for _ in range(2):
        refused_soon(lambda: reader.read(["customers:baskets"], {"customer": [1, 2]}), down)


def test_feast_is_told_every_time_it_asks(down: Down, tmp_path: Path) -> None:
    store = feast_store(down[0], tmp_path)
    asked = [{"customer": 1}, {"customer": 2}]
    for _ in range(2):
        refused_soon(lambda: store.get_online_features(["customers:baskets"], entity_rows=asked), down)


def feast_store(address: str, folder: Path) -> Any:
    """Feast over the store at `address`, of whose view it has been told: nothing of the store itself is asked."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Int64
    from feast.value_type import ValueType

    store = FeatureStore(
        config=RepoConfig(
            project="shop",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={
                "type": "resources.feature_store.online_store.HeadwaterOnlineStore",
                "address": address,
                "namespace": "headwater",
            },
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )
    customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.INT64)
    view = FeatureView(
        name="customers",
        entities=[customer],
        schema=[Field(name="customer", dtype=Int64), Field(name="baskets", dtype=Int64)],
        source=FileSource(path=str(folder / "customers.parquet"), timestamp_field="at"),
        ttl=timedelta(days=1),
    )
    view.entity_columns = [Field(name="customer", dtype=Int64)]
    view.features = [Field(name="baskets", dtype=Int64)]
    store.registry.apply_entity(customer, "shop")
    store.registry.apply_feature_view(view, "shop")
    return store
