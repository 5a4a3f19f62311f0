"""How long training sets take and how much memory: `python -m tests.benchmarks.features`.

A synthetic year of retail, made in a temporary lake: what 2,500 households and 2,500 products did each day. Three
things are asked of it, in one run:

- 100,000 entity rows joined to both views: this store against a hand-written DuckDB ASOF join over the same lake, and
  against Feast's default file store over the same rows as Parquet files;
- the same without history: what opening the lake costs;
- 10,000,000 entity rows to a Parquet file, in a process of its own, whose peak memory is printed.
"""
# What is measured is a plugin of Feast.

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64, Int64
from feast.value_type import ValueType

from resources.environment import TELEMETRY_OFF
from resources.feature_store.lake_source import LakeSource
from resources.feature_store.offline_store import LakeRetrievalJob
from resources.warehouse import Commit, TableName, Warehouse

KEYS = 2_500
DAYS = 364
ROWS = 100_000
FILE_STORE_ROWS = 5_000
MANY_ROWS = 10_000_000
MEMORY = "2GB"
LIMIT_GIB = 4
REPEATS = 5
SLOW_REPEATS = 3

HOUSEHOLD_TTL = timedelta(days=30)
FEATURES = [
    "household_daily:spent_28d_usd",
    "household_daily:visits_28d",
    "household_daily:discount_share",
    "household_daily:days_since_visit",
    "product_daily:price_usd",
    "product_daily:units_28d",
    "product_daily:promoted_share",
]
HISTORY = f"""
    select key::bigint as {{kind}}_id, timestamptz '2017-01-01 00:00:00+00' + interval 1 day * day as as_of,
           timestamptz '2017-01-01 06:00:00+00' + interval 1 day * day as written_at, {{features}},
           strftime(date '2017-01-01' + day::integer, '%Y-%m') as partition_key
    from range({DAYS}) d(day), range({KEYS}) k(key)
"""
HISTORIES = {
    "household": HISTORY.format(
        kind="household",
        features="random() * 300 as spent_28d_usd, (random() * 20)::bigint as visits_28d, random() as discount_share, "
        "(random() * 28)::bigint as days_since_visit",
    ),
    "product": HISTORY.format(
        kind="product",
        features="random() * 9 as price_usd, (random() * 500)::bigint as units_28d, random() as promoted_share",
    ),
}
PURCHASES = f"""
    select floor(random() * {KEYS})::bigint as household_id, floor(random() * {KEYS})::bigint as product_id,
           timestamptz '2017-01-02 00:00:00+00' + interval 1 second * floor(random() * {DAYS - 1} * 86400)::bigint
               as event_timestamp, ceil(random() * 5)::bigint as units
    from range({{rows}})
"""
BY_HAND = f"""
    select e.*,
           case when h.as_of >= e.event_timestamp - interval {HOUSEHOLD_TTL.days} day
                then struct_pack(h.spent_28d_usd, h.visits_28d, h.discount_share, h.days_since_visit) end as household,
           p.price_usd, p.units_28d, p.promoted_share
    from asked e
    asof left join lake.commerce.household_daily h
        on e.household_id = h.household_id and e.event_timestamp >= h.as_of
    asof left join lake.commerce.product_daily p on e.product_id = p.product_id and e.event_timestamp >= p.as_of
"""


def feature_store(folder: Path, kind: str, **settings: str) -> FeatureStore:
    """A Feast project over the lake, or over the files of the same rows."""
    place = folder / kind.rpartition(".")[2]
    place.mkdir(exist_ok=True)
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(place / "registry.db"),
            offline_store={"type": kind, **settings},
            online_store={"type": "sqlite", "path": str(place / "online.db")},
            entity_key_serialization_version=3,
        )
    )
    views = []
    for name in HISTORIES:
        entity = Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)
        times = {"timestamp_field": "as_of", "created_timestamp_column": "written_at"}
        source = (
            FileSource(path=str(folder / f"{name}_daily.parquet"), **times)
            if kind == "file"
            else LakeSource(table=f"commerce/{name}_daily", **times)
        )
        features = [reference.split(":")[1] for reference in FEATURES if reference.startswith(name)]
        whole = ("visits_28d", "days_since_visit", "units_28d")
        schema = [Field(name=feature, dtype=Int64 if feature in whole else Float64) for feature in features]
        ttl = HOUSEHOLD_TTL if name == "household" else None
        views += [entity, FeatureView(name=f"{name}_daily", entities=[entity], ttl=ttl, schema=schema, source=source)]
    store.apply(views)
    return store


def lake_store(folder: Path, lake: Warehouse) -> FeatureStore:
    """The project that reads `lake`."""
    return feature_store(
        folder,
        "resources.feature_store.offline_store.LakeOfflineStore",
        catalog=lake.catalog,
        data=lake.data,
        extensions=lake.extensions,
        memory=MEMORY,
    )


def lake_in(folder: Path) -> Warehouse:
    """The lake of `folder`."""
    return Warehouse(
        catalog=f"sqlite:{folder / 'catalog.sqlite'}",
        data=str(folder / "data"),
        extensions=str(folder / "extensions"),
        threads=2,
        memory=MEMORY,
    )


