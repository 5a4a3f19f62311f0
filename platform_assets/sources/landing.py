"""What lies in the landing zone: which partitions of a source were delivered, and the fingerprint of each.

Belongs here: folders, markers and bytes. Not here: what the rows mean (`inspection.py`), or what was already
recorded about a delivery (`arrival.py`).
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from platform_assets.sources.declaration import UNPARTITIONED, FileFormat, Source

MARKER = "_SUCCESS"

_PREFIX = "dt="
_CHUNK_BYTES = 1 << 20


class DamagedFileError(ValueError):
    """A file whose bytes end early or cannot be decoded; the message says which of the two."""


@dataclass(frozen=True)
class Delivery:
    """A partition whose marker is there; `signature` changes when a file is written, and needs no reading."""

    partition: str
    files: tuple[Path, ...]
    bytes: int
    delivered_at: datetime
    signature: str


@dataclass(frozen=True)
class Landing:
    """What was found for one source: deliveries by partition, partitions without marker, other names."""

    delivered: Mapping[str, Delivery]
    incomplete: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Fingerprint:
    """What a delivery holds. Equal content gives an equal `data_version`, whatever its files are called.

    `damages` tells by file why it cannot be read; `rows` is None then, and the version still tells one
    delivery from another.
    """

    data_version: str
    rows: int | None
    damages: Mapping[Path, str]


def scan(source: Source, root: Path) -> Landing:
    """Everything that lies in the landing zone `root` for `source`; an absent folder holds nothing.

    Raises:
        OSError: the folder cannot be listed.
    """
    folder = source.landing(root)
    known = frozenset(source.partition_keys())
    delivered: dict[str, Delivery] = {}
    incomplete, unknown = [], []
    for child in sorted(folder.iterdir()) if folder.exists() else ():
        partition = child.name.removeprefix(_PREFIX)
        if child.name.startswith((".", "_")):
            continue
        if not child.name.startswith(_PREFIX) or partition not in known or not child.is_dir():
            unknown.append(child.name)
        elif delivery := look(source, root, partition):
            delivered[partition] = delivery
        else:
            incomplete.append(partition)
    return Landing(delivered, tuple(incomplete), tuple(unknown))


def look(source: Source, root: Path, partition: str = UNPARTITIONED) -> Delivery | None:
    """The delivery of one partition, or None when it is absent, unfinished, or being replaced right now."""
    folder = source.partition_dir(root, partition)
    try:
        marker = (folder / MARKER).stat()
        files = sorted(file for file in folder.iterdir() if not file.name.startswith((".", "_")))
        stats = [file.stat() for file in files]
    except FileNotFoundError:
        return None
    seen = "\n".join(f"{file.name} {stat.st_size} {stat.st_mtime_ns}" for file, stat in zip(files, stats, strict=True))
    return Delivery(
        partition=partition,
        files=tuple(files),
        bytes=sum(stat.st_size for stat in stats),
        delivered_at=datetime.fromtimestamp(marker.st_mtime, UTC),
        signature=blake2b(seen.encode(), digest_size=8).hexdigest(),
    )


def fingerprint(source: Source, delivery: Delivery) -> Fingerprint:
    """Read the delivery once: rows from the Parquet footer or by counting lines, and a hash of the content.

    Raises:
        FileNotFoundError: the delivery is being replaced; look again later.
    """
    rows, digests, damages = 0, [], {}
    for file in delivery.files:
        digest = blake2b(digest_size=16)
        for chunk in _chunks(file):
            digest.update(chunk)
        digests.append(digest.digest())
        try:
            rows += count_rows(file, source.file_format)
        except DamagedFileError as error:
            damages[file] = str(error)
    content = blake2b(b"".join(sorted(digests)), digest_size=8).hexdigest()
    known = None if damages else rows
    return Fingerprint(f"{'?' if known is None else known}-{delivery.bytes}-{content}", known, damages)


def count_rows(file: Path, file_format: FileFormat) -> int:
    """Rows of one file, by its Parquet footer or its line breaks, after making sure that it is whole.

    Raises:
        DamagedFileError: the file ends early or cannot be decoded.
    """
    if file_format == "parquet":
        try:
            return int(pq.read_metadata(file).num_rows)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise DamagedFileError(f"its Parquet footer cannot be read ({_first_line(error)})") from error
    lines, last = 0, b"\n"
    for chunk in _decoded(file):
        lines += chunk.count(b"\n")
        last = chunk[-1:] or last
    if last != b"\n":
        raise DamagedFileError("its last line has no line break: it was cut off")
    return max(lines - 1, 0) if file_format == "csv" else lines


def _decoded(file: Path) -> Iterator[bytes]:
    if file.suffix != ".gz":
        yield from _chunks(file)
        return
    # DuckDB takes a gzip stream that ends early for a short file, so its end is checked here.
    decoder = zlib.decompressobj(wbits=31)
    try:
        for chunk in _chunks(file):
            pending = chunk
            while pending:
                if decoder.eof:
                    decoder = zlib.decompressobj(wbits=31)
                yield decoder.decompress(pending)
                pending = decoder.unused_data
    except zlib.error as error:
        raise DamagedFileError(f"it is not intact gzip ({error})") from error
    if not decoder.eof:
        raise DamagedFileError("its gzip stream ends early: it was cut off")


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
