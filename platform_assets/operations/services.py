"""Dagster's processes on this machine: instance settings, web UI, daemon and code servers.

Belongs here: writing `dagster.yaml`, starting and stopping. Not here: what is asked of them (`client.py`).
"""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import dagster as dg
import yaml

from platform_assets.operations.client import Client
from platform_assets.operations.graph import code_locations
from resources.dbt import Dbt
from resources.environment import Environment
from resources.feature_store.feast_settings import write_feast_settings
from resources.warehouse import Warehouse

HOST = "127.0.0.1"
_STARTUP_SECONDS = 180
_SHUTDOWN_SECONDS = 10


class ServiceError(RuntimeError):
    """The services cannot start; the message says why and what to do."""


def instance_settings(environment: Environment) -> dict[str, Any]:
    """The contents of `dagster.yaml`: made for two cores and a lake with a single catalog.

    Two runs at a time, and two lake writers, however many runs a person allows. On a cluster raise
    `max_concurrent_runs`, and launch runs with dagster-k8s.
    """
    settings: dict[str, Any] = {
        "telemetry": {"enabled": False},
        "run_coordinator": {
            "module": "dagster",
            "class": "QueuedRunCoordinator",
            "config": {"dequeue_interval_seconds": 1},
        },
        "concurrency": {
            "runs": {"max_concurrent_runs": 2},
            # One lake writer writes while the next starts up; on a SQLite catalog they take turns by themselves.
            "pools": {"granularity": "op", "default_limit": 2, "op_granularity_run_buffer": 1},
        },
        "run_launcher": {
            "module": "platform_assets.operations.run_launcher",
            "class": "WarmRunLauncher",
            "config": {"workers": str(environment.dagster_home / "workers")},
        },
        "run_monitoring": {"enabled": True, "start_timeout_seconds": 60, "poll_interval_seconds": 10},
        # A run whose worker was killed starts again by itself; one that failed on its merits does not.
        "run_retries": {"enabled": True, "max_retries": 3, "retry_on_asset_or_op_failure": False},
        "sensors": {"use_threads": True, "num_workers": 2},
        "backfills": {"use_threads": True, "num_workers": 2},
        "code_servers": {"local_startup_timeout": _STARTUP_SECONDS},
        "retention": {"sensor": {"purge_after_days": {"skipped": 1, "success": 30, "failure": 30}}},
        "nux": {"enabled": False},
    }
    return settings | _storage(environment)


def _storage(environment: Environment) -> dict[str, Any]:
    if environment.dagster_storage != "sqlite":
        return {"storage": {"postgres": {"postgres_url": environment.dagster_storage}}}
    folders = {
        "run_storage": ("dagster._core.storage.runs", "SqliteRunStorage", "runs"),
        "event_log_storage": ("resources.event_log", "PooledSqliteEventLogStorage", "events"),
        "schedule_storage": ("dagster._core.storage.schedules", "SqliteScheduleStorage", "schedules"),
    }
    return {
        name: {
            "module": module,
            "class": kind,
            "config": {"base_dir": str(environment.dagster_home / folder)},
        }
        for name, (module, kind, folder) in folders.items()
    }


def prepare(environment: Environment) -> None:
    """Create what is missing of the environment's state: settings of Dagster and Feast, lake, dbt manifest."""
    environment.dagster_home.mkdir(parents=True, exist_ok=True)
    environment.landing.mkdir(parents=True, exist_ok=True)
    (environment.dagster_home / "dagster.yaml").write_text(yaml.safe_dump(instance_settings(environment)))
    with open_instance(environment) as instance:
        # Opening the storages creates their tables; processes that start together would race for it.
        instance.all_instigator_state()
        instance.get_runs_count()
        instance.all_asset_keys()
    write_feast_settings(environment)
    Warehouse.of(environment).snapshot()
    Dbt.of(environment).manifest()


