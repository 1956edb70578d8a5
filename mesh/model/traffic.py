"""How traffic to one service is treated, as a proxy is told it: routes in the order in which they are tried, policies.

TrafficPolicy (YAML) holds most of these structs as they are; routes are made of HTTPRoute and GRPCRoute by `compose`.
Field names are camelCase in YAML and JSON. A `Duration` is seconds here; YAML may also say `300ms`, `1.5s`, `1m30s`.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

Duration = Annotated[float, msgspec.Meta(ge=0, extra={"duration": True})]
"""Seconds, 0 or more."""
Instant = Annotated[float, msgspec.Meta(ge=0, extra={"instant": True})]
"""Seconds since the epoch; YAML may also say a date and time (RFC 3339; UTC where it names no offset)."""
GrpcCode = Annotated[int, msgspec.Meta(ge=0, le=16, extra={"grpc_code": True})]
"""A gRPC status code; YAML may also say its name: `UNAVAILABLE`, `unavailable`."""
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """What all of them are: strict, immutable, written in camelCase."""


# --- what a request must be like -----------------------------------------------------------------------------------


class PathKind(enum.StrEnum):
    """How a path is compared. A prefix is one of whole segments: `/a` is one of `/a/b` and not of `/ab`."""

    EXACT = "exact"
    PREFIX = "prefix"
    REGEX = "regex"


class PathMatch(Part, frozen=True):
    value: str = "/"
    kind: PathKind = PathKind.PREFIX
    """A regular expression must match the whole path (RE2's syntax, checked when it is read)."""


class FieldMatch(Part, frozen=True):
    """A header (`name` in lower case) or a query parameter (`name` as written)."""

    name: str
    value: str
    regex: bool = False


class Match(Part, frozen=True):
    """All of it must hold; what is empty holds for every request. `headers` and `query` name each name once."""

    path: PathMatch | None = None
    method: str = ""
    headers: tuple[FieldMatch, ...] = ()
    query: tuple[FieldMatch, ...] = ()


# --- what is done with it ------------------------------------------------------------------------------------------


class Edits(Part, frozen=True):
    """Of a head's fields, in this order: `remove`, `set`, `add`. Names in lower case."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


class PathEdit(Part, frozen=True):
    """Either the `full` new path, or what replaces the `prefix` that was matched; the query stays."""

    full: str | None = None
    prefix: str | None = None


class Redirect(Part, frozen=True):
    """An answer made by the proxy. Empty fields keep what the request had; `port` 0: that of the scheme."""

    scheme: str = ""
    hostname: str = ""
    port: int = 0
    path: PathEdit | None = None
    status: int = 302


class Rewrite(Part, frozen=True):
    hostname: str = ""
    path: PathEdit | None = None


class Mirror(Part, frozen=True):
    """A copy of each (or a share of) request goes to `service`; its answer is dropped."""

    service: str
    percent: Percent = 100.0


class Backend(Part, frozen=True):
    """A share of a route's requests. `problem` (a reference that leads nowhere) makes that share fail with 500."""

    service: str
    """As an application beside this proxy would name it: `votes-v2`, `votes-v2.demo`; empty: the parent itself."""
    weight: Count = 1
    problem: str = ""


class Hedge(Part, frozen=True):
    """A second try that starts when the first has taken longer than `quantile` of those seen, `minimum` at least."""

    quantile: Share = 0.95
    minimum: Duration = 0.01


class Retry(Part, frozen=True):
    """When a request is sent once more. Nothing is, once any of the answer has gone to the client.

    A connect that fails, a stream that was refused unseen and a reused connection that was closed are always tried
    again; they need no policy."""

    attempts: Count = 1
    """Further tries, hedges among them."""
    statuses: tuple[int, ...] = (502, 503, 504)
    grpc: tuple[GrpcCode, ...] = ()
    reset: bool = True
    """Also when the endpoint resets the stream, or closes, before it answers."""
    timeout: bool = True
    """Also when one try takes longer than `timeouts.backendRequest`."""
    methods: tuple[str, ...] = ()
    """HTTP methods; empty: those that are idempotent (RFC 9110 9.2.2); `*`: all. gRPC calls need no leave: which codes
    are listed is the leave."""
    backoff: Duration = 0.025
    """Before the first further try, doubled for each after it, jittered down to half."""
    backoff_most: Duration = 1.0
    hedge: Hedge | None = None


class RetryBudget(Part, frozen=True):
    """What all retries and hedges of a service may come to, over all connections of this proxy."""

    percent: Percent = 20.0
    """Of the requests in the window."""
    per_second: float = 10.0
    window: Duration = 10.0


class Route(Part, frozen=True):
    """One match and what is done then. A proxy takes the first whose match holds."""

    name: str
    """`ROUTE/RULE`, for metrics and people: `votes-canary/0`."""
    match: Match = Match()
    backends: tuple[Backend, ...] = ()
    """Empty, without `redirect`: 500, as Gateway API wants it."""
    request: Edits | None = None
    response: Edits | None = None
    redirect: Redirect | None = None
    rewrite: Rewrite | None = None
    mirrors: tuple[Mirror, ...] = ()
    timeout: Duration = 0.0
    """Of the whole request; 0: the service's."""
    try_timeout: Duration = 0.0
    retry: Retry | None = None
    """None: the service's."""


# --- policies of a service -----------------------------------------------------------------------------------------


class Breaker(Part, frozen=True):
    """When an endpoint is ejected. A failure is a 5xx, a gRPC status that is the server's fault, a reset or a
    timeout."""

    failures: Count = 7
    """In a row; 0: not for that."""
    success_rate: Share = 0.0
    """Over `window`, of at least `requests`; 0: not for that."""
    requests: Count = 20
    window: Duration = 10.0
    probation: Duration = 1.0
    """Until one request is let through to try it; doubled each time that fails, up to `probation_most`, with jitter."""
    probation_most: Duration = 60.0
    eject_most: Percent = 50.0
    """Of the endpoints; one that would go beyond stays."""
    panic: Percent = 30.0
    """With less of the endpoints than this fit for use, all are used."""


class HealthKind(enum.StrEnum):
    HTTP = "http"
    GRPC = "grpc"
    TCP = "tcp"


class HealthCheck(Part, frozen=True):
    """What each endpoint is asked, whatever traffic says."""

    kind: HealthKind = HealthKind.HTTP
    path: str = "/"
    """Of a GET that must answer 200 to 399."""
    service: str = ""
    """In grpc.health.v1.HealthCheckRequest."""
    interval: Duration = 5.0
    timeout: Duration = 1.0
    unhealthy: Count = 3
    """Failures in a row after which it is not used."""
    healthy: Count = 2


class BalancingKind(enum.StrEnum):
    EWMA = "ewma"
    """Power of two choices over peak EWMA."""
    LEAST_REQUEST = "leastRequest"
    ROUND_ROBIN = "roundRobin"
    HASH = "hash"


class HashOn(Part, frozen=True):
    """What is hashed: the first of these that a request has; a request that has none is balanced as by `ewma`."""

    header: str = ""
    cookie: str = ""
    source: bool = False


class Balancing(Part, frozen=True):
    kind: BalancingKind = BalancingKind.EWMA
    hash: HashOn | None = None
    slow_start: Duration = 0.0
    """While an endpoint's share grows from a tenth to the whole."""
    zone: bool = False
    """Prefer endpoints of the proxy's own zone; others take what the zone is too unwell for."""
    zone_overflow: Percent = 70.0
    """Of the zone's endpoints must be fit for use, for it to get all of the traffic."""


class LimitBy(enum.StrEnum):
    SERVICE = "service"
    ROUTE = "route"
    CLIENT = "client"
    """The client's identity, else its address."""


class RateLimit(Part, frozen=True):
    """A token bucket for each of what `by` tells apart; beyond it 429 (gRPC: RESOURCE_EXHAUSTED) with retry-after."""

    per_second: Annotated[float, msgspec.Meta(gt=0)]
    burst: Count = 0
    """0: a second's worth."""
    by: LimitBy = LimitBy.SERVICE
    match: Match = Match()


class Concurrency(Part, frozen=True):
    """Requests in hand at a time; beyond it 503 (gRPC: RESOURCE_EXHAUSTED)."""

    most: Count = 0
    """0: none, or 1,000 where it is adaptive."""
    adaptive: bool = False
    """Follow the latency: shrink while requests wait in the application, grow while they do not."""
    least: Count = 4


class Abort(Part, frozen=True):
    """The answer instead of the service's: `status`, or `grpc` for gRPC calls."""

    status: int = 503
    grpc: GrpcCode = 14


class Injection(Part, frozen=True):
    """A fault, on purpose, for a share of the requests that match, until it lifts by itself."""

    name: str = ""
    match: Match = Match()
    percent: Percent = 100.0
    delay: Duration = 0.0
    abort: Abort | None = None
    until: Instant = 0.0
    """0: as long as it is configured."""


class Traffic(Part, frozen=True):
    """All of it for one service."""

    routes: tuple[Route, ...] = ()
    routed: bool = False
    """It has routes: a request that none matches is answered 404 (gRPC: UNIMPLEMENTED)."""
    retry: Retry | None = None
    budget: RetryBudget = RetryBudget()
    breaker: Breaker = Breaker()
    health: HealthCheck | None = None
    balancing: Balancing = Balancing()
    rate_limits: tuple[RateLimit, ...] = ()
    concurrency: Concurrency | None = None
    faults: tuple[Injection, ...] = ()
