"""What HTTPRoute and GRPCRoute must be beyond their types: what Gateway API says in words and in its validation rules.

Each function raises ConfigError for the first mistake; fields are told as they stand in YAML. References that lead
nowhere are no mistake here: they show in the route's conditions, and may lead somewhere later.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mesh.model.checks import Checks
from mesh.model.gateway import (
    BackendRef,
    GRPCMethodMatch,
    GRPCRouteFilter,
    GRPCRouteSpec,
    HeaderFilter,
    HTTPRouteFilter,
    HTTPRouteMatch,
    HTTPRouteRetry,
    HTTPRouteRule,
    HTTPRouteSpec,
    MatchType,
    ParentRef,
    PathMatchType,
    PathModifier,
    PathModifierType,
    RequestMirror,
    RequestRedirect,
    ValueMatch,
)
from mesh.model.policy_checks import MAX_ATTEMPTS

MAX_MATCHES = 1024
"""Of one route, all rules together: proxies try them one after the other."""
REDIRECTS = (301, 302, 303, 307, 308)
FRAMING = frozenset(
    {"host", "connection", "content-length", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"}
)
"""Fields that a filter may not touch: the two connections of a request each have their own."""
_FILTER_FIELDS = {
    "RequestHeaderModifier": ("request_header_modifier", "requestHeaderModifier"),
    "ResponseHeaderModifier": ("response_header_modifier", "responseHeaderModifier"),
    "RequestMirror": ("request_mirror", "requestMirror"),
    "RequestRedirect": ("request_redirect", "requestRedirect"),
    "URLRewrite": ("url_rewrite", "urlRewrite"),
}
_SERVICE = re.compile(r"\.?[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_METHOD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_http_route(checks: Checks, spec: HTTPRouteSpec) -> None:
    """All of an HTTPRoute's spec."""
    _check_parents(checks, spec.parent_refs)
    _check_size(checks, [len(rule.matches) for rule in spec.rules])
    for index, rule in enumerate(spec.rules):
        field = f"spec.rules[{index}]"
        for at, match in enumerate(rule.matches):
            _check_http_match(checks, f"{field}.matches[{at}]", match)
        _check_filters(checks, field, rule.filters)
        _check_http_filters(checks, field, rule)
        _check_backends(checks, field, rule.backend_refs)
        checks.tries(f"{field}.timeouts", rule.timeouts.request, rule.timeouts.backend_request)
        if rule.retry is not None:
            _check_retry(checks, f"{field}.retry", rule.retry)


def check_grpc_route(checks: Checks, spec: GRPCRouteSpec) -> None:
    """All of a GRPCRoute's spec."""
    _check_parents(checks, spec.parent_refs)
    _check_size(checks, [len(rule.matches) for rule in spec.rules])
    for index, rule in enumerate(spec.rules):
        field = f"spec.rules[{index}]"
        for at, match in enumerate(rule.matches):
            if match.method is not None:
                _check_grpc_method(checks, f"{field}.matches[{at}].method", match.method)
            _check_headers(checks, f"{field}.matches[{at}].headers", match.headers)
        _check_filters(checks, field, rule.filters)
        _check_backends(checks, field, rule.backend_refs)


# --- references ----------------------------------------------------------------------------------------------------


def _check_parents(checks: Checks, parents: tuple[ParentRef, ...]) -> None:
    if not parents:
        raise checks.fail("spec.parentRefs", "must name a Service that the route is for")
    for index, parent in enumerate(parents):
        _check_ref(checks, f"spec.parentRefs[{index}]", parent)


def _check_backends(checks: Checks, field: str, backends: Sequence[BackendRef]) -> None:
    for index, backend in enumerate(backends):
        _check_ref(checks, f"{field}.backendRefs[{index}]", backend)


def _check_ref(checks: Checks, field: str, ref: ParentRef | BackendRef) -> None:
    checks.label(f"{field}.name", ref.name)
    checks.label(f"{field}.namespace", ref.namespace, empty=True)
    checks.within(f"{field}.port", ref.port, 0, 65535)


# --- matches -------------------------------------------------------------------------------------------------------


def _check_size(checks: Checks, counts: list[int]) -> None:
    total = sum(max(count, 1) for count in counts)
    if total > MAX_MATCHES:
        raise checks.fail("spec.rules", f"hold {total} matches, at most {MAX_MATCHES}")


def _check_http_match(checks: Checks, field: str, match: HTTPRouteMatch) -> None:
    if match.path.type is PathMatchType.REGULAR_EXPRESSION:
        checks.pattern(f"{field}.path.value", match.path.value)
    else:
        checks.request_path(f"{field}.path.value", match.path.value)
    _check_headers(checks, f"{field}.headers", match.headers)
    checks.once(f"{field}.queryParams", match.query_params)
    for index, parameter in enumerate(match.query_params):
        if not parameter.name:
            raise checks.fail(f"{field}.queryParams[{index}].name", "must not be empty")
        if parameter.type is MatchType.REGULAR_EXPRESSION:
            checks.pattern(f"{field}.queryParams[{index}].value", parameter.value)


def _check_headers(checks: Checks, field: str, headers: tuple[ValueMatch, ...]) -> None:
    checks.once(field, headers, fold=True)
    for index, header in enumerate(headers):
        checks.token(f"{field}[{index}].name", header.name)
        if header.type is MatchType.REGULAR_EXPRESSION:
            checks.pattern(f"{field}[{index}].value", header.value)


