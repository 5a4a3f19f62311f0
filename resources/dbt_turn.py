"""A plugin of dbt-duckdb that waits for the lake writers' turn before dbt opens the lake, and asks before commits.

Belongs here: taking the turn, inside the dbt process, and the SQL function by which the macro `name_commit` asks
whether the run may still commit. Not here: the turn itself (`writers_turn.py`), the answer (`run_fence.py`).

dbt spends most of a small run on starting up, and only then needs the lake to itself. And because dbt itself holds the
turn, a dbt that outlives a killed run worker keeps the next writer waiting until it has ended.
"""

import os
from typing import Any

import duckdb
from dbt.adapters.duckdb.credentials import DuckDBCredentials
from dbt.adapters.duckdb.plugins import BasePlugin

from resources.run_fence import refuse_given_up
from resources.writers_turn import writers_turn


class Plugin(BasePlugin):
    """Named so, and found by its module's name, as dbt-duckdb asks."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Hold nothing yet."""
        self.turn: Any = None

    def update_connection_config(self, creds: DuckDBCredentials, config: dict[str, Any]) -> None:
        """Wait for the turn, where this process is to write, and keep it until the process ends."""
        if self.turn is None and os.environ.get("HEADWATER_LAKE_WRITER"):
            self.turn = writers_turn(os.environ["HEADWATER_LAKE_CATALOG"])
            self.turn.__enter__()

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        """Give SQL the function `refuse_given_up`."""

        def asked(run_id: str) -> bool:
            refuse_given_up(os.environ.get("HEADWATER_RUN_EVENTS", ""), run_id)
            return True

        conn.create_function("refuse_given_up", asked, ["VARCHAR"], "BOOLEAN", side_effects=True)
