import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dagster as dg
import pytest

from platform_assets.automation import CUT_OFF
from platform_assets.partition_checker.deep import read_again
from platform_assets.partition_checker.states import State
from platform_assets.sources.arrival import find_arrivals, materialization, recorded_versions
from platform_assets.sources.assets import DELIVERY, EXPECTATIONS, build_raw, build_sources, build_upstream
from platform_assets.sources.catalogue import SOURCES
from platform_assets.sources.declaration import Column, Source, expect
from platform_assets.sources.landing import MARKER
from resources.environment import Environment
from resources.ledger import Input, Ledger
from resources.warehouse import TableName, Warehouse
from tests.platform_assets.sources.conftest import SALES
from tests.small_graph import checker_of

DAYS = ("2017-03-01", "2017-03-02", "2017-03-03")

SHOPS = Source(
    team="commerce",
    entity="shops",
    description="One row per shop.",
    partitions=None,
    file_format="csv",
    columns=(Column("shop_id", "BIGINT", "Shop."),),
    key=("shop_id",),
    expectations=(expect("column_values_to_be_between", column="shop_id", min_value=1),),
)

Build = Callable[..., dg.ExecuteInProcessResult]


def definitions_of(sources: Sequence[Source], warehouse: Warehouse, *others: dg.AssetsDefinition) -> dg.Definitions:
    assets = [*map(build_upstream, sources), *map(build_raw, sources)]
    checker = checker_of(Environment.current(), {"platform_assets": assets}, warehouse=warehouse)
    resources = {"warehouse": warehouse, "checker": checker}
    return dg.Definitions.merge(build_sources(sources), dg.Definitions(others, resources=resources))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def build(environment: Environment, warehouse: Warehouse, instance: dg.DagsterInstance) -> Build:
    """Materialize a raw table, for all days from the first to the last given."""

    def run(
        source: Source, *days: str, lake: Warehouse = warehouse, tags: Mapping[str, str] = MappingProxyType({})
    ) -> dg.ExecuteInProcessResult:
        definitions = definitions_of([source], lake)
        bounds = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
        return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[source.raw_key],
            tags={**(dict(zip(bounds, (days[0], days[-1]), strict=True)) if days else {}), **tags},
            raise_on_error=False,
        )

    return run


def rows_in(warehouse: Warehouse, source: Source) -> dict[str, int]:
    return {key: found.rows for key, found in warehouse.partitions(TableName.of_key(source.raw_key)).items()}


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    error = event.step_failure_data.error
    assert error is not None
    return error.message


def recorded(instance: dg.DagsterInstance, source: Source) -> dict[str | None, Any]:
    """The metadata of the newest materialization of each partition."""
    records = instance.fetch_materializations(source.raw_key, limit=100).records
    return {record.partition_key: record.asset_materialization.metadata for record in reversed(records)}


def runs_of(instance: dg.DagsterInstance, source: Source, run_id: str) -> set[str | None]:
    """The partitions that a run recorded."""
    records = instance.fetch_materializations(source.raw_key, limit=100).records
    return {record.partition_key for record in records if record.run_id == run_id}


def statuses(instance: dg.DagsterInstance, source: Source, name: str) -> dict[str | None, tuple[bool, str | None]]:
    """The latest evaluation of a check by partition: passed, description."""
    history = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(source.raw_key, name), limit=100
    )
    return {
        record.partition: (record.evaluation.passed, record.evaluation.description)
        for record in reversed(history)
        if record.evaluation
    }


