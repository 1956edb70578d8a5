"""The specs of Gateway API's HTTPRoute and GRPCRoute, in the specification's own names, types and defaults (v1).

In a mesh a route's parent is a Service (GAMMA, GEP-1324): it says how requests *to* that service are treated. What of
the specification we do not do is a field here all the same, so that it is refused by its name and not as a typo.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any

import msgspec

from mesh.model.traffic import Duration, Part, Percent

GROUP = "gateway.networking.k8s.io"
Unsupported = Annotated[Any, msgspec.Meta(extra={"unsupported": True})]
"""A field of the specification that is refused where it is given, with a sentence that says so."""


# --- references ----------------------------------------------------------------------------------------------------


class ParentRef(Part, frozen=True):
    """What the route is attached to. Only a Service (group `""` or `core`) counts here; others are other programs'."""

    name: str
    group: str = GROUP
    kind: str = "Gateway"
    namespace: str = ""
    """The route's own where empty."""
    port: int = 0
    """Accepted; a service has one port here."""
    section_name: str = ""


class BackendRef(Part, frozen=True):
    """A service that requests go to."""

    name: str
    group: str = ""
    kind: str = "Service"
    namespace: str = ""
    """The route's own where empty."""
    port: int = 0
    """Accepted; a service has one port here."""


class WeightedBackendRef(BackendRef, frozen=True):
    """A share of a rule's requests: `weight` of the sum of all."""

    weight: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 1
    filters: Unsupported = None


# --- matches -------------------------------------------------------------------------------------------------------


class PathMatchType(enum.StrEnum):
    EXACT = "Exact"
    PATH_PREFIX = "PathPrefix"
    REGULAR_EXPRESSION = "RegularExpression"


class MatchType(enum.StrEnum):
    EXACT = "Exact"
    REGULAR_EXPRESSION = "RegularExpression"


class Method(enum.StrEnum):
    """The specification's list of them."""

    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    DELETE = "DELETE"
    CONNECT = "CONNECT"
    OPTIONS = "OPTIONS"
    TRACE = "TRACE"
    PATCH = "PATCH"


class HTTPPathMatch(Part, frozen=True):
    type: PathMatchType = PathMatchType.PATH_PREFIX
    value: str = "/"


class ValueMatch(Part, frozen=True):
    """Of a header (any case) or a query parameter (as written)."""

    name: str
    value: str
    type: MatchType = MatchType.EXACT


class HTTPRouteMatch(Part, frozen=True):
    """All of it must hold."""

    path: HTTPPathMatch = HTTPPathMatch()
    headers: tuple[ValueMatch, ...] = ()
    query_params: tuple[ValueMatch, ...] = ()
    method: Method | None = None


class GRPCMethodMatch(Part, frozen=True):
    """At least one of `service` (`package.Service`) and `method`; what is empty holds for every one."""

    type: MatchType = MatchType.EXACT
    service: str = ""
    method: str = ""


class GRPCRouteMatch(Part, frozen=True):
    """All of it must hold."""

    method: GRPCMethodMatch | None = None
    headers: tuple[ValueMatch, ...] = ()


# --- filters -------------------------------------------------------------------------------------------------------


class HTTPHeader(Part, frozen=True):
    name: str
    value: str


class HeaderFilter(Part, frozen=True):
    """Fields of a head, names in any case: those in `set` replace, those in `add` join, those in `remove` go."""

    set: tuple[HTTPHeader, ...] = ()
    add: tuple[HTTPHeader, ...] = ()
    remove: tuple[str, ...] = ()


class Fraction(Part, frozen=True):
    numerator: Annotated[int, msgspec.Meta(ge=0)]
    denominator: Annotated[int, msgspec.Meta(ge=1)] = 100


class RequestMirror(Part, frozen=True):
    """A copy of each request, or of a share: `percent` or `fraction`, not both."""

    backend_ref: BackendRef
    percent: Percent | None = None
    fraction: Fraction | None = None


class PathModifierType(enum.StrEnum):
    REPLACE_FULL_PATH = "ReplaceFullPath"
    REPLACE_PREFIX_MATCH = "ReplacePrefixMatch"


