"""What people write: resources with Kubernetes' envelope (apiVersion, kind, metadata, spec)."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from mesh.model.config import Protocol, Timeouts

API_VERSION = "conduit.mesh/v1alpha1"
PORT_WORD = "${PORT}"
"""In a workload's command: the port that its program must listen on."""


class Metadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """Name and namespace; labels and annotations are kept and shown, nothing depends on them."""

    name: str
    namespace: str = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


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


class TrafficPolicySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How traffic to one service is treated."""

    service: str
    timeouts: Timeouts = Timeouts()
    protocol: Protocol | None = None


class Workload(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: ClassVar[str] = "Workload"
    metadata: Metadata
    spec: WorkloadSpec


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: ClassVar[str] = "Endpoint"
    metadata: Metadata
    spec: EndpointSpec


class TrafficPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: ClassVar[str] = "TrafficPolicy"
    metadata: Metadata
    spec: TrafficPolicySpec


Resource = Workload | Endpoint | TrafficPolicy
KINDS: dict[str, type[Workload] | type[Endpoint] | type[TrafficPolicy]] = {
    kind.kind: kind for kind in (Workload, Endpoint, TrafficPolicy)
}
