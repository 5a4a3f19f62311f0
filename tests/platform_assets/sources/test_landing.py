import gzip
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from platform_assets.sources.declaration import Source
from platform_assets.sources.landing import MARKER, Fingerprint, count_rows, fingerprint, look, scan
from platform_assets.sources.text_files import DamagedFileError
from tests.platform_assets.sources.conftest import SALES

DAY = "2017-03-01"
Deliver = Callable[..., Path]


def test_an_absent_landing_zone_holds_nothing(sales: Source, landing_root: Path) -> None:
    found = scan(sales, landing_root)
    assert (dict(found.delivered), found.incomplete, found.unknown) == ({}, (), ())


def test_only_partitions_with_their_marker_are_delivered(
    sales: Source, landing_root: Path, deliver: Deliver, sales_rows: Any
) -> None:
    deliver(sales, sales_rows(sales), DAY)
    deliver(sales, sales_rows(sales), "2017-03-02", marker=False)
    for name in ("dt=2017-12-25", "dt=yesterday", "notes.txt", ".tmp-upload", "_staging"):
        (sales.landing(landing_root) / name).mkdir()
    found = scan(sales, landing_root)
    assert list(found.delivered) == [DAY]
    assert found.incomplete == ("2017-03-02",)
    assert found.unknown == ("dt=2017-12-25", "dt=yesterday", "notes.txt")


def test_the_version_tells_rows_bytes_and_content_and_ignores_file_names_and_times(
    sales: Source, landing_root: Path, deliver: Deliver, sales_rows: Any
) -> None:
    file = deliver(sales, sales_rows(sales), DAY)
    delivery = look(sales, landing_root, DAY)
    assert delivery is not None
    first = fingerprint(sales, delivery)
    assert first.rows == 3
    assert first.data_version.startswith(f"3-{file.stat().st_size}-")
    os.utime(file, ns=(1, 1))
    file.rename(file.with_name("part-00009" + sales.extension))
    again = look(sales, landing_root, DAY)
    assert again is not None
    assert again.signature != delivery.signature
    assert fingerprint(sales, again) == first


def test_equal_size_and_other_content_is_another_version(
    sales: Source, landing_root: Path, deliver: Deliver, sales_rows: Any
) -> None:
    versions = set()
    for basket in (500, 501):
        deliver(replace(sales), [{**row, "basket_id": basket} for row in sales_rows(sales, count=1)], DAY)
        delivery = look(sales, landing_root, DAY)
        assert delivery is not None
        versions.add(fingerprint(sales, delivery).data_version)
    assert len(versions) == 2


def test_a_file_cut_off_anywhere_is_damaged_but_still_has_a_version(
    sales: Source, landing_root: Path, deliver: Deliver, sales_rows: Any
) -> None:
    file = deliver(sales, sales_rows(sales, count=50), DAY)
    whole = file.read_bytes()
    for length in (len(whole) - 1, len(whole) - 4, len(whole) // 2, 12):
        file.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError):
            count_rows(file, sales.file_format)
        delivery = look(sales, landing_root, DAY)
        assert delivery is not None
        damaged = fingerprint(sales, delivery)
        assert damaged.rows is None
        assert list(damaged.damages) == [file]
        assert damaged.data_version.startswith(f"?-{length}-")


def test_gzip_of_several_members_is_counted_whole(tmp_path: Path) -> None:
    file = tmp_path / "part.jsonl.gz"
    file.write_bytes(gzip.compress(b"{}\n{}\n") + gzip.compress(b"{}\n"))
    assert count_rows(file, "jsonl") == 3


def test_a_partition_that_is_being_replaced_is_not_there_yet(
    sales: Source, landing_root: Path, deliver: Deliver, sales_rows: Any
) -> None:
    deliver(sales, sales_rows(sales), DAY)
    (sales.partition_dir(landing_root, DAY) / MARKER).unlink()
    assert look(sales, landing_root, DAY) is None


NEXT_DAY = "2017-03-02"


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def _not_utf_8(path: Path) -> None:
    with open(os.fsencode(path) + b"-\xff", "wb") as file:
        file.write(b"?")


IN_THE_WAY: dict[str, tuple[Callable[[Path], Any], str]] = {
    "folder": (lambda path: path.mkdir(), "it is a folder, not a file"),
    "named pipe": (os.mkfifo, "it is a named pipe, not a file"),
    "socket": (_socket, "it is a socket, not a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a file"),
    "circle of links": (lambda path: path.symlink_to(path.name), "its symbolic links lead in a circle"),
    "dangling link": (lambda path: path.symlink_to("gone"), "it is a symbolic link to something that is not there"),
    "path too long": (lambda path: path.symlink_to("x" * 4000), "its path is too long"),
    "name that is no text": (_not_utf_8, "its name is not UTF-8"),
}


