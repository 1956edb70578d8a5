"""What all tests share: ports nobody uses, and real processes that never outlive their test.

Both fixtures are plain functions, so synchronous and Trio tests use them alike. Starting a
process blocks until it accepts connections; a Trio test whose own tasks that process needs
goes through `trio.to_thread.run_sync(processes, argv)`.
"""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

START_SECONDS = 40.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.02
LEAST_PORT = 10_000


class ProcessDied(AssertionError):
    """The process ended, or did not listen in time; the message carries what it printed."""


class Handle:
    """A running process, the leader of a group of its own, with its output in files."""

    def __init__(self, process: subprocess.Popen[bytes], stdout: Path, stderr: Path) -> None:
        self._process = process
        self.pid = process.pid
        self.stdout = stdout
        self.stderr = stderr

    def __repr__(self) -> str:
        return f"<Handle pid={self.pid} returncode={self._process.poll()}>"

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process itself; its children do not get it."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Ask the process to end (SIGTERM), without waiting for it."""
        self._process.terminate()

    def kill(self) -> None:
        """End the process at once (SIGKILL), without waiting for it."""
        self._process.kill()

    def wait(self, timeout: float = STOP_SECONDS) -> int:
        """Return the exit status, or raise subprocess.TimeoutExpired after `timeout` seconds."""
        return self._process.wait(timeout)

    def output(self) -> str:
        """All it has printed so far: stdout, then stderr."""
        return self.stdout.read_text(errors="replace") + self.stderr.read_text(errors="replace")

    def wait_for_port(self, port: int, timeout: float = START_SECONDS) -> None:
        """Return when something accepts on the loopback port; ProcessDied if that cannot happen."""
        deadline = time.monotonic() + timeout
        while True:
            if accepts(port):
                return
            if self.returncode is not None:
                raise ProcessDied(f"exit status {self.returncode} before port {port} was open:\n{self.output()}")
            if time.monotonic() > deadline:
                raise ProcessDied(f"port {port} was not open after {timeout:g} s:\n{self.output()}")
            try:
                self._process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue

    def reap(self) -> None:
        """End the process and all of its group: politely, then not; returns when it is gone."""
        if self.returncode is None:
            self.send_signal(signal.SIGCONT)  # a stopped process would not see what follows
            self.terminate()
            try:
                self.wait(2.0)
            except subprocess.TimeoutExpired:
                self.kill_group()
        self.kill_group()
        self.wait()

    def kill_group(self) -> None:
        """SIGKILL whatever is left of the process and of the children that stayed in its group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


class Start(Protocol):
    """The signature of the `processes` fixture."""

    def __call__(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready_port: int | None = None,
    ) -> Handle:
        """Start `argv`; `env` is added to ours; with `ready_port`, return once it accepts."""


def accepts(port: int) -> bool:
    """Say whether something accepts TCP connections on this loopback port now."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Call it for a loopback port that nobody listens on; never the same twice in a session.

    It is not one of those that the kernel gives to connections and to who binds port 0: between the choice and its use
    nobody gets it by chance.
    """
    first_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ours = list(range(LEAST_PORT, first_of_kernel)) or list(range(LEAST_PORT, 65536))
    random.Random(os.urandom(8)).shuffle(ours)  # another session on this machine has another order

    def choose() -> int:
        while True:
            port = ours.pop()
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue  # somebody has it
            return port

    return choose


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Start]:
    """Call it to start real processes; all of them are ended and reaped when the test is over."""
    started: list[Handle] = []

    def start(
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready_port: int | None = None,
    ) -> Handle:
        stem = f"process-{len(started)}-{Path(argv[0]).name}"
        stdout, stderr = tmp_path / f"{stem}.stdout", tmp_path / f"{stem}.stderr"
        with stdout.open("wb") as out, stderr.open("wb") as err:
            process = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )
        handle = Handle(process, stdout, stderr)
        started.append(handle)
        if ready_port is not None:
            handle.wait_for_port(ready_port)
        return handle

    try:
        yield start
    finally:
        for handle in reversed(started):
            handle.reap()
