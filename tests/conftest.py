"""What every test gets: an environment and a lake of its own, telemetry off, no way out of this machine."""

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

# Before Feast, which sets the filters of warnings anew: sqlglot asks for what tells everybody to move on.
import sqlglot  # noqa: F401
from dagster._core.definitions.assets.graph.asset_graph import AssetNode
from hypothesis import HealthCheck, settings

from resources.environment import TELEMETRY_OFF, Environment
from resources.warehouse import Warehouse, install_extensions
from tests.patience import SOAK
from tests.servers import NoServer, empty_database, empty_redis

os.environ.update(TELEMETRY_OFF)

# An example takes as long as the machine needs; the number of examples is what a test limits. Every run of the suite
# tries the same ones, so that it fails for a change alone; `make soak` draws new ones.
settings.register_profile(
    "headwater", deadline=None, derandomize=not SOAK, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("headwater")


_LONGEST_FIRST = ("recovery", "dbt", "daemon", "definitions", "web", "services", "market", "bakery")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the groups, the longest first: they run for minutes, and at the end one worker would wait for one."""

    def rank(item: pytest.Item) -> int:
        marker = item.get_closest_marker("xdist_group")
        if marker is None:
            return len(_LONGEST_FIRST) + 1
        return _LONGEST_FIRST.index(marker.args[0]) if marker.args[0] in _LONGEST_FIRST else len(_LONGEST_FIRST)

    items.sort(key=rank)


_LONG_SECONDS, _LINES = 300, 20


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell at once of what failed and of what took long: who ends a long run early learns as much as it knew."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if report.failed:
        said = "\n".join(report.longreprtext.splitlines()[-_LINES:])
        sys.stderr.write(f"\n{report.when} of {report.nodeid} failed:\n{said}\n")
    elif report.duration > _LONG_SECONDS:
        sys.stderr.write(f"\n{report.when} of {report.nodeid} took {report.duration:.0f} s\n")


class LeftTheMachine(AssertionError):
    """Something tried to reach an address that is not on this machine."""


@pytest.fixture(autouse=True, scope="session")
def _only_this_machine() -> Iterator[None]:
    """Refuse every connection except to the loopback and to local sockets."""
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise LeftTheMachine(f"connection to {address}")
        connect(self, address)

    def guarded_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host is not None and not _is_local(host.decode() if isinstance(host, bytes) else host):
            raise LeftTheMachine(f"look-up of {host}")
        return getaddrinfo(host, *args, **kwargs)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded_connect)
    patch.setattr(socket, "getaddrinfo", guarded_lookup)
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="session")
def _local_asset_graphs_keep_their_checks() -> Iterator[None]:
    """Let an evaluation of automation in this process leave the graph as it is.

    Dagster 1.13.27 narrows the checks that a condition looks at in place: in a graph of this process the asset has lost
    the others then. The daemon's graph hands out a new set each time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AssetNode, "check_keys", property(lambda node: set(node._check_keys)))
        yield


@pytest.fixture(scope="session")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DuckDB's extensions, unpacked once for all tests of this process."""
    folder = tmp_path_factory.getbasetemp().parent / f"extensions-{os.getpid()}"
    install_extensions(folder)
    return folder


@pytest.fixture
def environment(tmp_path: Path, extensions: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """A fresh environment under `tmp_path`, which is also the process's current one."""
    for name in [name for name in os.environ if name.startswith("HEADWATER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))
    environment = Environment.current()
    environment.home.mkdir()
    environment.extensions.symlink_to(extensions)
    return environment


@pytest.fixture
def warehouse(environment: Environment) -> Warehouse:
    """A real, empty lake."""
    return Warehouse.of(environment)


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL database of a server named by HEADWATER_TEST_POSTGRES (or the local default).

    Skips, and says so, where no server answers.
    """
    with _or_skipped(empty_database()) as url:
        yield url


@pytest.fixture
def postgres_for_dagster() -> Iterator[str]:
    """Another one."""
    with _or_skipped(empty_database()) as url:
        yield url


@pytest.fixture
def empty_online_store() -> Iterator[str]:
    """The URL of an empty database of a Redis named by HEADWATER_TEST_REDIS_URL (or the local default).

    Skips, and says so, where no server answers.
    """
    with _or_skipped(empty_redis()) as url:
        yield url


@contextmanager
def _or_skipped(place: AbstractContextManager[str]) -> Iterator[str]:
    with ExitStack() as stack:
        try:
            url = stack.enter_context(place)
        except NoServer as error:
            pytest.skip(str(error))
        yield url


def _is_local(host: str) -> bool:
    return host in ("localhost", "::1", "", "0.0.0.0", "::") or host.startswith("127.")


@pytest.fixture(scope="session")
def shared_environment(tmp_path_factory: pytest.TempPathFactory, extensions: Path) -> Environment:
    """One environment with a compiled dbt project for all tests that only read definitions."""
    home = tmp_path_factory.mktemp("shared") / "home"
    home.mkdir()
    environment = Environment.of({"HEADWATER_HOME": str(home)})
    environment.extensions.symlink_to(extensions)
    return environment


@pytest.fixture(scope="session")
def locations(shared_environment: Environment) -> Mapping[str, dg.Definitions]:
    """The definitions of both code locations."""
    from tests.locations import load

    return load(shared_environment)
