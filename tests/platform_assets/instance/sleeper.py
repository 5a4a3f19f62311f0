"""Jobs that wait until they are told to go on, and one that then writes; for the tests of the run launcher."""

import time
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pyarrow as pa

from resources.environment import Environment
from resources.warehouse import Commit, TableName, Warehouse

WRITTEN = TableName("tests", "written")


class Go(dg.Config):
    """The file to wait for."""

    path: str


@dg.op
def wait_for(config: Go) -> None:
    """Wait until the file exists."""
    wait_until(config.path)


def wait_until(path: str) -> None:
    """Wait until the file exists."""
    while not Path(path).exists():
        time.sleep(0.05)


@dg.job(executor_def=dg.in_process_executor)
def sleeper() -> None:
    """Waits."""
    wait_for()


class Write(Go):
    """The home whose lake to write to."""

    home: str


@dg.op
def write(context: dg.OpExecutionContext, config: Write) -> None:
    """Replace a partition of the lake once the file exists, and try for as long as anybody lets it."""
    warehouse = Warehouse.of(Environment.of({"HEADWATER_HOME": config.home}))
    while True:
        # It plays a worker that no interrupt ends.
        with suppress(BaseException):
            wait_until(config.path)
            rows = pa.table({"run": [context.run_id], "partition_key": ["2017-01-01"]})
            warehouse.replace_partitions(WRITTEN, ["2017-01-01"], rows, Commit(context.run_id, "tests/written"))
            return


@dg.job(executor_def=dg.in_process_executor)
def writer() -> None:
    """Writes, deaf to interrupts."""
    write()
