"""Windows of counts become rows that people read: golden metrics per service and per workload. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from mesh.control.aggregate import Aggregate, Cell, Series, Window, quantile
from mesh.control.cluster import Cluster, ServiceKey
from mesh.control.plan import endpoints
from mesh.model.api import StatRow


class Group:
    """Cells added up for one row, with what most of its requests came as."""

    __slots__ = ("cell", "protocols", "tls")

    def __init__(self) -> None:
        self.cell = Cell()
        self.protocols: Counter[str] = Counter()
        self.tls: Counter[str] = Counter()

    def add(self, series: Series, cell: Cell) -> None:
        """Adds one series."""
        self.cell.add(cell)
        self.protocols[series.protocol] += cell.requests
        self.tls[series.tls] += cell.requests

    def success_rate(self) -> float | None:
        """0 to 1; None where nothing was asked."""
        return self.cell.successes / self.cell.requests if self.cell.requests else None


def services(window: Window, cluster: Cluster, aggregate: Aggregate) -> list[StatRow]:
    """A row for each service of the mesh, and for each name outside of it that its applications called."""
    inbound = grouped(window.cells, "inbound", lambda series: ServiceKey(series.namespace, series.service))
    outbound = grouped(window.cells, "outbound", lambda series: ServiceKey(series.namespace, series.service))
    known = set(cluster.services())
    opened: Counter[ServiceKey] = Counter()
    for _, direction, service, count in aggregate.tcp_open():
        opened[service] += count if direction == "inbound" else 0
    rows = []
    for key in sorted(known | inbound.keys() | outbound.keys()):
        group = inbound.get(key) or outbound.get(key) or Group()
        if key not in known and not group.cell.requests:
            continue
        members = cluster.members(key)
        ready = len(endpoints(members)) if members else 0
        rows.append(row(key, "service", group, window.seconds, opened[key], ready))
    return rows


def workloads(
    window: Window, cluster: Cluster, aggregate: Aggregate, proxies: Mapping[str, ServiceKey]
) -> list[StatRow]:
    """A row for each workload; `proxies` tells whose the connected proxies are."""
    inbound = grouped(window.cells, "inbound", lambda series: ServiceKey(series.source_namespace, series.source))
    ready = cluster.workloads()
    opened: Counter[ServiceKey] = Counter()
    for proxy, direction, _, count in aggregate.tcp_open():
        if direction == "inbound" and proxy in proxies:
            opened[proxies[proxy]] += count
    return [
        row(key, "workload", inbound.get(key) or Group(), window.seconds, opened[key], ready.get(key, 0))
        for key in sorted(ready.keys() | inbound.keys())
    ]


def row(key: ServiceKey, kind: str, group: Group, seconds: float, opened: int, ready: int) -> StatRow:
    """One row."""
    return StatRow(
        name=key.name,
        namespace=key.namespace,
        kind=kind,
        protocol=most(group.protocols),
        requests=group.cell.requests,
        rps=group.cell.requests / seconds,
        success_rate=group.success_rate(),
        p50_ms=quantile(group.cell.buckets, 0.5),
        p95_ms=quantile(group.cell.buckets, 0.95),
        p99_ms=quantile(group.cell.buckets, 0.99),
        tcp_open=opened,
        endpoints=ready,
    )


def grouped(
    cells: Mapping[Series, Cell], direction: str, by: Callable[[Series], ServiceKey]
) -> dict[ServiceKey, Group]:
    """The cells of one direction, added up by key; keys without a request are left out."""
    groups: dict[ServiceKey, Group] = {}
    for series, cell in cells.items():
        if series.direction == direction and cell.requests:
            groups.setdefault(by(series), Group()).add(series, cell)
    return groups


def most(counts: Mapping[str, int]) -> str:
    """What was counted most, the first by name among equals; empty where nothing was."""
    return min(counts, key=lambda name: (-counts[name], name), default="")
