"""Features and training set of the demand model, week by week, and the drift check on the features.

Belongs here: thin assets that read, call one plain function and write. Not here: what happens in a fold
(`folds.py`), any arithmetic (`features.py`, `training.py`, `drift.py`).
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

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
from platform_assets.partitioned_checks import Judged, judged_materializations, partitioned_check, verdict
from resources.warehouse import Commit, TableName, Warehouse, physical_partitions

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
    backfill_policy=dg.BackfillPolicy.single_run(),
    kinds={"duckdb"},
    metadata=column_metadata(FEATURE_TABLE),
)
def product_week_features(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult[None]:
    """One row per product and week, for products sold in the eight weeks before. Holds what was known of
    their sales, prices and promotions when the week began."""
    weeks = context.partition_keys
    history = [known for week in weeks for known in weeks_around(week, -features.HISTORY_WEEKS, -1)]

    def rows(lake: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
        return features.product_week_features(stored(warehouse, lake, PRODUCT_WEEKS, history), weeks)

    return _replaced(context, warehouse, FEATURE_TABLE, rows)


@dg.asset(
    key=TRAINING_TABLE,
    deps=[FEATURE_TABLE, PRODUCT_WEEKS],
    partitions_def=partitions.DEMAND_TRAINING,
    backfill_policy=dg.BackfillPolicy.single_run(),
    kinds={"duckdb"},
    metadata=column_metadata(TRAINING_TABLE),
)
def demand_training_set(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult[None]:
    """One row per product and week: the features known when the week began, and the units sold by its end. A
    fold reads the twelve weeks and the holdout week before its own, so that no row is stored twice."""
    weeks = context.partition_keys

    def rows(lake: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
        return training.labelled(
            stored(warehouse, lake, FEATURE_TABLE, weeks), stored(warehouse, lake, PRODUCT_WEEKS, weeks)
        )

    return _replaced(context, warehouse, TRAINING_TABLE, rows)


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
    warehouse: Warehouse,
    key: dg.AssetKey,
    rows: Callable[[duckdb.DuckDBPyConnection], duckdb.DuckDBPyRelation],
) -> dg.MaterializeResult[None]:
    """Write the run's weeks in one transaction; the last one carries the lineage, which the catalog shows."""
    replaced = warehouse.replace_partitions(
        TableName.of_key(key), context.partition_keys, rows, Commit(context.run.run_id, key.to_user_string())
    )
    for week, count in replaced.rows.items():
        context.add_asset_metadata({"dagster/partition_row_count": count}, key, week)
    whole = sum(partition.rows for partition in warehouse.partitions(TableName.of_key(key)).values())
    last = max(context.partition_keys)
    context.add_asset_metadata({"dagster/row_count": whole, **column_metadata(key)}, key, last)
    return dg.MaterializeResult(metadata={"lake snapshot": replaced.snapshot})
