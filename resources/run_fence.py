"""A run that was given up commits nothing.

Dagster may end a run from outside while its worker lives: a run that took too long to start, one whose worker seemed
gone, one that a person marked as canceled. What the run was to build is built by another one then. Belongs here:
whether that has happened to a run, asked before each commit. Not here: ending the worker
(`platform_assets/instance/run_launcher.py`).

The run's events say it for good, whereas its status may be overwritten by a worker that starts at that moment. It is
read without Dagster, so that the dbt process can ask.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

_ENDS = "select 1 from event_logs where run_id = {} and dagster_event_type in ('PIPELINE_FAILURE', 'PIPELINE_CANCELED')"
_BUSY_SECONDS = 60


class RunGivenUp(RuntimeError):
    """The run has been ended from outside, so that nothing of it may be stored any more."""


def is_given_up(events: str, run_id: str) -> bool:
    """Whether run `run_id` has been marked as failed or canceled.

    Args:
        events: where Dagster keeps the events of runs: a PostgreSQL URL, or the folder of its SQLite files. A run that
            is not known there counts as going on, and so does every run where this is empty.
        run_id: the run.

    Raises:
        sqlite3.Error, psycopg2.Error: the events cannot be read.
    """
    if events.startswith("postgresql:"):
        import psycopg2

        with closing(psycopg2.connect(events)) as server, server.cursor() as cursor:
            cursor.execute(_ENDS.format("%s"), [run_id])
            return cursor.fetchone() is not None
    path = Path(events) / f"{run_id}.db"
    if not events or not path.exists():
        return False
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)) as file:
        return file.execute(_ENDS.format("?"), [run_id]).fetchone() is not None


def refuse_given_up(events: str, run_id: str) -> None:
    """Let a commit of run `run_id` pass only if it is still wanted; see `is_given_up`.

    Raises:
        RunGivenUp: it is not.
    """
    if is_given_up(events, run_id):
        raise RunGivenUp(f"run {run_id} was marked as failed or canceled: it stores nothing any more. Start a new one")
