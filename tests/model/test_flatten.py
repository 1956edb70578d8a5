"""Routes as proxies are told them: the order of Gateway API, matches and filters."""

import datetime

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.documents import decode_resource
from mesh.model.flatten import Scope, age, flatten
from mesh.model.gateway import (
    HTTPPathMatch,
    HTTPRouteMatch,
    HTTPRouteRule,
    HTTPRouteSpec,
    Method,
    ParentRef,
    PathMatchType,
    ValueMatch,
)
from mesh.model.resources import GRPCRoute, HTTPRoute, Metadata
from mesh.model.traffic import (
    Backend,
    Edits,
    FieldMatch,
    Hedge,
    Match,
    Mirror,
    PathEdit,
    PathKind,
    PathMatch,
    Redirect,
    Retry,
    Rewrite,
    Route,
)
from mesh.model.yaml_text import Document

PARENT = ParentRef("votes", "", "Service")


def scope(caller: str = "default", *known: str) -> Scope:
    return Scope("default", ("default", "votes"), caller, lambda namespace, name: f"{namespace}/{name}" in known)


def route(kind: str, rules: str) -> HTTPRoute | GRPCRoute:
    spec = {"parentRefs": [{"group": "", "kind": "Service", "name": "votes"}], "rules": yaml.safe_load(rules)}
    value = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": "r"}, "spec": spec}
    resource = decode_resource(Document(value, "f", 1, {}))
    assert isinstance(resource, HTTPRoute | GRPCRoute)
    return resource


def only(kind: str, rule: str, retry: Retry | None = None, where: Scope | None = None) -> Route:
    ((_, found),) = flatten(route(kind, f"[{rule}]"), where or scope(), retry)
    return found


def http(rules: str) -> list[str]:
    """The names of rules, in the order in which they are tried."""
    return [each.name for _, each in sorted(flatten(route("HTTPRoute", rules), scope(), None), key=lambda one: one[0])]


# --- order


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{path: {type: Exact, value: /a}}", "{path: {type: RegularExpression, value: /abc.*}}"),
        ("{path: {type: Exact, value: /a}}", "{path: {value: /abc}, method: GET, headers: [{name: a, value: b}]}"),
        ("{path: {type: RegularExpression, value: /a.}}", "{path: {value: /abcdefgh}}"),
        ("{path: {value: /ab}}", "{path: {value: /a}, method: GET}"),
        ("{path: {value: /a}, method: GET}", "{path: {value: /a}, headers: [{name: a, value: b}]}"),
        ("{path: {value: /a}, method: GET}", "{path: {value: /a/}}"),
        (
            "{headers: [{name: a, value: b}, {name: c, value: d}]}",
            "{headers: [{name: a, value: b}], queryParams: [{name: a, value: b}]}",
        ),
        ("{queryParams: [{name: a, value: b}]}", "{}"),
        ("{path: {value: /a}}", "{}"),
    ],
)
def test_what_asks_for_more_goes_first(first: str, second: str) -> None:
    """Whichever of the two is written first."""
    assert http(f"[{{matches: [{first}]}}, {{matches: [{second}]}}]") == ["r/0", "r/1"]
    assert http(f"[{{matches: [{second}]}}, {{matches: [{first}]}}]") == ["r/1", "r/0"]
    assert http(f"[{{matches: [{second}, {first}]}}, {{}}]")[0] == "r/0"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{method: {service: a, method: b}}", "{method: {type: RegularExpression, service: abc, method: bcd}}"),
        ("{method: {service: a.bc}}", "{method: {service: a.b, method: c}}"),
        ("{method: {service: a.b, method: cd}}", "{method: {service: a.b, method: c}}"),
        ("{method: {service: a.b, method: c}}", "{method: {service: a.b}, headers: [{name: a, value: b}]}"),
        ("{method: {method: c}, headers: [{name: a, value: b}]}", "{method: {method: c}}"),
        ("{method: {type: RegularExpression, method: c}}", "{headers: [{name: a, value: b}]}"),
        ("{headers: [{name: a, value: b}]}", "{}"),
    ],
)
def test_order_of_grpc_matches(first: str, second: str) -> None:
    """The longer service, then the longer method, then more headers."""
    for one, other, names in ((first, second, ["r/0", "r/1"]), (second, first, ["r/1", "r/0"])):
        found = flatten(route("GRPCRoute", f"[{{matches: [{one}]}}, {{matches: [{other}]}}]"), scope(), None)
        assert [each.name for _, each in sorted(found, key=lambda one: one[0])] == names


