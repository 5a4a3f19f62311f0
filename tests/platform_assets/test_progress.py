"""Where output is no terminal, long work prints a plain line whenever a tenth of it is done."""

import io
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from platform_assets.progress import PlainProgress, progress, tell


def plain() -> tuple[PlainProgress, io.StringIO]:
    written = io.StringIO()
    return PlainProgress(Console(file=written)), written


def lines(written: io.StringIO) -> list[str]:
    return [re.sub(r"^ *\d+:\d\d ", "", line) for line in written.getvalue().splitlines()]


@given(st.integers(1, 500), st.lists(st.integers(0, 60), max_size=60))
def test_a_line_is_printed_for_each_tenth_that_is_reached_and_for_nothing_else(total: int, steps: list[int]) -> None:
    shown, written = plain()
    task = shown.add_task("  pairs", total=total)
    done, expected = 0, []
    for step in steps:
        before, done = 10 * done // total, done + step
        shown.advance(task, step)
        if 10 * done // total > before:
            expected.append("pairs: done" if total == 1 else f"pairs: {done:,} of {total:,}")
    assert lines(written) == expected


def test_a_stage_of_unknown_length_is_told_when_it_is_done_and_words_are_lines() -> None:
    shown, written = plain()
    stage = shown.add_task("backfill history", total=None)
    tell(shown, "History: one backfill [of all] the pairs: " + "x" * 200)
    shown.update(stage, total=1, completed=1)
    assert lines(written) == ["History: one backfill [of all] the pairs: " + "x" * 200, "backfill history: done"]


def test_nothing_is_shown_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=True) as shown:
        shown.advance(shown.add_task("pairs", total=1))
    assert capsys.readouterr() == ("", "")


WORK = """
from platform_assets.progress import progress
with progress() as shown:
    task = shown.add_task("pairs", total=20)
    for _ in range(20):
        shown.advance(task)
"""


def test_a_pipe_gets_plain_lines_and_a_terminal_gets_bars() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("TTY_COMPATIBLE", "FORCE_COLOR")}
    piped = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, env=environment, check=True)
    assert piped.stdout == ""
    said = [re.sub(r"^ *\d+:\d\d ", "", line) for line in piped.stderr.splitlines()]
    assert said == [f"pairs: {done} of 20" for done in range(2, 21, 2)]

    ours, theirs = pty.openpty()
    drawing = subprocess.Popen([sys.executable, "-c", WORK], stderr=theirs, env={**environment, "TERM": "xterm"})
    os.close(theirs)
    drawn = read_all(ours)
    assert drawing.wait() == 0
    assert "\x1b[" in drawn
    assert "20/20" in drawn


def read_all(terminal: int) -> str:
    """What is written to a terminal until nobody has it open any more."""
    read = b""
    with os.fdopen(terminal, "rb", buffering=0) as file, suppress(OSError):
        while some := file.read(4096):
            read += some
    return read.decode()
