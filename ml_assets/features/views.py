"""Declaring features: entities, views over marts, transforms of a request, and named selections of features.

Belongs here: the declaration types, and refusing a wrong one when it is made. Not here: a team's own declarations
(`ml_assets/features/`), and what becomes of them: assets (`features/assets.py`), objects of Feast
(`feast_objects.py`), joins and rows (`joins.py`).
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import dagster as dg
import pyarrow as pa

from ml_assets.declaration_error import DeclarationError
from ml_assets.features.types import KEY_TYPES, TYPES, FeatureType
from platform_assets import partitions
from platform_assets.calendars import has_doubled_midnights
from platform_assets.teams import team_of
from resources.feature_store.packed_rows import arrow_type
from resources.warehouse import TableName

EVENT_TIME = "event_time"
"""The column with a row's event time in every form of a view; no feature may be called that."""

PERIODS: Mapping[str, timedelta] = {
    "hourly": timedelta(hours=1),
    "daily": timedelta(days=1),
    "weekly": timedelta(weeks=1),
    "monthly": timedelta(days=28),
}
"""How long a partition of each grain is at least, in local time."""

_LENGTHS = {"daily": "1 day", "weekly": "7 day", "monthly": "1 month"}
"""SQL intervals from the local date on which a partition begins to the one on which it has ended."""

_RESERVED = frozenset([EVENT_TIME, "event_timestamp", "created_timestamp", "partition_key"])
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True)
class Entity:
    """A kind of thing that features describe; `key` is the column that tells one from another."""

    name: str
    key: str
    type: str
    description: str

    def __post_init__(self) -> None:
        """Refuse a wrong name or a type that keys cannot have.

        Raises:
            DeclarationError: names the entity.
        """
        where = f"entity {self.name!r}"
        _check_name(where, "name", self.name)
        _check_name(where, "key", self.key)
        _check_described(where, self.description)
        if self.type not in KEY_TYPES:
            raise DeclarationError(f"{where}: key {self.key!r} is {self.type!r}; allowed: {', '.join(KEY_TYPES)}")


@dataclass(frozen=True)
class Feature:
    """One value of an entity; `column` is the mart's, where it has another name."""

    name: str
    type: str
    description: str
    column: str = ""

    @property
    def read_from(self) -> str:
        """The column that it is read from."""
        return self.column or self.name

    @property
    def kind(self) -> FeatureType:
        """Its type, in every system's words."""
        return TYPES[self.type]


@dataclass(frozen=True)
class EndOf:
    """Event time of a mart whose rows are of a local day, week or month: when it ends, and the row is known.

    `column` holds the local date on which the day, week or month begins.
    """

    column: str


@dataclass(frozen=True)
class StartOf:
    """Event time of a mart whose rows say what is known when a local day, week or month begins: when it does.

    `column` holds the local date on which the day, week or month begins.
    """

    column: str


