"""Point-in-time joins: for each entity row, what a table said at that row's time, and nothing it said later.

Belongs here: the semantics, the SQL that has them, and the checks of what is joined. Not here: Feast, and where the
tables come from (any DuckDB connection will do).

For each entity row and each view the row of the view's table that counts is the one

- whose keys all equal the entity row's; a null key, on either side, equals nothing;
- whose event time is at or before the entity row's time, and the newest such. A null or infinite event time counts
  never;
- which, among rows of one event time, has the newest created time, if the view has that column (null is the oldest).
  So a correction that arrives late replaces what it corrects. Of rows that tie there too, the one with the greatest
  features in their order counts (null is the smallest): the same one however the files lie.

A row older than the view's time to live gives nulls, as no row does. The edge is inclusive: at exactly `time - ttl` a
row still counts, as in Feast's own stores (`event >= time - ttl` in its file store, `event + ttl >= time` in its
DuckDB store); None or zero is no limit.

With a created cutoff only rows created at or before the entity row's time count as well: what was known then, without
later corrections. A view without a created column is not touched by it, a null created time counts never.

Entity rows come back unchanged, in their number and order, repeated ones too. Times are instants: one without a zone
is in UTC, a date is its midnight in UTC, and what is finer than a microsecond is cut off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import duckdb

from resources.warehouse import TableName

# The only names that are added to the entity rows' own inside the query.
_ROW = "#row"
_AT = "#at"
_OF = '"#of"'

_INTEGERS = frozenset(
    ["TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"]
)
_TIMES = ("TIMESTAMP", "DATE")
# Bounds only narrow what is read; the slack lets them be compared in the column's own, perhaps coarser, unit.
_SLACK = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FeatureError(ValueError):
    """Features cannot be joined as asked; the message names the view, table, column or rows and says what to do."""


@dataclass(frozen=True)
class Feature:
    """A column of the view's table and the name it gets; `type` is the DuckDB type it is cast to, if not its own."""

    column: str
    name: str
    type: str | None = None


@dataclass(frozen=True)
class View:
    """What is joined to the entity rows.

    Attributes:
        name: how errors call it.
        table: a table of the lake, or a relation in SQL that the calling code wrote.
        keys: entity column -> the table's column; empty when the table describes one thing.
        timestamp: the table's column with the event time.
        created: the table's column with the time at which a row was written, if it has one.
        ttl: how old a row may be; None or zero is no limit.
        features: what is taken over.
        called: how errors call the table, where `table` is SQL.
    """

    name: str
    table: TableName | str
    keys: Mapping[str, str]
    timestamp: str
    features: Sequence[Feature]
    created: str | None = None
    ttl: timedelta | None = None
    called: str | None = None

    @property
    def relation(self) -> str:
        """What stands behind `from`."""
        return self.table.sql if isinstance(self.table, TableName) else self.table


@dataclass(frozen=True)
class EntityRows:
    """Entity rows that lie in a table of the connection: its name, the column of their times, and their range."""

    relation: str
    columns: Mapping[str, str]
    timestamp: str
    count: int
    first: datetime | None
    last: datetime | None


def quoted(identifier: str) -> str:
    """`identifier` for use in SQL; every name in this package's SQL goes through here."""
    return '"' + identifier.replace('"', '""') + '"'


