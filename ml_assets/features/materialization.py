"""Bringing a view to the online store: its values as of when a partition is known, and what is recorded of them.

Belongs here: reading the values, their checksum, handing them to the store. Not here: the store (`resources/`), Dagster
(`assets.py`).

What is written as of an instant is the whole view at that instant: the newest row of every key that is not too old.
Whatever the store holds that is later stays; everything else becomes that. So partitions may be written in any order,
again, or twice; and a row that a correction took out of the mart gives way to the one before it.
"""

import hashlib
from collections.abc import Sequence
from itertools import chain

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ml_assets.features.joins import asked_keys, refuse_unfit, served_view, values_as_of
from ml_assets.features.views import EVENT_TIME, FeatureView
from resources.feature_store.online_rows import OnlineRows
from resources.feature_store.online_writer import refresh
from resources.feature_store.served_view import ServedView
from resources.warehouse import PARTITION_KEY

_MODULUS = 2**64
_PARTITIONS_AT_ONCE = 20

SUMMARY_COLUMNS = {
    "known_at": ("TIMESTAMP WITH TIME ZONE", "The instant that was materialized, at which the partition was known."),
    "keys": ("BIGINT", "Keys with a value at that instant."),
    "newest_keys": ("BIGINT", "Those of them whose value is of this partition."),
    "oldest_event_time": ("TIMESTAMP WITH TIME ZONE", "Event time of the oldest value; null without any."),
    "checksum": ("VARCHAR", "Order-free checksum of the keys and packed rows that the store was given."),
    PARTITION_KEY: ("VARCHAR", "Dagster partition key of the mart, and of this."),
}
"""Type and meaning of each column of the table that a materialization leaves."""

_SCHEMA = pa.schema(
    [
        ("known_at", pa.timestamp("us", tz="UTC")),
        ("keys", pa.int64()),
        ("newest_keys", pa.int64()),
        ("oldest_event_time", pa.timestamp("us", tz="UTC")),
        ("checksum", pa.string()),
        (PARTITION_KEY, pa.string()),
    ]
)


def partitions_in_reach(view: FeatureView, partition: str) -> list[str]:
    """The partitions of the mart that can hold a value when `partition` is known, itself included."""
    keys = view.calendar.get_partition_keys()
    at = keys.index(partition)
    return list(keys[max(0, at - view.lookback()) : at + 1])


def online_values(lake: duckdb.DuckDBPyConnection, view: FeatureView, partitions: Sequence[str]) -> pa.Table:
    """What the view holds when each of `partitions` is known: one row a partition and key that has a value.

    Raises:
        DeclarationError: the mart is not as the view declares.
    """
    refuse_unfit(lake, view)
    reach = {partition: partitions_in_reach(view, partition) for partition in partitions}
    found = values_as_of(lake, view, asked_keys(lake, view, reach), chain.from_iterable(reach.values()))
    return found.filter(pc.is_valid(found[EVENT_TIME]))


def materialize(
    lake: duckdb.DuckDBPyConnection, view: FeatureView, rows: OnlineRows, partitions: Sequence[str]
) -> pa.Table:
    """Bring the online store to when the last of `partitions` is known; returns a summary row for each of them.

    The earlier ones are not written: what the store holds at the last instant covers them.

    Raises:
        DeclarationError: the mart is not as the view declares.
        OnlineStoreError: the store cannot be written; what it was given is harmless and is given again by a retry.
    """
    summaries: list[dict[str, object]] = []
    served, wanted = served_view(view), sorted(partitions)
    # A partition at a time would read the mart once for each; all at once would hold a year in memory.
    for begin in range(0, len(wanted), _PARTITIONS_AT_ONCE):
        some = wanted[begin : begin + _PARTITIONS_AT_ONCE]
        values = online_values(lake, view, some)
        for partition in some:
            of_partition = values.filter(pc.equal(values[PARTITION_KEY], partition))
            if partition == wanted[-1]:
                refresh(rows, served, [of_partition], view.known_at(partition), EVENT_TIME)
            summaries.append(_summary(view, served, partition, of_partition))
    return pa.Table.from_pylist(summaries, _SCHEMA)


def checksum(keys: Sequence[bytes], rows: Sequence[bytes]) -> str:
    """Order-free: the sum of 64-bit hashes of each key with its packed row, and their number."""
    total = 0
    for key, row in zip(keys, rows, strict=True):
        digest = hashlib.blake2b(len(key).to_bytes(4, "big") + key + row, digest_size=8).digest()
        total = (total + int.from_bytes(digest, "big")) % _MODULUS
    return f"{len(rows)}:{total:x}"


def _summary(view: FeatureView, served: ServedView, partition: str, values: pa.Table) -> dict[str, object]:
    events, known_at = values[EVENT_TIME], view.known_at(partition)
    since = pa.scalar(view.known_since(partition), events.type)
    return {
        "known_at": known_at,
        "keys": values.num_rows,
        "newest_keys": pc.sum(pc.greater(events, since)).as_py() or 0,
        "oldest_event_time": pc.min(events).as_py(),
        "checksum": checksum(served.keys.of_table(values), served.schema.pack(values, events)),
        PARTITION_KEY: partition,
    }
