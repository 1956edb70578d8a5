"""What /api/v1 answers: the CLI, the dashboard and anyone's tools read these."""

from __future__ import annotations

from typing import Any

import msgspec

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
    """Traffic from one workload to one service over a window, as the caller's outbound proxy saw it.

    `namespace` is the source's; `to` is `service` within it, `service.namespace` outside of it.
    """

    source: str
    to: str
    requests: int
    rps: float
    success_rate: float | None
    p50_ms: float | None
    p99_ms: float | None
    tls: str
    namespace: str = ""


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


class TapDropped(msgspec.Struct, frozen=True):
    """A message of /tap/watch: `count` exchanges since the one before matched and are not shown, to keep the bounds."""

    count: int
    event: str = "dropped"


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
