"""One writer at a time on a lake whose catalog is a SQLite file.

Belongs here: the turn. Not here: what is written. It imports nothing of ours, so that the dbt process can take the
turn without loading Dagster.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writers_turn(catalog: str) -> Iterator[None]:
    """Hold a SQLite catalog for one writer of this machine; one on PostgreSQL needs no turns.

    SQLite lets a transaction that began by reading fail at once when another writer was faster, however long it is
    told to wait. The lock ends with the process that holds it.
    """
    if not catalog.startswith("sqlite:"):
        yield
        return
    with Path(catalog.removeprefix("sqlite:")).with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
