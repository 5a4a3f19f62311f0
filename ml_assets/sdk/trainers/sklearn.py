"""scikit-learn behind the trainer protocol: any of its regressors and classifiers, kept by skops.

Belongs here: what is particular to scikit-learn, and the types that a model file of it may hold. Not here: which
estimator a project uses.

An estimator is fitted in one call, so there is nothing to resume within it; an interrupted search resumes between
trials.
"""

import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from ml_assets.sdk.metrics import Floats
from ml_assets.sdk.model_file import ModelMismatch, Signature
from ml_assets.sdk.trainers.trainer import Parameter, Parameters, Training

TRUSTED = (
    "numpy.dtype",
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)
"""Types beyond skops' own list that a model file may hold: the types of arrays, and the arrays of scikit-learn's "
"trees."""

_IDENTITY = re.compile(r"\d{12,}")


@dataclass(frozen=True)
class Sklearn:
    """An estimator of scikit-learn.

    Attributes:
        estimator: import path of its class, e.g. `sklearn.linear_model.PoissonRegressor`.
        settings: arguments of the class.
        impute: replace unknown values by the median, for estimators that do not take them.
        scale: standardise the features first.
    """

    estimator: str
    settings: Mapping[str, Parameter] = field(default_factory=dict)
    impute: bool = False
    scale: bool = False

    def __post_init__(self) -> None:
        """Refuse classes of elsewhere.

        Raises:
            ValueError: `estimator` is not in scikit-learn.
        """
        if not re.fullmatch(r"sklearn(\.\w+)+", self.estimator):
            raise ValueError(
                f"estimator is {self.estimator!r}; give the import path of a class of scikit-learn, e.g. "
                "sklearn.linear_model.Ridge"
            )

    @property
    def framework(self) -> str:
        """`scikitlearn`, as Dagster's kind of it is called."""
        return "scikitlearn"

    @property
    def parameters(self) -> Parameters:
        """The settings and which estimator they are of."""
        return {**self.settings, "estimator": self.estimator}

    def fit(self, training: Training) -> Any:
        """Fit the estimator, behind imputation and scaling where asked for."""
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import StandardScaler

        module, _, name = self.estimator.rpartition(".")
        made = getattr(import_module(module), name)
        settings = {key: value for key, value in training.parameters.items() if key != "estimator"}
        if "random_state" in made._get_param_names():
            settings["random_state"] = training.seed
        steps = [("impute", SimpleImputer(strategy="median", keep_empty_features=True))] if self.impute else []
        steps += [("scale", StandardScaler())] if self.scale else []
        estimator = Pipeline([*steps, ("model", made(**settings))])
        labels = training.examples.labels
        binary = training.signature.task == "binary"
        estimator.fit(training.examples.features, labels.astype(np.int64) if binary else labels)
        return {"estimator": estimator, "features": list(training.signature.features), "task": training.signature.task}

    def predict(self, model: Any, features: Floats) -> Floats:
        """The estimator's number, or its probability of 1."""
        if not len(features):
            return np.empty(0)
        estimator = model["estimator"]
        found = estimator.predict_proba(features)[:, 1] if model["task"] == "binary" else estimator.predict(features)
        return np.asarray(found, dtype=np.float64).reshape(len(features))

    def save(self, model: Any) -> bytes:
        """The estimator by skops, in a form that is equal for equal estimators.

        Raises:
            ModelMismatch: it holds a type that loading would refuse.
        """
        from skops import io as skops

        written: bytes = skops.dumps(model)
        _refuse_untrusted(written)
        return _canonical(written)

    def load(self, body: bytes) -> Any:
        """Read what `save` wrote; types that are not trusted are refused before any is made.

        Raises:
            ModelMismatch: it is no such file, or holds another type.
        """
        from skops import io as skops

        try:
            _refuse_untrusted(body)
            return skops.loads(body, trusted=list(TRUSTED))
        except (zipfile.BadZipFile, KeyError, TypeError) as error:
            raise ModelMismatch(
                f"the body is no skops file: {str(error).splitlines()[0]}; materialize the candidate again"
            ) from error

    def signature(self, model: Any) -> Signature:
        """What was written beside the estimator, if it fits how many columns that was fitted on.

        Raises:
            ModelMismatch: the estimator reads another number of columns.
        """
        columns = int(model["estimator"].n_features_in_)
        if columns != len(model["features"]):
            raise ModelMismatch(
                f"the estimator reads {columns} columns but its file names {len(model['features'])} features; "
                "materialize the candidate again"
            )
        return Signature(tuple(model["features"]), str(model["task"]))


def _refuse_untrusted(body: bytes) -> None:
    from skops import io as skops

    refused = sorted(set(skops.get_untrusted_types(data=body)) - set(TRUSTED))
    if refused:
        raise ModelMismatch(
            f"a model file may not hold {', '.join(refused)}: loading these could run code. Use another estimator, or "
            "review them and add them to ml_assets/sdk/trainers/sklearn.py"
        )


def _canonical(body: bytes) -> bytes:
    """The archive with memory addresses numbered in the order in which they come, and without times."""
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        schema = archive.read("schema.json").decode()
        numbers = {found: str(at) for at, found in enumerate(dict.fromkeys(_IDENTITY.findall(schema)))}
        members = {_renumbered(name, numbers): archive.read(name) for name in archive.namelist()}
    members["schema.json"] = _renumbered(schema, numbers).encode()
    rewritten = io.BytesIO()
    with zipfile.ZipFile(rewritten, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name), members[name], zipfile.ZIP_DEFLATED)
    return rewritten.getvalue()


def _renumbered(text: str, numbers: Mapping[str, str]) -> str:
    return _IDENTITY.sub(lambda found: numbers.get(found[0], found[0]), text)