@dataclass(frozen=True)
class FeatureView:
    """Features of one entity, or of a combination of several, that one mart holds.

    Attributes:
        name: unique in the platform; its assets are called after it.
        team: that owns it.
        entities: what a row describes.
        source: the mart, "team/entity".
        grain: of the mart's partitions: hourly, daily, weekly or monthly.
        timestamp: the mart's column with the event time, or the end or the start of the row's day, week or month.
        ttl: how old a value may be; at exactly that age it still counts.
        features: what is served of the mart.
        description: for people; states the grain.
        created: the mart's column that says when a row was written, if it has one.
        owner: as Dagster shows it; the team unless said otherwise.
        online: whether it is served from the online store.
        partitions: the mart's, where they are not all of its team's calendar of that grain.
    """

    name: str
    team: str
    entities: tuple[Entity, ...]
    source: str
    grain: str
    timestamp: str | EndOf | StartOf
    ttl: timedelta
    features: tuple[Feature, ...]
    description: str
    created: str | None = None
    owner: str = ""
    online: bool = True
    partitions: dg.TimeWindowPartitionsDefinition | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be joined or served, and let the team own what nobody else does.

        Raises:
            DeclarationError: names the view, the column and what to write instead.
        """
        where = f"view {self.name!r}"
        _check_name(where, "name", self.name)
        _check_described(where, self.description)
        owner = _team_owner(where, self.team)
        if self.grain not in PERIODS:
            raise DeclarationError(f"{where}: grain is {self.grain!r}; allowed: {', '.join(PERIODS)}")
        if not re.fullmatch(r"[a-z0-9_]+/[a-z0-9_]+", self.source):
            raise DeclarationError(f"{where}: source {self.source!r} names no mart; write team/entity")
        _check_calendar(where, self.source, self.grain)
        if self.grain == "hourly" and not isinstance(self.timestamp, str):
            raise DeclarationError(
                f"{where}: the local time of an hour does not tell when it ends where clocks are set back; name a "
                "column with the instant as timestamp"
            )
        if self.ttl <= timedelta():
            raise DeclarationError(f"{where}: ttl is {self.ttl}; say for how long a value may be used")
        if not self.entities:
            raise DeclarationError(f"{where} has no entity; name what its rows describe")
        _check_features(where, self.features, taken=[entity.key for entity in self.entities])
        read = [feature.read_from for feature in self.features]
        if len(set(read)) < len(read):
            twice = sorted({column for column in read if read.count(column) > 1})
            raise DeclarationError(f"{where}: two features read column {', '.join(twice)}; keep one of them")
        if not self.owner:
            # The class is frozen, and a default that depends on another field can be set in no other way.
            object.__setattr__(self, "owner", owner)

    def __hash__(self) -> int:
        return hash((self.team, self.name))

    @property
    def source_key(self) -> dg.AssetKey:
        """The mart's asset."""
        return dg.AssetKey(self.source.split("/"))

    @property
    def table(self) -> TableName:
        """The mart's table."""
        return TableName.of_key(self.source_key)

    @property
    def keys(self) -> Mapping[str, Entity]:
        """The entities by the column of their key."""
        return {entity.key: entity for entity in self.entities}

    @cached_property
    def calendar(self) -> dg.TimeWindowPartitionsDefinition:
        """The mart's partitions."""
        return self.partitions or _check_calendar(f"view {self.name!r}", self.source, self.grain)

    @property
    def period(self) -> timedelta:
        """How long a partition is at least, in local time."""
        return PERIODS[self.grain]

    @property
    def event_sql(self) -> str | None:
        """SQL of the event time over the mart's columns; None where the mart has a column with it."""
        if isinstance(self.timestamp, str):
            return None
        length = _LENGTHS[self.grain] if isinstance(self.timestamp, EndOf) else "0 day"
        local, zone = f'("{self.timestamp.column}"::timestamp + interval {length})', self.calendar.timezone
        instant = f"timezone('{zone}', {local})"
        if has_doubled_midnights(self.calendar):
            # DuckDB takes the second of two midnights, and a day begins with the first.
            return f"least({instant}, timezone('{zone}', {local} - interval 1 hour) + interval 1 hour)"
        return instant

    @property
    def timestamp_column(self) -> str:
        """The mart's column that the event time is, or is computed from."""
        return self.timestamp if isinstance(self.timestamp, str) else self.timestamp.column

    @property
    def event_column(self) -> str:
        """The column with the event time, of the mart or computed."""
        return self.timestamp if isinstance(self.timestamp, str) else EVENT_TIME

    @property
    def read_columns(self) -> Mapping[str, tuple[str, ...]]:
        """Every column of the mart that is read, and the DuckDB types, without parameters, that it may have."""
        times = TYPES["TIMESTAMPTZ"].holds
        columns = {entity.key: TYPES[entity.type].holds for entity in self.entities}
        columns |= {feature.read_from: feature.kind.holds for feature in self.features}
        columns[self.timestamp_column] = times
        return columns | ({self.created: times} if self.created else {})

    @property
    def definition(self) -> Mapping[str, Any]:
        """What decides about values, as plain data: what a code version is the version of."""
        return {
            "keys": {key: entity.type for key, entity in self.keys.items()},
            "source": self.source,
            "event": self.event_sql or self.event_column,
            "created": self.created,
            "ttl_seconds": self.ttl.total_seconds(),
            "features": {feature.name: [feature.read_from, feature.type] for feature in self.features},
        }

    @property
    def is_known_at_start(self) -> bool:
        """Whether a partition's rows are known when it begins; otherwise they are when it has ended."""
        return isinstance(self.timestamp, StartOf)

    def known_at(self, partition: str) -> datetime:
        """The instant, in UTC, at which all of `partition` of the mart is known."""
        window = self.calendar.time_window_for_partition_key(partition)
        return (window.start if self.is_known_at_start else window.end).astimezone(UTC)

    def known_since(self, partition: str) -> datetime:
        """The instant, in UTC, after which what becomes known is of `partition` and no longer of the one before it."""
        start = self.calendar.time_window_for_partition_key(partition).start
        if self.is_known_at_start:
            before = self.calendar.get_prev_partition_window(start, respect_bounds=False)
            assert before is not None
            start = before.start
        return start.astimezone(UTC)

    def ended(self, partition: str) -> datetime:
        """The instant, in UTC, at which `partition` has ended."""
        return self.calendar.time_window_for_partition_key(partition).end.astimezone(UTC)

    def lookback(self, period: timedelta | None = None) -> int:
        """How many periods before its own can hold a value that is not too old when a partition is known, at most."""
        # An hour more: clocks may have changed in between.
        return (self.ttl + timedelta(hours=1)) // (period or self.period)

    def reached(self, first: datetime, last: datetime) -> list[str]:
        """The partitions of the mart that can hold a value for a row of some time from `first` to `last`."""
        # An hour more: clocks may have changed in between.
        oldest = first - self.ttl - timedelta(hours=1)
        return [key for key in self.calendar.get_partition_keys() if oldest <= self.known_at(key) <= last]

    def select(self, *names: str) -> "Selection":
        """Some of the features; all of them when none is named.

        Raises:
            DeclarationError: the view has no such feature.
        """
        return Selection(self, names or tuple(feature.name for feature in self.features))


