"""Rows of a training set: entity rows, their features as known then, and the labels.

Belongs here: running the declared queries over the declared partitions, and refusing what no model can learn from. Not
here: training, Dagster.
"""

import math
from collections.abc import Sequence

import dagster as dg
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml_assets.sdk.declarations import Query, TrainingSet
from ml_assets.sdk.metrics import Floats
from ml_assets.sdk.windows import Calendar, bounds
from resources.feature_store.point_in_time import instant, instant_literal, quoted
from resources.warehouse import PARTITION_KEY, TableName, physical_partitions

_TOO_ALIKE = 1 - 1e-9
_TELLING = 15
"""Labels that must differ from the most common one before a likeness to a feature says anything: fewer of 0 and 1 are
alike by chance."""
_UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")


class TrainingDataError(ValueError):
    """Rows that no model may learn from; the message names column and rows and says what to do."""


class MissingPartition(LookupError):
    """A partition that a step needs is not in the lake; the message names table and partition."""


def require(lake: duckdb.DuckDBPyConnection, key: dg.AssetKey, partitions: Sequence[str]) -> None:
    """Make sure that partitions of a table are physically there.

    Raises:
        MissingPartition: the lake lacks some; the message names them and what to build.
    """
    table = TableName.of_key(key)
    missing = sorted(set(partitions) - physical_partitions(lake, table).keys())
    if missing:
        raise MissingPartition(
            f"{table} has no rows for {', '.join(missing)}; materialize these partitions of {key.to_user_string()} "
            "first, then this step again"
        )


def entity_rows(
    lake: duckdb.DuckDBPyConnection, declared: TrainingSet, partition: str, calendar: Calendar | None = None
) -> duckdb.DuckDBPyRelation:
    """Keys and times of one partition, ordered by them, and what the features are asked with.

    Args:
        lake: a reading connection.
        declared: the training set.
        partition: whose rows.
        calendar: that it is of, where that is not the training set's: a model may be asked about a time of which there
            will be labels later, or never.

    Raises:
        TrainingDataError: a row lies outside its partition, or two have the same keys and time.
        MissingPartition: a table that is read lacks a partition.
    """
    calendar = calendar or declared.calendar
    rows = _answer(lake, declared.entity_rows, calendar, partition)
    columns = [*declared.keys, declared.time]
    given = list(dict.fromkeys([*columns, *declared.features.request]))
    _refuse_missing(f"entity rows of {declared.name!r}", given, rows.columns)
    rows = rows.project(", ".join(map(quoted, given))).order(", ".join(map(quoted, columns)))
    kinds = dict(zip(rows.columns, map(str, rows.types), strict=True))
    start, end = bounds(calendar, partition)
    moment = instant(quoted(declared.time), kinds[declared.time])
    if kinds[declared.time] == "DATE":
        # A date is the local day, which the calendar's own zone begins.
        moment = f"timezone('{calendar.timezone}', {quoted(declared.time)}::timestamp)"
    found = rows.aggregate(
        f"count(*) filter ({moment} >= {instant_literal(end)}), count(*) filter ({moment} < {instant_literal(start)}), "
        f"count(*) filter ({quoted(declared.time)} is null), count(*), count(distinct "
        f"({', '.join(map(quoted, columns))})), max({moment})"
    ).fetchone()
    assert found is not None
    late, early, undated, count, distinct, newest = found
    if late:
        raise TrainingDataError(
            f"{declared.key.to_user_string()} {partition}: {late} of {count} entity rows are from the future of their "
            f"partition, which ends {end:%Y-%m-%d %H:%M %Z} (newest: {newest}): nobody could have asked then. Correct "
            f"`entity_rows`, which should restrict {declared.time!r} by `asked`"
        )
    if early or undated:
        raise TrainingDataError(
            f"{declared.key.to_user_string()} {partition}: {early} of {count} entity rows are older than their "
            f"partition, {undated} have no time; correct `entity_rows`, which should restrict {declared.time!r} by "
            "`asked`"
        )
    if distinct < count:
        raise TrainingDataError(
            f"{declared.key.to_user_string()} {partition}: {count - distinct} of {count} entity rows repeat keys "
            f"and time; {', '.join(columns)} must tell them apart"
        )
    return rows


