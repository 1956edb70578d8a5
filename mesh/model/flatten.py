"""One HTTPRoute or GRPCRoute as a proxy is told it: a Route for each match of each rule, with its place in the order.

The order is Gateway API's: what asks for more goes first.
- HTTPRoute: an exact path, then a regular expression (which the specification leaves to us), then the longest prefix;
  then a method, more headers, more query parameters.
- GRPCRoute: exact names, then regular expressions; the longer service, the longer method, more headers.
- Of equals the older route, the first by namespace and name, the earlier rule, the earlier match.
No two places are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from mesh.model.gateway import (
    BackendRef,
    GRPCMethodMatch,
    GRPCRouteFilter,
    GRPCRouteMatch,
    GRPCRouteRule,
    HeaderFilter,
    HTTPPathMatch,
    HTTPRouteFilter,
    HTTPRouteMatch,
    HTTPRouteRetry,
    HTTPRouteRule,
    MatchType,
    PathMatchType,
    PathModifier,
    RequestMirror,
    RequestRedirect,
    URLRewrite,
    ValueMatch,
    is_service,
)
from mesh.model.resources import GRPCRoute, HTTPRoute, Metadata
from mesh.model.traffic import (
    Backend,
    Edits,
    FieldMatch,
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

Exists = Callable[[str, str], bool]
"""Whether there is a service, by namespace and name."""
Age = tuple[float, str, str]
Order = tuple[tuple[int, ...], Age, int, int]
"""Where a route is tried: how little its match asks for, its resource's age, rule and match."""

_PATHS = {
    PathMatchType.EXACT: (0, PathKind.EXACT),
    PathMatchType.REGULAR_EXPRESSION: (1, PathKind.REGEX),
    PathMatchType.PATH_PREFIX: (2, PathKind.PREFIX),
}


class Scope(NamedTuple):
    """What references are seen from."""

    namespace: str
    """Of the route: where names without a namespace are."""
    parent: tuple[str, str]
    caller: str
    """Namespace of the proxy, whose names we say."""
    exists: Exists

    def key(self, ref: BackendRef) -> tuple[str, str]:
        """Namespace and name of what is referred to."""
        return ref.namespace or self.namespace, ref.name

    def name(self, ref: BackendRef) -> str:
        """As an application beside the proxy would call it."""
        namespace, name = self.key(ref)
        return name if namespace == self.caller else f"{name}.{namespace}"

    def problem(self, ref: BackendRef) -> str:
        """Why a reference leads nowhere, as a sentence; empty where it does not."""
        return problem_with(ref, self.namespace, self.exists)


def problem_with(ref: BackendRef, namespace: str, exists: Exists) -> str:
    """Why a reference of a route in `namespace` leads nowhere, as a sentence; empty where it leads to a service."""
    if not is_service(ref):
        return f"{ref.name} is of kind {ref.kind}, not a Service"
    home = ref.namespace or namespace
    return "" if exists(home, ref.name) else f"there is no service {ref.name} in namespace {home}"


def age(metadata: Metadata) -> Age:
    """Sorts resources as Gateway API wants conflicts decided: the oldest first, then by namespace and name.

    What does not say when it was created was there before all that does."""
    created = metadata.created.timestamp() if metadata.created is not None else 0.0
    return created, metadata.namespace, metadata.name


def flatten(resource: HTTPRoute | GRPCRoute, scope: Scope, retry: Retry | None) -> list[tuple[Order, Route]]:
    """All of a route's matches. `retry` is the service's own policy, which a rule's `retry` changes."""
    found: list[tuple[Order, Route]] = []
    old = age(resource.metadata)
    rules: Sequence[HTTPRouteRule | GRPCRouteRule] = resource.spec.rules
    for index, rule in enumerate(rules):
        template = _http_rule(rule, scope, retry) if isinstance(rule, HTTPRouteRule) else _grpc_rule(rule, scope)
        template = msgspec.structs.replace(template, name=f"{resource.metadata.name}/{index}")
        places: list[tuple[tuple[int, ...], Match]]
        if isinstance(rule, HTTPRouteRule):
            places = [_http_match(match) for match in rule.matches or (HTTPRouteMatch(),)]
        else:
            places = [_grpc_match(match) for match in rule.matches or (GRPCRouteMatch(),)]
        for at, (weight, match) in enumerate(places):
            found.append(((weight, old, index, at), msgspec.structs.replace(template, match=match)))
    return found


# --- matches -------------------------------------------------------------------------------------------------------


def _http_match(match: HTTPRouteMatch) -> tuple[tuple[int, ...], Match]:
    rank, kind = _PATHS[match.path.type]
    length = len(match.path.value.rstrip("/")) if kind is PathKind.PREFIX else len(match.path.value)
    weight = (rank, -length, match.method is None, -len(match.headers), -len(match.query_params))
    return weight, Match(
        _path(match.path, kind),
        str(match.method or ""),
        tuple(_field(header, header.name.lower()) for header in match.headers),
        tuple(_field(parameter, parameter.name) for parameter in match.query_params),
    )


