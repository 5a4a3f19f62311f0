"""torch behind the trainer protocol: a multilayer perceptron, resumed by epoch, kept as tensors only.

Belongs here: what is particular to torch, which is an optional dependency. Not here: training on several machines.

Nothing here draws from torch's global generator: weights, batches and their order come from generators of the
training's seed, so trainings in several threads do not disturb each other and a resumed one goes on as if it had not
stopped.
"""

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_assets.sdk.metrics import Floats
from ml_assets.sdk.model_file import ModelMismatch, Signature
from ml_assets.sdk.trainers.trainer import Parameters, Training

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TorchMLP:
    """A multilayer perceptron on standardised features; an unknown value counts as the feature's mean.

    Attributes:
        hidden: width of each hidden layer.
        epochs: at most so many passes over the examples.
        patience: stop when the validation has not improved for so many; None, or no validation: never.
        batch: rows a step.
        learning_rate, weight_decay: of AdamW.
    """

    hidden: tuple[int, ...] = (64, 32)
    epochs: int = 30
    patience: int | None = 5
    batch: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4

    @property
    def framework(self) -> str:
        """`pytorch`, as Dagster's kind of it is called."""
        return "pytorch"

    @property
    def parameters(self) -> Parameters:
        """What a search may vary."""
        return {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay, "epochs": self.epochs}

    def fit(self, training: Training) -> Any:
        """Train by epoch, each from the state that the checkpoint holds, and keep the state of the best one."""
        import torch

        given = {**self.parameters, **training.parameters}
        features, labels = training.examples.features, training.examples.labels
        mean, scale = _moments(features)
        state = _state(training) or {"epoch": 0, "best": None, "best_loss": math.inf, "best_epoch": 0}
        network = _network([features.shape[1], *self.hidden, 1], training.seed)
        optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=float(given["learning_rate"] or 0),
            weight_decay=float(given["weight_decay"] or 0),
        )
        if state["epoch"]:
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
        loss = torch.nn.BCEWithLogitsLoss() if training.signature.task == "binary" else torch.nn.MSELoss()
        x, y = _tensor(_standardised(features, mean, scale)), _tensor(labels)
        watched = training.validation
        while state["epoch"] < int(given["epochs"] or 0):
            if watched and self.patience and state["epoch"] - state["best_epoch"] >= self.patience:
                break
            order = torch.randperm(len(x), generator=_generator(training.seed, 1 + state["epoch"]))
            for rows in order.split(self.batch):
                optimizer.zero_grad()
                loss(network(x[rows]).squeeze(1), y[rows]).backward()
                optimizer.step()
            state |= {"epoch": state["epoch"] + 1, "network": _copy(network), "optimizer": optimizer.state_dict()}
            judged = (
                0.0
                if watched is None
                else _loss(network, loss, _standardised(watched.features, mean, scale), watched.labels)
            )
            if watched is None or judged < state["best_loss"]:
                state |= {"best": _copy(network), "best_loss": judged, "best_epoch": state["epoch"]}
            training.checkpoint.write(_bytes(state))
        return {
            "state": state["best"] or _copy(network),
            "widths": [features.shape[1], *self.hidden, 1],
            "mean": _tensor(mean),
            "scale": _tensor(scale),
            "features": list(training.signature.features),
            "task": training.signature.task,
        }

    def predict(self, model: Any, features: Floats) -> Floats:
        """The network's number, or the logistic function of it."""
        import torch

        if not len(features):
            return np.empty(0)
        network = _network(model["widths"], seed=0)
        network.load_state_dict(model["state"])
        x = _tensor(_standardised(features, model["mean"].numpy(), model["scale"].numpy()))
        with torch.no_grad():
            found = network(x).squeeze(1)
            found = torch.sigmoid(found) if model["task"] == "binary" else found
        return np.asarray(found.numpy(), dtype=np.float64)

    def save(self, model: Any) -> bytes:
        """Tensors, numbers and names, nothing else."""
        return _bytes(model)

    def load(self, body: bytes) -> Any:
        """Read what `save` wrote, without running anything in it.

        Raises:
            ModelMismatch: it is no such file, or holds more than tensors, numbers and names.
        """
        model = _read(body, "the body is no torch file of tensors only")
        if not isinstance(model, dict) or not {"state", "widths", "features", "task", "mean", "scale"} <= model.keys():
            raise ModelMismatch("the body is a torch file of something else; materialize the candidate again")
        return model

    def signature(self, model: Any) -> Signature:
        """What was written beside the weights, if it fits their number of columns.

        Raises:
            ModelMismatch: the first layer reads another number of columns.
        """
        columns = int(next(iter(model["state"].values())).shape[1])
        if columns != len(model["features"]):
            raise ModelMismatch(
                f"the network reads {columns} columns but its file names {len(model['features'])} features; "
                "materialize the candidate again"
            )
        return Signature(tuple(model["features"]), str(model["task"]))


def _network(widths: list[int], seed: int) -> "torch.nn.Sequential":
    """Linear layers with ReLU between them, initialised as torch does, but from a generator of its own."""
    import torch

    generator = _generator(seed, 0)
    layers: list[torch.nn.Module] = []
    for into, out in zip(widths, widths[1:], strict=False):
        linear = torch.nn.utils.skip_init(torch.nn.Linear, into, out)
        bound = 1 / math.sqrt(into)
        with torch.no_grad():
            linear.weight.uniform_(-bound, bound, generator=generator)
            linear.bias.uniform_(-bound, bound, generator=generator)
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def _generator(seed: int, stream: int) -> "torch.Generator":
    import torch

    return torch.Generator().manual_seed(seed * 1_000_003 + stream)


def _moments(features: Floats) -> tuple[Floats, Floats]:
    known = np.where(np.isnan(features), 0.0, features)
    count = np.maximum((~np.isnan(features)).sum(axis=0), 1)
    mean = known.sum(axis=0) / count
    spread = np.sqrt(np.where(np.isnan(features), 0.0, np.square(features - mean)).sum(axis=0) / count)
    return mean, np.where(spread > 0, spread, 1.0)


def _standardised(features: Floats, mean: Floats, scale: Floats) -> Floats:
    return np.nan_to_num((features - mean) / scale, nan=0.0)


def _loss(network: "torch.nn.Sequential", loss: Any, features: Floats, labels: Floats) -> float:
    import torch

    with torch.no_grad():
        return float(loss(network(_tensor(features)).squeeze(1), _tensor(labels)))


def _tensor(values: Floats) -> "torch.Tensor":
    import torch

    return torch.tensor(values, dtype=torch.float32)


def _copy(network: "torch.nn.Sequential") -> dict[str, "torch.Tensor"]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _bytes(content: Any) -> bytes:
    import torch

    written = io.BytesIO()
    torch.save(content, written)
    return written.getvalue()


def _state(training: Training) -> dict[str, Any] | None:
    found = training.checkpoint.read()
    return dict(_read(found, f"{training.checkpoint.path} is no checkpoint")) if found else None


def _read(content: bytes, refusal: str) -> Any:
    import pickle

    import torch

    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelMismatch(f"{refusal}: {str(error).splitlines()[0]}; materialize the candidate again") from error
