"""A process that ends with the one that started it: `python -m platform_assets.instance.parent FD MODULE ARGUMENT…`.

Belongs here: noticing the parent's end, and ending. Not here: what the module does.

The parent holds the writing end of a pipe, of which the process inherits the reading end FD. Whatever ends the
parent, the kernel closes its end; nothing has to be sent, and it works alike on Linux and macOS.
"""

import os
import runpy
import signal
import sys
import threading


def end_with_parent(alive: int) -> None:
    """Kill this process and its whole process group, which it must lead, once no one can write to the pipe `alive`.

    It is the end that a lack of memory would bring too: what is half done is rolled back or started again.
    """
    assert os.getpgrp() == os.getpid(), "a service leads a process group of its own"
    threading.Thread(target=_watch, args=(alive,), name="parent", daemon=True).start()


def restore_interrupts() -> None:
    """React to an interrupt, even where a shell started this in the background, which makes it be ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _watch(alive: int) -> None:
    os.read(alive, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    restore_interrupts()
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