def test_every_source_has_an_upstream_asset_a_raw_table_checks_and_its_team_a_sensor(
    warehouse: Warehouse,
) -> None:
    definitions = definitions_of(SOURCES, warehouse)
    specs = {spec.key: spec for spec in definitions.resolve_all_asset_specs()}
    assert set(specs) == {key for source in SOURCES for key in (source.upstream_key, source.raw_key)}
    for source in SOURCES:
        raw = specs[source.raw_key]
        assert [dep.asset_key for dep in raw.deps] == [source.upstream_key]
        assert raw.partitions_def == specs[source.upstream_key].partitions_def == source.partitions
        for spec in (raw, specs[source.upstream_key]):
            assert spec.owners == [f"team:{source.team}"]
            assert spec.group_name == f"{source.team}_sources"
            assert spec.kinds
            assert "One row per" in (spec.description or "")
            assert [c.name for c in spec.metadata["dagster/column_schema"].columns] == [
                column.name for column in source.columns
            ]
    graph = definitions.resolve_asset_graph()
    assert {key for key in graph.asset_check_keys if graph.get(key).blocking} == {
        dg.AssetCheckKey(source.raw_key, name) for source in SOURCES for name in (DELIVERY, EXPECTATIONS)
    }
    assert {sensor.name for sensor in definitions.sensors or ()} == {"commerce_arrivals", "webtoon_arrivals"}


def test_a_run_of_many_partitions_stores_and_records_each(
    build: Build,
    deliver: Any,
    sales_rows: Any,
    sales: Source,
    warehouse: Warehouse,
    instance: dg.DagsterInstance,
) -> None:
    for number, day in enumerate(DAYS, start=2):
        deliver(sales, sales_rows(sales, day, number), day)
    result = build(sales, *DAYS)
    assert result.success
    assert rows_in(warehouse, sales) == {day: number for number, day in enumerate(DAYS, start=2)}
    facts = {day: {k: v.value for k, v in found.items()} for day, found in recorded(instance, sales).items()}
    assert {day: fact["dagster/partition_row_count"] for day, fact in facts.items()} == {
        day: number for number, day in enumerate(DAYS, start=2)
    }
    assert facts[DAYS[0]]["files"] == 1
    assert str(facts[DAYS[0]]["upstream_data_version"]).startswith("2-")
    assert facts[DAYS[0]]["lake snapshot"] == warehouse.snapshot()
    for name in (DELIVERY, EXPECTATIONS):
        assert statuses(instance, sales, name) == dict.fromkeys(DAYS, (True, None))


def test_the_lake_holds_the_declared_columns_and_the_partition(
    build: Build, deliver: Any, sales_rows: Any, sales: Source, warehouse: Warehouse
) -> None:
    deliver(sales, sales_rows(sales, DAYS[0]), DAYS[0])
    build(sales, DAYS[0])
    with warehouse.reader() as lake:
        table = warehouse.relation(lake, TableName.of_key(sales.raw_key))
        assert table.columns == ["partition_key", *(column.name for column in sales.columns)]
        assert list(map(str, table.types)) == ["VARCHAR", *(column.type for column in sales.columns)]
        assert table.order("basket_id").fetchall() == [(DAYS[0], *row.values()) for row in sales_rows(sales, DAYS[0])]


def test_a_bad_partition_is_refused_alone_and_keeps_what_was_stored(
    build: Build, deliver: Any, sales_rows: Any, warehouse: Warehouse, instance: dg.DagsterInstance
) -> None:
    for day in DAYS:
        deliver(SALES, sales_rows(SALES, day), day)
    assert build(SALES, *DAYS).success
    stored = warehouse.checksums(TableName.of_key(SALES.raw_key))
    file = deliver(SALES, sales_rows(SALES, DAYS[1]), DAYS[1])
    file.write_bytes(file.read_bytes()[:-20])
    deliver(SALES, sales_rows(SALES, DAYS[2], 9), DAYS[2])
    result = build(SALES, *DAYS)
    assert not result.success
    message = failure(result)
    assert "source commerce.sales: 1 partitions refused" in message
    assert f"partition {DAYS[1]}, file {file.name}: its Parquet footer cannot be read" in message
    assert "deliver the partition again" in message
    assert "2 other partitions of this run were accepted and are stored" in message
    now = warehouse.checksums(TableName.of_key(SALES.raw_key))
    assert (now[DAYS[0]], now[DAYS[1]]) == (stored[DAYS[0]], stored[DAYS[1]])
    assert rows_in(warehouse, SALES) == {DAYS[0]: 3, DAYS[1]: 3, DAYS[2]: 9}
    assert runs_of(instance, SALES, result.run_id) == {DAYS[0], DAYS[2]}
    passed = {day: found[0] for day, found in statuses(instance, SALES, DELIVERY).items()}
    assert passed == {DAYS[0]: True, DAYS[1]: False, DAYS[2]: True}
    assert file.name in str(statuses(instance, SALES, DELIVERY)[DAYS[1]][1])


