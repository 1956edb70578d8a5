"""`conduit explain` and `conduit authz` in a whole mesh: what they say is what happens to the same requests."""

import json
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.curl import curl
from tests.end_to_end.mesh_machine import Done, Mesh, client, machine_in, workload

POLICY = {
    "apiVersion": "conduit.mesh/v1alpha1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "friends"},
    "spec": {
        "target": {"kind": "Service", "name": "votes"},
        "from": [{"identities": ["friend.default.serviceaccount.identity.cluster.local"]}],
        "to": [{"methods": ["GET"], "paths": ["/open/*"]}],
    },
}
ROUTE = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "rename"},
    "spec": {
        "parentRefs": [{"kind": "Service", "group": "", "name": "alias"}],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/old"}}],
                "filters": [
                    {
                        "type": "URLRewrite",
                        "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/open"}},
                    }
                ],
                "backendRefs": [{"name": "votes", "port": 80}],
            }
        ],
    },
}
DOCUMENTS = [client("friend"), client("stranger"), workload("votes"), POLICY, ROUTE]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Two callers, and a service that one of them may read a part of."""
    with machine_in(tmp_path_factory.mktemp("mesh")) as machine:
        mesh = Mesh(machine, DOCUMENTS)
        mesh.until_serving("votes-1")
        mesh.until(lambda: len(mesh.connected()) == 3, "all proxies are connected")
        mesh.until(lambda: send(mesh, "friend", "GET", "votes", "/open/ready") == 200, "votes are open to friends")
        yield mesh


def send(mesh: Mesh, caller: str, method: str, service: str, path: str) -> int:
    """The status that a caller's request gets."""
    through = ("-x", mesh.sidecar(f"{caller}-1").proxy_url, "-X", method, "--path-as-is")
    return curl(f"http://{service}{path}", *through).status


def explain(mesh: Mesh, *words: str) -> tuple[Done, dict[str, Any]]:
    """What the command did, and what it printed as JSON."""
    done = mesh.machine.conduit("explain", *words, "-o", "json")
    assert done.out, done.err
    return done, json.loads(done.out)


def outcomes(trace: dict[str, Any], stages: Sequence[str]) -> list[tuple[str, str]]:
    return [(step["stage"], step["outcome"]) for step in trace["steps"] if step["stage"] in stages]


@pytest.mark.parametrize(
    ("caller", "method", "service", "path", "status", "verdict", "last"),
    [
        ("friend", "GET", "votes", "/open/1", 200, "allowed", "served"),
        ("friend", "POST", "votes", "/open/1", 403, "denied", "denied"),
        ("friend", "GET", "votes", "/closed", 403, "denied", "denied"),
        ("friend", "GET", "votes", "/open/%2e%2e/closed", 400, "refused", "ambiguous_path"),
        ("stranger", "GET", "votes", "/open/1", 403, "denied", "denied"),
        ("friend", "GET", "alias", "/old/1", 200, "allowed", "served"),
        ("friend", "GET", "alias", "/other", 404, "refused", "no_route"),
        ("stranger", "GET", "alias", "/old/1", 403, "denied", "denied"),
    ],
)
def test_what_is_explained_happens(
    mesh: Mesh, caller: str, method: str, service: str, path: str, status: int, verdict: str, last: str
) -> None:
    """Also if nobody has called that name before; and the other way round, asking has changed nothing."""
    for _ in range(2):
        done, trace = explain(mesh, "--from", caller, method, f"http://{service}{path}")
        assert trace["verdict"] == verdict, trace
        assert done.code == (0 if verdict == "allowed" else 1)
        assert trace["steps"][-1]["outcome"] == last
        assert send(mesh, caller, method, service, path) == status
    if status in (200, 403):
        policy = [step for step in trace["steps"] if step["stage"] == "policy"]
        assert [(step["where"], step["by"]) for step in policy] == [("votes.default", "default/friends")]
        assert ("tls", "mutual") in outcomes(trace, ["tls"])


def test_people_see_the_step_that_decides(mesh: Mesh) -> None:
    """It is marked, and the policy is named."""
    done = mesh.machine.conduit("explain", "--from", "stranger", "http://votes/open/1")
    [marked] = [line for line in done.out.splitlines() if line.startswith(">")]
    assert "votes.default" in marked
    assert "default/friends" in marked
    assert done.out.endswith("verdict: denied by default/friends\n")


def test_the_application_alone_is_asked_about_a_caller_without_proxy(mesh: Mesh) -> None:
    """As nobody, or as whoever one likes to try."""
    assert explain(mesh, "http://votes/open/1")[1]["verdict"] == "denied"
    friend = "friend.default.serviceaccount.identity.cluster.local"
    assert explain(mesh, "--identity", friend, "http://votes/open/1")[1]["verdict"] == "allowed"


def test_a_tapped_request_is_explained_beside_what_happened(mesh: Mesh) -> None:
    """By the id that tap shows, on either side."""
    tap = mesh.machine.start("tap", "--to", "votes", "-o", "json")

    def tapped() -> dict[str, dict[str, Any]]:
        assert send(mesh, "stranger", "GET", "votes", "/open/tapped") == 403
        lines = [line for line in tap.stdout.read_text().splitlines(keepends=True) if line.endswith("\n")]
        ends = [event for event in map(json.loads, lines) if event["event"] == "end"]
        return {event["proxy"]: event for event in ends}

    mesh.until(lambda: len(tapped()) == 2, "both proxies are tapped")
    for side, event in tapped().items():
        done, trace = explain(mesh, "--tap", f"{event['workload']}/{event['id']}")
        assert (done.code, trace["verdict"]) == (1, "denied")
        assert trace["happened"]["status"] == 403
        assert trace["happened"].get("policy", "") == ("default/friends" if side == "in" else "")
    tap.send_signal(signal.SIGINT)
    tap.wait(20.0)


def test_authz_counts_what_policies_decided(mesh: Mesh) -> None:
    """To the request, once the proxies have reported."""
    mesh.until(lambda: counts(mesh) == at_the_proxy(mesh), "what was before is reported")
    before = counts(mesh)
    for _ in range(3):
        assert send(mesh, "friend", "GET", "votes", "/open/counted") == 200
    for _ in range(2):
        assert send(mesh, "stranger", "GET", "votes", "/open/counted") == 403
    mesh.until(lambda: counts(mesh) == (before[0] + 3, before[1] + 2), "the requests are counted")


def at_the_proxy(mesh: Mesh) -> tuple[int, int]:
    """What the proxy of votes itself has counted for that policy."""
    text = mesh.sidecar("votes-1").ask("/metrics")[1]
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    of = [each for each in samples if each.labels.get("policy") == "default/friends"]
    allowed, denied = (
        int(sum(each.value for each in of if each.name == f"conduit_{kind}_total")) for kind in ("allowed", "denied")
    )
    return allowed, denied


def counts(mesh: Mesh) -> tuple[int, int]:
    """Allowed and denied by the policy of votes."""
    [row] = mesh.machine.ask("authz", "votes")
    assert (row["policy"], row["action"]) == ("default/friends", "Allow")
    return row["allowed"], row["denied"]
