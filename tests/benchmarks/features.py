"""How long training sets take and how much memory: `python -m tests.benchmarks.features [--feast-duckdb]`.

Over the lake that `make demo FULL=1` leaves behind in HEADWATER_HOME, which is only read. 100,000 of its sales, always
the same, ask for every feature of `product_prices` and `household_habits` as of the moment of the sale:

- this store against DuckDB's ASOF join by hand, in turn; by hand as one writes it, and with this store's way of
  computing the end of the local week;
- Feast's default store, once, because it takes minutes, and Feast's DuckDB store, over the same rows as Parquet files
  that have the event time as a column. The latter is asked with `--feast-duckdb`: it is installed into a virtual
  environment of its own below the user's cache folder, because it fails with the platform's SQLGlot;
- whether all of them say the same.

Then 10,000,000 entity rows, sales moved by some days, go to a Parquet file, in a process whose peak memory is printed.
"""
# What is measured is a plugin of Feast.

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore, RepoConfig

from ml_assets.features.catalogue import Catalogue, catalogue
from ml_assets.features.feast_objects import feast_objects
from ml_assets.features.joins import relation_sql
from ml_assets.features.views import FeatureView
from resources.environment import TELEMETRY_OFF, Environment
from resources.feature_store.feast_settings import feast_settings
from resources.feature_store.offline_store import LakeRetrievalJob
from resources.warehouse import Warehouse
from tests.benchmarks import feast_stores

ROWS = 100_000
MANY_ROWS = 10_000_000
LIMIT_GIB = 4
ROUNDS = 15
DUCKDB_ROUNDS = 5
FEAST_DUCKDB = ["feast[duckdb]==0.67.0", "sqlglot<27"]
THIS, OPENING = "this store", "of either, opening the lake"
KEYS = ["household_id", "product_id", "event_timestamp"]
SALES = """
    select household_id, product_id, sold_at at time zone 'America/New_York' as event_timestamp,
           sum(units)::bigint as units
    from lake.commerce.int_transactions_priced
    group by all
"""
ASKED = f"""
    from ({SALES})
    order by hash(household_id, product_id, event_timestamp), household_id, product_id, event_timestamp
    limit {ROWS}
"""
MANY = f"""
    select household_id, product_id, event_timestamp + interval 1 day * days as event_timestamp, units
    from ({SALES}) sales, range(8) moved(days)
    limit {MANY_ROWS}
"""


def views() -> list[FeatureView]:
    """What is joined."""
    return [catalogue().view(name) for name in ("product_prices", "household_habits")]


def references() -> list[str]:
    """Every feature of both."""
    return [reference for view in views() for reference in view.select().references]


def lake_store(folder: Path, environment: Environment) -> FeatureStore:
    """Feast over the environment's lake, with a registry of its own in `folder`."""
    settings = feast_settings(environment)
    settings["registry"] = str(folder / "lake.registry.db")
    settings["online_store"] = {"type": "sqlite", "path": str(folder / "lake.online.db")}
    store = FeatureStore(config=RepoConfig(**settings))
    store.apply(list(feast_objects(Catalogue(tuple(views()))).values()))
    return store


def by_hand(of_each_row: bool) -> str:
    """What one writes without a feature store: as of each row, without telling ties apart and in any order."""
    chosen, joined = ["e.*"], []
    for view in views():
        (key,) = view.keys
        limit = f"{view.name}.event_time >= e.event_timestamp - interval {view.ttl.days} day"
        chosen += [f"case when {limit} then {view.name}.{one.name} end as {one.name}" for one in view.features]
        joined.append(
            f"asof left join ({selected(view, of_each_row)}) {view.name} "
            f"on e.{key} = {view.name}.{key} and e.event_timestamp >= {view.name}.event_time"
        )
    return f"select {', '.join(chosen)} from asked e {' '.join(joined)}"


def selected(view: FeatureView, of_each_row: bool) -> str:
    """The view's keys, event time and features; the event time is computed for each row, or once for each day."""
    relation = (
        f"(select *, {view.event_sql} as event_time from {view.table.sql})" if of_each_row else relation_sql(view)
    )
    features = ", ".join(f"{one.read_from}::{one.kind.duckdb} as {one.name}" for one in view.features)
    return f"select {', '.join(view.keys)}, event_time, {features} from {relation}"


