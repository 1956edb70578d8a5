"""What proxies tell about traffic: histogram shape, deltas of counters, tap events."""

from __future__ import annotations

import msgspec

LATENCY_BOUNDS_MS: tuple[float, ...] = (
    *(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20),
    *(25, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100, 125, 150, 175, 200, 250, 300, 350, 400, 450, 500, 600, 700, 800),
    *(900, 1000, 1250, 1500, 2000, 2500, 3000, 4000, 5000, 7500, 10000, 20000, 30000, 40000, 50000),
)
"""Upper bounds (inclusive) of the buckets that proxies keep; one more, unbounded, follows.

Finer than linkerd-proxy's and a superset of them, so that /metrics can show exactly its buckets."""

LINKERD_BOUNDS_MS: tuple[float, ...] = (
    *(1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 500),
    *(1000, 2000, 3000, 4000, 5000, 10000, 20000, 30000, 40000, 50000),
)
"""The buckets of response_latency_ms on /metrics: a subset of LATENCY_BOUNDS_MS."""


class SeriesKey(msgspec.Struct, frozen=True, array_like=True):
    """The labels of one series of exchanges. All bounded: no path, no raw authority from outside the mesh."""

    direction: str
    """inbound | outbound"""
    service: str
    """The service called (`votes`, `votes.demo`), or the authority of traffic that leaves the mesh."""
    peer: str
    """outbound: the endpoint's workload or address; inbound: the client's identity or workload, empty if unknown."""
    protocol: str
    """http1 | http2 | grpc | tcp: what the downstream spoke."""
    status: int
    """HTTP status answered; 0 if none was."""
    grpc_status: int
    """-1 where the exchange was not gRPC."""
    outcome: str
    """completed | client_cancelled | expired | denied | shed | failed"""
    error: str
    """Reason of an error that the proxy made itself (the `conduit-error` header); empty otherwise."""
    success: bool
    """The classification: not a 5xx, not a failing grpc-status, not failed by the mesh (a rate limit's 429 is not)."""
    tls: str
    """true | disabled | no_identity"""
    route: str = ""
    """`ROUTE/RULE` that it took; empty where the service has no routes."""
    identity: str = ""
    """outbound: what the endpoint proved to be; inbound: what the client did. Empty without mTLS."""


class SeriesDelta(msgspec.Struct, frozen=True, array_like=True):
    """What one series grew by since the report before."""

    key: SeriesKey
    requests: int
    duration_ms: float
    """Summed over the requests, from head received to last byte sent."""
    buckets: dict[int, int]
    """Index into LATENCY_BOUNDS_MS (its length: the unbounded one) -> requests; time from head to response head."""


class TcpDelta(msgspec.Struct, frozen=True, array_like=True):
    """Connections of one direction and service since the report before; `open` is the gauge now."""

    direction: str
    service: str
    opened: int
    closed: int
    open: int
    read_bytes: int
    write_bytes: int


class EndpointHealth(msgspec.Struct, frozen=True, array_like=True):
    """How one endpoint fares with one proxy that calls it."""

    service: str
    """As the proxy names it."""
    address: str
    state: str
    """unhealthy | ejected | down"""


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """One kind of request that an application got, and what policy said to it: what policies are written from.

    `count` is the growth since the report before."""

    service: str
    """Of the inbound listener."""
    identity: str
    """What the client proved to be; empty: nothing."""
    source: str
    """The client's address without port where it has no identity; else empty."""
    protocol: str
    """http | grpc | tcp"""
    method: str
    path: str
    """With what looks like a key (a number, a UUID, a long random word) as `*`; for gRPC `/package.Service/Method`."""
    example: str
    """The first such path, as it came, without its query."""
    allowed: bool
    by: str
    """The policy that decided (`namespace/name`), or `default:...`."""
    audited: str
    """The policy that only audits and would have denied it; empty for none."""
    count: int


class TapEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of tap: `event` is req, rsp or end. Header values are never part of it; bodies never are."""

    event: str
    id: str
    """`connection:stream`, unique within the proxy while the exchange lives."""
    proxy: str
    """in | out"""
    workload: str
    """Whose proxy saw it."""
    src: str
    dst: str
    tls: str
    service: str = ""
    src_workload: str = ""
    """What the client proved to be; empty for nothing."""
    dst_identity: str = ""
    """What the endpoint proved to be, or in an inbound proxy who we are ourselves."""
    policy: str = ""
    """What allowed or denied it (inbound): `namespace/name`, or `default:...`."""
    audited: str = ""
    """The policy that only audits and would have denied it."""
    method: str = ""
    authority: str = ""
    path: str = ""
    status: int = 0
    latency_us: int = 0
    """rsp: request head to response head."""
    duration_us: int = 0
    """end: response head to end; the whole where there was no response head."""
    response_bytes: int = 0
    grpc_status: int = -1
    outcome: str = ""
    error: str = ""
    route: str = ""
    """`ROUTE/RULE` that it took."""
    retries: int = 0
    """end: further tries, hedges among them."""
    at: float = 0.0
    """Seconds since the epoch."""


class TapMatch(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which exchanges a tap wants; empty fields match everything. `path` is a prefix."""

    workload: str = ""
    """Only the proxy of this workload."""
    to: str = ""
    """Service called."""
    method: str = ""
    path: str = ""
    authority: str = ""
    max_rps: float = 100.0
    """Exchanges per second over all proxies together (the control plane holds it) and per proxy (each holds it)."""
