"""The lake's catalog, read as the SQL tables that it is: which files hold which partitions, and who wrote them.

Belongs here: questions that a check of many pairs asks, answered in milliseconds and without attaching the lake.
Not here: reading or writing rows (`warehouse.py`). The tables are those of the DuckLake specification, 1.0.

A catalog in SQLite is read by DuckDB too, never by Python's own SQLite: two copies of SQLite in one process take each
other's file locks away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from resources.engine import literal
from resources.warehouse import TableName, Warehouse


@dataclass(frozen=True, eq=False)
class DataFiles:
    """The Parquet files of one table as columns, one entry a file.

    `paths` are absolute; `rows` are those that are not deleted; `snapshots` are those that added the file or last
    deleted rows of it; an unpartitioned table has the partition ''.
    """

    partitions: Sequence[str]
    paths: Sequence[str]
    rows: NDArray[np.int64]
    bytes: NDArray[np.int64]
    snapshots: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class LakeCatalog:
    """The catalog of the lake that `warehouse` stores into."""

    warehouse: Warehouse

    def files(self, tables: Sequence[TableName] | None = None) -> dict[TableName, DataFiles]:
        """The data files of every table, or of `tables`; one without files is left out.

        Raises:
            LakeError: the catalog cannot be read.
        """
        with self.warehouse.catalog_reader() as catalog:
            names = {
                number: TableName(schema, name)
                for number, schema, name in catalog.execute(_TABLES).fetchall()
                if tables is None or TableName(schema, name) in tables
            }
            root = literal(f"{self.warehouse.data.rstrip('/')}/")
            # Written into the query: DuckDB imports pandas for any value that is handed over beside one.
            found = catalog.execute(_FILES.format(root=root, tables=[*names])).fetchnumpy()
        numbers = found["table_id"]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist() if len(numbers) else []
        return {
            names[int(numbers[start])]: DataFiles(
                found["partition"][start:end].tolist(),
                found["path"][start:end].tolist(),
                *(np.asarray(found[column][start:end], np.int64) for column in ("rows", "bytes", "snapshot")),
            )
            for start, end in pairwise([*starts, len(numbers)])
        }

    def views(self) -> set[TableName]:
        """The views of the lake."""
        with self.warehouse.catalog_reader() as catalog:
            return {TableName(schema, name) for schema, name in catalog.execute(_VIEWS).fetchall()}

    def author(self, snapshot: int) -> str:
        """Who made a snapshot: the run that its commit names, or nobody known."""
        with self.warehouse.catalog_reader() as catalog:
            found = catalog.execute(_AUTHOR, [snapshot]).fetchone()
        return str(found[0]) if found and found[0] else "somebody who left no name"


_TABLES = """
    select t.table_id, s.schema_name, t.table_name
    from catalog.ducklake_table t join catalog.ducklake_schema s on s.schema_id = t.schema_id
    where t.end_snapshot is null and s.end_snapshot is null
"""
_FILES = """
    select f.table_id, coalesce(p.partition_value, '') as partition,
           if(f.path_is_relative, {root} || s.path || t.path || f.path, f.path) as path,
           f.record_count - coalesce(d.delete_count, 0) as rows, f.file_size_bytes as bytes,
           greatest(f.begin_snapshot, coalesce(d.partial_max, d.begin_snapshot, 0)) as snapshot
    from catalog.ducklake_data_file f
    join catalog.ducklake_table t on t.table_id = f.table_id and t.end_snapshot is null
    join catalog.ducklake_schema s on s.schema_id = t.schema_id
    left join catalog.ducklake_file_partition_value p on p.data_file_id = f.data_file_id
    left join catalog.ducklake_delete_file d on d.data_file_id = f.data_file_id and d.end_snapshot is null
    where f.end_snapshot is null and list_contains({tables}::bigint[], f.table_id)
    order by f.table_id
"""
_VIEWS = """
    select s.schema_name, v.view_name
    from catalog.ducklake_view v join catalog.ducklake_schema s on s.schema_id = v.schema_id
    where v.end_snapshot is null and s.end_snapshot is null
"""
_AUTHOR = "select author from catalog.ducklake_snapshot_changes where snapshot_id = ?"
