"""What /api/v1 answers: the CLI, the dashboard and anyone's tools read these."""

from __future__ import annotations

from typing import Any

import msgspec

from mesh.model.identity import TRUST_DOMAIN
from mesh.model.resources import Metadata


class StatRow(msgspec.Struct, frozen=True):
    """Golden metrics of one service or workload over a window, as its inbound proxies saw them.

    For a service that no proxy has seen inbound (none is running, or it is outside the mesh), as its callers saw it.
    """

    name: str
    namespace: str
    kind: str
    """service | workload"""
    protocol: str
    """http1 | http2 | grpc | tcp: what most of its requests came as; empty where there was none."""
    requests: int
    rps: float
    success_rate: float | None
    """0 to 1; None where nothing was asked."""
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    tcp_open: int
    endpoints: int
    """Ready ones."""


class Stat(msgspec.Struct, frozen=True):
    """Answer of /stat, and each message of /stat/watch. `window` is in seconds, 0: since the control plane started."""

    rows: list[StatRow]
    window: float


class Edge(msgspec.Struct, frozen=True):
    """Traffic from one workload to one workload behind a service over a window, as the caller's outbound proxy saw it.

    `namespace` is the source's; `to` is `service` within it, `service.namespace` outside of it. What a service got in
    plain text from somebody without a proxy of ours is an edge of that service's proxies: its `source` is empty.
    """

    source: str
    to: str
    requests: int
    rps: float
    success_rate: float | None
    p50_ms: float | None
    p99_ms: float | None
    tls: str
    """true | disabled | no_identity: of most of its requests."""
    namespace: str = ""
    workload: str = ""
    """Whose endpoint answered; outside of the mesh its address, empty where no request reached one."""
    to_namespace: str = ""
    """The service's; empty outside of the mesh."""
    client_identity: str = ""
    """What the caller proved to be (DNS spelling); empty: nothing."""
    server_identity: str = ""
    """What who answered proved to be."""
    secured: bool = False
    """All of its requests went over mTLS, and both sides proved who they are."""
    reason: str = ""
    """Why it is not secured."""


class ProxyInfo(msgspec.Struct, frozen=True):
    """One proxy that is connected now."""

    proxy: str
    workload: str
    namespace: str
    version: str
    admin: str
    inbound: tuple[str, ...]
    outbound: tuple[str, ...]
    subscriptions: tuple[str, ...]
    acknowledged: int
    """Newest version of which an update was acknowledged."""
    nacks: dict[str, str]
    """Service name -> reason, for what it refused and does not have in force."""
    skew: float = 0.0
    """Seconds that its clock was ahead of the control plane's at its last report, the way of that included."""


class SeenRow(msgspec.Struct, frozen=True):
    """One kind of request to a service, as the inbound proxies beside it saw it, and what policy said to it.

    Either `identity` or `source` says who asked; counts are since `first`. The protocol `(overflow)` stands for what
    came in more kinds than are kept one by one: of it, nothing but the counts is known.
    """

    namespace: str
    service: str
    identity: str
    """What the client proved to be; empty: nothing."""
    source: str
    """The client's address, without port, where it has no identity."""
    protocol: str
    """http | grpc | tcp | (overflow)"""
    method: str
    path: str
    """With what looks like a key as `*`; for gRPC `/package.Service/Method`, for TCP empty."""
    example: str
    """The first such path as it came, without its query."""
    requests: int
    allowed: dict[str, int]
    """Policy (`namespace/name`, or `default:...`) -> requests that it let through."""
    denied: dict[str, int]
    audited: dict[str, int]
    """Policies that only audit, and noted it."""
    workloads: dict[str, int]
    """Workload behind the service -> requests that it was asked."""
    first: float
    """Seconds since the epoch, as is `last`."""
    last: float


class Condition(msgspec.Struct, frozen=True):
    """One thing that is so or not of a resource in force, in Gateway API's words for types and reasons."""

    type: str
    """Accepted | ResolvedRefs"""
    status: bool
    reason: str
    """One word: Accepted, Conflicted, NoMatchingParent, TargetNotFound; ResolvedRefs, BackendNotFound, InvalidKind."""
    message: str = ""


class ResourceStatus(msgspec.Struct, frozen=True):
    """How a resource fares: `result` of the request (created | configured | unchanged | deleted), `accepted`, and why
    not."""

    kind: str
    namespace: str
    name: str
    result: str = ""
    accepted: bool = True
    reason: str = ""
    file: str = ""
    conditions: tuple[Condition, ...] = ()
    """Of one in force: how it fares beside all others, now."""


