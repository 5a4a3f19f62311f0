"""The project's macros rendered by Jinja as dbt renders them, in microseconds and without a lake.

A macro of dbt gives what it is told to `return`, which plain Jinja cannot, so each is called through a wrapper, as
in dbt.
"""

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import jinja2
import pytz  # type: ignore[import-untyped]

from resources.dbt import PROJECT

_DEFINED = re.compile(r"{%-?\s*macro\s+(\w+)\(")
_EXTENSIONS = ["jinja2.ext.do"]
_RENDERED = ("window.sql", "local_time.sql")


class MacroError(Exception):
    """What `exceptions.raise_compiler_error` raises."""


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class Macros:
    """The macros of windows and local time.

    Args:
        calendars: `vars.calendars` of dbt_project.yml.
        windows: HEADWATER_WINDOWS.
        flags: `event_time_start` and `event_time_end`, where the run has a window.
        model: what the macros read of the model that is built.
    """

    def __init__(
        self,
        calendars: Mapping[str, Mapping[str, str]],
        windows: str = "",
        flags: Mapping[str, str] | None = None,
        model: Mapping[str, Any] | None = None,
    ) -> None:
        environment = jinja2.Environment(extensions=_EXTENSIONS)
        environment.globals.update(
            {
                "return": _returned,
                "execute": True,
                "var": {"calendars": calendars}.__getitem__,
                "env_var": lambda name, default: windows if name == "HEADWATER_WINDOWS" else default,
                "invocation_args_dict": dict(flags or {}),
                "model": _namespace(model or {}),
                "modules": SimpleNamespace(datetime=datetime, pytz=pytz),
                "exceptions": SimpleNamespace(raise_compiler_error=_refused),
                "none": None,
            }
        )
        # A template keeps the globals that there are when it is made, so every macro is known by its name first.
        modules: list[Any] = []
        files = [_compiled(file) for file in _RENDERED]
        environment.globals.update({name: _wrapped(modules, name) for names, _ in files for name in names})
        for _, code in files:
            modules.append(jinja2.Template.from_code(environment, code, environment.globals).module)
        self._globals = environment.globals

    def __getattr__(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = self._globals[name]
        return found


@cache
def _compiled(file: str) -> tuple[list[str], Any]:
    text = (PROJECT / "macros" / file).read_text()
    code = jinja2.Environment(extensions=_EXTENSIONS).compile(_DEFINED.sub(r"{% macro dbt_macro__\1(", text))
    return _DEFINED.findall(text), code


def _wrapped(modules: Sequence[Any], name: str) -> Callable[..., Any]:
    def call(*values: Any, **named: Any) -> Any:
        (macro,) = (vars(one)[f"dbt_macro__{name}"] for one in modules if f"dbt_macro__{name}" in vars(one))
        try:
            return macro(*values, **named).strip()
        except _Return as result:
            return result.value

    return call


def _returned(value: Any) -> None:
    raise _Return(value)


def _refused(message: str) -> None:
    raise MacroError(message)


def _namespace(value: Any) -> Any:
    if isinstance(value, Mapping):
        return SimpleNamespace(**{name: _namespace(one) for name, one in value.items()})
    return value
