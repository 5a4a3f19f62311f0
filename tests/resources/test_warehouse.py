"""The lake replaces partitions whole, remembers who wrote, and loses nothing when many write or a write fails."""

import json
import multiprocessing
import resource
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from resources.environment import Environment
from resources.warehouse import Commit, LakeError, PhysicalPartition, TableName, Warehouse
from tests.patience import PATIENCE_SECONDS

SALES = TableName("commerce", "sales")
RUN = Commit("run-1", "commerce/sales")
DAYS = ["2017-01-01", "2017-01-02", "2017-01-03"]


def rows_of(days: list[str], units: int = 1, per_day: int = 4) -> pa.Table:
    keys = [day for day in days for _ in range(per_day)]
    return pa.table({"product_id": list(range(len(keys))), "units": [units] * len(keys), "partition_key": keys})


def metadata(warehouse: Warehouse, sql: str) -> list[tuple]:
    with warehouse.reader() as lake:
        return lake.execute(sql).fetchall()


def data_files(warehouse: Warehouse) -> set[str]:
    with warehouse.reader() as lake:
        found = lake.execute("select data_file from ducklake_list_files('lake', 'sales', schema => 'commerce')")
        return {name for (name,) in found.fetchall()}


def test_replacing_a_partition_replaces_only_its_files(warehouse: Warehouse) -> None:
    warehouse.replace_partitions(SALES, DAYS, rows_of(DAYS), RUN)
    before = data_files(warehouse)
    warehouse.replace_partitions(SALES, DAYS[1:2], rows_of(DAYS[1:2], units=9, per_day=2), RUN)
    after = data_files(warehouse)
    gone, new = before - after, after - before
    assert len(gone) == len(new) == 1
    assert all("partition_key=2017-01-02" in name for name in gone | new)
    assert {day: part.rows for day, part in warehouse.partitions(SALES).items()} == {
        "2017-01-01": 4,
        "2017-01-02": 2,
        "2017-01-03": 4,
    }


def test_every_commit_names_its_run_and_asset(warehouse: Warehouse) -> None:
    replaced = warehouse.replace_partitions(SALES, DAYS, rows_of(DAYS), Commit("run-7", "commerce/sales"))
    author, message, info = metadata(
        warehouse,
        "select author, commit_message, commit_extra_info from lake.snapshots() "
        f"where snapshot_id = {replaced.snapshot}",
    )[0]
    assert (author, message) == ("run-7", "commerce/sales")
    assert json.loads(info) == {"run_id": "run-7", "asset": "commerce/sales", "partitions": 3}


def test_a_replaced_partition_without_rows_is_empty(warehouse: Warehouse) -> None:
    warehouse.replace_partitions(SALES, DAYS, rows_of(DAYS), RUN)
    replaced = warehouse.replace_partitions(SALES, DAYS, rows_of(DAYS[:2]), RUN)
    assert replaced.rows == {"2017-01-01": 4, "2017-01-02": 4, "2017-01-03": 0}
    assert list(warehouse.partitions(SALES)) == DAYS[:2]


def test_an_unpartitioned_table_is_replaced_whole(warehouse: Warehouse) -> None:
    table = TableName("commerce", "products")
    warehouse.replace_partitions(table, None, pa.table({"product_id": [1, 2, 3]}), RUN)
    replaced = warehouse.replace_partitions(table, None, pa.table({"product_id": [4]}), RUN)
    assert replaced.rows == {"": 1}
    (stored,) = warehouse.partitions(table).values()
    assert stored == PhysicalPartition(rows=1, files=1, bytes=stored.bytes)


def test_an_absent_table_has_no_partitions(warehouse: Warehouse) -> None:
    assert warehouse.partitions(TableName("commerce", "nothing")) == {}


def test_a_snapshot_can_be_pinned_and_read_back(warehouse: Warehouse) -> None:
    first = warehouse.replace_partitions(SALES, DAYS, rows_of(DAYS, units=1), RUN).snapshot
    warehouse.replace_partitions(SALES, DAYS, rows_of(DAYS, units=5), RUN)
    with warehouse.reader(first) as lake:
        assert lake.execute(f"select distinct units from {SALES.sql}").fetchall() == [(1,)]


def test_a_reader_cannot_write(warehouse: Warehouse) -> None:
    warehouse.replace_partitions(SALES, DAYS, rows_of(DAYS), RUN)
    with warehouse.reader() as lake, pytest.raises(duckdb.Error, match="read-only"):
        lake.execute(f"delete from {SALES.sql}")


def test_checksums_know_content_and_ignore_order_and_files(warehouse: Warehouse) -> None:
    rows = rows_of(DAYS)
    warehouse.replace_partitions(SALES, DAYS, rows, RUN)
    whole = warehouse.checksums(SALES)
    for day in DAYS:
        one = rows.filter(pa.compute.equal(rows["partition_key"], day))
        warehouse.replace_partitions(SALES, [day], one.take(list(reversed(range(one.num_rows)))), RUN)
    assert warehouse.checksums(SALES) == whole
    warehouse.replace_partitions(SALES, DAYS[:1], rows_of(DAYS[:1], units=2), RUN)
    changed = warehouse.checksums(SALES)
    assert {day for day in DAYS if changed[day] != whole[day]} == {DAYS[0]}


