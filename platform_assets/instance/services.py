"""Dagster's processes on this machine: instance settings, web UI, daemon and code servers.

Belongs here: writing `dagster.yaml`, starting and stopping. Not here: what is asked of them (`client.py`).
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import dagster as dg
import psutil
import yaml

from platform_assets.asset_graph.locations import code_locations
from platform_assets.instance.client import Client
from platform_assets.instance.privacy import PRIVATE
from platform_assets.instance.upgrades import STEPS
from platform_assets.patience import Pace, Patience
from resources.dbt import Dbt
from resources.environment import Environment
from resources.feature_store.feast_settings import write_feast_settings
from resources.home import open_home
from resources.warehouse import Warehouse

HOST = "127.0.0.1"
_PATIENCE_SECONDS = 600
_WORKING_SHARE = 0.05
"""Services that use less of a core than this are idle: they look now and then whether there is something to do."""
_SHUTDOWN_SECONDS = 10
_LOOK_SECONDS = 0.5
_LONG_FOLDER = 60


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
            "module": "platform_assets.instance.run_launcher",
            "class": "WarmRunLauncher",
            "config": {"workers": str(environment.dagster_home / "workers")},
        },
        "run_monitoring": {
            "enabled": True,
            "start_timeout_seconds": environment.run_start_seconds,
            "poll_interval_seconds": 10,
        },
        # A run whose worker was killed starts again by itself; one that failed on its merits does not.
        "run_retries": {"enabled": True, "max_retries": 3, "retry_on_asset_or_op_failure": False},
        "sensors": {"use_threads": True, "num_workers": 2},
        "backfills": {"use_threads": True, "num_workers": 2},
        "code_servers": {"local_startup_timeout": _PATIENCE_SECONDS},
        "retention": {"sensor": {"purge_after_days": {"skipped": 1, "success": 30, "failure": 30}}},
        "nux": {"enabled": False},
    }
    return settings | _storage(environment)


def _storage(environment: Environment) -> dict[str, Any]:
    if environment.dagster_storage != "sqlite":
        kinds = {
            "run_storage": ("resources.postgres_storage", "PooledPostgresRunStorage"),
            "event_log_storage": ("resources.postgres_storage", "PooledPostgresEventLogStorage"),
            "schedule_storage": ("resources.postgres_storage", "PooledPostgresScheduleStorage"),
        }
        config = {"postgres_url": environment.dagster_storage}
        return {name: {"module": module, "class": kind, "config": config} for name, (module, kind) in kinds.items()}
    folders = {
        "run_storage": ("resources.instance_storage", "RunStorage", "runs"),
        "event_log_storage": ("resources.event_log", "PooledSqliteEventLogStorage", "events"),
        "schedule_storage": ("resources.instance_storage", "ScheduleStorage", "schedules"),
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
    """Create what is missing of the environment's state, and upgrade what an older version stored.

    That is: the home's record, settings of Dagster and Feast, lake, dbt manifest.
    """
    open_home(environment, STEPS)
    environment.dagster_home.mkdir(parents=True, exist_ok=True)
    environment.landing.mkdir(parents=True, exist_ok=True)
    _write_settings(environment)
    with dg.DagsterInstance.from_config(str(environment.dagster_home)) as instance:
        # Opening the storages creates their tables; processes that start together would race for it.
        instance.all_instigator_state()
        instance.get_runs_count()
        instance.all_asset_keys()
    write_feast_settings(environment)
    Warehouse.of(environment).snapshot()
    Dbt.of(environment).manifest()


@contextmanager
def open_instance(environment: Environment) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of `environment`, whose state is created where there is none yet.

    Raises:
        HomeError: the home cannot be used as it is.
    """
    open_home(environment, STEPS)
    if (environment.dagster_home / "dagster.yaml").exists():
        _write_settings(environment)
    else:
        prepare(environment)
    with dg.DagsterInstance.from_config(str(environment.dagster_home)) as instance:
        yield instance


def _write_settings(environment: Environment) -> None:
    """Write `dagster.yaml` unless it is so already: an older version named launcher and storages by other modules."""
    path, text = environment.dagster_home / "dagster.yaml", yaml.safe_dump(instance_settings(environment))
    if not path.exists() or path.read_text() != text:
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.write_text(text)
        fresh.replace(path)


