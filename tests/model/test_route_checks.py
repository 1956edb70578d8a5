"""HTTPRoute and GRPCRoute: what Gateway API allows is read, and each mistake is told with its line and field."""

import pytest

from mesh.model.documents import decode_resource, load_documents
from mesh.model.errors import ConfigError
from mesh.model.gateway import HTTPFilterType, MatchType, Method, PathMatchType
from mesh.model.resources import GRPCRoute, HTTPRoute

HTTP = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: votes, generation: 3}
spec:
  parentRefs: [{group: "", kind: Service, name: votes, port: 80}]
"""
GRPC = HTTP.replace("HTTPRoute", "GRPCRoute")
FULL = """\
  hostnames: ["ignored.example"]
  rules:
    - name: canary
      matches: [{path: {type: PathPrefix, value: /v2}, method: GET, headers: [{name: X-A, value: b}],
                 queryParams: [{name: q, value: "a+", type: RegularExpression}]}]
      backendRefs: [{name: votes-v1, weight: 90, port: 80}, {name: votes-v2, weight: 10, namespace: demo}]
      filters:
        - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: b}], remove: [c]}}
        - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: A, value: b}]}}
        - {type: URLRewrite, urlRewrite: {hostname: a.b, path: {type: ReplacePrefixMatch, replacePrefixMatch: ""}}}
        - {type: RequestMirror, requestMirror: {backendRef: {name: votes-v3}, percent: 5}}
        - {type: RequestMirror, requestMirror: {backendRef: {name: votes-v4}, fraction: {numerator: 1}}}
      timeouts: {request: 1s, backendRequest: 300ms}
      retry: {codes: [500, 503], attempts: 2, backoff: 100ms}
    - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
status: {parents: []}
"""


def error(text: str) -> str:
    (document,) = load_documents(text, "f")
    with pytest.raises(ConfigError) as caught:
        decode_resource(document)
    return str(caught.value)


def rule(text: str) -> str:
    return f"  rules:\n    - {text}\n"


def test_an_http_route_with_everything() -> None:
    """Each part under the specification's own name."""
    (document,) = load_documents(HTTP + FULL, "f")
    route = decode_resource(document)
    assert isinstance(route, HTTPRoute)
    first, second = route.spec.rules
    match = first.matches[0]
    assert (match.path.type, match.path.value, match.method) == (PathMatchType.PATH_PREFIX, "/v2", Method.GET)
    assert match.query_params[0].type is MatchType.REGULAR_EXPRESSION
    assert [(ref.name, ref.weight, ref.namespace) for ref in first.backend_refs] == [
        ("votes-v1", 90, ""),
        ("votes-v2", 10, "demo"),
    ]
    assert (first.timeouts.request, first.timeouts.backend_request) == (1, 0.3)
    assert first.retry is not None
    assert (first.retry.codes, first.retry.attempts, first.retry.backoff) == ((500, 503), 2, 0.1)
    assert [each.type for each in second.filters] == [HTTPFilterType.REQUEST_REDIRECT]


def test_defaults() -> None:
    """A route without rules has one, which matches every request, and each backend weighs 1."""
    (document,) = load_documents(HTTP, "f")
    route = decode_resource(document)
    assert isinstance(route, HTTPRoute)
    assert len(route.spec.rules) == 1
    (document,) = load_documents(HTTP + rule("{matches: [{}], backendRefs: [{name: a}]}"), "f")
    route = decode_resource(document)
    assert isinstance(route, HTTPRoute)
    assert route.spec.rules[0].matches[0].path.value == "/"
    assert route.spec.rules[0].backend_refs[0].weight == 1


