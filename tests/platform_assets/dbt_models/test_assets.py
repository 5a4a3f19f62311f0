"""dbt models as assets over a real lake: exactly the window, in one transaction, recorded only when judged good."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from platform_assets.automation import CUT_OFF
from platform_assets.dbt_models.assets import together
from platform_assets.definitions import build_defs
from platform_assets.feed.delivery import deliver, select
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.deep import adopt
from platform_assets.sources.catalogue import SOURCES
from platform_assets.sources.declaration import Source
from resources.dbt import Dbt, DbtError
from resources.environment import Environment
from resources.warehouse import Commit, TableName, Warehouse

pytestmark = pytest.mark.xdist_group("dbt")

DAYS = ["2017-03-01", "2017-03-02", "2017-03-03"]
DAILY = ["int_transactions_priced", "product_days", "baskets", "category_days"]
DELIVERED = ["commerce/transactions", "commerce/products"]


class Location:
    """The platform's code location over a lake that holds three days of sales."""

    def __init__(self, home: Path, extensions: Path, instance: dg.DagsterInstance) -> None:
        self.environment = Environment.of({"HEADWATER_HOME": str(home)})
        home.mkdir()
        self.environment.extensions.symlink_to(extensions)
        self.warehouse = Warehouse.of(self.environment)
        self.warehouse.snapshot()
        self.dbt = Dbt.of(self.environment)
        self.checker = PartitionChecker.of(self.environment)
        self.job = build_defs(
            resources={
                "warehouse": self.warehouse,
                "dbt": self.dbt,
                "checker": self.checker,
            }
        ).resolve_implicit_global_asset_job_def()
        self.instance = instance

    def build(
        self, names: list[str], first: str | None = None, last: str | None = None, cut_off: bool = False
    ) -> dg.ExecuteInProcessResult:
        span = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
        tags = {key: value for key, value in span.items() if value} if first else {}
        return self.job.execute_in_process(
            instance=self.instance,
            tags={**tags, CUT_OFF: "true"} if cut_off else tags,
            asset_selection=[dg.AssetKey(["commerce", name]) for name in names],
            raise_on_error=False,
        )

    def adopt(self, asset: str, partition: str) -> None:
        """Give what was stored by hand a receipt, so that the gate lets it pass."""
        inspector = self.checker.inspector(self.instance)
        adopted = adopt(inspector, inspector.judged({asset: None}), {asset: [partition]}, "adopted")
        assert adopted == [(asset, partition)]

    def built(self, name: str) -> set[str]:
        return self.instance.get_materialized_partitions(dg.AssetKey(["commerce", name]))

    def files(self, name: str) -> dict[str, str]:
        with self.warehouse.reader() as lake:
            found = lake.execute(f"select data_file from ducklake_list_files('lake', '{name}', schema => 'commerce')")
            return {path.split("partition_key=")[1].split("/")[0]: path for (path,) in found.fetchall()}

    def checksums(self) -> dict[str, dict[str, str]]:
        return {name: self.warehouse.checksums(TableName("commerce", name)) for name in DAILY}


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory, extensions: Path) -> Iterator[Location]:
    home = tmp_path_factory.mktemp("dbt") / "home"
    patch = pytest.MonkeyPatch()
    patch.setenv("HEADWATER_HOME", str(home))
    with dg.DagsterInstance.ephemeral() as instance:
        there = Location(home, extensions, instance)
        selection = select(DELIVERED, f"{DAYS[0]}..{DAYS[-1]}")
        deliver(there.environment.landing, selection)
        assert there.build(["raw_transactions"], DAYS[0], DAYS[-1]).success
        assert there.build(["raw_products"]).success
        assert there.build(["stg_commerce__products", "int_products_classified"]).success
        assert there.build(["stg_commerce__transactions", *DAILY], DAYS[0], DAYS[-1]).success
        yield there
    patch.undo()


def test_a_range_is_one_run_and_records_every_pair(location: Location) -> None:
    for name in ["stg_commerce__transactions", *DAILY]:
        assert location.built(name) == set(DAYS), name
        rows = location.warehouse.partitions(TableName("commerce", name)) if name in DAILY else {}
        assert set(rows) == (set(DAYS) if name in DAILY else set())


def test_rebuilding_one_day_replaces_only_that_days_files(location: Location) -> None:
    before, sums = {name: location.files(name) for name in DAILY}, location.checksums()
    result = location.build(["stg_commerce__transactions", *DAILY], DAYS[1])
    assert result.success
    for name in DAILY:
        after = location.files(name)
        assert {day for day in DAYS if after[day] != before[name][day]} == {DAYS[1]}, name
    assert location.checksums() == sums, "the same inputs gave other rows"
    with location.warehouse.reader() as lake:
        commits = lake.execute(
            "select author, commit_message from lake.snapshots() order by snapshot_id desc limit 4"
        ).fetchall()
    assert set(commits) == {(result.run_id, f"commerce/{name}") for name in DAILY}


def test_lost_days_with_another_between_them_are_healed_by_one_run_that_leaves_the_other_alone(
    location: Location,
) -> None:
    before, sums = location.files("baskets"), location.checksums()
    for day in (DAYS[0], DAYS[2]):
        Path(before[day]).unlink()
    result = location.build(DAILY, DAYS[0], DAYS[2], cut_off=True)
    assert result.success
    after = location.files("baskets")
    assert {day for day in DAYS if after[day] != before[day]} == {DAYS[0], DAYS[2]}
    assert location.checksums() == sums
    with location.warehouse.reader() as lake:
        written = lake.execute(
            "select commit_message from lake.snapshots() "
            "where author = ? and changes['tables_inserted_into'] is not null",
            [result.run_id],
        ).fetchall()
    assert written == [("commerce/baskets",)], "dbt ran more than once, or built more than baskets"


