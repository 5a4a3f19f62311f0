"""One fold of a walk-forward backtest as plain functions: fit, evaluate, predict.

Belongs here: what happens to rows. Not here: where rows and models are kept, Dagster (`stages.py`).

A fold is a partition of the model. It learns from the partitions that its window names, all of which had ended when it
began; so backfilling a model's partitions is the backtest, and the fold of tomorrow is made by the same code.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml_assets.sdk import search
from ml_assets.sdk.declarations import Model
from ml_assets.sdk.gates import Evidence, paired_interval
from ml_assets.sdk.metrics import Floats
from ml_assets.sdk.model_file import ModelFile, ModelMismatch
from ml_assets.sdk.search import Trial
from ml_assets.sdk.trainers.frameworks import reader_of
from ml_assets.sdk.trainers.trainer import (
    Checkpoint,
    DetailedTrainer,
    Examples,
    Parameters,
    TrainedModel,
    Trainer,
    Training,
    details_of,
    opened,
)
from ml_assets.sdk.training_sets import TrainingDataError, leaks, matrix
from ml_assets.sdk.windows import upstream_keys
from resources.warehouse import PARTITION_KEY

_BINS = 10
_IMPORTANCE_ROWS = 2_000
"""Rows that importance is measured on at most: it predicts once a feature."""


@dataclass(frozen=True)
class Span:
    """The partitions of the training set that a fold knows, in order."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    holdout: tuple[str, ...]

    @property
    def learned(self) -> tuple[str, ...]:
        """What training may look at: all but the holdout."""
        return (*self.training, *self.validation)

    @property
    def known(self) -> tuple[str, ...]:
        """All of it."""
        return (*self.learned, *self.holdout)


@dataclass(frozen=True)
class Fitted:
    """A trained model and how it came to be."""

    file: ModelFile
    parameters: Parameters
    rows: int
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class CalibrationBin:
    """Rows of similar prediction: the mean of what was predicted, and of what then was."""

    predicted: float
    observed: float
    rows: int


@dataclass(frozen=True)
class Evaluation:
    """How a candidate did on its holdout partitions, beside the naive predictions and the champion.

    `bias` is the sum of the predictions over the sum of the labels; NaN where that is zero. `importance` is how much
    the error grows when a feature's values are shuffled, as a share of the error.
    """

    evidence: Evidence
    rows: int
    bias: float
    champion_error: float | None
    calibration: tuple[CalibrationBin, ...]
    importance: Mapping[str, float]


def span_of(model: Model, partition: str) -> Span:
    """What the fold `partition` knows.

    Raises:
        TrainingDataError: the training set has too few partitions before it.
    """
    window, calendar = model.window, model.training_set.calendar
    keys = upstream_keys(model.calendar, partition, calendar, -window.reads, -1)
    learned = len(keys) - window.validation - window.holdout
    if learned < 1:
        raise TrainingDataError(
            f"model {model.name!r} {partition}: {model.training_set.key.to_user_string()} has {len(keys)} "
            f"partitions before it, and validation and holdout take {window.validation + window.holdout}; let the "
            "model's calendar start later"
        )
    ends = learned + window.validation
    return Span(tuple(keys[:learned]), tuple(keys[learned:ends]), tuple(keys[ends:]))


def fit(model: Model, partition: str, span: Span, rows: pa.Table, checkpoints: Path) -> Fitted:
    """Search for parameters if that is declared, and train; safe to call from several threads.

    Args:
        model: the declaration.
        partition: the fold.
        span: from `span_of`.
        rows: of the training set; those of other partitions than `span.learned` are not looked at.
        checkpoints: folder in which an interrupted fit finds what it had done.

    Raises:
        TrainingDataError: there are no rows to learn from, or only one class.
    """
    learned = _Learned.of(model, span, rows)
    training = learned.examples_of(span.training)
    validation = learned.examples_of(span.validation) if span.validation else None
    _refuse_unlearnable(model, partition, span, training)
    if validation is not None and not len(validation.labels):
        raise TrainingDataError(
            f"model {model.name!r} {partition}: no rows in {', '.join(span.validation)} to stop early on; build these "
            f"partitions of {model.training_set.key.to_user_string()}, or validate on more of them"
        )
    folder = checkpoints / _content_id(model, span, learned.examples)
    trials: list[Trial] = []
    parameters: Parameters = model.trainer.parameters
    if model.search is not None:
        judge = _Splits(model, span, learned, folder).error
        trials = search.trials_of(model.search, judge, model.seed, Checkpoint(folder / "trials.json"))
        parameters = {**parameters, **search.best(trials).parameters}
    checkpoint = Checkpoint(folder / "final")
    trained = model.trainer.fit(Training(training, validation, model.signature, parameters, model.seed, checkpoint))
    file = ModelFile(model.trainer.framework, model.signature, model.trainer.save(trained))
    return Fitted(file, parameters, len(training.labels), tuple(trials))


