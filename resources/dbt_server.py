"""dbt without its start-up: a process that has imported dbt already forks for each command.

Belongs here: the server, and the client that stands in for the `dbt` program. Not here: which commands are run
(`dbt.py`), who starts a server (`platform_assets/instance/run_launcher.py`).

dbt spends 5 s of a core on imports, more than a day of data takes. The client passes its arguments, folder, variables
and output to the server; a command ends with its client, and a server with the process that started it.

Run as a program this file is the client: it imports nothing of ours.
"""

import json
import os
import select
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

PRELOADED = ("dbt.cli.main", "dbt.adapters.duckdb", "dbt.task.build")
"""What a process imports before it starts a server, for the server to be of use."""

_LOOK_SECONDS = 0.02
_LENGTH_BYTES = 8

_address: Path | None = None
_alive: int | None = None


def start() -> None:
    """Fork a server that lives as long as this process, which must have one thread only."""
    global _address, _alive
    folder = Path(tempfile.mkdtemp(prefix="headwater-dbt-"))
    address = folder / "socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen()
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.close(theirs)
        try:
            _serve(listener, ours)
        finally:
            address.unlink(missing_ok=True)
            folder.rmdir()
            os._exit(0)
    os.close(ours)
    listener.close()
    _address, _alive = address, theirs


def command() -> list[str]:
    """The command that runs dbt by this process's server; empty when it has none."""
    return [sys.executable, "-I", "-S", __file__, str(_address)] if _address else []


def _serve(listener: socket.socket, alive: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running: dict[socket.socket, int] = {}
    while True:
        ready, _, _ = select.select([listener, alive, *running], [], [], _LOOK_SECONDS if running else None)
        for client, pid in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with suppress(BrokenPipeError):
                    client.sendall(bytes([os.waitstatus_to_exitcode(status) % 256]))
            elif client in ready:  # it says nothing more, so it has ended
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            else:
                continue
            del running[client]
            client.close()
        if alive in ready:
            for pid in running.values():
                os.kill(pid, signal.SIGKILL)
            return
        if listener in ready:
            client, _ = listener.accept()
            running[client] = _run(client)


def _run(client: socket.socket) -> int:
    """Fork a process that runs what the client asks for; returns its id."""
    length, streams, _, _ = socket.recv_fds(client, _LENGTH_BYTES, 2)
    with client.makefile("rb") as reader:
        request = json.loads(reader.read(int.from_bytes(length)))
    pid = os.fork()
    if pid:
        for stream in streams:
            os.close(stream)
        return pid
    code = 1
    try:
        for target, stream in enumerate(streams, start=1):
            os.dup2(stream, target)
        sys.stdout, sys.stderr = (open(target, "w", buffering=1, closefd=False) for target in (1, 2))  # noqa: SIM115
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["variables"])
        code = _dbt(request["arguments"])
    finally:
        sys.stdout.flush()
        os._exit(code)


def _dbt(arguments: list[str]) -> int:
    from dbt.cli.main import cli

    sys.argv = ["dbt", *arguments]
    try:
        cli()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _ask(address: str, arguments: list[str]) -> int:
    request = json.dumps({"arguments": arguments, "folder": os.getcwd(), "variables": dict(os.environ)}).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [len(request).to_bytes(_LENGTH_BYTES)], [1, 2])
        server.sendall(request)
        answer = server.recv(1)
    return answer[0] if answer else 1


if __name__ == "__main__":
    sys.exit(_ask(sys.argv[1], sys.argv[2:]))
