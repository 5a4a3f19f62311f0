import gzip
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from platform_assets.sources.declaration import Source
from platform_assets.sources.landing import MARKER, DamagedFileError, count_rows, fingerprint, look, scan

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