def questions(
    lake: duckdb.DuckDBPyConnection, declared: TrainingSet, partition: str, calendar: Calendar | None = None
) -> duckdb.DuckDBPyRelation:
    """Entity rows of one partition with their features, without labels: what is asked of a model; as `entity_rows`.

    Returns:
        Keys, time, the features, and the columns that say when these were known.

    Raises:
        TrainingDataError, MissingPartition: as `entity_rows`, and when a declared feature does not come.
    """
    joined = declared.features.join(lake, entity_rows(lake, declared, partition, calendar))
    features, known = declared.features.columns, dict.fromkeys(declared.features.known_at.values())
    _refuse_missing(f"features of {declared.name!r}", [*features, *known], joined.columns)
    chosen = [*map(quoted, (*declared.keys, declared.time))]
    chosen += [f"{quoted(name)}::{kind} as {quoted(name)}" for name, kind in features.items()]
    kinds = dict(zip(joined.columns, map(str, joined.types), strict=True))
    chosen += [f"{instant(quoted(name), kinds[name])} as {quoted(name)}" for name in known]
    return joined.project(", ".join(chosen))


def labelled(lake: duckdb.DuckDBPyConnection, declared: TrainingSet, partition: str) -> pa.Table:
    """The training rows of one partition.

    Returns:
        The columns of `questions`, the label as DOUBLE, and `partition_key`.

    Raises:
        TrainingDataError: NaN, infinite or null labels, a label that is none of its task, repeated labels, or a feature
            that is the label in disguise.
        MissingPartition: a table that is read lacks a partition, or labels cannot be known yet.
    """
    _refuse_unlabelled_time(declared, partition)
    asked = questions(lake, declared, partition).set_alias("asked_rows")
    labels = _answer(lake, declared.labels, declared.calendar, partition)
    columns = [*declared.keys, declared.time]
    _refuse_missing(f"labels of {declared.name!r}", [*columns, declared.label], labels.columns)
    labels = labels.project(
        ", ".join(
            [*map(quoted, columns), f"{quoted(declared.label)}::double as {quoted(declared.label)}", "true as found"]
        )
    ).set_alias("label_rows")
    same = " and ".join(f"asked_rows.{quoted(column)} = label_rows.{quoted(column)}" for column in columns)
    label = f"label_rows.{quoted(declared.label)}"
    if declared.unlabelled is not None:
        label = f"case when label_rows.found then {label} else {declared.unlabelled!r}::double end"
    joined = asked.join(labels, same, how="inner" if declared.unlabelled is None else "left")
    key = partition.replace("'", "''")
    rows = joined.project(f"asked_rows.*, {label} as {quoted(declared.label)}, '{key}' as {PARTITION_KEY}")
    table = rows.order(", ".join(map(quoted, columns))).to_arrow_table()
    _refuse_labels(declared, partition, table)
    return table


def matrix(rows: pa.Table, features: Sequence[str], places: NDArray[np.int64] | None = None) -> Floats:
    """The features as (rows, columns), NaN where unknown; of all rows, or of those at `places`, in that order."""
    found = np.empty((rows.num_rows if places is None else len(places), len(features)))
    for at, name in enumerate(features):
        values = _floats(rows, name)
        found[:, at] = values if places is None else values[places]
    return found


def leaks(rows: pa.Table, declared: TrainingSet, features: Sequence[str]) -> dict[str, int]:
    """By feature, how many of its values were known only after the time of their row; features without any left out."""
    asked = _instants(rows, declared.time, declared.calendar.timezone)
    newer: dict[str, int] = {}
    for name in features:
        known = rows[declared.features.known_at[name]]
        there = pc.is_valid(known).to_numpy()
        moments = _instants(rows, declared.features.known_at[name], "UTC")
        newer[name] = int((there & (moments > asked)).sum())
    return {name: count for name, count in newer.items() if count}


