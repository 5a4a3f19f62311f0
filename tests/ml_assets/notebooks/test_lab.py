"""`make notebook` starts JupyterLab on this machine alone, with its token, and nothing of it reports home."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ml_assets.notebooks import lab
from resources.environment import REPOSITORY, Environment
from tests.patience import wait


def test_the_tutorial_is_copied_once_and_ones_own_work_stays(environment: Environment) -> None:
    copy = lab.prepare(environment)
    assert copy == environment.home / "notebooks" / "tutorial.ipynb"
    assert copy.read_bytes() == lab.TUTORIAL.read_bytes()
    copy.write_text("my work")
    assert lab.prepare(environment).read_text() == "my work"


def test_no_argument_undoes_a_setting(environment: Environment) -> None:
    found = lab.command(environment, ["--no-browser", "--ServerApp.ip=0.0.0.0"])
    assert [one for one in found if one.startswith("--ServerApp.ip")][-1] == "--ServerApp.ip=127.0.0.1"


def test_kernels_get_the_environment_and_keep_to_its_folder(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(environment.home)
    monkeypatch.setenv("HEADWATER_HOME", "state")
    found = lab.variables(Environment.current())
    assert found["HEADWATER_HOME"] == str(environment.home / "state")
    folders = [value for name, value in found.items() if name.startswith(("JUPYTER", "IPYTHON"))]
    assert len(folders) == 6
    assert all(value.startswith(found["HEADWATER_HOME"]) for value in folders)


@dataclass(frozen=True)
class Server:
    """A JupyterLab that runs, and where its guard writes what tried to leave the machine."""

    url: str
    token: str
    left_the_machine: Path

    def get(self, path: str, token: str | None = None) -> tuple[int, bytes]:
        headers = {"Authorization": f"token {token}"} if token else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.url}{path}", headers=headers)) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


def listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def server(environment: Environment, tmp_path: Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    guard, log = tmp_path / "left.log", tmp_path / "jupyter.log"
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests" / "guard"))),
        "HW_GUARD_LOG": str(guard),
    }
    arguments = ["--no-browser", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command = [sys.executable, "-m", "ml_assets.notebooks.lab", *arguments]
    with (
        log.open("w") as said,
        subprocess.Popen(command, env=variables, cwd=tmp_path, stdout=said, stderr=said) as lab_,
    ):
        try:
            runtime = environment.jupyter / "runtime"
            # It notes its token first, and listens some time later.
            wait("JupyterLab's token", lambda: lab_.poll() is not None or bool(list(runtime.glob("jpserver-*.json"))))
            wait("JupyterLab", lambda: lab_.poll() is not None or listens(port))
            assert lab_.poll() is None, log.read_text()
            (info,) = [json.loads(path.read_text()) for path in runtime.glob("jpserver-*.json")]
            yield Server(f"http://127.0.0.1:{port}", info["token"], guard)
        finally:
            lab_.terminate()


def test_it_asks_for_its_token_and_reports_nothing_home(server: Server) -> None:
    assert len(server.token) >= 40
    assert server.get("/api/contents/tutorial.ipynb")[0] == 403
    assert server.get("/api/contents/tutorial.ipynb", server.token)[0] == 200
    assert json.loads(server.get("/lab/api/news", server.token)[1]) == {"news": []}
    assert json.loads(server.get("/lab/api/update", server.token)[1])["notification"] is None
    assert server.get("/lab/api/extensions?query=theme&page=1&per_page=5", server.token)[0] in (200, 404)
    page = server.get("/lab", server.token)[1].decode()
    assert "@jupyterlab/apputils-extension:announcements" in page.partition('"disabledExtensions"')[2][:300]
    assert not server.left_the_machine.exists()
