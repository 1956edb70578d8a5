"""A place for replicas to join with a sidecar that stands in for the proxy, and a log that can be asked."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from mesh.local.guard import Guard
from mesh.local.replica import Place
from mesh.model.api import RuntimeFile
from mesh.model.resources import Metadata, Workload, WorkloadSpec

PROGRAMS = Path(__file__).parent / "programs"
SIDECAR = (sys.executable, "-I", "-S", str(PROGRAMS / "sidecar.py"))
CONTROL = (sys.executable, "-I", "-S", str(PROGRAMS / "control.py"))
SECONDS = 30.0


def here_in(state: Path) -> RuntimeFile:
    """A mesh of this process with that state folder, at an address where nobody answers."""
    return RuntimeFile("https://127.0.0.1:1", "secret", str(state), os.getpid(), str(state / "anchors.pem"))


class ListLog:
    """Keeps every line; `own` are the supervisor's."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.own: list[str] = []

    def line(self, speaker: str, text: str) -> None:
        """Keeps it."""
        self.lines.append((speaker, text))

    def say(self, text: str) -> None:
        """Keeps it."""
        self.own.append(text)

    def find(self, pattern: str) -> list[str]:
        """First groups of all matches in what was printed."""
        return [match[1] for _, text in self.lines if (match := re.search(pattern, text))]


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie that nobody reaps (in a container without an init) has."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Polls until the condition holds; fails after SECONDS."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {what}"
        await trio.sleep(0.01)


@pytest.fixture
def log() -> ListLog:
    """An empty log."""
    return ListLog()


@pytest.fixture
def guard() -> Iterator[Guard]:
    """A guard for the processes of one test."""
    with Guard() as guard:
        yield guard


@pytest.fixture
def place(tmp_path: Path, log: ListLog, guard: Guard) -> Place:
    """A mesh without a control plane; replicas do not miss it."""
    (tmp_path / "endpoints").mkdir()
    return Place(here_in(tmp_path), log, guard, SIDECAR)


@pytest.fixture
def workload() -> Callable[..., Workload]:
    """Call it with the words of the command and fields of the spec for a workload called web."""

    def make(*words: str, **fields: object) -> Workload:
        command = words or ("python", str(PROGRAMS / "server.py"))
        spec = WorkloadSpec(command=command, **{"port": "auto", **fields})
        return Workload(metadata=Metadata(name="web", namespace="demo"), spec=spec)

    return make


@pytest.fixture
def own_runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder for this test alone, not yet made; what other environment points to a mesh is taken away."""
    base = tmp_path / "run"
    base.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    for name in ("CONDUIT_CONTROL", "CONDUIT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    os.chmod(tmp_path, 0o700)
    return base / "conduit"
