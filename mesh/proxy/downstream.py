"""The client's end of an HTTP connection: turns the codec's events into exchanges and takes their reports. Hot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import trio

from mesh.model.limits import Limits
from mesh.proxy import taps as tap_events
from mesh.proxy.access import count
from mesh.proxy.authority import service_name
from mesh.proxy.begin import begin
from mesh.proxy.cluster import Cluster
from mesh.proxy.deadlines import Deadlines
from mesh.proxy.directory import Directory, Loop, NotAnAuthority
from mesh.proxy.exchange import HELD, Exchange
from mesh.proxy.leg import Leg
from mesh.proxy.outgoing import GRPC_TIMEOUT, ORIGINAL, TIMEOUT, cleaned_trailers, entered, presented
from mesh.proxy.progress import Progress
from mesh.proxy.reactor import Channel
from mesh.proxy.report import Reports, Scope
from mesh.proxy.rescue import ANSWERS, Reason, response, sentence
from mesh.proxy.retry import grpc_timeout, timeout_ms
from mesh.proxy.taps import Taps
from mesh.wire.codec import Broken, Codec, Data, Event, GoAway, Refused, Request, Reset, Trailers
from mesh.wire.head import Head

if TYPE_CHECKING:
    from mesh.proxy.authorize import Compiled, Judge
    from mesh.proxy.witness import Witness

GRPC, GRPC_GOES_ON = b"application/grpc", (b"", b"+", b";")
"""gRPC's content types (gRPC over HTTP/2, Requests); gRPC-Web's begin alike, and are ordinary HTTP."""


class Listener(NamedTuple):
    """What all connections of one listener share. `cluster` is None where the request says whom it is for."""

    direction: str
    address: str
    cluster: Cluster | None
    directory: Directory


class Shared(NamedTuple):
    """What all downstream connections of a proxy use."""

    limits: Limits
    deadlines: Deadlines
    reports: Reports
    taps: Taps
    clock: Callable[[], float]
    identity: str = ""
    """Who we are, for taps; empty for nobody."""
    witness: Witness | None = None
    """Counts what the application here is asked, where somebody wants to know."""


class Downstream:
    """One accepted connection that speaks HTTP.

    `identity` and `tls` say who the peer is, `sni` which host it asked TLS for (empty: none that binds it);
    `tunnel_to` (and `tunnel_for`, its authority) is set when an HTTP/1.1 CONNECT was granted: the raw connection, with
    the bytes in `early`, then belongs to the supervisor again (`handed_over`).
    """

    __slots__ = (
        "_scopes",
        "address",
        "clock",
        "credentials",
        "deadlines",
        "early",
        "exchanges",
        "handed_over",
        "identity",
        "inbound",
        "judge",
        "judged",
        "leg",
        "limits",
        "listener",
        "number",
        "own",
        "peer",
        "progress",
        "protocol",
        "refused",
        "reports",
        "sni",
        "taps",
        "target",
        "tls",
        "tunnel_for",
        "tunnel_to",
        "witness",
    )

    def __init__(
        self,
        shared: Shared,
        listener: Listener,
        channel: Channel,
        codec: Codec,
        *,
        number: int,
        peer: str,
        identity: str = "",
        tls: str = "disabled",
        target: Cluster | None = None,
        sni: str = "",
    ) -> None:
        self.limits = shared.limits
        self.deadlines = shared.deadlines
        self.reports = shared.reports
        self.taps = shared.taps
        self.clock = shared.clock
        self.listener = listener
        self.inbound = listener.direction == "inbound"
        self.target = target or listener.cluster
        self.number = number
        self.peer = peer
        self.address = peer.rpartition(":")[0].strip("[]")
        self.identity = identity
        self.credentials = presented(identity)
        self.tls = tls
        self.sni = sni
        self.judge: Judge | None = None
        self.judged: Compiled | None = None
        self.witness = shared.witness
        self.own = shared.identity
        self.protocol = codec.name
        self.leg = Leg(channel, codec, self, shared.limits)
        self.progress = Progress(self.leg, shared.limits, shared.reports, listener.direction)
        self.exchanges: dict[int, Exchange] = {}
        self._scopes: dict[Cluster, Scope] = {}
        self.tunnel_to: Cluster | None = None
        self.tunnel_for = b""
        self.early: list[bytes] = []
        self.handed_over = trio.Event()
        self.refused = False

    def __repr__(self) -> str:
        return f"<Downstream {self.number} {self.protocol} from {self.peer}, {len(self.exchanges)} exchanges>"

    def handle(self, events: list[Event]) -> None:
        """Events of the codec, in order."""
        now = self.clock()
        exchanges = self.exchanges
        for event in events:
            kind = type(event)
            if kind is Request:
                self._begin(event, now)  # type: ignore[arg-type]
            elif kind is Data:
                exchange = exchanges.get(event.stream)  # type: ignore[union-attr]
                if exchange is not None:
                    exchange.request_data(event.data, event.end, now)  # type: ignore[union-attr]
                elif event.data:  # type: ignore[union-attr]
                    if self.tunnel_to is not None:  # it came before the supervisor could take the socket over
                        self.early.append(event.data)  # type: ignore[union-attr]
                    self.leg.codec.acknowledge(event.stream, len(event.data))  # type: ignore[union-attr]
            else:
                self._handle_rare(event, now)

    def _handle_rare(self, event: Event, now: float) -> None:
        match event:
            case Trailers(stream, fields):
                if exchange := self.exchanges.get(stream):
                    exchange.request_trailers(cleaned_trailers(fields) if self.inbound else fields, now)
            case Reset(stream):
                if exchange := self.exchanges.get(stream):
                    exchange.client_reset(now)
            case Refused(stream, reason):
                self.reports.refuse(reason, self.listener.direction)
                if exchange := self.exchanges.get(stream):
                    exchange.client_reset(now)
            case GoAway():
                # it will open no more streams with us as the client of its pushes: we never push (RFC 9113 section 6.8)
                pass
            case Broken(reason):
                self.refused = True
                self.reports.refuse(reason, self.listener.direction)
                for exchange in list(self.exchanges.values()):
                    exchange.client_reset(now)
            case _:
                raise AssertionError(f"a client cannot send {event!r}")

    def _begin(self, event: Request, now: float) -> None:
        head, stream = event.head, event.stream
        cluster = self.target
        exchange = Exchange(self, stream, head, event.end, now)
        if self.protocol == "http2":
            content_type = head.get(b"content-type")
            if self.inbound and head.get(ORIGINAL) == b"http1":  # whatever it calls its content: gRPC-Web does that
                exchange.protocol = "http1"
            elif content_type is not None and content_type.startswith(GRPC) and content_type[16:17] in GRPC_GOES_ON:
                exchange.is_grpc = True
                told = head.get(GRPC_TIMEOUT)
                if told is not None and (left := grpc_timeout(told)) is not None:
                    exchange.deadline = now + left
        told = head.get(TIMEOUT)
        if told is not None and (left := timeout_ms(told)) is not None:
            exchange.deadline = min(exchange.deadline, now + left)
        if cluster is None:
            cluster = self._named(exchange, head, now)
            if cluster is None:
                return
        if self.sni and not self._is_for(head.authority):
            cause = f"this connection was opened for {self.sni}"
            self._refuse(exchange, Reason.MISDIRECTED, cause, now)
            return
        if self.inbound:
            exchange.head = head = entered(head, self.credentials)
        self.exchanges[stream] = exchange
        if self.taps.active:
            exchange.watchers = self.taps.watchers(cluster.name, head)
        begin(exchange, cluster, now)

    def _is_for(self, authority: bytes) -> bool:
        """Whether an authority is the host that the client asked for when it opened the connection with TLS: to serve
        another one would let a client past what was decided about the connection (RFC 9110 section 7.4)."""
        try:
            return service_name(authority.decode("latin-1")) == self.sni
        except ValueError:
            return False

    def _named(self, exchange: Exchange, head: Head, now: float) -> Cluster | None:
        """The cluster for what the request names; None if it was answered here, or is a CONNECT."""
        try:
            cluster = self.listener.directory.resolve(head.authority, head.scheme)
        except (NotAnAuthority, Loop) as exc:
            reason = Reason.LOOP if isinstance(exc, Loop) else Reason.UNKNOWN_AUTHORITY
            self._refuse(exchange, reason, str(exc), now)
            return None
        if head.method != b"CONNECT":
            return cluster
        decision = cluster.exit
        if decision is not None and not decision.allowed:
            count(cluster, decision)
            self._refuse(exchange, Reason.DENIED, f"denied by {decision.by}: {decision.why}", now)
            return None
        if self.protocol != "http1":
            self._refuse(exchange, Reason.UNSUPPORTED, "CONNECT is served over HTTP/1.1 only", now)
            return None
        self.leg.codec.send_response(exchange.stream, Head.response(200), False)
        self.tunnel_to, self.tunnel_for = cluster, head.authority
        self.handed_over.set()
        return None

    def _refuse(self, exchange: Exchange, reason: Reason, cause: str, now: float) -> None:
        """Answer a request that has no cluster, and so no exchange to be an error of."""
        name = exchange.head.authority.decode("latin-1")
        head, body = response(reason, sentence(name or "(none)", "", cause), grpc=exchange.is_grpc)
        self.leg.codec.send_response(exchange.stream, head, not body)
        if body:
            self.leg.codec.send_data(exchange.stream, body, True)
        self.leg.channel.mark()
        self.reports.refuse(reason.value, self.listener.direction)
        scope = self.reports.scope(self.listener.direction, "(none)", "", self.tls)
        protocol, grpc_status = ("grpc", ANSWERS[reason].grpc_status) if exchange.is_grpc else (self.protocol, -1)
        took = self.clock() - now
        self.reports.record(scope, protocol, head.status, grpc_status, "failed", reason.value, took, took)

    def over(self, exchange: Exchange, outcome: str, now: float) -> None:
        """An exchange is done: forget it and record what it was."""
        self.exchanges.pop(exchange.stream, None)
        cluster, endpoint, care = exchange.parent, exchange.endpoint, exchange.care
        if self.inbound:
            scope = self._scopes.get(cluster) or self._inbound_scope(cluster)
        elif endpoint is None:
            scope = cluster.scope
        elif endpoint.cluster is cluster:
            scope = endpoint.scope
        else:  # a route led to another service: what was called is counted
            its = endpoint.scope
            scope = self.reports.scope("outbound", cluster.name, its.peer, its.tls, its.identity)
        started = exchange.started_at
        self.reports.record(
            scope,
            "grpc" if exchange.is_grpc else exchange.protocol,
            exchange.status,
            exchange.grpc_status,
            outcome,
            exchange.error,
            (exchange.answered_at or now) - started,
            now - started,
            care.route.name if care is not None and care.route is not None else "",
        )
        if exchange.watchers:
            if not exchange.sent_at:
                tap_events.requested(exchange)
            tap_events.ended(exchange, outcome, self.clock())

    def _inbound_scope(self, cluster: Cluster) -> Scope:
        scope = self._scopes[cluster] = self.reports.scope(
            "inbound", cluster.name, self.identity, self.tls, self.identity
        )
        return scope

    def lost(self, reason: str) -> None:
        """The connection is gone: nothing that was asked on it is wanted any more."""
        now = self.clock()
        for exchange in list(self.exchanges.values()):
            exchange.client_reset(now)
        self.handed_over.set()

    def watch(self, now: float) -> None:
        """Once a second: end what keeps us waiting beyond its bound, and let the codec's rates begin anew."""
        codec = self.leg.codec
        if codec.tick(now):
            self.reports.refuse("header_timeout", self.listener.direction)
            codec.shutdown(True)
            self.leg.channel.end("the head of a request did not come in time")
            return
        if codec.wants_write or codec.finished:
            self.leg.channel.mark()
        for exchange in list(self.exchanges.values()):
            idle = exchange.parent.spec.timeouts.idle or self.limits.idle_tcp
            if now >= exchange.touched_at + idle and exchange.state is not HELD:
                exchange.fail(Reason.IDLE, f"neither side moved for {idle:.6g} s", now, "expired")
        self.progress.look(self.exchanges, now)

    def drain(self, final: bool) -> None:
        """Tell the client to go elsewhere; `final` ends what is idle."""
        self.leg.codec.shutdown(final)
        self.leg.channel.mark()