def test_a_failed_expectation_is_seen_on_its_check_and_nothing_of_the_partition_is_stored(
    build: Build, deliver: Any, sales_rows: Any, warehouse: Warehouse, instance: dg.DagsterInstance
) -> None:
    for day in DAYS[:2]:
        deliver(SALES, [{**row, "amount_usd": -1.0} for row in sales_rows(SALES, day)], day)
    deliver(SALES, sales_rows(SALES, DAYS[2]), DAYS[2])
    assert "expect_column_values_to_be_between" in failure(build(SALES, *DAYS))
    assert rows_in(warehouse, SALES) == {DAYS[2]: 3}
    assert {day: found[0] for day, found in statuses(instance, SALES, DELIVERY).items()} == dict.fromkeys(DAYS, True)
    passed = {day: found[0] for day, found in statuses(instance, SALES, EXPECTATIONS).items()}
    assert passed == {DAYS[0]: False, DAYS[1]: False, DAYS[2]: True}


def test_downstream_of_another_run_waits_for_just_the_refused_partitions_until_they_are_right(
    build: Build, deliver: Any, sales_rows: Any, warehouse: Warehouse, instance: dg.DagsterInstance
) -> None:
    condition = dg.AutomationCondition.all_deps_blocking_checks_passed() & ~dg.AutomationCondition.any_deps_missing()

    @dg.asset(partitions_def=SALES.partitions, deps=[SALES.raw_key], automation_condition=condition)
    def downstream() -> None: ...

    definitions = definitions_of([SALES], warehouse, downstream)

    def ready() -> Any:
        result = dg.evaluate_automation_conditions(definitions, instance)
        return result.get_requested_partitions(downstream.key)

    deliver(SALES, [{**row, "product_id": None} for row in sales_rows(SALES, DAYS[0])], DAYS[0])
    deliver(SALES, sales_rows(SALES, DAYS[1]), DAYS[1])
    assert not build(SALES, *DAYS[:2]).success
    assert ready() == {DAYS[1]}
    deliver(SALES, sales_rows(SALES, DAYS[0]), DAYS[0])
    assert build(SALES, DAYS[0]).success
    assert ready() == {DAYS[0], DAYS[1]}


def test_a_run_in_which_everything_is_refused_writes_nothing(
    build: Build, deliver: Any, sales_rows: Any, warehouse: Warehouse
) -> None:
    deliver(SALES, sales_rows(SALES, DAYS[0]), DAYS[0], marker=False)
    assert "has no _SUCCESS" in failure(build(SALES, DAYS[0]))
    assert rows_in(warehouse, SALES) == {}


def test_a_source_without_partitions_is_replaced_whole(
    build: Build, deliver: Any, warehouse: Warehouse, instance: dg.DagsterInstance
) -> None:
    deliver(SHOPS, [{"shop_id": 1}, {"shop_id": 2}])
    assert build(SHOPS).success
    assert rows_in(warehouse, SHOPS) == {"": 2}
    assert statuses(instance, SHOPS, DELIVERY) == {None: (True, None)}
    deliver(SHOPS, [{"shop_id": 5}, {"shop_id": 5}])
    assert "partition full, file part-00000.csv: 1 rows repeat the key" in failure(build(SHOPS))
    assert rows_in(warehouse, SHOPS) == {"": 2}
    deliver(SHOPS, [{"shop_id": 5}])
    assert build(SHOPS).success
    assert rows_in(warehouse, SHOPS) == {"": 1}


