"""proxy.yaml: what one proxy is told at start. The fields are a contract with scripts; see docs and DESIGN section
5."""

from __future__ import annotations

import enum

import msgspec

from mesh.model.authorization import Authorization, Default, Egress
from mesh.model.identity import TRUST_DOMAIN
from mesh.model.limits import Limits
from mesh.model.traffic import Duration, Traffic


class Protocol(enum.StrEnum):
    """How to speak to an application. `DETECT` follows what the client speaks."""

    DETECT = "detect"
    HTTP1 = "http1"
    HTTP2 = "http2"
    OPAQUE = "opaque"


class TlsMode(enum.StrEnum):
    """What an inbound listener with TLS does about plain text: `STRICT` refuses, `PERMISSIVE` serves it."""

    STRICT = "strict"
    PERMISSIVE = "permissive"


class TlsFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PEM files: our chain, our key, and the anchors that the peer must be signed by."""

    cert: str
    key: str
    ca: str


class InboundTls(TlsFiles, frozen=True, forbid_unknown_fields=True):
    mode: TlsMode = TlsMode.STRICT


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One address (`host:port`, `[v6]:port`) that answers for a service. `weight` 0 takes no new requests.

    `identity` is the DNS identity that its certificate must carry; `workload` and `version` are for showing only.
    """

    address: str
    weight: int = 1
    identity: str = ""
    workload: str = ""
    version: str = ""
    zone: str = ""
    meshed: bool = False
    """There is a proxy of ours at this address: HTTP/1.1 travels to it as HTTP/2, and deadlines are passed on."""


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """Seconds; 0 means the proxy's own limit, or none. `request` spans from head to last byte, all tries included;
    `backend_request` one try."""

    connect: Duration = 0.0
    request: Duration = 0.0
    backend_request: Duration = 0.0
    idle: Duration = 0.0


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All that a proxy must know to send a request to a service: what the control plane pushes, proxy.yaml spells
    out."""

    name: str
    endpoints: tuple[Endpoint, ...] = ()
    protocol: Protocol = Protocol.DETECT
    timeouts: Timeouts = Timeouts()
    namespace: str = ""
    traffic: Traffic = Traffic()
    authorization: Authorization | None = None
    """Who may call it; told to the proxies beside it alone."""


class OutboundListener(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Takes traffic from our application. Without `service` the target is the HTTP authority or the CONNECT target."""

    listen: str
    service: str = ""


class InboundListener(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Takes traffic from others and hands it to our application at `forward`."""

    listen: str
    forward: str
    protocol: Protocol = Protocol.DETECT
    service: str = ""
    """The name that this application's metrics carry; the address in `forward` where it is empty."""
    tls: InboundTls | None = None
    """Files of its own; without them, a proxy that has an identity serves mTLS with that."""
    policy: Default = Default.ALL_UNAUTHENTICATED
    """Who may call until the control plane has said it: what asks to be closed is closed from the start."""


class ServiceEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One value of `services:` in proxy.yaml, as written; an endpoint may be a bare `host:port`."""

    endpoints: tuple[str | Endpoint, ...] = ()
    protocol: Protocol = Protocol.DETECT
    tls: TlsFiles | None = None


class ControlLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where this proxy's control plane is and as whom it speaks there."""

    url: str
    """http(s)://host:port"""
    token: str
    """Good for this workload alone: opens the control stream, and has certificates signed."""
    workload: str
    namespace: str = "default"
    anchors: str = ""
    """PEM file of the certificates that the control plane's own must be signed by; needed for https."""


class ProxyIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who this proxy speaks for; its certificate comes from the control plane, its key never leaves its memory."""

    account: str
    namespace: str = "default"
    trust_domain: str = TRUST_DOMAIN


class ProxyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of proxy.yaml."""

    admin: str = ""
    """host:port of /metrics, /ready, /live, /tasks; loopback only; empty: none."""
    outbound: tuple[OutboundListener, ...] = ()
    inbound: tuple[InboundListener, ...] = ()
    services: dict[str, ServiceEntry] = {}
    resources: tuple[dict[str, object], ...] = ()
    limits: Limits = Limits()
    control: ControlLink | None = None
    identity: ProxyIdentity | None = None
    """With it, mTLS to and from all other proxies that have one."""
    egress: Egress = Egress()
    """What may be called outside of the mesh, until the control plane has said it."""
    name: str = ""
    """Shown as the proxy's workload in logs and taps."""
    zone: str = ""
    """Where this proxy runs, for services whose balancing prefers a zone."""
    http2_codec: str = "ngh2"