class PathModifier(Part, frozen=True):
    """`type` says which of the two others holds."""

    type: PathModifierType
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class RequestRedirect(Part, frozen=True):
    """What is empty stays as the request had it."""

    scheme: str = ""
    hostname: str = ""
    path: PathModifier | None = None
    port: int = 0
    status_code: int = 302


class URLRewrite(Part, frozen=True):
    hostname: str = ""
    path: PathModifier | None = None


class HTTPFilterType(enum.StrEnum):
    REQUEST_HEADER_MODIFIER = "RequestHeaderModifier"
    RESPONSE_HEADER_MODIFIER = "ResponseHeaderModifier"
    REQUEST_MIRROR = "RequestMirror"
    REQUEST_REDIRECT = "RequestRedirect"
    URL_REWRITE = "URLRewrite"


class GRPCFilterType(enum.StrEnum):
    REQUEST_HEADER_MODIFIER = "RequestHeaderModifier"
    RESPONSE_HEADER_MODIFIER = "ResponseHeaderModifier"
    REQUEST_MIRROR = "RequestMirror"


class HTTPRouteFilter(Part, frozen=True):
    """`type` says which of the other fields is there."""

    type: HTTPFilterType
    request_header_modifier: HeaderFilter | None = None
    response_header_modifier: HeaderFilter | None = None
    request_mirror: RequestMirror | None = None
    request_redirect: RequestRedirect | None = None
    url_rewrite: URLRewrite | None = None
    extension_ref: Unsupported = None
    cors: Unsupported = None
    external_auth: Unsupported = None


class GRPCRouteFilter(Part, frozen=True):
    """`type` says which of the other fields is there."""

    type: GRPCFilterType
    request_header_modifier: HeaderFilter | None = None
    response_header_modifier: HeaderFilter | None = None
    request_mirror: RequestMirror | None = None
    extension_ref: Unsupported = None


# --- rules ---------------------------------------------------------------------------------------------------------


class HTTPRouteTimeouts(Part, frozen=True):
    """`request`: from head to last byte, all tries included; `backendRequest`: one try. 0: the service's."""

    request: Duration = 0.0
    backend_request: Duration = 0.0


class HTTPRouteRetry(Part, frozen=True):
    """GEP-1731. What is not given is as the service's TrafficPolicy has it, else the default."""

    codes: tuple[int, ...] = ()
    attempts: int | None = None
    """Further tries after the first."""
    backoff: Duration | None = None


class HTTPRouteRule(Part, frozen=True):
    """Any of the matches must hold; none at all: every request."""

    name: str = ""
    matches: tuple[HTTPRouteMatch, ...] = ()
    filters: tuple[HTTPRouteFilter, ...] = ()
    backend_refs: tuple[WeightedBackendRef, ...] = ()
    timeouts: HTTPRouteTimeouts = HTTPRouteTimeouts()
    retry: HTTPRouteRetry | None = None
    session_persistence: Unsupported = None


class GRPCRouteRule(Part, frozen=True):
    """Any of the matches must hold; none at all: every call."""

    name: str = ""
    matches: tuple[GRPCRouteMatch, ...] = ()
    filters: tuple[GRPCRouteFilter, ...] = ()
    backend_refs: tuple[WeightedBackendRef, ...] = ()
    session_persistence: Unsupported = None


class HTTPRouteSpec(Part, frozen=True):
    parent_refs: tuple[ParentRef, ...]
    hostnames: tuple[str, ...] = ()
    """Accepted; they mean nothing where the parent is a Service."""
    rules: tuple[HTTPRouteRule, ...] = (HTTPRouteRule(),)


class GRPCRouteSpec(Part, frozen=True):
    parent_refs: tuple[ParentRef, ...]
    hostnames: tuple[str, ...] = ()
    """Accepted; they mean nothing where the parent is a Service."""
    rules: tuple[GRPCRouteRule, ...] = (GRPCRouteRule(),)


def is_service(ref: ParentRef | BackendRef) -> bool:
    """Whether a reference is to a Service."""
    return ref.kind == "Service" and ref.group in ("", "core")