class Services(Client):
    """The running services, and what they answer; see `running`."""

    def __init__(self, url: str, environment: Environment, holder: IO[str], stack: ExitStack) -> None:
        super().__init__(url)
        self._environment, self._holder, self._stack = environment, holder, stack
        self._alive = stack.enter_context(_pipe())
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, *command: str, passed: Sequence[int] = (), variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Start a Python module with its arguments, and end it with the stack.

        Args:
            name: of the service and its log.
            command: the module and its arguments.
            passed: the file descriptors that it inherits, besides those that every service has.
            variables: of its environment, besides those that every service has.
        """
        module = [sys.executable, "-m", "platform_assets.instance.parent", str(self._alive), *command]
        # Each holds the lock, so that no second daemon joins one that is about to end.
        inherited = [self._alive, self._holder.fileno(), *passed]
        process = _process(self._environment, name, module, inherited, variables)
        self._processes[name] = self._stack.enter_context(process)
        self.announce("")

    def announce(self, address: str) -> None:
        """Leave for other processes where the services answer, "" while they start, and which they are."""
        groups = [process.pid for process in self._processes.values()]
        _write_notes(self._holder, _Notes(os.getpid(), address, groups))

    def until(self, is_ready: Callable[[], bool]) -> None:
        """Wait for what the services are to reach, as long as they work at it.

        Raises:
            ServiceError: one ended, or all of them idle.
        """
        patience, pace = Patience(_PATIENCE_SECONDS), Pace(_LOOK_SECONDS)
        while not is_ready():
            self._refuse_ended()
            if patience.over(self._cpu_seconds() // (_WORKING_SHARE * _PATIENCE_SECONDS)):
                raise ServiceError(
                    f"Dagster does not answer, and has worked at nothing for {_PATIENCE_SECONDS} s; "
                    f"see {_logs(self._environment)}"
                )
            pace.rest()

    def wait(self) -> None:
        """Block until the person presses Ctrl-C.

        Raises:
            ServiceError: a service ended.
        """
        with suppress(KeyboardInterrupt):
            while True:
                self._refuse_ended()
                time.sleep(_LOOK_SECONDS)

    def _refuse_ended(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise ServiceError(
                    f"the service {name} ended (exit code {process.returncode}); see "
                    f"{_logs(self._environment) / name}.log and start again: what was under way goes on"
                )

    def _cpu_seconds(self) -> float:
        total = 0.0
        for leader in self._processes.values():
            with suppress(psutil.NoSuchProcess):
                found = psutil.Process(leader.pid)
                for process in [found, *found.children(recursive=True)]:
                    with suppress(psutil.NoSuchProcess):
                        total += sum(process.cpu_times()[:2])
        return total


@contextmanager
def running(
    environment: Environment, port: int, before_daemon: Callable[[Client], None] = lambda client: None
) -> Iterator[Services]:
    """Run web UI, daemon and code servers of `environment` for the time of the block.

    Each process writes a log of its own under `<home>/logs`, and ends with this process, whatever ends it.

    Args:
        environment: whose instance.
        port: of the web UI on 127.0.0.1; 0 takes a free one.
        before_daemon: what to do while nothing evaluates sensors yet. Turning one off later may be undone by the
            evaluation that is under way, which writes back the state it began with.

    Raises:
        ServiceError: already running, port taken, a process ended, or no answer while nothing works at it.
    """
    # Before the lock is ours: an upgrade waits for nobody, it refuses a home in which services run.
    open_home(environment, STEPS)
    with _only_one(environment) as holder, bound(port) as listener, ExitStack() as stack:
        prepare(environment)
        address = f"http://{HOST}:{listener.getsockname()[1]}"
        services = Services(address, environment, holder, stack)
        sockets = stack.enter_context(_sockets(environment))
        workspace = _write_workspace(environment, sockets)
        # The others ask the code servers at once and take silence for a broken location.
        for name, module in code_locations().items():
            command = ("platform_assets.instance.code_server", "-m", module, "--location-name", name)
            # Behind each there is a second server, which listens in the folder of temporary files.
            temporary = {"TMPDIR": str(sockets[name].parent)}
            services.start(name, *command, "--socket", str(sockets[name]), variables=temporary)
        services.until(lambda: all(map(_listens, sockets.values())))
        served = ("--workspace", str(workspace), "--listener", str(listener.fileno()))
        services.start("web", "platform_assets.instance.web_server", *served, passed=[listener.fileno()])
        listener.close()
        services.until(services.is_up)
        before_daemon(services)
        services.start("daemon", "platform_assets.instance.daemon", "run", "-w", str(workspace))
        services.announce(address)
        yield services


def running_at(environment: Environment) -> str | None:
    """The address of the web server that runs for `environment`; None when none does."""
    path = environment.services_lock
    try:
        with path.open("r") as holder:
            fcntl.flock(holder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        notes = _read_notes(path)
        if not notes.address:
            raise ServiceError(f"Dagster is starting for {environment.home}: try again in a moment") from None
        return notes.address
    return None


@contextmanager
def _process(
    environment: Environment,
    name: str,
    command: Sequence[str],
    inherited: Sequence[int],
    variables: Mapping[str, str],
) -> Iterator[subprocess.Popen[bytes]]:
    logs = _logs(environment)
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            # Beta notices of the pinned release would drown what the logs have to say.
            env={**os.environ, **environment.variables, "PYTHONWARNINGS": "ignore:Parameter `", **variables},
            cwd=environment.home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=PRIVATE,
            pass_fds=inherited,
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


def _logs(environment: Environment) -> Path:
    return environment.home / "logs"


@contextmanager
def _pipe() -> Iterator[int]:
    """The reading end of a pipe that this process alone could write to."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


