"""conduit get, against a real control plane."""

import json
from collections.abc import Callable

import pytest

from mesh.cli.get import names


def test_workloads_as_a_table(conduit: Callable, control: str) -> None:
    """What was left to its default is shown as what it means."""
    assert conduit("get", "workloads") == (
        0,
        "NAMESPACE   NAME       SERVICE   VERSION   PORT   PROTOCOL   REPLICAS   STATUS\n"
        "demo        words-v1   words     v1        auto   detect     2          Accepted\n",
        "",
    )
    assert "mesh.yaml" in conduit("get", "workload", "words-v1", "-n", "demo", "-o", "wide").out


def test_json_is_a_list_of_resources(conduit: Callable, control: str) -> None:
    """In the envelope they were written in, with a status; an empty list where there is none."""
    [view] = json.loads(conduit("get", "all", "-o", "json").out)
    assert (view["kind"], view["metadata"]["name"], view["status"]["accepted"]) == ("Workload", "words-v1", True)
    assert json.loads(conduit("get", "proxies", "-o", "json").out) == []
    assert json.loads(conduit("get", "wl", "-n", "elsewhere", "-o", "json").out) == []


def test_nothing_is_told_apart(conduit: Callable, control: str) -> None:
    """No resource of a kind is fine; a named one that is missing is not."""
    assert conduit("get", "endpoints") == (0, "", "nothing found\n")
    assert conduit("get", "workload", "other") == (1, "", "conduit: there is no Workload other\n")


@pytest.mark.parametrize(
    ("word", "kind"),
    [("workload", "Workload"), ("ep", "Endpoint"), ("trafficpolicies", "TrafficPolicy"), ("all", "")],
)
def test_ways_to_write_a_kind(word: str, kind: str) -> None:
    """Singular, plural and short."""
    assert names()[word] == kind