def test_a_column_that_data_adds_is_added(warehouse: Warehouse) -> None:
    warehouse.replace_partitions(SALES, DAYS, rows_of(DAYS), RUN)
    wider = rows_of(DAYS[:1]).append_column("price_usd", pa.array([1.5] * 4))
    warehouse.replace_partitions(SALES, DAYS[:1], wider, RUN)
    with warehouse.reader() as lake:
        assert lake.execute(f"select count(price_usd), count(*) from {SALES.sql}").fetchone() == (4, 12)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (rows_of(["2017-01-09"]), "rows of partition 2017-01-09 outside those replaced"),
        (rows_of(DAYS).drop_columns("units"), "column 'units' is BIGINT in the lake but is missing"),
        (
            rows_of(DAYS).set_column(1, "units", pa.array(["x"] * 12)),
            "column 'units' is BIGINT in the lake but is VARCHAR",
        ),
        (rows_of(DAYS).drop_columns("partition_key"), "lack the column partition_key"),
    ],
)
def test_data_that_do_not_fit_are_refused_and_lose_nothing(warehouse: Warehouse, data: pa.Table, said: str) -> None:
    warehouse.replace_partitions(SALES, DAYS, rows_of(DAYS), RUN)
    before, files = warehouse.checksums(SALES), data_files(warehouse)
    with pytest.raises(LakeError, match="commerce.sales") as refused:
        warehouse.replace_partitions(SALES, DAYS, data, RUN)
    assert said in str(refused.value)
    assert (warehouse.checksums(SALES), data_files(warehouse)) == (before, files)


def test_names_and_keys_are_quoted_into_sql(warehouse: Warehouse) -> None:
    table, key = TableName("commerce", 'odd"name; drop'), "it's; --"
    warehouse.replace_partitions(table, [key], rows_of([key]), RUN)
    assert warehouse.partitions(table)[key].rows == 4


def _where(warehouse: Warehouse) -> dict[str, str]:
    """What another process opens the same lake by."""
    return {"catalog": warehouse.catalog, "data": warehouse.data, "extensions": warehouse.extensions}


def _write_beyond_the_limit(where: dict[str, str], said: "multiprocessing.Queue[str]") -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
    try:
        Warehouse(**where).replace_partitions(
            SALES,
            DAYS,
            lambda lake: lake.sql(
                "select hash(i)::bigint as product_id, i as units, '2017-01-01' as partition_key "
                "from range(3000000) t(i)"
            ),
            RUN,
        )
    except LakeError as error:
        said.put(str(error))
    else:
        said.put("written")


def test_a_disk_that_fills_while_writing_loses_nothing(warehouse: Warehouse) -> None:
    warehouse.replace_partitions(SALES, DAYS, rows_of(DAYS), RUN)
    before = warehouse.checksums(SALES)
    # Python ignores the signal that tells of the limit, so that the write fails as on a full disk.
    context = multiprocessing.get_context("spawn")
    said: multiprocessing.Queue[str] = context.Queue()
    process = context.Process(target=_write_beyond_the_limit, args=(_where(warehouse), said))
    process.start()
    message = said.get(timeout=PATIENCE_SECONDS)
    process.join()
    assert "commerce.sales" in message
    assert "what was stored before is intact" in message
    assert warehouse.checksums(SALES) == before


def _write_often(where: dict[str, str], day: str, times: int) -> None:
    warehouse = Warehouse(**where)
    for units in range(times):
        warehouse.replace_partitions(
            SALES, [day], rows_of([day], units=units), Commit(f"{day}-{units}", "commerce/sales")
        )


def _write_concurrently(warehouse: Warehouse, times: int) -> None:
    warehouse.replace_partitions(SALES, DAYS, rows_of(DAYS), RUN)
    before = warehouse.snapshot()
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_often, args=(_where(warehouse), day, times)) for day in DAYS]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        with warehouse.reader() as lake:
            counts = lake.execute(f"select partition_key, count(*) from {SALES.sql} group by 1").fetchall()
        assert dict(counts) == dict.fromkeys(DAYS, 4), "a reader saw half a replacement"
        reads += 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert reads > 0
    assert warehouse.snapshot() == before + times * len(DAYS), "a commit was lost"
    with warehouse.reader() as lake:
        left = lake.execute(f"select distinct units from {SALES.sql}").fetchall()
    assert left == [(times - 1,)]


def test_concurrent_writers_on_a_sqlite_catalog_lose_no_commit(warehouse: Warehouse) -> None:
    _write_concurrently(warehouse, times=4)


def test_concurrent_writers_on_a_postgres_catalog_lose_no_commit(
    environment: Environment, postgres: str, tmp_path: Path
) -> None:
    remote = Warehouse(
        catalog=f"postgres:{postgres}", data=str(tmp_path / "data"), extensions=str(environment.extensions)
    )
    _write_concurrently(remote, times=4)


def test_an_unreachable_catalog_is_named(environment: Environment, tmp_path: Path) -> None:
    remote = Warehouse(
        catalog="postgres:postgresql://nobody@127.0.0.1:1/none",
        data=str(tmp_path / "data"),
        extensions=str(environment.extensions),
    )
    with pytest.raises(LakeError, match="HEADWATER_CATALOG"), remote.reader():
        pass
