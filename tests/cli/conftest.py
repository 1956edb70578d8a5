"""A real control plane in a process of its own, and a way to run commands as a shell would see them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from mesh.cli.main import main
from mesh.local import trust
from mesh.local.sidecar import CONDUIT

MESH = """
apiVersion: conduit.mesh/v1alpha1
kind: Workload
metadata: {name: words-v1, namespace: demo}
spec: {service: words, version: v1, command: [python, words.py], port: auto, replicas: 2}
"""
POLICY = """
apiVersion: conduit.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: words, namespace: demo}
spec:
  service: words
  timeouts: {request: %s}
"""


class Result(NamedTuple):
    """What a shell would see of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def own_runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder for this test alone, not yet made; no environment points to another mesh."""
    base = tmp_path / "run"
    base.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    for name in ("CONDUIT_CONTROL", "CONDUIT_TOKEN", "CONDUIT_CA"):
        monkeypatch.delenv(name, raising=False)
    return base / "conduit"


@pytest.fixture
def conduit(capfd: pytest.CaptureFixture[str], own_runtime_folder: Path) -> Callable[..., Result]:
    """Call it with the words after `conduit`."""

    def run(*words: object) -> Result:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def control(
    processes: Callable,
    free_port: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own_runtime_folder: Path,
) -> str:
    """URL of a running control plane that knows MESH; the environment points to it."""
    source = tmp_path / "mesh.yaml"
    source.write_text(MESH)
    port = free_port()
    words = ["control", "--source", source, "--state", tmp_path / "state", "--listen", f"127.0.0.1:{port}"]
    handle = processes([*CONDUIT, *words], env={"CONDUIT_TOKEN": "secret"}, ready_port=port)
    answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/version", headers={"Authorization": "Bearer secret"})
    assert answer.status_code == 200, handle.output()
    monkeypatch.setenv("CONDUIT_CONTROL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("CONDUIT_TOKEN", "secret")
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def secure(
    processes: Callable,
    free_port: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own_runtime_folder: Path,
) -> str:
    """https URL of a running control plane with trust of its own, which knows MESH; the environment points to it."""
    source, state = tmp_path / "mesh.yaml", tmp_path / "state"
    source.write_text(MESH)
    state.mkdir()
    files = trust.make(state)
    port = free_port()
    words = ["control", "--source", source, "--state", state, "--listen", f"127.0.0.1:{port}", *trust.options(files)]
    processes([*CONDUIT, *words], env={"CONDUIT_TOKEN": "secret"}, ready_port=port)
    monkeypatch.setenv("CONDUIT_CONTROL", f"https://127.0.0.1:{port}")
    monkeypatch.setenv("CONDUIT_TOKEN", "secret")
    monkeypatch.setenv("CONDUIT_CA", str(files.anchors))
    return f"https://127.0.0.1:{port}"
