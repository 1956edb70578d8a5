"""conduit policy: what it asks for, what it prints, and how it ends."""

import datetime
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest
import yaml

from mesh.model.api import EndpointInfo, ResourceStatus, ResourceView, SeenRow
from mesh.model.resources import API_VERSION, Metadata

HOME = ".demo.serviceaccount.identity.cluster.local"
WEB = f"web{HOME}"
ROW = SeenRow(
    namespace="demo",
    service="votes",
    identity=WEB,
    source="",
    protocol="http",
    method="GET",
    path="/polls/*",
    example="/polls/1",
    requests=7,
    allowed={"default:all-unauthenticated": 7},
    denied={},
    audited={},
    workloads={"votes-v1": 7},
    first=1_700_000_000.0,
    last=1_700_000_060.0,
)
DENY = """
apiVersion: conduit.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-web, namespace: demo}
spec:
  target: {kind: Service, name: votes}
  action: Deny
  from: [{namespaces: [demo]}]
"""


class Plane:
    """A control plane's answers over real HTTP; `asked` are the targets in order."""

    def __init__(self):
        self.rows = [ROW]
        self.views = []
        self.asked = []
        plane = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                plane.asked.append(self.path)
                path = self.path.partition("?")[0].rpartition("/")[2]
                endpoint = EndpointInfo("demo", "quiet", "quiet", "127.0.0.1:1", "", "http1", 1)
                body = msgspec.json.encode(
                    {"seen": plane.rows, "resources": plane.views, "endpoints": [endpoint]}[path]
                )
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                """Not a word."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def plane(conduit, monkeypatch):
    """One that the environment points to."""
    plane = Plane()
    thread = threading.Thread(target=plane.server.serve_forever)
    thread.start()
    monkeypatch.setenv("CONDUIT_CONTROL", plane.url)
    monkeypatch.setenv("CONDUIT_TOKEN", "secret")
    yield plane
    plane.server.shutdown()
    thread.join()
    plane.server.server_close()


def view(kind, name, accepted=True, **spec):
    status = ResourceStatus(kind, "demo", name, accepted=accepted)
    return ResourceView(API_VERSION, kind, Metadata(name, "demo"), spec, status)


def test_suggest_prints_yaml_that_can_be_applied(plane, conduit):
    """Policies as documents, with what they are from and what they leave out in comments."""
    result = conduit("policy", "suggest")
    assert (result.code, result.err) == (0, "")
    assert "# votes.demo: 7 requests from 2023-11-14 22:13:20Z to 2023-11-14 22:14:20Z" in result.out
    assert "# nothing was seen of quiet: nobody may call them any more" in result.out
    assert list(yaml.safe_load_all(result.out)) == [
        {
            "apiVersion": "conduit.mesh/v1alpha1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "seen-votes", "namespace": "demo"},
            "spec": {
                "target": {"kind": "Service", "name": "votes"},
                "from": [{"identities": [WEB]}],
                "to": [{"methods": ["GET"], "paths": ["/polls/*"]}],
            },
        },
        {
            "apiVersion": "conduit.mesh/v1alpha1",
            "kind": "DefaultPolicy",
            "metadata": {"name": "seen-default", "namespace": "demo"},
            "spec": {"target": {"kind": "Namespace"}, "inbound": "deny"},
        },
    ]
    assert plane.asked[0] == "/api/v1/seen?since=3600.0"


def test_suggest_for_one_service_closes_nothing_else(plane, conduit):
    """The filters go to the control plane; JSON has policies and notes apart."""
    result = conduit("policy", "suggest", "--service", "votes", "-n", "demo", "--since", "0", "-o", "json")
    found = json.loads(result.out)
    assert [each["kind"] for each in found["policies"]] == ["AuthorizationPolicy"]
    assert found["notes"][0].startswith("votes.demo: 7 requests")
    assert plane.asked[0] == "/api/v1/seen?since=0.0&service=votes&namespace=demo"


def test_suggest_follows_the_default_that_is_there(plane, conduit):
    """A DefaultPolicy in force keeps its name and its other words; what was refused is passed over."""
    plane.views = [
        view("DefaultPolicy", "ours", target={"kind": "Namespace"}, inbound="audit", tls="strict"),
        view("DefaultPolicy", "wrong", accepted=False),
        view("FromTheFuture", "x", what="ever"),
    ]
    created = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    metadata = Metadata("ours", "demo", {"a": "b"}, created=created)
    plane.views[0] = msgspec.structs.replace(plane.views[0], metadata=metadata)
    [_, default] = yaml.safe_load_all(conduit("policy", "suggest").out)
    assert (default["metadata"]["name"], default["metadata"]["labels"]) == ("ours", {"a": "b"})
    assert default["spec"] == {"target": {"kind": "Namespace"}, "inbound": "deny", "tls": "strict"}


def test_suggest_from_nothing_fails(plane, conduit):
    """Policies from no traffic would close everything."""
    plane.rows = []
    result = conduit("policy", "suggest")
    assert (result.code, result.out) == (1, "")
    assert "no traffic was seen" in result.err


def test_what_is_suggested_changes_nothing(plane, conduit, tmp_path):
    """The one command's output, given to the other: exit 0, nothing on stdout."""
    file = tmp_path / "policies.yaml"
    file.write_text(conduit("policy", "suggest").out)
    result = conduit("policy", "test", "-f", file)
    assert (result.code, result.out, result.err) == (0, "", "nothing would change for 7 recorded requests\n")