def _path(path: HTTPPathMatch, kind: PathKind) -> PathMatch | None:
    return None if kind is PathKind.PREFIX and path.value == "/" else PathMatch(path.value, kind)


def _field(match: ValueMatch, name: str) -> FieldMatch:
    return FieldMatch(name, match.value, match.type is MatchType.REGULAR_EXPRESSION)


def _grpc_match(match: GRPCRouteMatch) -> tuple[tuple[int, ...], Match]:
    method = match.method
    if method is None:
        rank = 2
        method = GRPCMethodMatch()
    else:
        rank = 1 if method.type is MatchType.REGULAR_EXPRESSION else 0
    weight = (rank, -len(method.service), -len(method.method), -len(match.headers))
    fields = tuple(_field(header, header.name.lower()) for header in match.headers)
    return weight, Match(path=_grpc_path(method), headers=fields)


def _grpc_path(method: GRPCMethodMatch) -> PathMatch | None:
    """The path of a call is `/package.Service/Method`."""
    if method.type is MatchType.REGULAR_EXPRESSION:
        parts = [f"(?:{part})" if part else "[^/]+" for part in (method.service, method.method)]
        return PathMatch("/" + "/".join(parts), PathKind.REGEX)
    if method.service and method.method:
        return PathMatch(f"/{method.service}/{method.method}", PathKind.EXACT)
    if method.service:
        return PathMatch(f"/{method.service}", PathKind.PREFIX)
    return PathMatch(f"/[^/]+/{re.escape(method.method)}", PathKind.REGEX) if method.method else None


# --- what is done then ---------------------------------------------------------------------------------------------


def _http_rule(rule: HTTPRouteRule, scope: Scope, retry: Retry | None) -> Route:
    route = _filtered(rule.filters, scope)
    for each in rule.filters:
        if each.request_redirect is not None:
            route = msgspec.structs.replace(route, redirect=_redirect(each.request_redirect))
        if each.url_rewrite is not None:
            route = msgspec.structs.replace(route, rewrite=_rewrite(each.url_rewrite))
    return msgspec.structs.replace(
        route,
        backends=_backends(rule, scope),
        timeout=rule.timeouts.request,
        try_timeout=rule.timeouts.backend_request,
        retry=None if rule.retry is None else _retry(rule.retry, retry or Retry()),
    )


def _grpc_rule(rule: GRPCRouteRule, scope: Scope) -> Route:
    return msgspec.structs.replace(_filtered(rule.filters, scope), backends=_backends(rule, scope))


def _filtered(filters: Sequence[HTTPRouteFilter | GRPCRouteFilter], scope: Scope) -> Route:
    request = response = None
    mirrors = []
    for each in filters:
        if each.request_header_modifier is not None:
            request = _edits(each.request_header_modifier)
        if each.response_header_modifier is not None:
            response = _edits(each.response_header_modifier)
        # A mirror that leads nowhere costs nobody an answer: it is left out, and the route's conditions say so.
        if each.request_mirror is not None and not scope.problem(each.request_mirror.backend_ref):
            mirrors.append(_mirror(each.request_mirror, scope))
    return Route("", request=request, response=response, mirrors=tuple(mirrors))


def _backends(rule: HTTPRouteRule | GRPCRouteRule, scope: Scope) -> tuple[Backend, ...]:
    found = []
    for ref in rule.backend_refs:
        if is_service(ref) and scope.key(ref) == scope.parent:
            found.append(Backend("", ref.weight))
        else:
            found.append(Backend(scope.name(ref), ref.weight, scope.problem(ref)))
    return tuple(found)


def _edits(modifier: HeaderFilter) -> Edits:
    return Edits(
        set=tuple((header.name.lower(), header.value) for header in modifier.set),
        add=tuple((header.name.lower(), header.value) for header in modifier.add),
        remove=tuple(name.lower() for name in modifier.remove),
    )


def _mirror(mirror: RequestMirror, scope: Scope) -> Mirror:
    percent = 100.0 if mirror.percent is None else mirror.percent
    if mirror.fraction is not None:
        percent = 100.0 * mirror.fraction.numerator / mirror.fraction.denominator
    return Mirror(scope.name(mirror.backend_ref), percent)


def _redirect(redirect: RequestRedirect) -> Redirect:
    path = _path_edit(redirect.path)
    return Redirect(redirect.scheme, redirect.hostname, redirect.port, path, redirect.status_code)


def _rewrite(rewrite: URLRewrite) -> Rewrite:
    return Rewrite(rewrite.hostname, _path_edit(rewrite.path))


def _path_edit(edit: PathModifier | None) -> PathEdit | None:
    return None if edit is None else PathEdit(full=edit.replace_full_path, prefix=edit.replace_prefix_match)


def _retry(said: HTTPRouteRetry, base: Retry) -> Retry:
    attempts = base.attempts if said.attempts is None else said.attempts
    backoff = base.backoff if said.backoff is None else said.backoff
    return msgspec.structs.replace(
        base,
        attempts=attempts,
        statuses=said.codes or base.statuses,
        backoff=backoff,
        backoff_most=max(base.backoff_most, backoff),
        hedge=base.hedge if attempts else None,
    )
