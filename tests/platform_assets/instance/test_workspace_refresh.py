"""A workspace is fetched again when a code server serves something else, or does not answer, and only then."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._core.workspace.workspace import CodeLocationEntry
from dagster._grpc.client import DagsterGrpcClient

from platform_assets.instance.workspace_refresh import when_changed
from tests.patience import PATIENCE_SECONDS, wait

LOCATION = Path(__file__).with_name("doorbell.py")


@pytest.fixture
def socket() -> Iterator[str]:
    """Where a code server will listen: a path is about 100 bytes long at most."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield f"{folder}/socket"


@pytest.fixture
def server(socket: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "dagster", "code-server", "start", "-f", str(LOCATION), "--socket", socket]
    process = subprocess.Popen(command)
    wait("the code server", lambda: process.poll() is not None or answers(socket))
    assert process.poll() is None
    yield process
    process.kill()
    process.wait()


def answers(socket: str) -> bool:
    return DagsterGrpcClient(socket=socket).health_check_query() == "SERVING"


def test_definitions_are_fetched_again_when_the_server_has_others_and_not_otherwise(
    server: subprocess.Popen[bytes], socket: str
) -> None:
    fetches = 0

    def fetch(context: WorkspaceProcessContext) -> None:
        nonlocal fetches
        fetches += 1
        context.refresh_workspace()

    refresh = when_changed(fetch)
    target = GrpcServerTarget(host="localhost", port=None, socket=socket, location_name="doorbell")
    with dg.instance_for_test() as instance, WorkspaceProcessContext(instance, target) as context:

        def entry() -> CodeLocationEntry:
            return context.get_current_workspace().code_location_entries["doorbell"]

        first = entry()
        assert first.code_location
        refresh(context)
        assert (fetches, entry() is first) == (0, True)

        DagsterGrpcClient(socket=socket).reload_code(timeout=PATIENCE_SECONDS)
        refresh(context)
        second = entry()
        assert (fetches, second.version_key != first.version_key) == (1, True)
        refresh(context)
        assert (fetches, entry() is second) == (1, True)

        server.kill()
        server.wait()
        with pytest.warns(UserWarning, match="Error loading repository location doorbell"):
            refresh(context)
        assert (fetches, entry().load_error is not None) == (2, True)
        with pytest.warns(UserWarning, match="Error loading repository location doorbell"):
            refresh(context)
        assert fetches == 3
