"""dbt that has started already, as run workers have it: each command would import for seconds."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources import dbt_server

_SERVE = """
import importlib, sys
from resources import dbt_server
for module in dbt_server.PRELOADED:
    importlib.import_module(module)
dbt_server.start()
print(dbt_server.command()[-1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def warm_dbt() -> Iterator[None]:
    """A server for this process, in one of its own: what forks must have one thread only."""
    command = [sys.executable, "-W", "ignore", "-c", _SERVE]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
        pytest.MonkeyPatch.context() as patch,
    ):
        assert process.stdout
        patch.setattr(dbt_server, "_address", Path(process.stdout.readline().strip()))
        yield
