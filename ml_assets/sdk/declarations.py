"""The declarations of an ML project: what a team writes, and all it has to write.

Belongs here: frozen data with its checks. Not here: turning it into assets (`assets.py`), computing anything.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import dagster as dg

from ml_assets.declaration_error import DeclarationError
from ml_assets.features.source import FeatureSource
from ml_assets.sdk.metrics import METRICS, Metric
from ml_assets.sdk.model_file import Signature
from ml_assets.sdk.trainers.trainer import Parameter, Task, Trainer
from ml_assets.sdk.windows import Calendar, Reads, merged

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NUMBERS = re.compile(r"(U?(TINYINT|SMALLINT|INTEGER|BIGINT)|FLOAT|DOUBLE|BOOLEAN)", re.IGNORECASE)


@dataclass(frozen=True)
class Query:
    """A query that sees nothing of the lake but what it declares to read.

    Attributes:
        sql: a `select` over the names of `reads`, and over `asked`, which has one row: the partition that is computed,
            as `partition_key`, `starts_at` and `ends_at` (TIMESTAMPTZ).
        reads: by the name in the query, which partitions of which table that name stands for.
    """

    sql: str
    reads: Mapping[str, Reads]


@dataclass(frozen=True)
class TrainingSet:
    """Labelled rows: who or what is asked about when, the features known then, and what then happened.

    Attributes:
        team: asset key prefix and owner.
        name: the asset is `<team>/<name>_training_set`.
        description: what one row is.
        calendar: its partitions; a label is known when its partition has ended. It may not reach past what `labels`
            reads; the model's calendar may, as predictions need no labels.
        keys: the columns that, with the time, tell rows apart.
        time: column of the entity rows' times, which lie in their partition.
        entity_rows: gives `keys` and `time`, and what the features' transforms ask with; also asked for predictions,
            when there are no labels yet.
        labels: gives `keys`, `time` and `label`.
        label: column of the label; 0 or 1 for a binary task.
        unlabelled: label of an entity row that `labels` says nothing of; None: it is left out.
        features: where the features come from.
        task: what is predicted.
    """

    team: str
    name: str
    description: str
    calendar: Calendar
    keys: tuple[str, ...]
    time: str
    entity_rows: Query
    labels: Query
    label: str
    features: FeatureSource
    unlabelled: float | None = None
    task: Task = "regression"

    def __post_init__(self) -> None:
        """Refuse leaking labels, features that are no numbers, names that clash, and a calendar past the labels.

        Raises:
            DeclarationError: names the column and what to do.
        """
        _refuse_name("training set", self.name)
        columns = self.features.columns
        if self.label in columns:
            raise DeclarationError(
                f"training set {self.name!r}: the label {self.label!r} is also a feature, so that a model would "
                "read the answer; take it out of the features"
            )
        if self.label in self.features.request:
            raise DeclarationError(
                f"training set {self.name!r}: a feature is computed from the label {self.label!r}, so that a model "
                "would read the answer; compute it from what is known when it is asked for"
            )
        for name, kind in columns.items():
            if not _NUMBERS.fullmatch(kind):
                raise DeclarationError(
                    f"training set {self.name!r}: feature {name!r} is {kind}; encode it as a number or BOOLEAN"
                )
            if name in (*self.keys, self.time):
                raise DeclarationError(f"training set {self.name!r}: feature {name!r} is also a key or the time")
        undated = [name for name in columns if name not in self.features.known_at]
        if undated:
            raise DeclarationError(
                f"training set {self.name!r}: of {', '.join(undated)} the feature source does not say when it was "
                "known, so no leak could be found; add it to `known_at`"
            )
        for read in self.labels.reads.values():
            if why := read.reaches_past(self.calendar):
                raise DeclarationError(
                    f"training set {self.name!r}: its calendar reaches past its labels: {read.table.to_user_string()} "
                    f"{why}. Rows without labels would teach that nothing happened: let the training set's calendar "
                    "end with what its labels read (leave `ahead` out), and let the model's calendar reach ahead"
                )

    @property
    def key(self) -> dg.AssetKey:
        """The asset's key."""
        return dg.AssetKey([self.team, f"{self.name}_training_set"])

    @property
    def question_deps(self) -> list[dg.AssetDep]:
        """What entity rows and features read."""
        return merged([*(read.dep for read in self.entity_rows.reads.values()), *self.features.deps])

    @property
    def deps(self) -> list[dg.AssetDep]:
        """What entity rows, features and labels read."""
        return merged([*self.question_deps, *(read.dep for read in self.labels.reads.values())])


@dataclass(frozen=True)
class Window:
    """Which partitions a fold knows. Those before it, in order: training, validation, holdout.

    Attributes:
        training: partitions that are learned from.
        validation: partitions that training stops early on; taken of the end, never of the middle.
        holdout: the last known partitions, which the candidate is judged on.
    """

    training: int
    validation: int = 0
    holdout: int = 1

    def __post_init__(self) -> None:
        """Refuse a fold that learns from nothing or is judged by nothing.

        Raises:
            DeclarationError: names the setting.
        """
        if self.training < 1 or self.holdout < 1 or self.validation < 0:
            raise DeclarationError("a window needs at least one training and one holdout partition")

    @property
    def reads(self) -> int:
        """How many partitions back a fold looks."""
        return self.training + self.validation + self.holdout