@pytest.mark.parametrize(
    ("text", "version", "good"),
    [(HTTP, "v1beta1", True), (HTTP, "v1alpha2", False), (GRPC, "v1alpha2", True), (GRPC, "v2", False)],
)
def test_versions(text: str, version: str, good: bool) -> None:
    """Older ones with the same fields are read as v1."""
    text = text.replace("/v1", f"/{version}")
    if good:
        (document,) = load_documents(text, "f")
        assert decode_resource(document).api_version == "gateway.networking.k8s.io/v1"
    else:
        assert error(text).startswith(f"f:1: apiVersion: 'gateway.networking.k8s.io/{version}' is not what ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("matches: [{path: {value: v2}}]", "matches[0].path.value: 'v2' is no path to compare with"),
        ("matches: [{path: {type: Prefix}}]", "matches[0].path.type: 'Prefix' is none of Exact, PathPrefix, RegularE"),
        ("matches: [{path: {type: RegularExpression, value: '('}}]", "matches[0].path.value: '(' is no regular expres"),
        ("matches: [{method: get}]", "matches[0].method: 'get' is none of GET, HEAD, POST"),
        ("matches: [{headers: [{name: 'a:', value: b}]}]", "matches[0].headers[0].name: 'a:' is no header name"),
        ("matches: [{headers: [{name: a}]}]", "matches[0].headers[0].value: is required"),
        (
            "matches: [{headers: [{name: a, value: b}, {name: A, value: b}]}]",
            "matches[0].headers[1].name: 'A' is there twice",
        ),
        (
            "matches: [{headers: [{name: a, value: '(', type: RegularExpression}]}]",
            "matches[0].headers[0].value: '(' is no regular expression",
        ),
        ("matches: [{queryParams: [{name: '', value: b}]}]", "matches[0].queryParams[0].name: must not be empty"),
        (
            "matches: [{queryParams: [{name: a, value: b}, {name: a, value: b}]}]",
            "matches[0].queryParams[1].name: 'a' is there twice",
        ),
        (
            "matches: [{queryParams: [{name: a, value: '(', type: RegularExpression}]}]",
            "matches[0].queryParams[0].value: '(' is no regular expression",
        ),
        ("backendRefs: [{name: A}]", "backendRefs[0].name: 'A' is no name"),
        ("backendRefs: [{name: a, namespace: B}]", "backendRefs[0].namespace: 'B' is no name"),
        ("backendRefs: [{name: a, weight: -1}]", "backendRefs[0].weight: must be 0 or more"),
        ("backendRefs: [{name: a, port: 70000}]", "backendRefs[0].port: 70000 is not within 0 and 65535"),
        ("backendRefs: [{name: a, filters: []}]", "backendRefs[0].filters: is not supported"),
        ("sessionPersistence: {type: Cookie}", "sessionPersistence: is not supported"),
        ("timeouts: {request: 1s, backendRequest: 2s}", "timeouts.backendRequest: 2 s for one try is more than 1 s"),
        ("timeouts: {request: fast}", "timeouts.request: 'fast' is no duration"),
        ("retry: {attempts: 11}", "retry.attempts: 11 is not within 0 and 10"),
        ("retry: {codes: [200]}", "retry.codes[0]: 200 is not within 400 and 599"),
        ("filters: [{type: CORS, cors: {}}]", "filters[0].cors: is not supported"),
        ("filters: [{type: ExtensionRef}]", "filters[0].type: 'ExtensionRef' is none of RequestHeaderModifier, "),
        (
            "filters: [{type: URLRewrite}]",
            "filters[0].urlRewrite: is required where `type` is URLRewrite",
        ),
        (
            "filters: [{type: URLRewrite, urlRewrite: {}, requestRedirect: {}}]",
            "filters[0].requestRedirect: means nothing where `type` is URLRewrite",
        ),
        (
            "filters: [{type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}]",
            "filters[1]: URLRewrite is there twice; only RequestMirror may be",
        ),
        (
            "filters: [{type: URLRewrite, urlRewrite: {}}, {type: RequestRedirect, requestRedirect: {}}]",
            "filters: a rule redirects or rewrites, not both",
        ),
        (
            "{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a}]}",
            "backendRefs: a rule that redirects has none",
        ),
    ],
)
def test_mistakes_in_an_http_rule(text: str, message: str) -> None:
    """Each is told with its line and field."""
    assert error(HTTP + rule(text)).startswith(f"f:7: spec.rules[0].{message}")


@pytest.mark.parametrize(
    ("kind", "field", "text", "message"),
    [
        ("RequestRedirect", "requestRedirect", "scheme: ftp", "scheme: 'ftp' is none of http, https"),
        ("RequestRedirect", "requestRedirect", "statusCode: 200", "statusCode: 200 is none of 301, 302, 303, 307, 308"),
        ("RequestRedirect", "requestRedirect", "port: -1", "port: -1 is not within 0 and 65535"),
        ("RequestRedirect", "requestRedirect", "hostname: a b", "hostname: 'a b' is no host name"),
        ("URLRewrite", "urlRewrite", "hostname: a b", "hostname: 'a b' is no host name"),
        ("URLRewrite", "urlRewrite", "path: {type: Replace}", "path.type: 'Replace' is none of ReplaceFullPath, Repl"),
        (
            "URLRewrite",
            "urlRewrite",
            "path: {type: ReplaceFullPath, replacePrefixMatch: /a}",
            "path: ReplaceFullPath takes `replaceFullPath`, and nothing else",
        ),
        (
            "URLRewrite",
            "urlRewrite",
            "path: {type: ReplacePrefixMatch, replaceFullPath: /a}",
            "path: ReplacePrefixMatch takes `replacePrefixMatch`, and nothing else",
        ),
        (
            "URLRewrite",
            "urlRewrite",
            "path: {type: ReplaceFullPath, replaceFullPath: a}",
            "path.replaceFullPath: 'a' is no path",
        ),
        (
            "URLRewrite",
            "urlRewrite",
            "path: {type: ReplacePrefixMatch, replacePrefixMatch: a}",
            "path.replacePrefixMatch: 'a' is no path",
        ),
        (
            "RequestHeaderModifier",
            "requestHeaderModifier",
            "set: [{name: 'a b', value: c}]",
            "set[0].name: 'a b' is no",
        ),
        (
            "RequestHeaderModifier",
            "requestHeaderModifier",
            'set: [{name: a, value: "b\\n"}]',
            "set[0].value: 'b\\n' is",
        ),
        ("RequestHeaderModifier", "requestHeaderModifier", "remove: [Host]", "remove[0]: Host cannot be changed: each"),
        (
            "ResponseHeaderModifier",
            "responseHeaderModifier",
            "add: [{name: a, value: b}, {name: A, value: b}]",
            "add[1].name: 'A' is there twice",
        ),
        ("RequestMirror", "requestMirror", "percent: 5", "backendRef: is required"),
        ("RequestMirror", "requestMirror", "backendRef: {name: A}", "backendRef.name: 'A' is no name"),
        ("RequestMirror", "requestMirror", "backendRef: {name: a}, percent: 101", "percent: must be 100 or less"),
        (
            "RequestMirror",
            "requestMirror",
            "backendRef: {name: a}, percent: 1, fraction: {numerator: 1}",
            "fraction: cannot be given beside percent",
        ),
        (
            "RequestMirror",
            "requestMirror",
            "backendRef: {name: a}, fraction: {numerator: 3, denominator: 2}",
            "fraction.numerator: is over the denominator, 2",
        ),
    ],
)
def test_mistakes_in_a_filter(kind: str, field: str, text: str, message: str) -> None:
    """Each is told with its line and field."""
    told = error(HTTP + rule(f"filters: [{{type: {kind}, {field}: {{{text}}}}}]"))
    assert told.startswith(f"f:7: spec.rules[0].filters[0].{field}.{message}")


