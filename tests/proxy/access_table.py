"""What must be decided, as tables: rows that the pure function, a proxy under way and `explain` are all held to.

A `Case` is what people write (YAML) about the service `cart` of the namespace `shop`, whose workload is `cart-v1`; its
rows say who asks for what, and what must come of it. All callers are on loopback addresses, and identities are what a
certificate can prove, so that each row can be played over sockets as well.

`MATRIX` is every action x source x operation x default. What is expected of it is not computed from the rules but put
together from the small tables below, which say for each caller and each request what a person would say.
`PARTICULAR` are cases written out by hand.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from mesh.model.authorization import Authorization
from mesh.model.compose_access import authorization
from mesh.model.documents import decode_resource, load_documents
from mesh.model.resources import AuthorizationPolicy, DefaultPolicy, PolicyPlugin, TrafficPolicy

NAMESPACE, SERVICE, WORKLOAD = "shop", "cart", "cart-v1"
NEAR, FAR = "127.0.0.1", "127.9.0.1"
"""Addresses of callers; policies mean 127.0.0.0/16 when they say a network."""


class Caller(NamedTuple):
    """Who asks: `identity` is empty for one that proves none."""

    identity: str
    address: str = NEAR


class Asking(NamedTuple):
    """What is asked: `protocol` is http, grpc or tcp."""

    method: str = "GET"
    path: str = "/"
    protocol: str = "http"


class Row(NamedTuple):
    caller: str
    """Of CALLERS."""
    asking: str
    """Of ASKINGS."""
    allowed: bool
    by: str
    audited: str = ""


class Case(NamedTuple):
    name: str
    yaml: str
    rows: tuple[Row, ...]

    def authorization(self) -> Authorization:
        """What a proxy of the workload is told."""
        resources = [decode_resource(document) for document in load_documents(self.yaml, self.name)]
        healths = [each.spec.health for each in resources if isinstance(each, TrafficPolicy)]
        return authorization(
            NAMESPACE,
            SERVICE,
            WORKLOAD,
            policies=[each for each in resources if isinstance(each, AuthorizationPolicy)],
            defaults=[each for each in resources if isinstance(each, DefaultPolicy)],
            plugins=[each for each in resources if isinstance(each, PolicyPlugin)],
            health=healths[0] if healths else None,
        )


CALLERS = {
    "nobody": Caller(""),
    "web": Caller("web.shop.serviceaccount.identity.cluster.local"),
    "ops": Caller("ops.shop.serviceaccount.identity.cluster.local"),
    "neighbour": Caller("web.other.serviceaccount.identity.cluster.local"),
    "stranger": Caller("web.shop.serviceaccount.identity.elsewhere.example"),
    "far nobody": Caller("", FAR),
    "far web": Caller("web.shop.serviceaccount.identity.cluster.local", FAR),
}
ASKINGS = {
    "read": Asking("GET", "/public"),
    "write": Asking("POST", "/public"),
    "read admin": Asking("GET", "/admin/users"),
    "write admin": Asking("POST", "/admin/users?all=1"),
    "call": Asking("POST", "/shop.Cart/Add", "grpc"),
    "other call": Asking("POST", "/shop.Cart/Remove", "grpc"),
    "connect": Asking("", "", "tcp"),
}

# --- the matrix ----------------------------------------------------------------------------------------------------

_POLICY = """\
apiVersion: conduit.mesh/v1alpha1
kind: {kind}
metadata: {{name: {name}, namespace: shop}}
spec: {{{spec}}}
"""
_CART = "target: {kind: Service, name: cart}"
_SHOP = "target: {kind: Namespace}"

_SOURCES = {
    "anybody": "[]",
    "identity": "[{identities: [web.shop.serviceaccount.identity.cluster.local]}]",
    "namespace": "[{namespaces: [shop]}]",
    "network": "[{networks: [127.0.0.0/16]}]",
}
_IS_MEANT = {
    #            nobody web   ops   neighb. stranger far nobody, far web
    "anybody": (True, True, True, True, True, True, True),
    "identity": (False, True, False, False, False, False, True),
    "namespace": (False, True, True, False, False, False, True),
    "network": (True, True, True, True, True, False, False),
}
_OPERATIONS = {
    "everything": "[]",
    "method": "[{methods: [GET, HEAD]}]",
    "path": "[{paths: [/admin/*]}]",
    "grpc": "[{grpcMethods: [shop.Cart/Add]}]",
}
_IS_IT = {
    #              read  write  read a. write a. call  other
    "everything": (True, True, True, True, True, True),
    "method": (True, False, True, False, False, False),
    "path": (False, False, True, True, False, False),
    "grpc": (False, False, False, False, True, False),
}
_IS_CONNECTING = {"Allow": False, "Deny": True, "Audit": True}
"""Whether a rule that names operations matches a TCP connection."""
_BY_DEFAULT = {
    # + may, - may not, a may and is noted
    "all-unauthenticated": "+ + + + + + +",
    "all-authenticated": "- + + + - - +",
    "cluster-authenticated": "- + + + - - -",
    "deny": "- - - - - - -",
    "audit": "a + + + a a +",
}
_ACTIONS = {
    # if it matches, if it does not; ? is the default's word
    "Allow": ("+", "-"),
    "Deny": ("-", "?"),
    "Audit": ("?a", "?"),
}


def _case(action: str, source: str, operation: str, default: str) -> Case:
    networks = ", networks: [127.0.0.0/16]" if default == "cluster-authenticated" else ""
    yaml = "---\n".join(
        (
            _POLICY.format(kind="DefaultPolicy", name="word", spec=f"{_SHOP}, inbound: {default}{networks}"),
            _POLICY.format(
                kind="AuthorizationPolicy",
                name="rule",
                spec=f"{_CART}, action: {action}, from: {_SOURCES[source]}, to: {_OPERATIONS[operation]}",
            ),
        )
    )
    words = dict(zip(CALLERS, _BY_DEFAULT[default].split(), strict=True))
    meant = dict(zip(CALLERS, _IS_MEANT[source], strict=True))
    requests = dict(
        zip(ASKINGS, (*_IS_IT[operation], operation == "everything" or _IS_CONNECTING[action]), strict=True)
    )
    rows = []
    for caller, asking in itertools.product(CALLERS, ASKINGS):
        outcome = _ACTIONS[action][0 if meant[caller] and requests[asking] else 1]
        word = outcome.replace("?", words[caller])
        audited = "shop/rule" if outcome == "?a" else "shop/word" if "a" in word else ""
        by = "shop/word" if "?" in outcome else "shop/rule"
        rows.append(Row(caller, asking, "-" not in word, by, audited))
    return Case(f"{action} {source} {operation}, else {default}", yaml, tuple(rows))


MATRIX = tuple(_case(*each) for each in itertools.product(_ACTIONS, _SOURCES, _OPERATIONS, _BY_DEFAULT))

# --- by hand -------------------------------------------------------------------------------------------------------


def _rules(*specs: str) -> str:
    """Policies for the service, named r0, r1, ..."""
    return "---\n".join(
        _POLICY.format(kind="AuthorizationPolicy", name=f"r{index}", spec=f"{_CART}, {spec}")
        for index, spec in enumerate(specs)
    )


def _health(spec: str) -> str:
    return "---\n" + _POLICY.format(kind="TrafficPolicy", name="care", spec=f"service: cart, health: {{{spec}}}")


PARTICULAR = (
    Case(
        "nothing is written",
        "",
        (
            Row("nobody", "read", True, "default:all-unauthenticated"),
            Row("stranger", "call", True, "default:all-unauthenticated"),
            Row("far nobody", "connect", True, "default:all-unauthenticated"),
        ),
    ),
    Case(
        "a denial goes before what allows, whatever their names",
        _rules(
            "action: Allow, from: []",
            "action: Deny, from: [{identities: ['*.shop.serviceaccount.identity.cluster.local']}]",
        ),
        (
            Row("web", "read", False, "shop/r1"),
            Row("ops", "connect", False, "shop/r1"),
            Row("neighbour", "read", True, "shop/r0"),
            Row("stranger", "read", True, "shop/r0"),
            Row("nobody", "read", True, "shop/r0"),
        ),
    ),
    Case(
        "several that allow add up",
        _rules(
            "from: [{identities: ['spiffe://cluster.local/ns/shop/sa/web']}], to: [{methods: [GET]}]",
            "from: [{namespaces: [other]}], to: [{paths: [/public]}, {grpcMethods: [shop.Cart/*]}]",
        ),
        (
            Row("web", "read", True, "shop/r0"),
            Row("web", "write", False, "shop/r0"),
            Row("web", "call", False, "shop/r0"),
            Row("neighbour", "write", True, "shop/r1"),
            Row("neighbour", "read admin", False, "shop/r1"),
            Row("neighbour", "other call", True, "shop/r1"),
            Row("neighbour", "connect", False, "shop/r1"),
            Row("ops", "read", False, "shop/r0"),
            Row("nobody", "read", False, "shop/r0"),
        ),
    ),
    Case(
        "in one source all must hold",
        _rules(
            "from: [{identities: ['*'], networks: [127.9.0.0/16]}, "
            "{identities: [OPS.shop.serviceaccount.identity.cluster.local]}]"
        ),
        (
            Row("web", "read", False, "shop/r0"),
            Row("far web", "read", True, "shop/r0"),
            Row("far nobody", "read", False, "shop/r0"),
            Row("ops", "connect", True, "shop/r0"),
            Row("stranger", "read", False, "shop/r0"),
        ),
    ),
    Case(
        "a gRPC call is a POST with a path as well",
        _rules("action: Deny, to: [{methods: [POST], paths: ['/shop.Cart/*']}]"),
        (
            Row("web", "call", False, "shop/r0"),
            Row("web", "write", True, "default:all-unauthenticated"),
        ),
    ),
    Case(
        "all of gRPC, and nothing else",
        _rules("to: [{grpcMethods: ['*']}]"),
        (
            Row("nobody", "call", True, "shop/r0"),
            Row("nobody", "other call", True, "shop/r0"),
            Row("nobody", "write", False, "shop/r0"),
            Row("nobody", "connect", False, "shop/r0"),
        ),
    ),
    Case(
        "what is noted is noted of what is denied too",
        _rules("action: Audit, to: [{methods: [POST]}]", "action: Deny, from: [{namespaces: [other]}]"),
        (
            Row("neighbour", "write", False, "shop/r1", "shop/r0"),
            Row("neighbour", "read", False, "shop/r1"),
            Row("web", "write", True, "default:all-unauthenticated", "shop/r0"),
            Row("web", "connect", True, "default:all-unauthenticated", "shop/r0"),
        ),
    ),
    Case(
        "a health check gets past a denial",
        _rules("action: Deny") + _health("path: '/public?deep=1'"),
        (
            Row("nobody", "read", True, "probe"),
            Row("nobody", "write", False, "shop/r0"),
            Row("nobody", "read admin", False, "shop/r0"),
            Row("nobody", "connect", False, "shop/r0"),
        ),
    ),
    Case(
        "a policy for another service, or another namespace's workload, says nothing here",
        _POLICY.format(kind="AuthorizationPolicy", name="a", spec="target: {kind: Service, name: till}, action: Deny")
        + "---\n"
        + _POLICY.format(
            kind="AuthorizationPolicy", name="b", spec="target: {kind: Workload, name: cart}, action: Deny"
        ),
        (Row("nobody", "read", True, "default:all-unauthenticated"),),
    ),
    Case(
        "the nearest default counts",
        _POLICY.format(kind="DefaultPolicy", name="a", spec="target: {kind: Workload, name: cart-v1}, inbound: deny")
        + "---\n"
        + _POLICY.format(kind="DefaultPolicy", name="b", spec=f"{_CART}, inbound: all-authenticated")
        + "---\n"
        + _POLICY.format(kind="DefaultPolicy", name="c", spec=f"{_SHOP}, inbound: audit"),
        (Row("web", "read", False, "shop/a"), Row("nobody", "connect", False, "shop/a")),
    ),
)

CASES = (*MATRIX, *PARTICULAR)
