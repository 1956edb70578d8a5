"""A service as this proxy uses it: its endpoints, its balancer, and the requests that wait for either.

The owners, outermost first: the upstreams' nursery holds a task per cluster, which holds a task per endpoint, which
holds a supervisor per connection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import trio

from mesh.model.config import Endpoint as EndpointSpec
from mesh.model.config import Protocol, Service
from mesh.model.limits import Limits
from mesh.proxy.balance import Balancer
from mesh.proxy.dial import ClientTls
from mesh.proxy.endpoint import Endpoint
from mesh.proxy.reactor import Reactor
from mesh.proxy.report import Reports
from mesh.proxy.rescue import Reason
from mesh.wire.codec import Codec, Role

if TYPE_CHECKING:
    from mesh.proxy.exchange import Exchange


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
