"""dbt models as assets over a real lake: exactly the window, in one transaction, recorded only when judged good."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from platform_assets.automation import CUT_OFF
from platform_assets.dbt_models.assets import together
from platform_assets.definitions import build_defs
from platform_assets.feed.delivery import deliver, select
from platform_assets.instance.services import instance_settings
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.deep import adopt
from platform_assets.partitioned_checks import REPEATS, newest_materializations
from platform_assets.sources.catalogue import SOURCES
from platform_assets.sources.declaration import Source
from resources.dbt import Dbt, DbtError
from resources.environment import Environment
from resources.warehouse import Commit, TableName, Warehouse
from tests.evaluations import evaluations_of

pytestmark = pytest.mark.xdist_group("dbt")

DAYS = ["2017-03-01", "2017-03-02", "2017-03-03"]
DAILY = ["int_transactions_priced", "product_days", "baskets", "category_days"]
DELIVERED = ["commerce/transactions", "commerce/products"]
BASKETS = "baskets_one_row_per_basket"


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Why a run failed."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    error = event.step_failure_data.error
    return str(error.cause.message if error and error.cause else error and error.message)


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
        self.resources = {"warehouse": self.warehouse, "dbt": self.dbt, "checker": self.checker}
        self.defs = build_defs(resources=self.resources)
        self.job = self.defs.resolve_implicit_global_asset_job_def()
        self.instance = instance

    def build(
        self,
        names: list[str],
        first: str | None = None,
        last: str | None = None,
        cut_off: bool = False,
        run_id: str | None = None,
    ) -> dg.ExecuteInProcessResult:
        span = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
        tags = {key: value for key, value in span.items() if value} if first else {}
        return self.job.execute_in_process(
            instance=self.instance,
            tags={**tags, CUT_OFF: "true"} if cut_off else tags,
            asset_selection=[dg.AssetKey(["commerce", name]) for name in names],
            raise_on_error=False,
            run_id=run_id,
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

    def recorded_by(self, name: str) -> dict[str, str]:
        """The run that recorded each partition last."""
        found = newest_materializations(self.instance, dg.AssetKey(["commerce", name]), DAYS)
        return {str(record.partition_key): record.run_id for record in found}

    def check(self, key: dg.AssetCheckKey, first: str, last: str) -> dg.ExecuteInProcessResult:
        """A run of one check and nothing else."""
        job = dg.define_asset_job("checks", dg.AssetSelection.checks(key))
        assets = list(self.defs.resolve_asset_graph().assets_defs)
        return (
            dg.Definitions(assets=assets, jobs=[job])
            .resolve_job_def("checks")
            .execute_in_process(
                instance=self.instance,
                tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
                raise_on_error=False,
            )
        )

    def verdicts(self, result: dg.ExecuteInProcessResult, check: str) -> dict[str | None, bool]:
        found = evaluations_of(self.instance, result.run_id)
        return {one.partition: one.passed for one in found if one.check_name == check}

    def states(self, check: str) -> dict[str | None, str]:
        """What Dagster takes for the state of each partition of a check."""
        (key,) = [key for key in self.defs.resolve_asset_graph().asset_check_keys if key.name == check]
        found = self.instance.event_log_storage.get_asset_check_partition_info([key])
        return {info.partition_key: info.latest_execution_status.value for info in found if info.is_current}

    def checksums(self) -> dict[str, dict[str, str]]:
        return {name: self.warehouse.checksums(TableName("commerce", name)) for name in DAILY}


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory, extensions: Path, warm_dbt: None) -> Iterator[Location]:
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


def test_dbt_commits_nothing_of_a_run_that_was_given_up(location: Location) -> None:
    before = {name: location.files(name) for name in DAILY}
    run = dg.DagsterRun("given_up")
    events = instance_settings(location.environment)["event_log_storage"]
    home = location.environment.dagster_home
    home.mkdir(exist_ok=True)
    with dg.DagsterInstance.local_temp(str(home), {"event_log_storage": events}) as instance:
        instance.add_run(run)
        instance.report_run_failed(run, "it took too long to start")
    result = location.build(DAILY, DAYS[0], run_id=run.run_id)
    assert not result.success
    said = str([event.event_specific_data for event in result.all_events if event.is_step_failure])
    assert f"run {run.run_id} was marked as failed or canceled" in said
    assert {name: location.files(name) for name in DAILY} == before
    assert location.build(DAILY, DAYS[0]).success


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


def test_a_failure_of_one_day_holds_back_that_days_readers_and_nobody_elses(location: Location) -> None:
    raw, failing = TableName("commerce", "raw_transactions"), "stg_commerce__transactions_amounts_are_not_negative"
    with location.warehouse.reader() as lake:
        good = location.warehouse.relation(lake, raw, [DAYS[1]]).to_arrow_table()
    bad = good.set_column(good.column_names.index("sales_value"), "sales_value", [[-1.0] * good.num_rows])
    location.warehouse.replace_partitions(raw, [DAYS[1]], bad, Commit("tampering", "commerce/raw_transactions"))
    assert not location.build(["stg_commerce__transactions", *DAILY], DAYS[1]).success, "the gate let it pass"
    location.adopt("commerce/raw_transactions", DAYS[1])
    before, sums = location.recorded_by("baskets"), location.checksums()
    result = location.build(["stg_commerce__transactions", *DAILY], DAYS[0], DAYS[2])
    assert not result.success
    assert location.verdicts(result, failing) == {DAYS[0]: True, DAYS[1]: False, DAYS[2]: True}
    assert location.verdicts(result, "stg_commerce__transactions_one_row_per_basket_and_product") == dict.fromkeys(
        DAYS, True
    )
    for name in ("stg_commerce__transactions", *DAILY):
        runs = location.recorded_by(name)
        assert (runs[DAYS[0]], runs[DAYS[2]]) == (result.run_id, result.run_id), name
        assert runs[DAYS[1]] != result.run_id, name
    assert location.recorded_by("baskets")[DAYS[1]] == before[DAYS[1]]
    assert location.checksums() == sums, "what was stored before is lost"
    assert f"{failing}" in failure(result)
    assert f"in {DAYS[1]}" in failure(result)
    assert location.states(failing) == {DAYS[0]: "SUCCEEDED", DAYS[1]: "FAILED", DAYS[2]: "SUCCEEDED"}
    location.warehouse.replace_partitions(raw, [DAYS[1]], good, Commit("mending", "commerce/raw_transactions"))
    location.adopt("commerce/raw_transactions", DAYS[1])
    assert location.build(["stg_commerce__transactions", *DAILY], DAYS[1]).success
    assert location.states(failing) == dict.fromkeys(DAYS, "SUCCEEDED")


def test_a_run_that_confirms_every_pair_answers_each_check_that_it_planned_without_dbt(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = location.recorded_by("baskets")

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("dbt was started")

    with monkeypatch.context() as patch:
        patch.setattr(Dbt, "build", refused)
        result = location.build(DAILY, DAYS[0], DAYS[2], cut_off=True)
    assert result.success
    planned = location.instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED)
    checks = {
        entry.get_dagster_event().asset_check_planned_data.check_name
        for entry in planned
        if entry.step_key == "dbt_commerce_daily"
    }
    assert len(checks) > 5
    found = [one for one in evaluations_of(location.instance, result.run_id) if one.check_name in checks]
    assert {(one.check_name, one.partition) for one in found} == {(check, day) for check in checks for day in DAYS}
    assert all(one.passed for one in found)
    repeated = {one.partition: one.metadata[REPEATS].value for one in found if one.check_name == BASKETS}
    assert repeated == built
    assert location.states(BASKETS) == dict.fromkeys(DAYS, "SUCCEEDED")
    again = location.build(DAILY, DAYS[0], DAYS[2], cut_off=True)
    found = evaluations_of(location.instance, again.run_id)
    assert {one.partition: one.metadata[REPEATS].value for one in found if one.check_name == BASKETS} == built


def test_a_new_test_is_asked_about_pairs_that_are_confirmed(location: Location) -> None:
    storage = location.instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    with storage.index_connection() as index:
        index.execute(
            AssetCheckExecutionsTable.delete().where(
                AssetCheckExecutionsTable.c.check_name == BASKETS, AssetCheckExecutionsTable.c.partition != DAYS[1]
            )
        )
    before = location.recorded_by("baskets")
    result = location.build(DAILY, DAYS[0], DAYS[2], cut_off=True)
    assert result.success
    found = {
        one.partition: REPEATS in one.metadata
        for one in evaluations_of(location.instance, result.run_id)
        if one.check_name == BASKETS
    }
    assert found == {DAYS[0]: False, DAYS[1]: True, DAYS[2]: False}
    assert location.files("baskets").keys() == before.keys()
    assert location.states(BASKETS) == dict.fromkeys(DAYS, "SUCCEEDED")


def test_a_check_that_is_run_by_itself_judges_what_is_stored_and_builds_nothing(location: Location) -> None:
    before = location.recorded_by("baskets")
    key = dg.AssetCheckKey(dg.AssetKey(["commerce", "baskets"]), BASKETS)

    def judged(first: str, last: str) -> dg.ExecuteInProcessResult:
        return location.check(key, first, last)

    result = judged(DAYS[0], DAYS[1])
    assert result.success
    assert location.verdicts(result, BASKETS) == {DAYS[0]: True, DAYS[1]: True}
    assert location.recorded_by("baskets") == before
    missing = judged(DAYS[2], "2017-03-04")
    assert "cannot judge commerce/baskets@2017-03-04: materialize it first" in failure(missing)


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