def columns_of(connection: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """The columns of `relation` and their DuckDB types; nothing is read.

    Raises:
        FeatureError: it is not there.
    """
    try:
        found = connection.execute(f"describe select * from {relation}").fetchall()
    except duckdb.CatalogException as error:
        raise FeatureError(
            f"{relation} is not there; materialize the asset that writes it, or correct the name"
        ) from error
    return {row[0]: row[1] for row in found}


def with_computed(relation: str, computed: Mapping[str, str], of: str | None = None) -> str:
    """SQL: `relation` with further columns by name, each as SQL over its own.

    Where all of them depend on the column `of` alone, and null makes them null, they are computed once for each of its
    values: the end of a local day takes a microsecond, a table has few days and a million rows.
    """
    columns = ", ".join(f"{sql} as {quoted(name)}" for name, sql in computed.items())
    if of is None:
        return f"(select *, {columns} from {relation})"
    # A filter on what is computed would be pushed down to each row, and repeat the computation for each of its terms;
    # below an aggregate it cannot go.
    once = f"select {quoted(of)} as {_OF}, {columns} from (select distinct {quoted(of)} from {relation})"
    kept = ", ".join(f"any_value({quoted(name)}) as {quoted(name)}" for name in computed)
    added = ", ".join(f"computed.{quoted(name)}" for name in computed)
    return (
        f"(select stored.*, {added} from {relation} stored "
        f"left join (select {_OF}, {kept} from ({once}) group by all) computed on stored.{quoted(of)} = computed.{_OF})"
    )


def instant(column: str, kind: str) -> str:
    """SQL: quoted `column`, of DuckDB type `kind`, as TIMESTAMP WITH TIME ZONE; without a zone it is in UTC."""
    return column if kind == "TIMESTAMP WITH TIME ZONE" else f"({column}::timestamp at time zone 'UTC')"


def instant_literal(moment: datetime) -> str:
    """SQL: `moment` as a constant; without a zone it is in UTC."""
    return f"timestamptz '{_utc(moment).isoformat(sep=' ')}'"


def within(column: str, kind: str, first: datetime | None, last: datetime | None) -> str:
    """SQL: quoted `column` of times, of DuckDB type `kind`, lies between the two moments, both included.

    The first terms say it in the column's own type, a little wider, so that files and row groups can be skipped.
    """
    terms = [f"epoch_us({column}) is not null"]
    for sign, moment, slack in ((">=", first, -_SLACK), ("<=", last, _SLACK)):
        if moment is not None:
            terms.append(f"{column} {sign} {_bound(moment, slack, kind)}")
            terms.append(f"epoch_us({column}) {sign} {_microseconds(_utc(moment) - _EPOCH)}")
    return " and ".join(terms)


def is_time(kind: str) -> bool:
    """Whether a column of DuckDB type `kind` can say when."""
    return kind.startswith(_TIMES)


def entity_rows(
    connection: duckdb.DuckDBPyConnection,
    incoming: duckdb.DuckDBPyRelation,
    timestamp: str | None = None,
    not_after: datetime | None = None,
) -> EntityRows:
    """Put `incoming`, in its order, into a temporary table of `connection`, and look at their times.

    The connection pushes no filters of joins into scans from then on.

    Args:
        connection: where the join will run.
        incoming: one row for each question; has the key columns, the time, and whatever else should come back.
        timestamp: the column of the times; by default `event_timestamp`, or the only column that has times.
        not_after: usually now; a later entity row is an error, for nobody can know yet what was known then.

    Raises:
        FeatureError: no column of times, a null among them, or a row after `not_after`.
    """
    columns = dict(zip(incoming.columns, map(str, incoming.types), strict=True))
    column = timestamp or event_timestamp_of(columns)
    if not is_time(columns.get(column, "")):
        raise FeatureError(f"entity rows: {column!r} is {columns.get(column, 'missing')}; give it timestamps")
    # For every filter that a join finds at run time, DuckLake asks its catalog again which files are left. That was up
    # to a third of a join's time, for nothing: keys lie in all files, and bounds of time are in the query.
    connection.execute("set disabled_optimizers = 'join_filter_pushdown'")
    # A name of its own: a connection may hold several joins that have not run yet.
    name = quoted(f"entity_rows_{uuid4().hex}")
    # DuckDB resolves the name `incoming` to the relation of that name in this scope.
    connection.execute(f"create temp table {name} as select * from incoming")
    found = connection.execute(
        f"select count(*), count(moment), min(moment), max(moment) "
        f"from (select epoch_us({quoted(column)}) as moment from {name})"
    ).fetchone()
    assert found is not None
    count, timed, first, last = found
    if timed < count:
        raise FeatureError(f"entity rows: {count - timed} of {count} have no time in {column!r}; drop or date them")
    entity = EntityRows(name, columns, column, count, _moment(first), _moment(last))
    if not_after is not None and entity.last is not None and entity.last > _utc(not_after):
        _refuse_future(connection, entity, not_after)
    return entity


def event_timestamp_of(columns: Mapping[str, str]) -> str:
    """The entity rows' column of times, when nobody said which: `event_timestamp`, or the only one there is.

    Raises:
        FeatureError: there is none, or there are several.
    """
    if "event_timestamp" in columns:
        return "event_timestamp"
    times = [name for name, kind in columns.items() if is_time(kind)]
    if len(times) != 1:
        found = f"several columns have times ({', '.join(times)})" if times else "no column has times"
        raise FeatureError(f"entity rows: {found}; call the one that counts event_timestamp")
    return times[0]


def point_in_time_sql(
    connection: duckdb.DuckDBPyConnection,
    entity: EntityRows,
    views: Sequence[View],
    created_cutoff: bool = False,
) -> str:
    """The query that answers `entity` with the features of `views`; see the module for what it means.

    The sorts see only keys and times: features are fetched afterwards, by equality, for the rows that count, and only
    there are rows that share keys and time told apart.

    Args:
        connection: has the tables and `entity`.
        entity: from `entity_rows`.
        views: joined in this order; their features follow the entity rows' columns.
        created_cutoff: count only what had been written by the entity row's time.

    Raises:
        FeatureError: a view's table lacks a column or has keys of another type, or two columns would share a name.
    """
    _refuse_shared_names(entity, views)
    last = "entity"
    steps = [
        f"entity as (select rowid as {quoted(_ROW)}, epoch_us({quoted(entity.timestamp)}) as {quoted(_AT)}, * "
        f"from {entity.relation})"
    ]
    fetched, joined, features = [], [], []
    for at, view in enumerate(views):
        join = _Join(at, view, entity, columns_of(connection, view.relation), created_cutoff and bool(view.created))
        join.check()
        steps += [join.candidates(), join.matched(last)]
        last = f"matched_{at}"
        fetched.append(join)
    for join in fetched:
        steps += [join.needed(last), join.tied(), join.values()]
        joined.append(join.fetch())
        features += [f"v{join.number}.{quoted(feature.name)}" for feature in join.view.features]
    chosen = ", ".join([*(f"m.{quoted(column)}" for column in entity.columns), *features])
    return (
        "with "
        + ",\n".join(steps)
        + f"\nselect {chosen}\nfrom {last} m\n"
        + "".join(f"{line}\n" for line in joined)
        + f"order by m.{quoted(_ROW)}"
    )


def point_in_time_join(
    connection: duckdb.DuckDBPyConnection,
    rows: duckdb.DuckDBPyRelation,
    views: Sequence[View],
    timestamp: str | None = None,
    created_cutoff: bool = False,
) -> duckdb.DuckDBPyRelation:
    """`rows` with the features of `views`, as a relation that has not run yet."""
    entity = entity_rows(connection, rows, timestamp)
    return connection.sql(point_in_time_sql(connection, entity, views, created_cutoff))


def check_columns(view: str, relation: str, wanted: Sequence[str], found: Mapping[str, str]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        FeatureError: names the view, the table and every column that is missing.
    """
    missing = [column for column in wanted if column not in found]
    if missing:
        raise FeatureError(
            f"view {view!r}: {relation} lacks {', '.join(map(repr, missing))}; it has {', '.join(found) or 'nothing'}. "
            "Correct the view, or build the table with the column."
        )


@dataclass(frozen=True)
class _Join:
    """The pieces of the query that one view contributes."""

    number: int
    view: View
    entity: EntityRows
    types: Mapping[str, str]
    cutoff: bool

    @property
    def _event(self) -> str:
        return f"epoch_us({quoted(self.view.timestamp)})"

    @property
    def _created(self) -> str:
        return f"epoch_us({quoted(self.view.created or '')})"

    @property
    def _keys(self) -> list[str]:
        return [quoted(column) for column in self.view.keys.values()]

    @property
    def _columns(self) -> list[str]:
        """The table's columns that become features."""
        return list(dict.fromkeys(feature.column for feature in self.view.features))

    @property
    def _same(self) -> list[str]:
        """The columns of `needed` that rows which tie share."""
        return [*self._keys, *map(quoted, self._marks)]

    @property
    def _marks(self) -> list[str]:
        """The columns that the entity rows get to say which row counts for them."""
        return [f"#event_{self.number}", *([f"#created_{self.number}"] if self.cutoff else [])]

    def check(self) -> None:
        """Refuse what cannot be joined."""
        view, described = self.view, self.view.called or str(self.view.table)
        wanted = [*view.keys.values(), view.timestamp, *([view.created] if view.created else [])]
        check_columns(view.name, described, [*wanted, *(f.column for f in view.features)], self.types)
        for column in wanted[len(view.keys) :]:
            if not is_time(self.types[column]):
                raise FeatureError(f"view {view.name!r}: {column!r} of {described} is {self.types[column]}, not a time")
        for name, column in view.keys.items():
            if name not in self.entity.columns:
                raise FeatureError(f"view {view.name!r}: the entity rows lack its key {name!r}")
            ours, theirs = self.entity.columns[name], self.types[column]
            if ours != theirs and not {ours, theirs} <= _INTEGERS and _text(ours) != _text(theirs):
                raise FeatureError(
                    f"view {view.name!r}: key {column!r} of {described} is {theirs}, "
                    f"{name!r} of the entity rows is {ours}; cast the entity rows' column"
                )

    def candidates(self) -> str:
        """Keys and times of the rows that can count for any entity row; `since` is from when they can."""
        if not self.cutoff:
            chosen = [*self._keys, f"{self._event} as since"]
            return f"candidates_{self.number} as (select {', '.join(chosen)} {self._source()})"
        # A row counts from max(event, created) on, until one that is newer by (event, created) counts. Those that a
        # newer one has preceded never count.
        chosen = [*self._keys, f"{self._event} as event", f"{self._created} as created"]
        partition = f"partition by {', '.join(self._keys)} " if self.view.keys else ""
        return (
            f"candidates_{self.number} as (select *, greatest(event, created) as since "
            f"from (select {', '.join(chosen)} {self._source()} and {self._created} is not null) "
            f"qualify row(event, created) = max(row(event, created)) over "
            f"({partition}order by greatest(event, created)))"
        )

    def matched(self, before: str) -> str:
        """The entity rows, each marked with the times of the row that counts for it, null where none does."""
        event = "c.event" if self.cutoff else "c.since"
        limit = f"{event} >= e.{quoted(_AT)} - {_microseconds(self.view.ttl)}" if self.view.ttl else "true"
        marks = [event, *(["c.created"] if self.cutoff else [])]
        taken = [
            f"case when {limit} then {mark} end as {quoted(name)}"
            for mark, name in zip(marks, self._marks, strict=True)
        ]
        on = [f"e.{quoted(ours)} = c.{quoted(theirs)}" for ours, theirs in self.view.keys.items()]
        on.append(f"e.{quoted(_AT)} >= c.since")
        return (
            f"matched_{self.number} as (select e.*, {', '.join(taken)} from {before} e "
            f"asof left join candidates_{self.number} c on {' and '.join(on)})"
        )

    def needed(self, matched: str) -> str:
        """The rows that count for some entity row, and those that share keys and times with them."""
        columns = [*self.view.keys.values(), *([self.view.created] if self.view.created else []), *self._columns]
        times = dict(zip(self._marks, [self._event, self._created], strict=False))
        chosen = [*map(quoted, dict.fromkeys(columns)), *(f"{sql} as {quoted(name)}" for name, sql in times.items())]
        ours = [*map(quoted, self.view.keys), *map(quoted, self._marks)]
        theirs = [*self._keys, *times.values()]
        marked = ", ".join(f"{mine} as {quoted(f'#{at}')}" for at, mine in enumerate(ours))
        counting = " and ".join(f"{sql} = {quoted(f'#{at}')}" for at, sql in enumerate(theirs))
        # The marks tell keys and times apart already: that the keys are asked for at all need not be looked at again.
        return (
            f"needed_{self.number} as (select {', '.join(chosen)} from (select * {self._source(of_asked=False)}) "
            f"semi join (select distinct {marked} from {matched}) counting on {counting})"
        )

    def tied(self) -> str:
        """The keys and times that several of these rows share; usually none."""
        same = ", ".join(self._same)
        return f"tied_{self.number} as (select {same} from needed_{self.number} group by {same} having count(*) > 1)"

    def values(self) -> str:
        """The features of the rows that count, one row for each keys and times; only the tied are sorted for it."""
        chosen = ", ".join([*self._same, *map(_feature, self.view.features)])
        order = [*([quoted(self.view.created)] if self.view.created else []), *map(quoted, self._columns)]
        newest = ", ".join(f"{name} desc nulls last" for name in order)
        rows, same = f"select {chosen} from needed_{self.number}", ", ".join(self._same)
        return (
            f"values_{self.number} as ({rows} anti join tied_{self.number} using ({same}) "
            f"union all {rows} semi join tied_{self.number} using ({same}) "
            f"qualify row_number() over (partition by {same} order by {newest}) = 1)"
        )

    def fetch(self) -> str:
        """The join that brings the features to the entity rows."""
        alias = f"v{self.number}"
        on = [f"m.{quoted(ours)} = {alias}.{quoted(theirs)}" for ours, theirs in self.view.keys.items()]
        on += [f"m.{quoted(name)} = {alias}.{quoted(name)}" for name in self._marks]
        return f"left join values_{self.number} {alias} on {' and '.join(on)}"

    def _source(self, of_asked: bool = True) -> str:
        """`from ... where ...`: the rows that can matter, by the time bounds and the keys of the entity rows."""
        view = self.view
        first = self.entity.first if view.ttl else None
        if first is not None and view.ttl:
            first = _earlier(first, view.ttl)
        where = [within(quoted(view.timestamp), self.types[view.timestamp], first, self.entity.last)]
        if view.keys and of_asked:
            ours = ", ".join(map(quoted, view.keys))
            where.append(f"({', '.join(self._keys)}) in (select distinct {ours} from {self.entity.relation})")
        return f"from {view.relation} where {' and '.join(where)}"


def _text(kind: str) -> str:
    """Arrow's dictionaries are enumerations in DuckDB; as keys they are their texts."""
    return "VARCHAR" if kind.startswith("ENUM(") else kind


def _feature(feature: Feature) -> str:
    value = quoted(feature.column)
    return f"{f'{value}::{feature.type}' if feature.type else value} as {quoted(feature.name)}"


def _refuse_shared_names(entity: EntityRows, views: Sequence[View]) -> None:
    owners = {column.casefold(): "the entity rows" for column in entity.columns}
    for view in views:
        for feature in view.features:
            # DuckDB's names have no case.
            owner = owners.setdefault(feature.name.casefold(), f"view {view.name!r}")
            if owner != f"view {view.name!r}":
                raise FeatureError(
                    f"view {view.name!r}: {owner} has a column {feature.name!r} too; ask for full feature names, "
                    "or rename one"
                )
        if len({feature.name.casefold() for feature in view.features}) < len(view.features):
            raise FeatureError(f"view {view.name!r}: a feature is asked for twice")


def _refuse_future(connection: duckdb.DuckDBPyConnection, entity: EntityRows, not_after: datetime) -> None:
    when = f"epoch_us({quoted(entity.timestamp)})"
    late = f"from {entity.relation} where {when} > {_microseconds(_utc(not_after) - _EPOCH)}"
    found = connection.execute(f"select count(*), min(rowid) {late}").fetchone()
    assert found is not None
    count, at = found
    offender = connection.execute(f"select * from {entity.relation} where rowid = ?", [at]).fetchone()
    assert offender is not None
    row = ", ".join(f"{name}={value}" for name, value in zip(entity.columns, offender, strict=True))
    raise FeatureError(
        f"entity rows: {count} of {entity.count} are later than now ({_utc(not_after):%Y-%m-%d %H:%M:%S} UTC), first "
        f"row {at} ({row}): what was known then is not known yet. Drop them, correct their times (without a zone they "
        "are in UTC), or allow them in the offline store's settings."
    )


def _bound(moment: datetime, slack: timedelta, kind: str) -> str:
    """A constant of the column's own type, so that files and row groups can be skipped by it."""
    moment = _earlier(_utc(moment), -slack)
    if kind == "TIMESTAMP WITH TIME ZONE":
        return instant_literal(moment)
    if kind == "DATE":
        return f"date '{date.isoformat(moment.date())}'"
    return f"timestamp '{moment.replace(tzinfo=None).isoformat(sep=' ')}'::{kind}"


def _earlier(moment: datetime, duration: timedelta) -> datetime:
    try:
        return moment - duration
    except OverflowError:
        return (datetime.min if duration > timedelta() else datetime.max).replace(tzinfo=UTC)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


def _microseconds(duration: timedelta | None) -> int:
    return 0 if duration is None else duration // timedelta(microseconds=1)