def test_a_run_parses_nothing_again(location: Location) -> None:
    with location.dbt.build(
        [
            "--log-level-file",
            "debug",
            "--select",
            "baskets",
            "--event-time-start",
            DAYS[2],
            "--event-time-end",
            "2017-03-04",
        ],
        location.dbt.manifest(),
        None,  # type: ignore[arg-type]
        "run-x",
    ) as invocation:
        list(invocation.stream_raw_events())
        log = (invocation.target_path / "dbt.log").read_text()
    assert "Partial parsing enabled: 0 files deleted, 0 files added, 0 files changed" in log, log[:2000]


def test_the_catalog_gets_schema_lineage_and_rows(location: Location) -> None:
    event = location.instance.get_latest_materialization_event(dg.AssetKey(["commerce", "product_days"]))
    assert event
    assert event.asset_materialization
    metadata = event.asset_materialization.metadata
    columns = {column.name: column for column in metadata["dagster/column_schema"].value.columns}
    assert columns["price_usd"].description
    assert columns["sales_usd"].type == "DECIMAL(18,2)"
    lineage = metadata["dagster/column_lineage"].value.deps_by_column
    assert {dep.column_name for dep in lineage["price_usd"]} >= {"sales_usd", "units"}
    assert metadata["dagster/partition_row_count"].value > 0
    assert metadata["dagster/row_count"].value == sum(
        part.rows for part in location.warehouse.partitions(TableName("commerce", "product_days")).values()
    )


def test_a_model_whose_test_fails_is_not_recorded_and_holds_back_what_follows(location: Location) -> None:
    raw = TableName("commerce", "raw_transactions")
    with location.warehouse.reader() as lake:
        good = location.warehouse.relation(lake, raw, [DAYS[2]]).to_arrow_table()
    bad = good.set_column(good.column_names.index("sales_value"), "sales_value", [[-1.0] * good.num_rows])
    location.warehouse.replace_partitions(raw, [DAYS[2]], bad, Commit("tampering", "commerce/raw_transactions"))
    assert not location.build(["stg_commerce__transactions", *DAILY], DAYS[2]).success, "the gate let it pass"
    location.adopt("commerce/raw_transactions", DAYS[2])
    before = location.checksums()
    seen = len(location.instance.fetch_materializations(dg.AssetKey(["commerce", "baskets"]), limit=99).records)
    result = location.build(["stg_commerce__transactions", *DAILY], DAYS[2])
    assert not result.success
    failed = [check.check_name for check in result.get_asset_check_evaluations() if not check.passed]
    assert "stg_commerce__transactions_amounts_are_not_negative" in failed
    assert not result.get_asset_materialization_events()
    assert len(location.instance.fetch_materializations(dg.AssetKey(["commerce", "baskets"]), limit=99).records) == seen
    assert location.checksums() == before, "what was stored before is lost"
    location.warehouse.replace_partitions(raw, [DAYS[2]], good, Commit("mending", "commerce/raw_transactions"))
    location.adopt("commerce/raw_transactions", DAYS[2])
    assert location.build(["stg_commerce__transactions", *DAILY], DAYS[2]).success


def test_assets_that_follow_each_other_with_equal_partitions_are_one_run_of_dbt() -> None:
    one, two, three, four = (dg.AssetKey(["commerce", name]) for name in ("one", "two", "three", "four"))
    wave = {one: DAYS, two: list(DAYS), three: DAYS[:1], four: DAYS}
    assert list(together(wave)) == [([one, two], DAYS), ([three], DAYS[:1]), ([four], DAYS)]


def test_unit_tests_of_the_models_pass(location: Location) -> None:
    for source in SOURCES:
        table = TableName.of_key(source.raw_key)
        if not location.warehouse.partitions(table):
            _create_empty(location.warehouse, table, source)
    folder = str(location.environment.home / "unit")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dbt")), "build"]
        + ["--project-dir", location.dbt.project, "--profiles-dir", location.dbt.project]
        + ["--event-time-start", DAYS[0], "--event-time-end", DAYS[1]],
        env={**os.environ, **location.dbt.variables, "DBT_TARGET_PATH": folder, "DBT_LOG_PATH": folder},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    ran = [line for line in done.stdout.splitlines() if " PASS " in line and "::" in line]
    assert len(ran) == len(location.dbt.manifest()["unit_tests"]), done.stdout[-3000:]


def test_a_project_that_does_not_compile_is_refused_with_what_dbt_says(tmp_path: Path, location: Location) -> None:
    project = tmp_path / "dbt"
    shutil.copytree(location.dbt.project, project)
    (project / "models" / "marts" / "commerce" / "baskets.sql").write_text("select {{ ref('nothing') }}")
    broken = Dbt(project=str(project), target=str(tmp_path / "target"), variables=location.dbt.variables)
    with pytest.raises(DbtError, match="nothing"):
        broken.manifest()


def _create_empty(warehouse: Warehouse, table: TableName, source: Source) -> None:
    columns = ", ".join(f'null::{kind} as "{name}"' for name, kind in source.stored_columns.items())
    warehouse.replace_partitions(
        table,
        DAYS if source.partitions else None,
        lambda lake: lake.sql(f"select {columns} limit 0"),
        Commit("test", str(table)),
    )
