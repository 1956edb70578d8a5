"""Counters and histograms of exchanges and connections. Hot: `record` runs once per exchange.

A `Scope` is what is fixed for many exchanges (direction, service, peer, TLS); within it a small tuple finds the
`Series`. The number of series is bounded: what comes after `limits.metric_series` is counted in one overflow series per
scope family. Cumulative values stay here for /metrics; `drain` gives the control plane what they grew by since the
drain before.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

from mesh.model.reports import LATENCY_BOUNDS_MS, Seen, SeriesDelta, SeriesKey, TcpDelta

BUCKETS = len(LATENCY_BOUNDS_MS) + 1
BOUNDS = list(LATENCY_BOUNDS_MS)
OVERFLOW = "(overflow)"


class Tally(enum.StrEnum):
    """What policy does beside letting a request through; a metric family each, labelled with service and detail."""

    RETRY = "conduit_retries"
    RETRY_REFUSED = "conduit_retries_refused"
    HEDGE = "conduit_hedges"
    MIRROR = "conduit_mirrored"
    EJECTION = "conduit_ejections"
    FAULT = "conduit_faults"
    LIMITED = "conduit_limited"
    ALLOWED = "conduit_allowed"
    DENIED = "conduit_denied"
    AUDITED = "conduit_audited"
    AUTHORIZER = "conduit_authorizer"


class Series:
    """One label set. `buckets[i]` counts latencies up to LATENCY_BOUNDS_MS[i] milliseconds, `latency_ms` sums them."""

    __slots__ = (
        *("buckets", "duration_ms", "key", "latency_ms", "requests"),
        *("seen_buckets", "seen_duration_ms", "seen_requests"),
    )

    def __init__(self, key: SeriesKey) -> None:
        self.key = key
        self.requests = self.seen_requests = 0
        self.duration_ms = self.seen_duration_ms = self.latency_ms = 0.0
        self.buckets = [0] * BUCKETS
        self.seen_buckets = [0] * BUCKETS

    def delta(self) -> SeriesDelta | None:
        """What it grew by since the delta before; None if by nothing."""
        if self.requests == self.seen_requests:
            return None
        grown = {
            index: count - seen
            for index, (count, seen) in enumerate(zip(self.buckets, self.seen_buckets, strict=True))
            if count != seen
        }
        delta = SeriesDelta(
            self.key, self.requests - self.seen_requests, self.duration_ms - self.seen_duration_ms, grown
        )
        self.seen_requests, self.seen_duration_ms = self.requests, self.duration_ms
        self.seen_buckets = self.buckets.copy()
        return delta


class Scope:
    """The exchanges of one direction, service, peer and TLS state. `identity` is what the peer proves to be."""

    __slots__ = ("direction", "identity", "peer", "series", "service", "tls")

    def __init__(self, direction: str, service: str, peer: str, tls: str, identity: str) -> None:
        self.direction = direction
        self.service = service
        self.peer = peer
        self.tls = tls
        self.identity = identity
        self.series: dict[tuple[str, int, int, str, str, str], Series] = {}


class Connections:
    """TCP connections of one direction and service: `open` now, the others since start."""

    __slots__ = ("_seen", "closed", "direction", "opened", "read_bytes", "service", "write_bytes")

    def __init__(self, direction: str, service: str) -> None:
        self.direction = direction
        self.service = service
        self.opened = self.closed = self.read_bytes = self.write_bytes = 0
        self._seen = (0, 0, 0, 0)

    @property
    def open(self) -> int:
        return self.opened - self.closed

    def end(self, read_bytes: int, write_bytes: int) -> None:
        """One connection is closed; it had read from and written to its peer so much."""
        self.closed += 1
        self.read_bytes += read_bytes
        self.write_bytes += write_bytes

    def delta(self) -> TcpDelta | None:
        """What it grew by; None if nothing happened and nothing is open: a new control plane must learn the gauge."""
        now = (self.opened, self.closed, self.read_bytes, self.write_bytes)
        if now == self._seen and not self.open:
            return None
        grown = [new - old for new, old in zip(now, self._seen, strict=True)]
        self._seen = now
        return TcpDelta(self.direction, self.service, grown[0], grown[1], self.open, grown[2], grown[3])


class EndpointState(NamedTuple):
    """How one endpoint fares: `state` is in_use | unhealthy | ejected | down."""

    service: str
    workload: str
    address: str
    state: str


class Certificate(NamedTuple):
    """This proxy's own: when it ends (seconds since the epoch; 0: there is none yet), how many were installed, and how
    many tries to get one failed."""

    expires: float
    installed: int
    failed: int


def no_certificate() -> Certificate | None:
    """Of a proxy without an identity."""
    return None


def nothing_seen() -> list[Seen]:
    """Of a proxy that does not watch what its application is asked."""
    return []


def no_states() -> list[EndpointState]:
    """Of a proxy that calls nobody."""
    return []


class Reports:
    """All series of one proxy, and the refusals it has counted by (bound or check, detail)."""

    def __init__(self, metric_series: int) -> None:
        self.limit = metric_series
        self._scopes: dict[tuple[str, str, str, str, str], Scope] = {}
        self._connections: dict[tuple[str, str], Connections] = {}
        self.series: list[Series] = []
        self.refusals: dict[tuple[str, str], int] = {}
        self.tallies: dict[tuple[Tally, str, str], int] = {}
        self.states: Callable[[], list[EndpointState]] = no_states
        self.certificate: Callable[[], Certificate | None] = no_certificate
        self.seen: Callable[[], list[Seen]] = nothing_seen

    def scope(self, direction: str, service: str, peer: str, tls: str, identity: str = "") -> Scope:
        """The scope of these labels, one object for the same labels; the overflow scope beyond the bound."""
        key = (direction, service, peer, tls, identity)
        scope = self._scopes.get(key)
        if scope is None:
            if len(self._scopes) >= self.limit:
                key = (direction, OVERFLOW, "", tls, "")
                scope = self._scopes.get(key)
            if scope is None:
                scope = self._scopes[key] = Scope(*key)
        return scope

    def connections(self, direction: str, service: str) -> Connections:
        """The connection counters of these labels."""
        key = (direction, service)
        if key not in self._connections and len(self._connections) >= self.limit:
            key = (direction, OVERFLOW)
        return self._connections.setdefault(key, Connections(*key))

    def closed(self) -> int:
        """Connections that have ended, to both sides, since start."""
        return sum(one.closed for one in self._connections.values())

    def all_connections(self) -> list[Connections]:
        return list(self._connections.values())

    def record(
        self,
        scope: Scope,
        protocol: str,
        status: int,
        grpc_status: int,
        outcome: str,
        error: str,
        latency: float,
        duration: float,
        route: str = "",
    ) -> None:
        """Count one exchange; `latency` (to the response head) and `duration` in seconds."""
        key = (protocol, status, grpc_status, outcome, error, route)
        series = scope.series.get(key)
        if series is None:
            series = self._new_series(scope, key)
        series.requests += 1
        series.duration_ms += duration * 1000.0
        latency_ms = latency * 1000.0
        series.latency_ms += latency_ms
        series.buckets[bisect_left(BOUNDS, latency_ms)] += 1

    def _new_series(self, scope: Scope, key: tuple[str, int, int, str, str, str]) -> Series:
        protocol, status, grpc_status, outcome, error, route = key
        if len(self.series) >= self.limit:
            key = (OVERFLOW, 0, -1, outcome, "", "")
            protocol, status, grpc_status, outcome, error, route = key
            if key in scope.series:
                return scope.series[key]
        blameless = outcome in ("completed", "client_cancelled") or error == "rate_limited"
        success = blameless and not is_failure(status, grpc_status)
        labels = SeriesKey(
            direction=scope.direction,
            service=scope.service,
            peer=scope.peer,
            protocol=protocol,
            status=status,
            grpc_status=grpc_status,
            outcome=outcome,
            error=error,
            success=success,
            tls=scope.tls,
            route=route,
            identity=scope.identity,
        )
        series = scope.series[key] = Series(labels)
        self.series.append(series)
        return series

    def refuse(self, reason: str, where: str) -> None:
        """Count a refusal: `reason` is one word_like_this from a closed list, `where` the listener's direction or a
        service."""
        key = (reason, where)
        if key in self.refusals or len(self.refusals) < self.limit:
            self.refusals[key] = self.refusals.get(key, 0) + 1

    def tally(self, what: Tally, service: str, detail: str) -> None:
        """Count something that policy did for a service; `detail` is from a closed list, or an endpoint's peer name."""
        key = (what, service, detail)
        count = self.tallies.get(key)
        if count is not None:
            self.tallies[key] = count + 1
        elif len(self.tallies) < self.limit:
            self.tallies[key] = 1

    def drain(self) -> tuple[list[SeriesDelta], list[TcpDelta]]:
        """Deltas since the last drain."""
        series = [delta for one in self.series if (delta := one.delta()) is not None]
        tcp = [grown for one in self._connections.values() if (grown := one.delta()) is not None]
        return series, tcp

    def drain_seen(self) -> list[Seen]:
        """Kinds of requests that the application here got, and how many since the last drain."""
        return self.seen()


FAILING_GRPC = frozenset({2, 4, 12, 13, 14, 15})
"""UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: the server's fault, as linkerd-proxy
classifies."""


def grpc_code(value: bytes | None) -> int:
    """A grpc-status; 2, UNKNOWN, for none or what is no number (gRPC over HTTP/2, Status)."""
    return int(value) if value is not None and value.isdigit() and len(value) < 4 else 2


def is_failure(status: int, grpc_status: int) -> bool:
    """linkerd's default classification: 5xx, or a grpc-status that is the server's fault."""
    return status >= 500 or grpc_status in FAILING_GRPC
