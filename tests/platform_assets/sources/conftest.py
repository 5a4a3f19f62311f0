"""Small sources of every format, and a stand-in for the upstream systems that deliver them."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from platform_assets.partitions import COMMERCE_DAILY
from platform_assets.sources.declaration import WHOLE, Column, EventTime, Source, expect
from platform_assets.sources.landing import MARKER

DAY = "2017-03-01"

JSON_FORMATS = [("jsonl", None), ("jsonl", "gzip")]
TEXT_FORMATS = [("csv", None), ("csv", "gzip"), *JSON_FORMATS]
FORMATS = [("parquet", None), *TEXT_FORMATS]

_ARROW_TYPES = {
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"),
    "VARCHAR": pa.string(),
}

SALES = Source(
    team="commerce",
    entity="sales",
    description="One row per basket and product.",
    partitions=COMMERCE_DAILY,
    file_format="parquet",
    columns=(
        Column("basket_id", "BIGINT", "Basket."),
        Column("product_id", "BIGINT", "Product."),
        Column("amount_usd", "DOUBLE", "Dollars paid."),
        Column("sold_at", "TIMESTAMP", "When, in UTC."),
        Column("is_member", "BOOLEAN", "Whether a card was shown."),
        Column("note", "VARCHAR", "Free text.", nullable=True),
    ),
    key=("basket_id", "product_id"),
    event_time=EventTime("sold_at", zone="UTC"),
    expectations=(expect("column_values_to_be_between", column="amount_usd", min_value=0),),
)

Rows = list[dict[str, Any]]
Deliver = Callable[..., Path]


@pytest.fixture(params=FORMATS, ids=lambda pair: "-".join(filter(None, pair)))
def sales(request: pytest.FixtureRequest) -> Source:
    """The same source in every format."""
    file_format, compression = request.param
    return replace(SALES, file_format=file_format, compression=compression)


@pytest.fixture
def sales_rows() -> Callable[..., Rows]:
    """Good rows of a partition, sold from its first moment on."""

    def rows(source: Source, partition: str = DAY, count: int = 3) -> Rows:
        start, _ = source.event_bounds(partition)
        return [
            {
                "basket_id": 100 + row,
                "product_id": 7,
                "amount_usd": 1.5 * row,
                "sold_at": start + timedelta(minutes=row),
                "is_member": row % 2 == 0,
                "note": None if row == 1 else f'said "hello", {row}',
            }
            for row in range(count)
        ]

    return rows


@pytest.fixture
def landing_root(tmp_path: Path) -> Path:
    return tmp_path / "home" / "landing"


@pytest.fixture
def deliver(landing_root: Path) -> Deliver:
    """Write rows as one file of a partition, then the marker; returns the file."""

    def write(
        source: Source,
        rows: Rows,
        partition: str = WHOLE,
        file: str = "part-00000",
        marker: bool = True,
        types: Mapping[str, str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> Path:
        folder = source.partition_dir(landing_root, partition)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{file}{source.extension}"
        names = columns or (list(rows[0]) if rows else [column.name for column in source.columns])
        declared = {column.name: column.type for column in source.columns} | dict(types or {})
        if source.file_format == "parquet":
            fields = [(name, _ARROW_TYPES[declared.get(name, "VARCHAR")]) for name in names]
            pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), path)
        else:
            text = _as_csv(rows, names) if source.file_format == "csv" else _as_json_lines(rows)
            path.write_bytes(gzip.compress(text.encode()) if source.compression else text.encode())
        if marker:
            (folder / MARKER).touch()
        return path

    return write


def _as_csv(rows: Rows, names: Sequence[str]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _as_json_lines(rows: Rows) -> str:
    def plain(value: Any) -> Any:
        return value.isoformat() if isinstance(value, datetime) else value

    return "".join(json.dumps({name: plain(value) for name, value in row.items()}) + "\n" for row in rows)
