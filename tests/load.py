"""A machine that is busy with something else: `python -m tests.load -- make test` runs a command with a quarter of it.

Belongs here: the load. Not here: what is run under it. Three busy processes a core, each as important as the command's,
leave it a quarter of every core.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

OTHERS_PER_CORE = 3


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many processes busy for the time of the block; they end with this one, whatever ends it."""
    context = multiprocessing.get_context("fork")
    alive, held = os.pipe()
    others = [context.Process(target=_spin, args=(alive, held), daemon=True) for _ in range(processes)]
    for other in others:
        other.start()
    os.close(alive)
    try:
        yield
    finally:
        os.close(held)
        for other in others:
            other.join()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command under load; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=(__doc__ or "").partition("\n")[0])
    most = OTHERS_PER_CORE * (os.cpu_count() or 1)
    parser.add_argument("--processes", type=int, default=most, help="how many are busy; default: %(default)s")
    parser.add_argument("command", nargs="+", help="what to run, after --")
    given = parser.parse_args(arguments)
    with busy(given.processes):
        return subprocess.run(given.command).returncode


def _spin(alive: int, held: int) -> None:
    """Compute until the other end of the pipe is closed, by its owner or by its owner's end."""
    os.close(held)
    os.set_blocking(alive, False)
    while True:
        for number in range(200_000):
            _ = number * number
        try:
            if not os.read(alive, 1):
                return
        except BlockingIOError:
            continue


if __name__ == "__main__":
    sys.exit(main())