class ResourceView(msgspec.Struct, frozen=True):
    """One resource in force, in the envelope it was written in, with its status.

    For a file that was refused: what is known of the resource in it (maybe nothing), an empty spec, and why.
    """

    apiVersion: str
    kind: str
    metadata: Metadata
    spec: dict[str, Any]
    status: ResourceStatus


class EndpointInfo(msgspec.Struct, frozen=True):
    """One endpoint of a service that the mesh sends requests to."""

    namespace: str
    service: str
    workload: str
    address: str
    version: str
    protocol: str
    weight: int


class VersionInfo(msgspec.Struct, frozen=True):
    """Conduit's version; `epoch` names this life of the control plane and `configuration` its newest state."""

    version: str
    epoch: str
    configuration: int
    now: float = 0.0
    """The control plane's clock, in seconds since the epoch."""


class TapDropped(msgspec.Struct, frozen=True):
    """A message of /tap/watch: `count` exchanges since the one before matched and are not shown, to keep the bounds."""

    count: int
    event: str = "dropped"


class AuthzRow(msgspec.Struct, frozen=True):
    """One policy that holds for a service, and what it did; or one that did something and does not hold any more.

    Counts are of all workloads behind the service, since it was first seen; `rps` and `success_rate` are of all its
    requests, over the window."""

    namespace: str
    service: str
    workloads: tuple[str, ...]
    """Those behind the service for which it holds."""
    mode: str
    """strict | permissive | mixed"""
    default: str
    """What holds where no Allow policy does: `all-authenticated`, ...; mixed."""
    policy: str
    """`namespace/name`; `default:...` where the mesh's own default holds; `probe` for health checks."""
    action: str
    """Deny | Allow | Default | Audit | External; probe; gone: it does not hold any more."""
    allowed: int
    denied: int
    audited: int
    rps: float
    success_rate: float | None
    """0 to 1; None where nothing was asked."""


class CertificateInfo(msgspec.Struct, frozen=True):
    """One certificate. Times are seconds since the epoch."""

    subject: str
    fingerprint: str
    """SHA-256, hex."""
    not_before: float
    not_after: float
    names: tuple[str, ...] = ()
    """Its SANs."""
    issuer: str = ""
    """Subject of who signed it."""


class ProxyIdentityInfo(msgspec.Struct, frozen=True):
    """Whom a connected proxy speaks for, and the last certificate that was signed for it on its present stream."""

    proxy: str
    workload: str
    namespace: str
    identity: str
    """DNS spelling; empty where the mesh has no identities."""
    not_after: float = 0.0
    """Seconds since the epoch; 0: none was signed."""
    issuer: str = ""
    """Fingerprint of the certificate that signed it."""


class IdentityInfo(msgspec.Struct, frozen=True):
    """Answer of /identity. Without anchors the mesh has no identities."""

    trust_domain: str = ""
    lifetime: float = 0.0
    """Seconds that a workload's certificate holds."""
    anchors: tuple[CertificateInfo, ...] = ()
    issuer: CertificateInfo | None = None
    serving: CertificateInfo | None = None
    """The control plane's own."""
    proxies: tuple[ProxyIdentityInfo, ...] = ()
    problem: str = ""
    """Why the newest files of anchors and issuer were refused; what is shown is what is in force."""


class AuditEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the audit log: somebody changed something, opened a tap, or was refused."""

    at: float
    """Seconds since the epoch."""
    action: str
    """apply | delete | tap | refused, or what another route is called there."""
    who: str
    """The token's name; empty where it was none of ours."""
    role: str
    """view | tap | admin | proxy; empty where it was none of ours."""
    source: str
    """The client's address."""
    result: str
    """created | configured | unchanged | deleted | opened, or why not."""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    request: str = ""
    """Method and path, of what was refused."""
    suppressed: int = 0
    """So many entries before this one were left out, because they came too fast."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every 4xx and 5xx answer."""

    error: str
    file: str = ""
    line: int = 0
    field: str = ""


class RuntimeFile(msgspec.Struct, frozen=True):
    """The running local mesh, as found in its 0600 file: where its control plane listens and what opens it."""

    control: str
    token: str
    state: str
    """Folder with `endpoints/`, one YAML file per running replica."""
    pid: int
    anchors: str = ""
    """PEM file of the roots that its certificates, the control plane's among them, are signed by."""
    trust_domain: str = TRUST_DOMAIN
