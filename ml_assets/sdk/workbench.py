"""The interactive door of the SDK: in a notebook, through the same functions, what the assets do.

Belongs here: finding rows, features and the champion for plain functions, and showing what comes of it. Not here: any
arithmetic (`folds.py`, `gates.py`), and anything that writes: what shall be kept is declared in a project and
materialized. Nothing is written into the lake, the receipts or MLflow.
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ml_assets.declaration_error import DeclarationError
from ml_assets.features.view_features import ViewFeatures
from ml_assets.features.views import FeatureService, FeatureView, OnDemandTransform, Selection
from ml_assets.sdk import champion, folds, gates, plots, stages, tracking, training_sets
from ml_assets.sdk.champion import ChampionError, Decision
from ml_assets.sdk.declarations import Model, TrainingSet
from ml_assets.sdk.folds import Evaluation, Fitted, Span
from ml_assets.sdk.gates import Interval
from ml_assets.sdk.model_file import ModelFile
from ml_assets.sdk.serving import Scorer
from ml_assets.sdk.tables import ProjectTables
from ml_assets.sdk.training_sets import TrainingDataError, require
from ml_assets.sdk.windows import upstream_keys
from resources.environment import Environment
from resources.feature_store.point_in_time import entity_rows
from resources.model_registry import ModelRegistry, RegistryError
from resources.sqlite_address import sqlite_path
from resources.warehouse import PARTITION_KEY, TableName, Warehouse, physical_partitions

if TYPE_CHECKING:
    import pandas as pd


class NoLake(LookupError):
    """There is nothing to work on; the message says where it was looked for and how to get it."""


@dataclass(frozen=True)
class Picture:
    """A plot as PNG, which a notebook shows as the value of a cell."""

    png: bytes = field(repr=False)

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True, repr=False)
class Trial:
    """A model that was fitted for one fold and is kept nowhere.

    Attributes:
        model: the declaration, or a variation of one.
        partition: the fold.
        span: what the fold knows.
        rows: of the training set, for all of `span.known`.
        fitted: the model and its parameters.
    """

    model: Model
    partition: str
    span: Span
    rows: pa.Table
    fitted: Fitted

    def __repr__(self) -> str:
        learned = f"{self.span.learned[0]}..{self.span.learned[-1]}"
        return (
            f"Trial of {self.model.registered_name} for {self.partition}: {self.model.trainer.framework}, "
            f"{len(self.model.feature_names)} features, {self.fitted.rows:,} rows of {learned}"
        )


@dataclass(frozen=True, repr=False)
class Comparison:
    """How a trial did on its holdout beside the naive predictions and a champion.

    Attributes:
        trial: what was judged.
        champion: the decision by which the champion serves; None: it was compared with none.
        evaluation: all that was measured.
        before: errors of the stored evaluations up to the fold, by method and partition.
    """

    trial: Trial
    champion: Decision | None
    evaluation: Evaluation
    before: dict[str, dict[str, float]]

    @property
    def interval(self) -> Interval | None:
        """How much worse than the champion the trial is, as a share of its error, with its paired bootstrap interval;
        None: it was compared with none.
        """
        return self.evaluation.evidence.champion

    @property
    def errors(self) -> dict[str, float]:
        """The error on the holdout by method; smaller is better."""
        found = self.evaluation
        errors = {"trial": found.evidence.error, **found.evidence.baselines}
        return errors if found.champion_error is None else {**errors, "champion": found.champion_error}

    @property
    def refusals(self) -> list[str]:
        """Why the model's gate would refuse it, each in words; it would pass when there are none."""
        return gates.refusals(self.trial.model.gate, self.trial.model.metric, self.evaluation.evidence)

    @property
    def importance(self) -> Picture:
        """How much the error grows when a feature is shuffled."""
        return Picture(plots.importance(self.evaluation.importance))

    @property
    def calibration(self) -> Picture:
        """What was predicted against what then was."""
        return Picture(plots.calibration(self.evaluation.calibration))

    @property
    def errors_over_time(self) -> Picture:
        """The error of the folds that are stored, and of the trial at its own."""
        own = {"trial": {self.trial.partition: self.evaluation.evidence.error}}
        return Picture(plots.errors_over_time(self.trial.model.metric, {**self.before, **own}))

    def __repr__(self) -> str:
        return f"{self.trial!r}; {', '.join(f'{name} {error:.4f}' for name, error in self.errors.items())}"

    def _repr_markdown_(self) -> str:
        model, found = self.trial.model, self.evaluation
        named = f" (the version of {self.champion.version_of})" if self.champion else ""
        rows = [f"| {name}{named if name == 'champion' else ''} | {error:.4f} |" for name, error in self.errors.items()]
        refused = f"refuse it: {'; '.join(self.refusals)}" if self.refusals else "let it pass"
        lines = [
            f"**{model.registered_name}, {self.trial.partition}**, judged on {found.rows:,} rows of "
            f"{', '.join(self.trial.span.holdout)}",
            "",
            f"| method | {model.metric} |",
            "|---|---|",
            *rows,
            "",
            *([f"- Against the champion, where below zero is better: {self.interval}"] if self.interval else []),
            f"- Sum of predictions over sum of labels: {found.bias:.3f}",
            f"- By this comparison the gate would {refused}",
        ]
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class Workbench:
    """An environment, to be read: its tables and features, its champions, and folds that are fitted for a look."""

    environment: Environment
    warehouse: Warehouse
    registry: ModelRegistry

    @classmethod
    def open(cls, environment: Environment | None = None) -> "Workbench":
        """The workbench over `environment`; over the process's own one, unless given.

        Raises:
            NoLake: it has no lake yet.
            LakeError: its catalog cannot be read.
        """
        environment = environment or Environment.current()
        place = Path(environment.lake_catalog.removeprefix("sqlite:"))
        if environment.catalog == "sqlite" and not place.exists():
            raise NoLake(
                f"there is no lake in {environment.home}; run make demo, which fills one, or set HEADWATER_HOME to the "
                "folder that has one"
            )
        warehouse = Warehouse.of(environment)
        # Attaching the lake itself would make a catalog in a database without one.
        with warehouse.catalog_reader():
            return cls(environment, warehouse, ModelRegistry.of(environment))

    def __repr__(self) -> str:
        return f"Workbench on {self.environment.name} in {self.environment.home}, which it only reads"

    def query(self, sql: str) -> "pd.DataFrame":
        """The answer of `sql`; a table is `lake.<team>.<entity>`. Times are in UTC.

        Raises:
            duckdb.Error: the query is wrong, or would write into the lake.
        """
        with self.warehouse.reader() as lake:
            return lake.execute(sql).df()

    def partitions(self, key: dg.AssetKey) -> list[str]:
        """The partitions of the table of asset `key` that have rows, in order."""
        return list(self.warehouse.partitions(TableName.of_key(key)))

    def features(self, rows: "pd.DataFrame", *asked: FeatureView | Selection | FeatureService) -> "pd.DataFrame":
        """`rows` with declared features, each as it was known at the time of its row.

        Args:
            rows: one for each question, with the keys of what is asked, and its time in `event_timestamp` or in the
                only column that has times; a time without a zone is in UTC. A service's transforms also read the
                fields of their request.
            asked: views, selections of their features, or services; no view twice.

        Returns:
            As many rows in the same order, under the same index: the columns of `rows`, the features, those that
            transforms compute last, and for each view `<view>_known_at`, the time at which its values were known. A
            view's values are null where no row of it counts.

        Raises:
            DeclarationError: a view is asked for twice, a mart is not as declared, or a request's field is missing.
            FeatureError: the rows lack a key or a time, or lie in the future.
            MissingPartition: a mart lacks a partition that may hold a value; the message says what to build.
        """
        features = _view_features(asked)
        for transform in features.transforms:
            for one in transform.request.fields:
                if one.name not in rows.columns:
                    raise DeclarationError(
                        f"{transform.output.name!r} is computed from a request: give the rows a column {one.name!r} "
                        f"({one.description})"
                    )
        with self.warehouse.reader() as lake:
            given = lake.from_arrow(pa.Table.from_pandas(rows, preserve_index=False))
            times = entity_rows(lake, given, not_after=datetime.now(UTC))
            if times.first is not None and times.last is not None:
                for view in _views(features):
                    require(lake, view.source_key, view.reached(times.first, times.last))
            found = features.join(lake, given).to_arrow_table()
        chosen = found.select([*rows.columns, *features.columns, *dict.fromkeys(features.known_at.values())])
        return chosen.to_pandas().set_index(rows.index)

    def stored_rows(self, declared: TrainingSet, partitions: Sequence[str]) -> pa.Table:
        """The rows of a training set's asset: keys, time, features, when these were known, label and partition_key.

        They come in no order; folds put them into one.

        Raises:
            MissingPartition: the lake lacks some of `partitions`; the message names them and what to build.
            TrainingDataError: the table lacks a column that is declared.
        """
        with self.warehouse.reader() as lake:
            rows = stages.stored(self.warehouse, lake, declared.key, partitions)
        columns = [*declared.keys, declared.time, *declared.features.columns, declared.label]
        missing = [name for name in columns if name not in rows.column_names]
        if missing:
            raise TrainingDataError(
                f"{declared.key.to_user_string()} was built without {', '.join(missing)}, which the declaration has; "
                "take the rows of computed_rows, or materialize these partitions again"
            )
        return rows

    def computed_rows(self, declared: TrainingSet, partitions: Sequence[str]) -> pa.Table:
        """The rows that a training set's asset would store, computed now; it need not be an asset yet.

        Raises:
            MissingPartition: a table that is read lacks a partition; the message says what to build.
            TrainingDataError: no model may learn from these rows; the message says why.
        """
        with self.warehouse.reader() as lake:
            for partition in partitions:
                _require_views(lake, declared, partition)
            return pa.concat_tables([training_sets.labelled(lake, declared, one) for one in partitions])

    def champion(self, model: Model, moment: datetime | None = None) -> Decision:
        """The decision by which a version of `model` serves at `moment`, by default now.

        Raises:
            ChampionError: none serves then; the message says what to build.
            ValueError: `moment` has no zone.
        """
        moment = moment or datetime.now(UTC)
        key = ProjectTables(model).champion
        with self.warehouse.reader() as lake:
            decision = champion.serving(lake, TableName.of_key(key), moment)
        if decision is None:
            raise ChampionError(
                f"{model.registered_name} has no champion at {moment:%Y-%m-%d %H:%M %Z}; run make demo, or materialize "
                f"the partitions of {key.to_user_string()} and of what it needs"
            )
        return decision

    def served(self, models: Iterable[Model]) -> list[Model]:
        """Those of `models` that have a champion.

        Raises:
            ChampionError: none has; the message names them and what to build.
        """
        models = list(models)
        with self.warehouse.reader() as lake:
            found = [
                model for model in models if physical_partitions(lake, TableName.of_key(ProjectTables(model).champion))
            ]
        if not found:
            names = ", ".join(model.registered_name for model in models) or "none is declared"
            raise ChampionError(
                f"no declared model ({names}) has a champion in {self.environment.home}; run make demo, or materialize "
                "the folds of one"
            )
        return found

    def scorer(self, model: Model, moment: datetime | None = None) -> Scorer:
        """The version of `model` that serves at `moment`, by default now, to score single rows.

        Raises:
            ChampionError: none serves then, or its file has been replaced since.
            DeclarationError: the model is not declared for online use.
            RegistryError: its file is gone or was changed.
        """
        moment = moment or datetime.now(UTC)
        self.champion(model, moment)
        return Scorer.of_champion(model, self.warehouse, self._opened_registry(), moment)

    def fit(self, model: Model, partition: str, rows: pa.Table | None = None) -> Trial:
        """Fit a declared model, or a variation of one, for one fold; nothing is registered or kept.

        A variation is `dataclasses.replace(model, …)`; with the name kept, its champion is found.

        Args:
            model: what to fit.
            partition: the fold: what is known when it begins is learned from.
            rows: of the training set, e.g. of `computed_rows`; the stored ones, unless given.

        Raises:
            MissingPartition: the training set's asset lacks a partition that the fold knows.
            TrainingDataError: the fold knows too few partitions, `rows` lack one, or there is nothing to learn from.
        """
        span = folds.span_of(model, partition)
        if rows is None:
            rows = self.stored_rows(model.training_set, span.known)
        missing = sorted(set(span.known) - set(pc.unique(rows[PARTITION_KEY]).to_pylist()))
        if missing:
            raise TrainingDataError(
                f"model {model.name!r} {partition}: the rows have none of {', '.join(missing)}, which the fold knows; "
                "compute them too, or shorten the window"
            )
        with tempfile.TemporaryDirectory() as checkpoints:
            fitted = folds.fit(model, partition, span, rows, Path(checkpoints))
        return Trial(model, partition, span, rows, fitted)

    def evaluate(self, trial: Trial, against: Decision | None = None) -> Comparison:
        """Judge a trial on its holdout beside the naive predictions and a champion.

        Args:
            trial: of `fit`.
            against: of `champion`; unless given, the one that served before the fold began, as the gate has it, and
                none where the model's gate says `against_champion=False`.

        Raises:
            ChampionError: there is none, it knew the holdout, or its file has been replaced since.
            RegistryError: its file is gone or was changed.
            TrainingDataError: the holdout has no rows.
        """
        model, partition = trial.model, trial.partition
        tables = ProjectTables(model)
        with self.warehouse.reader() as lake:
            if against is None and model.gate.against_champion:
                against = champion.before(lake, TableName.of_key(tables.champion), partition)
                if against is None:
                    raise ChampionError(
                        f"{model.registered_name} had no champion before {partition}; keep the declared model's name "
                        "in a variation, evaluate a later fold, name another champion in `against`, or compare with "
                        "none by `Gate(against_champion=False)`"
                    )
            before = stages.errors_so_far(lake, TableName.of_key(tables.evaluation), partition)
        if against is not None and against.version_of > partition:
            raise ChampionError(
                f"the version of {against.version_of} has learned from what the fold {partition} is judged on; compare "
                f"in fold {against.version_of} or a later one, or with an earlier champion"
            )
        theirs = None if against is None else self._file_of(model, against)
        found = folds.evaluate(model, partition, trial.span, trial.fitted.file, theirs, trial.rows)
        return Comparison(trial, against, found, before)

    def _file_of(self, model: Model, decision: Decision) -> ModelFile:
        return tracking.decided_file(self._opened_registry(), model.registered_name, decision)

    def _opened_registry(self) -> ModelRegistry:
        """The registry, if it is there: MLflow would create the database that it does not find."""
        place = sqlite_path(self.registry.uri)
        if place is not None and not place.exists():
            raise RegistryError(f"{place} is gone, and the champion's file with it; materialize the candidates again")
        return self.registry


