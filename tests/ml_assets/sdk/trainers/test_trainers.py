"""Every framework that ships: same training, same model; what was interrupted goes on; nothing foreign is loaded."""

import base64
import io
import json
import pickle
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from ml_assets.sdk.model_file import ModelFile, ModelMismatch, Signature
from ml_assets.sdk.trainers.frameworks import reader_of
from ml_assets.sdk.trainers.lightgbm import LightGBM
from ml_assets.sdk.trainers.sklearn import Sklearn
from ml_assets.sdk.trainers.torch import TorchMLP
from ml_assets.sdk.trainers.trainer import Checkpoint, Examples, Trainer, Training, opened

needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="torch is not installed: pip install headwater[torch]"
)

BOOSTED = LightGBM(
    rounds=60, segment=20, patience=None, settings={"min_data_in_leaf": 5, "bagging_fraction": 0.7, "bagging_freq": 1}
)
LINEAR = Sklearn("sklearn.linear_model.Ridge", impute=True, scale=True)
FOREST = Sklearn("sklearn.ensemble.RandomForestRegressor", {"n_estimators": 5})
HISTOGRAM = Sklearn("sklearn.ensemble.HistGradientBoostingRegressor", {"max_iter": 5})
LOGISTIC = Sklearn("sklearn.linear_model.LogisticRegression", impute=True)
NETWORK = TorchMLP(hidden=(8,), epochs=6, patience=None, batch=64, learning_rate=0.05)

REGRESSORS = [
    pytest.param(BOOSTED, id="lightgbm"),
    pytest.param(LINEAR, id="ridge"),
    pytest.param(FOREST, id="forest"),
    pytest.param(HISTOGRAM, id="histogram"),
    pytest.param(NETWORK, id="torch", marks=needs_torch),
]
RESUMABLE = [pytest.param(BOOSTED, id="lightgbm"), pytest.param(NETWORK, id="torch", marks=needs_torch)]
NAMES = ("footfall", "price", "rain")


def examples(rows: int = 300, seed: int = 0, binary: bool = False) -> Examples:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, len(NAMES)))
    labels = 3 * features[:, 0] - features[:, 1] + rng.normal(scale=0.3, size=rows)
    return Examples(features, (labels > 0).astype(np.float64) if binary else labels)


def training(trainer: Trainer, folder: Path, validation: Examples | None = None, binary: bool = False) -> Training:
    signature = Signature(NAMES, "binary" if binary else "regression")
    return Training(examples(binary=binary), validation, signature, trainer.parameters, 7, Checkpoint(folder / "state"))


class KilledWorker(RuntimeError):
    pass


class FatalCheckpoint(Checkpoint):
    """Its worker is killed right after the first write."""

    def write(self, content: bytes) -> None:
        super().write(content)
        raise KilledWorker


@pytest.mark.parametrize("trainer", REGRESSORS)
def test_a_model_is_read_back_with_its_signature_and_predictions(trainer: Trainer, tmp_path: Path) -> None:
    model = trainer.fit(training(trainer, tmp_path))
    file = ModelFile(trainer.framework, Signature(NAMES, "regression"), trainer.save(model))
    again = opened(trainer, ModelFile.of_text(file.text), Signature(NAMES, "regression"), "rebuild")
    asked = examples(50, seed=1).features
    assert trainer.signature(again) == Signature(NAMES, "regression")
    assert np.array_equal(trainer.predict(again, asked), trainer.predict(model, asked))
    assert np.corrcoef(trainer.predict(again, asked), examples(50, seed=1).labels)[0, 1] > 0.8


@pytest.mark.parametrize("trainer", [one for one in REGRESSORS if one.id != "torch"])
def test_the_same_training_gives_the_same_bytes(trainer: Trainer, tmp_path: Path) -> None:
    first = trainer.save(trainer.fit(training(trainer, tmp_path / "first")))
    assert trainer.save(trainer.fit(training(trainer, tmp_path / "second"))) == first


@needs_torch
def test_the_same_training_gives_the_same_numbers_on_torch(tmp_path: Path) -> None:
    models = [NETWORK.fit(training(NETWORK, tmp_path / str(number))) for number in range(2)]
    asked = examples(50, seed=1).features
    assert np.array_equal(*(NETWORK.predict(model, asked) for model in models))


@pytest.mark.parametrize("trainer", RESUMABLE)
def test_an_interrupted_training_goes_on_and_ends_with_the_same_model(trainer: Trainer, tmp_path: Path) -> None:
    whole = trainer.fit(training(trainer, tmp_path / "whole"))
    started = training(trainer, tmp_path / "cut")
    with pytest.raises(KilledWorker):
        trainer.fit(replace(started, checkpoint=FatalCheckpoint(started.checkpoint.path)))
    reached = started.checkpoint.read()
    assert reached is not None
    resumed = trainer.fit(started)
    asked = examples(50, seed=1).features
    assert np.array_equal(trainer.predict(resumed, asked), trainer.predict(whole, asked))
    if trainer is BOOSTED:
        assert len(json.loads(reached)["losses"]) == BOOSTED.segment
        assert trainer.save(resumed) == trainer.save(whole)