def test_age() -> None:
    """What has no time of creation goes first, then the older, then by namespace and name."""
    moments = [datetime.datetime(2026, 1, day, tzinfo=datetime.UTC) for day in (1, 2)]
    ordered = [
        Metadata("z", "z"),
        Metadata("y", "y", created=moments[0]),
        Metadata("b", "a", created=moments[1]),
        Metadata("a", "b", created=moments[1]),
    ]
    assert sorted(reversed(ordered), key=age) == ordered


MATCHES = st.builds(
    HTTPRouteMatch,
    path=st.builds(
        HTTPPathMatch, type=st.sampled_from(PathMatchType), value=st.sampled_from(["/", "/a", "/b", "/a/b"])
    ),
    method=st.sampled_from([None, Method.GET, Method.PUT]),
    headers=st.sampled_from([(), (ValueMatch("a", "1"),), (ValueMatch("a", "1"), ValueMatch("b", "2"))]),
    query_params=st.sampled_from([(), (ValueMatch("a", "1"),)]),
)
RULES = st.lists(st.builds(HTTPRouteRule, matches=st.lists(MATCHES, max_size=4).map(tuple)), max_size=4).map(tuple)
TIMES = st.sampled_from([None, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)])
ROUTES = st.lists(
    st.builds(
        lambda name, created, rules: HTTPRoute(Metadata(name, created=created), HTTPRouteSpec((PARENT,), rules=rules)),
        st.sampled_from("abcdef"),
        TIMES,
        RULES,
    ),
    max_size=5,
    unique_by=lambda each: each.metadata.name,
)


@given(ROUTES, st.randoms(use_true_random=False))
def test_the_order_is_total_and_stable(routes: list[HTTPRoute], random) -> None:
    """No two matches have the same place, and what order routes are given in does not matter."""
    placed = [each for resource in routes for each in flatten(resource, scope(), None)]
    orders = [order for order, _ in placed]
    assert len(set(orders)) == len(orders) == sum(len(r.matches) or 1 for each in routes for r in each.spec.rules)
    shuffled = random.sample(placed, len(placed))
    ordered = sorted(placed, key=lambda each: each[0])
    assert sorted(shuffled, key=lambda each: each[0]) == ordered
    kinds = [each.match.path.kind if each.match.path else PathKind.PREFIX for _, each in ordered]
    assert kinds == sorted(kinds, key=[PathKind.EXACT, PathKind.REGEX, PathKind.PREFIX].index)


# --- matches


def test_an_http_match() -> None:
    """Names of headers in lower case, those of query parameters as written; a prefix of `/` asks for nothing."""
    rule = (
        "{matches: [{path: {type: Exact, value: /a}, method: GET, headers: [{name: X-A, value: B}],"
        " queryParams: [{name: Q, value: r, type: RegularExpression}]}]}"
    )
    assert only("HTTPRoute", rule).match == Match(
        PathMatch("/a", PathKind.EXACT), "GET", (FieldMatch("x-a", "B"),), (FieldMatch("Q", "r", True),)
    )
    assert only("HTTPRoute", "{matches: [{path: {value: /a/}}]}").match == Match(PathMatch("/a/"))
    assert only("HTTPRoute", "{matches: [{}]}").match == only("HTTPRoute", "{}").match == Match()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("{service: a.B, method: C}", PathMatch("/a.B/C", PathKind.EXACT)),
        ("{service: a.B}", PathMatch("/a.B", PathKind.PREFIX)),
        ("{method: C}", PathMatch("/[^/]+/C", PathKind.REGEX)),
        ("{type: RegularExpression, service: a|b, method: C}", PathMatch("/(?:a|b)/(?:C)", PathKind.REGEX)),
        ("{type: RegularExpression, method: C.*}", PathMatch("/[^/]+/(?:C.*)", PathKind.REGEX)),
    ],
)
def test_a_grpc_match(method: str, path: PathMatch) -> None:
    """A method is a path."""
    rule = f"{{matches: [{{method: {method}, headers: [{{name: X-A, value: b}}]}}]}}"
    assert only("GRPCRoute", rule).match == Match(path, headers=(FieldMatch("x-a", "b"),))
    assert only("GRPCRoute", "{}").match == Match()


