"""Resources and proxy.yaml: what is right is read, and each mistake is told in one line."""

import re
from pathlib import Path

import pytest

from mesh.model.config import Endpoint, Protocol, ProxyConfig, Service, TlsMode
from mesh.model.documents import (
    decode,
    decode_resource,
    load_documents,
    load_proxy_config,
    nearest,
    parse_address,
)
from mesh.model.errors import ConfigError
from mesh.model.limits import Limits
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
PROXY = """\
admin: 127.0.0.1:4191
outbound:
  - listen: 127.0.0.1:4140
    service: echo
  - listen: 127.0.0.1:4141
inbound:
  - listen: 127.0.0.1:4143
    forward: 127.0.0.1:8080
    tls: {cert: web.pem, key: web.key, ca: ca.pem}
services:
  echo:
    protocol: http2
    endpoints:
      - 127.0.0.1:9000
      - {address: "[::1]:9001", weight: 2, identity: echo.demo}
limits: {streams: 10}
http2_codec: h2
"""
CONTROL = "\ncontrol: {url: 'http://127.0.0.1:1', token: t, workload: web}\n"


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def resource_error(text: str) -> str:
    (document,) = load_documents(text, "f")
    with pytest.raises(ConfigError) as caught:
        decode_resource(document)
    return str(caught.value)


def proxy_error(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_proxy_config(text, "f")
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


def test_the_examples_are_good() -> None:
    """What we ship as examples is what we accept."""
    files = sorted(EXAMPLES.rglob("mesh.yaml"))
    assert files
    for file in files:
        assert [decode_resource(document) for document in load_documents(file.read_text(), str(file))]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: Workload\n", "", "f:1: kind: is required: one of Endpoint, TrafficPolicy, Workload"),
        (
            "kind: Workload",
            "kind: Workloads",
            "f:2: kind: 'Workloads' is not a kind that we know; did you mean Workload?",
        ),
        (
            "kind: Workload",
            "kind: ConfigMap",
            "f:2: kind: 'ConfigMap' is not a kind that we know; known are Endpoint, TrafficPolicy, Workload",
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
            "replicas, environment",
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
        (POLICY, "1.5", "1s", "f:6: spec.timeouts.request: must be a number, not text"),
        (POLICY, "request", "requst", "f:6: spec.timeouts.requst: is no field here; did you mean request?"),
        (POLICY, "{request: 1.5}", "3", "f:6: spec.timeouts: must be a mapping, not a whole number"),
    ],
)
def test_mistakes_in_other_kinds(text: str, old: str, new: str, message: str) -> None:
    """Each mistake gives exactly this line."""
    assert resource_error(changed(text, old, new)) == message


