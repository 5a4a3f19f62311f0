"""The champion for single rows: what an online service holds in memory.

Belongs here: choosing the version that serves now, and scoring features that are already known. Not here: looking
features up online (`resources/feature_store/`), any server.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from ml_assets.declaration_error import DeclarationError
from ml_assets.sdk import champion, tracking
from ml_assets.sdk.champion import ChampionError, Decision
from ml_assets.sdk.declarations import Model, unknown
from ml_assets.sdk.tables import ProjectTables
from ml_assets.sdk.trainers.frameworks import reader_of
from ml_assets.sdk.trainers.trainer import TrainedModel, Trainer, opened
from resources.model_registry import ModelRegistry
from resources.warehouse import TableName, Warehouse


@dataclass(frozen=True)
class Scorer:
    """A loaded model, the decision by which it serves, and the features that it reads."""

    model: Model
    decision: Decision
    trainer: Trainer
    features: tuple[str, ...]
    loaded: TrainedModel

    @classmethod
    def of_champion(cls, model: Model, warehouse: Warehouse, registry: ModelRegistry, moment: datetime) -> "Scorer":
        """The version that serves at `moment`.

        Raises:
            DeclarationError: the model is not declared for online use.
            ChampionError: none serves then, or its file has been replaced since.
            ModelMismatch: its file does not match itself.
            RegistryError: its file is gone or was changed.
        """
        if not model.online:
            raise DeclarationError(f"model {model.name!r} is not declared for online use; set `online=True`")
        key = ProjectTables(model).champion
        with warehouse.reader() as lake:
            decision = champion.serving(lake, TableName.of_key(key), moment)
        if decision is None:
            raise ChampionError(f"no version of {model.name!r} serves at {moment}; materialize {key.to_user_string()}")
        file = tracking.decided_file(registry, model.registered_name, decision)
        rebuild = f"materialize {model.team}/{model.name}_candidate {decision.version_of} again"
        trainer = reader_of(file.framework, model.trainer)
        return cls(model, decision, trainer, file.signature.features, opened(trainer, file, file.signature, rebuild))

    def score(self, rows: Sequence[Mapping[str, float | None]]) -> list[float]:
        """One prediction for each of `rows`; a feature that is None is unknown.

        Raises:
            DeclarationError: a row lacks a feature or has another.
        """
        names = self.features
        for row in rows:
            for name in row.keys() - set(names):
                raise DeclarationError(unknown("feature", name, names))
            for name in names:
                if name not in row:
                    raise DeclarationError(f"the row lacks feature {name!r}; give None where it is unknown")
        values = np.array([[np.nan if row[name] is None else row[name] for name in names] for row in rows], np.float64)
        found = self.trainer.predict(self.loaded, values.reshape(len(rows), len(names)))
        return list(map(float, found.clip(min=0.0) if self.model.not_negative else found))
