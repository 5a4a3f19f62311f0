"""A project is found by its folder, and the one that the README builds is complete."""

import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ml_assets.declaration_error import DeclarationError
from ml_assets.projects import declared_models
from ml_assets.sdk.assets import project_assets
from ml_assets.sdk.declarations import Model
from tests.ml_assets.readme_project import readme_project

STAGES = ("training_set", "candidate", "evaluation", "version", "champion", "predictions", "monitor")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty package `made_projects`."""
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "made_projects"
    package.mkdir()
    yield package
    for name in [name for name in sys.modules if name.startswith("made_projects")]:
        del sys.modules[name]


def found(folder: Path, text: str) -> list[Model]:
    (folder / "spend").mkdir()
    (folder / "spend" / "project.py").write_text(text)
    return declared_models(folder, "made_projects")


def test_the_readmes_project_is_complete_in_sixty_lines(folder: Path) -> None:
    assert len(readme_project().splitlines()) <= 60
    assets = project_assets(*found(folder, readme_project())).assets or []
    built = {spec.key for asset in assets if isinstance(asset, dg.AssetsDefinition) for spec in asset.specs}
    assert built == {dg.AssetKey(["commerce", f"household_spend_{stage}"]) for stage in STAGES}


def test_a_folder_without_a_project_declares_nothing(folder: Path) -> None:
    (folder / "demand").mkdir()
    assert declared_models(folder, "made_projects") == []


@pytest.mark.parametrize("text", ["", "MODELS = []", "MODELS = ()", "MODELS = ('spend',)"])
def test_a_project_that_lists_no_models_is_refused_with_what_to_write(folder: Path, text: str) -> None:
    with pytest.raises(DeclarationError, match=r"spend/project\.py: list its models in a tuple, MODELS"):
        found(folder, text)
