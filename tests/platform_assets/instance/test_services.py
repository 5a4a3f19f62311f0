"""The services as people run them, by the command: what they open, what others can see, and how they end."""

import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from platform_assets.instance.client import Client, DagsterRefused
from platform_assets.instance.code_server import wait_until_gone
from platform_assets.instance.privacy import openness_of
from platform_assets.instance.services import ServiceError, bound, instance_settings, open_instance, running, running_at
from resources.environment import Environment
from tests.patience import wait

pytestmark = pytest.mark.xdist_group("services")

HEADWATER = str(Path(sys.executable).with_name("headwater"))


@dataclass(frozen=True)
class Up:
    """A `headwater up` and the home that it serves."""

    environment: Environment
    process: subprocess.Popen[str]

    @property
    def client(self) -> Client:
        address = running_at(self.environment)
        assert address
        return Client(address)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.process.stdout and self.process.stdout.read()
        with suppress(ServiceError, DagsterRefused):
            return running_at(self.environment) is not None and self.client.is_up()
        return False

    def family(self) -> dict[int, str]:
        """Every process that runs for the home, by command line."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("HEADWATER_HOME") == str(self.environment.home) and process.cmdline():
                    found[process.pid] = " ".join(process.cmdline())
        return found

    def listening(self) -> set[tuple[str, int]]:
        """The addresses at which a process of the family answers TCP connections."""
        return {
            tuple(connection.laddr)
            for pid in self.family()
            for connection in psutil.Process(pid).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }


@contextmanager
def up(environment: Environment, *wrapper: str) -> Iterator[Up]:
    """Run `headwater up` for the home, until it answers; its family is gone afterwards."""
    process = subprocess.Popen(
        [*wrapper, HEADWATER, "up"],
        env={**os.environ, "HEADWATER_HOME": str(environment.home), "HEADWATER_PORT": str(free_port())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    there = Up(environment, process)
    try:
        wait("the services", there.answers)
        yield there
    finally:
        for pid in there.family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        assert process.stdout
        process.stdout.close()


def free_port() -> int:
    with bound(0) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """An environment whose home the first who asks for it makes, its path longer than a socket's may be."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("HEADWATER_")]:
            patch.delenv(name)
        yield Environment.of({"HEADWATER_HOME": str(tmp_path_factory.mktemp("a-long-name") / ("x" * 80))})


def test_the_command_opens_one_port_shows_nobody_its_state_and_leaves_nothing_when_it_is_killed(
    fresh: Environment,
) -> None:
    umask = os.umask(0o022)
    try:
        with up(fresh) as first:
            port = int(first.client.url.rpartition(":")[2])
            assert first.listening() == {("127.0.0.1", port)}
            sockets = (fresh.dagster_home / "sockets").resolve()
            assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
            assert {path.name for path in sockets.iterdir()} >= {"platform_assets", "ml_assets"}

            seen = [path for path in [fresh.home, *fresh.home.rglob("*")] if not path.is_symlink()]
            assert len(seen) > 50
            assert [path for path in seen if path.stat().st_mode & 0o077] == []

            assert len(first.family()) > 5
            first.process.kill()
            first.process.wait()
            wait("the services to end", lambda: not first.family())
            assert sockets.exists(), "a killed process removes nothing"

        with up(fresh, "sh", "-c", '"$@" & wait $!; wait $!', "sh") as second:
            assert not sockets.exists()
            (command,) = (
                pid
                for pid, line in second.family().items()
                if line.endswith("headwater up") and not line.startswith("sh ")
            )
            with pytest.raises(ServiceError, match=f"already runs for .*process {command}"), running(fresh, 0):
                pass
            os.kill(command, signal.SIGINT)
            wait("the command to end", lambda: not second.family())
            assert not (fresh.dagster_home / "sockets").is_symlink()
            assert running_at(fresh) is None
    finally:
        os.umask(umask)


