"""The declaration of a source: everything the platform knows about what an upstream system delivers.
 Belongs here: the vocabulary (`Source`, `Column`, `EventTime`, `Expectation`) and its validation. Not here:
the sources themselves (one module a team), reading files (`validation.py`), Dagster definitions
(`assets.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal
from zoneinfo import ZoneInfo, available_timezones

import dagster as dg

from platform_assets.calendars import UnfitCalendar, end_of, first_ambiguous_bound, grain_of
from platform_assets.teams import team_of

FileFormat = Literal["parquet", "csv", "jsonl"]
Compression = Literal["gzip"]
Undeclared = Literal["refuse", "ignore"]

COLUMN_TYPES = ("BIGINT", "BOOLEAN", "DATE", "DOUBLE", "TIMESTAMP", "VARCHAR")
WHOLE = "full"
PARTITION_COLUMN = "partition_key"


@dataclass(frozen=True)
class Column:
    """A column as it is delivered; `type` is DuckDB's name of the type.

    A DOUBLE holds NaN and infinities only with `allow_nan`. A TIMESTAMP is stored without a zone, as it is
    recorded in `zone`, to which a text with an offset from UTC is converted; without a zone, an offset is refused.
    """

    name: str
    type: str
    description: str
    nullable: bool = False
    allow_nan: bool = False
    zone: str = ""

    @property
    def stored_name(self) -> str:
        """Its name in the lake, where `partition_key` is the lake's own."""
        return f"delivered_{self.name}" if self.name.lower() == PARTITION_COLUMN else self.name


@dataclass(frozen=True)
class EventTime:
    """Which column says to which partition a row belongs, and in which time zone that column is recorded.

    `sql` turns a column that is not a timestamp (a week number, say) into one.
    """

    column: str
    zone: str
    sql: str = ""

    @property
    def expression(self) -> str:
        """The naive timestamp in `zone`, as SQL over the columns of the source."""
        return self.sql or '"' + self.column.replace('"', '""') + '"'


