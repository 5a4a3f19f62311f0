"""A SQLite file as the URI that SQLAlchemy, MLflow and Dagster's storages open, whatever its path is called.

Belongs here: writing and reading such a URI. Not here: opening one. Written as plain text, a path with a question mark
names another file, and one with a percent sign may.
"""

from pathlib import Path
from urllib.parse import quote, unquote

_PLAIN = "sqlite:///"
_QUOTED = "sqlite+pysqlite:///file:"
"""The driver is named too: MLflow takes what follows `sqlite:///` for a path, and makes its folder."""
_AS_URI = "?uri=true"


def sqlite_uri(path: Path) -> str:
    """The URI of the SQLite file at an absolute `path`; quoted only where the path needs it."""
    quoted = quote(str(path))
    return f"{_PLAIN}{path}" if quoted == str(path) else f"{_QUOTED}{quoted}{_AS_URI}"


def sqlite_path(uri: str) -> Path | None:
    """The file that a URI of `sqlite_uri` names; None for another database."""
    if uri.startswith(_QUOTED):
        return Path(unquote(uri.removeprefix(_QUOTED).removesuffix(_AS_URI)))
    return Path(uri.removeprefix(_PLAIN)) if uri.startswith(_PLAIN) else None
