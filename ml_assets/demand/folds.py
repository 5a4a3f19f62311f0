"""The folds of the demand model: candidate, evaluation, gate, registered version and forecast of each week.

Belongs here: the order of a fold's stages and what each reads and writes. Not here: what a model is
(`training.py`) or how it is judged (`evaluation.py`).

The four assets are one step, because a blocking check stops the *steps* behind it for every partition of a
run. Fold by fold, a refused candidate keeps only its own week from being registered and forecast; the other
folds land, and the run fails at its end with the names of the refused weeks.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa

from ml_assets.demand import evaluation, training
from ml_assets.demand.evaluation import Evaluation
from ml_assets.demand.tables import (
    EVALUATION,
    FEATURE_TABLE,
    FORECAST,
    MODEL,
    TRAINING_TABLE,
    VERSION,
    column_metadata,
    stored,
    weeks_around,
)
from platform_assets import partitions
from platform_assets.backfills import ONE_RUN
from platform_assets.completeness import Completeness
from platform_assets.partition_checker.build import Build
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.kept import kept_in_files
from platform_assets.partitioned_checks import judged_materializations, partitioned_check, verdict
from resources.model_registry import Candidate, ModelRegistry
from resources.warehouse import PARTITION_KEY, Commit, TableName, Warehouse

REGISTERED_NAME = "commerce.demand"

BEATS_BASELINES = partitioned_check(
    "beats_baselines",
    EVALUATION,
    partitions.DEMAND_FOLDS,
    description="On the last known week the candidate's WAPE is below last week's and the four-week mean's.",
    blocking=True,
)

_KNOWN_WEEKS = dg.AssetDep(
    TRAINING_TABLE,
    partition_mapping=partitions.preceding_weeks(first=-training.TRAINING_WEEKS - 1, last=-1),
)

SPECS = [
    dg.AssetSpec(
        MODEL,
        deps=[_KNOWN_WEEKS],
        description="One LightGBM candidate a week, trained on the twelve weeks before the last known one. "
        "It is kept as an MLflow run and must pass its gate to be registered.",
        kinds={"lightgbm", "mlflow"},
        metadata=Completeness(storage="files").metadata,
    ),
    dg.AssetSpec(
        EVALUATION,
        deps=[MODEL, _KNOWN_WEEKS],
        description="One row per fold: errors of the candidate and of the naive baselines on the last known "
        "week, which the candidate has not seen.",
        kinds={"duckdb"},
        metadata=column_metadata(EVALUATION),
    ),
    dg.AssetSpec(
        VERSION,
        deps=[MODEL, EVALUATION],
        description="One MLflow version per week whose candidate passed its gate. The alias champion is the "
        "newest week's version.",
        kinds={"mlflow"},
        metadata=Completeness(storage="files").metadata,
    ),
    dg.AssetSpec(
        FORECAST,
        deps=[VERSION, FEATURE_TABLE],
        description="One row per product and week, for products sold in the eight weeks before: the units "
        "expected to sell, by the version registered for that week.",
        kinds={"lightgbm", "duckdb"},
        metadata=column_metadata(FORECAST),
    ),
]


@dataclass(frozen=True)
class Fitted:
    """A model as LightGBM text, and what it was fitted on."""

    model: str
    weeks: list[str]
    rows: int


def fit(warehouse: Warehouse, week: str) -> Fitted:
    """Fit the candidate of `week` on the weeks before its holdout week; safe to call from several threads."""
    weeks = weeks_around(week, -training.TRAINING_WEEKS - 1, -2)
    with warehouse.reader() as lake:
        rows = stored(warehouse, lake, TRAINING_TABLE, weeks).to_arrow_table()
    return Fitted(training.fit(rows), weeks, rows.num_rows)


@dataclass(frozen=True)
class Fold:
    """One week of the walk-forward backtest; each stage reads what the stages before it stored."""

    week: str
    build: Build
    warehouse: Warehouse
    lake: duckdb.DuckDBPyConnection
    registry: ModelRegistry

    def train(self, fitted: Fitted) -> None:
        """Keep the week's candidate in MLflow."""
        span = f"{fitted.weeks[0]}..{fitted.weeks[-1]}"
        candidate = self.registry.log_candidate(
            REGISTERED_NAME,
            self.week,
            fitted.model,
            parameters={**training.PARAMETERS, "rounds": training.ROUNDS},
            tags={"dagster_run_id": self.build.context.run.run_id, "trained_on": span},
        )
        metadata = {**_identity(candidate), "trained on": span, "rows": fitted.rows}
        self._record_model(MODEL, candidate.run_id, metadata)

    def evaluate(self) -> None:
        """Judge the candidate and the baselines on the holdout week and store the errors."""
        (holdout,) = weeks_around(self.week, -1, -1)
        rows = self._read(TRAINING_TABLE, [holdout])
        candidate = self._candidate
        found = evaluation.evaluate(rows, training.predict(candidate.text, rows))
        self.registry.log_metrics(candidate.run_id, asdict(found))
        self._write(
            EVALUATION,
            pa.table(
                {
                    "week": [date.fromisoformat(self.week)],
                    "holdout_week": [date.fromisoformat(holdout)],
                    "model_digest": [candidate.digest],
                    **{name: [value] for name, value in asdict(found).items()},
                    PARTITION_KEY: [self.week],
                }
            ),
            {"WAPE": _table(found), "bias": found.bias},
        )

    def judge(self) -> dg.AssetCheckEvaluation:
        """The gate: the stored evaluation must be of this very candidate, and better than every baseline."""
        row = self._read(EVALUATION, [self.week]).to_pylist()[0]
        found = Evaluation(**{name: row[name] for name in Evaluation.__dataclass_fields__})
        lost = evaluation.lost_to(found)
        if row["model_digest"] != self._candidate.digest:
            lost = ["its own evaluation, which is of another candidate: materialize demand_evaluation again"]
        return verdict(
            judged_materializations(self.build.context.instance, EVALUATION, [self.week]),
            BEATS_BASELINES,
            self.week,
            passed=not lost,
            description=f"does not beat {', '.join(lost)}" if lost else "beats every baseline",
            metadata={"WAPE": _table(found), "bias": found.bias, "rows": found.rows},
        )

    def register(self) -> None:
        """Make the candidate the registered version of its week."""
        version = self.registry.register(self._candidate)
        metadata = {
            **_identity(self._candidate),
            "MLflow model": version.name,
            "MLflow version": version.version,
            "champion": version.champion,
        }
        self._record_model(VERSION, version.run_id, metadata)

    def forecast(self) -> None:
        """Forecast the week with the version registered for it."""
        rows = self._read(FEATURE_TABLE, [self.week])
        version = self.registry.registered(REGISTERED_NAME, self.week)
        units = training.predict(self.registry.load(version), rows)
        self._write(
            FORECAST,
            pa.table(
                {
                    "week": rows["feature_week"],
                    "product_id": rows["product_id"],
                    "forecast_units": units,
                    "model_digest": [version.digest] * rows.num_rows,
                    PARTITION_KEY: rows[PARTITION_KEY],
                }
            ),
            {"MLflow version": version.version, "forecast units": float(units.sum())},
        )

    @cached_property
    def _candidate(self) -> Candidate:
        return self.registry.candidate(REGISTERED_NAME, self.week)

    def _read(self, key: dg.AssetKey, weeks: list[str]) -> pa.Table:
        return stored(self.warehouse, self.lake, key, weeks).to_arrow_table()

    def _write(self, key: dg.AssetKey, rows: pa.Table, metadata: dict[str, Any]) -> None:
        commit = Commit(self.build.context.run.run_id, key.to_user_string())
        self.warehouse.replace_partitions(TableName.of_key(key), [self.week], rows, commit)
        self.build.record_table(key, [self.week], {self.week: {**metadata, **column_metadata(key)}})

    def _record_model(self, key: dg.AssetKey, run_id: str, metadata: dict[str, Any]) -> None:
        kept = kept_in_files([self.registry.file(run_id)])
        self.build.record(key, {self.week: kept}, {self.week: metadata})


