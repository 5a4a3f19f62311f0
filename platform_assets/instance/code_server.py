"""Dagster's code server, which ends when the server behind it has.

Belongs here: noticing that. Not here: starting it (`services.py`).

`dagster code-server` passes what it is asked on to a second server, which has loaded the definitions, and starts
another when they are reloaded. Nobody starts one in the place of one that was killed: the location stays unreachable
while the first server, and so the service, seems well. Whoever watches the service learns of it by its end.
"""

import os
import sys
import threading
import time
from collections.abc import Callable

import psutil
from dagster._cli import cli

_LOOK_SECONDS = 1.0
_LOOKS = 5
"""For so many looks there must be no server: while definitions are reloaded there may be none for a moment."""


def wait_until_gone(serves: Callable[[], bool], look: Callable[[], None] = lambda: time.sleep(_LOOK_SECONDS)) -> None:
    """Return once what has served before does not, for several looks in a row."""
    absent, has_served = 0, False
    while not (has_served and absent >= _LOOKS):
        absent = 0 if serves() else absent + 1
        has_served |= not absent
        look()


class Server:
    """The server that this process has started; the one known is asked first, as finding it asks every process."""

    def __init__(self) -> None:
        self._known: psutil.Process | None = None

    def serves(self) -> bool:
        """Whether one lives."""
        if self._known is None or not _lives(self._known):
            self._known = next(filter(_lives, psutil.Process().children()), None)
        return self._known is not None


def _lives(process: psutil.Process) -> bool:
    """Whether a process is a server, and has not ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE and "grpc" in process.cmdline()
    except psutil.Error:
        return False


def _watch() -> None:
    wait_until_gone(Server().serves)
    print("the server with the definitions ended: killed, or out of memory", file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_watch, name="definitions", daemon=True).start()
    cli(["code-server", "start", *sys.argv[1:]])
