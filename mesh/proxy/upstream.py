"""Where requests go: clusters (one per service), their endpoints, and each endpoint's connections: dialled, shared,
retired.

The owners, outermost first: the upstreams' nursery holds a task per cluster, which holds a task per endpoint, which
holds a supervisor per connection. The choosing and lending is synchronous: `assign` hands an exchange to a connection
at once where one is at hand, and otherwise queues it and has one dialled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import trio

from mesh.model.config import Endpoint as EndpointSpec
from mesh.model.config import Protocol, Service
from mesh.model.limits import Limits
from mesh.proxy.balance import Balancer, Load, Loaded
from mesh.proxy.dial import ClientTls, ConnectFailed, dial
from mesh.proxy.leg import Leg
from mesh.proxy.reactor import Channel, Reactor
from mesh.proxy.report import Reports, Scope
from mesh.proxy.rescue import Reason
from mesh.proxy.supervise import contained, serve_channel
from mesh.wire.codec import (
    Broken,
    Codec,
    Data,
    Event,
    GoAway,
    Informational,
    Refused,
    Reset,
    Response,
    Role,
    Trailers,
)
from mesh.wire.http1 import Http1

if TYPE_CHECKING:
    from mesh.proxy.exchange import Exchange

DOWN_SECONDS = 0.25
"""How long an endpoint that refused to connect is left alone, doubled each time up to DOWN_MOST."""
DOWN_MOST = 10.0
CLOSED = frozenset({"connection_closed", "closed_early"})
"""Reasons for which a connection is `Broken` without the endpoint having said anything wrong."""


class Shared(NamedTuple):
    """What all clusters of a proxy use."""

    reactor: Reactor
    limits: Limits
    reports: Reports
    random: Callable[[], float]
    http2: Callable[[Role, Limits], Codec]
    log: Callable[[str, str, str], None]
    own: Collection[str] = ()
    """Names (`dial.listener_name`) of our outbound listeners, which no outbound connection may lead back to."""


class Upstream:
    """One connection to an endpoint, as HTTP: gives the codec's events to the exchanges. Hot."""

    __slots__ = ("clock", "endpoint", "exchanges", "http2", "is_idle", "leg", "served")

    def __init__(self, endpoint: Endpoint, channel: Channel, codec: Codec) -> None:
        self.endpoint = endpoint
        self.clock = channel.reactor.clock
        self.leg = Leg(channel, codec, self, endpoint.cluster.shared.limits)
        self.exchanges: dict[int, Exchange] = {}
        self.http2 = codec.name == "http2"
        self.is_idle = False
        self.served = 0

    def __repr__(self) -> str:
        return f"<Upstream {self.leg.codec.name} {self.endpoint.address}, {len(self.exchanges)} exchanges>"

    def handle(self, events: list[Event]) -> None:
        """Events of the codec, in order."""
        now = self.clock()
        exchanges = self.exchanges
        for event in events:
            kind = type(event)
            if kind is Data:
                exchange = exchanges.get(event.stream)  # type: ignore[union-attr]
                if exchange is not None:
                    exchange.response_data(event.data, event.end, now)  # type: ignore[union-attr]
                elif event.data:  # type: ignore[union-attr]
                    self.leg.codec.acknowledge(event.stream, len(event.data))  # type: ignore[union-attr]
            elif kind is Response:
                exchange = exchanges.get(event.stream)  # type: ignore[union-attr]
                if exchange is not None:
                    exchange.response(event.head, event.end, now)  # type: ignore[union-attr]
            else:
                self._handle_rare(event, events[-1], now)

    def _handle_rare(self, event: Event, last: Event, now: float) -> None:
        match event:
            case Trailers(stream, fields):
                if exchange := self.exchanges.get(stream):
                    exchange.response_trailers(fields, now)
            case Informational(stream, head):
                if exchange := self.exchanges.get(stream):
                    exchange.informational(head, now)
            case Reset(stream, code, unprocessed, reason):
                if exchange := self.exchanges.get(stream):
                    if type(last) is Broken and last.reason not in CLOSED and not unprocessed:
                        exchange.upstream_refused(last.detail, now)  # what the whole connection ends for
                    else:
                        exchange.upstream_reset(code, unprocessed, reason, now)
            case Refused(stream, reason):
                self.endpoint.cluster.shared.reports.refuse(reason, self.endpoint.cluster.name)
                if exchange := self.exchanges.get(stream):
                    exchange.upstream_refused(f"malformed answer: {reason}", now)
            case GoAway():
                self.endpoint.withdraw(self)
                self.endpoint.pump(now)
            case Broken(reason, detail):
                self.endpoint.cluster.shared.reports.refuse(reason, self.endpoint.cluster.name)
                self.endpoint.withdraw(self)
                for exchange in list(self.exchanges.values()):
                    exchange.upstream_refused(detail, now)
            case _:
                raise AssertionError(f"an upstream cannot send {event!r}")

    def watch(self, now: float) -> None:
        """Once a second: what a peer may do per window begins anew."""
        self.leg.codec.tick(now)

    def lost(self, reason: str) -> None:
        """The connection is gone: every exchange on it ends, or is sent again where that is safe."""
        now = self.clock()
        self.endpoint.withdraw(self)
        for exchange in list(self.exchanges.values()):
            exchange.upstream_reset(0, False, reason or "the endpoint closed the connection", now)
        self.endpoint.pump(now)  # who waited for this connection, at the bound on their number, needs another

    def release(self, stream: int, now: float) -> None:
        """An exchange is over with its stream; the connection can serve another."""
        del self.exchanges[stream]
        self.served += 1
        endpoint = self.endpoint
        endpoint.load.pending -= 1
        if not self.http2:
            endpoint.returned(self)
        elif endpoint.queue:
            endpoint.pump(now)
        elif endpoint.retired and not self.exchanges:
            self.close()

    def unused(self) -> None:
        """It was lent for a request that could not be sent."""
        self.endpoint.load.pending -= 1
        if not self.http2:
            self.endpoint.returned(self)

    def close(self) -> None:
        """Take no more and end when what is under way has ended."""
        self.leg.codec.shutdown(True)
        self.leg.channel.mark()