def test_a_partition_declared_to_be_empty_at_times_is_recorded_with_no_rows(
    build: Build, deliver: Any, warehouse: Warehouse, sales_rows: Any, instance: dg.DagsterInstance
) -> None:
    quiet = replace(SALES, may_be_empty=True)
    deliver(quiet, sales_rows(quiet, DAYS[0]), DAYS[0])
    deliver(quiet, [], DAYS[1])
    result = build(quiet, *DAYS[:2])
    assert result.success
    counts = {day: found["dagster/partition_row_count"].value for day, found in recorded(instance, quiet).items()}
    assert counts == {DAYS[0]: 3, DAYS[1]: 0}
    assert rows_in(warehouse, quiet) == {DAYS[0]: 3}


def test_a_failed_write_names_the_partitions_and_keeps_what_was_stored(
    build: Build, deliver: Any, sales_rows: Any, environment: Environment, warehouse: Warehouse
) -> None:
    for day in DAYS:
        deliver(SALES, sales_rows(SALES, day), day)
    assert build(SALES, DAYS[0]).success
    # The lake cannot make the folder of the second day.
    (folder,) = Path(environment.data).glob(f"**/partition_key={DAYS[0]}")
    folder.with_name(f"partition_key={DAYS[1]}").touch()
    message = failure(build(SALES, *DAYS))
    assert "source commerce.sales: 3 accepted partitions, 2017-03-01 to 2017-03-03, were not stored" in message
    assert "intact" in message
    assert rows_in(warehouse, SALES) == {DAYS[0]: 3}


def arrive(instance: dg.DagsterInstance, source: Source) -> None:
    """Let the sensor's look at the landing zone record what has arrived."""
    landing = Environment.current().landing
    for arrival in find_arrivals([source], landing, lambda one: recorded_versions(instance, one), {}).arrivals:
        instance.report_runless_asset_event(materialization(arrival))


def test_a_receipt_names_the_delivery_that_was_read_and_a_refused_partition_has_failed(
    build: Build, deliver: Any, sales_rows: Any, environment: Environment, instance: dg.DagsterInstance
) -> None:
    deliver(SALES, sales_rows(SALES, DAYS[0]), DAYS[0])
    deliver(SALES, sales_rows(SALES, DAYS[1]), DAYS[1], marker=False)
    run = build(SALES, *DAYS[:2])
    ledger = Ledger.of(environment)
    (receipt,) = ledger.current("commerce/raw_sales").values()
    version = recorded(instance, SALES)[DAYS[0]]["upstream_data_version"].value
    assert receipt.inputs == (Input("commerce/upstream_sales", DAYS[0], version, version),)
    assert (receipt.rows, receipt.run_id) == (3, run.run_id)
    (attempt,) = ledger.attempts()
    assert (attempt.partition, attempt.run_id) == (DAYS[1], run.run_id)
    assert attempt.error.startswith(f"partition {DAYS[1]}: ")
    assert "_SUCCESS" in attempt.error


def test_with_the_cut_off_a_delivery_that_is_as_it_was_is_confirmed_and_passes_its_checks_anew(
    build: Build, deliver: Any, sales_rows: Any, environment: Environment, instance: dg.DagsterInstance
) -> None:
    for day in DAYS[:2]:
        deliver(SALES, sales_rows(SALES, day), day)
    arrive(instance, SALES)
    assert build(SALES, *DAYS[:2]).success
    deliver(SALES, sales_rows(SALES, DAYS[1], 5), DAYS[1])
    arrive(instance, SALES)
    run = build(SALES, *DAYS[:2], tags={CUT_OFF: "true"})
    assert run.success
    receipts = Ledger.of(environment).current("commerce/raw_sales")
    assert {day: (one.reused, one.rows, one.run_id) for day, one in receipts.items()} == {
        DAYS[0]: (True, 3, run.run_id),
        DAYS[1]: (False, 5, run.run_id),
    }
    for name in (DELIVERY, EXPECTATIONS):
        check = dg.AssetCheckKey(SALES.raw_key, name)
        infos = instance.event_log_storage.get_asset_check_partition_info([check])
        assert {info.partition_key: info.is_current for info in infos} == dict.fromkeys(DAYS[:2], True)
        assert statuses(instance, SALES, name)[DAYS[0]] == (True, None)


