"""Starting, pinning and ending the programs of a benchmark.

Every program is started here, in a session of its own, on one named core, with its output in a log
file, and every one is ended and waited for when its `with` block is left, for whatever reason.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 15.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.02
LOG_TAIL_LINES = 15


class BenchError(Exception):
    """A benchmark could not be set up or a run of it is not valid; the text says why."""


@dataclass(frozen=True, slots=True)
class Running:
    """A started program: its name for messages, its process and where its output goes."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def why_it_ended(self) -> str:
        """The exit status and the last lines of the log, for an error message."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"{self.name} ended with status {self.popen.returncode}", *lines])


def pinned(command: list[str], core: int) -> list[str]:
    """`command`, run by util-linux so that it stays on `core` and is ended should this process be killed."""
    return ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *command]


@contextmanager
def running(name: str, command: list[str], core: int, log: Path) -> Iterator[Running]:
    """Run `command` on `core` for the length of the block.

    Leaving sends SIGTERM, waits `STOP_SECONDS`, then kills whatever is left of the program's session.
    """
    with log.open("wb") as output:
        popen = subprocess.Popen(
            pinned(command, core),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Running(name, popen, log)
    finally:
        end(popen)


def end(popen: subprocess.Popen[bytes]) -> None:
    """Stop a program and its children, politely first.

    Returns when the program has been waited for and its children are gone: they are not ours to wait
    for, so that is watched for `STOP_SECONDS` at most.
    """
    try:
        popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            popen.wait(STOP_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
        deadline = time.monotonic() + STOP_SECONDS
        with suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(popen.pid, 0)  # only asks whether anybody is left
                time.sleep(POLL_SECONDS)


def wait_listening(program: Running, port: int) -> None:
    """Return when 127.0.0.1:`port` accepts connections.

    Raises BenchError with the end of the program's log if it has ended or takes longer than `START_SECONDS`.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if program.popen.poll() is not None:
            raise BenchError(program.why_it_ended())
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(POLL_SECONDS)
    raise BenchError(f"{program.name} did not listen on port {port} within {START_SECONDS:.0f} s")


def free_ports(count: int) -> list[int]:
    """`count` different loopback ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