@pytest.mark.parametrize(
    "trainer",
    [
        pytest.param(replace(BOOSTED, rounds=400, patience=10), id="lightgbm"),
        pytest.param(replace(NETWORK, epochs=60, patience=3, learning_rate=0.5), id="torch", marks=needs_torch),
    ],
)
def test_training_stops_when_the_validation_no_longer_improves(trainer: Trainer, tmp_path: Path) -> None:
    validation = examples(100, seed=2)
    watched = training(trainer, tmp_path / "watched", validation)
    trainer.fit(watched)
    reached = watched.checkpoint.read()
    assert reached is not None
    if isinstance(trainer, LightGBM):
        assert len(json.loads(reached)["losses"]) < trainer.rounds
    else:
        import torch

        assert torch.load(io.BytesIO(reached), weights_only=True)["epoch"] < 60


@pytest.mark.parametrize(
    "trainer",
    [
        pytest.param(replace(BOOSTED, objective="binary"), id="lightgbm"),
        pytest.param(LOGISTIC, id="logistic"),
        pytest.param(NETWORK, id="torch", marks=needs_torch),
    ],
)
def test_a_binary_task_gives_probabilities(trainer: Trainer, tmp_path: Path) -> None:
    model = trainer.fit(training(trainer, tmp_path, binary=True))
    asked = examples(200, seed=1, binary=True)
    found = trainer.predict(model, asked.features)
    assert trainer.signature(model).task == "binary"
    assert ((found >= 0) & (found <= 1)).all()
    assert ((found > 0.5) == (asked.labels == 1)).mean() > 0.8


@pytest.mark.parametrize("trainer", REGRESSORS)
def test_no_rows_to_predict_give_no_predictions(trainer: Trainer, tmp_path: Path) -> None:
    model = trainer.fit(training(trainer, tmp_path))
    assert trainer.predict(model, np.empty((0, len(NAMES)))).shape == (0,)


@pytest.mark.parametrize("trainer", REGRESSORS)
def test_a_pickle_is_never_loaded(trainer: Trainer, tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (touched,))

    with pytest.raises(ModelMismatch, match="materialize the candidate again"):
        trainer.load(pickle.dumps(Payload(), protocol=2))
    assert not touched.exists()


def test_a_skops_file_with_a_foreign_type_is_refused_by_the_name_of_the_type(tmp_path: Path) -> None:
    body = LINEAR.save(LINEAR.fit(training(LINEAR, tmp_path)))
    forged = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as archive, zipfile.ZipFile(forged, "w") as target:
        for name in archive.namelist():
            content = archive.read(name)
            target.writestr(
                name, content.replace(b'"Ridge"', b'"Evil"').replace(b"sklearn.linear_model._ridge", b"evil")
            )
    with pytest.raises(ModelMismatch, match=r"may not hold evil\.Evil"):
        LINEAR.load(forged.getvalue())


@needs_torch
def test_a_torch_file_that_holds_code_is_refused(tmp_path: Path) -> None:
    import torch

    written = io.BytesIO()
    torch.save({"state": Path("somewhere")}, written)
    with pytest.raises(ModelMismatch, match="no torch file of tensors only"):
        NETWORK.load(written.getvalue())


def test_a_model_file_that_does_not_match_is_refused_by_what_differs(tmp_path: Path) -> None:
    body = BOOSTED.save(BOOSTED.fit(training(BOOSTED, tmp_path)))
    expected = Signature(NAMES, "regression")
    renamed = Signature(("footfall", "price", "snow"), "regression")
    with pytest.raises(ModelMismatch, match="it lacks rain and it reads snow besides; rebuild"):
        opened(BOOSTED, ModelFile("lightgbm", renamed, body), expected, "rebuild")
    with pytest.raises(ModelMismatch, match="signature of its own file: it lacks snow and it reads rain"):
        opened(BOOSTED, ModelFile("lightgbm", renamed, body), renamed, "rebuild")
    with pytest.raises(ModelMismatch, match="in the order rain, price, footfall"):
        opened(BOOSTED, ModelFile("lightgbm", Signature(NAMES[::-1], "regression"), body), expected, "rebuild")
    with pytest.raises(ModelMismatch, match="is of scikitlearn, the declaration of lightgbm"):
        opened(BOOSTED, ModelFile("scikitlearn", expected, body), expected, "rebuild")
    with pytest.raises(ModelMismatch, match="a model for regression, not for binary"):
        opened(BOOSTED, ModelFile("lightgbm", expected, body), Signature(NAMES, "binary"), "rebuild")


@pytest.mark.parametrize("text", ["tree\nversion=v4", "[]", "{}", json.dumps({"body": 1})])
def test_a_text_that_is_no_model_file_is_refused(text: str) -> None:
    with pytest.raises(ModelMismatch, match="not a model file of this SDK"):
        ModelFile.of_text(text)


def test_a_model_file_keeps_bodies_that_are_no_text() -> None:
    file = ModelFile("scikitlearn", Signature(NAMES, "regression"), bytes(range(256)))
    assert base64.b64encode(file.body).decode() in file.text
    assert ModelFile.of_text(file.text) == file


def test_only_classes_of_scikit_learn_are_estimators() -> None:
    with pytest.raises(ValueError, match=r"os\.system.*class of scikit-learn"):
        Sklearn("os.system")


def test_a_framework_without_a_trainer_is_refused_by_name() -> None:
    assert reader_of("scikitlearn", BOOSTED).framework == "scikitlearn"
    with pytest.raises(ModelMismatch, match="'prophet'; there are lightgbm"):
        reader_of("prophet", BOOSTED)
