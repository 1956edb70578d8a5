"""conduit delete, against a real control plane, and the life of an applied Workload in a real mesh."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from mesh.cli.delete import KINDS
from mesh.local.sidecar import CONDUIT

from .conftest import MESH, POLICY

SECONDS = 30.0
TALKER = """
import http.server, os, sys

class Talker(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", str(len(sys.argv[1])))
        self.end_headers()
        self.wfile.write(sys.argv[1].encode())

http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Talker).serve_forever()
"""
WORDS = """
apiVersion: conduit.mesh/v1alpha1
kind: Workload
metadata: {name: words}
spec: {command: [python, talker.py, %s], port: auto, directory: programs}
"""
CLIENT = """
apiVersion: conduit.mesh/v1alpha1
kind: Workload
metadata: {name: client}
spec: {command: [sleep, "600"]}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A file with a TrafficPolicy."""
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY % 2)
    return path


def test_applied_resource_is_taken_back(conduit: Callable, control: str, policy: Path) -> None:
    """By kind, however it is written, and name; a second time there is nothing to delete."""
    conduit("apply", "-f", policy)
    assert conduit("delete", "TP", "words", "-n", "demo") == (0, "TrafficPolicy demo/words deleted\n", "")
    assert json.loads(conduit("get", "tp", "-o", "json").out) == []
    result = conduit("delete", "trafficpolicy", "words", "-n", "demo")
    assert (result.code, result.out, result.err) == (
        1,
        "",
        f"conduit: the control plane at {control}: there is no TrafficPolicy demo/words\n",
    )


def test_namespace_that_was_forgotten(conduit: Callable, control: str, policy: Path) -> None:
    """Nothing is deleted by guess, but it is said where there is one of that name."""
    conduit("apply", "-f", policy)
    result = conduit("delete", "tp", "words")
    told = "conduit: there is no TrafficPolicy default/words, but in demo: give -n demo\n"
    assert result == (1, "", told)
    assert "there is no TrafficPolicy default/../x" in conduit("delete", "tp", "../x").err


def test_what_stands_in_a_watched_file(conduit: Callable, control: str, tmp_path: Path) -> None:
    """It is not ours to delete, and the file to edit is named; what took its place goes, and it is in force again."""
    source = tmp_path / "mesh.yaml"
    told = f"conduit: {source}: Workload demo/words-v1 was not applied but stands in this file: take it out there\n"
    assert conduit("delete", "workload", "words-v1", "-n", "demo") == (1, "", told)
    other = tmp_path / "other.yaml"
    other.write_text(MESH.replace("version: v1", "version: v2"))
    assert conduit("apply", "-f", other).code == 0
    again = f"Workload demo/words-v1 deleted (what {source} says is in force again)\n"
    assert conduit("delete", "-f", other) == (0, again, "")
    [view] = json.loads(conduit("get", "wl", "-o", "json").out)
    assert view["spec"]["version"] == "v1"


def test_all_that_stand_in_a_file(conduit: Callable, control: str, policy: Path) -> None:
    """One that cannot be deleted does not keep the others, and the exit code says that it was not all."""
    policy.write_text(policy.read_text() + "---" + POLICY.replace("name: words", "name: more") % 1 + "---" + MESH)
    conduit("apply", "-f", policy)
    result = conduit("delete", "-f", policy, "-o", "json")
    assert [(status["name"], status["result"]) for status in json.loads(result.out)] == [
        ("words", "deleted"),
        ("more", "deleted"),
    ]
    assert (result.code, result.err.count("\n"), "words-v1 was not applied" in result.err) == (1, 1, True)


@pytest.mark.parametrize(
    "words",
    [["workload"], ["all", "x"], ["proxies", "x"], ["workload", "x", "-f", "."], ["-f", ".", "-n", "demo"]],
)
def test_wrong_usage(conduit: Callable, words: list[str]) -> None:
    """Told before anything is asked."""
    result = conduit("delete", *words)
    assert (result.code, result.out) == (2, "")


def test_files_without_resources(conduit: Callable, tmp_path: Path) -> None:
    """A mistake in a file is told with its line, an empty file is one as well, and no mesh is needed to see it."""
    path = tmp_path / "a.yaml"
    path.write_text("# nothing\n")
    assert conduit("delete", "-f", path) == (1, "", f"conduit: {path}: holds no resource\n")
    path.write_text("kind: Workloads\n")
    assert conduit("delete", "-f", path).err.startswith(f"conduit: {path}:1: kind: ")


def test_kinds() -> None:
    """All that `get` knows but what is no resource."""
    assert (KINDS["wl"], KINDS["trafficpolicies"]) == ("Workload", "TrafficPolicy")
    assert not {"all", "proxies", "proxy"} & KINDS.keys()


def until(condition: Callable[[], object], what: str) -> object:
    """What the condition returns once that is true."""
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {what}"
        time.sleep(0.02)
    return found


def ours(runtime: Path, word: str = "") -> list[int]:
    """Processes with this runtime folder in their environment, and with the word there or among their words."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "environ").read_bytes() + (path / "cmdline").read_bytes()
        except OSError:
            continue  # another's, or gone
        if f"XDG_RUNTIME_DIR={runtime}".encode() in text and word.encode() in text:
            found.append(int(path.name))
    return found


def test_life_of_an_applied_workload(
    conduit: Callable, own_runtime_folder: Path, processes: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `up`, apply starts it in the folder of its file, apply changes it, and delete leaves no process of it."""
    mesh, away = tmp_path / "mesh.yaml", tmp_path / "away"
    mesh.write_text(CLIENT)
    (away / "programs").mkdir(parents=True)
    (away / "programs" / "talker.py").write_text(TALKER)
    (away / "words.yaml").write_text(WORDS % "one")
    up = processes([*CONDUIT, "up", "-f", mesh], cwd=tmp_path)
    until((own_runtime_folder / "mesh.json").exists, "the mesh runs")
    [proxy] = until(lambda: json.loads(conduit("get", "proxies", "-o", "json").out), "the client is there")
    monkeypatch.chdir(away)
    with httpx.Client(proxy=f"http://{proxy['outbound'][0]}", trust_env=False) as client:

        def said() -> str:
            answer = client.get("http://words/")
            return answer.text if answer.status_code == 200 else ""

        assert conduit("apply", "-f", "words.yaml").out == "Workload default/words created\n"
        until(lambda: said() == "one", "the service answers")
        (away / "words.yaml").write_text(WORDS % "two")
        assert conduit("apply", "-f", "words.yaml").out == "Workload default/words configured\n"
        until(lambda: said() == "two", "the new version answers")
        assert ours(own_runtime_folder.parent, "CONDUIT_WORKLOAD=words") != []
        assert conduit("delete", "workload", "words").out == "Workload default/words deleted\n"
        until(lambda: not ours(own_runtime_folder.parent, "CONDUIT_WORKLOAD=words"), "the program is gone")
        until(lambda: not ours(own_runtime_folder.parent, "/replicas/words-"), "its sidecars are gone")
        assert client.get("http://words/").status_code >= 500
    assert ours(own_runtime_folder.parent, "CONDUIT_WORKLOAD=client") != []
    up.terminate()
    assert up.wait() == 0, up.output()
    until(lambda: not ours(own_runtime_folder.parent), "nothing is left")
    assert os.listdir(own_runtime_folder) == ["mesh.lock"]