def _answer(
    lake: duckdb.DuckDBPyConnection, query: Query, calendar: Calendar, partition: str
) -> duckdb.DuckDBPyRelation:
    start, end = bounds(calendar, partition)
    key = partition.replace("'", "''")
    names = [
        f"asked as (select '{key}' as partition_key, {instant_literal(start)} as starts_at, "
        f"{instant_literal(end)} as ends_at)"
    ]
    for alias, read in query.reads.items():
        table, keys = TableName.of_key(read.table), read.keys(calendar, partition)
        where = ""
        if keys is not None:
            require(lake, read.table, keys)
            listed = ", ".join("'" + one.replace("'", "''") + "'" for one in keys)
            where = f" where {PARTITION_KEY} in ({listed or 'NULL'})"
        names.append(f"{quoted(alias)} as (select * from {table.sql}{where})")
    return lake.sql(f"with {', '.join(names)} {query.sql}")


def _refuse_missing(where: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise TrainingDataError(
            f"{where}: the query gives no {', '.join(missing)}; it gives {', '.join(found)}. Correct the query, or the "
            "declaration of the column or feature"
        )


def _refuse_unlabelled_time(declared: TrainingSet, partition: str) -> None:
    """Refuse a partition of which no labels can be there: its rows would be told that nothing happened."""
    for read in declared.labels.reads.values():
        if why := read.lacks(declared.calendar, partition):
            raise MissingPartition(
                f"{declared.key.to_user_string()} {partition} has no labels: {read.table.to_user_string()} {why}; "
                "materialize it once they are known, or let the training set's calendar leave it out"
            )


def _refuse_labels(declared: TrainingSet, partition: str, rows: pa.Table) -> None:
    where, labels = f"{declared.key.to_user_string()} {partition}", _floats(rows, declared.label)
    unusable = ~np.isfinite(labels)
    if unusable.any():
        first = rows.slice(int(np.argmax(unusable)), 1).select([*declared.keys, declared.time]).to_pylist()[0]
        raise TrainingDataError(
            f"{where}: {int(unusable.sum())} of {len(labels)} labels {declared.label!r} are NaN, infinite or null, "
            f"first that of {first}; correct `labels`, or leave these rows out there"
        )
    if declared.task == "binary" and not np.isin(labels, (0.0, 1.0)).all():
        raise TrainingDataError(
            f"{where}: labels {declared.label!r} of a binary task must be 0 or 1; found "
            f"{', '.join(str(value) for value in np.unique(labels)[:5])}"
        )
    columns = [*declared.keys, declared.time]
    if rows.group_by(columns).aggregate([]).num_rows < rows.num_rows:
        raise TrainingDataError(f"{where}: `labels` has several rows for the same {', '.join(columns)}; aggregate them")
    if not len(labels) or len(labels) - np.unique(labels, return_counts=True)[1].max() < _TELLING:
        return
    for name in declared.features.columns:
        alike = _likeness(_floats(rows, name), labels)
        if alike > _TOO_ALIKE:
            raise TrainingDataError(
                f"{where}: feature {name!r} is the label {declared.label!r} in disguise (correlation {alike:.9f}), "
                "so that a model would read the answer; take it out, or compute it of earlier partitions"
            )


def _likeness(values: Floats, labels: Floats) -> float:
    """The absolute correlation over rows where the value is known; 0 where there are too few or it is constant."""
    known = np.isfinite(values)
    if known.sum() < 3 or np.ptp(values[known]) == 0 or np.ptp(labels[known]) == 0:
        return 0.0
    found = float(np.corrcoef(values[known], labels[known])[0, 1])
    return 0.0 if math.isnan(found) else abs(found)


def _floats(rows: pa.Table, name: str) -> Floats:
    column = rows[name]
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _instants(rows: pa.Table, name: str, zone: str) -> NDArray[np.int64]:
    """Microseconds since 1970 of a column of times; a date is its midnight in `zone`, null is the beginning of time."""
    column = rows[name]
    if pa.types.is_date(column.type):
        column = pc.assume_timezone(column.cast(pa.timestamp("us")), zone)
    elif column.type.tz is None:
        column = pc.assume_timezone(column.cast(pa.timestamp("us")), "UTC")
    moments = column.cast(_UTC_MICROSECONDS).cast(pa.int64())
    return np.asarray(pc.fill_null(moments, np.iinfo(np.int64).min).to_numpy(), dtype=np.int64)
