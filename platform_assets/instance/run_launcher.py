"""Run workers that start warm: forked from one process that has imported the heavy libraries already.

Belongs here: starting, watching and ending run workers on this machine. Not here: what a run does.

Dagster's default launcher starts a fresh interpreter for each run, which spends 5 to 20 s of two cores on imports.
Only libraries are imported ahead, none of our modules, so a run always executes the code that is on disk. A worker
holds a lock for as long as it lives, whatever ends it, so a killed one is noticed even by a daemon that was started
after it, and one that was killed before it came to hold the lock by the absence of its process. It ends when its run is
given up, and with the process that launched it: the run starts again with the next daemon. On a cluster, dagster-k8s
launches runs instead.
"""

import fcntl
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._core.storage.dagster_run import DagsterRun
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, deserialize_value, serialize_value
from dagster._serdes.config_class import ConfigurableClassData

# Every process with our instance can then read our conditions.
from platform_assets import automation  # noqa: F401
from resources import dbt_server

PRELOADED = (
    *dbt_server.PRELOADED,
    "dagster._cli",
    "dagster._daemon.cli",
    "dagster_dbt",
    "duckdb",
    "great_expectations",
    "lightgbm",
    "mlflow",
    "pandas",
    "pyarrow.parquet",
    "sqlglot.lineage",
    "yaml",
)


_BEGAN = time.time()
"""About when this process did: what was launched before, another has launched."""

_LOOK_SECONDS = 1.0
_GRACE_SECONDS = 3.0
"""How long a worker whose run was given up may take to end by itself."""


def warm_up() -> None:
    """Start the process that workers are forked from; it imports in the background."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()


@cache
def _lifeline() -> tuple[Connection, Connection]:
    """A pipe that lasts as long as this process, whose workers read from it: at its end this process has ended."""
    return multiprocessing.Pipe(duplex=False)


class WarmRunLauncher(RunLauncher[dg.DagsterInstance], ConfigurableClass):
    """Starts each run in a process of its own, forked from the one that `warm_up` started."""

    def __init__(self, workers: str, inst_data: ConfigurableClassData | None = None) -> None:
        """`workers` is the folder of the lock files, one a run."""
        self._workers = Path(workers)
        self._inst_data = inst_data
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """See `ConfigurableClass`."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> Any:
        """The `config` of dagster.yaml: `workers`."""
        return {"workers": dg.StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "WarmRunLauncher":
        """Build from the `config` of dagster.yaml."""
        return cls(inst_data=inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the worker of a run; see `RunLauncher`."""
        run = context.dagster_run
        assert run.job_code_origin, f"run {run.run_id} does not say which code it runs"
        self._workers.mkdir(parents=True, exist_ok=True)
        command = serialize_value(ExecuteRunArgs(run.job_code_origin, run.run_id, self._instance.get_ref()))
        multiprocessing.get_context("forkserver").Process(
            target=_work, args=(command, self._lock(run.run_id), _lifeline()[0]), name=_named(run.run_id)
        ).start()
        self._lock(run.run_id).touch()

    def terminate(self, run_id: str) -> bool:
        """Interrupt the worker of a run, as Ctrl-C would; False when the run has ended."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        worker = self._living(run_id)
        if not worker:
            self._instance.report_run_canceled(run, "its worker was gone already")
            return False
        os.kill(worker, signal.SIGINT)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Yes: run monitoring fails a run whose worker was killed, and run retries start it again."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the worker of `run` lives."""
        if self._living(run.run_id) is not None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "its worker process is gone: killed, or out of memory")

    def cannot_start(self, run_id: str, launched_at: float) -> bool:
        """Whether no process is left that could start a run which was launched at that time, in seconds since 1970."""
        if self._living(run_id) is not None or any(
            worker.name == _named(run_id) for worker in multiprocessing.active_children()
        ):
            return False
        # Of a launch that goes on in this very moment there is no file yet.
        return launched_at < _BEGAN or self._lock(run_id).exists()

    def _lock(self, run_id: str) -> Path:
        return self._workers / f"{run_id}.pid"

    def _living(self, run_id: str) -> int | None:
        """The process id of the run's worker, 0 while it begins, None when it is gone."""
        try:
            with self._lock(run_id).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return int(self._lock(run_id).read_text() or 0)
        return None


def _named(run_id: str) -> str:
    """What the process is called that is the worker of a run."""
    return f"run-{run_id}"


_ENDS = {dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED}


def _work(arguments: str, lock_file: Path, alive: Connection) -> None:
    """What the worker does: Dagster's own command for one run, holding the lock."""
    from dagster._cli import cli

    dbt_server.start()
    with lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        threading.Thread(target=_watch, args=(arguments, alive), name="given-up", daemon=True).start()
        with suppress(SystemExit):
            cli(["api", "execute_run", arguments])
        lock_file.unlink()


def _watch(arguments: str, alive: Connection) -> None:
    """End this process when its run is given up, or with the process that launched it; dbt ends with it."""
    run = deserialize_value(arguments, ExecuteRunArgs)
    assert run.instance_ref, f"run {run.run_id} does not say whose it is"
    with dg.DagsterInstance.from_ref(run.instance_ref) as instance:
        while not alive.poll(_LOOK_SECONDS):
            if instance.get_records_for_run(run.run_id, of_type=_ENDS, limit=1).records:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(_GRACE_SECONDS)
                break
    os.kill(os.getpid(), signal.SIGKILL)