def test_test_lists_what_would_be_denied(plane, conduit, tmp_path):
    """A table, exit 1; nothing was asked but questions."""
    file = tmp_path / "new.yaml"
    file.write_text(DENY)
    result = conduit("policy", "test", "-f", file)
    assert result.code == 1
    title, line = result.out.splitlines()
    assert title.split() == ["CHANGE", "SERVICE", "CALLER", "REQUEST", "REQUESTS", "NOW", "THEN"]
    assert line.split() == [
        *("denied", "votes.demo", WEB, "GET", "/polls/*", "7", "default:all-unauthenticated", "demo/no-web"),
    ]
    assert result.err == "1 change for 7 recorded requests\n"
    assert {target.partition("?")[0] for target in plane.asked} == {"/api/v1/seen", "/api/v1/resources"}


@pytest.mark.parametrize("how", ["json", "yaml"])
def test_test_tells_programs(plane, conduit, tmp_path, how):
    """All of it on stdout, the exit code alike."""
    file = tmp_path / "new.yaml"
    file.write_text(DENY)
    result = conduit("policy", "test", "-f", file, "-o", how)
    found = yaml.safe_load(result.out)
    assert (result.code, result.err, found["requests"], found["notes"]) == (1, "", 7, [])
    [change] = found["changes"]
    assert (change["change"], change["caller"], change["after"], change["partly"]) == (
        "denied",
        WEB,
        "demo/no-web",
        False,
    )


def test_test_knows_what_is_in_force(plane, conduit, tmp_path):
    """What is denied already is no change; taking that away is one, which is no failure."""
    spec = {"target": {"kind": "Service", "name": "votes"}, "action": "Deny", "from": [{"namespaces": ["demo"]}]}
    plane.views = [view("AuthorizationPolicy", "no-web", **spec)]
    file = tmp_path / "new.yaml"
    file.write_text(DENY)
    assert conduit("policy", "test", "-f", file).err == "nothing would change for 7 recorded requests\n"
    file.write_text(DENY.replace("[demo]}]", "[other]}]"))
    result = conduit("policy", "test", "-f", file)
    assert result.code == 0
    assert result.out.splitlines()[1].startswith("allowed")


def test_bad_yaml_is_told_by_its_place(plane, conduit, tmp_path):
    """File, line and field; nobody was asked."""
    file = tmp_path / "new.yaml"
    file.write_text(DENY.replace("Deny", "Refuse"))
    result = conduit("policy", "test", "-f", file)
    assert (result.code, result.out, plane.asked) == (1, "", [])
    assert result.err.startswith(f"conduit: {file}:7: spec.action: ")
