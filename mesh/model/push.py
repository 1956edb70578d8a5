"""The control stream between a proxy and the control plane: JSON text over one websocket, tagged by `type`.

Each message stays under MAX_MESSAGE bytes. The control plane numbers its states with `version`, which only grows within
one `epoch` (one life of the control plane). It pushes latest-wins: a proxy that is slow sees the newest state, not all.
"""

from __future__ import annotations

import msgspec

from mesh.model.authorization import Egress
from mesh.model.config import Service
from mesh.model.explain import Question, Step
from mesh.model.reports import EndpointHealth, Seen, SeriesDelta, TapEvent, TapMatch, TcpDelta

MAX_MESSAGE = 1024 * 1024
HEARTBEAT_SECONDS = 1.0
"""Each side says something at least this often; silence for SILENCE_SECONDS ends the stream."""
SILENCE_SECONDS = 5.0


class Hello(msgspec.Struct, frozen=True, tag=True):
    """First message of a proxy. The token travels in the websocket request's Authorization header, never here."""

    workload: str
    namespace: str
    proxy: str
    """Unique for this process: `workload/host/pid`."""
    version: str
    """Conduit's version."""
    admin: str = ""
    inbound: tuple[str, ...] = ()
    outbound: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    """Subscribed already, when this is a reconnect."""


class Subscribe(msgspec.Struct, frozen=True, tag=True):
    """Asks for a destination as the application named it: host of an authority, without port (`votes`,
    `votes.demo`)."""

    name: str


class Unsubscribe(msgspec.Struct, frozen=True, tag=True):
    name: str


class Ack(msgspec.Struct, frozen=True, tag=True):
    """The update of `name` at `version` is in force."""

    name: str
    version: int


class Nack(msgspec.Struct, frozen=True, tag=True):
    """It was refused for `reason`; what was in force stays so."""

    name: str
    version: int
    reason: str


class Report(msgspec.Struct, frozen=True, tag=True):
    """Deltas since the report before, once a second; chunked so that each message stays small.

    `seconds` is the span they cover. A report that could not be sent is merged into the next, never lost silently."""

    at: float
    seconds: float
    series: tuple[SeriesDelta, ...] = ()
    tcp: tuple[TcpDelta, ...] = ()
    seen: tuple[Seen, ...] = ()
    endpoints: tuple[EndpointHealth, ...] | None = None
    """All that this proxy calls and has trouble with (those in use are left out), whenever they are others than in the
    report before; None: no news."""


class Sign(msgspec.Struct, frozen=True, tag=True):
    """Asks for a certificate; answered by Signed or NotSigned. The identity is the token's, whatever this says."""

    csr: str
    """PEM (PKCS #10)."""


class Explained(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Explain` of that number."""

    number: int
    steps: tuple[Step, ...]


class TasksTold(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Tasks` of that number: the nursery tree, a line each; cut where it would be too long."""

    number: int
    lines: tuple[str, ...]


class Tapped(msgspec.Struct, frozen=True, tag=True):
    """Exchanges that matched tap `session`; `dropped` were not sent, to hold max_rps or the queue's bound."""

    session: int
    events: tuple[TapEvent, ...]
    dropped: int = 0


class Alive(msgspec.Struct, frozen=True, tag=True):
    """A proxy's heartbeat: the newest version it has seen, so that a lost update is noticed."""

    version: int = 0


FromProxy = Hello | Subscribe | Unsubscribe | Ack | Nack | Report | Sign | Explained | Tapped | Alive


class Welcome(msgspec.Struct, frozen=True, tag=True):
    epoch: str
    version: int


class ServiceUpdate(msgspec.Struct, frozen=True, tag=True):
    """What `name` means for this proxy now; `service` is None where the mesh has no such service."""

    name: str
    version: int
    service: Service | None = None


class Settings(msgspec.Struct, frozen=True, tag=True):
    """What this proxy itself must know, beside services. Latest wins; pushed after Welcome and when it changes.

    It is answered by Ack or Nack of the empty name."""

    version: int
    anchors: str = ""
    """PEM: all roots that peers' certificates may be signed by, now; empty: no identities in this mesh."""
    issuer: str = ""
    """Names the certificate that signs now (SHA-256, hex): whoever holds one from another issuer has it renewed."""
    egress: Egress = Egress()


class Signed(msgspec.Struct, frozen=True, tag=True):
    """The certificate, with what leads from it to a root (PEM, the workload's own first); for the rest see Settings."""

    chain: str
    anchors: str
    issuer: str


class NotSigned(msgspec.Struct, frozen=True, tag=True):
    reason: str


class Explain(msgspec.Struct, frozen=True, tag=True):
    """What would become of this request? Answered by Explained with the same number."""

    number: int
    question: Question


class Tasks(msgspec.Struct, frozen=True, tag=True):
    """How does your supervision tree look? Answered by TasksTold with the same number."""

    number: int


class TapStart(msgspec.Struct, frozen=True, tag=True):
    session: int
    match: TapMatch


class TapStop(msgspec.Struct, frozen=True, tag=True):
    session: int


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """`version` is the newest one pushed to this proxy; one that has seen less resubscribes."""

    version: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Last message before the control plane closes: why this proxy may not stay."""

    reason: str


FromControl = (
    Welcome | ServiceUpdate | Settings | Signed | NotSigned | Explain | TapStart | TapStop | Heartbeat | Refused
)
