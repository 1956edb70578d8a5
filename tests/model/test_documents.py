"""Resources: what is right is read, and each mistake is told in one line."""

from pathlib import Path

import msgspec
import pytest
import yaml

from mesh.model.documents import decode_resource, load_documents
from mesh.model.errors import ConfigError
from mesh.model.resources import Endpoint as EndpointResource
from mesh.model.resources import TrafficPolicy, Workload

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

WORKLOAD = """\
apiVersion: conduit.mesh/v1alpha1
kind: Workload
metadata: {name: web, namespace: demo}
spec:
  command: [python, web.py]
  port: auto
  replicas: 2
  environment: {RPS: "80"}
"""
ENDPOINT = """\
apiVersion: conduit.mesh/v1alpha1
kind: Endpoint
metadata: {name: votes-1}
spec: {service: votes, workload: votes, address: "127.0.0.1:80"}
"""
POLICY = """\
apiVersion: conduit.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: votes}
spec:
  service: votes
  timeouts: {request: 1.5}
"""


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def resource_error(text: str) -> str:
    (document,) = load_documents(text, "f")
    with pytest.raises(ConfigError) as caught:
        decode_resource(document)
    return str(caught.value)


def test_good_resources() -> None:
    """Each kind is read as its struct, defaults filled in."""
    found = [decode_resource(document) for document in load_documents("---\n".join((WORKLOAD, ENDPOINT, POLICY)), "f")]
    workload, endpoint, policy = found
    assert isinstance(workload, Workload)
    assert (workload.metadata.namespace, workload.spec.port, workload.spec.replicas) == ("demo", "auto", 2)
    assert isinstance(endpoint, EndpointResource)
    assert (endpoint.metadata.namespace, endpoint.spec.address) == ("default", "127.0.0.1:80")
    assert isinstance(policy, TrafficPolicy)
    assert (policy.spec.timeouts.request, policy.spec.timeouts.connect) == (1.5, 0.0)


ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary, creationTimestamp: 2026-01-02T03:04:05Z}
spec:
  parentRefs: [{group: "", kind: Service, name: votes}]
  rules:
    - matches: [{path: {value: /v2}, queryParams: [{name: a, value: b}]}]
      backendRefs: [{name: v1, weight: 90}]
      timeouts: {request: 1s}
      retry: {backoff: 100ms}
