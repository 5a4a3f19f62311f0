"""The real daemon, sensors and automation, in processes of their own, from a delivery to the week's mart."""

from pathlib import Path

import dagster as dg
import pytest

from platform_assets.feed.delivery import deliver, select
from platform_assets.instance.services import ServiceError, running
from resources.environment import Environment
from resources.warehouse import TableName, Warehouse
from tests.patience import wait, work_of

pytestmark = pytest.mark.xdist_group("daemon")

WEEK = "2017-01-02"
RAW = TableName("commerce", "raw_transactions")
MART = TableName("commerce", "product_weeks")
UPSTREAM = TableName("commerce", "upstream_transactions")


def times_built(instance: dg.DagsterInstance, table: TableName, partition: str) -> int:
    wanted = dg.AssetRecordsFilter(table.key, asset_partitions=[partition])
    return len(instance.fetch_materializations(wanted, limit=50).records)


def refusals(instance: dg.DagsterInstance) -> str:
    check = dg.AssetCheckKey(RAW.key, "delivery")
    found = instance.event_log_storage.get_asset_check_execution_history(check, limit=20)
    return "\n".join(
        record.event.dagster_event.asset_check_evaluation_data.description or ""
        for record in found
        if record.event and record.status.value == "FAILED"
    )


def test_deliveries_flow_by_themselves_and_a_broken_one_is_refused_by_name(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = tmp_path / "left-the-machine.log"
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "guard"))
    monkeypatch.setenv("HW_GUARD_LOG", str(guard))
    warehouse = Warehouse.of(environment)
    deliver(environment.landing, select(["commerce"], "2017-01-02..2017-01-08"))

    with running(environment, 0), dg.DagsterInstance.from_config(str(environment.dagster_home)) as instance:
        wait("the week", lambda: times_built(instance, MART, WEEK) == 1, work_of(instance))
        days = [f"2017-01-{day:02d}" for day in range(2, 9)]
        assert [times_built(instance, UPSTREAM, day) for day in days] == [1] * 7
        assert set(warehouse.partitions(RAW)) == set(days)
        first = warehouse.checksums(MART)[WEEK]

        deliver(environment.landing, {"commerce.transactions": ["2017-01-04"]}, incident="corrected")
        wait("the corrected week", lambda: times_built(instance, MART, WEEK) == 2, work_of(instance))
        assert warehouse.checksums(MART)[WEEK] != first
        assert [times_built(instance, RAW, day) for day in days] == [1, 1, 2, 1, 1, 1, 1]

        kept = warehouse.checksums(RAW)
        deliver(environment.landing, {"commerce.transactions": ["2017-01-05"]}, incident="truncated")
        wait("the refusal", lambda: "2017-01-05" in refusals(instance), work_of(instance))
        assert "part-00000.parquet" in refusals(instance)
        assert warehouse.checksums(RAW) == kept
        with pytest.raises(ServiceError, match="already runs"), running(environment, 0):
            pass

    with running(environment, 0) as client, dg.DagsterInstance.from_config(str(environment.dagster_home)) as instance:
        deliver(environment.landing, {"commerce.transactions": ["2017-01-05"]})
        wait("the mended day", lambda: times_built(instance, RAW, "2017-01-05") == 2, work_of(instance))
        wait("the end of all runs", lambda: client.active_runs() == 0, work_of(instance))
        assert [times_built(instance, UPSTREAM, day) for day in days] == [1, 1, 2, 3, 1, 1, 1], "lost or repeated"

    assert not guard.exists(), guard.read_text()
