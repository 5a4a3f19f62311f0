"""What a framework must bring to be trained by the SDK: the protocol, and what passes through it.

Belongs here: the protocol. Not here: any framework (`lightgbm.py`, `sklearn.py`, `torch.py`).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from ml_assets.sdk.metrics import Floats
from ml_assets.sdk.model_file import ModelFile, ModelMismatch, Signature

Task: TypeAlias = Literal["regression", "binary"]
"""What is predicted: a number, or the probability that the label is 1."""

Parameter: TypeAlias = str | int | float | bool | None
Parameters: TypeAlias = Mapping[str, Parameter]

TrainedModel: TypeAlias = Any
"""A model in the memory of its framework, which only its trainer looks into."""


@dataclass(frozen=True)
class Examples:
    """Labelled rows in order of time: features (rows, columns), NaN where unknown, and the label of each row."""

    features: Floats
    labels: Floats


@dataclass(frozen=True)
class Checkpoint:
    """One file in which an unfinished training keeps how far it has come.

    Its path names everything that decides the model, so what is found there is of the very same training.
    """

    path: Path

    def read(self) -> bytes | None:
        """What the interrupted training left, if there was one."""
        return self.path.read_bytes() if self.path.exists() else None

    def write(self, content: bytes) -> None:
        """Replace the content in one step, so that a killed worker leaves the content of before."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_bytes(content)
        os.replace(unfinished, self.path)


@dataclass(frozen=True)
class Training:
    """One training to do.

    Attributes:
        examples: what to learn from.
        validation: what to stop early on; None: do not.
        signature: names of the features and the task.
        parameters: the trainer's own, overridden by those of a search.
        seed: the only source of chance.
        checkpoint: where to go on from, and to write to from time to time.
    """

    examples: Examples
    validation: Examples | None
    signature: Signature
    parameters: Parameters
    seed: int
    checkpoint: Checkpoint


class Trainer(Protocol):
    """A framework. It is a frozen dataclass of plain data, so that its settings are part of the code version.

    Equal trainings give equal models: for LightGBM and scikit-learn the same bytes, for torch on a CPU the same
    numbers. Several threads may train with one trainer at the same time.
    """

    @property
    def framework(self) -> str:
        """What it is called; also the asset kind."""
        ...

    @property
    def parameters(self) -> Parameters:
        """Hyperparameters of a training without a search."""
        ...

    def fit(self, training: Training) -> TrainedModel:
        """Learn; a training that was interrupted goes on from its checkpoint and ends with the same model."""
        ...

    def predict(self, model: TrainedModel, features: Floats) -> Floats:
        """One number or probability for each row of `features`."""
        ...

    def save(self, model: TrainedModel) -> bytes:
        """The model in a format that holds data only, no code."""
        ...

    def load(self, body: bytes) -> TrainedModel:
        """The model that `save` wrote.

        Raises:
            ModelMismatch: `body` is no such model, or would need code that is not trusted.
        """
        ...

    def signature(self, model: TrainedModel) -> Signature:
        """What the loaded model itself says it reads and gives."""
        ...


@runtime_checkable
class DetailedTrainer(Trainer, Protocol):
    """A framework that says more of a row than one number: an interval, say."""

    @property
    def details(self) -> Mapping[str, str]:
        """The further columns of its predictions, by name, and what they mean."""
        ...

    def detail(self, model: TrainedModel, features: Floats) -> Mapping[str, Floats]:
        """The columns of `details`, a number for each row of `features`."""
        ...


def details_of(trainer: Trainer) -> Mapping[str, str]:
    """The further columns of a trainer's predictions, by name, and what they mean."""
    return trainer.details if isinstance(trainer, DetailedTrainer) else {}


def opened(trainer: Trainer, file: ModelFile, expected: Signature, rebuild: str) -> TrainedModel:
    """The model in `file`, once what the file says, what the model says and what is `expected` agree.

    Raises:
        ModelMismatch: they do not; the message ends with `rebuild`, what to materialize.
    """
    if file.framework != trainer.framework:
        raise ModelMismatch(f"the model file is of {file.framework}, the declaration of {trainer.framework}; {rebuild}")
    if difference := file.signature.differs_from(expected):
        raise ModelMismatch(f"the model file does not match the declaration: {difference}; {rebuild}")
    model = trainer.load(file.body)
    if difference := trainer.signature(model).differs_from(file.signature):
        raise ModelMismatch(f"the model does not match the signature of its own file: {difference}; {rebuild}")
    return model
