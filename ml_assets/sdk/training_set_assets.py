"""The asset of a training set's labelled rows, with its check.

Belongs here: a thin asset that reads, calls one plain function and writes. Not here: the rows (`training_sets.py`).
"""

from collections.abc import Iterator, Sequence

import dagster as dg
import pyarrow as pa

from ml_assets.sdk import training_sets
from ml_assets.sdk.declarations import TrainingSet
from ml_assets.sdk.specs import completed, plain_query, settled
from ml_assets.sdk.tables import training_set_columns
from platform_assets.backfills import ONE_RUN
from platform_assets.code_version import code_version
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partitioned_checks import evaluated_materializations, evaluation_of, partitioned_check
from resources.warehouse import TableName, Warehouse


def training_set_asset(declared: TrainingSet) -> dg.AssetsDefinition:
    """The asset of the labelled rows, with the check that no feature is newer than its row."""
    spec = completed(
        dg.AssetSpec(
            declared.key,
            deps=declared.deps,
            description=declared.description,
            kinds={"duckdb"},
            metadata=training_set_columns(declared),
        ),
        declared.team,
        declared.name,
        code_version(
            training_sets.labelled,
            type(declared.features).join,
            constants={
                "features": settled(declared.features),
                "queries": [plain_query(one) for one in (declared.entity_rows, declared.labels)],
                "columns": [*declared.keys, declared.time, declared.label, repr(declared.unlabelled), declared.task],
            },
        ),
    )
    check = partitioned_check(
        "point_in_time",
        declared.key,
        declared.calendar,
        description="No feature value was known only after the time of its row.",
    )

    @dg.multi_asset(
        name=f"{declared.team}_{declared.name}_training_set",
        specs=[spec],
        check_specs=[check],
        partitions_def=declared.calendar,
        backfill_policy=ONE_RUN["ml_assets"],
        can_subset=True,
    )
    def training_set(
        context: dg.AssetExecutionContext, warehouse: Warehouse, checker: PartitionChecker
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckEvaluation]:
        def rows(partitions: Sequence[str]) -> pa.Table:
            with warehouse.reader() as lake:
                return pa.concat_tables([training_sets.labelled(lake, declared, one) for one in partitions])

        with checker.building(context) as build:
            build.replace_table(declared.key, rows, training_set_columns(declared))
            if context.op_execution_context.selected_asset_check_keys:
                yield from _point_in_time(context, warehouse, declared, check)
            yield from build.outputs()

    return training_set


def _point_in_time(
    context: dg.AssetExecutionContext, warehouse: Warehouse, declared: TrainingSet, check: dg.AssetCheckSpec
) -> Iterator[dg.AssetCheckEvaluation]:
    judged = evaluated_materializations(context.instance, declared.key, context.partition_keys)
    with warehouse.reader() as lake:
        for partition in context.partition_keys:
            rows = warehouse.relation(lake, TableName.of_key(declared.key), [partition]).to_arrow_table()
            newer = training_sets.leaks(rows, declared, list(declared.features.columns))
            said = ", ".join(f"{name}: {count} values" for name, count in newer.items())
            yield evaluation_of(
                judged,
                check,
                partition,
                passed=not newer,
                description=f"newer than their rows: {said}" if newer else "every value was known then",
                metadata={"rows": rows.num_rows},
            )