"""
FAULT = """\
apiVersion: conduit.mesh/v1alpha1
kind: Fault
metadata: {name: slow}
spec: {service: votes, delay: 200ms, abort: {grpc: INTERNAL}, until: 2026-11-23T22:00:00Z}
"""


@pytest.mark.parametrize("text", [WORKLOAD, ENDPOINT, POLICY, ROUTE, FAULT], ids=lambda text: text.split()[3])
def test_what_is_shown_is_read_again(text: str) -> None:
    """As the same resource, from YAML in the envelope, so that it can be kept in files."""
    (document,) = load_documents(text, "f")
    resource = decode_resource(document)
    envelope = {"apiVersion": resource.api_version, "kind": resource.kind, **msgspec.to_builtins(resource)}
    (again,) = load_documents(yaml.safe_dump(envelope), "f")
    assert decode_resource(again) == resource


def test_the_examples_are_good() -> None:
    """What we ship as examples is what we accept."""
    files = sorted(EXAMPLES.rglob("mesh.yaml"))
    assert files
    for file in files:
        assert [decode_resource(document) for document in load_documents(file.read_text(), str(file))]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "kind: Workload\n",
            "",
            "f:1: kind: is required: one of AuthorizationPolicy, DefaultPolicy, EgressPolicy, Endpoint, Fault, "
            "GRPCRoute, HTTPRoute, PolicyPlugin, TrafficPolicy, Workload",
        ),
        (
            "kind: Workload",
            "kind: Workloads",
            "f:2: kind: 'Workloads' is not a kind that we know; did you mean Workload?",
        ),
        (
            "kind: Workload",
            "kind: ConfigMap",
            "f:2: kind: 'ConfigMap' is not a kind that we know; known are AuthorizationPolicy, DefaultPolicy, "
            "EgressPolicy, Endpoint, Fault, GRPCRoute, HTTPRoute, PolicyPlugin, TrafficPolicy, Workload",
        ),
        ("apiVersion: conduit.mesh/v1alpha1\n", "", "f:1: apiVersion: is required: conduit.mesh/v1alpha1"),
        (
            "conduit.mesh/v1alpha1",
            "v1",
            "f:1: apiVersion: 'v1' is not what Workload has: conduit.mesh/v1alpha1",
        ),
        ("spec:", "specs: 1\nspec:", "f:4: specs: is no field here; did you mean spec?"),
        ("name: web, ", "", "f:3: metadata.name: is required"),
        (
            "name: web",
            "name: Web",
            "f:3: metadata.name: 'Web' is no name: it must be 1 to 63 of a-z, 0-9 and -, "
            "beginning and ending with a letter or digit",
        ),
        (
            "demo",
            "''",
            "f:3: metadata.namespace: '' is no name: it must be 1 to 63 of a-z, 0-9 and -, "
            "beginning and ending with a letter or digit",
        ),
        ("name: web", "name: 7", "f:3: metadata.name: must be text, not a whole number: quote it"),
        ("  command: [python, web.py]\n", "", "f:4: spec.command: is required"),
        ("[python, web.py]", "[]", "f:5: spec.command: must name a program to run"),
        ("[python, web.py]", "python web.py", "f:5: spec.command: must be a list, not text"),
        ("[python, web.py]", "[python, 3]", "f:5: spec.command[1]: must be text, not a whole number: quote it"),
        ("[python, web.py]", '["a", "b\\0"]', "f:5: spec.command[1]: must not hold NUL"),
        ("port: auto", "port: 0", "f:6: spec.port: 0 is not within 1 and 65535"),
        ("port: auto", "port: 65536", "f:6: spec.port: 65536 is not within 1 and 65535"),
        ("port: auto", "port: http", "f:6: spec.port: 'http' is neither a number nor auto"),
        ("port: auto", "port: [80]", "f:6: spec.port: must be a whole number or text, not a list"),
        ("port: auto", "ports: 80", "f:6: spec.ports: is no field here; did you mean port?"),
        (
            "port: auto",
            "colour: red",
            "f:6: spec.colour: is no field here; known are command, service, version, directory, port, protocol, "
            "replicas, environment, zone, account",
        ),
        (
            "port: auto",
            "protocol: htp",
            "f:6: spec.protocol: 'htp' is none of detect, http1, http2, opaque",
        ),
        ("replicas: 2", "replicas: -1", "f:7: spec.replicas: -1 is not within 0 and 100"),
        ("replicas: 2", "replicas: 101", "f:7: spec.replicas: 101 is not within 0 and 100"),
        ("replicas: 2", "replicas: 1.5", "f:7: spec.replicas: must be a whole number, not a number"),
        ("replicas: 2", "replicas: yes", "f:7: spec.replicas: must be a whole number, not true or false"),
        ("port: auto", "port: 80", "f:7: spec.replicas: 2 replicas cannot share port 80: they need `port: auto`"),
        (
            "[python, web.py]\n  port: auto",
            "[serve, --port, '${PORT}']",
            "f:5: spec.command: ${PORT} stands for nothing without `port`",
        ),
        ("port: auto", 'directory: "a\\0b"', "f:6: spec.directory: must not hold NUL"),
        ('{RPS: "80"}', "{A: x, B: 80}", "f:8: spec.environment.B: must be text, not a whole number: quote it"),
        ('{RPS: "80"}', "{A: x, B: on}", "f:8: spec.environment.B: must be text, not true or false: quote it"),
        (
            '{RPS: "80"}',
            "{A=: x}",
            "f:8: spec.environment.A=: is no environment variable: empty, or with = or NUL",
        ),
    ],
)
def test_mistakes_in_a_workload(old: str, new: str, message: str) -> None:
    """Each mistake gives exactly this line."""
    assert resource_error(changed(WORKLOAD, old, new)) == message


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (ENDPOINT, '"127.0.0.1:80"', "127.0.0.1", "f:4: spec.address: '127.0.0.1' is not host:port"),
        (ENDPOINT, "127.0.0.1:80", "127.0.0.1:0", "f:4: spec.address: port 0 cannot be called"),
        (ENDPOINT, "127.0.0.1:80", "[::g]:80", "f:4: spec.address: [::g] is no IPv6 address"),
        (ENDPOINT, "127.0.0.1:80", "a:70000", "f:4: spec.address: port 70000 is over 65535"),
        (POLICY, "1.5", "-1", "f:6: spec.timeouts.request: must be seconds, 0 or more"),
        (POLICY, "1.5", ".nan", "f:6: spec.timeouts.request: must be seconds, 0 or more"),
        (
            POLICY,
            "1.5",
            "1x",
            "f:6: spec.timeouts.request: '1x' is no duration: a number of seconds, or such as 300ms, 1.5s, 1m30s",
        ),
        (
            POLICY,
            "1.5",
            "2s, backendRequest: 3s",
            "f:6: spec.timeouts.backendRequest: 3 s for one try is more than 2 s for the whole request",
        ),
        (POLICY, "request", "requst", "f:6: spec.timeouts.requst: is no field here; did you mean request?"),
        (POLICY, "{request: 1.5}", "3", "f:6: spec.timeouts: must be a mapping, not a whole number"),
    ],
)
def test_mistakes_in_other_kinds(text: str, old: str, new: str, message: str) -> None:
    """Each mistake gives exactly this line."""
    assert resource_error(changed(text, old, new)) == message
