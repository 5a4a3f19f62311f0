"""The asset of what became of a model's predictions, with its check.

Belongs here: a thin asset that reads, calls one plain function and writes. Not here: the measures (`monitors.py`).
"""

from collections.abc import Iterator, Sequence

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ml_assets.sdk import monitors
from ml_assets.sdk.declarations import Model, Monitor
from ml_assets.sdk.monitors import Reading
from ml_assets.sdk.specs import completed
from ml_assets.sdk.stages import present, stored
from ml_assets.sdk.tables import MONITOR_SCHEMA, ProjectTables
from ml_assets.sdk.windows import Calendar, upstream_keys
from platform_assets.asset_graph.completeness import Completeness
from platform_assets.asset_graph.declared import PRODUCT
from platform_assets.backfills import ONE_RUN
from platform_assets.code_version import code_version
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partitioned_checks import evaluated_materializations, evaluation_of, partitioned_check
from platform_assets.partitions import offset
from resources.warehouse import PARTITION_KEY, Warehouse


def monitor_asset(model: Model, watched: Monitor) -> dg.AssetsDefinition:
    """The asset that measures drift and error of the predictions, with the check that warns of them."""
    keys, rows = ProjectTables(model), model.training_set
    # A fold whose candidate was refused never predicted: those after it do without its predictions. The champion, which
    # nothing does without, holds back a partition that has none of its own.
    complete = Completeness(when_late={"/".join(keys.predictions.path): "go_on"})
    spec = completed(
        dg.AssetSpec(
            keys.monitor,
            deps=[
                keys.champion,
                keys.evaluation,
                dg.AssetDep(keys.predictions, partition_mapping=offset(-watched.reference, 0)),
                dg.AssetDep(rows.key, partition_mapping=offset(-watched.reference, 0)),
            ],
            description="One row per feature, for the label, the prediction and the error: what was measured once the "
            "labels of the partition had come, and what it may be.",
            kinds={"duckdb"},
            metadata={**keys.columns(keys.monitor), **complete.metadata, **PRODUCT},
        ),
        model.team,
        model.name,
        code_version(monitors.measured, constants={"monitor": watched, "features": model.feature_names}),
    )
    check = partitioned_check(
        "within_limits",
        keys.monitor,
        model.calendar,
        description=f"No PSI is above {watched.psi:g}, and the error is at most {watched.error_ratio:g} times that "
        "of the evaluation.",
    )

    @dg.multi_asset(
        name=f"{model.team}_{model.name}_monitor",
        specs=[spec],
        check_specs=[check],
        partitions_def=model.calendar,
        backfill_policy=ONE_RUN["ml_assets"],
        can_subset=True,
    )
    def model_monitor(
        context: dg.AssetExecutionContext, warehouse: Warehouse, checker: PartitionChecker
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckEvaluation]:
        def rows(partitions: Sequence[str]) -> pa.Table:
            with warehouse.reader() as lake:
                read = {one: _monitored(model, watched, keys, warehouse, lake, one) for one in partitions}
            return pa.concat_tables([_reading_rows(one, found) for one, found in read.items()])

        with checker.building(context) as build:
            build.replace_table(keys.monitor, rows, keys.columns(keys.monitor))
            if context.op_execution_context.selected_asset_check_keys:
                yield from _within_limits(context, warehouse, keys, check)
            yield from build.outputs()

    return model_monitor


def _monitored(
    model: Model,
    watched: Monitor,
    keys: ProjectTables,
    warehouse: Warehouse,
    lake: duckdb.DuckDBPyConnection,
    partition: str,
) -> list[Reading]:
    def of(key: dg.AssetKey, calendar: Calendar, first: int, last: int) -> pa.Table:
        return present(warehouse, lake, key, upstream_keys(model.calendar, partition, calendar, first, last))

    rows, before = model.training_set, -watched.reference
    predictions = stored(warehouse, lake, keys.predictions, [partition])
    evaluation = stored(warehouse, lake, keys.evaluation, [partition])
    own = evaluation.filter(pc.equal(evaluation["kind"], "candidate"))
    return monitors.measured(
        model,
        watched,
        predictions,
        of(keys.predictions, model.calendar, before, -1),
        of(rows.key, rows.calendar, 0, 0),
        of(rows.key, rows.calendar, before, -1),
        own["error"][0].as_py(),
    )


def _reading_rows(partition: str, found: Sequence[Reading]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "subject": one.subject,
                "measure": one.measure,
                "value": one.value,
                "limit_value": one.limit,
                "within": one.within,
                "rows": one.rows,
                "why": one.why,
                PARTITION_KEY: partition,
            }
            for one in found
        ],
        schema=MONITOR_SCHEMA,
    )


def _within_limits(
    context: dg.AssetExecutionContext, warehouse: Warehouse, keys: ProjectTables, check: dg.AssetCheckSpec
) -> Iterator[dg.AssetCheckEvaluation]:
    judged = evaluated_materializations(context.instance, keys.monitor, context.partition_keys)
    with warehouse.reader() as lake:
        for partition in context.partition_keys:
            rows = stored(warehouse, lake, keys.monitor, [partition]).to_pylist()
            above = [f"{row['subject']} {row['measure']} {row['value']:.3g}" for row in rows if not row["within"]]
            unjudged = [row["subject"] for row in rows if row["value"] is None]
            said = f"above their limits: {', '.join(above)}" if above else "within all limits"
            yield evaluation_of(
                judged,
                check,
                partition,
                passed=not above,
                severity=dg.AssetCheckSeverity.WARN,
                description=said + (f"; not judged: {', '.join(unjudged)}" if unjudged else ""),
                metadata={f"{r['measure']} {r['subject']}": r["value"] for r in rows if r["value"] is not None},
            )
