"""Waiting for what another process does: for a state, as long as anything moves, never for a number of seconds."""

import os
import time
from collections.abc import Callable

import dagster as dg

from platform_assets.patience import Pace, Patience

SOAK = bool(os.environ.get("HEADWATER_TEST_SOAK"))
"""Whether what takes many minutes runs as a whole, as `make soak` asks, and not a sample of it."""

PATIENCE_SECONDS = 600
"""Without any movement; generous, as a test that passes never waits for it."""

_PROBE_SECONDS = 0.1
SOON_SECONDS = 10
"""Far below every patience of ours (60 s and more), and enough on a machine that does four other things."""


def wait(what: str, done: Callable[[], bool], moves: Callable[[], object] = lambda: None) -> None:
    """Look at `done` until it holds; fail, naming `what`, once `moves` has said the same for too long."""
    patience, pace = Patience(PATIENCE_SECONDS), Pace(0.1)
    while not done():
        assert not patience.over(moves()), f"nothing moved for {PATIENCE_SECONDS} s while waiting for {what}"
        pace.rest()


def slowness() -> float:
    """How many times as long as alone this process works now, because others keep the machine busy; at least 1."""
    began, worked = time.monotonic(), time.process_time()
    while time.process_time() - worked < _PROBE_SECONDS:
        pass
    return max(1.0, (time.monotonic() - began) / (time.process_time() - worked))


def work_of(instance: dg.DagsterInstance) -> Callable[[], object]:
    """What moves while Dagster works: its events, and the states of its runs."""

    def moves() -> object:
        states = [(run.run_id, run.status) for run in instance.get_runs(limit=50)]
        return instance.event_log_storage.get_maximum_record_id(), states

    return moves
