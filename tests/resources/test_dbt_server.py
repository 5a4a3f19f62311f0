"""dbt by a server that forks: it answers as dbt does, and nothing outlives whoever asked."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.patience import wait

HOLDER = """
    import sys, time
    from resources import dbt_server

    def slow(arguments):
        print(*arguments, flush=True)
        time.sleep(float(arguments[0]))
        return int(arguments[1])

    if sys.argv[1] == "fake":
        dbt_server._dbt = slow
    dbt_server.start()
    print(*dbt_server.command(), flush=True)
    time.sleep(600)
"""


def holder(kind: str) -> tuple[subprocess.Popen[str], list[str]]:
    """A process with a server, and the command that asks it; fork needs a process with one thread, unlike this."""
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(HOLDER), kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, process.stdout.readline().split()


def lives(address: str) -> bool:
    return Path(address).exists()


def test_it_answers_as_dbt_does() -> None:
    process, command = holder("dbt")
    try:
        plain = subprocess.run([Path(sys.executable).with_name("dbt"), "--version"], capture_output=True, text=True)
        served = subprocess.run([*command, "--version"], capture_output=True, text=True)
        assert served.stdout == plain.stdout
        assert "duckdb" in served.stdout
        assert served.returncode == plain.returncode == 0
        assert subprocess.run([*command, "no-such-command"], capture_output=True).returncode == 2
    finally:
        process.kill()
        process.communicate()


def test_commands_run_side_by_side_and_end_with_their_client_and_the_server_with_its_owner() -> None:
    process, command = holder("fake")
    try:
        quick = subprocess.run([*command, "0", "7"], capture_output=True, text=True)
        assert (quick.stdout, quick.returncode) == ("0 7\n", 7)
        running = [subprocess.Popen([*command, "600", "0"], stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for client in running:
            assert client.stdout
            assert client.stdout.readline() == "600 0\n"
        os.kill(running[0].pid, signal.SIGKILL)
        # Its output ends only when the process that the server forked for it has ended.
        assert running[0].stdout
        assert running[0].stdout.read() == ""
        assert running[1].poll() is None
        process.kill()
        assert running[1].wait() == 1
        wait("the server to end", lambda: not lives(command[-1]))
        for client in running:
            client.communicate()
    finally:
        process.kill()
        process.communicate()
