"""Loaded by every Python process that has this folder on PYTHONPATH: records attempts to leave the machine.

Belongs here: the guard for processes that a test starts. Not here: the guard of the test process (conftest.py).
"""

import os
import socket
import sys
from typing import Any

_connect = socket.socket.connect


def _is_local(host: str) -> bool:
    return host in ("localhost", "::1", "", "0.0.0.0", "::") or host.startswith("127.")


def _guarded(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
        with open(os.environ["HW_GUARD_LOG"], "a") as log:
            log.write(f"{sys.argv} tried {address}\n")
        raise OSError(f"{address} is not on this machine")
    _connect(self, address)


if "HW_GUARD_LOG" in os.environ:
    socket.socket.connect = _guarded  # type: ignore[method-assign,assignment]
