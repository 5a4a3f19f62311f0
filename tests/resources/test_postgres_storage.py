"""However many instances a process opens on PostgreSQL, and however much it asks, it keeps a few connections."""

from dataclasses import replace

import dagster as dg
import psycopg2
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.storage.dagster_run import DagsterRun

from resources import postgres_storage
from resources.environment import Environment
from resources.postgres_storage import kept_open
from tests.patience import wait
from tests.resources.instances import opened


@pytest.fixture
def environment(environment: Environment, postgres: str) -> Environment:
    return replace(environment, dagster_storage=postgres)


def connections(url: str) -> int:
    """How many there are to the database, besides the one that asks."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
            )
            (found,) = cursor.fetchone() or (0,)
            return int(found)
    finally:
        connection.close()


def test_many_instances_need_no_more_connections_than_one(environment: Environment, postgres: str) -> None:
    first = 0
    for number in range(4):
        with opened(environment) as instance:
            instance.add_run(DagsterRun("job", run_id=f"run-{number}"))
            for _ in range(5):
                assert len(instance.get_runs()) == number + 1
                assert instance.all_instigator_state(instigator_type=InstigatorType.SENSOR) == []
                instance.report_runless_asset_event(dg.AssetMaterialization("asset"))
            assert instance.get_latest_materialization_event(dg.AssetKey("asset"))
        first = first or connections(postgres)
    assert kept_open(postgres).pool.checkedin() <= 2
    # A server process ends a moment after its connection.
    wait("other connections to end", lambda: connections(postgres) <= first)


def test_a_connection_that_the_server_ended_is_opened_again(
    environment: Environment, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_storage, "_RESTED_SECONDS", 0.0)
    with opened(environment) as instance:
        instance.add_run(DagsterRun("job", run_id="run"))
        connection = psycopg2.connect(postgres)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
        connection.close()
        assert [run.run_id for run in instance.get_runs()] == ["run"]
        assert instance.all_instigator_state() == []