def test_the_code_version_changes_with_the_required_columns_only() -> None:
    def version(source: Source) -> str | None:
        return build_raw(source).get_asset_spec(source.raw_key).code_version

    assert version(SALES) == version(replace(SALES, description="One row per basket and product, anew."))
    assert version(SALES) != version(replace(SALES, columns=_but(SALES, "is_member")))
    assert version(SALES) == version(replace(SALES, columns=_but(SALES, "note")))


def _but(source: Source, name: str) -> tuple[Column, ...]:
    return tuple(column for column in source.columns if column.name != name)


def state_of(instance: dg.DagsterInstance, source: Source, warehouse: Warehouse, day: str) -> State:
    """How a pair of the raw table stands, its rows read again."""
    checker = checker_of(
        Environment.current(), {"platform_assets": [build_upstream(source), build_raw(source)]}, warehouse=warehouse
    )
    inspector, name = checker.inspector(instance), "/".join(source.raw_key.path)
    pairs = inspector.judged({name: None})[name].pairs()
    (found,) = read_again(
        inspector, inspector.graph.named[name], [one for one in pairs if one.partition == day], lambda read: None
    )
    return found.state


def test_a_correction_with_the_size_and_the_time_of_before_makes_its_pair_outdated(
    build: Build, deliver: Any, sales_rows: Any, warehouse: Warehouse, instance: dg.DagsterInstance
) -> None:
    source = replace(SALES, file_format="csv")
    file = deliver(source, sales_rows(source, DAYS[0]), DAYS[0])
    arrive(instance, source)
    assert build(source, DAYS[0]).success
    assert state_of(instance, source, warehouse, DAYS[0]) is State.VERIFIED
    stat = file.stat()
    file.write_bytes(file.read_bytes().replace(b"100,7", b"900,7"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (file.parent / MARKER).touch()
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    arrive(instance, source)
    assert state_of(instance, source, warehouse, DAYS[0]) is State.OUTDATED
    assert build(source, DAYS[0]).success
    assert state_of(instance, source, warehouse, DAYS[0]) is State.VERIFIED


def test_a_delivery_recorded_with_another_number_of_rows_is_the_one_that_was_read(
    build: Build, deliver: Any, sales_rows: Any, warehouse: Warehouse, instance: dg.DagsterInstance
) -> None:
    deliver(SALES, sales_rows(SALES, DAYS[0]), DAYS[0])
    (found,) = find_arrivals([SALES], Environment.current().landing, lambda source: {}, {}).arrivals
    counted = replace(found.fingerprint, data_version=found.fingerprint.data_version.replace("3-", "5-", 1))
    instance.report_runless_asset_event(materialization(replace(found, fingerprint=counted)))
    assert build(SALES, DAYS[0]).success
    assert state_of(instance, SALES, warehouse, DAYS[0]) is State.VERIFIED
    arrive(instance, SALES)
    assert state_of(instance, SALES, warehouse, DAYS[0]) is State.VERIFIED


def test_what_is_in_the_way_of_one_partition_refuses_it_by_name_and_the_others_are_stored(
    build: Build, deliver: Any, sales_rows: Any, warehouse: Warehouse, instance: dg.DagsterInstance
) -> None:
    for day in DAYS:
        deliver(SALES, sales_rows(SALES, day), day)
    folder = SALES.partition_dir(Environment.current().landing, DAYS[0])
    (folder / "part-1.parquet").mkdir()
    marker = SALES.partition_dir(Environment.current().landing, DAYS[2]) / MARKER
    marker.unlink()
    marker.symlink_to(MARKER)
    message = failure(build(SALES, *DAYS))
    assert "source commerce.sales: 2 partitions refused" in message
    assert f"partition {DAYS[0]}, file part-1.parquet: it is a folder, not a file" in message
    assert f"partition {DAYS[2]}: {marker} cannot be read: its symbolic links lead in a circle" in message
    assert rows_in(warehouse, SALES) == {DAYS[1]: 3}
