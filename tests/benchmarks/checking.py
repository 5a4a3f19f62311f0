"""How long a check of a million pairs takes, and how much memory: `python -m tests.benchmarks.checking`.

A catalog of 1,000 tables with 1,000 partitions each is made in a temporary folder: receipts in a real ledger, data
files in a real DuckLake catalog and on disk (hard links to one another). A hundred pairs are damaged.
"""

import os
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from platform_assets.asset_graph.graph import Graph, Node
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partitions import same_time
from resources.environment import Environment
from resources.lake_catalog import LakeCatalog
from resources.ledger import Input, Ledger, Receipt, schema_text
from resources.warehouse import Warehouse

ASSETS = 1_000
DAYS = dg.DailyPartitionsDefinition("2015-01-01", end_date="2017-09-27")
ROWS = 1_000
BYTES = 64
DAMAGED = 100
SCHEMA = schema_text({"n": "BIGINT"})
_LINKS_A_FILE = 30_000


def graph(assets: int) -> Graph:
    """A chain of tables, every tenth of which also reads the day before."""
    keys = [dg.AssetKey(["bench", f"table_{number:04}"]) for number in range(assets)]
    return Graph.of(
        [
            Node(
                key,
                "bench",
                DAYS,
                {keys[number - 1]: same_time(lookback=int(number % 10 == 0))} if number else {},
                code_version="v1",
            )
            for number, key in enumerate(keys)
        ]
    )


def fill_ledger(ledger: Ledger, known: Graph) -> None:
    """A receipt for every pair, as a build would have left it."""
    contents: dict[str, list[Input]] = {}
    for node in known.nodes.values():
        receipts = list(_receipts(node, known, contents))
        ledger.record(receipts)
        contents[node.name] = [Input(node.name, one.partition, one.id, one.read_as) for one in receipts]


def _receipts(node: Node, known: Graph, contents: dict[str, list[Input]]) -> Iterator[Receipt]:
    needs = known.requirements(node)
    for number, key in enumerate(node.pairs):
        read = [contents[name][at] for name, needed in needs.items() for at in needed.upstream_of(number)]
        checksum = f"{ROWS}:{number:x}"
        yield Receipt(node.name, key, "v1", tuple(read), ROWS, checksum, SCHEMA, "prod", "run", snapshot=1)


def fill_lake(warehouse: Warehouse, known: Graph, folder: Path) -> None:
    """A data file for every pair, in the catalog and on disk."""
    warehouse.snapshot()
    for node in known.nodes.values():
        (folder / "bench" / node.key.path[1]).mkdir(parents=True)
    source, links = folder / "source-0", 0
    source.write_bytes(b"x" * BYTES)
    for node in known.nodes.values():
        for key in node.pairs:
            os.link(source, folder / "bench" / node.key.path[1] / f"{key}.parquet")
            links += 1
            if links % _LINKS_A_FILE == 0:
                source = folder / f"source-{links}"
                source.write_bytes(b"x" * BYTES)
    tables = [node.key.path[1] for node in known.nodes.values()]
    with warehouse.catalog_reader(read_only=False) as catalog:
        catalog.execute("use catalog")
        catalog.execute("create temp table tables as select unnest(?::varchar[]) as name", [tables])
        catalog.execute("create temp table keys as select unnest(?::varchar[]) as key", [DAYS.get_partition_keys()])
        catalog.execute("insert into ducklake_schema values (77, 'bench', 1, null, 'bench', 'bench/', 1)")
        catalog.execute(
            "insert into ducklake_table "
            "select 1000 + row_number() over (), name, 1, null, 77, name, name || '/', 1 from tables"
        )
        catalog.execute(
            "create temp table files as select row_number() over () as id, t.table_id, k.key "
            "from ducklake_table t, keys k where t.schema_id = 77"
        )
        catalog.execute(
            "insert into ducklake_data_file "
            "(data_file_id, table_id, begin_snapshot, path, path_is_relative, record_count, file_size_bytes) "
            f"select id, table_id, 1, key || '.parquet', 1, {ROWS}, {BYTES} from files"
        )
        catalog.execute("insert into ducklake_file_partition_value select id, table_id, 0, key from files")


def damage(folder: Path, known: Graph) -> set[str]:
    """Remove some files; returns the pairs that are lost by it."""
    chance = random.Random(7)
    lost = set()
    for node in chance.sample(list(known.nodes.values()), DAMAGED):
        key = chance.choice(node.pairs)
        (folder / "bench" / node.key.path[1] / f"{key}.parquet").unlink()
        lost.add(f"{node.name}@{key}")
    return lost


def main(assets: int = ASSETS) -> None:
    """Make the catalog, check it, print the seconds and the peak memory."""
    known = graph(assets)
    with tempfile.TemporaryDirectory() as home, dg.DagsterInstance.ephemeral() as instance:
        environment = Environment.of({"HEADWATER_HOME": home})
        ledger, warehouse = Ledger.of(environment), Warehouse.of(environment)
        began = time.perf_counter()
        fill_lake(warehouse, known, Path(environment.data))
        fill_ledger(ledger, known)
        lost = damage(Path(environment.data), known)
        print(f"made {assets * len(DAYS.get_partition_keys()):,} pairs in {time.perf_counter() - began:.0f} s")
        pid = os.fork()
        if pid == 0:
            _measure(Inspector(known, ledger, LakeCatalog(warehouse), instance), lost)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0


def _measure(inspector: Inspector, lost: set[str]) -> None:
    began = time.perf_counter()
    judged = inspector.judged(dict.fromkeys(inspector.graph.named))
    wrong = [pair for of_asset in judged.values() for pair in of_asset.pairs(~of_asset.verified)]
    seconds = time.perf_counter() - began
    assert {f"{pair.asset}@{pair.partition}" for pair in wrong} == lost
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    total = sum(len(of_asset.states) for of_asset in judged.values())
    print(f"{total:,} pairs in {seconds:.2f} s, peak {peak:.2f} GiB, {len(wrong)} lost")


if __name__ == "__main__":
    main()