def predict(model: Model, file: ModelFile, rows: pa.Table) -> Floats:
    """One prediction for each of `rows`, which have the model's features.

    Raises:
        ModelMismatch: the file is not one of this declaration.
        TrainingDataError: a prediction is NaN or infinite.
    """
    trained = opened(model.trainer, file, model.signature, _rebuild(model))
    return _usable(model, model.trainer.predict(trained, matrix(rows, model.feature_names)))


def predict_as_served(model: Model, file: ModelFile, rows: pa.Table) -> Floats:
    """One prediction for each of `rows` by a version that may be older than the declaration.

    It may be of another framework that ships, and read other features, as long as the training set still has them.

    Raises:
        ModelMismatch: the training set lacks a feature of it, or the file does not match itself.
        TrainingDataError: a prediction is NaN or infinite.
    """
    trainer, trained = _served(model, file)
    return _usable(model, trainer.predict(trained, matrix(rows, file.signature.features)))


def answers_as_served(model: Model, file: ModelFile, rows: pa.Table) -> dict[str, Floats]:
    """`predict_as_served` as `prediction`, and all else that such a version says of each of `rows`.

    Every column that the declared trainer gives is there; NaN where the version has it not.

    Raises:
        ModelMismatch, TrainingDataError: as `predict_as_served`.
    """
    trainer, trained = _served(model, file)
    features = matrix(rows, file.signature.features)
    prediction = _usable(model, trainer.predict(trained, features))
    said = trainer.detail(trained, features) if isinstance(trainer, DetailedTrainer) else {}
    unsaid = np.full(rows.num_rows, np.nan)
    return {"prediction": prediction, **{name: said.get(name, unsaid) for name in details_of(model.trainer)}}


def evaluate(
    model: Model, partition: str, span: Span, file: ModelFile, champion: ModelFile | None, rows: pa.Table
) -> Evaluation:
    """Judge the model in `file` on the holdout partitions, with the naive predictions and the champion beside it.

    Args:
        model: the declaration.
        partition: the fold.
        span: from `span_of`.
        file: the candidate.
        champion: the model that served before the fold, if any did.
        rows: of the training set, for all of `span.known`; leaks are looked for in all of them.

    Raises:
        TrainingDataError: the holdout has no rows.
    """
    judged = rows.take(_places(rows, span.holdout, model))
    if not judged.num_rows:
        raise TrainingDataError(
            f"model {model.name!r} {partition}: {', '.join(span.holdout)} have no rows to judge a candidate by; "
            f"look at {model.training_set.key.to_user_string()}"
        )
    labels, metric = _labels(model, judged), model.measure
    predicted = predict(model, file, judged)
    interval, champion_error = None, None
    if champion is not None:
        theirs = predict_as_served(model, champion, judged)
        champion_error = metric.of(labels, theirs)
        interval = paired_interval(metric, labels, predicted, theirs, _entities(model, judged), model.gate, model.seed)
    naive = {name: metric.of(labels, matrix(judged, [feature])[:, 0]) for name, feature in model.gate.beats.items()}
    error, total = metric.of(labels, predicted), math.fsum(labels.tolist())
    return Evaluation(
        Evidence(error, naive, interval, leaks(rows, model.training_set, model.feature_names)),
        judged.num_rows,
        math.fsum(predicted.tolist()) / total if total else math.nan,
        champion_error,
        _calibration(labels, predicted),
        _importance(model, file, judged, labels),
    )


@dataclass(frozen=True)
class _Learned:
    """What a fold learns from, in order of time, as one matrix: the examples of some partitions are a slice of it."""

    ends: Mapping[str, int]
    examples: Examples

    @classmethod
    def of(cls, model: Model, span: Span, rows: pa.Table) -> "_Learned":
        """The rows of `span.learned`, each partition with the place after its last row."""
        places = _places(rows, span.learned, model)
        counts = {one["values"]: one["counts"] for one in pc.value_counts(rows[PARTITION_KEY]).to_pylist()}
        ends = itertools.accumulate(counts.get(partition, 0) for partition in span.learned)
        # The rows are most of a fold's memory: they are not copied as a table first.
        features = matrix(rows, model.feature_names, places)
        return cls(dict(zip(span.learned, ends, strict=True)), Examples(features, _labels(model, rows)[places]))

    def examples_of(self, partitions: Sequence[str]) -> Examples:
        """Those of neighbouring partitions."""
        places = list(self.ends)
        first = places.index(partitions[0])
        rows = slice(self.ends[places[first - 1]] if first else 0, self.ends[partitions[-1]])
        return Examples(self.examples.features[rows], self.examples.labels[rows])


@dataclass(frozen=True)
class _Splits:
    """How one set of parameters of a search is judged: trained on what comes before, judged on what comes next."""

    model: Model
    span: Span
    learned: "_Learned"
    folder: Path

    def error(self, parameters: Parameters) -> float:
        model, known = self.model, self.span.learned
        assert model.search is not None
        given = {**model.trainer.parameters, **parameters}
        errors = []
        for at in range(len(known) - model.search.splits, len(known)):
            training, judged = self.learned.examples_of(known[:at]), self.learned.examples_of(known[at : at + 1])
            name = hashlib.sha256(json.dumps([known[at], given], sort_keys=True).encode()).hexdigest()[:16]
            stops_early = judged if self.span.validation else None
            trained = model.trainer.fit(
                Training(training, stops_early, model.signature, given, model.seed, Checkpoint(self.folder / name))
            )
            errors.append(model.measure.of(judged.labels, model.trainer.predict(trained, judged.features)))
        mean = float(np.mean(errors))
        return mean if math.isfinite(mean) else math.inf