@contextmanager
def _sockets(environment: Environment) -> Iterator[dict[str, Path]]:
    """Where the code server of each location listens, in a folder that nobody else can enter.

    The system allows such paths about 100 bytes, which a home may exceed: the folder lies with the temporary files.
    The home links to it, so that the next start removes what a killed process left.
    """
    link = environment.dagster_home / "sockets"
    _remove_linked(link)
    usual = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="headwater-", dir=usual if len(usual) < _LONG_FOLDER else "/tmp"))
    link.symlink_to(folder)
    try:
        yield {name: folder / name for name in code_locations()}
    finally:
        _remove_linked(link)


def _remove_linked(link: Path) -> None:
    if link.is_symlink():
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()


def _write_workspace(environment: Environment, sockets: Mapping[str, Path]) -> Path:
    """The workspace in which web server and daemon share one code server per location."""
    servers = [{"grpc_server": {"socket": str(path), "location_name": name}} for name, path in sockets.items()]
    path = environment.dagster_home / "workspace.yaml"
    path.write_text(yaml.safe_dump({"load_from": servers}))
    return path


@contextmanager
def _only_one(environment: Environment) -> Iterator[IO[str]]:
    """Two daemons on one instance fight over its queue: hold a lock for as long as ours runs.

    What a killed process leaves running ends within moments, and gives the lock free.
    """
    environment.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    environment.dagster_home.mkdir(exist_ok=True)
    deadline = time.monotonic() + _SHUTDOWN_SECONDS
    with environment.services_lock.open("a+") as holder:
        while not _takes(holder):
            notes = _read_notes(environment.services_lock)
            if notes.process is None or _lives(notes.process):
                raise ServiceError(
                    f"Dagster already runs for {environment.home} (process {notes.process or 'unknown'}, "
                    f"{notes.address or 'starting'}); use that one, or stop it first."
                )
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"process {notes.process}, which ran Dagster for {environment.home}, has ended, and services of it "
                    f"have not; end them: kill -KILL -- {' '.join(f'-{group}' for group in notes.groups)}"
                )
            time.sleep(_LOOK_SECONDS)
        _write_notes(holder, _Notes(os.getpid(), "", []))
        yield holder


@dataclass(frozen=True)
class _Notes:
    """What the lock file says of its holder: the process, where the web UI answers, the services' process groups."""

    process: int | None
    address: str
    groups: list[int]


def _takes(holder: IO[str]) -> bool:
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_notes(holder: IO[str], notes: _Notes) -> None:
    holder.truncate(0)
    holder.write(json.dumps(vars(notes)))
    holder.flush()


def _read_notes(path: Path) -> _Notes:
    """The notes; without a process where there are none yet."""
    text = path.read_text()
    return _Notes(**json.loads(text)) if text.startswith("{") else _Notes(None, "", [])


def _lives(process: int) -> bool:
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def bound(port: int) -> Iterator[socket.socket]:
    """A socket on `port`, or a free one for 0, that nobody else can take before the web server listens on it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise ServiceError(
                f"port {port} on {HOST} is taken ({error.strerror}); set HEADWATER_PORT to a free one"
            ) from None
        yield listener


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