class Endpoint(Loaded):
    """One address of a service, its load, and its connections."""

    __slots__ = (
        "address",
        "cluster",
        "connections",
        "dialling",
        "down_for",
        "down_until",
        "http2",
        "idle",
        "last_cause",
        "numbered",
        "nursery",
        "queue",
        "retired",
        "scope",
        "spec",
        "started",
        "to_dial",
        "wake",
    )

    def __init__(self, cluster: Cluster, spec: EndpointSpec, now: float) -> None:
        self.cluster = cluster
        self.spec = spec
        self.address = spec.address
        self.load = Load(spec.weight, now)
        self.http2: list[Upstream] = []
        self.idle: list[Upstream] = []
        self.connections: set[Upstream] = set()
        self.dialling = 0
        self.queue: dict[Exchange, None] = {}
        self.down_until = self.down_for = 0.0
        self.last_cause = ""
        self.retired = self.started = False
        self.to_dial: list[bool] = []
        self.numbered = 0
        self.nursery: trio.Nursery | None = None
        self.wake = trio.Event()
        tls = "true" if cluster.tls is not None else "disabled"
        peer = spec.workload or spec.address
        self.scope: Scope = cluster.shared.reports.scope(
            "outbound" if cluster.outbound else "inbound", cluster.name, peer, tls
        )

    def __repr__(self) -> str:
        return f"<Endpoint {self.address}, {len(self.connections)} connections, {self.load!r}>"

    def assign(self, exchange: Exchange, now: float) -> None:
        """Give the exchange a connection now, or queue it for one."""
        self.load.pending += 1
        upstream = self._available(exchange)
        if upstream is not None:
            exchange.send(upstream, now)
            return
        exchange.endpoint = self
        if len(self.queue) >= self.cluster.shared.limits.pending_requests:
            self.load.pending -= 1
            exchange.fail(Reason.OVERLOADED, f"{len(self.queue)} requests wait for a connection already", now)
            return
        self.queue[exchange] = None
        exchange.queue = self.queue
        self._dial_if_needed(exchange)

    def _available(self, exchange: Exchange) -> Upstream | None:
        if self.cluster.speaks_http2(exchange):
            for upstream in self.http2:
                if upstream.leg.codec.can_open:
                    return upstream
            return None
        while self.idle:
            upstream = self.idle.pop()
            upstream.is_idle = False
            if upstream.leg.codec.can_open:
                return upstream
        return None

    def _dial_if_needed(self, exchange: Exchange) -> None:
        limits = self.cluster.shared.limits
        if self.cluster.speaks_http2(exchange):
            # streams of a connection that is being dialled are worth a hundred requests in the queue
            wanted = self.dialling == 0 and len(self.http2) < limits.upstream_http2_connections
            http2 = True
        else:
            wanted = (
                self.dialling < len(self.queue) and len(self.connections) + self.dialling < limits.upstream_connections
            )
            http2 = False
        if wanted:
            self.dial(http2)

    def dial(self, http2: bool) -> None:
        """Have one more connection made."""
        self.dialling += 1
        self.to_dial.append(http2)
        if self.nursery is not None:
            self._start_dials(self.nursery)
        elif not self.started:
            self.started = True
            self.cluster.start(self)

    def _start_dials(self, nursery: trio.Nursery) -> None:
        for http2 in self.to_dial:
            self.numbered += 1
            nursery.start_soon(self._supervise, http2, name=f"connection {self.numbered}")
        self.to_dial = []

    def pump(self, now: float) -> None:
        """Serve the queue as far as connections allow; dial more where they do not."""
        while self.queue:
            exchange = next(iter(self.queue))
            upstream = self._available(exchange)
            if upstream is None:
                self._dial_if_needed(exchange)
                return
            del self.queue[exchange]
            exchange.queue = None
            exchange.send(upstream, now)

    def returned(self, upstream: Upstream) -> None:
        """An HTTP/1.1 connection has nothing to do: keep it for the next request, or close it if it is not reusable."""
        if upstream.is_idle or upstream.exchanges:
            return
        if self.retired or not upstream.leg.codec.can_open or upstream not in self.connections:
            upstream.close()
            return
        upstream.is_idle = True
        self.idle.append(upstream)
        if self.queue:
            self.pump(upstream.clock())

    def withdraw(self, upstream: Upstream) -> None:
        """This connection takes no new requests any more."""
        self.connections.discard(upstream)
        if upstream in self.http2:
            self.http2.remove(upstream)
        if upstream.is_idle:
            upstream.is_idle = False
            self.idle.remove(upstream)

    async def run(self) -> None:
        """Hold the connections' supervisors until the endpoint is retired and the last of them has ended."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            self._start_dials(nursery)
            while not self.retired:
                self.wake = trio.Event()
                await self.wake.wait()

    async def _supervise(self, http2: bool) -> None:
        shared = self.cluster.shared

        async def work() -> None:
            await self._connection(http2)

        await contained(f"upstream {self.cluster.name} {self.address}", shared.reports, shared.log, work)

    async def _connection(self, http2: bool) -> None:
        """One connection: dial, TLS, serve, close."""
        cluster, shared = self.cluster, self.cluster.shared
        clock = shared.reactor.clock
        dialled = False
        counted = shared.reports.connections("outbound" if cluster.outbound else "inbound", cluster.name)
        try:
            try:
                sock, tls = await dial(
                    self.address,
                    connect_timeout=cluster.spec.timeouts.connect or shared.limits.connect_timeout,
                    handshake_timeout=shared.limits.handshake_timeout,
                    tls=cluster.tls and (cluster.tls.http2 if http2 else cluster.tls.http1),
                    identity=self.spec.identity,
                    own=shared.own if cluster.outbound else (),
                )
            except ConnectFailed as exc:
                self._connect_failed(exc, clock())
                return
            finally:
                self.dialling -= 1
                dialled = True
            with sock:
                counted.opened += 1
                self.down_until = self.down_for = 0.0
                channel = Channel(shared.reactor, sock, tls)
                codec = shared.http2(Role.CLIENT, shared.limits) if http2 else Http1(Role.CLIENT, shared.limits)
                codec.start()
                upstream = Upstream(self, channel, codec)
                self.connections.add(upstream)
                if http2:
                    self.http2.append(upstream)
                try:
                    channel.attach(upstream.leg, tls.receive(b"") if tls is not None else b"")
                    if http2:
                        self.pump(clock())
                        if self.retired and not upstream.exchanges:
                            upstream.close()
                    else:
                        self.returned(upstream)
                    shared.reactor.settle()
                    await serve_channel(
                        channel, lambda: not upstream.exchanges, shared.limits.idle_http, upstream.close
                    )
                finally:
                    channel.end("the proxy closed the connection")
                    self.withdraw(upstream)
                    shared.reactor.settle()
                    counted.end(channel.read_bytes, channel.write_bytes)
        finally:
            if not dialled:
                self.dialling -= 1
            self.wake.set()

    def mark_down(self, failure: ConnectFailed, now: float) -> None:
        """It could not be reached: counted, and left alone for a while, longer each time."""
        self.last_cause = str(failure)
        self.down_for = min(max(DOWN_SECONDS, self.down_for * 2), DOWN_MOST)
        self.down_until = now + self.down_for
        self.cluster.shared.reports.refuse(failure.kind.value, self.cluster.name)
        self.cluster.refresh(now)

    def _connect_failed(self, failure: ConnectFailed, now: float) -> None:
        self.mark_down(failure, now)
        waiting = list(self.queue)
        if self.connections or self.dialling > 1:
            # Those may still serve the queue; the one that this dial was for may go elsewhere. No dial follows this one
            # at once: it would fail as fast.
            waiting = waiting[:1] if len(self.cluster.endpoints) > 1 else []
        for exchange in waiting:
            del self.queue[exchange]
            exchange.queue = None
            self.load.pending -= 1
            exchange.connect_failed(self, failure.kind, str(failure), now)
        self.cluster.shared.reactor.settle()

    def retire(self, now: float) -> None:
        """It is not part of the service any more: requests in its queue go elsewhere, those under way may finish."""
        self.retired = True
        for exchange in list(self.queue):
            del self.queue[exchange]
            exchange.queue = None
            self.load.pending -= 1
            self.cluster.assign(exchange, now)
        for upstream in list(self.connections):
            if not upstream.exchanges:
                upstream.close()
        self.wake.set()


class Cluster:
    """A service as this proxy uses it: its endpoints, its balancer, and the requests that wait for either."""

    __slots__ = (
        "_http2",
        "balancer",
        "by_address",
        "changed",
        "configured",
        "endpoints",
        "name",
        "next_up",
        "nursery",
        "outbound",
        "over",
        "request_timeout",
        "scope",
        "shared",
        "spec",
        "tls",
        "to_start",
        "waiting",
    )

    def __init__(
        self,
        shared: Shared,
        spec: Service,
        *,
        outbound: bool = True,
        tls: ClientTls | None = None,
        configured: bool = True,
    ) -> None:
        self.shared = shared
        self.name = spec.name
        self.outbound = outbound
        self.tls = tls
        self.configured = configured
        self.waiting: dict[Exchange, None] = {}
        self.endpoints: list[Endpoint] = []
        self.by_address: dict[EndpointSpec, Endpoint] = {}
        self.next_up = float("inf")
        self.nursery: trio.Nursery | None = None
        self.to_start: list[Endpoint] = []
        self.over = trio.Event()
        self.changed = trio.Event()
        self.scope = shared.reports.scope("outbound" if outbound else "inbound", spec.name, "", "disabled")
        self.spec = spec
        self.update(spec)

    def __repr__(self) -> str:
        return f"<Cluster {self.name}, {len(self.endpoints)} endpoints, {len(self.waiting)} waiting>"

    def update(self, spec: Service) -> None:
        """Follow a new version of the service: endpoints are added, kept (with their load and connections) or
        retired."""
        now = self.shared.reactor.clock()
        self.spec = spec
        self.request_timeout = spec.timeouts.request
        self._http2 = None if spec.protocol is Protocol.DETECT else spec.protocol is Protocol.HTTP2
        old = self.by_address
        self.by_address = {one: old.get(one) or Endpoint(self, one, now) for one in spec.endpoints}
        self.endpoints = list(self.by_address.values())
        self.refresh(now)
        for key, endpoint in old.items():
            if key not in self.by_address:
                endpoint.retire(now)
        for exchange in list(self.waiting):
            exchange.move_to(self, now)  # what waited for the first word about this service also learns its deadline
        self.changed.set()
        self.changed = trio.Event()

    def retire(self) -> None:
        """Nobody will ask for it any more."""
        now = self.shared.reactor.clock()
        self.update(msgspec.structs.replace(self.spec, endpoints=()))
        for exchange in list(self.waiting):
            exchange.fail(Reason.NO_ENDPOINTS, "it is not there any more", now)
        self.over.set()

    def refresh(self, now: float) -> None:
        """Balance over the endpoints that are not known to be down; over all if all are."""
        up = [endpoint for endpoint in self.endpoints if endpoint.down_until <= now]
        down = [endpoint.down_until for endpoint in self.endpoints if endpoint.down_until > now]
        self.balancer: Balancer[Endpoint] = Balancer(up or self.endpoints, self.shared.random)
        self.next_up = min(down) if down else float("inf")

    def speaks_http2(self, exchange: Exchange) -> bool:
        """What to speak to the endpoints: what the service says, else what the client speaks."""
        told = self._http2
        return exchange.downstream.protocol == "http2" if told is None else told

    def assign(self, exchange: Exchange, now: float) -> None:
        """Choose an endpoint for the exchange, or queue it until there is one."""
        if now >= self.next_up:
            self.refresh(now)
        endpoint = self.balancer.choose(exchange.tried or (), now)
        if endpoint is not None:
            endpoint.assign(exchange, now)
        elif len(self.waiting) >= self.shared.limits.pending_requests:
            exchange.fail(Reason.OVERLOADED, f"{len(self.waiting)} requests wait already and no endpoint is ready", now)
        else:
            self.waiting[exchange] = None
            exchange.queue = self.waiting

    def why_pending(self, exchange: Exchange) -> tuple[Reason, str]:
        """Why an exchange has waited so long: the reason and the cause for its error."""
        waited = f"within {self.shared.limits.pending_timeout:.3g} s"
        if exchange.queue is not self.waiting:
            cause = exchange.endpoint.last_cause if exchange.endpoint else ""
            return Reason.CONNECT_FAILED, f"no connection became free {waited}" + (
                f" (last error: {cause})" if cause else ""
            )
        if not self.configured:
            return Reason.NOT_CONFIGURED, f"the control plane has not said {waited} what this service is"
        return Reason.NO_ENDPOINTS, f"no endpoint became ready {waited}"

    def start(self, endpoint: Endpoint) -> None:
        """Have the endpoint's task run."""
        if self.nursery is not None:
            self.nursery.start_soon(endpoint.run, name=endpoint.address)
        else:
            self.to_start.append(endpoint)

    async def run(self) -> None:
        """Hold the endpoints' tasks until cancelled, or retired and the last of them has ended."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            for endpoint in self.to_start:
                nursery.start_soon(endpoint.run, name=endpoint.address)
            self.to_start = []
            await self.over.wait()
