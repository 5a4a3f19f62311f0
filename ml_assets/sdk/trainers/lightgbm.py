"""LightGBM behind the trainer protocol: deterministic, resumed from its last segment, kept as its own text.

Belongs here: what is particular to LightGBM. Not here: which features, rows or parameters a project has.

Training goes in segments of a fixed number of rounds. Each starts from the text of the one before, whether that was
written a moment ago or by a worker that has been killed since, so an interrupted training ends with the very bytes of
an uninterrupted one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_assets.sdk.metrics import Floats
from ml_assets.sdk.model_file import ModelMismatch, Signature
from ml_assets.sdk.trainers.trainer import Examples, Parameter, Parameters, Training

if TYPE_CHECKING:
    from lightgbm import Booster

DETERMINISTIC: Parameters = {
    # Same rows, same bytes: what the order of threads could change is switched off. Folds are fitted side by side, one
    # a core.
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
"""What no setting overrides."""
_BINARY = {"binary", "cross_entropy"}


@dataclass(frozen=True)
class LightGBM:
    """Gradient-boosted trees.

    Attributes:
        objective: LightGBM's name of it; `binary` gives probabilities.
        rounds: at most so many trees.
        patience: stop when the validation has not improved for so many; None, or no validation: never.
        segment: trees between two checkpoints. It takes part in the result: chance starts anew with each segment.
        settings: further parameters of LightGBM.
    """

    objective: str = "regression"
    rounds: int = 200
    patience: int | None = 20
    segment: int = 50
    settings: Mapping[str, Parameter] = field(default_factory=dict)

    @property
    def framework(self) -> str:
        """`lightgbm`."""
        return "lightgbm"

    @property
    def parameters(self) -> Parameters:
        """The settings with objective and rounds."""
        return {**self.settings, "objective": self.objective, "rounds": self.rounds}

    def fit(self, training: Training) -> "Booster":
        """Boost segment by segment, and keep the trees up to the best validation."""
        import lightgbm as lgb

        found = training.checkpoint.read()
        text, losses = _restored(found) if found else (None, [])
        given = {**training.parameters}
        rounds = int(given.pop("rounds", self.rounds) or 0)
        names = list(training.signature.features)
        while len(losses) < rounds and not self._is_over(training, losses):
            history: dict[str, dict[str, list[float]]] = {}
            data = _dataset(training.examples, names)
            watched = _dataset(training.validation or training.examples, names, data)
            booster = lgb.train(
                {**given, **DETERMINISTIC, "seed": training.seed + len(losses)},
                data,
                num_boost_round=min(self.segment, rounds - len(losses)),
                valid_sets=[watched],
                valid_names=["validation"],
                init_model=lgb.Booster(model_str=text) if text else None,
                callbacks=[lgb.record_evaluation(history)],
            )
            losses += next(iter(history["validation"].values()))
            text = booster.model_to_string()
            training.checkpoint.write(json.dumps({"losses": losses, "text": text}).encode())
        model = lgb.Booster(model_str=text)
        best = int(np.argmin(losses)) + 1 if training.validation is not None and self.patience else len(losses)
        return lgb.Booster(model_str=model.model_to_string(num_iteration=best))

    def predict(self, model: "Booster", features: Floats) -> Floats:
        """What the objective predicts."""
        if not len(features):
            return np.empty(0)
        return np.asarray(model.predict(features, num_threads=1), dtype=np.float64)

    def save(self, model: "Booster") -> bytes:
        """LightGBM's text."""
        return str(model.model_to_string()).encode()

    def load(self, body: bytes) -> "Booster":
        """Read LightGBM's text.

        Raises:
            ModelMismatch: it is none.
        """
        import lightgbm as lgb

        try:
            return lgb.Booster(model_str=body.decode())
        except (lgb.basic.LightGBMError, UnicodeDecodeError) as error:
            raise ModelMismatch(
                f"the body is no LightGBM model: {str(error).splitlines()[0]}; materialize the candidate again"
            ) from error

    def signature(self, model: "Booster") -> Signature:
        """The feature names in the text, and whether its objective gives probabilities."""
        objective = str(model.dump_model(num_iteration=1).get("objective", "")).split(" ")[0]
        return Signature(tuple(model.feature_name()), "binary" if objective in _BINARY else "regression")

    def _is_over(self, training: Training, losses: list[float]) -> bool:
        if training.validation is None or not self.patience or not losses:
            return False
        return len(losses) - (int(np.argmin(losses)) + 1) >= self.patience


def _dataset(examples: Examples, names: list[str], reference: Any = None) -> Any:
    import lightgbm as lgb

    return lgb.Dataset(examples.features, examples.labels, feature_name=names, reference=reference, free_raw_data=False)


def _restored(content: bytes) -> tuple[str, list[float]]:
    state = json.loads(content)
    return state["text"], state["losses"]
