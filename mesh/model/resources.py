"""What people write: resources with Kubernetes' envelope (apiVersion, kind, metadata, spec)."""

from __future__ import annotations

import datetime
import enum
from typing import Annotated, Any, ClassVar, get_args

import msgspec

from mesh.model.authorization import Action, Default, Destination, Operation, Source, Strictness
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
MESH_NAMESPACE = "conduit"
"""Whose resources may be for the whole mesh."""
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
    account: str = ""
    """Whom its identity names; the workload's own name where empty."""


class TargetKind(enum.StrEnum):
    """What a policy is for: all of the mesh (only from the namespace `conduit`), its own namespace, or one thing in
    it."""

    MESH = "Mesh"
    NAMESPACE = "Namespace"
    SERVICE = "Service"
    WORKLOAD = "Workload"


class Target(Part, frozen=True):
    """`name` only where one thing is meant."""

    kind: TargetKind
    name: str = ""


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


class AuthorizationPolicySpec(Part, frozen=True):
    """Who may, or may not, do what with what `target` names. See `Source` and `Operation`."""

    target: Target
    action: Action = Action.ALLOW
    sources: tuple[Source, ...] = msgspec.field(name="from", default=())
    operations: tuple[Operation, ...] = msgspec.field(name="to", default=())


class DefaultPolicySpec(Part, frozen=True):
    """What holds where no other policy speaks. The nearest word counts: workload, service, namespace, mesh."""

    target: Target
    inbound: Default | None = None
    tls: Strictness | None = None
    egress: Action | None = None
    networks: tuple[str, ...] = ()
    """CIDR blocks that are the mesh's own (`cluster-authenticated`)."""


class EgressPolicySpec(Part, frozen=True):
    """What the applications that `target` names may call outside of the mesh; without `to`, everything."""

    target: Target
    action: Action = Action.ALLOW
    destinations: tuple[Destination, ...] = msgspec.field(name="to", default=())


class ExternalAuthorizer(Part, frozen=True):
    """A gRPC service that speaks Envoy's ext_authz v3."""

    service: str
    """A service of the mesh, or `host:port`."""
    timeout: Duration = 0.25
    fail_open: bool = False
    headers: tuple[str, ...] = ()
    cache: Duration = 0.0
    operations: tuple[Operation, ...] = msgspec.field(name="to", default=())


class EntryPoint(Part, frozen=True):
    """Python that compiles policies, in the control plane: `module:function`, found in `directory` or installed."""

    function: str
    directory: str = ""
    """Relative to the file that this stands in."""
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class PolicyPluginSpec(Part, frozen=True):
    """Either an external authoriser, for what `target` names, or Python that writes policies."""

    target: Target
    authorizer: ExternalAuthorizer | None = None
    python: EntryPoint | None = None


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


class AuthorizationPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: ClassVar[str] = "AuthorizationPolicy"
    api_version: ClassVar[str] = API_VERSION
    metadata: Metadata
    spec: AuthorizationPolicySpec


class DefaultPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: ClassVar[str] = "DefaultPolicy"
    api_version: ClassVar[str] = API_VERSION
    metadata: Metadata
    spec: DefaultPolicySpec


class EgressPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: ClassVar[str] = "EgressPolicy"
    api_version: ClassVar[str] = API_VERSION
    metadata: Metadata
    spec: EgressPolicySpec


class PolicyPlugin(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: ClassVar[str] = "PolicyPlugin"
    api_version: ClassVar[str] = API_VERSION
    metadata: Metadata
    spec: PolicyPluginSpec


Route = HTTPRoute | GRPCRoute
Policy = AuthorizationPolicy | DefaultPolicy | EgressPolicy | PolicyPlugin
"""What says who may call whom."""
Resource = (
    Workload
    | Endpoint
    | TrafficPolicy
    | Fault
    | HTTPRoute
    | GRPCRoute
    | AuthorizationPolicy
    | DefaultPolicy
    | EgressPolicy
    | PolicyPlugin
)
KINDS: dict[str, type[Resource]] = {kind.kind: kind for kind in get_args(Resource)}
API_VERSIONS: dict[str, tuple[str, ...]] = {
    **{name: (kind.api_version,) for name, kind in KINDS.items()},
    HTTPRoute.kind: (HTTPRoute.api_version, f"{GROUP}/v1beta1"),
    GRPCRoute.kind: (GRPCRoute.api_version, f"{GROUP}/v1beta1", f"{GROUP}/v1alpha2"),
}
"""What a kind's apiVersion may be; the first is the one that it is shown with."""
