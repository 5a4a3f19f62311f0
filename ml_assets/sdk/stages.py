"""The stages of one fold: what each reads, which plain function it calls, and what it leaves.

Belongs here: the way between storage and the plain functions. Not here: arithmetic (`folds.py`, `gates.py`), the order
of folds and the assets themselves (`fold_assets.py`).
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa

from ml_assets.sdk import champion, folds, gates, model_card, plots, tracking
from ml_assets.sdk.champion import ChampionError, Decision
from ml_assets.sdk.declarations import Model
from ml_assets.sdk.folds import Evaluation, Fitted, Span
from ml_assets.sdk.gates import Evidence, Interval
from ml_assets.sdk.model_card import Provenance
from ml_assets.sdk.model_file import ModelFile
from ml_assets.sdk.tables import EVALUATION_SCHEMA, ProjectTables
from ml_assets.sdk.training_sets import questions, require
from ml_assets.sdk.windows import bounds
from platform_assets.partition_checker.build import Build
from platform_assets.partition_checker.stored import kept_in_files
from platform_assets.partitioned_checks import evaluated_materializations, evaluation_of
from resources.ledger import Ledger, Receipt
from resources.model_registry import Candidate, ModelRegistry
from resources.warehouse import PARTITION_KEY, Commit, TableName, Warehouse, physical_partitions

_ANOTHER = "has no evaluation of its own: the stored one is of another candidate; materialize the evaluation again"


@dataclass(frozen=True)
class Stores:
    """What every fold of a step works with."""

    warehouse: Warehouse
    registry: ModelRegistry
    ledger: Ledger

    @property
    def checkpoints(self) -> Path:
        """Where interrupted trainings keep how far they have come: beside the models' artifacts."""
        return Path(self.registry.artifacts).parent / "checkpoints"


def stored(
    warehouse: Warehouse, lake: duckdb.DuckDBPyConnection, key: dg.AssetKey, partitions: Sequence[str]
) -> pa.Table:
    """The rows of `partitions` of a table, all of which must be physically there.

    Raises:
        MissingPartition: the lake lacks some; the message names them and what to build.
    """
    require(lake, key, partitions)
    return warehouse.relation(lake, TableName.of_key(key), partitions).to_arrow_table()


def present(
    warehouse: Warehouse, lake: duckdb.DuckDBPyConnection, key: dg.AssetKey, partitions: Sequence[str]
) -> pa.Table:
    """The rows of those of `partitions` that have any: the lake knows none of a partition that was built empty.

    For tables of which the gate has seen that the partitions are built, or of which some may not be.
    """
    table = TableName.of_key(key)
    there = physical_partitions(lake, table).keys()
    return warehouse.relation(lake, table, [one for one in partitions if one in there]).to_arrow_table()


def fit(model: Model, stores: Stores, partition: str) -> Fitted:
    """Read what a fold learns from, and fit it; safe to call from several threads."""
    span = folds.span_of(model, partition)
    with stores.warehouse.reader() as lake:
        rows = present(stores.warehouse, lake, model.training_set.key, span.learned)
    return folds.fit(model, partition, span, rows, stores.checkpoints / model.registered_name / partition)


def errors_so_far(lake: duckdb.DuckDBPyConnection, table: TableName, partition: str) -> dict[str, dict[str, float]]:
    """The errors that a model's evaluations up to `partition` hold, by method and partition; the candidates' first."""
    if not physical_partitions(lake, table):
        return {}
    found = lake.execute(
        f"select method, {PARTITION_KEY}, error from {table.sql} where {PARTITION_KEY} <= ? and error is not null "
        f"order by kind = 'candidate' desc, method, {PARTITION_KEY}",
        [partition],
    ).fetchall()
    errors: dict[str, dict[str, float]] = {}
    for method, of, error in found:
        errors.setdefault(method, {})[of] = error
    return errors


@dataclass(frozen=True)
class Predicted:
    """The predictions of one partition, and what the web UI shows of them."""

    rows: pa.Table
    shown: dict[str, Any]


def keep(model: Model, stores: Stores, build: Build, predicted: Mapping[str, Predicted]) -> None:
    """Store the predictions of all partitions in one transaction, and record them at once.

    Recorded one by one while folds are still being fitted, they would make Dagster's backfill start a run a partition
    for everything that reads them.
    """
    if not predicted:
        return
    key = ProjectTables(model).predictions
    commit = Commit(build.context.run.run_id, key.to_user_string())
    rows = pa.concat_tables([one.rows for one in predicted.values()])
    stores.warehouse.replace_partitions(TableName.of_key(key), list(predicted), rows, commit)
    build.record_table(key, list(predicted), {partition: one.shown for partition, one in predicted.items()})


