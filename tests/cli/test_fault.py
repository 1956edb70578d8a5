"""conduit fault, against a real control plane."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

POLICY = """
apiVersion: conduit.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: words, namespace: demo}
spec:
  service: words
  faults: [{delay: 50ms, percent: 5}]
"""
KEPT = """---
apiVersion: conduit.mesh/v1alpha1
kind: Fault
metadata: {name: kept, namespace: demo}
spec: {service: words, abort: {}}
"""


def faults(conduit: Callable) -> list[dict]:
    """What `fault list` says to programs."""
    found: list[dict] = json.loads(conduit("fault", "list", "-o", "json").out)
    return found


def test_life_of_a_fault(conduit: Callable, control: str) -> None:
    """It is told what was made and when it lifts, is listed, and is gone when it was cleared."""
    what = ["--delay", "200ms", "--abort", 503, "--percent", 50]
    which = ["--path", "/a", "--method", "post", "--header", "X-U=v"]
    before = time.time()
    result = conduit("fault", "add", "words", "-n", "demo", "--name", "slow", *what, *which)
    first, second = result.out.splitlines()
    assert (result.code, result.err, first) == (0, "", "Fault demo/slow created")
    assert second.startswith(
        "50% of the requests to words with POST /a* x-u=v: wait 200ms, then 503 (gRPC UNAVAILABLE); lifts in 10m, at "
    )
    [row] = faults(conduit)
    assert (row["name"], row["service"], row["percent"], row["delay"]) == ("slow", "words", 50, 0.2)
    assert row["match"] == {"path": {"value": "/a"}, "method": "POST", "headers": [{"name": "x-u", "value": "v"}]}
    assert before + 599 < row["until"] < time.time() + 602
    table = conduit("fault", "list").out.splitlines()
    assert table[0].split() == ["NAMESPACE", "NAME", "SERVICE", "WHAT", "PERCENT", "MATCH", "LIFTS", "IN"]
    assert "wait 200ms, then 503 (gRPC UNAVAILABLE)" in table[1]
    assert conduit("fault", "clear", "slow") == (0, "Fault demo/slow deleted\n", "")
    assert conduit("fault", "list") == (0, "", "no faults\n")


def test_names_are_made(conduit: Callable, control: str) -> None:
    """Two faults of one service do not replace each other; one of the same name does."""
    for _ in range(2):
        assert conduit("fault", "add", "words", "-n", "demo", "--abort-grpc", "unavailable").code == 0
    assert len({row["name"] for row in faults(conduit)}) == 2
    assert all(row["name"].startswith("fault-") for row in faults(conduit))
    for status in (500, 502):
        result = conduit("fault", "add", "words", "-n", "demo", "--name", "one", "--abort", status)
    assert result.out.startswith("Fault demo/one configured\n")
    assert [row["abort_status"] for row in faults(conduit) if row["name"] == "one"] == [502]
    assert conduit("fault", "clear", "--service", "other") == (0, "", "no faults\n")
    assert conduit("fault", "clear", "--service", "words").out.count("deleted\n") == 3
    assert faults(conduit) == []


def test_it_lifts_by_itself(conduit: Callable, control: str) -> None:
    """And is not listed any more, nor kept."""
    assert conduit("fault", "add", "words", "-n", "demo", "--abort", 500, "--for", "1s").code == 0
    deadline = time.monotonic() + 15
    while conduit("get", "faults", "-o", "json").out.strip() != "[]":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert faults(conduit) == []


def test_faults_that_somebody_wrote(conduit: Callable, control: str, tmp_path: Path) -> None:
    """Those in policies and files are listed as well; clearing leaves them, and says where they stand."""
    policy, mesh = tmp_path / "policy.yaml", tmp_path / "mesh.yaml"
    policy.write_text(POLICY)
    assert conduit("apply", "-f", policy).code == 0
    mesh.write_text(mesh.read_text() + KEPT)
    deadline = time.monotonic() + 15
    while len(faults(conduit)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [(row["kind"], row["name"]) for row in faults(conduit)] == [("Fault", "kept"), ("TrafficPolicy", "words")]
    assert "TrafficPolicy/words" in conduit("fault", "list").out
    result = conduit("fault", "clear", "--all")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"conduit: {mesh}: Fault demo/kept was not applied but stands in this file")
    assert conduit("fault", "clear", "words").err == "conduit: there is no fault words\n"


def test_a_service_that_is_not_there(conduit: Callable, control: str) -> None:
    """A fault at a mistyped name would do nothing, and is refused with the names that there are."""
    result = conduit("fault", "add", "words", "--abort", 500)
    assert result == (1, "", "conduit: there is no service words in default, but in demo: give -n demo\n")
    result = conduit("fault", "add", "word", "-n", "demo", "--abort", 500)
    assert result == (1, "", "conduit: there is no service word in demo; the mesh has words\n")
    assert faults(conduit) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["add"], "Missing argument 'SERVICE'"),
        (["add", "words"], "Say what is to happen: --delay, --abort or --abort-grpc."),
        (["add", "words", "--abort", "5x"], "'5x' is not a valid integer"),
        (["add", "words", "--abort", "42"], "abort.status: "),
        (["add", "words", "--abort-grpc", "AVAILABLE"], "abort.grpc: "),
        (["add", "words", "--abort", "500", "--percent", "101"], "percent: "),
        (["add", "words", "--delay", "soon"], "'soon' is not a duration"),
        (["add", "words", "--abort", "500", "--header", "x"], "--header 'x' is not NAME=VALUE."),
        (["add", "words", "--abort", "500", "--path", "a"], "match.path.value: "),
        (["add", "words", "--abort", "500", "--for", "0"], "--for must be more than 0 and at most 168h."),
        (["add", "words", "--abort", "500", "--for", "169h"], "--for must be more than 0 and at most 168h."),
        (["add", "Words", "--abort", "500"], "service: "),
        (["add", "words", "--abort", "500", "--name", "a/b"], "metadata.name: "),
        (["clear"], "Give one of NAME, --service SERVICE and --all."),
        (["clear", "a", "--all"], "Give one of NAME, --service SERVICE and --all."),
        (["lift"], "No such command"),
    ],
)
def test_wrong_usage(conduit: Callable, words: list[str], told: str) -> None:
    """Told before anything is asked, so that no mesh is needed to see it."""
    result = conduit("fault", *words)
    assert (result.code, result.out) == (2, "")
    assert told in result.err


def test_same_name_in_two_namespaces(conduit: Callable, control: str, tmp_path: Path) -> None:
    """Which one is meant must be said."""
    path = tmp_path / "faults.yaml"
    path.write_text(KEPT + KEPT.replace("demo", "other"))
    assert conduit("apply", "-f", path).code == 0
    told = "conduit: there is a fault kept in demo, other: give -n demo\n"
    assert conduit("fault", "clear", "kept") == (1, "", told)
    assert conduit("fault", "clear", "kept", "-n", "other").out == "Fault other/kept deleted\n"
    assert [row["namespace"] for row in faults(conduit)] == ["demo"]
