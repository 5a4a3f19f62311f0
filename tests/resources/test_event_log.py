"""The event log: what is recorded together is there together."""

from collections.abc import Iterator

import dagster as dg
import pytest

from platform_assets.operations.services import instance_settings
from resources.environment import Environment
from resources.event_log import PooledSqliteEventLogStorage

DAYS = dg.DailyPartitionsDefinition("2017-01-01", end_date="2017-01-31")
KEY = dg.AssetKey(["commerce", "days"])


@dg.asset(key=KEY, partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def days(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    for key in context.partition_keys:
        context.add_asset_metadata({"dagster/partition_row_count": int(key[-2:])}, KEY, key)
    return dg.MaterializeResult()


@pytest.fixture
def instance(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", environment.variables["DAGSTER_EVENT_BATCH_SIZE"])
    settings = instance_settings(environment)
    used = ("run_storage", "event_log_storage", "schedule_storage")
    with dg.DagsterInstance.local_temp(str(environment.home), {name: settings[name] for name in used}) as instance:
        yield instance


def build(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    tags = {"dagster/asset_partition_range_start": "2017-01-01", "dagster/asset_partition_range_end": "2017-01-30"}
    return dg.materialize([days], instance=instance, tags=tags)


def test_the_partitions_of_a_step_are_recorded_in_one_transaction(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    store = PooledSqliteEventLogStorage.store_event_batch

    def counted(self: PooledSqliteEventLogStorage, events: list[dg.EventLogEntry]) -> None:
        sizes.append((events[0].dagster_event_type, len(events)))
        store(self, events)

    monkeypatch.setattr(PooledSqliteEventLogStorage, "store_event_batch", counted)
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
