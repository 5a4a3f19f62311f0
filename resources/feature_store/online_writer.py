"""Materializing a feature view: the rows of a partition become what is served, and what left its source goes.

Belongs here: packing Arrow batches and writing them to an online store. Not here: which rows are read, and as of when.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from resources.feature_store.online_rows import OnlineRows
from resources.feature_store.served_view import ServedView

_ROWS_A_WRITE = 20_000


@dataclass(frozen=True)
class Refreshed:
    """What a materialization did: rows offered to the store, keys deleted."""

    written: int
    deleted: int


def write(
    rows: OnlineRows,
    view: ServedView,
    table: pa.Table | pa.RecordBatch,
    event_time: str,
    created_time: str | None = None,
    generation: int = 0,
    as_of: datetime | None = None,
) -> int:
    """Write `table`, with columns for join keys, features and times, to the online store; returns its rows.

    With `as_of` they replace whatever is not later than that instant, as `OnlineRows.write` says.

    Raises:
        RowError, JoinKeyError: a column is missing or of another type than `view` declares.
        OnlineStoreError: the store cannot be written.
    """
    for begin in range(0, table.num_rows, _ROWS_A_WRITE):
        part = table.slice(begin, _ROWS_A_WRITE)
        created = part.column(created_time) if created_time else None
        rows.write(
            view.stored_as,
            view.schema,
            view.keys.of_table(part),
            view.schema.pack(part, part.column(event_time), created),
            generation=generation,
            ttl=view.ttl,
            as_of=as_of,
        )
    return int(table.num_rows)


def refresh(
    rows: OnlineRows,
    view: ServedView,
    batches: Iterable[pa.Table | pa.RecordBatch],
    as_of: datetime,
    event_time: str,
    created_time: str | None = None,
) -> Refreshed:
    """Make the online store hold what `batches` do, which are the whole view as of the instant `as_of`.

    Rows that are newer than `as_of` stay; every other gives way, also to an older one, and is deleted at the end if its
    key is in none of the batches. A materialization that is interrupted deletes nothing and is simply run again.

    Raises:
        RowError, JoinKeyError, OnlineStoreError: as `write` does.
    """
    rows.prepare()
    generation = rows.begin(view.stored_as)
    written = sum(write(rows, view, batch, event_time, created_time, generation, as_of) for batch in batches)
    return Refreshed(written, rows.expire(view.stored_as, generation, as_of))
