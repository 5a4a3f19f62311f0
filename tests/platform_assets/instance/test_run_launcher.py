"""Run workers: started, watched, ended."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import LaunchRunContext, WorkerStatus
from dagster._serdes import serialize_value

from platform_assets.instance import run_launcher
from platform_assets.instance.daemon import monitor_starting_run
from platform_assets.instance.run_launcher import WarmRunLauncher
from platform_assets.instance.services import instance_settings
from resources.environment import Environment
from resources.warehouse import Warehouse
from tests.patience import slowness, wait
from tests.platform_assets.instance.sleeper import WRITTEN, sleeper, writer

pytestmark = pytest.mark.xdist_group("daemon")

GIVEN_UP_SECONDS = 10
"""Within this a worker has to have ended whose run was given up."""


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
    run = created(instance, go)
    launcher.launch_run(LaunchRunContext(run, None))
    wait("the run to start", lambda: status(instance, run) == dg.DagsterRunStatus.STARTED)
    return run


def created(instance: dg.DagsterInstance, go: Path, job: dg.JobDefinition = sleeper, **config: str) -> dg.DagsterRun:
    """A run that is about to be launched."""
    (op,) = job.nodes
    return instance.create_run_for_job(
        job,
        run_config={"ops": {op.name: {"config": {"path": str(go), **config}}}},
        status=dg.DagsterRunStatus.STARTING,
        job_code_origin=dg.reconstructable(job).get_python_origin(),
    )


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
    wait("the run to end", lambda: status(instance, run) == dg.DagsterRunStatus.SUCCESS)
    wait("its worker to end", lambda: health(launcher, run) == WorkerStatus.NOT_FOUND)


def test_a_killed_worker_is_noticed_by_any_process(
    instance: dg.DagsterInstance, launcher: WarmRunLauncher, run: dg.DagsterRun, environment: Environment
) -> None:
    os.kill(worker(instance, run), signal.SIGKILL)
    wait("its end to be noticed", lambda: health(launcher, run) == WorkerStatus.NOT_FOUND)
    another = WarmRunLauncher(str(environment.dagster_home / "workers"))
    assert health(another, run) == WorkerStatus.NOT_FOUND


def test_a_run_is_interrupted_on_request(
    instance: dg.DagsterInstance, launcher: WarmRunLauncher, run: dg.DagsterRun
) -> None:
    assert launcher.terminate(run.run_id)
    wait("the run to end", lambda: status(instance, run) == dg.DagsterRunStatus.CANCELED)
    assert not launcher.terminate(run.run_id)


def test_a_request_to_end_a_run_whose_worker_is_gone_ends_it(
    instance: dg.DagsterInstance, launcher: WarmRunLauncher, run: dg.DagsterRun
) -> None:
    os.kill(worker(instance, run), signal.SIGKILL)
    wait("its end to be noticed", lambda: health(launcher, run) == WorkerStatus.NOT_FOUND)
    assert not launcher.terminate(run.run_id)
    assert status(instance, run) == dg.DagsterRunStatus.CANCELED


@pytest.mark.parametrize("by", ["the monitor", "a person"])
def test_a_worker_whose_run_is_given_up_ends(
    instance: dg.DagsterInstance, launcher: WarmRunLauncher, run: dg.DagsterRun, go: Path, by: str
) -> None:
    if by == "the monitor":
        instance.report_run_failed(run, "its worker seemed gone")
    else:
        instance.report_run_canceled(run, "by force")
    given_up, began = status(instance, run), time.monotonic()
    wait("its worker to end", lambda: health(launcher, run) == WorkerStatus.NOT_FOUND)
    assert time.monotonic() - began < GIVEN_UP_SECONDS * slowness()
    assert status(instance, run) == given_up


def test_a_run_that_was_given_up_before_its_worker_came_does_nothing(
    instance: dg.DagsterInstance, launcher: WarmRunLauncher, go: Path, environment: Environment
) -> None:
    go.touch()
    run = created(instance, go)
    instance.report_run_failed(run, "it took too long to start")
    launcher.launch_run(LaunchRunContext(run, None))
    worker = environment.dagster_home / "workers" / f"{run.run_id}.pid"
    wait("its worker", worker.exists)
    wait("its worker to end", lambda: health(launcher, run) == WorkerStatus.NOT_FOUND)
    assert status(instance, run) == dg.DagsterRunStatus.FAILURE
    assert not instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)


def test_a_run_that_was_given_up_stores_nothing_however_deaf_its_worker(
    instance: dg.DagsterInstance, launcher: WarmRunLauncher, go: Path, environment: Environment
) -> None:
    run = created(instance, go, writer, home=str(environment.home))
    launcher.launch_run(LaunchRunContext(run, None))
    started = dg.DagsterEventType.STEP_START
    wait("it to begin", lambda: bool(instance.all_logs(run.run_id, of_type=started)))
    instance.report_run_failed(run, "its worker seemed gone")
    go.touch()
    began = time.monotonic()
    wait("its worker to end", lambda: health(launcher, run) == WorkerStatus.NOT_FOUND)
    assert time.monotonic() - began < GIVEN_UP_SECONDS * slowness()
    assert Warehouse.of(environment).tables() == []


def test_a_run_that_goes_on_stores_what_it_writes(
    instance: dg.DagsterInstance, launcher: WarmRunLauncher, go: Path, environment: Environment
) -> None:
    run = created(instance, go, writer, home=str(environment.home))
    go.touch()
    launcher.launch_run(LaunchRunContext(run, None))
    wait("the run to end", lambda: status(instance, run) == dg.DagsterRunStatus.SUCCESS)
    assert Warehouse.of(environment).partitions(WRITTEN)["2017-01-01"].rows == 1


def test_a_worker_ends_with_the_process_that_launched_it(
    instance: dg.DagsterInstance, launcher: WarmRunLauncher, go: Path
) -> None:
    run = created(instance, go)
    code = (
        "import sys, dagster as dg\n"
        "from dagster._core.launcher import LaunchRunContext\n"
        "from dagster._serdes import deserialize_value\n"
        "with dg.DagsterInstance.from_ref(deserialize_value(sys.argv[1])) as instance:\n"
        "    run = instance.get_run_by_id(sys.argv[2])\n"
        "    instance.run_launcher.launch_run(LaunchRunContext(run, None))\n"
        "    sys.stdin.read()\n"
    )
    arguments = [sys.executable, "-c", code, serialize_value(instance.get_ref()), run.run_id]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE) as daemon:
        started = dg.DagsterRunStatus.STARTED
        wait("it to start", lambda: daemon.poll() is not None or status(instance, run) == started)
        daemon.kill()
    wait("its worker to end", lambda: health(launcher, run) == WorkerStatus.NOT_FOUND)
    assert status(instance, run) == started, "what ended is for the next daemon to find"


def queued(instance: dg.DagsterInstance, go: Path) -> dg.DagsterRun:
    """A run that Dagster has just said it launches."""
    run = created(instance, go)
    instance.report_engine_event("launched", run)
    starting = dg.DagsterEvent(dg.DagsterEventType.PIPELINE_STARTING.value, run.job_name)
    instance.report_dagster_event(starting, run.run_id)
    return run


def look(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    """The status of a run after the daemon has looked at it."""
    record = instance.get_run_record_by_id(run.run_id)
    assert record
    monitor_starting_run(instance, record, logging.getLogger(__name__))
    return status(instance, run)


def ends_at_once(*_: object) -> None:
    """A worker that is killed before it came to do anything."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_was_killed_before_its_run_began_is_noticed_at_once(
    instance: dg.DagsterInstance, launcher: WarmRunLauncher, go: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_launcher, "_work", ends_at_once)
    run = queued(instance, go)
    launcher.launch_run(LaunchRunContext(run, None))
    wait("its worker to end", lambda: not multiprocessing.active_children())
    assert look(instance, run) == dg.DagsterRunStatus.FAILURE


def test_a_run_that_another_daemon_was_about_to_start_is_noticed_by_the_next(
    instance: dg.DagsterInstance, go: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = queued(instance, go)
    assert look(instance, run) == dg.DagsterRunStatus.STARTING, "this process may be launching it just now"
    monkeypatch.setattr(run_launcher, "_BEGAN", time.time() + 1)
    assert look(instance, run) == dg.DagsterRunStatus.FAILURE


def test_a_worker_that_lives_is_waited_for(
    instance: dg.DagsterInstance, launcher: WarmRunLauncher, go: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = queued(instance, go)
    launcher.launch_run(LaunchRunContext(run, None))
    seen = set()

    def begun() -> bool:
        seen.add(look(instance, run) if status(instance, run) == dg.DagsterRunStatus.STARTING else None)
        return status(instance, run) == dg.DagsterRunStatus.STARTED

    wait("the run to start", begun)
    assert seen <= {dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, None}
    monkeypatch.setattr(run_launcher, "_BEGAN", time.time() + 1)
    assert not launcher.cannot_start(run.run_id, time.time()), "its worker holds the lock, whoever launched it"
    go.touch()
    wait("the run to end", lambda: status(instance, run) == dg.DagsterRunStatus.SUCCESS)
