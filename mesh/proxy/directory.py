"""Names -> clusters: what the applications here may ask for, as proxy.yaml or the control plane has told it.

A name that nobody has asked for yet is asked of the control plane, once; requests wait in its cluster until the answer.
What the mesh does not know is reached by its own address, outside the mesh.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import trio

from mesh.model.authorization import Egress
from mesh.model.config import Endpoint, Service
from mesh.model.errors import ConduitError
from mesh.proxy.authority import own_address, service_name, split_address
from mesh.proxy.authorize import Decision
from mesh.proxy.begin import move
from mesh.proxy.cluster import Cluster, Shared
from mesh.proxy.dial import ClientTls
from mesh.proxy.egress import Gate
from mesh.proxy.hedge import Hedge
from mesh.proxy.inquiry import Inquiry
from mesh.proxy.mirror import Mirror
from mesh.proxy.report import EndpointState
from mesh.proxy.rescue import Reason

NAMES = 4096
"""Authorities remembered; an application that invents more starts over, which costs it a look-up, and us no memory."""


class NotAnAuthority(ConduitError):
    """What a request names is no host; `str()` says why."""


class Loop(ConduitError):
    """What a request names is this proxy itself."""


class Found(NamedTuple):
    """What is known of a name. Without `cluster` and `told`: the control plane is asked if `asks` says so, else
    `address` is outside of the mesh."""

    name: str
    address: str
    cluster: Cluster | None
    told: Service | None
    asks: bool


class Directory:
    """All outbound clusters of a proxy. `ask` has the control plane asked for a name; None where there is none.

    `own` are this proxy's listening addresses, which nothing may be sent to."""

    def __init__(self, shared: Shared, ask: Callable[[str], None] | None) -> None:
        self.shared = shared
        self.ask = ask
        shared.reports.states = self.states
        self.own: set[str] = set()
        self.inbound: dict[str, list[Cluster]] = {}
        self.services: dict[str, Cluster] = {}
        self.outside: dict[str, Cluster] = {}
        self._told: dict[str, Service] = {}
        """Services that nobody here has called yet, and that we were told of for the sake of an application here."""
        self._unknown: set[str] = set()
        self._by_authority: dict[tuple[bytes, bytes], Cluster] = {}
        self._gate = Gate(Egress())
        self._nursery: trio.Nursery | None = None
        self._to_start: list[Cluster] = []

    def resolve(self, authority: bytes, scheme: bytes) -> Cluster:
        """The cluster for an authority. Raises NotAnAuthority or Loop."""
        key = (authority, scheme)
        cluster = self._by_authority.get(key)
        if cluster is None:
            cluster = self._resolve(authority.decode("latin-1"), 443 if scheme == b"https" else 80)
            if len(self._by_authority) >= NAMES:
                self._by_authority.clear()
            self._by_authority[key] = cluster
        return cluster

    def states(self) -> list[EndpointState]:
        """How each endpoint of each service that was asked for fares now."""
        now = self.shared.reactor.clock()
        return [
            EndpointState(cluster.name, endpoint.spec.workload, endpoint.address, endpoint.state(now))
            for cluster in self.services.values()
            for endpoint in cluster.endpoints
        ]

    def named(self, name: str) -> Cluster:
        """The cluster of a service that a route names. Raises NotAnAuthority or Loop for what is no name, or none of
        the mesh: a route does not lead out of it."""
        cluster = self.services.get(name)
        if cluster is None:
            if name in self._unknown:
                raise NotAnAuthority(f"{name} is no service of the mesh")
            cluster = self.resolve(name.encode(), b"http")
        return cluster

    def at(self, address: str) -> Cluster:
        """The cluster of an address (`host:port`), whatever the mesh knows by its host. Raises NotAnAuthority or
        Loop."""
        try:
            split_address(address)
        except ValueError as exc:
            raise NotAnAuthority(str(exc)) from exc
        if self._is_own(address):
            raise Loop(f"{address} is this proxy itself")
        return self._outside(address)

    def find(self, authority: str, port: int) -> Found:
        """What is known of an authority; changes nothing. Raises NotAnAuthority or Loop."""
        try:
            name = service_name(authority)
            address = own_address(authority, port)
        except ValueError as exc:
            raise NotAnAuthority(str(exc)) from exc
        if self._is_own(address):
            raise Loop(f"{address} is this proxy itself")
        told = self._told.get(name)
        unasked = self.ask is None or name in self._unknown or _is_address(name) or len(self.services) >= NAMES
        return Found(name, address, self.services.get(name), told, not unasked)

    def _resolve(self, authority: str, port: int) -> Cluster:
        name, address, cluster, told, asks = self.find(authority, port)
        if cluster is not None:
            return cluster
        if told is not None:
            del self._told[name]
            return self.add(told)
        if not asks or self.ask is None:
            return self._outside(address)
        cluster = self.services[name] = self._start(Cluster(self.shared, Service(name), configured=False))
        self.ask(name)
        return cluster

    def _is_own(self, address: str) -> bool:
        """Whether that is one of our listeners, also by a name or another address of the loopback interface."""
        host, _, port = address.rpartition(":")
        if host.lower() != "localhost" and not host.startswith("127.") and host not in ("[::1]", "0.0.0.0", "[::]"):
            return address in self.own
        loopback = ("127.0.0.1", "[::1]") if host.lower() == "localhost" else (host,)
        return any(f"{one}:{port}" in self.own for one in (*loopback, "0.0.0.0", "[::]"))

    def _outside(self, address: str) -> Cluster:
        cluster = self.outside.get(address)
        if cluster is None:
            if len(self.outside) >= NAMES:
                self._forget_outside()
            cluster = Cluster(self.shared, Service(address, (Endpoint(address),)))
            cluster.exit = self.exit_to(address)
            self.outside[address] = self._start(cluster)
        return cluster

    def follow(self, egress: Egress) -> None:
        """What may be called outside of the mesh, from now on; what is open and may not be any more is ended. Raises
        ValueError for what cannot be compiled."""
        self._gate = Gate(egress)
        for address, cluster in self.outside.items():
            cluster.may_leave(self.exit_to(address))
        self.shared.reactor.settle()

    def exit_to(self, address: str) -> Decision | None:
        """Whether the applications here may call an address (`host:port`) outside of the mesh; None: nobody has said
        anything about that."""
        return None if self._gate.trivial else self._gate.judge(*split_address(address))

    def _forget_outside(self) -> None:
        for cluster in self.outside.values():
            cluster.retire()
        self.outside.clear()
        self._by_authority.clear()

    def add(self, service: Service, tls: ClientTls | None = None) -> Cluster:
        """A service that is known from the start."""
        cluster = self.services[service.name] = self._start(Cluster(self.shared, service, tls=tls))
        return cluster

    def apply(self, name: str, service: Service | None) -> None:
        """The control plane says what `name` is now; None: not in the mesh."""
        self._by_authority.clear()
        cluster = self.services.get(name)
        if service is None:
            self._told.pop(name, None)
            if len(self._unknown) >= NAMES:
                self._unknown.clear()
            self._unknown.add(name)
            if cluster is not None and not cluster.configured:
                # whoever waits is for an address outside; each waiting request knows its own port
                del self.services[name]
                now = self.shared.reactor.clock()
                for exchange in list(cluster.waiting):
                    if exchange.care is not None or isinstance(exchange, Hedge | Mirror | Inquiry):  # a route led here
                        exchange.fail(Reason.BAD_BACKEND, f"{name} is no service of the mesh", now)
                    else:
                        move(exchange, self.resolve(exchange.head.authority, exchange.head.scheme), now)
                cluster.retire()
            elif cluster is not None:
                cluster.update(Service(cluster.name))
            self.shared.reactor.settle()
            return
        self._unknown.discard(name)
        for inbound in self.inbound.get(name, ()):
            inbound.govern(service)
        if cluster is None and name in self.inbound:
            self._told[name] = service
            self.shared.reactor.settle()
            return
        if cluster is None:
            cluster = self.services[name] = self._start(Cluster(self.shared, service))
        cluster.configured = True
        cluster.update(service)
        self.shared.reactor.settle()

    def _start(self, cluster: Cluster) -> Cluster:
        if self._nursery is not None:
            self._nursery.start_soon(cluster.run, name=cluster.name)
        else:
            self._to_start.append(cluster)
        return cluster

    async def run(self) -> None:
        """Hold the clusters' tasks until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for cluster in self._to_start:
                nursery.start_soon(cluster.run, name=cluster.name)
            self._to_start = []
            await trio.sleep_forever()

    def host_inbound(self, cluster: Cluster) -> Cluster:
        """Hold the task of an inbound cluster, which has no name to be called by; policies for its name reach it."""
        self.inbound.setdefault(cluster.name, []).append(cluster)
        return self._start(cluster)


def _is_address(name: str) -> bool:
    return name == "localhost" or ":" in name or name.replace(".", "").isdigit()