@dataclass(frozen=True)
class Fold:
    """One partition of a model; each stage reads what the stages before it stored."""

    model: Model
    partition: str
    build: Build
    stores: Stores
    lake: duckdb.DuckDBPyConnection

    def train(self, fitted: Fitted) -> None:
        """Keep the candidate in MLflow, with where it comes from; its checkpoints are no longer needed."""
        registry, span = self.stores.registry, self._span
        candidate = registry.log_candidate(
            self.model.registered_name,
            self.partition,
            fitted.file.text,
            parameters={**fitted.parameters, "seed": self.model.seed},
            tags={"dagster_run_id": self.build.context.run.run_id, "trained_on": _words(span.learned)},
        )
        tracking.log_trials(registry, candidate, self.model.metric, fitted.trials)
        metadata = {
            **tracking.identity(registry, candidate.run_id, candidate.digest),
            "trained on": _words(span.training),
            "rows": fitted.rows,
            "parameters": dg.MetadataValue.json(dict(fitted.parameters)),
        }
        if span.validation:
            metadata["stopped early on"] = _words(span.validation)
        if fitted.trials:
            metadata["trials"] = _trials(fitted, self.model.metric)
        kept = kept_in_files([registry.file(candidate.run_id)])
        self.build.record(self._keys.candidate, {self.partition: kept}, {self.partition: metadata})
        tracking.log_origin(registry, candidate, self.model.signature, self._receipt)
        shutil.rmtree(self.stores.checkpoints / self.model.registered_name / self.partition, ignore_errors=True)

    def evaluate(self) -> None:
        """Judge the candidate on the holdout beside naive predictions and champion, and store the errors."""
        candidate = self._candidate
        before = self._champion_before if self.model.gate.against_champion else None
        theirs = self._file_of(before) if before is not None else None
        rows = present(self.stores.warehouse, self.lake, self.model.training_set.key, self._span.known)
        file = ModelFile.of_text(candidate.text, f"the candidate of {candidate.name} {candidate.partition}")
        found = folds.evaluate(self.model, self.partition, self._span, file, theirs, rows)
        self._write(self._keys.evaluation, self._evaluation_rows(found, before), self._shown(found))
        refused = gates.refusals(self.model.gate, self.model.metric, found.evidence)
        receipt, parameters = self._receipt, tracking.parameters(self.stores.registry, candidate.run_id)
        origin = Provenance(
            self.partition,
            candidate.digest,
            self.build.context.run.run_id,
            [f"{one.asset}@{one.partition} {one.id}" for one in receipt.inputs],
        )
        tracking.log_evaluation(
            self.stores.registry,
            candidate.run_id,
            _finite({self.model.metric: found.evidence.error, "bias": found.bias, **_baselines(found)}),
            {
                "importance.png": plots.importance(found.importance),
                "calibration.png": plots.calibration(found.calibration),
                "errors.png": plots.errors_over_time(
                    self.model.metric, errors_so_far(self.lake, TableName.of_key(self._keys.evaluation), self.partition)
                ),
            },
            model_card.model_card(self.model, self._span, parameters, found, refused, origin),
        )

    def judge(self, check: dg.AssetCheckSpec) -> dg.AssetCheckEvaluation:
        """The gate: the stored evaluation must be of this very candidate and give no reason to refuse it."""
        rows = stored(self.stores.warehouse, self.lake, self._keys.evaluation, [self.partition]).to_pylist()
        evidence = _evidence(rows)
        refused = gates.refusals(self.model.gate, self.model.metric, evidence)
        if any(row["model_digest"] != self._candidate.digest for row in rows if row["kind"] == "candidate"):
            refused = [_ANOTHER]
        shown: dict[str, Any] = {
            "errors": dg.MetadataValue.table(
                [dg.TableRecord({"method": row["method"], self.model.metric: _rounded(row["error"])}) for row in rows]
            ),
            "leaks": dg.MetadataValue.json(dict(evidence.leaks)),
        }
        if evidence.champion is not None:
            shown["against the champion"] = str(evidence.champion)
        return evaluation_of(
            evaluated_materializations(self.build.context.instance, self._keys.evaluation, [self.partition]),
            check,
            self.partition,
            passed=not refused,
            description="; ".join(refused) or "passes the gate",
            metadata=shown,
        )

    def register(self) -> None:
        """Make the candidate, which has passed the gate, the registered version of its partition."""
        registry = self.stores.registry
        version = registry.register(self._candidate)
        kept = kept_in_files([registry.file(version.run_id)])
        metadata = {
            **tracking.identity(registry, version.run_id, version.digest),
            "MLflow model": version.name,
            "MLflow version": version.version,
        }
        self.build.record(self._keys.version, {self.partition: kept}, {self.partition: metadata})

    def promote(self) -> None:
        """Let the partition's own version serve from its beginning on."""
        version = self.stores.registry.registered(self.model.registered_name, self.partition)
        before = self._champion_before
        error = _evidence(stored(self.stores.warehouse, self.lake, self._keys.evaluation, [self.partition]).to_pylist())
        reason = f"passed the gate with a {self.model.metric} of {error.error:.4g}"
        reason += f", against the champion {error.champion}" if error.champion else ", there was no champion before"
        promotion = Decision(
            bounds(self.model.calendar, self.partition)[0].astimezone(UTC),
            "promoted",
            self.partition,
            version.version,
            version.digest,
            before.version_of if before else None,
            reason,
        )
        self._decide(champion.promoted(self._decisions, promotion))

    def roll_back(self, to: str, reason: str, serves_from: datetime | None) -> None:
        """Let the version of partition `to` serve from a moment in this partition on, by default now.

        Raises:
            ChampionError: there is no such version or it never passed its gate, or the moment is not in this partition.
        """
        if to not in self.model.calendar.get_partition_keys() or to > self.partition:
            raise ChampionError(
                f"{self.model.name!r} cannot be rolled back to the version of {to!r}: that is no partition of it up to "
                f"{self.partition}"
            )
        version = self.stores.registry.registered(self.model.registered_name, to)
        starts, ends = (moment.astimezone(UTC) for moment in bounds(self.model.calendar, self.partition))
        made = self._decisions
        rollback = Decision(
            serves_from or datetime.now(UTC),
            "rolled back",
            to,
            version.version,
            version.digest,
            made[-1].version_of if made else None,
            reason,
        )
        self._decide(champion.rolled_back(made, rollback, starts, ends))

    def predict(self) -> "Predicted":
        """Ask the version that serves at the end of the partition about its entity rows; `keep` stores the answer."""
        declared = self.model.training_set
        decisions = self._decisions
        if not decisions:
            raise ChampionError(
                f"no version of {self.model.name!r} serves in {self.partition}; materialize "
                f"{self._keys.champion.to_user_string()} for it first"
            )
        serving, version = decisions[-1], self.stores.registry
        rows = questions(self.lake, declared, self.partition, self.model.calendar).to_arrow_table()
        answers = folds.answers_as_served(self.model, self._file_of(serving), rows)
        found = answers["prediction"]
        table = rows.select([*declared.keys, declared.time])
        for name, values in {
            **{name: pa.array(said, pa.float64(), from_pandas=True) for name, said in answers.items()},
            "version_of": pa.array([serving.version_of] * len(found), pa.string()),
            "model_digest": pa.array([serving.model_digest] * len(found), pa.string()),
            PARTITION_KEY: pa.array([self.partition] * len(found), pa.string()),
        }.items():
            table = table.append_column(name, values)
        url = tracking.run_url(version, version.registered(self.model.registered_name, serving.version_of).run_id)
        shown = {
            "version of": serving.version_of,
            "MLflow version": serving.version,
            "MLflow run": dg.MetadataValue.url(url),
            "sum of predictions": math.fsum(found.tolist()),
        }
        return Predicted(table, {**shown, **self._keys.columns(self._keys.predictions)})

    @cached_property
    def _keys(self) -> ProjectTables:
        return ProjectTables(self.model)

    @cached_property
    def _span(self) -> Span:
        return folds.span_of(self.model, self.partition)

    @cached_property
    def _candidate(self) -> Candidate:
        return self.stores.registry.candidate(self.model.registered_name, self.partition)

    @property
    def _receipt(self) -> Receipt:
        name = "/".join(self._keys.candidate.path)
        return self.stores.ledger.current(name, [self.partition])[self.partition]

    @property
    def _decisions(self) -> list[Decision]:
        return champion.decisions_of(self.lake, TableName.of_key(self._keys.champion), self.partition)

    @cached_property
    def _champion_before(self) -> Decision | None:
        return champion.before(self.lake, TableName.of_key(self._keys.champion), self.partition)

    def _file_of(self, decision: Decision) -> ModelFile:
        return tracking.decided_file(self.stores.registry, self.model.registered_name, decision)

    def _decide(self, decisions: list[Decision]) -> None:
        last = decisions[-1]
        shown = {
            "action": last.action,
            "reason": last.reason,
            "serves from": f"{last.serves_from:%Y-%m-%d %H:%M} UTC",
            "version of": last.version_of,
            "replaced": last.replaced or "nothing",
            "MLflow version": last.version,
        }
        self._write(self._keys.champion, champion.as_table(decisions, self.partition), shown)
        newest = champion.serving(self.lake, TableName.of_key(self._keys.champion), datetime.max.replace(tzinfo=UTC))
        assert newest is not None
        version = self.stores.registry.registered(self.model.registered_name, newest.version_of)
        # A version that was replaced since it was decided on keeps its number to itself: the alias stays where it is
        # until the champion of that partition, which is outdated now, is decided anew.
        if version.digest == newest.model_digest:
            tracking.serve(self.stores.registry, self.model.registered_name, version.version)

    def _write(self, key: dg.AssetKey, rows: pa.Table, metadata: dict[str, Any]) -> None:
        commit = Commit(self.build.context.run.run_id, key.to_user_string())
        self.stores.warehouse.replace_partitions(TableName.of_key(key), [self.partition], rows, commit)
        self.build.record_table(key, [self.partition], {self.partition: {**metadata, **self._keys.columns(key)}})

    def _evaluation_rows(self, found: Evaluation, before: Decision | None) -> pa.Table:
        evidence, against = found.evidence, found.evidence.champion
        common = {"metric": self.model.metric, "rows": found.rows, PARTITION_KEY: self.partition}
        rows: list[dict[str, Any]] = [
            {
                "method": "candidate",
                "kind": "candidate",
                "error": evidence.error,
                "bias": found.bias,
                "leaks": json.dumps(dict(evidence.leaks), sort_keys=True),
                "model_digest": self._candidate.digest,
                **(vars(against) if against else {}),
            }
        ]
        rows += [{"method": name, "kind": "baseline", "error": error} for name, error in evidence.baselines.items()]
        if before is not None:
            rows.append(
                {
                    "method": "champion",
                    "kind": "champion",
                    "error": found.champion_error,
                    "champion_of": before.version_of,
                    "model_digest": before.model_digest,
                }
            )
        return pa.Table.from_pylist([{**common, **row} for row in rows], schema=EVALUATION_SCHEMA)

    def _shown(self, found: Evaluation) -> dict[str, Any]:
        evidence = found.evidence
        errors = {"": evidence.error, **{f" {name}": error for name, error in evidence.baselines.items()}}
        shown: dict[str, Any] = {f"{self.model.metric}{name}": _rounded(error) for name, error in errors.items()}
        shown |= {"bias": _rounded(found.bias), "judged rows": found.rows}
        if evidence.champion is not None:
            shown["against the champion"] = str(evidence.champion)
        shown["MLflow run"] = dg.MetadataValue.url(tracking.run_url(self.stores.registry, self._candidate.run_id))
        return shown


def _evidence(rows: Sequence[dict[str, Any]]) -> Evidence:
    (own,) = [row for row in rows if row["kind"] == "candidate"]
    against = None
    if own["low"] is not None:
        against = Interval(own["difference"], own["low"], own["high"], own["confidence"])
    baselines = {row["method"]: row["error"] for row in rows if row["kind"] == "baseline"}
    return Evidence(own["error"], baselines, against, json.loads(own["leaks"]))


def _trials(fitted: Fitted, metric: str) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord({"trial": number, metric: _rounded(trial.error), "parameters": json.dumps(trial.parameters)})
            for number, trial in enumerate(fitted.trials)
        ]
    )


def _baselines(found: Evaluation) -> dict[str, float]:
    errors = {f"baseline_{name.replace(' ', '_')}": error for name, error in found.evidence.baselines.items()}
    return errors if found.champion_error is None else {**errors, "champion": found.champion_error}


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _rounded(value: float) -> float | str:
    """As the web UI can show it: its JSON has no word for NaN and infinity."""
    return round(value, 6) if math.isfinite(value) else str(value)


def _words(partitions: Sequence[str]) -> str:
    return partitions[0] if len(partitions) == 1 else f"{partitions[0]}..{partitions[-1]}"
