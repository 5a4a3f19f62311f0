"""From declarations to assets: training set, candidate, evaluation, version, champion, predictions, monitor.

Belongs here: specs, checks, code versions and the order of folds. Not here: what a stage does (`stages.py`), any
arithmetic.

The stages of a fold are one step, because a blocking check stops the *steps* behind it for every partition of a run.
Fold by fold, a refused candidate keeps only its own partition from being registered, promoted and predicted; the other
folds land, and the run fails at its end with the names of the refused ones.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ml_assets.sdk import champion, folds, gates, monitors, stages, training_sets
from ml_assets.sdk.champion import ChampionError
from ml_assets.sdk.declarations import Model, Monitor, Query, TrainingSet
from ml_assets.sdk.folds import Fitted
from ml_assets.sdk.monitors import Reading
from ml_assets.sdk.stages import Fold, Stores, stored
from ml_assets.sdk.tables import MONITOR_SCHEMA, ProjectTables, training_set_columns
from ml_assets.sdk.training_sets import matrix
from ml_assets.sdk.windows import DeclarationError, offset, upstream_keys
from platform_assets.automation import when_upstream_complete
from platform_assets.code_version import code_version
from platform_assets.completeness import Completeness
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partitioned_checks import judged_materializations, partitioned_check, verdict
from platform_assets.teams import team_of
from resources.environment import Environment
from resources.ledger import Ledger
from resources.model_registry import ModelRegistry
from resources.warehouse import PARTITION_KEY, Commit, TableName, Warehouse, physical_partitions

_FILES = Completeness(storage="files").metadata
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class ChampionConfig(dg.Config):
    """Without any of it, a materialization of the champion promotes the partition's own version."""

    rollback_to: str | None = Field(None, description="Partition whose version shall serve again.")
    serves_from: str | None = Field(None, description="Since when, ISO 8601 with a zone; by default now.")
    reason: str = Field("", description="Why; kept with the decision.")


def project_assets(*models: Model) -> dg.Definitions:
    """Everything that `models` declare, ready to be merged into a code location.

    Its resources are `warehouse`, `model_registry` and `checker`.

    Raises:
        DeclarationError: two training sets or models share a name but not their declaration.
    """
    declared: dict[dg.AssetKey, TrainingSet] = {}
    for model in models:
        known = declared.setdefault(model.training_set.key, model.training_set)
        if known != model.training_set:
            raise DeclarationError(f"two training sets are called {known.key.to_user_string()}; rename one")
    names = [model.registered_name for model in models]
    if len(set(names)) < len(names):
        raise DeclarationError(f"two models share a name: {', '.join(sorted(names))}; rename one")
    assets = [training_set_asset(one) for one in declared.values()]
    for model in models:
        assets.append(fold_assets(model))
        if model.monitor is not None and model.batch:
            assets.append(monitor_asset(model, model.monitor))
    return dg.Definitions(assets=assets)


