"""The ML projects of this code location: every folder of `ml_assets` that has a `project.py` with `MODELS`.

Belongs here: finding them, so that a new project needs no other edit. Not here: what a declaration means (`sdk/`).
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import dagster as dg

from ml_assets.declaration_error import DeclarationError
from ml_assets.discovery import declaring
from ml_assets.sdk.declarations import Model

_FOLDER = Path(__file__).parent


def declared_models(folder: Path = _FOLDER, package: str = "ml_assets") -> list[Model]:
    """The models of all projects, by folder name.

    Raises:
        DeclarationError: a `project.py` does not list what it declares.
    """
    found: list[Model] = []
    for project in _projects(folder, package):
        models = getattr(project, "MODELS", None)
        if not isinstance(models, tuple) or not models or not all(isinstance(model, Model) for model in models):
            raise DeclarationError(f"{_named(project)}: list its models in a tuple, MODELS = (…,); it has {models!r}")
        found += models
    return found


def declared_assets(folder: Path = _FOLDER, package: str = "ml_assets") -> list[dg.AssetsDefinition]:
    """What projects have beside their models, by folder name: the assets in `ASSETS`, where there is one.

    Raises:
        DeclarationError: it holds something else.
    """
    found: list[dg.AssetsDefinition] = []
    for project in _projects(folder, package):
        assets = getattr(project, "ASSETS", ())
        if not isinstance(assets, tuple) or not all(isinstance(asset, dg.AssetsDefinition) for asset in assets):
            raise DeclarationError(f"{_named(project)}: list its assets in a tuple, ASSETS = (…,); it has {assets!r}")
        found += assets
    return found


def _projects(folder: Path, package: str) -> Iterator[ModuleType]:
    for name in declaring(folder, "project.py"):
        yield importlib.import_module(f"{package}.{name}.project")


def _named(project: ModuleType) -> str:
    return "/".join(project.__name__.split(".")[1:]) + ".py"