def test_good_proxy_config() -> None:
    """A proxy.yaml is read as it stands, with defaults for what it leaves out."""
    config = load_proxy_config(PROXY, "f")
    assert config.services["echo"].protocol is Protocol.HTTP2
    assert config.services["echo"].endpoints[1] == Endpoint("[::1]:9001", 2, "echo.demo")
    assert config.inbound[0].tls is not None
    assert config.inbound[0].tls.mode is TlsMode.STRICT
    assert config.limits == Limits(streams=10)
    resources = f"resources:\n  - {{kind: TrafficPolicy, metadata: {{name: a}}, spec: {{service: echo}}}}\n{PROXY}"
    assert load_proxy_config(resources, "f").resources[0]["kind"] == "TrafficPolicy"
    assert load_proxy_config(changed(PROXY, "service: echo", "service: other") + CONTROL, "f").control is not None
    assert load_proxy_config("admin: localhost:0\nlimits: {drain_grace: 0}\n", "f").admin == "localhost:0"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("admin: 127.0.0.1:4191", "admin: 4191", "f:1: admin: must be text, not a whole number: quote it"),
        (
            "admin: 127.0.0.1:4191",
            "admin: 0.0.0.0:4191",
            "f:1: admin: 0.0.0.0:4191 is not a loopback address: who reads /tasks could be anybody",
        ),
        (
            "admin: 127.0.0.1:4191",
            "admin: example.org:80",
            "f:1: admin: example.org:80 is not a loopback address: who reads /tasks could be anybody",
        ),
        ("127.0.0.1:4140", "4140x", "f:3: outbound[0].listen: '4140x' is not host:port"),
        ("service: echo", "service: ecko", "f:4: outbound[0].service: ecko is not one of services; did you mean echo?"),
        ("127.0.0.1:4141", "127.0.0.1:4140", "f:5: outbound[1].listen: 127.0.0.1:4140 is taken by outbound[0]"),
        ("127.0.0.1:4143", "127.0.0.1:4140", "f:7: inbound[0].listen: 127.0.0.1:4140 is taken by outbound[0]"),
        ("    forward: 127.0.0.1:8080\n", "", "f:7: inbound[0].forward: is required"),
        ("127.0.0.1:8080", "127.0.0.1:0", "f:8: inbound[0].forward: port 0 cannot be called"),
        ("ca: ca.pem", "mode: strict", "f:9: inbound[0].tls.ca: is required"),
        ("ca: ca.pem", "ca: c, mode: lax", "f:9: inbound[0].tls.mode: 'lax' is none of strict, permissive"),
        ("  echo:\n", "  e cho:\n", "f:4: outbound[0].service: echo is not one of services; did you mean e cho?"),
        (
            "  echo:\n",
            "  other: {protocol: htp}\n  echo:\n",
            "f:11: services.other.protocol: 'htp' is none of detect, http1, http2, opaque",
        ),
        ("protocol: http2", "protocols: x", "f:12: services.echo.protocols: is no field here; did you mean protocol?"),
        (
            "- 127.0.0.1:9000",
            "- 9000",
            "f:14: services.echo.endpoints[0]: must be text or a mapping, not a whole number",
        ),
        ("- 127.0.0.1:9000", "- nowhere", "f:14: services.echo.endpoints[0]: 'nowhere' is not host:port"),
        ("weight: 2", "weight: -2", "f:15: services.echo.endpoints[1].weight: must be 0 or more"),
        ("weight: 2", "wait: 2", "f:15: services.echo.endpoints[1].wait: is no field here; did you mean weight?"),
        ("{streams: 10}", "{streams: 0}", "f:16: limits.streams: must be more than 0"),
        ("{streams: 10}", "{replay_bytes: -1}", "f:16: limits.replay_bytes: must be 0 or more"),
        ("{streams: 10}", "{idle_tcp: .inf}", "f:16: limits.idle_tcp: must be more than 0"),
        ("{streams: 10}", "{stream: 1}", "f:16: limits.stream: is no field here; did you mean streams?"),
        ("http2_codec: h2", "http2_codec: h3", "f:17: http2_codec: 'h3' is none of ngh2, h2"),
        (
            "http2_codec: h2",
            "resources:\n  - kind: TrafficPolicy\n    metadata: {name: a}\n    spec: {servce: echo}",
            "f:20: resources[0].spec.servce: is no field here; did you mean service?",
        ),
        (
            "http2_codec: h2",
            "control: {url: 'localhost:1', token: t, workload: web}",
            "f:17: control.url: 'localhost:1' is not http(s)://host:port",
        ),
        (
            "http2_codec: h2",
            "control: {url: 'http://localhost', token: t, workload: web}",
            "f:17: control.url: 'localhost' is not host:port",
        ),
        ("http2_codec: h2", "---\na: 1", "f:18: must hold one document, not 2"),
    ],
)
def test_mistakes_in_proxy_config(old: str, new: str, message: str) -> None:
    """Each mistake gives exactly this line."""
    assert proxy_error(changed(PROXY, old, new)) == message


def test_an_empty_proxy_config() -> None:
    """A file without a document says so; a service without services: says that too."""
    assert proxy_error("# nothing\n") == "f: must hold one document, not 0"
    text = "outbound:\n  - {listen: 'localhost:1', service: a}\n"
    assert proxy_error(text) == "f:2: outbound[0].service: a is not one of services; services: is empty"


def test_a_part_of_a_document() -> None:
    """`decode` takes a path, and its errors name the whole path; dotted keys are no obstacle."""
    (document,) = load_documents("a:\n  - {name: x}\n  - {name: y, wait: 1}\nc: {d.e: {protcol: 1}}\n", "f")
    assert decode(document, Service, path="a[0]") == Service("x")
    for path, message in (
        ("a[1]", "f:3: a[1].wait: is no field here; "),
        ("a[2]", "f:1: a[2]: is required"),
        ("b.x", "f:1: b.x: is required"),
    ):
        with pytest.raises(ConfigError, match="^" + re.escape(message)):
            decode(document, Service, path=path)
    with pytest.raises(ConfigError) as caught:
        decode(document, dict[str, Service], path="c")
    assert str(caught.value).startswith("f:4: c.d.e.protcol: is no field here; did you mean protocol?")
    with pytest.raises(ConfigError) as caught:
        decode(document, ProxyConfig)
    assert caught.value.line == 1


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("my_host.local:8080", ("my_host.local", 8080)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    """Names, IPv4 and bracketed IPv6, with a port."""
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":", ":80", "a", "a:", "a:b", "a:-1", "a:٣", "a:65536", "a:000080", "::1:80", "[::1]", "[]:1", "a b:1"]
)
def test_what_is_no_address(text: str) -> None:
    """Anything else is refused with a sentence."""
    with pytest.raises(ValueError, match=r"is not host:port|is over 65535|is no IPv6 address"):
        parse_address(text)


def test_nearest() -> None:
    """A typo gets a suggestion, anything else the list."""
    assert nearest("prot", ["port", "protocol"]) == "did you mean port?"
    assert nearest("x", ["port", "protocol"]) == "known are port, protocol"