def test_the_command_ends_and_says_so_when_a_service_does(fresh: Environment) -> None:
    with up(fresh) as there:
        (daemon,) = (pid for pid, line in there.family().items() if "instance.daemon" in line)
        os.kill(daemon, signal.SIGKILL)
        said, _ = there.process.communicate()
        assert there.process.returncode == 1
        assert "the service daemon ended (exit code -9)" in said
        assert "daemon.log" in said
        assert not there.family()


def test_the_command_ends_and_says_so_when_a_server_with_definitions_does(fresh: Environment) -> None:
    with up(fresh) as there:
        (server, *_) = (pid for pid, line in there.family().items() if "dagster api grpc" in line)
        os.kill(server, signal.SIGKILL)
        said, _ = there.process.communicate()
        assert there.process.returncode == 1
        assert re.search(r"the service (platform_assets|ml_assets) ended \(exit code 1\)", said)
        assert not there.family()


@pytest.mark.parametrize(
    ("seen", "ends"),
    [
        ("-----", False),  # it has not begun yet
        ("--++----", False),
        ("++----+----+----", False),  # reloads
        ("-+-----", True),
        ("+++-----", True),
    ],
)
def test_a_code_server_has_ended_when_nothing_serves_for_some_looks(seen: str, ends: bool) -> None:
    looks = iter(seen)

    class Over(Exception):
        pass

    def serves() -> bool:
        look = next(looks, None)
        if look is None:
            raise Over
        return look == "+"

    if ends:
        wait_until_gone(serves, lambda: None)
    else:
        with pytest.raises(Over):
            wait_until_gone(serves, lambda: None)


def test_what_does_not_end_with_its_killed_parent_is_named_with_what_ends_it(environment: Environment) -> None:
    environment.dagster_home.mkdir()
    lock = environment.dagster_home / "services.lock"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with lock.open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        left = subprocess.Popen(["sleep", "600"], pass_fds=[holder.fileno()], start_new_session=True)
    try:
        lock.write_text(json.dumps({"process": gone.pid, "address": "http://127.0.0.1:1", "groups": [left.pid]}))
        with (
            pytest.raises(ServiceError, match=rf"process {gone.pid}.*kill -KILL -- -{left.pid}$"),
            running(environment, 0),
        ):
            pass
    finally:
        left.kill()
        left.wait()


@pytest.mark.parametrize(
    ("mode", "opened"), [(0o755, True), (0o750, True), (0o704, True), (0o711, True), (0o710, False), (0o700, False)]
)
def test_a_home_that_others_can_look_into_is_named_with_the_command_that_closes_it(mode: int, opened: bool) -> None:
    # Not below pytest's own folder, which nobody else can enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as outer:
        os.chmod(outer, 0o755)
        home = Path(outer) / "home"
        assert openness_of(home) is None
        home.mkdir()
        home.chmod(mode)
        said = openness_of(home)
        assert (said is not None) == opened
        if said:
            subprocess.run(said.partition("Close it: ")[2], shell=True, check=True)
            assert openness_of(home) is None
        home.chmod(mode)
        os.chmod(outer, 0o700)
        assert openness_of(home) is None


def test_a_run_may_take_long_to_start_and_longer_where_a_setting_says_so() -> None:
    def limit(**variables: str) -> object:
        return instance_settings(Environment.of(variables))["run_monitoring"]["start_timeout_seconds"]

    assert limit() == 600
    assert limit(HEADWATER_RUN_START_SECONDS="3600") == 3600


def test_settings_that_an_older_version_wrote_are_written_anew(environment: Environment) -> None:
    environment.dagster_home.mkdir(parents=True)
    file, text = environment.dagster_home / "dagster.yaml", yaml.safe_dump(instance_settings(environment))
    file.write_text(text.replace("platform_assets.instance", "platform_assets.operations"))
    with open_instance(environment) as instance:
        assert type(instance.run_launcher).__name__ == "WarmRunLauncher"
    assert file.read_text() == text
    before = file.stat()
    with open_instance(environment):
        assert file.stat().st_ino == before.st_ino