@contextmanager
def open_instance(environment: Environment) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of `environment`, whose state is created where there is none yet."""
    if not (environment.dagster_home / "dagster.yaml").exists():
        prepare(environment)
    with dg.DagsterInstance.from_config(str(environment.dagster_home)) as instance:
        yield instance


@contextmanager
def running(
    environment: Environment, port: int, before_daemon: Callable[[Client], None] = lambda client: None
) -> Iterator[Client]:
    """Run web UI, daemon and code servers of `environment` for the time of the block.

    Each process writes a log of its own under `<home>/logs`.

    Args:
        environment: whose instance.
        port: of the web UI on 127.0.0.1; 0 takes a free one.
        before_daemon: what to do while nothing evaluates sensors yet. Turning one off later may be undone by the
            evaluation that is under way, which writes back the state it began with.

    Raises:
        ServiceError: already running, port taken, a process ended, or no answer within three minutes.
    """
    with _only_one(environment) as holder, ExitStack() as stack:
        if port:
            _refuse_taken(port)
        prepare(environment)
        free, *ports = _free_ports(1 + len(code_locations()))
        port = port or free
        workspace = _write_workspace(environment, ports)
        client = Client(f"http://{HOST}:{port}")
        processes: list[subprocess.Popen[bytes]] = []

        def start(commands: Mapping[str, Sequence[str]], is_ready: Callable[[], bool]) -> None:
            for name, command in commands.items():
                processes.append(stack.enter_context(_process(environment, name, command, holder)))
            _await(is_ready, processes, environment)

        # The others ask the code servers at once and take silence for a broken location.
        start(_code_servers(ports), lambda: all(map(_listens, ports)))
        start(
            {"web": ["-m", "platform_assets.operations.web_server", "-h", HOST, "-p", str(port), "-w", str(workspace)]},
            client.is_up,
        )
        before_daemon(client)
        start({"daemon": ["-m", "platform_assets.operations.daemon", "run", "-w", str(workspace)]}, lambda: True)
        _announce(holder, port)
        yield client


def _code_servers(ports: Sequence[int]) -> dict[str, list[str]]:
    """Command lines by name: a code server for each location, on 127.0.0.1."""
    return {
        name: ["-m", "dagster", "code-server", "start", "-m", module, "--location-name", name]
        + ["-h", HOST, "-p", str(port)]
        for (name, module), port in zip(code_locations().items(), ports, strict=True)
    }


def _write_workspace(environment: Environment, ports: Sequence[int]) -> Path:
    """The workspace in which web server and daemon share one code server per location."""
    servers = [
        {"grpc_server": {"host": HOST, "port": port, "location_name": name}}
        for name, port in zip(code_locations(), ports, strict=True)
    ]
    path = environment.dagster_home / "workspace.yaml"
    path.write_text(yaml.safe_dump({"load_from": servers}))
    return path


def wait_for_interrupt() -> None:
    """Block until the person presses Ctrl-C."""
    with suppress(KeyboardInterrupt):
        signal.pause()


@contextmanager
def _process(
    environment: Environment, name: str, command: Sequence[str], holder: IO[str]
) -> Iterator[subprocess.Popen[bytes]]:
    with _log(environment, name).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            # Beta notices of the pinned release would drown what the logs have to say.
            env={**os.environ, **environment.variables, "PYTHONWARNINGS": "ignore:Parameter `"},
            cwd=environment.home,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A service that outlives a killed parent goes on holding the lock, so that no second daemon joins it.
            pass_fds=[holder.fileno()],
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_SHUTDOWN_SECONDS)
            # Runs end with the daemon that launched them; they leave nothing half written, and start again with it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _log(environment: Environment, name: str) -> Path:
    folder = environment.home / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.log"


@contextmanager
def _only_one(environment: Environment) -> Iterator[IO[str]]:
    """Two daemons on one instance fight over its queue: hold a lock for as long as ours runs."""
    environment.dagster_home.mkdir(parents=True, exist_ok=True)
    path = environment.dagster_home / "services.lock"
    with path.open("a+") as holder:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder.seek(0)
            raise ServiceError(
                f"Dagster already runs for {environment.home} ({holder.read().strip() or 'starting'}); "
                "use that one, or stop it first."
            ) from None
        yield holder


def running_at(environment: Environment) -> str | None:
    """The address of the web server that runs for `environment`; None when none does."""
    path = environment.dagster_home / "services.lock"
    try:
        with path.open("r") as holder:
            fcntl.flock(holder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        address = path.read_text().rpartition(", ")[2]
        if not address.startswith("http"):
            raise ServiceError(f"Dagster is starting for {environment.home}: try again in a moment") from None
        return address
    return None


def _announce(holder: IO[str], port: int) -> None:
    holder.truncate(0)
    holder.write(f"process {os.getpid()}, http://{HOST}:{port}")
    holder.flush()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServiceError(
                f"port {port} on {HOST} is taken ({error.strerror}); set HEADWATER_PORT to a free one"
            ) from None


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _await(
    is_ready: Callable[[], bool], processes: Sequence[subprocess.Popen[bytes]], environment: Environment
) -> None:
    logs = environment.home / "logs"
    deadline = time.monotonic() + _STARTUP_SECONDS
    while not is_ready():
        for process in processes:
            if process.poll() is not None:
                raise ServiceError(f"a process ended while starting (exit {process.returncode}); see {logs}")
        if time.monotonic() > deadline:
            raise ServiceError(f"Dagster did not answer within {_STARTUP_SECONDS} s; see {logs}")
        time.sleep(0.5)
