"""How far long work is: bars on a terminal, plain lines in a log file or a pipe.

Belongs here: showing it, on standard error, so that standard output holds the result alone. Not here: what the work is.
"""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


def progress(*, quiet: bool = False) -> Progress:
    """What tasks are added to and advanced in; with `quiet` it shows nothing."""
    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal or console.is_dumb_terminal:
        return PlainProgress(console)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console)


class PlainProgress(Progress):
    """A line whenever another tenth of a task is done, and nothing that draws over itself."""

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, disable=True)
        self._began = time.monotonic()
        self._tenths: dict[TaskID, int] = {}

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """See `Progress`."""
        super().update(task_id, **changes)
        self._tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """See `Progress`."""
        super().advance(task_id, advance)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        with self._lock:
            task = self._tasks[task_id]
            if not task.total:
                return
            tenths = int(10 * task.completed / task.total)
            if tenths <= self._tenths.get(task_id, 0):
                return
            self._tenths[task_id] = tenths
        tell(self, f"{task.description.strip()}: {_done(task.completed, task.total)}")


def tell(shown: Progress, words: str) -> None:
    """Print a line of its own; outside a terminal with the minutes since the work began."""
    if isinstance(shown, PlainProgress):
        minutes, seconds = divmod(int(time.monotonic() - shown._began), 60)
        words = f"{minutes:3d}:{seconds:02d} {words}"
    shown.console.print(words, markup=False, highlight=False, soft_wrap=True)


def _done(completed: float, total: float) -> str:
    return "done" if total == 1 else f"{completed:,.0f} of {total:,.0f}"