def seconds(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """How long each way took in each round; all ways are in each, in random order, after one that does not count.

    A way that returns a number has measured itself.
    """
    took: dict[str, list[float]] = {name: [] for name in ways}
    chance = random.Random(7)
    for number in range(rounds + 1):
        for name in chance.sample(list(ways), len(ways)):
            began = time.perf_counter()
            measured = ways[name]()
            if number:
                took[name].append(measured if isinstance(measured, float) else time.perf_counter() - began)
    return took


def compared(folder: Path, environment: Environment, with_duckdb: bool) -> None:
    """Print what 100,000 entity rows take."""
    lake, store = Warehouse.of(environment), lake_store(folder, environment)
    with lake.reader() as connection:
        asked = connection.sql(ASKED).to_arrow_table()
        sizes = [connection.execute(f"select count(*) from {view.table.sql}").fetchall()[0][0] for view in views()]
        for view in views():
            connection.execute(f"copy ({selected(view, False)}) to '{folder}/{view.name}.parquet' (format parquet)")
    frame = asked.to_pandas()

    def ours() -> pa.Table:
        return store.get_historical_features(frame, references()).to_arrow()

    def hand(of_each_row: bool = True) -> pa.Table:
        with lake.reader() as connection:
            # Straight from Arrow DuckDB takes them for a few rows, and joins by a loop that is a hundred times slower.
            connection.register("given", asked)
            connection.execute("create temp table asked as from given")
            return connection.sql(by_hand(of_each_row)).to_arrow_table()

    def opened() -> None:
        with lake.reader() as connection:
            connection.execute(f"from {views()[0].table.sql} limit 0")

    told = ours()
    assert told.select(KEYS).cast(asked.select(KEYS).schema).equals(asked.select(KEYS)), "rows or their order are lost"
    for answer in (hand(), hand(of_each_row=False)):
        assert agreeing(told, answer) == ROWS
    took = seconds(
        {
            THIS: ours,
            "ASOF by hand": hand,
            "ASOF by hand, each day's end computed once": lambda: hand(of_each_row=False),
            OPENING: opened,
        },
        ROUNDS,
    )
    sized = " and ".join(f"{view.name} ({size:,} rows)" for view, size in zip(views(), sizes, strict=True))
    print(f"{ROWS:,} sales x {sized}, {len(references())} features, {lake.threads} threads")
    show(f"{ROUNDS} rounds in turn", took)
    (folder / "views.json").write_text(json.dumps([told_of(view) for view in views()]))
    pq.write_table(asked, folder / "asked.parquet")
    with feast(folder, "file", sys.executable) as ask:
        show("once, because it takes minutes; this store once before and after it", once(ask, ours))
        compare(folder, "file", told)
    if not with_duckdb:
        print("Feast's DuckDB store: skipped; ask for it with --feast-duckdb")
        return
    with feast(folder, "duckdb", feast_duckdb()) as ask:
        show(f"{DUCKDB_ROUNDS} rounds in turn", seconds({THIS: ours, "Feast's DuckDB store": ask}, DUCKDB_ROUNDS))
        compare(folder, "duckdb", told)


def once(ask: Callable[[], float], ours: Callable[[], object]) -> dict[str, list[float]]:
    """Feast's default store, once, and this store around it."""
    before = seconds({THIS: ours}, 1)[THIS]
    default = ask()
    mean = statistics.mean([*before, *seconds({THIS: ours}, 1)[THIS]])
    return {THIS: [mean], "Feast's default store": [default]}


def show(title: str, took: Mapping[str, list[float]]) -> None:
    """Print the medians, and the median of the rounds' ratios."""
    print(f" {title}")
    for name, found in took.items():
        ratio = statistics.median(one / other for one, other in zip(took[THIS], found, strict=True))
        spread = f"{min(found):.2f} to {max(found):.2f}" if len(found) > 1 else ""
        said = (
            "" if name in (THIS, OPENING) else f"this store / it: {ratio:.2f}" if ratio > 0.5 else f"1/{1 / ratio:.0f}"
        )
        print(f"  {name:44}{statistics.median(found):8.2f} s  {spread:14}  {said}".rstrip(), flush=True)


@contextmanager
def feast(folder: Path, kind: str, python: str) -> Iterator[Callable[[], float]]:
    """One of Feast's stores in a process of its own, as a function that asks it and returns the seconds it took."""
    command = [python, str(Path(feast_stores.__file__)), kind, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder) as store:
        assert store.stdin is not None
        assert store.stdout is not None
        requests, answers = store.stdin, store.stdout

        def ask() -> float:
            print("join", file=requests, flush=True)
            return float(json.loads(answers.readline())["seconds"])

        yield ask
        requests.close()


def compare(folder: Path, kind: str, ours: pa.Table) -> None:
    """Print for how many rows a store of Feast's says the same."""
    answer = pq.read_table(folder / f"answer_{kind}.parquet")
    same = agreeing(ours, answer)
    print(
        f"    it says the same of {same:,} rows, something else of {answer.num_rows - same:,}, "
        f"and leaves out {ours.num_rows - answer.num_rows:,}"
    )


def told_of(view: FeatureView) -> dict[str, object]:
    """The view for `feast_stores.py`."""
    ((key, entity),) = view.keys.items()
    features = {one.name: one.type for one in view.features}
    ttl = view.ttl.total_seconds()
    return {"name": view.name, "entity": entity.name, "key": key, "ttl_seconds": ttl, "features": features}


def agreeing(ours: pa.Table, theirs: pa.Table) -> int:
    """How many of the entity rows that both have, which are all different, have the same features in both."""
    columns = [name for name in ours.column_names if name not in KEYS]
    # Feast's stores give whole numbers as fractions where one is missing, and times in other units.
    kinds = [pa.int64(), pa.int64(), pa.timestamp("us", "UTC")]
    plain = [
        pa.table(
            {
                **{name: table[name].cast(kind) for name, kind in zip(KEYS, kinds, strict=True)},
                **{name: without_nan(table[name]) for name in columns},
            }
        )
        for table in (ours, theirs)
    ]
    joined = plain[0].join(plain[1], KEYS, join_type="inner", right_suffix=" of theirs")
    equal = pa.array([True] * joined.num_rows)
    for name in columns:
        one, other = joined[name], joined[f"{name} of theirs"]
        both = pc.and_(pc.is_null(one), pc.is_null(other))
        equal = pc.and_(equal, pc.or_(both, pc.fill_null(pc.equal(one, other), False)))
    return int(pc.sum(equal).as_py())


def without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column, numbers as doubles, with null for what pandas calls not a number."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.string())
    doubles = column.cast(pa.float64())
    return pc.if_else(pc.is_nan(doubles), None, doubles)


def feast_duckdb() -> str:
    """The Python of a virtual environment that has Feast's DuckDB store, made when it is not there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    place = cache / "headwater" / "feast-duckdb"
    python, ready = place / "bin" / "python", place / "ready"
    if not ready.exists() or ready.read_text() != str(FEAST_DUCKDB):
        print("  installing Feast's DuckDB store for the comparison", flush=True)
        venv.create(place, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", *FEAST_DUCKDB], check=True)
        ready.write_text(str(FEAST_DUCKDB))
    return str(python)


def streamed(folder: Path, environment: Environment) -> None:
    """Print what 10,000,000 entity rows take; to be run in a process of its own."""
    entities = f"from read_parquet('{folder}/many.parquet')"
    job = lake_store(folder, environment).get_historical_features(entities, references())
    assert isinstance(job, LakeRetrievalJob)
    target = folder / "training.parquet"
    began = time.perf_counter()
    rows = job.to_parquet(target)
    took = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert rows == pq.ParquetFile(target).metadata.num_rows == MANY_ROWS
    print(
        f"{rows:,} entity rows x 2 views to Parquet: {took:.0f} s, peak {peak:.2f} GiB (at most {LIMIT_GIB}), "
        f"memory limit {Warehouse.of(environment).memory}, file {target.stat().st_size / 2**20:.0f} MiB"
    )
    assert peak < LIMIT_GIB


def main() -> None:
    """Print every comparison, or only the large one over the entity rows of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feast-duckdb", action="store_true", help="install and ask Feast's DuckDB store too")
    parser.add_argument("--many", type=Path, metavar="FOLDER", help="only the large join of FOLDER's entity rows")
    given = parser.parse_args()
    os.environ.update(TELEMETRY_OFF)
    warnings.simplefilter("ignore")
    environment = Environment.current()
    if given.many:
        streamed(given.many, environment)
        return
    lake = Warehouse.of(environment)
    if not {view.table for view in views()} <= set(lake.tables()):
        raise SystemExit(
            f"the lake in {environment.home} lacks the marts of the retail year: run make demo FULL=1 first"
        )
    with tempfile.TemporaryDirectory() as made:
        compared(Path(made), environment, given.feast_duckdb)
        with lake.reader() as connection:
            connection.execute(f"copy ({MANY}) to '{made}/many.parquet' (format parquet)")
        module = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.features", "--many", made]
        subprocess.run(module, check=True)


if __name__ == "__main__":
    main()