def filled(folder: Path) -> Warehouse:
    """A lake with both histories, which lie beside it as Parquet files too."""
    lake = lake_in(folder)
    for name, sql in HISTORIES.items():
        with lake.reader() as connection:
            rows = connection.sql(sql).to_arrow_table()
        table = TableName("commerce", f"{name}_daily")
        months = sorted(set(rows["partition_key"].to_pylist()))
        lake.replace_partitions(table, months, rows, Commit("bench", str(table)))
        pq.write_table(rows.drop_columns(["partition_key"]), folder / f"{name}_daily.parquet")
    return lake


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median duration of `work`, after one run that does not count."""
    work()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def compared(folder: Path, lake: Warehouse) -> None:
    """Print what 100,000 entity rows take."""
    with lake.reader() as connection:
        asked = connection.sql(PURCHASES.format(rows=ROWS)).to_arrow_table()
    frame = asked.to_pandas()
    ours_store, file_store = lake_store(folder, lake), feature_store(folder, "file")

    def by_hand() -> pa.Table:
        with lake.reader() as connection:
            # Straight from Arrow DuckDB takes them for a few rows, and joins by a loop that is a hundred times slower.
            connection.register("given", asked)
            connection.execute("create temp table asked as from given")
            return connection.sql(BY_HAND).to_arrow_table()

    def opened() -> None:
        with lake.reader() as connection:
            connection.execute("from lake.commerce.household_daily limit 0")

    ours = seconds(lambda: ours_store.get_historical_features(frame, FEATURES).to_arrow(), REPEATS)
    hand = seconds(by_hand, REPEATS)
    opening = seconds(opened, REPEATS)
    few = frame.head(FILE_STORE_ROWS)
    ours_few = seconds(lambda: ours_store.get_historical_features(few, FEATURES).to_arrow(), REPEATS)
    theirs_few = seconds(lambda: file_store.get_historical_features(few, FEATURES).to_df(), SLOW_REPEATS)
    check(ours_store, file_store, few)
    print(f"{ROWS:,} entity rows x 2 views of {KEYS * DAYS:,} rows each, medians, 2 threads")
    print(f"  this store                     {ours:8.2f} s")
    print(f"  hand-written ASOF, unordered   {hand:8.2f} s   this store / hand-written: {ours / hand:.2f}")
    print(f"  of either, opening the lake    {opening:8.2f} s")
    print(f"{FILE_STORE_ROWS:,} of those entity rows, because Feast's file store joins every row of a key")
    print(f"  this store                     {ours_few:8.2f} s")
    print(
        f"  Feast's file store             {theirs_few:8.2f} s   file store / this store: {theirs_few / ours_few:.1f}"
    )
    scaled = theirs_few * ROWS / FILE_STORE_ROWS
    print(
        f"  Feast's file store, scaled linearly to {ROWS:,} rows (not measured): {scaled:.0f} s, "
        f"{scaled / ours:.0f} times this store"
    )


def check(ours_store: FeatureStore, file_store: FeatureStore, few: pd.DataFrame) -> None:
    """Both stores say the same, or the comparison is of nothing."""
    asked = few.drop_duplicates(["household_id", "product_id", "event_timestamp"])
    answers = [store.get_historical_features(asked, FEATURES).to_df() for store in (ours_store, file_store)]
    order = ["household_id", "product_id", "event_timestamp"]
    columns = [*asked.columns, *(reference.split(":")[1] for reference in FEATURES)]
    ours, theirs = (answer.sort_values(order, ignore_index=True)[columns] for answer in answers)
    pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)


def streamed(folder: Path) -> None:
    """Print what 10,000,000 entity rows take; to be run in a process of its own."""
    lake = lake_in(folder)
    job = lake_store(folder, lake).get_historical_features(f"from read_parquet('{folder}/many.parquet')", FEATURES)
    assert isinstance(job, LakeRetrievalJob)
    target = folder / "training.parquet"
    began = time.perf_counter()
    rows = job.to_parquet(target)
    took = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert rows == pq.ParquetFile(target).metadata.num_rows == MANY_ROWS
    print(
        f"{rows:,} entity rows x 2 views to Parquet: {took:.0f} s, peak {peak:.2f} GiB "
        f"(at most {LIMIT_GIB}), memory limit {MEMORY}, file {target.stat().st_size / 2**20:.0f} MiB"
    )
    assert peak < LIMIT_GIB


def main(folder: str | None = None) -> None:
    """Print every comparison, or only the large one over the lake of `folder`."""
    os.environ.update(TELEMETRY_OFF)
    warnings.simplefilter("ignore")
    if folder:
        streamed(Path(folder))
        return
    with tempfile.TemporaryDirectory() as made:
        began = datetime.now(UTC)
        lake = filled(Path(made))
        with lake.reader() as connection:
            connection.execute(f"copy ({PURCHASES.format(rows=MANY_ROWS)}) to '{made}/many.parquet' (format parquet)")
        print(f"made {len(HISTORIES) * KEYS * DAYS:,} rows of history in {(datetime.now(UTC) - began).seconds} s")
        compared(Path(made), lake)
        subprocess.run([sys.executable, "-W", "ignore", "-m", "tests.benchmarks.features", made], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