def _served(model: Model, file: ModelFile) -> tuple[Trainer, TrainedModel]:
    lost = [name for name in file.signature.features if name not in model.training_set.features.columns]
    if lost or file.signature.task != model.training_set.task:
        raise ModelMismatch(
            f"model {model.name!r}: an earlier version cannot be asked about "
            f"{model.training_set.key.to_user_string()}, which lacks {', '.join(lost) or 'its task'}. Keep that "
            "until the version is replaced as champion, or declare `Gate(against_champion=False)` for the partition "
            "that replaces it"
        )
    trainer = reader_of(file.framework, model.trainer)
    return trainer, opened(trainer, file, file.signature, _rebuild(model))


def _usable(model: Model, found: Floats) -> Floats:
    if not np.isfinite(found).all():
        raise TrainingDataError(
            f"model {model.name!r}: {int((~np.isfinite(found)).sum())} of {len(found)} predictions are NaN or "
            "infinite; look at the features of these rows and at the trainer's settings"
        )
    return found.clip(min=0.0) if model.not_negative else found


def _rebuild(model: Model) -> str:
    return f"materialize {model.team}/{model.name}_candidate again"


def _places(rows: pa.Table, partitions: tuple[str, ...], model: Model) -> NDArray[np.int64]:
    """Where the rows of some partitions are, in an order that does not depend on how they are stored."""
    chosen = np.flatnonzero(pc.is_in(rows[PARTITION_KEY], pa.array(partitions, pa.string())).to_numpy())
    order = [PARTITION_KEY, model.training_set.time, *model.training_set.keys]
    within = pc.sort_indices(rows.select(order).take(chosen), [(name, "ascending") for name in order])
    return np.asarray(chosen[within.to_numpy()])


def _labels(model: Model, rows: pa.Table) -> Floats:
    return np.asarray(rows[model.training_set.label].to_numpy(), dtype=np.float64)


def _refuse_unlearnable(model: Model, partition: str, span: Span, examples: Examples) -> None:
    where = f"model {model.name!r} {partition}: {model.training_set.key.to_user_string()}"
    spanned = f"{span.training[0]}..{span.training[-1]}"
    if not len(examples.labels):
        raise TrainingDataError(f"{where} has no rows in {spanned}; look at its entity rows and labels there")
    if not np.isfinite(examples.labels).all():
        raise TrainingDataError(f"{where} has NaN or infinite labels in {spanned}; build these partitions again")
    if model.training_set.task == "binary" and np.ptp(examples.labels) == 0:
        raise TrainingDataError(
            f"{where} has only the class {examples.labels[0]:g} in {spanned}; lengthen the window, or correct the "
            "labels"
        )


def _entities(model: Model, rows: pa.Table) -> NDArray[np.int64]:
    """A number for each row, equal where all keys are."""
    entities = np.zeros(rows.num_rows, np.int64)
    for name in model.training_set.keys:
        codes = rows[name].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        _, entities = np.unique(np.stack([entities, codes]), axis=1, return_inverse=True)
    return entities


def _calibration(labels: Floats, predicted: Floats) -> tuple[CalibrationBin, ...]:
    """Bins of equally many rows, by what was predicted."""
    bins = np.array_split(np.argsort(predicted, kind="stable"), min(_BINS, len(labels)))
    return tuple(CalibrationBin(float(predicted[at].mean()), float(labels[at].mean()), len(at)) for at in bins)


def _importance(model: Model, file: ModelFile, rows: pa.Table, labels: Floats) -> dict[str, float]:
    """Permutation importance (Breiman 2001; Fisher, Rudin and Dominici 2019), the same for every framework."""
    trained = opened(model.trainer, file, model.signature, _rebuild(model))
    features, step = matrix(rows, model.feature_names), -(-len(labels) // _IMPORTANCE_ROWS)
    features, labels = features[::step], labels[::step]
    error = model.measure.of(labels, model.trainer.predict(trained, features))
    found = {}
    for at, name in enumerate(model.feature_names):
        shuffled = features.copy()
        shuffled[:, at] = np.random.default_rng([model.seed, at]).permutation(shuffled[:, at])
        worse = model.measure.of(labels, model.trainer.predict(trained, shuffled))
        found[name] = worse / error - 1 if error else 0.0
    return found


def _content_id(model: Model, span: Span, examples: Examples) -> str:
    """Names everything that decides the model, so that a checkpoint is only found by the very same training."""
    digest = hashlib.sha256()
    digest.update(repr((span, model.trainer, model.search, model.signature, model.seed, model.metric)).encode())
    digest.update(np.ascontiguousarray(examples.features).data)
    digest.update(np.ascontiguousarray(examples.labels).data)
    return digest.hexdigest()[:32]
