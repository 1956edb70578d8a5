"""The shared fixtures do what tests rely on: real processes start, are seen to listen, and are ended."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LISTEN = "import socket,sys,time; s=socket.create_server(('127.0.0.1',int(sys.argv[1]))); time.sleep(600)"
STUBBORN_PARENT = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return when the condition holds; fail after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Say whether no living process has this id (a zombie that init has yet to reap is dead)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_ready_process_accepts(processes: Any, free_port: Callable[[], int]) -> None:
    """With `ready_port`, the process accepts connections when start returns."""
    port = free_port()
    processes([sys.executable, "-c", LISTEN, str(port)], ready_port=port)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        assert connection.getpeername()[1] == port


def test_death_before_ready_is_told(processes: Any, free_port: Callable[[], int]) -> None:
    """A process that ends before it listens fails at once, with what it printed in the message."""
    with pytest.raises(AssertionError, match="no such thing"):
        processes([sys.executable, "-c", "raise SystemExit('no such thing')"], ready_port=free_port())


def test_output_and_status(processes: Any, tmp_path: Path) -> None:
    """Output lands in files, `env` is added to ours, and `wait` returns the exit status."""
    program = "import os, sys; print(os.environ['WORD'], os.getcwd()); sys.exit(3)"
    handle = processes([sys.executable, "-c", program], env={"WORD": "hello"}, cwd=tmp_path)
    assert handle.wait() == 3
    assert handle.stdout.read_text() == f"hello {tmp_path}\n"
    assert handle.stderr.read_text() == ""


def test_reap_ends_the_stubborn_and_their_children(processes: Any, tmp_path: Path) -> None:
    """A stopped process that ignores SIGTERM is ended, reaped, and so is the child in its group."""
    note = tmp_path / "child"
    handle = processes([sys.executable, "-c", STUBBORN_PARENT, note])
    until(lambda: note.exists() and note.read_text() != "")
    os.kill(handle.pid, signal.SIGSTOP)
    handle.reap()
    assert handle.returncode == -signal.SIGKILL
    until(lambda: gone(int(note.read_text())))


def test_ports_differ(free_port: Callable[[], int]) -> None:
    """The same port is never handed out twice, and each can be bound."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
