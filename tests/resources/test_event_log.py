"""The event log: what is recorded together is there together, on SQLite as on PostgreSQL, and as Dagster stores it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as db
from dagster._core.events import DagsterEvent, DagsterEventBatchMetadata, DagsterEventType
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, AssetKeyTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from platform_assets.partitioned_checks import partitioned_check
from resources.check_executions import evaluations_of_runs
from resources.environment import Environment
from resources.event_batches import EventBatches
from tests.resources.instances import opened

DAYS = dg.DailyPartitionsDefinition("2017-01-01", end_date="2017-01-31")
KEY = dg.AssetKey(["commerce", "days"])


@dg.asset(key=KEY, partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def days(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    for key in context.partition_keys:
        context.add_asset_metadata({"dagster/partition_row_count": int(key[-2:])}, KEY, key)
    return dg.MaterializeResult()


@pytest.fixture
def instance(stored_in: Environment, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", stored_in.variables["DAGSTER_EVENT_BATCH_SIZE"])
    with opened(stored_in) as instance:
        yield instance


def build(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    tags = {"dagster/asset_partition_range_start": "2017-01-01", "dagster/asset_partition_range_end": "2017-01-30"}
    return dg.materialize([days], instance=instance, tags=tags)


def test_the_partitions_of_a_step_are_recorded_in_one_transaction(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    store = EventBatches.store_together

    def counted(self: EventBatches, index: db.Connection, events: list[dg.EventLogEntry]) -> None:
        sizes.append((events[0].dagster_event_type, len(events)))
        store(self, index, events)

    monkeypatch.setattr(EventBatches, "store_together", counted)
    run = build(instance)
    assert (dg.DagsterEventType.ASSET_MATERIALIZATION, 30) in sizes
    assert instance.get_materialized_partitions(KEY) == set(DAYS.get_partition_keys())
    found = instance.fetch_materializations(dg.AssetRecordsFilter(KEY, asset_partitions=["2017-01-07"]), limit=1)
    recorded = found.records[0].asset_materialization
    assert recorded
    assert recorded.metadata["dagster/partition_row_count"].value == 7
    assert found.records[0].run_id == run.run_id
    newest = instance.get_latest_materialization_event(KEY)
    assert newest
    assert newest.asset_materialization
    assert newest.asset_materialization.partition == "2017-01-30"
    logged = [e for e in instance.all_logs(run.run_id) if e.asset_materialization]
    assert [e.asset_materialization.partition for e in logged if e.asset_materialization] == DAYS.get_partition_keys()


def test_a_batch_that_breaks_off_leaves_nothing_in_the_index(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build(instance)
    events = [entry for entry in instance.all_logs(run.run_id) if entry.asset_materialization]
    instance.wipe_assets([KEY])
    storage = instance.event_log_storage

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(storage, "_store_asset_event", full)
    with pytest.raises(OSError, match="no space left"):
        storage.store_event_batch(events)
    assert instance.get_materialized_partitions(KEY) == set()


CHECKED = dg.AssetKey(["commerce", "checked"])
CHECKS = [partitioned_check(name, CHECKED, DAYS, "", blocking=True) for name in ("even", "small")]


@dg.multi_asset(
    specs=[dg.AssetSpec(CHECKED, partitions_def=DAYS)],
    check_specs=CHECKS,
    can_subset=True,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def checked(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
    """Evaluates two checks of each partition in one batch, the last of each twice."""
    step = context.get_step_execution_context()
    said = [(check, day, int(day[-2:])) for check in CHECKS for day in (*context.partition_keys, "2017-01-05")]
    for number, (check, day, value) in enumerate(said, start=1):
        passed = value % 2 == 0 if check.name == "even" else value < 20
        DagsterEvent.from_step(
            DagsterEventType.ASSET_CHECK_EVALUATION,
            step,
            dg.AssetCheckEvaluation(CHECKED, check.name, passed, {"value": value}, partition=day, blocking=True),
            batch_metadata=DagsterEventBatchMetadata("one", number == len(said)),
        )
    yield dg.MaterializeResult(CHECKED)


def check_days(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    tags = {"dagster/asset_partition_range_start": "2017-01-01", "dagster/asset_partition_range_end": "2017-01-30"}
    return dg.materialize([checked], instance=instance, tags=tags)


def tables(instance: dg.DagsterInstance) -> dict[str, list[tuple[Any, ...]]]:
    """What the log's tables say, without what no two runs have in common."""
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    events, checks = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
    asked = {
        "events": db.select(events.dagster_event_type, events.asset_key, events.partition).where(
            events.dagster_event_type.in_([kind.value for kind in DagsterEventType if "ASSET" in kind.value])
        ),
        "checks": db.select(checks.asset_key, checks.check_name, checks.partition, checks.execution_status),
        "assets": db.select(AssetKeyTable.c.asset_key),
    }
    with storage.index_connection() as index:
        return {name: sorted(map(tuple, index.execute(query)), key=repr) for name, query in asked.items()}


def test_a_batch_leaves_what_dagster_leaves_of_single_events(
    stored_in: Environment, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_days(instance).success
    batched = tables(instance)
    if stored_in.dagster_storage != "sqlite":
        instance.wipe()
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "0")
    single = replace(stored_in, home=stored_in.home / "single")
    single.home.mkdir()
    with opened(single) as other:
        assert check_days(other).success
        assert tables(other) == batched
    assert {status for *_, status in batched["checks"]} == {"SUCCEEDED", "FAILED"}
    assert len(batched["checks"]) == 2 * 30


def test_states_of_checks_are_those_of_the_newest_evaluation_of_each_partition(instance: dg.DagsterInstance) -> None:
    check_days(instance)
    found = instance.event_log_storage.get_asset_check_partition_info([CHECKS[0].key])
    states = {info.partition_key: info.latest_execution_status.value for info in found}
    assert states["2017-01-04"] == "SUCCEEDED"
    assert states["2017-01-05"] == "FAILED"
    assert len(states) == 30


def test_what_a_run_found_is_read_by_partition_and_not_what_it_planned(instance: dg.DagsterInstance) -> None:
    first = check_days(instance).run_id
    runs = {"2017-01-04": first, "2017-01-05": first, "2017-01-06": "another"}
    found = evaluations_of_runs(instance, CHECKS[0].key, runs)
    assert {partition: one.passed for partition, one in found.items()} == {"2017-01-04": True, "2017-01-05": False}
    assert found["2017-01-04"].metadata["value"].value == 4


def test_a_batch_of_more_rows_than_a_statement_takes_values_is_one_transaction(instance: dg.DagsterInstance) -> None:
    run = check_days(instance)
    (entry,) = [
        entry
        for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION)
        if entry.get_dagster_event().asset_check_evaluation_data.partition == "2017-01-04"
        and entry.get_dagster_event().asset_check_evaluation_data.check_name == "even"
    ]
    event = entry.get_dagster_event()
    many = [
        entry._replace(
            dagster_event=event._replace(
                event_specific_data=dg.AssetCheckEvaluation(CHECKED, "even", True, {}, partition=f"p{number}")
            )
        )
        for number in range(12_000)
    ]
    instance.event_log_storage.store_event_batch(many)
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    with storage.index_connection() as index:
        stored = index.execute(db.select(db.func.count()).select_from(AssetCheckExecutionsTable)).scalar()
    assert stored == 60 + 12_000
