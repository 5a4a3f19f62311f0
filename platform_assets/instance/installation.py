"""Installing the locked packages into the virtual environment of this very Python: by uv, which takes a thirtieth of
pip's time, or by pip where pip is configured in a way that uv cannot follow.

Belongs here: choosing the installer, and handing pip's settings to uv. Not here: what is installed
(`requirements.lock`). `make setup` runs this file before anything is installed: it imports the standard library alone.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK = "requirements.lock"

_HARMLESS = {
    "cache-dir", "compile", "config-file", "debug", "default-timeout", "disable-pip-version-check", "exists-action",
    "log", "no-cache-dir", "no-clean", "no-color", "no-compile", "no-input", "no-python-version-warning",
    "no-warn-conflicts", "no-warn-script-location", "progress-bar", "quiet", "require-virtualenv", "require-venv",
    "resume-retries", "retries", "root-user-action", "timeout", "verbose",
}  # fmt: skip
"""Settings of pip that change neither what is installed, nor from where, nor whom it trusts."""

_SECTIONS = ("global", "install", ":env:")
"""Those that `pip install` reads, the later before the earlier."""


class OnlyPip(Exception):
    """A setting of pip that uv has no counterpart of; the message names it, without its value."""


def settings_of(listing: str) -> dict[str, str]:
    """What `pip install` is configured with, by setting, from what `pip config list` prints."""
    found: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in listing.splitlines():
        name, equals, value = line.partition("=")
        section, dot, setting = name.rpartition(".")
        if equals and dot and section in found:
            found[section][setting] = ast.literal_eval(value)
    return {setting: value for section in _SECTIONS for setting, value in found[section].items()}


def uv_variables(settings: Mapping[str, str]) -> dict[str, str]:
    """The variables by which uv installs what pip with `settings` would, from the same places.

    Every version is pinned, so that the first index that has it, for uv, and the best of all, for pip, are the same.

    Raises:
        OnlyPip: there are none.
    """
    found: dict[str, str] = {}
    for setting, value in settings.items():
        if setting in _HARMLESS or not value.strip():
            continue
        if setting not in _TRANSLATED:
            raise OnlyPip(f"pip's setting {setting} has no counterpart in uv")
        found |= _TRANSLATED[setting](value)
    return found


def install(python: str, root: Path, say: Callable[[str], None]) -> int:
    """Install the lock of the project in `root`, and the project itself as editable; returns an exit code.

    The lock and nothing besides: what an optional extra of a package wants is not there unless the lock names it.
    All is compiled to bytecode, the project's own code too: without, every process of a person who has Python write
    none (PYTHONDONTWRITEBYTECODE) would compile some two thousand modules for itself.

    Args:
        python: the interpreter of the virtual environment.
        root: the folder of the lock and of pyproject.toml.
        say: what is told when pip does it, and why.
    """
    pip = [python, "-m", "pip"]
    listing = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=True).stdout
    try:
        variables = uv_variables(settings_of(listing))
        if _quietly([*pip, "install", "--constraint", str(root / LOCK), "uv"], {}):
            raise OnlyPip("uv is not to be had here")
        uv = [str(Path(python).with_name("uv")), "pip"]
        if any(_quietly([*uv, *one, "--compile-bytecode", "--python", python], variables) for one in _steps(root)):
            raise OnlyPip("uv could not install the lock")
    except OnlyPip as reason:
        say(f"Installing with pip, which takes minutes: {reason}.")
        if code := next((code for one in _steps(root) if (code := _run([*pip, *one, "--quiet"]))), 0):
            return code
    # A file that is no Python yet is told of; it is no reason not to install.
    _run([python, "-m", "compileall", "-q", *_own(root)])
    return 0


def _own(root: Path) -> list[str]:
    """The folders of the project that hold Python."""
    folders = (path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith("."))
    return [str(folder) for folder in folders if next(folder.rglob("*.py"), None)]


def _steps(root: Path) -> list[list[str]]:
    return [
        ["install", "--no-deps", "--requirement", str(root / LOCK)],
        ["install", "--no-deps", "--no-build-isolation", "--editable", str(root)],
    ]


def _run(command: Sequence[str]) -> int:
    return subprocess.run(command).returncode


def _quietly(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run without output: what it says may hold addresses with credentials, and pip says it again if need be."""
    # What a person has told uv itself comes first.
    given = {name: value for name, value in variables.items() if not (name.startswith("UV_") and name in os.environ)}
    return subprocess.run(command, env={**os.environ, **given}, capture_output=True).returncode


def _as(variable: str) -> Callable[[str], dict[str, str]]:
    return lambda value: {variable: value}


def _listed(variable: str, separator: str) -> Callable[[str], dict[str, str]]:
    def translated(value: str) -> dict[str, str]:
        places = [os.path.expanduser(place) for place in value.split()]
        if any(separator in place for place in places):
            raise OnlyPip("a path among pip's settings has a comma in it")
        return {variable: separator.join(places)}

    return translated


def _proxy_variables(scheme: str) -> tuple[str, str]:
    return f"{scheme}_proxy", f"{scheme}_proxy".upper()


def _no_index(value: str) -> dict[str, str]:
    return {"UV_NO_INDEX": "1"} if value.strip().lower() in ("1", "true", "yes", "on", "y", "t") else {}


_TRANSLATED: Mapping[str, Callable[[str], dict[str, str]]] = {
    "cert": _as("SSL_CERT_FILE"),
    "client-cert": _as("SSL_CLIENT_CERT"),
    "constraint": _listed("UV_CONSTRAINT", " "),
    "extra-index-url": lambda value: _listed("UV_INDEX", " ")(value) | {"UV_INDEX_STRATEGY": "unsafe-best-match"},
    "find-links": _listed("UV_FIND_LINKS", ","),
    "index-url": _as("UV_DEFAULT_INDEX"),
    "no-index": _no_index,
    "proxy": lambda value: {name: value for one in ("http", "https", "all") for name in _proxy_variables(one)},
    "trusted-host": _listed("UV_INSECURE_HOST", " "),
}

if __name__ == "__main__":
    sys.exit(install(sys.executable, ROOT, print))
