"""The load generator keeps its processes busy for as long as the command runs, and leaves none behind."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.patience import PATIENCE_SECONDS, wait


def children(of: int) -> list[int]:
    """The processes whose parent is `of`."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == of:
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def named(mark: str) -> list[int]:
    """The processes with `mark` in their command lines."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            if folder.name.isdigit() and mark.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def seconds_of(process: int) -> float:
    used = (Path("/proc") / str(process) / "stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def gone(process: int) -> bool:
    return not (Path("/proc") / str(process)).exists()


pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc, to look at processes")


LOAD = [sys.executable, "-m", "tests.load", "--processes", "2", "--"]
REPOSITORY = Path(__file__).parents[1]


def test_the_commands_exit_code_is_told_and_nothing_stays_behind(tmp_path: Path) -> None:
    command = [*LOAD, sys.executable, "-c", f"raise SystemExit(7)  # {tmp_path}"]
    assert subprocess.run(command, cwd=REPOSITORY, timeout=PATIENCE_SECONDS).returncode == 7
    assert named(str(tmp_path)) == []


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM])
def test_processes_are_busy_and_end_with_whoever_made_them(ended_by: signal.Signals) -> None:
    load = subprocess.Popen([*LOAD, "sleep", "100000"], cwd=REPOSITORY)
    wait("two busy processes and the command", lambda: len(children(load.pid)) == 3)
    wait("the command to run", lambda: any(map(sleeps, children(load.pid))))
    mine = children(load.pid)
    (sleeper,) = filter(sleeps, mine)
    wait("both to compute", lambda: sum(seconds_of(process) > 0.2 for process in mine) >= 2)
    load.send_signal(ended_by)
    load.wait()
    os.kill(sleeper, signal.SIGKILL)
    for process in mine:
        wait("a process of the load to end", lambda process=process: gone(process))  # type: ignore[misc]


def sleeps(process: int) -> bool:
    """Whether it is the command, and not a busy process, which has the command among its arguments."""
    return (Path("/proc") / str(process) / "cmdline").read_bytes().startswith(b"sleep\0")