def test_a_prefix_is_replaced_only_where_one_is_matched() -> None:
    """As the specification has it: every match of the rule must be by PathPrefix."""
    edit = "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]"
    matches = "matches: [{path: {value: /a}}, {path: {type: Exact, value: /a}}]"
    assert error(HTTP + rule(f"{{{edit}, {matches}}}")).endswith(
        "filters[0].urlRewrite.path: ReplacePrefixMatch needs a PathPrefix in every match of the rule"
    )
    (document,) = load_documents(HTTP + rule(f"{{{edit}, matches: [{{path: {{value: /a}}}}]}}"), "f")
    assert decode_resource(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parentRefs: []", "f:5: spec.parentRefs: must name a Service that the route is for"),
        ("parentRefs: [{kind: Service}]", "f:5: spec.parentRefs[0].name: is required"),
        ("parentRefs: [{name: a, port: -1}]", "f:5: spec.parentRefs[0].port: -1 is not within 0 and 65535"),
        ("rules: []", "f:4: spec.parentRefs: is required"),
    ],
)
def test_mistakes_in_parents(text: str, message: str) -> None:
    """Each is told with its line and field."""
    lines = HTTP.splitlines()
    assert error("\n".join([*lines[:4], f"  {text}"])) == message


def test_a_route_has_a_bound() -> None:
    """Proxies try matches one after the other."""
    matches = "matches: [" + "{}, " * 600 + "]"
    assert error(HTTP + rule(matches) + f"    - {matches}\n") == "f:6: spec.rules: hold 1200 matches, at most 1024"


def test_a_grpc_route() -> None:
    """By service and method."""
    text = GRPC + rule(
        "{matches: [{method: {service: a.B, method: C}, headers: [{name: x, value: y}]}], backendRefs: [{name: a}]}"
    )
    (document,) = load_documents(text, "f")
    route = decode_resource(document)
    assert isinstance(route, GRPCRoute)
    method = route.spec.rules[0].matches[0].method
    assert method is not None
    assert (method.type, method.service, method.method) == (MatchType.EXACT, "a.B", "C")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("matches: [{method: {}}]", "matches[0].method: must have a service, a method or both"),
        ("matches: [{method: {service: a/b}}]", "matches[0].method.service: 'a/b' is no service of gRPC"),
        ("matches: [{method: {method: a-b}}]", "matches[0].method.method: 'a-b' is no method of gRPC"),
        (
            "matches: [{method: {type: RegularExpression, method: '(?=a)'}}]",
            "matches[0].method.method: '(?:(?=a))' is no regular expression: ",
        ),
        ("matches: [{headers: [{name: '', value: a}]}]", "matches[0].headers[0].name: '' is no header name"),
        ("filters: [{type: URLRewrite}]", "filters[0].type: 'URLRewrite' is none of RequestHeaderModifier, Response"),
        ("filters: [{type: RequestMirror}]", "filters[0].requestMirror: is required where `type` is RequestMirror"),
        ("timeouts: {request: 1s}", "timeouts: is no field here; "),
        ("backendRefs: [{name: ''}]", "backendRefs[0].name: '' is no name"),
    ],
)
def test_mistakes_in_a_grpc_rule(text: str, message: str) -> None:
    """Each is told with its line and field."""
    assert error(GRPC + rule(text)).startswith(f"f:7: spec.rules[0].{message}")
