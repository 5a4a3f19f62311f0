"""DuckDB connections of ours, whatever they attach, and names and texts in their SQL.

Belongs here: what holds for every connection. Not here: the lake (`warehouse.py`), limits, which whoever connects sets.
"""

from collections.abc import Mapping
from contextlib import suppress

import duckdb


def connect(database: str = ":memory:", config: Mapping[str, str | int] | None = None) -> duckdb.DuckDBPyConnection:
    """A connection that draws no progress bars.

    DuckDB draws them wherever the main module is no file, as in run workers, and so into their log.
    """
    connection = duckdb.connect(database, config=dict(config or {}))
    # A notebook's kernel without ipywidgets draws none, and DuckDB refuses the setting there.
    with suppress(duckdb.InvalidInputException):
        connection.execute("set enable_progress_bar = false")
    return connection


def quoted(identifier: str) -> str:
    """An identifier for use in SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text for use in SQL."""
    return "'" + value.replace("'", "''") + "'"
