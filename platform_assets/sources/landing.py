"""What lies in the landing zone: which partitions of a source were delivered, and the fingerprint of each.

Belongs here: folders, markers and bytes. Not here: what the rows mean (`validation.py`), or what was already
recorded about a delivery (`arrival.py`).
"""

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path

from platform_assets.sources import parquet_files
from platform_assets.sources.declaration import WHOLE, FileFormat, Source
from platform_assets.sources.text_files import DamagedFileError, count_csv_rows, count_json_lines
from resources.environment import DEFAULT_LIMITS, Limits

MARKER = "_SUCCESS"

_PREFIX = "dt="
_CHUNK_BYTES = 1 << 20
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_CAUSES = {
    errno.EACCES: "its permissions do not let the platform read it",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.ENAMETOOLONG: "its path is too long",
    errno.ENOENT: "it vanished while it was read",
}
_DANGLING = "it is a symbolic link to something that is not there"


@dataclass(frozen=True)
class Delivery:
    """A partition whose marker is there; `signature` changes when anything is written, and needs no reading.

    `faults` tells of what is no readable file why it is none, by path: of a data file, of the marker, or of the folder
    itself. These are never opened.
    """

    partition: str
    files: tuple[Path, ...]
    bytes: int
    delivered_at: datetime
    signature: str
    faults: Mapping[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Landing:
    """What was found for one source: deliveries by partition, partitions without marker, other names."""

    delivered: Mapping[str, Delivery]
    incomplete: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Fingerprint:
    """What a delivery holds. Equal content gives an equal `data_version`, whatever its files are called.

    `damages` tells by path why it cannot be read; `rows` is None then, and the version still tells one
    delivery from another. `is_settled` is False where reading failed for a cause that may pass without a write.
    `rows_of_files` are those of each file that can be read.
    """

    data_version: str
    rows: int | None
    damages: Mapping[Path, str]
    is_settled: bool = True
    rows_of_files: Mapping[Path, int] = field(default_factory=dict, compare=False)

    def version_since(self, recorded: str | None) -> str:
        """The version to go by when `recorded` is the last one known: the same as long as the content is.

        A version begins with the rows as they were counted when it was recorded. Another way of counting them is no
        reason to deliver, or to build, anything again.
        """
        same = recorded is not None and _content(recorded) == _content(self.data_version)
        return recorded if recorded is not None and same else self.data_version


def scan(source: Source, root: Path) -> Landing:
    """Everything that lies in the landing zone `root` for `source`; an absent folder holds nothing.

    Raises:
        OSError: the folder cannot be listed.
    """
    folder = source.landing(root)
    known = frozenset(source.partition_keys())
    delivered: dict[str, Delivery] = {}
    incomplete, unknown = [], []
    for name in _names(folder):
        partition = name.removeprefix(_PREFIX)
        if name.startswith((".", "_")):
            continue
        if not name.startswith(_PREFIX) or partition not in known:
            unknown.append(_readable(Path(name)).name)
        elif delivery := look(source, root, partition):
            delivered[partition] = delivery
        else:
            incomplete.append(partition)
    return Landing(delivered, tuple(incomplete), tuple(unknown))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        if folder.is_symlink():
            raise
        return []


def look(source: Source, root: Path, partition: str = WHOLE) -> Delivery | None:
    """The delivery of one partition, or None when it is absent, unfinished, or being replaced right now.

    What is in the way of reading it is one of its faults, never an error: the other partitions go on.
    """
    folder = source.partition_dir(root, partition)
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return _unreadable(partition, folder, _DANGLING) if folder.is_symlink() else None
    except NotADirectoryError:
        return _unreadable(partition, folder, "it is a file, not a folder")
    except OSError as error:
        return _unreadable(partition, folder, cause_of(error))
    if MARKER not in names:
        return None
    marker = _stat(folder / MARKER)
    if isinstance(marker, str):
        return _unreadable(partition, folder / MARKER, marker)
    found = {folder / name: _stat(folder / name) for name in names if not name.startswith((".", "_"))}
    if marker is None or None in found.values():
        return None
    faults = {_readable(path): cause for path, cause in found.items() if isinstance(cause, str)}
    stats = {path: facts for path, facts in found.items() if isinstance(facts, os.stat_result)}
    seen = [f"{path.name} {cause}" for path, cause in faults.items()]
    for path, facts in [(folder / MARKER, marker), *stats.items()]:
        # A file may be rewritten with its size and time (`rsync -t`), but not without another inode or change time.
        seen.append(f"{path.name} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns} {facts.st_ino}")
    return Delivery(
        partition=partition,
        files=tuple(map(_readable, found)),
        bytes=sum(facts.st_size for facts in stats.values()),
        delivered_at=datetime.fromtimestamp(marker.st_mtime, UTC),
        signature=_digest("\n".join(seen).encode()),
        faults=faults,
    )


def cause_of(error: OSError) -> str:
    """In words, why a file or folder that is there cannot be read."""
    return _CAUSES.get(error.errno or 0) or f"it cannot be read ({error.strerror or error})"


def _stat(path: Path) -> os.stat_result | str | None:
    """The facts of a file, or in words why it is none; None where nothing is there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return _DANGLING if path.is_symlink() else None
    except OSError as error:
        return cause_of(error)
    if _readable(path) != path:
        return "its name is not UTF-8 (the bytes that are not are shown as \\x..)"
    kind = stat.S_IFMT(found.st_mode)
    return found if kind == stat.S_IFREG else f"it is {_KINDS.get(kind, 'something else')}, not a file"


def _unreadable(partition: str, path: Path, cause: str) -> Delivery:
    """What takes the place of a delivery whose folder or marker cannot be read."""
    try:
        facts = path.lstat()
        changed_at, seen = facts.st_mtime, f"{facts.st_ctime_ns} {facts.st_ino}"
    except OSError:
        changed_at, seen = 0.0, ""
    signature = _digest(f"{cause} {seen}".encode())
    return Delivery(partition, (), 0, datetime.fromtimestamp(changed_at, UTC), signature, {path: cause})


def _readable(path: Path) -> Path:
    """The path with a name in valid Unicode, for people to read."""
    return path.with_name(os.fsencode(path.name).decode("utf-8", "backslashreplace"))


def fingerprint(source: Source, delivery: Delivery, limits: Limits = DEFAULT_LIMITS) -> Fingerprint:
    """Read the delivery: its rows, counted after making sure that each file is whole, and a hash of the content.

    A file that cannot be read is one of the damages, as is one that vanishes meanwhile because the delivery is being
    replaced, and one that takes more than `limits` allow.
    """
    rows, damages, is_settled = {}, dict(delivery.faults), True
    contents = [cause.encode() for cause in damages.values()]
    for file in delivery.files:
        if file in damages:
            continue
        try:
            digest = blake2b(digest_size=16)
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    digest.update(chunk)
            contents.append(digest.digest())
            rows[file] = count_rows(file, source.file_format, limits)
        except DamagedFileError as error:
            damages[file] = str(error)
        except OSError as error:
            damages[file], is_settled = cause_of(error), False
            contents.append(damages[file].encode())
    content = _digest(b"".join(sorted(contents)))
    known = None if damages else sum(rows.values())
    version = f"{'?' if known is None else known}-{delivery.bytes}-{content}"
    return Fingerprint(version, known, damages, is_settled, rows)


def count_rows(file: Path, file_format: FileFormat, limits: Limits = DEFAULT_LIMITS) -> int:
    """Rows of one file, by its Parquet footer or its lines, after making sure that it is whole.

    Raises:
        DamagedFileError: the file ends early, cannot be decoded, or takes more than `limits` allow.
        OSError: it cannot be opened.
    """
    if file_format == "parquet":
        return parquet_files.count_rows(file, limits)
    return count_csv_rows(file, limits) if file_format == "csv" else count_json_lines(file, limits)


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=8).hexdigest()


def _content(version: str) -> str:
    """A data version without its rows."""
    return version.partition("-")[2]
