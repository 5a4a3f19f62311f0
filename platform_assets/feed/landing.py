"""How a delivery reaches the landing zone: whole or not at all, one feed at a time.

Belongs here: file formats, the swap of a partition's folder, the marker, the lock. Not here: which rows are
delivered (`commerce.py`, `webtoon.py`), what is wrong with them (`incidents.py`).

A partition is written into a hidden folder beside its place, its `_SUCCESS` marker last, and takes its place
by renaming. Between the two renames of a redelivery the partition is absent for an instant; it never holds a
marker with files of two deliveries.
"""

import fcntl
import filecmp
import gzip
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from platform_assets.sources.declaration import Source

MARKER = "_SUCCESS"

COPY_OPTIONS: Mapping[str, str] = {
    "parquet": "FORMAT parquet, COMPRESSION zstd",
    "csv": "FORMAT csv, HEADER true",
    "jsonl": "FORMAT json, TIMESTAMPFORMAT '%Y-%m-%dT%H:%M:%S', DATEFORMAT '%Y-%m-%d'",
}

_INCOMING = ".incoming-"
_REPLACED = ".replaced-"


class DeliveryError(RuntimeError):
    """A partition could not be delivered; the message names it, its folder and what to do."""


class LandingBusyError(RuntimeError):
    """Another feed is writing into the landing zone; the message names its process."""


@dataclass(frozen=True)
class Delivery:
    """What became of one partition; files, rows and bytes are those that the upstream system offered."""

    source: str
    partition: str
    outcome: Literal["delivered", "unchanged", "withheld"]
    files: int
    rows: int
    bytes: int
    seconds: float


@contextmanager
def exclusive(landing: Path) -> Iterator[None]:
    """Hold the landing zone for this process alone; it is created when it does not exist.

    Raises:
        LandingBusyError: another feed holds it.
        DeliveryError: it cannot be created or written.
    """
    try:
        landing.mkdir(parents=True, exist_ok=True)
        lock = (landing / ".feed.lock").open("a+")
    except OSError as error:
        raise DeliveryError(
            f"the landing zone {landing} cannot be written: {error}; make it writable, or set HEADWATER_HOME"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            pid = lock.read()
            raise LandingBusyError(
                f"another feed (pid {pid}) is delivering into {landing}; wait until it ends, or end it with: kill {pid}"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def put(
    source: Source, landing: Path, partition: str, write: Callable[[Path], int], *, is_marked: bool = True
) -> tuple[Literal["delivered", "unchanged"], int, int]:
    """Put one partition in its place: `write` fills the file whose path it is given and returns its rows.

    A partition that is already there with the same bytes and marker stays untouched. Returns the outcome, the
    rows and the bytes.

    Raises:
        DeliveryError: the file cannot be written (a full disk, say); the earlier delivery is still in its
            place.
    """
    target = source.partition_dir(landing, partition)
    incoming = target.with_name(_INCOMING + target.name)
    try:
        incoming.mkdir(parents=True)
        file = incoming / f"part-00000{source.extension}"
        rows = write(file)
        size = file.stat().st_size
        if is_marked:
            (incoming / MARKER).touch()
        if _is_same(incoming, target):
            return "unchanged", rows, size
        _swap(incoming, target)
    except (OSError, duckdb.IOException) as error:
        raise DeliveryError(
            f"{source.name}, partition {partition}: {target} cannot be written: {error}. What was delivered "
            f"before is still there; free space or make the folder writable, then feed this partition again."
        ) from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return "delivered", rows, size


def write_rows(connection: duckdb.DuckDBPyConnection, rows: duckdb.DuckDBPyRelation, source: Source, file: Path) -> int:
    """Write rows of `connection` to `file` in their order, in the format of `source`; return how many.

    The same rows give the same bytes. Rows stream: memory does not grow with their number.
    """
    rows.create_view("delivery", replace=True)
    plain = file if source.compression is None else file.with_name(f"_{file.stem}")
    path = str(plain).replace("'", "''")
    copy = connection.execute(f"COPY (FROM delivery) TO '{path}' ({COPY_OPTIONS[source.file_format]})")
    (count,) = copy.fetchall()[0]
    if plain != file:
        _compress(plain, file)
    return int(count)


def restore(source: Source, landing: Path) -> None:
    """Tidy up after a killed feed: unfinished folders go, a delivery that it had set aside comes back."""
    folder = source.landing(landing)
    for unfinished in folder.glob(f"{_INCOMING}*"):
        shutil.rmtree(unfinished)
    for replaced in folder.glob(f"{_REPLACED}*"):
        target = replaced.with_name(replaced.name.removeprefix(_REPLACED))
        if target.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(target)


def _swap(incoming: Path, target: Path) -> None:
    """Rename `incoming` to `target`; what was there comes back if that fails."""
    replaced = target.with_name(_REPLACED + target.name)
    if target.exists():
        target.rename(replaced)
    try:
        incoming.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
    if replaced.exists():
        shutil.rmtree(replaced)


def _is_same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same names with the same bytes."""
    if not other.is_dir():
        return False
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in other.iterdir()) and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in names
    )


def _compress(plain: Path, file: Path) -> None:
    """Replace `plain` by the gzip `file`, 15 times as fast as DuckDB would, with no name or time in it."""
    with (
        plain.open("rb") as source,
        file.open("wb") as target,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=target, mtime=0) as packed,
    ):
        shutil.copyfileobj(source, packed, length=1 << 20)
    plain.unlink()
