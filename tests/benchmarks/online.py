"""How long serving takes, against Feast's own way and store: `python -m tests.benchmarks.online`.

100 entities with 20 features of one view, and a single entity. Every way is asked in each round, in random order, so
that what disturbs the machine disturbs all of them. Redis is the one named by HEADWATER_TEST_REDIS_URL; without one its
rows are left out.
"""

import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from resources.environment import TELEMETRY_OFF
from resources.feature_store.online_rows import OnlineRows, OnlineStoreError, open_rows
from resources.feature_store.online_writer import refresh
from resources.feature_store.reader import OnlineReader
from resources.feature_store.served_view import ServedView

ENTITIES = 20_000
FEATURES = [f"feature_{at}" for at in range(20)]
ASKED = 100
ROUNDS = 3_000
WARM_UP = 100
BULK = 1_000_000
PROJECT = "bench"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REDIS_URL = os.environ.get("HEADWATER_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")
NAMESPACE = f"headwater_bench_{os.getpid()}"

VIEW = ServedView(
    "customers",
    {"customer": "int64"},
    {name: "int64" if at % 4 == 0 else "float64" for at, name in enumerate(FEATURES)},
    project=PROJECT,
)
NAMES = [f"customers:{name}" for name in FEATURES]

Ask = Callable[[Sequence[int]], Any]


def source(count: int) -> pa.Table:
    """`count` customers."""
    generator = np.random.default_rng(7)
    columns = {
        name: generator.integers(0, 1_000, count) if kind == "int64" else generator.random(count)
        for name, kind in VIEW.features.items()
    }
    return pa.table({"customer": np.arange(count), **columns, "at": pa.array([NOW] * count, pa.timestamp("us", "UTC"))})


def feast_over(folder: Path, name: str, online_store: Mapping[str, Any], frame: pd.DataFrame) -> Ask:
    """Feast with the customers in an online store of its own."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Float64, Int64
    from feast.value_type import ValueType

    customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.INT64)
    kinds = {"int64": Int64, "float64": Float64}
    view = FeatureView(
        name="customers",
        entities=[customer],
        schema=[
            Field(name="customer", dtype=Int64),
            *(Field(name=at, dtype=kinds[kind]) for at, kind in VIEW.features.items()),
        ],
        source=FileSource(path=str(folder / "customers.parquet"), timestamp_field="at"),
    )
    store = FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry=str(folder / f"{name}.registry.db"),
            online_store=dict(online_store),
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )
    store.apply([customer, view])
    store.write_to_online_store("customers", frame)

    def ask(customers: Sequence[int]) -> Any:
        return store.get_online_features(features=NAMES, entity_rows=[{"customer": at} for at in customers]).to_dict()

    return ask


def read_by(rows: OnlineRows) -> Ask:
    """Our reader."""
    reader = OnlineReader(rows, [VIEW])
    return lambda customers: reader.read(NAMES, [{"customer": at} for at in customers]).columns


def measured(ways: Mapping[str, Ask], asked: int, rounds: int) -> dict[str, np.ndarray[Any, Any]]:
    """Milliseconds of every round of every way."""
    generator = np.random.default_rng(7)
    took: dict[str, list[float]] = {name: [] for name in ways}
    # What importing has left is no part of any answer; and in turn, or one way would get all of the collector's pauses.
    gc.collect()
    gc.freeze()
    for number in range(WARM_UP + rounds):
        customers = generator.choice(ENTITIES, asked, replace=False).tolist()
        for name in generator.permutation([*ways]).tolist():
            ask = ways[name]
            began = time.perf_counter()
            ask(customers)
            if number >= WARM_UP:
                took[name].append(1_000 * (time.perf_counter() - began))
    return {name: np.array(found) for name, found in took.items()}


def agreed(ways: Mapping[str, Ask]) -> None:
    """Every way gives the same answer."""
    customers = [5, 3, ENTITIES + 1, 3]
    answers = {name: {key: list(ask(customers)[key]) for key in FEATURES} for name, ask in ways.items()}
    first = next(iter(answers.values()))
    wrong = [name for name, answer in answers.items() if answer != first]
    assert not wrong, f"other values from {wrong}"


def add(table: Table, took: Mapping[str, np.ndarray[Any, Any]], against: str, asked: int) -> None:
    """A row for each way, with its ratio to the way `against`."""
    base = took[against]
    for name, found in took.items():
        median, late = np.percentile(found, [50, 99])
        table.add_row(
            f"{name}, {asked}",
            f"{median:.3f}",
            f"{late:.3f}",
            f"{np.median(base) / median:.1f}x",
            f"{np.percentile(base, 99) / late:.1f}x",
        )


def bulk(rows: OnlineRows) -> str:
    """The seconds of materializing a million entities."""
    table = source(BULK)
    began = time.perf_counter()
    done = refresh(rows, VIEW, [table], NOW, "at")
    seconds = time.perf_counter() - began
    assert done.written == BULK
    return f"{seconds:.1f} s, {BULK / seconds:,.0f} rows/s"


def swept() -> None:
    """Take everything that this process has written out of Redis."""
    import redis

    with redis.Redis.from_url(REDIS_URL) as client:
        for key in client.scan_iter(f"{NAMESPACE}*", count=10_000):
            client.unlink(key)


def main(rounds: int = ROUNDS) -> None:
    """Print the medians, the 99th percentiles and the ratios."""
    os.environ.update(TELEMETRY_OFF)
    ours = {"type": "resources.feature_store.online_store.HeadwaterOnlineStore"}
    table = Table(
        "way, entities", "p50 ms", "p99 ms", "p50 faster", "p99 faster", title=f"{rounds} rounds, all ways in each"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frame = source(ENTITIES).to_pandas()
        sqlite = open_rows(str(folder / "reader.sqlite"))
        stores = {"SQLite": sqlite}
        ways = {
            "Feast on its SQLite store": feast_over(folder, "its", {"type": "sqlite", "path": f"{name}/its.db"}, frame)
        }
        ways["Feast on our SQLite store"] = feast_over(folder, "our", {**ours, "address": f"{name}/our.sqlite"}, frame)
        redis = open_rows(REDIS_URL, NAMESPACE)
        try:
            redis.prepare()
        except OnlineStoreError as error:
            print(f"without Redis: {error}")
        else:
            stores["Redis"] = redis
            address = {"address": REDIS_URL, "namespace": f"{NAMESPACE}_feast"}
            ways["Feast on our Redis store"] = feast_over(folder, "redis", {**ours, **address}, frame)
        for kind, rows in stores.items():
            refresh(rows, VIEW, [source(ENTITIES)], NOW, "at")
            ways[f"our reader on {kind}"] = read_by(rows)
        try:
            agreed(ways)
            for asked in (ASKED, 1):
                add(table, measured(ways, asked, rounds), "Feast on its SQLite store", asked)
            Console(width=120).print(table)
            for kind, rows in stores.items():
                print(f"materializing {BULK:,} entities to {kind}: {bulk(rows)}")
        finally:
            if "Redis" in stores:
                swept()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
