"""conduit apply, against a real control plane."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import MESH, POLICY


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A file with a TrafficPolicy."""
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY % 2)
    return path


def test_applied_resource_is_in_force(conduit: Callable, control: str, policy: Path) -> None:
    """Created, then unchanged, then configured; `get` shows it as it is now."""
    assert conduit("apply", "-f", policy) == (0, "TrafficPolicy demo/words created\n", "")
    assert conduit("apply", "-f", policy).out == "TrafficPolicy demo/words unchanged\n"
    policy.write_text(POLICY % 3)
    [status] = json.loads(conduit("apply", "-f", policy, "-o", "json").out)
    assert (status["name"], status["result"], status["accepted"]) == ("words", "configured", True)
    [view] = json.loads(conduit("get", "tp", "words", "-o", "json").out)
    assert view["spec"]["timeouts"] == {"request": 3.0}


def test_mistake_is_told_with_its_place(conduit: Callable, control: str, policy: Path) -> None:
    """File, line and field as an editor wants them; what was in force stays."""
    conduit("apply", "-f", policy)
    policy.write_text(POLICY.replace("timeouts", "timeout") % 9)
    result = conduit("apply", "-f", policy)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"conduit: {policy}:7: spec.timeout: ")
    [view] = json.loads(conduit("get", "tp", "-o", "json").out)
    assert view["spec"]["timeouts"] == {"request": 2.0}


def test_folders_and_stdin(conduit: Callable, control: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder stands for the YAML files in it, in order; - for stdin; an empty folder is a mistake.

    What is accepted but has no effect is told with the reason."""
    folder = tmp_path / "policies"
    folder.mkdir()
    result = conduit("apply", "-f", folder)
    assert (result.code, result.err) == (1, f"conduit: {folder}: holds no .yaml file\n")
    for name in ("b", "a"):
        (folder / f"{name}.yaml").write_text(POLICY.replace("name: words", f"name: {name}") % 1)
    (folder / "notes.txt").write_text("not YAML: [")
    assert conduit("apply", "-f", folder).out == (
        "TrafficPolicy demo/a created\n"
        "TrafficPolicy demo/b created (Conflicted: TrafficPolicy a holds for service words)\n"
    )
    read, write = os.pipe()
    os.write(write, (POLICY % 4).encode())
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert conduit("apply", "-f", "-").out.startswith("TrafficPolicy demo/words created")


def test_name_beyond_ascii(conduit: Callable, control: str, tmp_path: Path) -> None:
    """A file's name reaches the reader as it is, whatever a header field could carry."""
    path = tmp_path / "règles.yaml"
    path.write_text("kind: Nothing\n")
    assert conduit("apply", "-f", path).err.startswith(f"conduit: {path}:1: kind: ")


def test_get_shows_the_file(conduit: Callable, control: str, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its whole path, however it was given; what keeps it is not to be seen among the annotations."""
    monkeypatch.chdir(policy.parent)
    odd = policy.rename(policy.with_name("rè gles%41.yaml"))
    conduit("apply", "-f", odd.name)
    [view] = json.loads(conduit("get", "tp", "-o", "json").out)
    assert (view["status"]["file"], view["metadata"]) == (str(odd.resolve()), {"name": "words", "namespace": "demo"})


def test_workload_that_could_not_run(conduit: Callable, control: str, policy: Path) -> None:
    """It is refused at once, rather than accepted and never started."""
    policy.write_text(MESH.replace("port: auto", "port: 80"))
    result = conduit("apply", "-f", policy)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"conduit: {policy}:5: spec.replicas: 2 replicas cannot share port 80")


MANY = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary, namespace: demo}
spec:
  parentRefs: [{group: "", kind: Service, name: votes}]
  rules: [{backendRefs: [{name: votes-v1, weight: 9}, {name: %s}]}]
---
apiVersion: conduit.mesh/v1alpha1
kind: Fault
metadata: {name: slow, namespace: demo}
spec: {service: votes, delay: 200ms, until: 2099-01-01T00:00:00Z}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: demo}
spec:
  parentRefs: [{group: "", kind: Service, name: words}]
  rules: [{matches: [{method: {service: words.Words}}], backendRefs: [{name: votes-v1}]}]
---
apiVersion: conduit.mesh/v1alpha1
kind: Workload
metadata: {name: votes-v1, namespace: demo}
spec: {command: [x], port: auto}
"""


def test_many_kinds_in_one_file(conduit: Callable, control: str, tmp_path: Path) -> None:
    """What refers to what may stand before it; a reference that leads nowhere is told; all can be taken back."""
    path = tmp_path / "many.yaml"
    path.write_text(MANY % "words")
    created = [
        *("HTTPRoute demo/canary created", "Fault demo/slow created", "GRPCRoute demo/calls created"),
        "Workload demo/votes-v1 created",
    ]
    result = conduit("apply", "-f", path)
    assert (result.code, result.out.splitlines(), result.err) == (0, created, "")
    assert "votes-v1:9,words:1" in conduit("get", "httproutes").out
    path.write_text(MANY % "votes-v2")
    again = conduit("apply", "-f", path).out.splitlines()
    assert again[0].startswith("HTTPRoute demo/canary configured (BackendNotFound: rules[0]: ")
    assert [line.rpartition(" ")[2] for line in again[1:]] == ["unchanged"] * 3
    assert conduit("delete", "-f", path).out.count(" deleted\n") == 4
    assert json.loads(conduit("get", "grpcroutes", "-o", "json").out) == []
