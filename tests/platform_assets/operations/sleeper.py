"""A job whose one op waits until it is told to go on; for the tests of the run launcher."""

import time
from pathlib import Path

import dagster as dg


class Go(dg.Config):
    """The file to wait for."""

    path: str


@dg.op
def wait_for(config: Go) -> None:
    """Wait until the file exists."""
    while not Path(config.path).exists():
        time.sleep(0.05)


@dg.job(executor_def=dg.in_process_executor)
def sleeper() -> None:
    """Waits."""
    wait_for()
