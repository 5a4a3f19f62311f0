"""Run workers: started, watched, ended."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import LaunchRunContext, WorkerStatus

from platform_assets.operations.run_launcher import WarmRunLauncher
from platform_assets.operations.services import instance_settings
from resources.environment import Environment
from tests.patience import wait
from tests.platform_assets.operations.sleeper import sleeper

pytestmark = pytest.mark.xdist_group("daemon")

PATIENCE_SECONDS = 60


@pytest.fixture
def instance(environment: Environment) -> Iterator[dg.DagsterInstance]:
    settings = instance_settings(environment)
    used = ("run_launcher", "run_storage", "event_log_storage", "schedule_storage")
    with dg.DagsterInstance.local_temp(str(environment.home), {name: settings[name] for name in used}) as instance:
        yield instance


@pytest.fixture
def launcher(instance: dg.DagsterInstance) -> WarmRunLauncher:
    launcher = instance.run_launcher
    assert isinstance(launcher, WarmRunLauncher)
    return launcher


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """The file that the run waits for."""
    return tmp_path / "go"


@pytest.fixture
def run(instance: dg.DagsterInstance, launcher: WarmRunLauncher, go: Path) -> dg.DagsterRun:
    """A started run that waits for the file `go`."""
    run = instance.create_run_for_job(
        sleeper,
        run_config={"ops": {"wait_for": {"config": {"path": str(go)}}}},
        status=dg.DagsterRunStatus.STARTING,
        job_code_origin=dg.reconstructable(sleeper).get_python_origin(),
    )
    launcher.launch_run(LaunchRunContext(run, None))
    wait("the run to start", lambda: status(instance, run) == dg.DagsterRunStatus.STARTED, PATIENCE_SECONDS)
    return run


def status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found
    return found.status


def worker(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int:
    (pid,) = {
        int(entry.dagster_event.engine_event_data.metadata["pid"].value)
        for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        if entry.dagster_event and "pid" in entry.dagster_event.engine_event_data.metadata
    }
    return pid


def health(launcher: WarmRunLauncher, run: dg.DagsterRun) -> WorkerStatus:
    return launcher.check_run_worker_health(run).status


def test_a_run_has_a_worker_of_its_own_that_ends_with_it(
    instance: dg.DagsterInstance, launcher: WarmRunLauncher, run: dg.DagsterRun, go: Path
) -> None:
    assert worker(instance, run) != os.getpid()
    assert health(launcher, run) == WorkerStatus.RUNNING
    go.touch()
    wait("the run to end", lambda: status(instance, run) == dg.DagsterRunStatus.SUCCESS, PATIENCE_SECONDS)
    wait("its worker to end", lambda: health(launcher, run) == WorkerStatus.NOT_FOUND, PATIENCE_SECONDS)


def test_a_killed_worker_is_noticed_by_any_process(
    instance: dg.DagsterInstance, launcher: WarmRunLauncher, run: dg.DagsterRun, environment: Environment
) -> None:
    os.kill(worker(instance, run), signal.SIGKILL)
    wait("its end to be noticed", lambda: health(launcher, run) == WorkerStatus.NOT_FOUND, PATIENCE_SECONDS)
    another = WarmRunLauncher(str(environment.dagster_home / "workers"))
    assert health(another, run) == WorkerStatus.NOT_FOUND


def test_a_run_is_interrupted_on_request(
    instance: dg.DagsterInstance, launcher: WarmRunLauncher, run: dg.DagsterRun
) -> None:
    assert launcher.terminate(run.run_id)
    wait("the run to end", lambda: status(instance, run) == dg.DagsterRunStatus.CANCELED, PATIENCE_SECONDS)
    assert not launcher.terminate(run.run_id)


def test_a_request_to_end_a_run_whose_worker_is_gone_ends_it(
    instance: dg.DagsterInstance, launcher: WarmRunLauncher, run: dg.DagsterRun
) -> None:
    os.kill(worker(instance, run), signal.SIGKILL)
    wait("its end to be noticed", lambda: health(launcher, run) == WorkerStatus.NOT_FOUND, PATIENCE_SECONDS)
    assert not launcher.terminate(run.run_id)
    assert status(instance, run) == dg.DagsterRunStatus.CANCELED