@dataclass(frozen=True)
class Real:
    """A parameter between `low` and `high`, searched on a logarithmic scale if so said."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Whole:
    """A whole-numbered parameter from `low` to `high`."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class OneOf:
    """A parameter that is one of `options`."""

    options: tuple[Parameter, ...]


Range: TypeAlias = Real | Whole | OneOf


@dataclass(frozen=True)
class Search:
    """A search for parameters within each fold, judged on what that fold knows.

    Attributes:
        space: the parameters to vary.
        trials: how many to try.
        splits: each trial is trained so many times, each on what comes before one of the last known partitions but the
            holdout, and judged on that partition; where the window has a validation, it is also stopped early on it.
    """

    space: Mapping[str, Range]
    trials: int = 20
    splits: int = 2


@dataclass(frozen=True)
class Gate:
    """What a candidate must pass to be registered. That none of its features is newer than its row is always asked.

    Attributes:
        beats: naive predictions that it must beat, each with the feature that is that prediction.
        at_most: the error that it may have at most.
        against_champion: compare it with the champion, if there is one.
        tolerance: how much worse than the champion it may be, as a share of the champion's error. It is refused when
            even the low end of the interval of its extra error is above that.
        must_improve: refuse it unless the whole interval lies below zero.
        confidence: of the interval, which comes from a paired bootstrap over entities.
        resamples: how many.
    """

    beats: Mapping[str, str] = field(default_factory=dict)
    at_most: float | None = None
    against_champion: bool = True
    tolerance: float = 0.0
    must_improve: bool = False
    confidence: float = 0.95
    resamples: int = 1000


@dataclass(frozen=True)
class Monitor:
    """What is watched once the labels of predictions are there; a failed check warns.

    Attributes:
        psi: population stability index above which a feature, the label or the prediction has drifted.
        reference: partitions before, that it is compared with.
        unwatched: features whose drift says nothing, as they change by their nature: the calendar's, say.
        minimum_rows: fewer on either side are not judged: deciles of few rows say more about chance than about drift.
        error_ratio: how many times its error in the evaluation the model's error may be.
    """

    psi: float = 0.25
    reference: int = 4
    unwatched: tuple[str, ...] = ()
    minimum_rows: int = 500
    error_ratio: float = 1.5


@dataclass(frozen=True)
class Model:
    """A model that is trained anew for each partition on what was known when that began.

    Attributes:
        name: the assets are `<team>/<name>_candidate`, `_evaluation`, `_version`, `_champion`, `_predictions`,
            `_monitor`.
        description: what it predicts.
        training_set: what it learns from.
        trainer: the framework and its settings.
        calendar: its partitions, of the training set's lengths.
        window: which partitions a fold knows.
        metric: name of the error measure.
        gate: what a candidate must pass.
        features: those of the training set that it reads, in order; None: all.
        search: a search for parameters; None: the trainer's own are used.
        monitor: what is watched of its predictions; None: nothing. Needs `batch`.
        batch: predictions are an asset.
        online: its champion may be asked for single rows (`serving.py`).
        not_negative: predictions below zero become zero.
        seed: the only source of chance.
    """

    name: str
    description: str
    training_set: TrainingSet
    trainer: Trainer
    calendar: Calendar
    window: Window
    metric: str
    gate: Gate = Gate()
    features: tuple[str, ...] | None = None
    search: Search | None = None
    monitor: Monitor | None = Monitor()
    batch: bool = True
    online: bool = False
    not_negative: bool = False
    seed: int = 7

    def __post_init__(self) -> None:
        """Refuse names that are not declared.

        Raises:
            DeclarationError: names the entry, the closest that there is, and what is allowed.
        """
        _refuse_name("model", self.name)
        if self.metric not in METRICS:
            raise DeclarationError(f"model {self.name!r}: {unknown('metric', self.metric, METRICS)}")
        unwatched = self.monitor.unwatched if self.monitor else ()
        for name in (*(self.features or ()), *self.gate.beats.values(), *unwatched):
            if name not in self.training_set.features.columns:
                found = unknown("feature", name, self.training_set.features.columns)
                raise DeclarationError(f"model {self.name!r}: {found} of training set {self.training_set.name!r}")
        if len(set(self.feature_names)) < len(self.feature_names):
            raise DeclarationError(f"model {self.name!r}: a feature is named twice")
        if self.search and self.search.splits >= self.window.training + self.window.validation:
            raise DeclarationError(
                f"model {self.name!r}: a search with {self.search.splits} splits needs more than so many partitions "
                "before the holdout; lengthen the window or take fewer splits"
            )

    @property
    def team(self) -> str:
        """The team of its training set."""
        return self.training_set.team

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features that it reads, in order."""
        return self.features if self.features is not None else tuple(self.training_set.features.columns)

    @property
    def signature(self) -> Signature:
        """What a model file of it must say."""
        return Signature(self.feature_names, self.training_set.task)

    @property
    def measure(self) -> Metric:
        """The error measure."""
        return METRICS[self.metric]

    @property
    def registered_name(self) -> str:
        """Its name in MLflow."""
        return f"{self.team}.{self.name}"


def unknown(kind: str, name: str, allowed: Iterable[str]) -> str:
    """The words for a `name` that is not among those allowed."""
    known = list(allowed)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown {kind} {name!r}{hint}; there are {', '.join(known) or 'none'}"


def _refuse_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise DeclarationError(
            f"{kind} {name!r}: a name is part of assets, tables and folders; give lower-case letters, digits and _"
        )
