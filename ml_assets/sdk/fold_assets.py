"""The assets of a model's folds: candidate, evaluation with its gate, version, champion, predictions.

Belongs here: specs, code versions and the order of folds. Not here: what a stage does (`stages.py`), any arithmetic.

The stages of a fold are one step, because a blocking check stops the *steps* behind it for every partition of a run.
Fold by fold, a refused candidate keeps only its own partition from being registered, promoted and predicted; the other
folds land, and the run fails at its end with the names of the refused ones. A candidate is compared with the champion
of the partitions before its own, so folds are walked in order. Which champion that was is written into the evaluation;
as an edge of the graph it would close a circle, because a champion follows from an evaluation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from ml_assets.sdk import champion, folds, gates, stages, training_sets
from ml_assets.sdk.champion import ChampionError
from ml_assets.sdk.declarations import Model
from ml_assets.sdk.folds import Fitted
from ml_assets.sdk.specs import completed, plain_query, settled
from ml_assets.sdk.stages import Fold, Predicted, Stores, keep
from ml_assets.sdk.tables import ProjectTables
from ml_assets.sdk.trainers.trainer import DetailedTrainer
from platform_assets.asset_graph.completeness import Completeness
from platform_assets.asset_graph.declared import PRODUCT
from platform_assets.backfills import ONE_RUN
from platform_assets.code_version import code_version
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partitioned_checks import partitioned_check
from platform_assets.partitions import offset
from resources.environment import Environment
from resources.ledger import Ledger
from resources.model_registry import ModelRegistry
from resources.warehouse import Warehouse

_FILES = Completeness(storage="files").metadata


class ChampionConfig(dg.Config):
    """Without any of it, a materialization of the champion promotes the partition's own version."""

    rollback_to: str | None = Field(None, description="Partition whose version shall serve again.")
    serves_from: str | None = Field(None, description="Since when, ISO 8601 with a zone; by default now.")
    reason: str = Field("", description="Why; kept with the decision.")


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
        backfill_policy=ONE_RUN["ml_assets"],
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
        predicted: dict[str, Predicted] = {}
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
                        predicted[partition] = fold.predict()
            keep(model, stores, build, predicted)
            if refused:
                raise dg.Failure(_refusal(model, keys, refused), allow_retries=False)
            yield from build.outputs()

    return model_folds


def _fold_specs(model: Model, keys: ProjectTables) -> list[dg.AssetSpec]:
    rows, kind = model.training_set, model.trainer.framework
    known = dg.AssetDep(rows.key, partition_mapping=offset(-model.window.reads, -1))
    settings = {
        "trainer": settled(model.trainer),
        "model": repr((model.signature, model.window, model.metric, model.search, model.seed, model.not_negative)),
    }
    fitted = (folds.fit, type(model.trainer).fit, type(model.trainer).save)
    asked = (folds.predict, folds.predict_as_served, type(model.trainer).predict, type(model.trainer).load)
    served: tuple[Callable[..., object], ...] = (folds.answers_as_served, *asked)
    if isinstance(model.trainer, DetailedTrainer):
        served = (*served, type(model.trainer).detail)
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
                metadata={**keys.columns(keys.champion), **PRODUCT},
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
                    metadata={**keys.columns(keys.predictions), **PRODUCT},
                ),
                (*served, training_sets.questions, type(rows.features).join),
                {"model": settings["model"], "features": settled(rows.features), "rows": plain_query(rows.entity_rows)},
            )
        )
    return [
        completed(spec, model.team, model.name, code_version(*functions, constants=constants))
        for spec, functions, constants in specs
    ]


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
