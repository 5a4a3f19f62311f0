"""What docstrings and comments say of the house is so."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from resources.environment import REPOSITORY

PACKAGES = ("resources", "platform_assets", "ml_assets", "tests")
# `feature_views.py` and `project.py` are what every project may have.
ANYWHERE = {"feature_views.py", "project.py", "settings.py"}
NAMED = re.compile(r"`([\w/<>.-]+(?:\.py|/))`")


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def test_every_file_and_folder_that_a_docstring_names_exists() -> None:
    nowhere = []
    for path in (path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))):
        near = (path.parent, path.parent.parent, REPOSITORY)
        named = {name for text in docstrings(path) for name in NAMED.findall(text)} - ANYWHERE
        nowhere += [
            f"{path.relative_to(REPOSITORY)}: {name}"
            for name in sorted(named)
            if "<" not in name and not any((folder / name).exists() for folder in near)
        ]
    assert nowhere == []
