"""The ML projects of this code location: every folder of `ml_assets` that has a `project.py` with `MODELS`.

Belongs here: finding them, so that a new project needs no other edit. Not here: what a declaration means (`sdk/`).
"""

import importlib
from pathlib import Path

from ml_assets.sdk.declaration_error import DeclarationError
from ml_assets.sdk.declarations import Model

_FOLDER = Path(__file__).parent


def declared_models(folder: Path = _FOLDER, package: str = "ml_assets") -> list[Model]:
    """The models of all projects, by folder name.

    Raises:
        DeclarationError: a `project.py` does not list what it declares.
    """
    found: list[Model] = []
    for path in sorted(folder.glob("*/project.py")):
        module = importlib.import_module(f"{package}.{path.parent.name}.project")
        models = getattr(module, "MODELS", None)
        if not isinstance(models, tuple) or not models or not all(isinstance(model, Model) for model in models):
            raise DeclarationError(
                f"{path.parent.name}/project.py: list its models in a tuple, MODELS = (…,); it has {models!r}"
            )
        found += models
    return found
