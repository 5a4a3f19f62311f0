"""A declared feature view as the lake's joins and the online store know it, and whether its mart fits.

Belongs here: translating a declaration, once for each of the two. Not here: Feast's form (`feast_objects.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import duckdb
import pyarrow as pa

from ml_assets.declaration_error import DeclarationError
from ml_assets.features.types import TYPES
from ml_assets.features.views import EVENT_TIME, FeatureView
from resources.feature_store.point_in_time import (
    Feature,
    FeatureError,
    View,
    columns_of,
    entity_rows,
    point_in_time_sql,
    quoted,
    with_computed,
)
from resources.feature_store.served_view import ServedView
from resources.warehouse import PARTITION_KEY

ASKED_AT = "asked_at"
"""The instant that a row of `values_as_of` is about."""

LAST_EVENT = "last_event_time"
"""The newest event time at or before it, however old."""


def relation_sql(view: FeatureView, partitions: Sequence[str] | None = None) -> str:
    """The mart, or only some `partitions` of it, as a relation that has the view's event time."""
    only = "" if partitions is None else f" where {PARTITION_KEY} in ({_literals(partitions)})"
    mart = f"(from {view.table.sql}{only})"
    if view.event_sql is None:
        return mart
    return with_computed(mart, {view.event_column: view.event_sql}, of=view.timestamp_column)


def joined_view(view: FeatureView, partitions: Sequence[str] | None = None) -> View:
    """The view for a point-in-time join, with the event time of the row that counts as one more feature.

    Without `partitions` over the whole mart, else over these: only the files of these are read.
    """
    return View(
        name=view.name,
        table=relation_sql(view, partitions),
        called=str(view.table),
        keys={key: key for key in view.keys},
        timestamp=view.event_column,
        created=view.created,
        ttl=view.ttl,
        features=[
            *(Feature(feature.read_from, feature.name, feature.kind.duckdb) for feature in view.features),
            Feature(view.event_column, EVENT_TIME, "TIMESTAMP WITH TIME ZONE"),
        ],
    )


def served_view(view: FeatureView) -> ServedView:
    """The view for the online store."""
    return ServedView(
        view.name,
        {key: TYPES[entity.type].packed for key, entity in view.keys.items()},
        {feature.name: feature.kind.packed for feature in view.features},
        view.ttl,
    )


def asked_keys(
    lake: duckdb.DuckDBPyConnection,
    view: FeatureView,
    reach: Mapping[str, Sequence[str]],
    at_most: int | None = None,
) -> pa.Table:
    """Whom to ask `values_as_of` about when partitions have ended: every key that a partition in their reach holds.

    Columns are `partition_key`, the keys and `asked_at`; rows come in their order.

    Args:
        lake: a reading connection.
        view: what will be asked.
        reach: by partition, those partitions of the mart that can hold a value when it has ended.
        at_most: how many keys of a partition, chosen by their hash; all, unless given.
    """
    asked = pa.table(
        {
            "asked": pa.array([key for key, reached in reach.items() for _ in reached], pa.string()),
            "reached": pa.array([one for reached in reach.values() for one in reached], pa.string()),
            ASKED_AT: pa.array(
                [view.known_at(key) for key, reached in reach.items() for _ in reached], pa.timestamp("us", tz="UTC")
            ),
        }
    )
    lake.register("asked_partitions", asked)
    return lake.sql(_entities_sql(view, sorted(set(asked["reached"].to_pylist())), at_most)).to_arrow_table()


def values_as_of(
    lake: duckdb.DuckDBPyConnection,
    view: FeatureView,
    asked: pa.Table,
    partitions: Iterable[str],
    with_last_event: bool = False,
) -> pa.Table:
    """What the view said of the keys at the instants that `asked` names, in its order.

    Columns are those of `asked`, the features, and `event_time` of the row that counted; features and event time are
    null where none did.

    Args:
        lake: a reading connection.
        view: what is asked.
        asked: of `asked_keys`, or some of its rows.
        partitions: of the mart, in which the values are looked for; only their files are read.
        with_last_event: also `last_event_time`, the newest event time before, however old.
    """
    known = joined_view(view, sorted(set(partitions)))
    views = [known]
    if with_last_event:
        last = Feature(view.event_column, LAST_EVENT, "TIMESTAMP WITH TIME ZONE")
        views.append(replace(known, name=f"{view.name} of any age", ttl=None, features=[last]))
    rows = entity_rows(lake, lake.from_arrow(asked), ASKED_AT)
    answer = lake.sql(point_in_time_sql(lake, rows, views))
    # Without a question the mart need not be read.
    return (answer if rows.count else answer.limit(0)).to_arrow_table()


def unfit_columns(view: FeatureView, found: Mapping[str, str]) -> list[str]:
    """What is wrong with the columns of the view's mart, a sentence each; `found` are their DuckDB types by name."""
    wrong = []
    for column, accepted in view.read_columns.items():
        if column not in found:
            wrong.append(
                f"view {view.name!r}: {view.table} lacks the column {column!r}; build the mart with it, or take it out "
                "of the declaration"
            )
        elif found[column].partition("(")[0] not in accepted:
            wrong.append(
                f"view {view.name!r}: column {column!r} of {view.table} is {found[column]}, which is none of "
                f"{', '.join(accepted)}; cast it in the mart, or correct the declaration"
            )
    return wrong


def refuse_unfit(lake: duckdb.DuckDBPyConnection, view: FeatureView) -> None:
    """Refuse a mart that is not as the view declares.

    Raises:
        DeclarationError: the mart is not there, or lacks a column, or has another type; names view, table and column.
    """
    wrong = unfit_columns(view, mart_columns(lake, view))
    if wrong:
        raise DeclarationError("\n".join(wrong))


def mart_columns(lake: duckdb.DuckDBPyConnection, view: FeatureView) -> Mapping[str, str]:
    """The columns of the view's mart and their DuckDB types.

    Raises:
        DeclarationError: it is not there.
    """
    try:
        return columns_of(lake, view.table.sql)
    except FeatureError as error:
        raise DeclarationError(f"view {view.name!r}: {error}") from error


def _entities_sql(view: FeatureView, partitions: Sequence[str], at_most: int | None) -> str:
    """The keys to ask for, each with partition and instant; null keys equal nothing, so nobody asks for them."""
    columns = [quoted(key) for key in view.keys]
    types = [TYPES[entity.type].duckdb for entity in view.entities]
    chosen = ", ".join(f"{column}::{kind} as {column}" for column, kind in zip(columns, types, strict=True))
    there = " and ".join(f"{column} is not null" for column in columns)
    keys = ", ".join(columns)
    few = (
        f" qualify row_number() over (partition by asked order by hash({keys}), {keys}) <= {at_most}" if at_most else ""
    )
    return (
        f"select asked as {PARTITION_KEY}, {keys}, {ASKED_AT} from (select distinct asked, {ASKED_AT}, {keys} from "
        f"(select {chosen}, {PARTITION_KEY} as reached from {view.table.sql} where {PARTITION_KEY} in "
        f"({_literals(partitions)}) and {there}) join asked_partitions using (reached)){few} order by all"
    )


def _literals(partitions: Sequence[str]) -> str:
    return ", ".join("'" + partition.replace("'", "''") + "'" for partition in partitions) or "null"