@dg.multi_asset(
    name="demand_folds",
    specs=SPECS,
    check_specs=[BEATS_BASELINES],
    partitions_def=partitions.DEMAND_FOLDS,
    backfill_policy=ONE_RUN["ml_assets"],
    can_subset=True,
)
def demand_folds(
    context: dg.AssetExecutionContext, warehouse: Warehouse, model_registry: ModelRegistry, checker: PartitionChecker
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckEvaluation]:
    """Walks the run's weeks in order, each through those of its stages that are selected.

    Candidates need nothing of each other, so they are fitted ahead, one a core: two fits side by side take little
    longer than one that shares its work between two threads.
    """
    gated = bool(context.op_execution_context.selected_asset_check_keys) or VERSION in context.selected_asset_keys
    refused: dict[str, str] = {}
    with checker.building(context) as build, warehouse.reader() as lake:
        weeks = context.partition_keys
        with _fitted_ahead(warehouse, [week for week in weeks if build.wants(MODEL, week)]) as fits:
            for week in weeks:
                fold = Fold(week, build, warehouse, lake, model_registry)
                if week in fits:
                    fold.train(fits.pop(week).result())
                if build.wants(EVALUATION, week):
                    fold.evaluate()
                if gated:
                    judgement = fold.judge()
                    yield judgement
                    if not judgement.passed:
                        refused[week] = str(judgement.description)
                        continue
                if build.wants(VERSION, week):
                    fold.register()
                if build.wants(FORECAST, week):
                    fold.forecast()
        if refused:
            raise dg.Failure(_refusal(refused), allow_retries=False)
        yield from build.outputs()


@contextmanager
def _fitted_ahead(warehouse: Warehouse, weeks: Sequence[str]) -> Iterator[dict[str, Future[Fitted]]]:
    pool = ThreadPoolExecutor(warehouse.threads)
    try:
        yield {week: pool.submit(fit, warehouse, week) for week in weeks}
    finally:
        pool.shutdown(cancel_futures=True)


def _refusal(refused: dict[str, str]) -> str:
    weeks = "; ".join(f"{week} {why}" for week, why in refused.items())
    return (
        f"{MODEL.to_user_string()}: the gate {BEATS_BASELINES.name} refused, in this run, {weeks}. "
        "Nothing was registered or forecast for these weeks; the others are done. Look at their "
        f"{EVALUATION.to_user_string()}, mend features or training data, and materialize these weeks again."
    )


def _identity(candidate: Candidate) -> dict[str, Any]:
    return {"MLflow run id": candidate.run_id, "model digest": candidate.digest}


def _table(found: Evaluation) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [dg.TableRecord({"method": method, "WAPE": round(wape, 4)}) for method, wape in found.errors.items()]
    )