@dataclass(frozen=True)
class Expectation:
    """One Great Expectations expectation by its type name, e.g. expect_column_values_to_be_between."""

    type: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the expectation reads; none for one about the whole table."""
        one = [self.arguments[name] for name in ("column", "column_A", "column_B") if name in self.arguments]
        return (*one, *self.arguments.get("column_list", ()))


def expect(kind: str, **arguments: Any) -> Expectation:
    """`expect("column_values_to_be_between", column="quantity", min_value=0)`."""
    return Expectation(f"expect_{kind}", MappingProxyType(arguments))


@dataclass(frozen=True)
class Source:
    """What one upstream system delivers: where, when, in which form, and what must be true of it.

    One declaration yields the upstream asset, its arrival sensor, the raw table asset and that asset's
    checks. A source without partitions is delivered whole, under `dt=full`. `expected_by` is how long after
    the end of a partition its delivery is due.

    A file may lack a nullable column, which is NULL then: a column that the upstream system adds is declared as one,
    and what was stored before stays as it is. `undeclared_columns` says what becomes of a column that a file has and
    the source does not declare.
    """

    team: str
    entity: str
    description: str
    partitions: dg.TimeWindowPartitionsDefinition | None
    file_format: FileFormat
    columns: tuple[Column, ...]
    compression: Compression | None = None
    key: tuple[str, ...] = ()
    event_time: EventTime | None = None
    expectations: tuple[Expectation, ...] = ()
    expected_by: timedelta | None = None
    may_be_empty: bool = False
    undeclared_columns: Undeclared = "refuse"

    def __post_init__(self) -> None:
        """Refuse a declaration that contradicts itself, naming the source and what to change.

        Raises:
            ValueError, KeyError: see the message.
        """
        team_of(self.team)
        names = [column.stored_name for column in self.columns]
        if self.file_format not in ("parquet", "csv", "jsonl"):
            self._refuse(f"file_format {self.file_format!r} is unknown; use parquet, csv or jsonl")
        if self.compression not in (None, "gzip"):
            self._refuse(f"compression {self.compression!r} is unknown; use None or 'gzip'")
        if self.undeclared_columns not in ("refuse", "ignore"):
            self._refuse(f"undeclared_columns is {self.undeclared_columns!r}; use refuse or ignore")
        if self.compression and self.file_format == "parquet":
            self._refuse("parquet compresses inside the file; leave compression out")
        if not names:
            self._refuse("no columns; declare every column that is delivered")
        for column in self.columns:
            if column.type not in COLUMN_TYPES:
                self._refuse(f"column {column.name!r} has type {column.type!r}; use one of {', '.join(COLUMN_TYPES)}")
            if not column.description:
                self._refuse(f"column {column.name!r} has no description; say what it means and its unit")
            self._refuse_misnamed(column, names)
            if column.allow_nan and column.type != "DOUBLE":
                self._refuse(f"column {column.name!r} is {column.type}, which holds no NaN; leave allow_nan out")
            if column.zone and (column.type != "TIMESTAMP" or column.zone not in available_timezones()):
                self._refuse(
                    f"column {column.name!r} is {column.type} with zone {column.zone!r}; "
                    "a zone is the IANA name of a TIMESTAMP's, e.g. Asia/Seoul"
                )
        used = dict.fromkeys(self.key, "key")
        used |= {self.event_time.column: "event_time"} if self.event_time else {}
        used |= {name: item.type for item in self.expectations for name in item.columns}
        for name, user in used.items():
            if name not in names:
                self._refuse(f"{user} names column {name!r}, which is not declared; columns: {', '.join(names)}")
        if self.event_time and self.partitions is None:
            self._refuse("event_time without partitions; declare partitions or leave event_time out")
        if self.partitions is not None:
            self._refuse_unfit(self.partitions)
        for column in self.columns:
            if self.zone_of(column) != (column.zone or self.zone_of(column)):
                self._refuse(f"column {column.name!r} has zone {column.zone!r}, but another as event_time; name one")

    def _refuse_unfit(self, calendar: dg.TimeWindowPartitionsDefinition) -> None:
        """Refuse a calendar that pairs cannot be built by, and an event time that does not tell the pair of a row."""
        try:
            grain_of(calendar)
        except UnfitCalendar as error:
            self._refuse(str(error))
        bound = first_ambiguous_bound(calendar, self.event_time.zone) if self.event_time else None
        if self.event_time and bound:
            self._refuse(
                f"event_time {self.event_time.column!r} is local time of {self.event_time.zone}, which comes twice "
                f"around {bound:%Y-%m-%d %H:%M %Z}, where a partition begins: nobody can tell to which a row belongs. "
                "Deliver it in UTC, or leave event_time out: rows are of the partition that they are delivered in then"
            )

    def _refuse_misnamed(self, column: Column, names: list[str]) -> None:
        alike = [name for name in names if name.lower() == column.stored_name.lower()]
        if not column.name.strip() or "\0" in column.name:
            self._refuse(f"column {column.name!r} has no name; give the name that is delivered")
        if names.count(column.stored_name) > 1:
            self._refuse(f"column {column.stored_name!r} is declared more than once")
        if len(alike) > 1:
            self._refuse(
                f"columns {' and '.join(map(repr, alike))} differ by case alone, and are one column in the lake; "
                "have one delivered under another name"
            )

    def _refuse(self, problem: str) -> None:
        raise ValueError(f"source {self.name}: {problem}")

    @property
    def name(self) -> str:
        """`team.entity`, as messages and the command line show it."""
        return f"{self.team}.{self.entity}"

    @property
    def upstream_key(self) -> dg.AssetKey:
        """Key of the external asset that stands for the deliveries of the upstream system."""
        return dg.AssetKey([self.team, f"upstream_{self.entity}"])

    @property
    def raw_key(self) -> dg.AssetKey:
        """Key of the table in the lake that holds the deliveries as they came."""
        return dg.AssetKey([self.team, f"raw_{self.entity}"])

    @property
    def stored_columns(self) -> dict[str, str]:
        """Columns of the raw table and their types."""
        keyed = {PARTITION_COLUMN: "VARCHAR"} if self.partitions else {}
        return {column.stored_name: column.type for column in self.columns} | keyed

    @property
    def extension(self) -> str:
        """What the name of a data file ends with, e.g. `.jsonl.gz`."""
        return f".{self.file_format}" + (".gz" if self.compression else "")

    @property
    def required_columns(self) -> tuple[str, ...]:
        """The columns that hold a value in every row."""
        return tuple(column.stored_name for column in self.columns if not column.nullable)

    def zone_of(self, column: Column) -> str:
        """The time zone that a column of timestamps is recorded in; empty if none is declared."""
        if self.event_time and self.event_time.column == column.stored_name:
            return self.event_time.zone
        return column.zone

    def landing(self, root: Path) -> Path:
        """The folder of this source in the landing zone `root`."""
        return root / self.team / self.entity

    def partition_dir(self, root: Path, partition: str = WHOLE) -> Path:
        """The folder into which one partition is delivered."""
        return self.landing(root) / f"dt={partition}"

    def partition_keys(self) -> tuple[str, ...]:
        """Every partition that may ever be delivered, in order; `full` for a source without partitions."""
        return tuple(self.partitions.get_partition_keys()) if self.partitions else (WHOLE,)

    def ends(self, partition: str) -> datetime | None:
        """When a partition ends, be that in the future; None: the source will never have such a partition."""
        return end_of(self.partitions, partition) if self.partitions else None

    def event_bounds(self, partition: str) -> tuple[datetime, datetime]:
        """Start and exclusive end of a partition as naive timestamps in the zone that `event_time` is
        recorded in.

        A day on which the clocks change has 23 or 25 hours: the calendar of the team decides, not the column.
        """
        if self.partitions is None or self.event_time is None:
            raise ValueError(f"source {self.name} has no event time, so its partitions have no bounds")
        zone = ZoneInfo(self.event_time.zone)
        window = self.partitions.time_window_for_partition_key(partition)
        return (
            window.start.astimezone(zone).replace(tzinfo=None),
            window.end.astimezone(zone).replace(tzinfo=None),
        )