# --- what is done then


def test_backends() -> None:
    """Named as the caller would; the parent itself is nameless; what leads nowhere says why."""
    rule = (
        "{backendRefs: [{name: v1, weight: 9}, {name: v2, namespace: demo}, {name: votes, weight: 0},"
        " {name: gone}, {name: other, kind: Bucket, group: example.org}]}"
    )
    known = ("default/v1", "demo/v2")
    assert only("HTTPRoute", rule, where=scope("default", *known)).backends == (
        Backend("v1", 9),
        Backend("v2.demo", 1),
        Backend("", 0),
        Backend("gone", 1, "there is no service gone in namespace default"),
        Backend("other", 1, "other is of kind Bucket, not a Service"),
    )
    from_demo = only("GRPCRoute", rule, where=scope("demo", *known)).backends
    assert [backend.service for backend in from_demo] == ["v1.default", "v2", "", "gone.default", "other.default"]


def test_filters() -> None:
    """Each becomes what a proxy does; a mirror that leads nowhere is left out."""
    rule = """{filters: [
      {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: B}], remove: [C]}},
      {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: D, value: E}]}},
      {type: URLRewrite, urlRewrite: {hostname: h, path: {type: ReplacePrefixMatch, replacePrefixMatch: /p}}},
      {type: RequestMirror, requestMirror: {backendRef: {name: v1}, percent: 5}},
      {type: RequestMirror, requestMirror: {backendRef: {name: v1}, fraction: {numerator: 1, denominator: 8}}},
      {type: RequestMirror, requestMirror: {backendRef: {name: v1}}},
      {type: RequestMirror, requestMirror: {backendRef: {name: gone}}}]}"""
    found = only("HTTPRoute", rule, where=scope("demo", "default/v1"))
    assert found == Route(
        "r/0",
        request=Edits(set=(("a", "B"),), remove=("c",)),
        response=Edits(add=(("d", "E"),)),
        rewrite=Rewrite("h", PathEdit(prefix="/p")),
        mirrors=(Mirror("v1.default", 5), Mirror("v1.default", 12.5), Mirror("v1.default", 100)),
    )


def test_a_redirect() -> None:
    """With its status, and the full path."""
    rule = (
        "{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 8443, statusCode: 308,"
        " path: {type: ReplaceFullPath, replaceFullPath: /new}}}]}"
    )
    assert only("HTTPRoute", rule).redirect == Redirect("https", "", 8443, PathEdit(full="/new"), 308)


@pytest.mark.parametrize(
    ("said", "base", "retry"),
    [
        ("{}", None, Retry()),
        ("{codes: [500], attempts: 3, backoff: 100ms}", None, Retry(3, (500,), backoff=0.1)),
        ("{attempts: 3}", Retry(methods=("*",), hedge=Hedge()), Retry(3, methods=("*",), hedge=Hedge())),
        ("{attempts: 0}", Retry(hedge=Hedge()), Retry(0)),
        ("{backoff: 2s}", None, Retry(backoff=2, backoff_most=2)),
    ],
)
def test_a_rules_retry_changes_the_services(said: str, base: Retry | None, retry: Retry) -> None:
    """Field by field, where the rule says anything."""
    found = only("HTTPRoute", f"{{retry: {said}, timeouts: {{request: 2s, backendRequest: 1s}}}}", base)
    assert (found.retry, found.timeout, found.try_timeout) == (retry, 2, 1)


def test_a_rule_that_says_nothing_of_retries() -> None:
    """Leaves them to the service."""
    assert only("HTTPRoute", "{}", Retry()).retry is None
    assert only("GRPCRoute", "{}", Retry()).retry is None
