"""The catalog's own tables answer which files hold which partitions, since when, and who wrote them."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from resources.environment import Environment
from resources.lake_catalog import DataFiles, LakeCatalog
from resources.warehouse import Commit, LakeError, TableName, Warehouse
from tests.lake_shell import run_sql

SALES, SHOPS = TableName("commerce", "sales"), TableName("commerce", "shops")
DAYS = ["2017-01-01", "2017-01-02", "2017-01-03"]


@pytest.fixture
def lake(request: pytest.FixtureRequest, environment: Environment) -> Warehouse:
    if getattr(request, "param", "sqlite") == "postgresql":
        environment = replace(environment, catalog=request.getfixturevalue("postgres"))
    return Warehouse.of(environment)


in_every_database = pytest.mark.parametrize("lake", ["sqlite", "postgresql"], indirect=True)


def rows_of(days: list[str], per_day: int = 4) -> pa.Table:
    keys = [day for day in days for _ in range(per_day)]
    return pa.table({"units": list(range(len(keys))), "partition_key": keys})


def write(lake: Warehouse, days: list[str], run: str, per_day: int = 4) -> int:
    return lake.replace_partitions(SALES, days, rows_of(days, per_day), Commit(run, "commerce/sales")).snapshot


def by_day(files: DataFiles) -> dict[str, tuple[int, int]]:
    """Rows and newest snapshot of each partition."""
    found: dict[str, tuple[int, int]] = {}
    for day, rows, snapshot in zip(files.partitions, files.rows.tolist(), files.snapshots.tolist(), strict=True):
        before = found.get(day, (0, 0))
        found[day] = before[0] + rows, max(before[1], snapshot)
    return found


@in_every_database
def test_every_file_is_known_by_partition_path_rows_bytes_and_snapshot(lake: Warehouse) -> None:
    snapshot = write(lake, DAYS, "run-1")
    files = LakeCatalog(lake).files()[SALES]
    assert len(files) == 3
    assert by_day(files) == dict.fromkeys(DAYS, (4, snapshot))
    for path, size in zip(files.paths, files.bytes.tolist(), strict=True):
        assert Path(path).is_absolute()
        assert Path(path).stat().st_size == size


def test_a_replaced_partition_has_the_new_files_rows_and_snapshot_only(lake: Warehouse) -> None:
    first = write(lake, DAYS, "run-1")
    before = LakeCatalog(lake).files()[SALES]
    second = write(lake, DAYS[1:2], "run-2", per_day=2)
    after = LakeCatalog(lake).files()[SALES]
    assert by_day(after) == {DAYS[0]: (4, first), DAYS[1]: (2, second), DAYS[2]: (4, first)}
    assert len(set(after.paths) - set(before.paths)) == 1


@in_every_database
def test_deleted_rows_do_not_count_and_move_the_snapshot(lake: Warehouse) -> None:
    first = write(lake, DAYS, "run-1")
    run_sql(lake, f"delete from {SALES.sql} where units in (5, 6)", f"delete from {SALES.sql} where units = 7")
    found = by_day(LakeCatalog(lake).files()[SALES])
    assert found == {DAYS[0]: (4, first), DAYS[1]: (1, lake.snapshot()), DAYS[2]: (4, first)}
    run_sql(lake, f"insert into {SALES.sql} values (9, '{DAYS[1]}')")
    assert by_day(LakeCatalog(lake).files()[SALES])[DAYS[1]] == (2, lake.snapshot())


def test_a_partition_without_rows_has_no_file(lake: Warehouse) -> None:
    write(lake, DAYS, "run-1")
    lake.replace_partitions(SALES, DAYS, rows_of(DAYS[:1]), Commit("run-2", "commerce/sales"))
    assert list(by_day(LakeCatalog(lake).files()[SALES])) == DAYS[:1]


def test_only_the_tables_asked_for_are_answered(lake: Warehouse) -> None:
    write(lake, DAYS, "run-1")
    lake.replace_partitions(SHOPS, None, pa.table({"shop_id": [1, 2]}), Commit("run-1", "commerce/shops"))
    catalog = LakeCatalog(lake)
    assert set(catalog.files()) == {SALES, SHOPS}
    assert set(catalog.files([SHOPS, TableName("commerce", "nothing")])) == {SHOPS}
    assert catalog.files([]) == {}
    assert list(catalog.files([SHOPS])[SHOPS].partitions) == [""]


def test_a_dropped_or_renamed_table_is_not_there(lake: Warehouse) -> None:
    write(lake, DAYS, "run-1")
    run_sql(lake, f"drop table {SALES.sql}")
    assert LakeCatalog(lake).files() == {}
    snapshot = write(lake, DAYS[:1], "run-2")
    assert by_day(LakeCatalog(lake).files()[SALES]) == {DAYS[0]: (4, snapshot)}
    run_sql(lake, f"alter table {SALES.sql} rename to other")
    assert set(LakeCatalog(lake).files()) == {TableName("commerce", "other")}


def test_a_table_that_gained_a_column_keeps_its_files(lake: Warehouse) -> None:
    write(lake, DAYS, "run-1")
    wider = rows_of(DAYS[:1]).append_column("price_usd", pa.array([1.5] * 4))
    lake.replace_partitions(SALES, DAYS[:1], wider, Commit("run-2", "commerce/sales"))
    assert {day: rows for day, (rows, _) in by_day(LakeCatalog(lake).files()[SALES]).items()} == dict.fromkeys(DAYS, 4)


@in_every_database
def test_views_are_those_that_are_there_now(lake: Warehouse) -> None:
    write(lake, DAYS, "run-1")
    run_sql(lake, f"create view lake.commerce.units as select units from {SALES.sql}")
    assert LakeCatalog(lake).views() == {TableName("commerce", "units")}
    assert set(LakeCatalog(lake).files()) == {SALES}
    run_sql(lake, "drop view lake.commerce.units")
    assert LakeCatalog(lake).views() == set()


@in_every_database
def test_the_author_of_a_snapshot_is_the_run_that_its_commit_names(lake: Warehouse) -> None:
    snapshot = write(lake, DAYS, "run-7")
    run_sql(lake, f"delete from {SALES.sql} where units = 0")
    catalog = LakeCatalog(lake)
    assert catalog.author(snapshot) == "run-7"
    assert catalog.author(lake.snapshot()) == catalog.author(10_000) == "somebody who left no name"


@in_every_database
def test_files_that_are_forgotten_are_no_longer_named_and_their_partition_can_be_replaced(lake: Warehouse) -> None:
    write(lake, DAYS, "run-1")
    files = LakeCatalog(lake).files()[SALES]
    gone = files.paths[list(files.partitions).index(DAYS[1])]
    Path(gone).unlink()
    lake.forget_files(SALES, [gone], Commit("run-2", "commerce/sales"))
    forgotten = lake.snapshot()
    assert list(by_day(LakeCatalog(lake).files()[SALES])) == [DAYS[0], DAYS[2]]
    assert LakeCatalog(lake).author(forgotten) == "run-2"
    assert set(lake.checksums(SALES)) == {DAYS[0], DAYS[2]}
    snapshot = write(lake, DAYS[1:2], "run-3")
    assert snapshot > forgotten
    assert by_day(LakeCatalog(lake).files()[SALES])[DAYS[1]] == (4, snapshot)
    assert lake.partitions(SALES)[DAYS[1]].rows == 4


def test_a_missing_catalog_is_refused_with_what_to_do(environment: Environment) -> None:
    with pytest.raises(LakeError, match="catalog cannot be read.*HEADWATER_CATALOG.*headwater prepare") as refused:
        LakeCatalog(Warehouse.of(environment)).files()
    assert "catalog.sqlite" in str(refused.value)
    assert not Path(environment.lake_catalog.removeprefix("sqlite:")).exists(), "looking made one"


def test_a_catalog_that_is_none_is_refused(environment: Environment) -> None:
    path = Path(environment.lake_catalog.removeprefix("sqlite:"))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(LakeError, match=r"catalog .* is damaged"):
        LakeCatalog(Warehouse.of(environment)).views()


def test_a_server_that_does_not_answer_is_named(environment: Environment) -> None:
    nowhere = replace(environment, catalog="postgresql://postgres@127.0.0.1:1/lake")
    with pytest.raises(LakeError, match="catalog cannot be read"):
        LakeCatalog(Warehouse.of(nowhere)).files()