@pytest.fixture
def short_root() -> Iterator[Path]:
    """A landing zone with a short path, for sockets, that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="landing-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def delivered(root: Path, partition: str = DAY, text: str = "basket_id\n1\n") -> Path:
    """A CSV file of `SALES` with its marker."""
    folder = SALES.partition_dir(root, partition)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "part-0.csv").write_text(text)
    (folder / MARKER).touch()
    return folder / "part-0.csv"


CSV_SALES = replace(SALES, file_format="csv")


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_is_no_readable_file_is_a_fault_of_its_partition_alone_and_is_never_opened(
    short_root: Path, kind: str
) -> None:
    make, cause = IN_THE_WAY[kind]
    file = delivered(short_root)
    delivered(short_root, NEXT_DAY)
    make(file.with_name("part-1.csv"))
    found = scan(CSV_SALES, short_root).delivered
    assert list(found) == [DAY, NEXT_DAY]
    (fault,) = found[DAY].faults.items()
    assert fault[0].name.startswith("part-1.csv")
    assert fault[1].startswith(cause)
    assert fault[0] in found[DAY].files
    read = fingerprint(CSV_SALES, found[DAY])
    assert (read.rows, dict(read.damages), read.is_settled) == (None, dict([fault]), True)
    assert str(fault[0]).encode()
    assert fingerprint(CSV_SALES, found[NEXT_DAY]).rows == 1


@pytest.mark.parametrize("kind", [kind for kind in IN_THE_WAY if kind != "name that is no text"])
@pytest.mark.parametrize("place", [MARKER, ""], ids=["marker", "partition"])
def test_a_marker_or_a_partition_that_is_none_is_told_and_the_next_partition_goes_on(
    short_root: Path, kind: str, place: str
) -> None:
    make, cause = IN_THE_WAY[kind]
    if (kind, place) == ("folder", ""):
        pytest.skip("a partition is a folder")
    delivered(short_root, NEXT_DAY)
    path = SALES.partition_dir(short_root, DAY) / place
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)
    found = scan(CSV_SALES, short_root).delivered
    assert list(found) == [DAY, NEXT_DAY]
    (told,) = found[DAY].faults.values()
    assert found[DAY].faults == {path: told}
    assert told.startswith(cause) or told == "it is a file, not a folder"
    assert fingerprint(CSV_SALES, found[DAY]).rows is None


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's right to read everything."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.parametrize("place", ["part-0.csv", ""], ids=["file", "folder"])
def test_without_permission_a_partition_is_refused_and_read_as_soon_as_it_may_be(short_root: Path, place: str) -> None:
    delivered(short_root, NEXT_DAY)
    closed = delivered(short_root).parent / place
    mode = closed.stat().st_mode
    closed.chmod(0)
    with as_nobody():
        found = scan(CSV_SALES, short_root).delivered
        read = fingerprint(CSV_SALES, found[DAY])
        assert list(read.damages.values()) == ["its permissions do not let the platform read it"]
        assert list(read.damages) == [closed]
        assert fingerprint(CSV_SALES, found[NEXT_DAY]).rows == 1
    closed.chmod(mode)
    with as_nobody():
        again = look(CSV_SALES, short_root, DAY)
        assert again is not None
        assert again.signature != found[DAY].signature
        assert fingerprint(CSV_SALES, again).rows == 1


def test_a_file_that_vanishes_while_it_is_read_is_named_and_nothing_is_settled(short_root: Path) -> None:
    file = delivered(short_root)
    delivery = look(CSV_SALES, short_root, DAY)
    assert delivery is not None
    file.unlink()
    read = fingerprint(CSV_SALES, delivery)
    assert (dict(read.damages), read.is_settled) == ({file: "it vanished while it was read"}, False)


def test_a_file_or_a_marker_written_again_changes_the_signature_though_size_and_time_are_as_before(
    short_root: Path,
) -> None:
    file = delivered(short_root, text="basket_id\n1\n")
    signatures = set()

    def seen() -> None:
        delivery = look(CSV_SALES, short_root, DAY)
        assert delivery is not None
        signatures.add(delivery.signature)

    seen()
    for path, text in ((file, "basket_id\n2\n"), (file.with_name(MARKER), "")):
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_text(text)
        os.utime(path, ns=times)
        seen()
        beside = path.with_name(".new")
        beside.write_text(text)
        os.utime(beside, ns=times)
        beside.replace(path)
        seen()
    assert len(signatures) == 5


def test_a_version_of_before_stands_as_long_as_the_content_does() -> None:
    found = Fingerprint("2-40-00aa", 2, {})
    assert found.version_since("3-40-00aa") == "3-40-00aa"
    assert found.version_since("?-40-00aa") == "?-40-00aa"
    assert found.version_since("2-40-00ab") == "2-40-00aa"
    assert found.version_since("2-41-00aa") == "2-40-00aa"
    assert found.version_since(None) == "2-40-00aa"
