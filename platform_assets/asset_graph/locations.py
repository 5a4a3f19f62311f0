"""Loading the definitions of every code location, as a code server would.

Belongs here: that they load, or which does not and why. Not here: what they declare (`declared.py`).
"""

import importlib
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import yaml

from resources.environment import REPOSITORY

WORKSPACE = REPOSITORY / "workspace.yaml"


class LocationError(RuntimeError):
    """A code location does not load; the message names it, the cause, and the line of ours that led to it."""


def code_locations() -> dict[str, str]:
    """The modules of the code locations by name, as workspace.yaml says."""
    entries = [entry["python_module"] for entry in yaml.safe_load(WORKSPACE.read_text())["load_from"]]
    return {entry["location_name"]: entry["module_name"] for entry in entries}


def loaded() -> Mapping[str, dg.Definitions]:
    """The definitions of the locations that workspace.yaml names, resolved, in this process.

    Raises:
        LocationError: one of them does not load.
    """
    found = {}
    for name, module in code_locations().items():
        with told_by_location(name, module):
            found[name] = importlib.import_module(module).defs()
            dg.Definitions.validate_loadable(found[name])
    return found


@contextmanager
def told_by_location(name: str, module: str) -> Iterator[None]:
    """Say of whatever the block raises which location does not load for it.

    Raises:
        LocationError: the block has raised.
    """
    try:
        yield
    except Exception as error:
        # Code of a person's own may raise whatever it likes; all of it means the same, and goes on as its cause.
        raise LocationError(f"code location {name} ({module}) does not load: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    words = str(error).strip() or "without a word"
    return f"{type(error).__name__}: {' '.join(words.split())}{_line(error)}"


def _line(error: BaseException) -> str:
    """The innermost line of the repository's own that the error came through."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({_shown(error.filename)}:{error.lineno})"
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(REPOSITORY)
        and "site-packages" not in frame.filename
        and frame.filename != __file__
    ]
    return f" ({_shown(own[-1].filename)}:{own[-1].lineno})" if own else ""


def _shown(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else file