def training_set_asset(declared: TrainingSet) -> dg.AssetsDefinition:
    """The asset of the labelled rows, with the check that no feature is newer than its row."""
    spec = _completed(
        dg.AssetSpec(
            declared.key,
            deps=declared.deps,
            description=declared.description,
            kinds={"duckdb"},
            metadata=training_set_columns(declared),
        ),
        declared.team,
        code_version(
            training_sets.labelled,
            type(declared.features).join,
            constants={
                "features": _settled(declared.features),
                "queries": [_query(one) for one in (declared.entity_rows, declared.labels)],
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
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
    )
    def training_set(
        context: dg.AssetExecutionContext, warehouse: Warehouse, checker: PartitionChecker
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckEvaluation]:
        with checker.building(context) as build:
            for wave in build.waves():
                partitions = wave[declared.key]
                with warehouse.reader() as lake:
                    rows = pa.concat_tables([training_sets.labelled(lake, declared, one) for one in partitions])
                commit = Commit(context.run.run_id, declared.key.to_user_string())
                warehouse.replace_partitions(TableName.of_key(declared.key), partitions, rows, commit)
                build.record_table(declared.key, partitions, {partitions[-1]: training_set_columns(declared)})
            if context.op_execution_context.selected_asset_check_keys:
                yield from _point_in_time(context, warehouse, declared, check)
            yield from build.outputs()

    return training_set


def fold_assets(model: Model) -> dg.AssetsDefinition:
    """Candidate, evaluation, version, champion and predictions of a model, with the blocking gate."""
    keys = ProjectTables(model)
    gate = partitioned_check(
        "passes_gate",
        keys.evaluation,
        model.calendar,
        description="No feature is newer than its row, and the candidate's error on the holdout is low enough: "
        + (f"below that of {', '.join(model.gate.beats)}, " if model.gate.beats else "")
        + "and not certainly above the champion's.",
        blocking=True,
    )

    @dg.multi_asset(
        name=f"{model.team}_{model.name}_folds",
        specs=_fold_specs(model, keys),
        check_specs=[gate],
        partitions_def=model.calendar,
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
    )
    def model_folds(
        context: dg.AssetExecutionContext,
        config: ChampionConfig,
        warehouse: Warehouse,
        model_registry: ModelRegistry,
        checker: PartitionChecker,
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckEvaluation]:
        """Walks the run's partitions in order, each through those of its stages that are selected."""
        stores = Stores(warehouse, model_registry, Ledger.of(Environment.of(checker.settings)))
        selected = context.selected_asset_keys
        rollback = _rollback(config, model, keys, selected, context.partition_keys)
        gated = bool(context.op_execution_context.selected_asset_check_keys) or keys.version in selected
        gated = (gated or keys.champion in selected) and rollback is None
        refused: dict[str, str] = {}
        with checker.building(context) as build, warehouse.reader() as lake:
            wanted = [one for one in context.partition_keys if build.wants(keys.candidate, one)]
            with _fitted_ahead(model, stores, wanted) as fits:
                for partition in context.partition_keys:
                    fold = Fold(model, partition, build, stores, lake)
                    if partition in fits:
                        fold.train(fits.pop(partition).result())
                    if build.wants(keys.evaluation, partition):
                        fold.evaluate()
                    if gated:
                        judgement = fold.judge(gate)
                        yield judgement
                        if not judgement.passed:
                            refused[partition] = str(judgement.description)
                            continue
                    if build.wants(keys.version, partition):
                        fold.register()
                    if build.wants(keys.champion, partition):
                        if rollback is None:
                            fold.promote()
                        else:
                            fold.roll_back(*rollback)
                    if model.batch and build.wants(keys.predictions, partition):
                        fold.predict()
            if refused:
                raise dg.Failure(_refusal(model, keys, refused), allow_retries=False)
            yield from build.outputs()

    return model_folds


def monitor_asset(model: Model, watched: Monitor) -> dg.AssetsDefinition:
    """The asset that measures drift and error of the predictions, with the check that warns of them."""
    keys, rows = ProjectTables(model), model.training_set
    spec = _completed(
        dg.AssetSpec(
            keys.monitor,
            deps=[
                keys.predictions,
                keys.evaluation,
                dg.AssetDep(rows.key, partition_mapping=offset(-watched.reference, 0)),
            ],
            description="One row per feature, for the label and for the error: what was measured once the labels of "
            "the partition had come, and what it may be.",
            kinds={"duckdb"},
            metadata=keys.columns(keys.monitor),
        ),
        model.team,
        code_version(
            measured, monitors.drift, monitors.error, constants={"monitor": watched, "features": model.feature_names}
        ),
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
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
    )
    def model_monitor(
        context: dg.AssetExecutionContext, warehouse: Warehouse, checker: PartitionChecker
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckEvaluation]:
        with checker.building(context) as build:
            for wave in build.waves():
                partitions = wave[keys.monitor]
                with warehouse.reader() as lake:
                    read = {one: _monitored(model, watched, keys, warehouse, lake, one) for one in partitions}
                table = pa.concat_tables([_reading_rows(one, found) for one, found in read.items()])
                commit = Commit(context.run.run_id, keys.monitor.to_user_string())
                warehouse.replace_partitions(TableName.of_key(keys.monitor), partitions, table, commit)
                build.record_table(keys.monitor, partitions, {partitions[-1]: keys.columns(keys.monitor)})
            if context.op_execution_context.selected_asset_check_keys:
                yield from _within_limits(context, warehouse, keys, check)
            yield from build.outputs()

    return model_monitor


def measured(
    model: Model, watched: Monitor, predictions: pa.Table, rows: pa.Table, reference: pa.Table, expected: float
) -> list[Reading]:
    """Drift of features and label, and the error of the predictions whose labels have come.

    Args:
        model: the declaration.
        watched: what is measured.
        predictions: of the partition.
        rows: of the training set, of the same partition; empty while there are no labels.
        reference: of the training set, of the partitions before.
        expected: the error in the evaluation.
    """
    columns = {name: matrix(rows, [name])[:, 0] for name in (*model.feature_names, model.training_set.label)}
    found = monitors.drift(watched, {name: matrix(reference, [name])[:, 0] for name in columns}, columns)
    same = [*model.training_set.keys, model.training_set.time]
    both = predictions.select([*same, "prediction"]).join(
        rows.select([*same, model.training_set.label]), same, join_type="inner"
    )
    now = None
    if both.num_rows:
        now = model.measure.of(matrix(both, [model.training_set.label])[:, 0], matrix(both, ["prediction"])[:, 0])
    return [*found, monitors.error(watched, model.metric, expected, now, both.num_rows)]


def _monitored(
    model: Model,
    watched: Monitor,
    keys: ProjectTables,
    warehouse: Warehouse,
    lake: duckdb.DuckDBPyConnection,
    partition: str,
) -> list[Reading]:
    rows = model.training_set
    there = physical_partitions(lake, TableName.of_key(rows.key)).keys()

    def of(first: int, last: int) -> pa.Table:
        wanted = upstream_keys(model.calendar, partition, rows.calendar, first, last)
        return warehouse.relation(
            lake, TableName.of_key(rows.key), [one for one in wanted if one in there]
        ).to_arrow_table()

    predictions = stored(warehouse, lake, keys.predictions, [partition])
    evaluation = stored(warehouse, lake, keys.evaluation, [partition])
    own = evaluation.filter(pc.equal(evaluation["kind"], "candidate"))
    return measured(model, watched, predictions, of(0, 0), of(-watched.reference, -1), own["error"][0].as_py())


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
    judged = judged_materializations(context.instance, keys.monitor, context.partition_keys)
    with warehouse.reader() as lake:
        for partition in context.partition_keys:
            rows = stored(warehouse, lake, keys.monitor, [partition]).to_pylist()
            above = [f"{row['subject']} {row['measure']} {row['value']:.3g}" for row in rows if not row["within"]]
            unjudged = [row["subject"] for row in rows if row["value"] is None]
            said = f"above their limits: {', '.join(above)}" if above else "within all limits"
            yield verdict(
                judged,
                check,
                partition,
                passed=not above,
                severity=dg.AssetCheckSeverity.WARN,
                description=said + (f"; not judged: {', '.join(unjudged)}" if unjudged else ""),
                metadata={f"{r['measure']} {r['subject']}": r["value"] for r in rows if r["value"] is not None},
            )


def _point_in_time(
    context: dg.AssetExecutionContext, warehouse: Warehouse, declared: TrainingSet, check: dg.AssetCheckSpec
) -> Iterator[dg.AssetCheckEvaluation]:
    judged = judged_materializations(context.instance, declared.key, context.partition_keys)
    with warehouse.reader() as lake:
        for partition in context.partition_keys:
            rows = warehouse.relation(lake, TableName.of_key(declared.key), [partition]).to_arrow_table()
            newer = training_sets.leaks(rows, declared, list(declared.features.columns))
            said = ", ".join(f"{name}: {count} values" for name, count in newer.items())
            yield verdict(
                judged,
                check,
                partition,
                passed=not newer,
                description=f"newer than their rows: {said}" if newer else "every value was known then",
                metadata={"rows": rows.num_rows},
            )


def _fold_specs(model: Model, keys: ProjectTables) -> list[dg.AssetSpec]:
    rows, kind = model.training_set, model.trainer.framework
    known = dg.AssetDep(rows.key, partition_mapping=offset(-model.window.reads, -1))
    settings = {
        "trainer": _settled(model.trainer),
        "model": repr((model.signature, model.window, model.metric, model.search, model.seed, model.not_negative)),
    }
    fitted = (folds.fit, type(model.trainer).fit, type(model.trainer).save)
    asked = (folds.predict, folds.predict_as_served, type(model.trainer).predict, type(model.trainer).load)
    specs: list[tuple[dg.AssetSpec, tuple[Callable[..., object], ...], Mapping[str, object]]] = [
        (
            dg.AssetSpec(
                keys.candidate,
                deps=[known],
                description=f"One model a partition, trained on what was known when it began. {model.description}",
                kinds={kind, "mlflow"},
                metadata=_FILES,
            ),
            fitted,
            settings,
        ),
        (
            dg.AssetSpec(
                keys.evaluation,
                deps=[keys.candidate, known],
                description="One row per fold and method: errors of the candidate, of the naive predictions and of the "
                "champion on the holdout, which the candidate has not seen.",
                kinds={"duckdb"},
                metadata=keys.columns(keys.evaluation),
            ),
            (folds.evaluate, *asked),
            {**settings, "gate": repr(model.gate)},
        ),
        (
            dg.AssetSpec(
                keys.version,
                deps=[keys.candidate, keys.evaluation],
                description="One MLflow version per partition whose candidate has passed its gate.",
                kinds={"mlflow"},
                metadata=_FILES,
            ),
            (gates.refusals,),
            {"gate": repr(model.gate)},
        ),
        (
            dg.AssetSpec(
                keys.champion,
                deps=[keys.version],
                description="One row per decision: from when on which version serves, and why. To roll back, "
                "materialize the partition with `rollback_to` and `reason` in the run's config.",
                kinds={"mlflow", "duckdb"},
                metadata=keys.columns(keys.champion),
            ),
            (champion.promoted, champion.as_table),
            {},
        ),
    ]
    if model.batch:
        specs.append(
            (
                dg.AssetSpec(
                    keys.predictions,
                    deps=[keys.champion, *rows.question_deps],
                    description="One row per entity row of the partition: what the version that serves then predicts.",
                    kinds={kind, "duckdb"},
                    metadata=keys.columns(keys.predictions),
                ),
                (*asked, training_sets.questions, type(rows.features).join),
                {"model": settings["model"], "features": _settled(rows.features), "rows": _query(rows.entity_rows)},
            )
        )
    return [
        _completed(spec, model.team, code_version(*functions, constants=constants))
        for spec, functions, constants in specs
    ]


def _completed(spec: dg.AssetSpec, team: str, version: str) -> dg.AssetSpec:
    """`spec` with what every asset has; the condition last, because it reads the spec."""
    owner = team_of(team)
    return spec.replace_attributes(
        group_name=owner.name,
        owners=[owner.owner],
        automation_condition=when_upstream_complete(spec),
        code_version=version,
    )


def _query(query: Query) -> list[object]:
    reads = sorted(query.reads.items())
    return [query.sql, [[name, one.table.to_user_string(), one.first, one.last] for name, one in reads]]


def _settled(declared: object) -> str:
    """The `repr` of a trainer or feature source, which is part of the code version.

    Raises:
        DeclarationError: it holds an address, so that every process would see another version.
    """
    text = repr(declared)
    if _ADDRESS.search(text):
        raise DeclarationError(
            f"{type(declared).__name__} has the repr {text}, which differs from process to process; make it a frozen "
            "dataclass of plain data"
        )
    return text


def _rollback(
    config: ChampionConfig,
    model: Model,
    keys: ProjectTables,
    selected: set[dg.AssetKey],
    partitions: Sequence[str],
) -> tuple[str, str, datetime | None] | None:
    """What `Fold.roll_back` is to be told, if the run is a rollback.

    Raises:
        ChampionError: it is one of several partitions, or together with training.
    """
    if config.rollback_to is None:
        return None
    if keys.champion not in selected or selected - {keys.champion, keys.predictions} or len(partitions) != 1:
        raise ChampionError(
            f"a rollback of {model.name!r} is a run of one partition of {keys.champion.to_user_string()}, with or "
            f"without its predictions; selected were {len(partitions)} partitions of "
            f"{', '.join(sorted(key.to_user_string() for key in selected))}"
        )
    moment = datetime.fromisoformat(config.serves_from) if config.serves_from else None
    if moment is not None and moment.tzinfo is None:
        raise ChampionError(
            f"serves_from is {config.serves_from!r}; give its zone too, e.g. {config.serves_from}+00:00"
        )
    return config.rollback_to, config.reason, moment.astimezone(UTC) if moment else None


@contextmanager
def _fitted_ahead(model: Model, stores: Stores, partitions: Sequence[str]) -> Iterator[dict[str, Future[Fitted]]]:
    """Candidates need nothing of each other, so they are fitted ahead, one a core."""
    pool = ThreadPoolExecutor(stores.warehouse.threads)
    try:
        yield {one: pool.submit(stages.fit, model, stores, one) for one in partitions}
    finally:
        pool.shutdown(cancel_futures=True)


def _refusal(model: Model, keys: ProjectTables, refused: Mapping[str, str]) -> str:
    folds_refused = "; ".join(f"{partition} {why}" for partition, why in refused.items())
    return (
        f"{model.registered_name}: the gate passes_gate refused, in this run, {folds_refused}. Nothing was registered, "
        "promoted or predicted for these partitions, the champion before goes on to serve; the others are done. "
        f"Look at their {keys.evaluation.to_user_string()}, mend features or training data, and materialize them again."
    )
