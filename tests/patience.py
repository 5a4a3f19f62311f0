"""Waiting for what another process does."""

import time
from collections.abc import Callable


def wait(what: str, done: Callable[[], bool], seconds: float) -> None:
    """Look at `done` until it holds; fail, naming `what`, when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)
