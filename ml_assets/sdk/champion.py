"""Which version serves from when, and why: the decisions about a model's champion.

Belongs here: decisions as data, and what follows from them. Not here: who decides (the gate, or a person), the
registry.

A partition of the champion's table holds the decisions that took effect in it, in order. The newest one at or before a
moment is the version that served at that moment.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

import duckdb
import pyarrow as pa

from resources.warehouse import PARTITION_KEY, TableName, physical_partitions

Action = Literal["promoted", "rolled back"]

SCHEMA = pa.schema(
    [
        ("serves_from", pa.timestamp("us", tz="UTC")),
        ("action", pa.string()),
        ("version_of", pa.string()),
        ("version", pa.int64()),
        ("model_digest", pa.string()),
        ("replaced", pa.string()),
        ("reason", pa.string()),
        (PARTITION_KEY, pa.string()),
    ]
)


class ChampionError(ValueError):
    """A promotion or rollback that cannot be made; the message says why and what can."""


@dataclass(frozen=True)
class Decision:
    """From `serves_from` on the version trained for partition `version_of` serves.

    Attributes:
        serves_from: since when; with a zone.
        action: what was done.
        version_of: partition that the version was trained for.
        version: its number in MLflow.
        model_digest: SHA-256 of its file.
        replaced: `version_of` of the champion before; None: there was none.
        reason: in words.
    """

    serves_from: datetime
    action: Action
    version_of: str
    version: int
    model_digest: str
    replaced: str | None
    reason: str


def promoted(made: list[Decision], promotion: Decision) -> list[Decision]:
    """The decisions of a partition after its own version has passed the gate.

    Of the same model file nothing is decided anew: a rollback that followed its promotion stands. Another file starts
    the partition afresh.
    """
    if made and made[0].model_digest == promotion.model_digest:
        return made
    return [promotion]


def rolled_back(made: list[Decision], rollback: Decision, starts_at: datetime, ends_at: datetime) -> list[Decision]:
    """The decisions of a partition after a rollback that takes effect in it.

    Raises:
        ChampionError: it takes effect outside the partition or before a decision that was made already, gives no
            reason, or the version serves already.
    """
    if not rollback.reason.strip():
        raise ChampionError("a rollback needs a reason; give it as `reason` in the run's config")
    if not made:
        raise ChampionError(
            "nothing has been promoted in this partition that could be rolled back; materialize it first"
        )
    if not (starts_at <= rollback.serves_from < ends_at and rollback.serves_from > made[-1].serves_from):
        raise ChampionError(
            f"a rollback from {rollback.serves_from:%Y-%m-%d %H:%M %Z} on does not belong to the partition from "
            f"{starts_at:%Y-%m-%d %H:%M} to {ends_at:%Y-%m-%d %H:%M %Z}, or is not after its last decision; choose the "
            "partition of that moment, or another `serves_from` (by default it is now)"
        )
    if made[-1].model_digest == rollback.model_digest:
        raise ChampionError(f"the version of {rollback.version_of} serves already")
    return [*made, rollback]


def as_table(decisions: list[Decision], partition: str) -> pa.Table:
    """The rows of a partition."""
    return pa.Table.from_pylist([{**asdict(one), PARTITION_KEY: partition} for one in decisions], schema=SCHEMA)


def decisions_of(lake: duckdb.DuckDBPyConnection, table: TableName, partition: str) -> list[Decision]:
    """The decisions that a partition holds, in order."""
    return _decisions(lake, table, f"{PARTITION_KEY} = ?", [partition], "order by serves_from")


def before(lake: duckdb.DuckDBPyConnection, table: TableName, partition: str) -> Decision | None:
    """The champion when `partition` began: the last decision of the partitions before it."""
    newest = f"order by {PARTITION_KEY} desc, serves_from desc limit 1"
    return next(iter(_decisions(lake, table, f"{PARTITION_KEY} < ?", [partition], newest)), None)


def serving(lake: duckdb.DuckDBPyConnection, table: TableName, moment: datetime) -> Decision | None:
    """The decision by which a version served at `moment`; None: none did.

    Raises:
        ValueError: `moment` has no zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone; give one, for a day begins at another moment in each")
    newest = "order by serves_from desc limit 1"
    return next(iter(_decisions(lake, table, "serves_from <= ?", [moment], newest)), None)


def _decisions(
    lake: duckdb.DuckDBPyConnection, table: TableName, where: str, values: list[Any], order: str
) -> list[Decision]:
    if not physical_partitions(lake, table):
        return []
    columns = [name for name in SCHEMA.names if name not in ("serves_from", PARTITION_KEY)]
    found = lake.execute(
        f"select epoch_us(serves_from), {', '.join(columns)} from {table.sql} where {where} {order}", values
    ).fetchall()
    return [
        Decision(
            datetime.fromtimestamp(row[0] / 1_000_000, UTC),
            **cast(Any, dict(zip(columns, row[1:], strict=True))),
        )
        for row in found
    ]
