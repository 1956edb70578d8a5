"""proxy.yaml: what is right is read, and each mistake is told in one line."""

import pytest

from mesh.model.config import Endpoint, Protocol, TlsMode
from mesh.model.errors import ConfigError
from mesh.model.limits import Limits
from mesh.model.proxy_yaml import load_proxy_config, resources_in
from mesh.model.resources import Fault, TrafficPolicy

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


def proxy_error(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_proxy_config(text, "f")
    return str(caught.value)


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


def inline(resource: str) -> str:
    return PROXY + f"resources:\n  - {resource}\n"


def test_inline_resources() -> None:
    """Each is read as it would be alone, without its apiVersion if one likes; lengths of time may be text."""
    config = load_proxy_config(
        inline("{kind: TrafficPolicy, metadata: {name: a}, spec: {service: echo, timeouts: {request: 1m30s}}}")
        + "  - {kind: Fault, apiVersion: conduit.mesh/v1alpha1, metadata: {name: b},"
        + " spec: {service: echo, delay: 5ms}}\n"
        + "  - {kind: HTTPRoute, metadata: {name: c}, spec: {parentRefs: [{group: '', kind: Service, name: echo}]}}\n",
        "f",
    )
    policy, fault, route = resources_in(config)
    assert isinstance(policy, TrafficPolicy)
    assert policy.spec.timeouts.request == 90
    assert isinstance(fault, Fault)
    assert (fault.spec.service, fault.spec.delay) == ("echo", 0.005)
    assert (route.kind, route.metadata.name) == ("HTTPRoute", "c")


@pytest.mark.parametrize(
    ("resource", "message"),
    [
        (
            "{kind: Endpoint}",
            "f:19: resources[0].kind: Endpoint means nothing here, only HTTPRoute, GRPCRoute, TrafficPolicy, Fault",
        ),
        (
            "{kind: TrafficPolcy}",
            "f:19: resources[0].kind: 'TrafficPolcy' is not a kind that we know; did you mean TrafficPolicy?",
        ),
        (
            "{kind: AuthorizationPolicy, metadata: {name: a}, spec: {target: {kind: Mesh}}}",
            "f:19: resources[0].spec.target.kind: only policies of the namespace conduit are for the whole mesh, ",
        ),
        (
            "{kind: PolicyPlugin, metadata: {name: a}, spec: {target: {kind: Namespace}, python: {function: 'a:b'}}}",
            "f:19: resources[0].spec.python: runs in a control plane: it means nothing here",
        ),
        ("{apiVersion: v1}", "f:19: resources[0].kind: is required: one of "),
        ("{kind: Fault, apiVersion: v1}", "f:19: resources[0].apiVersion: 'v1' is not what Fault has: conduit.mesh/v1"),
        (
            "{kind: HTTPRoute, metadata: {name: c}, spec: {parentRefs: [{name: echo}]}}",
            'f:19: resources[0].spec.parentRefs: none is a Service: `group: ""`, `kind: Service`',
        ),
        (
            "{kind: TrafficPolicy, metadata: {name: a}, spec: {service: echo, retry: {backoff: soon}}}",
            "f:19: resources[0].spec.retry.backoff: 'soon' is no duration: ",
        ),
    ],
)
def test_mistakes_in_inline_resources(resource: str, message: str) -> None:
    """Told with the whole path."""
    assert proxy_error(inline(resource)).startswith(message)


def test_policies_of_access_in_resources() -> None:
    """All four kinds may stand there."""
    target = "target: {kind: Namespace}"
    config = load_proxy_config(
        inline(f"{{kind: AuthorizationPolicy, metadata: {{name: a}}, spec: {{{target}, action: Deny}}}}")
        + f"  - {{kind: DefaultPolicy, metadata: {{name: b}}, spec: {{{target}, inbound: deny}}}}\n"
        + f"  - {{kind: EgressPolicy, metadata: {{name: c}}, spec: {{{target}}}}}\n"
        + f"  - {{kind: PolicyPlugin, metadata: {{name: d}}, spec: {{{target}, authorizer: {{service: 'a:1'}}}}}}\n",
        "f",
    )
    kinds = ["AuthorizationPolicy", "DefaultPolicy", "EgressPolicy", "PolicyPlugin"]
    assert [each.kind for each in resources_in(config)] == kinds


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("identity: {account: web}", "f:19: identity: needs `control`: it is the control plane that proves it"),
        ("identity: {account: Web}", "f:19: identity.account: 'Web' is no name: "),
        ("identity: {account: web, namespace: ''}", "f:19: identity.namespace: '' is no name: "),
        (
            "identity: {account: web, trust_domain: 'a b'}",
            "f:19: identity.trust_domain: 'a b' is no domain, in lower case",
        ),
        (
            "egress: {rules: [{name: a, destinations: [{hosts: [10.0.0.1]}]}]}",
            "f:19: egress.rules[0].destinations[0].hosts[0]: '10.0.0.1' is an address: those go into `networks`",
        ),
        ("egress: {default: deny}", "f:19: egress.default: 'deny' is none of Allow, Deny, Audit"),
    ],
)
def test_mistakes_about_identity_and_egress(added: str, message: str) -> None:
    """Told as all others are."""
    assert proxy_error(f"{PROXY}\n{added}\n").startswith(message)
