"""What others build upon: the commands, and the names that declarations are written with.

`python -m tests.surface` writes it anew.
"""

import inspect
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from platform_assets.cli import COMMANDS

SURFACE = Path(__file__).with_name("surface.txt")
SDK = (
    "ml_assets.features.source",
    "ml_assets.features.view_features",
    "ml_assets.features.views",
    "ml_assets.sdk.declarations",
    "ml_assets.sdk.serving",
    "ml_assets.sdk.trainers.lightgbm",
    "ml_assets.sdk.trainers.sklearn",
    "ml_assets.sdk.trainers.torch",
    "ml_assets.sdk.trainers.trainer",
    "ml_assets.sdk.windows",
    "ml_assets.sdk.workbench",
    "platform_assets.asset_graph.completeness",
    "platform_assets.partitions",
    "platform_assets.sources.declaration",
    "resources.feature_store.reader",
)


def surface() -> str:
    """Commands with their arguments, and public names with their parameters, a line each."""
    commands = [line for place in sorted(entry_points(group=COMMANDS)) for line in _command(place.name, place.load())]
    names = [line for module in SDK for line in _module(import_module(module))]
    return "\n".join([*commands, *names]) + "\n"


def _command(name: str, command: object) -> Iterator[str]:
    told = command.to_info_dict(command.make_context(name, [], resilient_parsing=True))  # type: ignore[attr-defined]
    yield f"headwater {name}"
    for parameter in told["params"]:
        if "--help" not in parameter["opts"]:
            words = [*parameter["opts"], parameter["type"]["name"], *(["flag"] * bool(parameter.get("is_flag")))]
            yield "  " + " ".join([*words, *(["repeatable"] * (parameter["multiple"] or parameter["nargs"] != 1))])


def _module(module: ModuleType) -> Iterator[str]:
    yield module.__name__
    for name, value in vars(module).items():
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
            if inspect.isclass(value):
                yield f"  {name}{_signature(value)}"
                yield from (f"    {line}" for line in _members(value))
            elif inspect.isfunction(value):
                yield f"  {name}{_signature(value)}"


def _members(kind: type) -> Iterator[str]:
    for name, value in vars(kind).items():
        bare = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if not name.startswith("_"):
            if inspect.isfunction(bare):
                yield f"{name}{_signature(bare)}"
            elif isinstance(value, property) or type(value).__name__ == "cached_property":
                yield name


def _signature(value: object) -> str:
    """Names and defaults; types are written differently by each Python."""
    try:
        found = inspect.signature(value)  # type: ignore[arg-type]
    except ValueError:
        return ""
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))


if __name__ == "__main__":
    SURFACE.write_text(surface())