def _check_grpc_method(checks: Checks, field: str, method: GRPCMethodMatch) -> None:
    if not method.service and not method.method:
        raise checks.fail(field, "must have a service, a method or both")
    for name, text, shape in (("service", method.service, _SERVICE), ("method", method.method, _METHOD)):
        if method.type is MatchType.REGULAR_EXPRESSION:
            checks.pattern(f"{field}.{name}", f"(?:{text})")  # as it becomes a part of the path's
        elif text and not shape.fullmatch(text):
            raise checks.fail(f"{field}.{name}", f"{text!r:.80} is no {name} of gRPC")


# --- filters -------------------------------------------------------------------------------------------------------


def _check_filters(checks: Checks, field: str, filters: Sequence[HTTPRouteFilter | GRPCRouteFilter]) -> None:
    seen = set()
    for index, each in enumerate(filters):
        place = f"{field}.filters[{index}]"
        wanted, wanted_name = _FILTER_FIELDS[each.type]
        if getattr(each, wanted) is None:
            raise checks.fail(f"{place}.{wanted_name}", f"is required where `type` is {each.type}")
        for kind, (attribute, name) in _FILTER_FIELDS.items():
            if kind != each.type and getattr(each, attribute, None) is not None:
                raise checks.fail(f"{place}.{name}", f"means nothing where `type` is {each.type}")
        if each.type in seen and each.type != "RequestMirror":
            raise checks.fail(place, f"{each.type} is there twice; only RequestMirror may be")
        seen.add(each.type)
        for modifier in (each.request_header_modifier, each.response_header_modifier):
            if modifier is not None:
                _check_modifier(checks, f"{place}.{wanted_name}", modifier)
        if each.request_mirror is not None:
            _check_mirror(checks, f"{place}.requestMirror", each.request_mirror)


def _check_modifier(checks: Checks, field: str, modifier: HeaderFilter) -> None:
    for name, headers in (("set", modifier.set), ("add", modifier.add)):
        checks.once(f"{field}.{name}", headers, fold=True)
        for index, header in enumerate(headers):
            _check_changed(checks, f"{field}.{name}[{index}].name", header.name)
            checks.value(f"{field}.{name}[{index}].value", header.value)
    for index, removed in enumerate(modifier.remove):
        _check_changed(checks, f"{field}.remove[{index}]", removed)


def _check_changed(checks: Checks, field: str, name: str) -> None:
    checks.token(field, name)
    if name.lower() in FRAMING:
        raise checks.fail(field, f"{name} cannot be changed: each connection has its own")


def _check_mirror(checks: Checks, field: str, mirror: RequestMirror) -> None:
    _check_ref(checks, f"{field}.backendRef", mirror.backend_ref)
    if mirror.percent is not None and mirror.fraction is not None:
        raise checks.fail(f"{field}.fraction", "cannot be given beside percent")
    if mirror.fraction is not None and mirror.fraction.numerator > mirror.fraction.denominator:
        raise checks.fail(f"{field}.fraction.numerator", f"is over the denominator, {mirror.fraction.denominator}")


def _check_http_filters(checks: Checks, field: str, rule: HTTPRouteRule) -> None:
    kinds: list[str] = [each.type for each in rule.filters]
    if "RequestRedirect" in kinds and "URLRewrite" in kinds:
        raise checks.fail(f"{field}.filters", "a rule redirects or rewrites, not both")
    for index, each in enumerate(rule.filters):
        place = f"{field}.filters[{index}]"
        if (redirect := each.request_redirect) is not None:
            _check_redirect(checks, f"{place}.requestRedirect", redirect)
            if rule.backend_refs:
                raise checks.fail(f"{field}.backendRefs", "a rule that redirects has none")
        for name, edit in (("requestRedirect", each.request_redirect), ("urlRewrite", each.url_rewrite)):
            if edit is None:
                continue
            if edit.hostname:
                checks.host(f"{place}.{name}.hostname", edit.hostname)
            if edit.path is not None:
                _check_path_edit(checks, f"{place}.{name}.path", edit.path, rule.matches)


def _check_redirect(checks: Checks, field: str, redirect: RequestRedirect) -> None:
    if redirect.scheme not in ("", "http", "https"):
        raise checks.fail(f"{field}.scheme", f"{redirect.scheme!r:.80} is none of http, https")
    checks.within(f"{field}.port", redirect.port, 0, 65535)
    if redirect.status_code not in REDIRECTS:
        allowed = ", ".join(map(str, REDIRECTS))
        raise checks.fail(f"{field}.statusCode", f"{redirect.status_code} is none of {allowed}")


def _check_path_edit(checks: Checks, field: str, edit: PathModifier, matches: tuple[HTTPRouteMatch, ...]) -> None:
    full, prefix = edit.replace_full_path, edit.replace_prefix_match
    if edit.type is PathModifierType.REPLACE_FULL_PATH:
        if full is None or prefix is not None:
            raise checks.fail(field, f"{edit.type} takes `replaceFullPath`, and nothing else")
        checks.request_path(f"{field}.replaceFullPath", full)
        return
    if prefix is None or full is not None:
        raise checks.fail(field, f"{edit.type} takes `replacePrefixMatch`, and nothing else")
    if prefix:
        checks.request_path(f"{field}.replacePrefixMatch", prefix)
    if any(match.path.type is not PathMatchType.PATH_PREFIX for match in matches):
        raise checks.fail(field, f"{edit.type} needs a PathPrefix in every match of the rule")


def _check_retry(checks: Checks, field: str, retry: HTTPRouteRetry) -> None:
    if retry.attempts is not None:
        checks.within(f"{field}.attempts", retry.attempts, 0, MAX_ATTEMPTS)
    for index, code in enumerate(retry.codes):
        checks.within(f"{field}.codes[{index}]", code, 400, 599)
