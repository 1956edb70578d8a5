"""One address of a service: its load, its queue, and its connections: dialled, shared, lent, retired.

The lending is synchronous: `assign` hands an exchange to a connection at once where one is at hand, and otherwise
queues it and has one dialled. The endpoint's task holds a supervisor for each connection.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import trio

from mesh.model.config import Endpoint as EndpointSpec
from mesh.proxy.balance import Load, Loaded
from mesh.proxy.breaker import Circuit, CircuitState
from mesh.proxy.dial import Alpn, ConnectFailed, dial, secure
from mesh.proxy.reactor import Channel
from mesh.proxy.report import FAILING_GRPC, Scope
from mesh.proxy.rescue import Reason
from mesh.proxy.supervise import contained, serve_channel
from mesh.proxy.upstream import Upstream
from mesh.wire.codec import Role
from mesh.wire.http1 import Http1
from mesh.wire.tls import Tls

if TYPE_CHECKING:
    from mesh.proxy.cluster import Cluster
    from mesh.proxy.exchange import Exchange
    from mesh.proxy.health import Health

CLOSED, HALF_OPEN = CircuitState.CLOSED, CircuitState.HALF_OPEN
DOWN_SECONDS = 0.25
"""How long an endpoint that refused to connect is left alone, doubled each time up to DOWN_MOST."""
DOWN_MOST = 10.0


class Endpoint(Loaded):
    """One address of a service, its load, and its connections."""

    __slots__ = (
        "circuit",
        "cluster",
        "connections",
        "dialling",
        "down_for",
        "down_until",
        "health",
        "http2",
        "idle",
        "last_cause",
        "meshed",
        "numbered",
        "nursery",
        "probed_at",
        "probing",
        "queue",
        "retired",
        "scope",
        "spec",
        "started",
        "to_dial",
        "wake",
        "watching",
    )

    def __init__(self, cluster: Cluster, spec: EndpointSpec, now: float) -> None:
        self.cluster = cluster
        self.spec = spec
        self.address = spec.address
        self.zone = spec.zone
        self.meshed = spec.meshed and cluster.outbound
        self.load = Load(spec.weight, now)
        self.circuit = Circuit(cluster.spec.traffic.breaker, cluster.shared.random)
        self.probing: Exchange | None = None
        self.probed_at = 0.0
        self.health: Health | None = None
        self.watching: trio.CancelScope | None = None
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
        secured = cluster.tls is not None or (cluster.shared.credentials is not None and spec.identity != "")
        self.scope: Scope = cluster.shared.reports.scope(
            "outbound" if cluster.outbound else "inbound",
            cluster.name,
            spec.workload or spec.address,
            "true" if secured else "disabled",
            spec.identity if secured else "",
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

    def speaks_http2(self, exchange: Exchange) -> bool:
        """What to speak to it: HTTP/2 to another proxy of ours, but for what asks to become another protocol; else
        what the service says, else what the client speaks."""
        if self.meshed:
            return not exchange.head.upgrade
        told = self.cluster.http2
        return exchange.protocol == "http2" if told is None else told

    def follow(self, spec: EndpointSpec) -> None:
        """A new version of what it is: the weight, the zone or what is shown of it may be others."""
        self.spec = spec
        self.zone = spec.zone
        self.load.weight = spec.weight

    # --- what its answers say of it ----------------------------------------------------------------------------------

    def probe(self, exchange: Exchange | None, now: float) -> None:
        """This request (None: this connection) is the one that tries it after its probation."""
        self.circuit.probe(now)
        self.probing = exchange
        self.probed_at = now

    def succeeded(self, exchange: Exchange | None, now: float) -> None:
        """It has answered well; no exchange: a connection that is not HTTP was made. Hot."""
        probing = self.probing
        if probing is not None and probing is not exchange:
            return  # it was sent before the circuit opened
        if self.circuit.succeeded(now):
            self.probing = None
            self.load.since = now
            self.cluster.refresh(now)

    def failed(self, exchange: Exchange | None, cause: str, now: float) -> None:
        """It has answered badly, or not at all; no exchange: nobody can reach it."""
        self.last_cause = cause
        probing = self.probing
        if probing is not None and exchange is not None and probing is not exchange:
            return
        if self.circuit.failed(now, cause):
            self.probing = None
            self.cluster.eject(self, now)

    def judge_grpc(self, exchange: Exchange, code: int, now: float) -> None:
        """It has answered a gRPC call with this status."""
        if code in FAILING_GRPC:
            self.failed(exchange, f"grpc-status {code}", now)
        else:
            self.succeeded(exchange, now)

    def judge_probe(self, now: float) -> None:
        """Its probe takes long: an answer that has begun is a good one, silence is none."""
        probe, self.probing = self.probing, None
        if probe is not None and probe.answered_at:
            self.circuit.succeeded(now)
            self.load.since = now
        else:
            self.circuit.failed(now, "its probe was not answered")
            self.circuit.open(now)

    def unjudged(self, now: float) -> None:
        """The request that was to try it ended without saying anything about it: the next one tries it."""
        self.probing = None
        if self.circuit.state is HALF_OPEN:
            self.circuit.forget_probe(now)
            self.cluster.refresh(now)

    @property
    def healthy(self) -> bool:
        """Whether health checks, if there are any, find it fit."""
        return self.health is None or self.health.fit

    def state(self, now: float) -> str:
        """in_use | unhealthy | ejected | down"""
        if not self.healthy:
            return "unhealthy"
        if self.circuit.state is not CLOSED:
            return "ejected"
        return "down" if self.down_until > now else "in_use"

    def condition(self, now: float) -> str:
        """Its state, and why, for people."""
        state = self.state(now)
        if state == "unhealthy" and self.health is not None:
            return f"{state} ({self.health.cause})"
        if state == "ejected":
            return f"{state} ({self.circuit.cause})"
        return f"{state} ({self.last_cause})" if state == "down" else "in use"

    def _available(self, exchange: Exchange) -> Upstream | None:
        if self.speaks_http2(exchange):
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
        if self.speaks_http2(exchange):
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
            self.check()
            while not self.retired:
                self.wake = trio.Event()
                await self.wake.wait()

    def check(self) -> None:
        """Have active health checks run as the service's policy says, from now on; none after `retire`."""
        policy = self.cluster.spec.traffic.health
        if self.health is not None and self.health.policy == policy:
            return
        if self.watching is not None:
            self.watching.cancel()
            self.watching = None
        self.health = None
        if policy is None or self.retired or not self.cluster.outbound:
            return
        if self.nursery is None:
            if not self.started:
                self.started = True
                self.cluster.start(self)
            return
        from mesh.proxy.health import Health  # most services are not checked

        self.health = Health(policy)
        self.watching = trio.CancelScope()
        self.nursery.start_soon(self._check, self.health, self.watching, name="health check")

    async def _check(self, health: Health, scope: trio.CancelScope) -> None:
        from mesh.proxy.health import watch

        cluster = self.cluster
        with scope:
            await watch(self, health, name=cluster.name, tls=cluster.tls, shared=cluster.shared)

    def health_changed(self) -> None:
        """Checks find it fit again, or not any more."""
        now = self.cluster.shared.reactor.clock()
        self.load.since = now
        self.cluster.refresh(now)

    async def _supervise(self, http2: bool) -> None:
        shared = self.cluster.shared

        async def work() -> None:
            await self._connection(http2)

        await contained(f"upstream {self.cluster.name} {self.address}", shared.reports, shared.log, work)

    async def reach(self, alpn: Alpn) -> tuple[socket.socket, Tls | None]:
        """A connection to it, as secure as it must be. Waits for our own first certificate where it needs that: its
        owner sets a deadline for that. Raises ConnectFailed."""
        cluster, shared = self.cluster, self.cluster.shared
        context, sni = await secure(cluster.tls, shared.credentials, self.spec.identity, alpn)
        return await dial(
            self.address,
            connect_timeout=cluster.spec.timeouts.connect or shared.limits.connect_timeout,
            handshake_timeout=shared.limits.handshake_timeout,
            tls=context,
            identity=self.spec.identity,
            sni=sni,
            own=shared.own if cluster.outbound else (),
        )

    @property
    def uncertified(self) -> bool:
        """Whether connections to it wait for our own first certificate."""
        credentials = self.cluster.shared.credentials
        if credentials is None or self.cluster.tls is not None or not self.spec.identity:
            return False
        return credentials.current is None

    async def _certified(self) -> bool:
        """Wait until we can prove who we are, if it asks for that; False where nobody waits for it any more."""
        credentials = self.cluster.shared.credentials
        if credentials is None or not self.uncertified:
            return True
        while credentials.current is None:
            with trio.move_on_after(self.cluster.shared.limits.pending_timeout):
                await credentials.first()
                return True
            if self.retired or not self.queue:
                return False
        return True

    async def _connection(self, http2: bool) -> None:
        """One connection: dial, TLS, serve, close."""
        cluster, shared = self.cluster, self.cluster.shared
        clock = shared.reactor.clock
        dialled = False
        failure: ConnectFailed | None = None
        counted = shared.reports.connections("outbound" if cluster.outbound else "inbound", cluster.name)
        try:
            try:
                if not await self._certified():
                    return
                sock, tls = await self.reach(Alpn.HTTP2 if http2 else Alpn.HTTP1)
            except ConnectFailed as exc:
                failure = exc
            finally:
                self.dialling -= 1
                dialled = True
            if failure is not None:  # who is to try again here needs a dial that is not this one
                self._connect_failed(failure, clock())
                return
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
        self.failed(None, self.last_cause, now)
        self.cluster.refresh(now)

    def _connect_failed(self, failure: ConnectFailed, now: float) -> None:
        self.mark_down(failure, now)
        waiting = list(self.queue)
        if self.connections or self.dialling:
            # Those may still serve the queue; the one that this dial was for may go elsewhere. No dial follows this one
            # at once: it would fail as fast.
            waiting = waiting[:1] if len(self.cluster.endpoints) > 1 else []
        for exchange in waiting:
            del self.queue[exchange]
            exchange.queue = None
            self.load.pending -= 1
            exchange.connect_failed(self, failure, now)
        self.cluster.shared.reactor.settle()

    def retire(self, now: float) -> None:
        """It is not part of the service any more: requests in its queue go elsewhere, those under way may finish."""
        self.retired = True
        if self.watching is not None:
            self.watching.cancel()
        for exchange in list(self.queue):
            del self.queue[exchange]
            exchange.queue = None
            self.load.pending -= 1
            self.cluster.assign(exchange, now)
        for upstream in list(self.connections):
            if not upstream.exchanges:
                upstream.close()
        self.wake.set()