@dataclass(frozen=True)
class Selection:
    """Features of one view, by name."""

    view: FeatureView
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a feature that the view lacks.

        Raises:
            DeclarationError: names view and feature.
        """
        known = {feature.name for feature in self.view.features}
        unknown = [name for name in self.names if name not in known]
        if unknown:
            raise DeclarationError(
                f"view {self.view.name!r} has no feature {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(sorted(known))}"
            )

    @property
    def references(self) -> list[str]:
        """The features as readers ask for them: "view:feature"."""
        return [f"{self.view.name}:{name}" for name in self.names]


@dataclass(frozen=True)
class RequestSource:
    """What only the caller knows when it asks."""

    name: str
    fields: tuple[Feature, ...]
    description: str

    def __post_init__(self) -> None:
        """Refuse a source without fields, or with two of one name.

        Raises:
            DeclarationError: names the source and the field.
        """
        where = f"request source {self.name!r}"
        _check_name(where, "name", self.name)
        _check_described(where, self.description)
        _check_features(where, self.fields, taken=[])


@dataclass(frozen=True)
class OnDemandTransform:
    """A feature that is computed when it is asked for, from a request and features of one view.

    `function` is given the values of one row by name and returns one value; training sets and requests both go through
    it. A null is None. `examples` are requests to try it with.
    """

    name: str
    team: str
    request: RequestSource
    reads: Selection
    output: Feature
    function: Callable[..., Any] = field(compare=False)
    description: str
    examples: tuple[Mapping[str, Any], ...]

    def __post_init__(self) -> None:
        """Refuse a function whose parameters are not the inputs, and examples that are no request.

        Raises:
            DeclarationError: names the transform and the parameter.
        """
        where = f"transform {self.name!r}"
        _check_name(where, "name", self.name)
        _check_described(where, self.description)
        _team_owner(where, self.team)
        _check_features(where, (self.output,), taken=self.inputs)
        if len(set(self.inputs)) < len(self.inputs):
            raise DeclarationError(f"{where}: the request and view {self.reads.view.name!r} share the name of an input")
        parameters = set(inspect.signature(self.function).parameters)
        if parameters != set(self.inputs):
            raise DeclarationError(
                f"{where}: its function takes {', '.join(sorted(parameters)) or 'nothing'}, its inputs are "
                f"{', '.join(self.inputs)}; call the parameters as the inputs"
            )
        fields = {one.name for one in self.request.fields}
        if not self.examples or any(set(example) != fields for example in self.examples):
            raise DeclarationError(f"{where}: give examples, each with a value for {', '.join(sorted(fields))}")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what the function is given: the request's first."""
        return (*(one.name for one in self.request.fields), *self.reads.names)

    def of_row(self, values: Mapping[str, Any]) -> Any:
        """The feature of one request; `values` may hold more than the inputs."""
        return self.function(**{name: values[name] for name in self.inputs})

    def of_columns(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """The feature of many rows, each input a column of Python values."""
        inputs = [columns[name] for name in self.inputs]
        rows = (dict(zip(self.inputs, row, strict=True)) for row in zip(*inputs, strict=True))
        return {self.output.name: [self.function(**row) for row in rows]}

    def of_table(self, table: pa.Table) -> pa.Array:
        """The feature of every row of `table`, in its declared type."""
        columns = {name: table.column(name).to_pylist() for name in self.inputs}
        return pa.array(self.of_columns(columns)[self.output.name], arrow_type(self.output.kind.packed))


@dataclass(frozen=True)
class FeatureService:
    """The features that one use needs, by one name."""

    name: str
    team: str
    selections: tuple[Selection, ...]
    description: str
    transforms: tuple[OnDemandTransform, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a service without features, or with a view twice.

        Raises:
            DeclarationError: names the service and the view.
        """
        where = f"service {self.name!r}"
        _check_name(where, "name", self.name)
        _check_described(where, self.description)
        _team_owner(where, self.team)
        views = [selection.view.name for selection in self.selections]
        if not views:
            raise DeclarationError(f"{where} selects no feature")
        if len(set(views)) < len(views):
            raise DeclarationError(f"{where} selects from a view twice: {', '.join(views)}; join the selections")


def _check_name(where: str, what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise DeclarationError(f"{where}: {what} {name!r}; use words in lower case joined by single underscores")


def _check_described(where: str, description: str) -> None:
    if not description.strip():
        raise DeclarationError(f"{where} has no description; say what it is, and its grain")


def _check_features(where: str, features: Iterable[Feature], taken: Sequence[str]) -> None:
    seen = set(taken)
    for feature in features:
        _check_name(where, "feature", feature.name)
        if feature.name in seen or feature.name in _RESERVED:
            raise DeclarationError(f"{where}: feature {feature.name!r} has a name that is taken; rename it")
        if feature.type not in TYPES:
            raise DeclarationError(
                f"{where}: feature {feature.name!r} is {feature.type!r}; allowed: {', '.join(TYPES)}"
            )
        if not feature.description.strip():
            raise DeclarationError(f"{where}: feature {feature.name!r} has no description")
        seen.add(feature.name)
    if len(seen) == len(set(taken)):
        raise DeclarationError(f"{where} declares no feature")


def _team_owner(where: str, team: str) -> str:
    try:
        return team_of(team).owner
    except KeyError as error:
        raise DeclarationError(f"{where}: {error.args[0]}") from error


def _check_calendar(where: str, source: str, grain: str) -> dg.TimeWindowPartitionsDefinition:
    try:
        calendar = partitions.calendar_of(source.partition("/")[0], grain)
    except KeyError as error:
        raise DeclarationError(f"{where}: source {source!r}: {error.args[0]}") from error
    assert calendar is not None
    return calendar
