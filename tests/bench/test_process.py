"""What the benchmark starts, it ends: whatever happens in between."""

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench import process
from bench.process import BenchError, free_ports, running, wait_listening

CORE = min(os.sched_getaffinity(0))
LISTEN = "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); "
WAIT = LISTEN + "s.accept(); s.accept()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAIT
PARENT = (
    "import subprocess, sys; "
    f"subprocess.run([sys.executable, '-c', {STUBBORN!r}, sys.argv[1]])"  # a child that must be killed
)


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def listens(port: int) -> bool:
    """Whether anybody accepts on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("code", [WAIT, STUBBORN, PARENT], ids=["polite", "stubborn", "parent"])
def test_everything_is_ended(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the block no program is left, be it deaf to SIGTERM or somebody's child, even if the block failed."""
    monkeypatch.setattr(process, "STOP_SECONDS", 1.0)
    (port,) = free_ports(1)
    with pytest.raises(RuntimeError, match="mid-run"):
        fail_mid_run(python(code, str(port)), port, tmp_path / "log")
    assert not listens(port)


def fail_mid_run(command: list[str], port: int, log: Path) -> None:
    """Start a program, see it listen, and fail as a benchmark might."""
    with running("it", command, CORE, log) as it:
        wait_listening(it, port)
        raise RuntimeError("mid-run")


def test_pinned_to_its_core(tmp_path: Path) -> None:
    """A program may use the core it was given and no other."""
    (port,) = free_ports(1)
    with running("it", python(WAIT, str(port)), CORE, tmp_path / "log") as it:
        wait_listening(it, port)
        assert os.sched_getaffinity(it.pid) == {CORE}


def test_a_program_that_ends_at_once(tmp_path: Path) -> None:
    """A program that does not come up is reported with its status and its last words."""
    code = "import sys; print('no such option'); sys.exit(3)"
    (port,) = free_ports(1)
    said = "it ended with status 3\nno such option"
    with running("it", python(code), CORE, tmp_path / "log") as it, pytest.raises(BenchError, match=said):
        wait_listening(it, port)


def test_a_program_that_never_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a port has an end."""
    monkeypatch.setattr(process, "START_SECONDS", 0.1)
    taken, other = free_ports(2)
    said = f"did not listen on port {other}"
    with running("it", python(WAIT, str(taken)), CORE, tmp_path / "log") as it, pytest.raises(BenchError, match=said):
        wait_listening(it, other)


def test_ends_with_a_killed_benchmark(tmp_path: Path) -> None:
    """Should the benchmark itself be killed, what it started is told to end too."""
    (port,) = free_ports(1)
    code = (
        "import sys, pathlib; from bench.process import running, wait_listening; "
        f"r = running('it', [sys.executable, '-c', {WAIT!r}, '{port}'], {CORE}, pathlib.Path(sys.argv[1])); "
        f"it = r.__enter__(); wait_listening(it, {port}); print(it.pid, flush=True); sys.stdin.read()"
    )
    root = Path(process.__file__).parents[1]
    with subprocess.Popen(
        python(code, str(tmp_path / "log")), cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as benchmark:
        assert benchmark.stdout is not None
        pidfd = os.pidfd_open(int(benchmark.stdout.readline()))
        benchmark.send_signal(signal.SIGKILL)
        try:
            ended, _, _ = select.select([pidfd], [], [], 10)
            assert ended, "the program outlived the benchmark"
        finally:
            os.close(pidfd)


def test_free_ports_differ() -> None:
    """Ports handed out together are different."""
    assert len(set(free_ports(5))) == 5
