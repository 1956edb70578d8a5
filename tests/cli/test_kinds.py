"""What `conduit get` shows of each kind."""

import msgspec
import pytest

from mesh.cli.kinds import SPECIFIC, columns
from mesh.cli.output import table
from mesh.model.api import Condition, ResourceStatus, ResourceView
from mesh.model.documents import decode_resource, load_documents
from mesh.model.resources import KINDS, Metadata

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: %s
metadata: {name: canary, namespace: demo}
spec:
  parentRefs: [{group: "", kind: Service, name: votes}, {group: "", kind: Service, name: words, namespace: other}]
  rules: %s
"""
CONDUIT = """
apiVersion: conduit.mesh/v1alpha1
kind: %s
metadata: {name: x, namespace: demo}
spec: %s
"""


def shown(text: str, *conditions: Condition, wide: bool = False) -> dict[str, str]:
    """The cells of one resource by their titles."""
    [document] = load_documents(text, "f")
    resource = decode_resource(document)
    status = ResourceStatus(resource.kind, "demo", resource.metadata.name, file="f", conditions=conditions)
    view = ResourceView(
        resource.api_version, resource.kind, resource.metadata, msgspec.to_builtins(resource.spec), status
    )
    chosen = [column for column in columns(resource.kind) if wide or not column.wide]
    assert table([view], columns(resource.kind), wide=wide).count("\n") == 2
    return {column.title: column.cell(view) for column in chosen}


def test_every_kind_has_its_columns() -> None:
    """None is shown by its name alone."""
    assert SPECIFIC.keys() == KINDS.keys()


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ("[{backendRefs: [{name: v1, weight: 90}, {name: v2, weight: 10}]}]", "v1:90,v2:10"),
        ("[{backendRefs: [{name: v1, namespace: other}]}, {backendRefs: [{name: v2}]}]", "v1.other; v2"),
        ("[{backendRefs: [{name: v1, namespace: demo}, {name: v2, weight: 0}]}]", "v1:1,v2:0"),
        ("[{backendRefs: [{name: b, kind: Bucket, group: x.io}]}]", "Bucket/b"),
        ("[{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}]", "redirect"),
        ("[{}]", "(nowhere)"),
    ],
)
def test_routes(rules: str, text: str) -> None:
    """Parents and backends as one would call them from the route's namespace, with weights where they share."""
    cells = shown(ROUTE % ("HTTPRoute", rules))
    assert (cells["PARENTS"], cells["BACKENDS"]) == ("votes,words.other", text)


def test_grpc_routes() -> None:
    """Like those of HTTP."""
    cells = shown(ROUTE % ("GRPCRoute", "[{backendRefs: [{name: v1}]}]"))
    assert (cells["PARENTS"], cells["BACKENDS"]) == ("votes,words.other", "v1")


def test_conditions() -> None:
    """What holds is named, what does not with the reason."""
    good = Condition("Accepted", True, "Accepted")
    bad = Condition("ResolvedRefs", False, "BackendNotFound", "rules[0]: there is no v1")
    cells = shown(ROUTE % ("HTTPRoute", "[{backendRefs: [{name: v1}]}]"), good, bad)
    assert cells["STATUS"] == "Accepted, not ResolvedRefs: rules[0]: there is no v1"
    assert shown(CONDUIT % ("TrafficPolicy", "{service: votes}"))["STATUS"] == "Accepted"


def test_policies() -> None:
    """What they say anything about."""
    cells = shown(CONDUIT % ("TrafficPolicy", "{service: votes, protocol: http1, retry: {}, breaker: {failures: 3}}"))
    assert (cells["SERVICE"], cells["PROTOCOL"], cells["SETS"]) == ("votes", "http1", "retry,breaker")


def test_faults() -> None:
    """As `conduit fault list` shows them."""
    cells = shown(CONDUIT % ("Fault", "{service: votes, percent: 5, delay: 2s, match: {method: GET}}"))
    assert [cells[title] for title in ("SERVICE", "WHAT", "PERCENT", "MATCH", "LIFTS IN")] == [
        *("votes", "wait 2s", "5%", "GET", "-"),
    ]


def test_endpoints() -> None:
    """A weight of 0 is a weight."""
    spec = '{service: votes, workload: v1, address: "127.0.0.1:9", weight: 0, zone: a}'
    cells = shown(CONDUIT % ("Endpoint", spec), wide=True)
    assert (cells["ADDRESS"], cells["WEIGHT"], cells["ZONE"], cells["VERSION"]) == ("127.0.0.1:9", "0", "a", "-")


def test_policies_of_access() -> None:
    """What they are for, what they do, and to how many."""
    spec = "{target: {kind: Service, name: votes}, from: [{namespaces: [a]}, {namespaces: [b]}]}"
    cells = shown(CONDUIT % ("AuthorizationPolicy", spec))
    assert [cells[title] for title in ("TARGET", "ACTION", "FROM", "TO")] == ["service votes", "Allow", "2", "anything"]
    cells = shown(CONDUIT % ("EgressPolicy", "{target: {kind: Namespace}, action: Deny, to: [{ports: [25]}]}"))
    assert [cells[title] for title in ("TARGET", "ACTION", "TO")] == ["namespace", "Deny", "1"]
    cells = shown(CONDUIT % ("DefaultPolicy", "{target: {kind: Namespace}, inbound: deny, tls: strict}"))
    assert (cells["TARGET"], cells["SAYS"]) == ("namespace", "inbound deny,tls strict")


@pytest.mark.parametrize(
    ("who", "text"),
    [("authorizer: {service: judge}", "authorizer judge"), ("python: {function: 'a:b'}", "python a:b")],
)
def test_plugins(who: str, text: str) -> None:
    """Who is asked."""
    assert shown(CONDUIT % ("PolicyPlugin", f"{{target: {{kind: Namespace}}, {who}}}"))["ASKS"] == text


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_was_refused(kind: str) -> None:
    """It has no spec to show, but the reason."""
    status = ResourceStatus(kind, "demo", "x", accepted=False, reason="f:3: spec.x: is wrong")
    view = ResourceView("v1", kind, Metadata("x"), {}, status)
    cells = {column.title: column.cell(view) for column in columns(kind)}
    assert cells["STATUS"] == "Refused: f:3: spec.x: is wrong"
