"""What storage really holds of pairs: counted by the lake's catalog, and read once for their checksums.

Belongs here: the facts of a receipt that only storage can tell. Not here: what a receipt is (`resources/ledger.py`).
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from resources.engine import quoted
from resources.lake_catalog import LakeCatalog
from resources.ledger import StoredFile, schema_text
from resources.warehouse import PARTITION_KEY, TableName, row_checksums


@dataclass(frozen=True)
class Stored:
    """What storage holds of a pair; the words are those of `Receipt`."""

    rows: int | None
    checksum: str
    schema: str = ""
    snapshot: int | None = None
    files: tuple[StoredFile, ...] = ()
    extends: str | None = None
    digests: tuple[tuple[str, str], ...] = ()


def columns_of(catalog: LakeCatalog, key: dg.AssetKey) -> dict[str, str]:
    """The columns of a table or view of the lake, and their types."""
    with catalog.warehouse.reader() as lake:
        relation = lake.sql(f"from {TableName.of_key(key).sql}")
        return dict(zip(relation.columns, map(str, relation.types), strict=True))


def kept_in_table(
    catalog: LakeCatalog, key: dg.AssetKey, partitions: Sequence[str], columns: Sequence[str] | None = None
) -> dict[str, Stored]:
    """What the lake holds of `partitions` of a table; the checksums over all columns, or over `columns`.

    The digests of its files belong to the former only.
    """
    table = TableName.of_key(key)
    rows, snapshots = dict.fromkeys(partitions, 0), dict.fromkeys(partitions, 0)
    digests: dict[str, list[tuple[str, str]]] = {partition: [] for partition in partitions}
    files = catalog.files([table]).get(table)
    if files:
        of_files = zip(files.partitions, files.paths, files.rows.tolist(), files.snapshots.tolist(), strict=True)
        for partition, path, count, snapshot in of_files:
            if partition in rows:
                rows[partition] += count
                snapshots[partition] = max(snapshots[partition], snapshot)
                if columns is None:
                    digests[partition].append((Path(path).name, file_digest(Path(path))))
    types = columns_of(catalog, key)
    schema = schema_text({name: types[name] for name in columns or types})
    with catalog.warehouse.reader() as lake:
        sums = row_checksums(lake, table, None if list(partitions) == [""] else partitions, columns)
    return {
        key: Stored(rows[key], sums.get(key, ""), schema, snapshots[key] or None, digests=tuple(sorted(digests[key])))
        for key in partitions
    }


def file_digest(path: Path) -> str:
    """A digest of the bytes of a file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def holding_values(
    catalog: LakeCatalog, key: dg.AssetKey, partitions: Sequence[str], columns: Collection[str]
) -> set[str]:
    """Those of `partitions` in which one of the columns is not NULL throughout."""
    with catalog.warehouse.reader() as lake:
        rows = catalog.warehouse.relation(lake, TableName.of_key(key), None if list(partitions) == [""] else partitions)
        at = PARTITION_KEY if PARTITION_KEY in rows.columns else "''"
        held = " + ".join(f"count({quoted(name)})" for name in columns)
        return {found for found, count in rows.aggregate(f"{at}, {held}", at).fetchall() if count}


def kept_in_files(paths: Sequence[Path]) -> Stored:
    """What files outside the lake hold: the checksum is the SHA-256 of their bytes, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return Stored(None, digest.hexdigest(), files=tuple(StoredFile(str(path), path.stat().st_size) for path in paths))