def _view_features(asked: Sequence[FeatureView | Selection | FeatureService]) -> ViewFeatures:
    """What is asked for as features of a training set, which are joined in the same way."""
    selections: list[Selection] = []
    transforms: list[OnDemandTransform] = []
    for one in asked:
        if isinstance(one, FeatureView):
            selections.append(one.select())
        elif isinstance(one, Selection):
            selections.append(one)
        else:
            selections += one.selections
            transforms += one.transforms
    return ViewFeatures(tuple(selections), tuple(transforms))


def _views(features: ViewFeatures) -> list[FeatureView]:
    """Every view that is read, by transforms too."""
    read = [*features.selections, *(transform.reads for transform in features.transforms)]
    return list(dict.fromkeys(selection.view for selection in read))


def _require_views(lake: duckdb.DuckDBPyConnection, declared: TrainingSet, partition: str) -> None:
    """Refuse marts that lack a partition: for an asset the Partition Checker does, before it is computed."""
    if not isinstance(declared.features, ViewFeatures):
        return
    mappings = {dep.asset_key: dep.partition_mapping for dep in declared.features.deps}
    for view in _views(declared.features):
        mapping = mappings[view.source_key]
        assert isinstance(mapping, dg.TimeWindowPartitionMapping)
        reached = upstream_keys(declared.calendar, partition, view.calendar, mapping.start_offset, mapping.end_offset)
        require(lake, view.source_key, reached)
