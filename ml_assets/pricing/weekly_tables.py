"""A table of pricing that is computed week by week: declared as data, made an asset with one check.

Belongs here: the shape that elasticities, recommendations and backtests share. Not here: what any of them computes
(`price_assets.py`, `backtest_assets.py`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeAlias

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ml_assets.pricing.features import FIRST_WEEK
from ml_assets.sdk.specs import completed
from ml_assets.sdk.training_sets import require
from ml_assets.sdk.windows import Calendar, Reads
from platform_assets.asset_graph.declared import PRODUCT
from platform_assets.backfills import ONE_RUN
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partitioned_checks import evaluated_materializations, evaluation_of, partitioned_check
from platform_assets.partitions import weeks_from
from platform_assets.table_metadata import table_metadata
from resources.warehouse import PARTITION_KEY, Commit, TableName, Warehouse

TEAM, AREA = "commerce", "pricing"

FORECAST_WEEKS = weeks_from("2017-07-03", ahead=1)
"""The weeks that demand is forecast and prices are set for: half a year, and the one past the data."""

Sources: TypeAlias = Mapping[dg.AssetKey, Sequence[str]]
"""The columns that a column is computed from, by table."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its SQL type, what it says, and what it is computed from."""

    kind: str
    description: str
    sources: Sources

    @property
    def lineage(self) -> list[dg.TableColumnDep]:
        """`sources` as the catalog takes them."""
        return [dg.TableColumnDep(table, name) for table, names in self.sources.items() for name in names]


@dataclass(frozen=True)
class Evaluation:
    """What a check says of the rows of one week."""

    passed: bool
    description: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class WeeklyTable:
    """A table with a partition a week, and the check that judges each.

    Attributes:
        name: the asset is `commerce/<name>`.
        description: what one row is.
        calendar: its weeks.
        reads: what a week reads.
        columns: by name, without `week` and `partition_key`, which every table has.
        version: of the code that computes it.
        rows: the rows of some weeks; a week's are the same whichever others are asked for.
        shown: what the web UI shows of one week's rows.
        check: name of the check.
        asks: what it asks, in a sentence.
        judge: its answer for the stored rows of one week.
        blocking: nothing may be built on a week that fails it; otherwise it warns.
        is_product: whether people and services look at it, and not only other tables.
    """

    name: str
    description: str
    calendar: Calendar
    reads: tuple[Reads, ...]
    columns: Mapping[str, Column]
    version: str
    rows: Callable[[Warehouse, duckdb.DuckDBPyConnection, Sequence[str]], pa.Table]
    shown: Callable[[pa.Table], Mapping[str, Any]]
    check: str
    asks: str
    judge: Callable[[pa.Table], Evaluation]
    blocking: bool = False
    is_product: bool = False

    @property
    def key(self) -> dg.AssetKey:
        """The asset's key."""
        return dg.AssetKey([TEAM, self.name])


def weekly_asset(table: WeeklyTable) -> dg.AssetsDefinition:
    """The asset of `table`, with its check."""
    metadata = _metadata(table.columns)
    spec = dg.AssetSpec(
        table.key,
        deps=[one.dep for one in table.reads],
        description=table.description,
        kinds={"duckdb"},
        metadata={**metadata, **PRODUCT} if table.is_product else metadata,
    )
    check = partitioned_check(table.check, table.key, table.calendar, table.asks, table.blocking)

    @dg.multi_asset(
        name=f"{TEAM}_{table.name}",
        specs=[completed(spec, TEAM, AREA, table.version)],
        check_specs=[check],
        partitions_def=table.calendar,
        backfill_policy=ONE_RUN["ml_assets"],
        can_subset=True,
    )
    def weekly(
        context: dg.AssetExecutionContext, warehouse: Warehouse, checker: PartitionChecker
    ) -> Iterator[dg.MaterializeResult[None]]:
        commit = Commit(context.run.run_id, table.key.to_user_string())
        with checker.building(context) as build:
            refused: dict[str, str] = {}
            for wave in build.waves():
                weeks = wave[table.key]
                with warehouse.reader() as lake:
                    rows = table.rows(warehouse, lake, weeks)
                warehouse.replace_partitions(TableName.of_key(table.key), weeks, rows, commit)
                said = _judged(warehouse, table, weeks)
                refused |= _refused(table, said)
                if good := [week for week in weeks if week not in refused]:
                    shown = {week: dict(table.shown(_of(rows, week))) for week in good}
                    shown[good[-1]] |= metadata
                    build.record_table(table.key, good, shown)
                build.report(_evaluations(context.instance, table, check, said))
                build.give_up(table.key, [week for week in weeks if week in refused])
            if unasked := build.repeat_evaluations([check]).get(check.key):
                said = _judged(warehouse, table, unasked)
                refused |= _refused(table, said)
                build.report(_evaluations(context.instance, table, check, said))
            if refused:
                raise dg.Failure(_refusal(table, refused), allow_retries=False)
            yield from build.outputs()

    return weekly


