"""What people write: resources with Kubernetes' envelope (apiVersion, kind, metadata, spec)."""

from __future__ import annotations

import datetime
from typing import Annotated, ClassVar

import msgspec

from mesh.model.config import Protocol, Timeouts
from mesh.model.gateway import GROUP, GRPCRouteSpec, HTTPRouteSpec
from mesh.model.traffic import (
    Abort,
    Balancing,
    Breaker,
    Concurrency,
    Duration,
    HealthCheck,
    Injection,
    Instant,
    Match,
    Part,
    Percent,
    RateLimit,
    Retry,
    RetryBudget,
)

API_VERSION = "conduit.mesh/v1alpha1"
"""Of the kinds that are our own; see `Resource.api_version` for each kind's."""
PORT_WORD = "${PORT}"
"""In a workload's command: the port that its program must listen on."""


class Metadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """Name and namespace; labels and annotations are kept and shown, nothing depends on them.

    Of what else Kubernetes writes there, the time of creation is kept (of two that collide, the older holds); the rest
    is let pass."""

    name: str
    namespace: str = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    created: Annotated[datetime.datetime, msgspec.Meta(tz=True)] | None = msgspec.field(
        name="creationTimestamp", default=None
    )


class WorkloadSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A program to run beside a sidecar in local mode."""

    command: tuple[str, ...]
    service: str = ""
    """The service it is an endpoint of; the workload's own name where empty."""
    version: str = ""
    directory: str = "."
    """Working directory, relative to the file that this stands in."""
    port: int | str | None = None
    """Where the program listens: a number, `auto` (a free one, passed as $PORT), or nothing for a client."""
    protocol: Protocol = Protocol.DETECT
    replicas: int = 1
    environment: dict[str, str] = {}
    zone: str = ""
    """Where it runs, for services whose balancing prefers a zone."""


class EndpointSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One running replica; written by the local supervisor when the application answers, removed when it stops."""

    service: str
    workload: str
    address: str
    """Of the replica's inbound listener."""
    version: str = ""
    protocol: Protocol = Protocol.DETECT
    identity: str = ""
    pid: int = 0
    """The supervisor's process: an endpoint whose process is gone is stale."""
    zone: str = ""
    meshed: bool = False
    """There is a proxy of ours at the address."""
    weight: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 1
    """0 takes no new requests."""


class TrafficPolicySpec(Part, frozen=True):
    """How traffic to one service is treated."""

    service: str
    timeouts: Timeouts = Timeouts()
    protocol: Protocol | None = None
    retry: Retry | None = None
    budget: RetryBudget = RetryBudget()
    breaker: Breaker = Breaker()
    health: HealthCheck | None = None
    balancing: Balancing = Balancing()
    rate_limits: tuple[RateLimit, ...] = ()
    concurrency: Concurrency | None = None
    faults: tuple[Injection, ...] = ()


class FaultSpec(Part, frozen=True):
    """A fault for one service: what an Injection is, its name being the resource's."""

    service: str
    match: Match = Match()
    percent: Percent = 100.0
    delay: Duration = 0.0
    abort: Abort | None = None
    until: Instant = 0.0
    """Seconds since the epoch, or in YAML a date and time; 0: until it is cleared."""


class Workload(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: ClassVar[str] = "Workload"
    api_version: ClassVar[str] = API_VERSION
    metadata: Metadata
    spec: WorkloadSpec


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: ClassVar[str] = "Endpoint"
    api_version: ClassVar[str] = API_VERSION
    metadata: Metadata
    spec: EndpointSpec


class TrafficPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: ClassVar[str] = "TrafficPolicy"
    api_version: ClassVar[str] = API_VERSION
    metadata: Metadata
    spec: TrafficPolicySpec


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: ClassVar[str] = "Fault"
    api_version: ClassVar[str] = API_VERSION
    metadata: Metadata
    spec: FaultSpec


class HTTPRoute(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: ClassVar[str] = "HTTPRoute"
    api_version: ClassVar[str] = f"{GROUP}/v1"
    metadata: Metadata
    spec: HTTPRouteSpec


class GRPCRoute(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: ClassVar[str] = "GRPCRoute"
    api_version: ClassVar[str] = f"{GROUP}/v1"
    metadata: Metadata
    spec: GRPCRouteSpec


Route = HTTPRoute | GRPCRoute
Resource = Workload | Endpoint | TrafficPolicy | Fault | HTTPRoute | GRPCRoute
KINDS: dict[str, type[Resource]] = {
    kind.kind: kind for kind in (Workload, Endpoint, TrafficPolicy, Fault, HTTPRoute, GRPCRoute)
}
API_VERSIONS: dict[str, tuple[str, ...]] = {
    **{name: (kind.api_version,) for name, kind in KINDS.items()},
    HTTPRoute.kind: (HTTPRoute.api_version, f"{GROUP}/v1beta1"),
    GRPCRoute.kind: (GRPCRoute.api_version, f"{GROUP}/v1beta1", f"{GROUP}/v1alpha2"),
}
"""What a kind's apiVersion may be; the first is the one that it is shown with."""
