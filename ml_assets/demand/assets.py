"""Features and training set of the demand model, week by week, and the drift check on the features.

Belongs here: thin assets that read, call one plain function and write. Not here: what happens in a fold
(`folds.py`), any arithmetic (`features.py`, `training.py`, `drift.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial

import dagster as dg
import duckdb
import pyarrow as pa

from ml_assets.demand import drift, features, training
from ml_assets.demand.tables import (
    FEATURE_TABLE,
    PRODUCT_WEEKS,
    TRAINING_TABLE,
    column_metadata,
    stored,
    weeks_around,
)
from platform_assets import partitions
from platform_assets.backfills import ONE_RUN
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partitioned_checks import Judged, judged_materializations, partitioned_check, verdict
from resources.warehouse import TableName, Warehouse, physical_partitions

REFERENCE_WEEKS = 4
"""Feature weeks just before a week that its values are compared with."""


@dg.asset(
    key=FEATURE_TABLE,
    deps=[
        dg.AssetDep(
            PRODUCT_WEEKS,
            partition_mapping=partitions.preceding_weeks(first=-features.HISTORY_WEEKS, last=-1),
        )
    ],
    partitions_def=partitions.DEMAND_FEATURES,
    backfill_policy=ONE_RUN["ml_assets"],
    kinds={"duckdb"},
    metadata=column_metadata(FEATURE_TABLE),
)
def product_week_features(
    context: dg.AssetExecutionContext, warehouse: Warehouse, checker: PartitionChecker
) -> Iterator[dg.MaterializeResult[None]]:
    """One row per product and week, for products sold in the eight weeks before. Holds what was known of
    their sales, prices and promotions when the week began."""

    def rows(weeks: Sequence[str], lake: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
        history = [known for week in weeks for known in weeks_around(week, -features.HISTORY_WEEKS, -1)]
        return features.product_week_features(stored(warehouse, lake, PRODUCT_WEEKS, history), weeks)

    yield from _replaced(context, checker, FEATURE_TABLE, rows)


@dg.asset(
    key=TRAINING_TABLE,
    deps=[FEATURE_TABLE, PRODUCT_WEEKS],
    partitions_def=partitions.DEMAND_TRAINING,
    backfill_policy=ONE_RUN["ml_assets"],
    kinds={"duckdb"},
    metadata=column_metadata(TRAINING_TABLE),
)
def demand_training_set(
    context: dg.AssetExecutionContext, warehouse: Warehouse, checker: PartitionChecker
) -> Iterator[dg.MaterializeResult[None]]:
    """One row per product and week: the features known when the week began, and the units sold by its end. A
    fold reads the twelve weeks and the holdout week before its own, so that no row is stored twice."""

    def rows(weeks: Sequence[str], lake: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
        return training.labelled(
            stored(warehouse, lake, FEATURE_TABLE, weeks), stored(warehouse, lake, PRODUCT_WEEKS, weeks)
        )

    yield from _replaced(context, checker, TRAINING_TABLE, rows)


DRIFT = partitioned_check(
    "drift",
    FEATURE_TABLE,
    partitions.DEMAND_FEATURES,
    description=f"No feature's PSI against the {REFERENCE_WEEKS} weeks before is above {drift.THRESHOLD}.",
)


@dg.multi_asset_check(name="demand_feature_drift", specs=[DRIFT], can_subset=True)
def feature_drift(context: dg.AssetCheckExecutionContext, warehouse: Warehouse) -> Iterator[dg.AssetCheckEvaluation]:
    """Compares each week's features with those of the weeks before it, as far as they are stored."""
    weeks = context.op_execution_context.partition_keys
    judged = judged_materializations(context.instance, FEATURE_TABLE, weeks)
    with warehouse.reader() as lake:
        there = physical_partitions(lake, TableName.of_key(FEATURE_TABLE)).keys()

        # Neighbouring weeks share most of what they are compared with: each is read once.
        @lru_cache(maxsize=REFERENCE_WEEKS + 1)
        def values(week: str) -> pa.Table:
            rows = stored(warehouse, lake, FEATURE_TABLE, [week])
            return rows.select(*features.MONITORED).to_arrow_table()

        for week in weeks:
            current = values(week)
            before = [values(earlier) for earlier in sorted(there & weeks_around(week, -REFERENCE_WEEKS, -1))]
            reference = pa.concat_tables(before) if before else current.slice(0, 0)
            yield _drift_verdict(judged, week, drift.feature_drift(reference, current, features.MONITORED))


def _drift_verdict(judged: Judged, week: str, indices: dict[str, float] | None) -> dg.AssetCheckEvaluation:
    moved = [name for name, index in (indices or {}).items() if index > drift.THRESHOLD]
    said = f"moved: {', '.join(moved)}" if moved else "no feature moved"
    if indices is None:
        said = f"not judged: this week or the weeks before have fewer than {drift.MINIMUM_ROWS} rows"
    return verdict(
        judged,
        DRIFT,
        week,
        passed=not moved,
        severity=dg.AssetCheckSeverity.WARN,
        description=said,
        metadata={f"PSI {name}": index for name, index in (indices or {}).items()},
    )


def _replaced(
    context: dg.AssetExecutionContext,
    checker: PartitionChecker,
    key: dg.AssetKey,
    rows: Callable[[Sequence[str], duckdb.DuckDBPyConnection], duckdb.DuckDBPyRelation],
) -> Iterator[dg.MaterializeResult[None]]:
    """Write the weeks to compute in one transaction; the last one carries the lineage, which the catalog shows."""
    with checker.building(context) as build:
        build.replace_table(key, lambda weeks: partial(rows, weeks), column_metadata(key))
        yield from build.outputs()