def read(
    warehouse: Warehouse, lake: duckdb.DuckDBPyConnection, one: Reads, calendar: Calendar, weeks: Sequence[str]
) -> duckdb.DuckDBPyRelation:
    """The rows that `weeks` of `calendar` read of a table, from the first whole week of the data on.

    Raises:
        MissingPartition: the lake lacks a week of it; the message names it and what to build.
    """
    needed = {key for week in weeks for key in one.keys(calendar, week) or ()}
    keys = sorted(key for key in needed if key >= FIRST_WEEK) if one.calendar else None
    require(lake, one.table, keys or ())
    return warehouse.relation(lake, TableName.of_key(one.table), keys)


def by_week(found: Mapping[str, pa.Table], schema: pa.Schema) -> pa.Table:
    """One table of the tables of several weeks, each row with its week."""
    for column in (pa.field("week", pa.date32()), pa.field(PARTITION_KEY, pa.string())):
        schema = schema.append(column)
    return pa.concat_tables(
        [
            pa.table(
                [
                    *rows.columns,
                    pa.array([date.fromisoformat(week)] * rows.num_rows, pa.date32()),
                    pa.array([week] * rows.num_rows, pa.string()),
                ],
                schema=schema,
            )
            for week, rows in found.items()
        ]
    )


def shown_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> dg.TableMetadataValue:
    """`columns` (by name: string, int or float) of `rows` as the web UI shows them, fractions to four digits."""
    records = [
        dg.TableRecord({name: round(row[name], 4) if kind == "float" else row[name] for name, kind in columns.items()})
        for row in rows
    ]
    return dg.MetadataValue.table(records, dg.TableSchema([dg.TableColumn(*column) for column in columns.items()]))


def _judged(warehouse: Warehouse, table: WeeklyTable, weeks: Sequence[str]) -> dict[str, Evaluation]:
    """What the table's check says of the stored rows of each week."""
    with warehouse.reader() as lake:
        require(lake, table.key, weeks)
        rows = warehouse.relation(lake, TableName.of_key(table.key), weeks).to_arrow_table()
    return {week: table.judge(_of(rows, week)) for week in weeks}


def _evaluations(
    instance: dg.DagsterInstance, table: WeeklyTable, check: dg.AssetCheckSpec, said: Mapping[str, Evaluation]
) -> list[dg.AssetCheckEvaluation]:
    judged = evaluated_materializations(instance, table.key, list(said))
    severity = dg.AssetCheckSeverity.ERROR if table.blocking else dg.AssetCheckSeverity.WARN
    return [
        evaluation_of(
            judged,
            check,
            week,
            passed=one.passed,
            description=one.description,
            metadata=one.metadata,
            severity=severity,
        )
        for week, one in said.items()
    ]


def _refused(table: WeeklyTable, said: Mapping[str, Evaluation]) -> dict[str, str]:
    return {week: one.description for week, one in said.items() if table.blocking and not one.passed}


def _refusal(table: WeeklyTable, refused: Mapping[str, str]) -> str:
    named = "; ".join(f"{week}: {why}" for week, why in refused.items())
    return f"{table.key.to_user_string()}: {table.check} failed, so nothing may be built on these weeks: {named}"


def _of(rows: pa.Table, week: str) -> pa.Table:
    return rows.filter(pc.equal(rows[PARTITION_KEY], week))


def _metadata(columns: Mapping[str, Column]) -> dict[str, Any]:
    return table_metadata(
        [
            *(dg.TableColumn(name, one.kind, one.description) for name, one in columns.items()),
            dg.TableColumn("week", "DATE", "Monday of the week."),
            dg.TableColumn(PARTITION_KEY, "VARCHAR", "Dagster partition key of the row."),
        ],
        {name: one.lineage for name, one in columns.items()},
    )
