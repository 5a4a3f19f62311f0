"""Which runs may still commit, as the events of Dagster say, on SQLite and PostgreSQL, and that the lake asks."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from dagster._core.storage.dagster_run import DagsterRun

from platform_assets.instance.services import instance_settings
from resources.environment import Environment
from resources.run_fence import RunGivenUp, is_given_up
from resources.warehouse import Commit, TableName, Warehouse

WRITTEN = TableName("commerce", "sales")
DAY = "2017-01-01"


@pytest.fixture(params=["sqlite", "postgres"])
def there(request: pytest.FixtureRequest, environment: Environment, tmp_path: Path) -> Iterator[Environment]:
    """An environment whose runs are kept in SQLite, and one where they are in PostgreSQL."""
    if request.param == "sqlite":
        yield environment
        return
    server = request.getfixturevalue("postgres")
    yield Environment.of({"HEADWATER_HOME": str(environment.home), "HEADWATER_DAGSTER_STORAGE": server})


@pytest.fixture
def instance(there: Environment) -> Iterator[dg.DagsterInstance]:
    used = ("storage", "run_storage", "event_log_storage", "schedule_storage")
    settings = {name: found for name, found in instance_settings(there).items() if name in used}
    with dg.DagsterInstance.local_temp(str(there.home), settings) as instance:
        yield instance


def test_a_run_that_was_ended_from_outside_stores_nothing_for_good(
    there: Environment, instance: dg.DagsterInstance
) -> None:
    warehouse = Warehouse.of(there)
    rows = pa.table({"units": [1], "partition_key": [DAY]})
    ends = {"failed": instance.report_run_failed, "canceled": instance.report_run_canceled}
    for how, end in ends.items():
        run = instance.add_run(DagsterRun("job", status=dg.DagsterRunStatus.STARTING))
        commit = Commit(run.run_id, "commerce/sales")
        assert not is_given_up(there.run_events, run.run_id)
        before = warehouse.replace_partitions(WRITTEN, [DAY], rows, commit).snapshot
        end(run, "somebody gave it up")
        # A worker that starts at that moment overwrites the status.
        event = dg.DagsterEvent("PIPELINE_START", run.job_name, message="late")
        instance.report_dagster_event(event, run.run_id)
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]
        with pytest.raises(RunGivenUp, match=f"run {run.run_id} was marked"):
            warehouse.replace_partitions(WRITTEN, [DAY], rows, commit)
        with pytest.raises(RunGivenUp):
            warehouse.forget_files(WRITTEN, ["x.parquet"], commit)
        assert warehouse.snapshot() == before, how


def test_a_run_that_nobody_knows_goes_on(there: Environment, instance: dg.DagsterInstance) -> None:
    assert not is_given_up(there.run_events, "unknown")
    assert not is_given_up("", "unknown")
