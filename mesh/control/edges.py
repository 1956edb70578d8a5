"""Who calls whom, as whom, and whether that was secured: windows of counts become edges. Pure.

Rules:
- An edge is what a caller's proxy saw: one for each workload, service that it called, and workload that answered. What
  reached no endpoint of a service is counted to the edge of that service which has the most requests: it has no other
  side of its own, and nothing of it was seen by anybody.
- An edge is secured if all of its requests were: over TLS, with an identity proved on both sides.
- A caller without a proxy of ours is seen by those whom it calls alone. What a service got without proof of who called
  is an edge from nobody, unless a proxy of ours says that it was what sent there without TLS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from mesh.control.aggregate import OVERFLOW, Cell, Series, Window, quantile
from mesh.control.stat import most
from mesh.model.api import Edge

TLS = "true"


class Ends(NamedTuple):
    """What an edge is addressed by, in the order that edges are shown in."""

    namespace: str
    source: str
    home: str
    """The service's namespace; empty outside of the mesh."""
    service: str
    workload: str


class Traffic:
    """The cells of one edge, added up."""

    __slots__ = ("cell", "clients", "reasons", "servers", "tls")

    def __init__(self) -> None:
        self.cell = Cell()
        self.tls: Counter[str] = Counter()
        self.clients: Counter[str] = Counter()
        self.servers: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def add(self, series: Series, cell: Cell) -> None:
        """Adds one series."""
        self.cell.add(cell)
        self.tls[series.tls] += cell.requests
        reason = why_not_secured(series)
        if reason:
            self.reasons[reason] += cell.requests
        client, server = series.own, series.identity
        if series.direction == "inbound":
            client, server = series.identity, series.own if series.tls == TLS else ""
        elif series.tls != TLS:
            client = ""  # without TLS it proved nothing to anybody
        self.clients[client] += cell.requests
        self.servers[server] += cell.requests

    def reason(self) -> str:
        """Why it is not secured; empty where it is."""
        if not self.reasons:
            return ""
        insecure, told = sum(self.reasons.values()), most(self.reasons)
        return told if insecure == self.cell.requests else f"{insecure} of {self.cell.requests} requests: {told}"


def edges(window: Window) -> list[Edge]:
    """All edges of a window, sorted; what found no room of its own in it is left out."""
    traffic: dict[Ends, Traffic] = {}
    unreached: list[tuple[Ends, Series, Cell]] = []
    plain: set[tuple[str, str]] = set()
    for series, cell in window.cells.items():
        if series.direction != "outbound" or series.service == OVERFLOW or not cell.requests:
            continue
        ends = Ends(series.source_namespace, series.source, series.namespace, series.service, series.peer)
        if not series.peer:
            unreached.append((ends, series, cell))
            continue
        traffic.setdefault(ends, Traffic()).add(series, cell)
        if series.tls != TLS:
            plain.add((series.namespace, series.service))
    for ends, series, cell in unreached:
        count_unreached(traffic, ends, series, cell)
    for ends, series, cell in from_nobody(window, plain):
        traffic.setdefault(ends, Traffic()).add(series, cell)
    return [edge(ends, traffic[ends], window.seconds) for ends in sorted(traffic)]


def count_unreached(traffic: dict[Ends, Traffic], ends: Ends, series: Series, cell: Cell) -> None:
    """Adds requests that reached no endpoint where they belong."""
    beside = [other for other in traffic if other[:4] == ends[:4] and other.workload]
    if beside:
        traffic[max(beside, key=lambda other: (traffic[other].cell.requests, other.workload))].cell.add(cell)
    else:
        traffic.setdefault(ends, Traffic()).add(series, cell)


def from_nobody(window: Window, plain: set[tuple[str, str]]) -> Iterable[tuple[Ends, Series, Cell]]:
    """What came in to services of the mesh without proof of who sent it, and what no proxy of ours has sent."""
    for series, cell in window.cells.items():
        if series.direction != "inbound" or series.identity or series.service == OVERFLOW or not cell.requests:
            continue
        if (series.namespace, series.service) not in plain:
            yield Ends("", "", series.namespace, series.service, series.source), series, cell


def why_not_secured(series: Series) -> str:
    """In words; empty where it was."""
    if series.direction == "outbound" and not series.peer:
        return "no request reached an endpoint"
    if series.tls != TLS:
        if series.direction == "inbound":
            return "plain text from outside of the mesh"
        if not series.namespace:
            return "it is outside of the mesh"
        return "plain text: the endpoint has no identity" if series.own else "plain text: the caller has no identity"
    if not series.identity:
        return "the server proved no identity" if series.direction == "outbound" else "the client proved no identity"
    if not series.own:
        return "the client has no identity" if series.direction == "outbound" else "the server has no identity"
    return ""


def edge(ends: Ends, traffic: Traffic, seconds: float) -> Edge:
    """One row."""
    cell, reason = traffic.cell, traffic.reason()
    within = not ends.home or ends.home == ends.namespace
    return Edge(
        source=ends.source,
        to=ends.service if within else f"{ends.service}.{ends.home}",
        requests=cell.requests,
        rps=cell.requests / seconds,
        success_rate=cell.successes / cell.requests,
        p50_ms=quantile(cell.buckets, 0.5),
        p99_ms=quantile(cell.buckets, 0.99),
        tls=most(traffic.tls),
        namespace=ends.namespace,
        workload=ends.workload,
        to_namespace=ends.home,
        client_identity=most(traffic.clients),
        server_identity=most(traffic.servers),
        secured=not reason,
        reason=reason,
    )
