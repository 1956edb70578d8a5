"""A service as this proxy uses it: its endpoints, its balancer, and the requests that wait for either.

The owners, outermost first: the upstreams' nursery holds a task per cluster, which holds a task per endpoint, which
holds a supervisor per connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import trio

from mesh.model.config import Protocol, Service
from mesh.model.limits import Limits
from mesh.proxy.access import Tunnel, reconsider
from mesh.proxy.authorize import Compiled, Decision
from mesh.proxy.balance import Balancer
from mesh.proxy.balance_hash import hash_key
from mesh.proxy.balance_policy import build
from mesh.proxy.begin import move
from mesh.proxy.breaker import CircuitState, may_eject, panicking
from mesh.proxy.dial import ClientTls
from mesh.proxy.endpoint import Endpoint
from mesh.proxy.plan import Plan
from mesh.proxy.reactor import Reactor
from mesh.proxy.report import Reports, Tally
from mesh.proxy.rescue import Reason
from mesh.wire.codec import Codec, Role

if TYPE_CHECKING:
    from mesh.proxy.credentials import Credentials
    from mesh.proxy.exchange import Exchange
    from mesh.proxy.inquiry import Answers
    from mesh.proxy.mirror import Mirror

CLOSED, OPEN, HALF_OPEN = CircuitState
PROBE_SECONDS = 10.0
"""After which a probe is judged by whether its answer has begun: a stream, or a request without a deadline, may take
hours."""


class Shared(NamedTuple):
    """What all clusters of a proxy use."""

    reactor: Reactor
    limits: Limits
    reports: Reports
    random: Callable[[], float]
    http2: Callable[[Role, Limits], Codec]
    log: Callable[[str, str, str], None]
    wall: Callable[[], float] = time.time
    """Seconds since the epoch, for what YAML says in dates."""
    zone: str = ""
    """Where this proxy runs."""
    credentials: Credentials | None = None
    """What proves who we are to other proxies of the mesh; None for a proxy without an identity."""
    own: Collection[str] = ()
    """Names (`dial.listener_name`) of our outbound listeners, which no outbound connection may lead back to."""


class Cluster:
    """A service as this proxy uses it: its endpoints, its balancer, and the requests that wait for either."""

    __slots__ = (
        *("access", "answers", "balancer", "by_address", "changed", "configured", "endpoints", "exit", "governed"),
        *("http2", "mirrors", "name", "next_up", "nursery", "outbound", "over", "plan", "probes"),
        *("request_timeout", "scope", "shared", "spec", "tls", "to_start", "tunnels", "waiting"),
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
        self.by_address: dict[tuple[str, str, str, bool], Endpoint] = {}
        self.next_up = float("inf")
        self.nursery: trio.Nursery | None = None
        self.to_start: list[Endpoint] = []
        self.over = trio.Event()
        self.changed = trio.Event()
        self.scope = shared.reports.scope("outbound" if outbound else "inbound", spec.name, "", "disabled")
        self.spec = spec
        self.mirrors: set[Mirror] = set()
        self.tunnels: set[Tunnel] = set()
        self.access: Compiled | None = None
        """Who may call; None where everybody may, and nobody keeps count."""
        self.answers: Answers | None = None
        """What external authorisers have said, as far as it may be used again."""
        self.exit: Decision | None = None
        """Whether applications here may leave the mesh for it; None for what is in the mesh."""
        self.probes: list[Endpoint] = []
        self.plan = Plan(spec, outbound, None, shared.reactor.clock())
        self.update(spec)

    def __repr__(self) -> str:
        return f"<Cluster {self.name}, {len(self.endpoints)} endpoints, {len(self.waiting)} waiting>"

    def update(self, spec: Service) -> None:
        """Follow a new version of the service: endpoints are added, kept (with their load and connections) or
        retired."""
        now = self.shared.reactor.clock()
        wanted = None if self.outbound else spec.authorization
        changed = wanted != (self.access.authorization if self.access is not None else None)
        if changed:
            self.access = Compiled(wanted) if wanted is not None else None
        breaker = spec.traffic.breaker
        if breaker != self.spec.traffic.breaker:
            for endpoint in self.endpoints:
                endpoint.circuit.follow(breaker)
        self.spec = spec
        self.plan = Plan(spec, self.outbound, self.plan, now)
        self.governed = self.plan.governed
        self.request_timeout = spec.timeouts.request
        self.http2 = None if spec.protocol is Protocol.DETECT else spec.protocol is Protocol.HTTP2
        old = self.by_address
        self.by_address = {}
        for one in spec.endpoints:
            known = old.get(identity := (one.address, one.identity, one.workload, one.meshed))
            if known is not None:
                known.follow(one)
            self.by_address[identity] = known or Endpoint(self, one, now)
        self.endpoints = list(self.by_address.values())
        for endpoint in self.endpoints:
            endpoint.check()  # before who is fit is asked: what earlier checks found does not outlive their policy
        self.refresh(now)
        for key, endpoint in old.items():
            if key not in self.by_address:
                endpoint.retire(now)
        for exchange in list(self.waiting):
            move(exchange, self, now)  # what waited for the first word about this service also learns its policy
        if changed:
            reconsider(self, now)
        self.changed.set()
        self.changed = trio.Event()

    def may_leave(self, decision: Decision | None) -> None:
        """Whether applications here may call it, from now on."""
        if decision != self.exit:
            self.exit = decision
            reconsider(self, self.shared.reactor.clock())

    def retire(self) -> None:
        """Nobody will ask for it any more."""
        now = self.shared.reactor.clock()
        self.update(msgspec.structs.replace(self.spec, endpoints=()))
        for exchange in list(self.waiting):
            exchange.fail(Reason.NO_ENDPOINTS, "it is not there any more", now)
        for mirror in list(self.mirrors):
            mirror.client_reset(now)
        self.over.set()

    def govern(self, spec: Service) -> None:
        """Follow the policies of `spec` and keep the endpoints: for the application beside us, whose address the
        control plane does not decide. Who may call it stays as it is where nothing is said."""
        access = spec.authorization or self.spec.authorization
        self.update(msgspec.structs.replace(self.spec, traffic=spec.traffic, authorization=access))

    def refresh(self, now: float) -> None:
        """Balance over the endpoints that are fit for use: not known to be down, unhealthy or ejected. Over all, where
        too few are."""
        soon = float("inf")
        fit: list[Endpoint] = []
        self.probes = []
        taking = self._taking()
        for endpoint in taking:
            if endpoint.circuit.state is HALF_OPEN and now >= endpoint.probed_at + PROBE_SECONDS:
                endpoint.judge_probe(now)
            circuit = endpoint.circuit
            if endpoint.down_until > now:
                soon = min(soon, endpoint.down_until)
            elif circuit.state is HALF_OPEN:
                soon = min(soon, endpoint.probed_at + PROBE_SECONDS)
            elif circuit.state is OPEN:
                if not circuit.due(now):
                    soon = min(soon, circuit.opened_until)
                elif endpoint.healthy:
                    self.probes.append(endpoint)
            elif endpoint.healthy:
                fit.append(endpoint)
        if not fit or panicking(self.spec.traffic.breaker, len(fit), len(taking)):
            fit = taking
        shared = self.shared
        self.balancer: Balancer[Endpoint] = build(
            self.spec.traffic.balancing, self.endpoints, fit, shared.random, zone=shared.zone, now=now
        )
        self.next_up = soon

    def _taking(self) -> list[Endpoint]:
        """The endpoints that take new requests: those of weight 0 are not part of what is left of a service."""
        return [endpoint for endpoint in self.endpoints if endpoint.load.weight > 0]

    def eject(self, endpoint: Endpoint, now: float) -> None:
        """Take an endpoint out of use, if that leaves enough of the others."""
        if endpoint.circuit.state is CLOSED:
            taking = self._taking()
            ejected = sum(one.circuit.state is not CLOSED for one in taking if one is not endpoint)
            if not may_eject(self.spec.traffic.breaker, ejected, len(taking)):
                return
            self.shared.reports.tally(Tally.EJECTION, self.name, endpoint.spec.workload or endpoint.address)
        endpoint.circuit.open(now)
        self.refresh(now)

    def assign(self, exchange: Exchange, now: float) -> None:
        """Choose an endpoint for the exchange, or queue it until there is one."""
        if now >= self.next_up:
            self.refresh(now)
        if self.probes:
            self._probe(exchange, now).assign(exchange, now)
            return
        key = -1
        on = self.spec.traffic.balancing.hash
        if on is not None:
            key = hash_key(exchange.head, on, exchange.downstream.peer)
        chosen = self.balancer.choose(exchange.tried or (), now, key)
        if chosen is not None:
            chosen.assign(exchange, now)
        elif len(self.waiting) >= self.shared.limits.pending_requests:
            exchange.fail(Reason.OVERLOADED, f"{len(self.waiting)} requests wait already and no endpoint is ready", now)
        else:
            self.waiting[exchange] = None
            exchange.queue = self.waiting

    def choose_to_dial(self, tried: list[Endpoint], now: float) -> Endpoint | None:
        """An endpoint for a connection that is not HTTP, which is judged by its dial; None if there is none."""
        self.refresh(now)
        if self.probes and self.probes[-1] not in tried:
            return self._probe(None, now)
        return self.balancer.choose(tried, now)

    def _probe(self, exchange: Exchange | None, now: float) -> Endpoint:
        """The next endpoint that is due to be tried, by this exchange or (None) by a connection that is not HTTP."""
        endpoint = self.probes.pop()
        endpoint.probe(exchange, now)
        self.next_up = min(self.next_up, now + PROBE_SECONDS)
        return endpoint

    def conditions(self, now: float) -> str:
        """For people: how many endpoints there are and what is the matter with those that are not in use."""
        found: dict[str, int] = {}
        for endpoint in self.endpoints:
            condition = endpoint.condition(now)
            found[condition] = found.get(condition, 0) + 1
        first = sorted(found.items(), key=lambda one: -one[1])[:5]
        what = ", ".join(f"{count} {condition}" for condition, count in first)
        return f"{len(self.endpoints)} endpoints" + (f": {what}" if what else "")

    def aside(self, now: float) -> str:
        """The same in brackets; nothing where there is one endpoint, whose error says it all."""
        return f" ({self.conditions(now)})" if len(self.endpoints) != 1 else ""

    def why_pending(self, exchange: Exchange, now: float) -> tuple[Reason, str]:
        """Why an exchange has waited so long: the reason and the cause for its error."""
        waited = f"within {self.shared.limits.pending_timeout:.3g} s"
        if exchange.queue is not self.waiting:
            credentials = self.shared.credentials
            if exchange.endpoint is not None and exchange.endpoint.uncertified and credentials is not None:
                return Reason.TLS_FAILED, f"this proxy got no certificate {waited}: {credentials.why}"
            cause = exchange.endpoint.last_cause if exchange.endpoint else ""
            last = f"last error: {cause}; " if cause else ""
            return Reason.CONNECT_FAILED, f"no connection became free {waited} ({last}{self.conditions(now)})"
        if not self.configured:
            return Reason.NOT_CONFIGURED, f"the control plane has not said {waited} what this service is"
        return Reason.NO_ENDPOINTS, f"no endpoint became ready {waited} ({self.conditions(now)})"

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
