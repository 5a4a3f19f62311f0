"""The frameworks that ship: which trainer reads a model file, whatever settings it was trained with.

Belongs here: one line a framework. Not here: the trainers.
"""

from collections.abc import Mapping

from ml_assets.sdk.model_file import ModelMismatch
from ml_assets.sdk.trainers.lightgbm import LightGBM
from ml_assets.sdk.trainers.sklearn import Sklearn
from ml_assets.sdk.trainers.torch import TorchMLP
from ml_assets.sdk.trainers.trainer import Trainer

_SHIPPED: Mapping[str, Trainer] = {
    trainer.framework: trainer for trainer in (LightGBM(), Sklearn("sklearn.dummy.DummyRegressor"), TorchMLP())
}


def reader_of(framework: str, own: Trainer) -> Trainer:
    """The trainer that loads files of `framework`: the project's `own` where it is that, one that ships otherwise.

    Raises:
        ModelMismatch: there is none.
    """
    if framework == own.framework:
        return own
    if framework not in _SHIPPED:
        raise ModelMismatch(
            f"no trainer reads model files of {framework!r}; there are {', '.join([own.framework, *_SHIPPED])}"
        )
    return _SHIPPED[framework]
