"""The traffic that inbound proxies have seen, by kind, and what policy said to it: what `conduit policy` works from.

Rules:
- A row is a kind of request: service, who asked, protocol, method, path template. It keeps how often which policy said
  what, and when it was seen first and last, by our own clock.
- At most MAX_ROWS rows are kept, MAX_OF_SERVICE of one service, so that one that is scanned does not push the others
  out; what has not been seen for longest goes first. A row keeps at most MAX_NAMES names of each sort.
- Nothing of it is kept over a restart: it is a memory of what happens, not a log.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from mesh.control.cluster import ServiceKey
from mesh.control.routes import Answer, Query, Request, Route, answer, number, text
from mesh.model.api import SeenRow
from mesh.model.reports import Seen

MAX_ROWS = 10_000
MAX_OF_SERVICE = 2_500
MAX_NAMES = 16
OTHERS = "(other)"
"""Counts for the names that find no room in a row."""

SERVICE = Query("service", "Only requests to this service: `name` or `name.namespace`.")
NAMESPACE = Query("namespace", "Only requests to services in this namespace.")
SINCE = Query(
    "since", "Only what was seen in the last so many seconds; 0: all.", kind=float, default=0.0, most=10_000_000.0
)


class Kind(NamedTuple):
    """What makes a row."""

    service: ServiceKey
    identity: str
    source: str
    protocol: str
    method: str
    path: str


class Row:
    """One kind of request, and what was counted of it."""

    __slots__ = ("allowed", "audited", "denied", "example", "first", "last", "workloads")

    def __init__(self, example: str, now: float) -> None:
        self.example = example
        self.first = self.last = now
        self.allowed: dict[str, int] = {}
        self.denied: dict[str, int] = {}
        self.audited: dict[str, int] = {}
        self.workloads: dict[str, int] = {}

    def add(self, workload: str, seen: Seen, now: float) -> None:
        """Counts what one proxy tells."""
        self.last = now
        count(self.allowed if seen.allowed else self.denied, seen.by, seen.count)
        if seen.audited:
            count(self.audited, seen.audited, seen.count)
        count(self.workloads, workload, seen.count)


class SeenTraffic:
    """The rows. `clock` tells seconds since the epoch."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        max_rows: int = MAX_ROWS,
        max_of_service: int = MAX_OF_SERVICE,
    ) -> None:
        self.forgotten = 0
        """Rows that had to make room."""
        self._clock, self._max_rows, self._max_of_service = clock, max_rows, max_of_service
        self._rows: OrderedDict[Kind, Row] = OrderedDict()  # the one that was silent for longest first, here and below
        self._of: dict[ServiceKey, OrderedDict[Kind, None]] = {}

    def __repr__(self) -> str:
        return f"<SeenTraffic rows={len(self._rows)} services={len(self._of)} forgotten={self.forgotten}>"

    def add(self, service: ServiceKey, workload: str, seen: Seen) -> None:
        """Takes in what a proxy beside `workload` tells of requests to `service`."""
        kind = Kind(service, seen.identity, seen.source, seen.protocol, seen.method, seen.path)
        now = self._clock()
        row = self._rows.get(kind)
        if row is None:
            of_service = self._of.setdefault(service, OrderedDict())
            if len(of_service) >= self._max_of_service:
                self._forget(next(iter(of_service)))
            elif len(self._rows) >= self._max_rows:
                self._forget(next(iter(self._rows)))
            row = self._rows[kind] = Row(seen.example, now)
            self._of.setdefault(service, of_service)[kind] = None
        else:
            self._rows.move_to_end(kind)
            self._of[service].move_to_end(kind)
        row.add(workload, seen, now)

    def rows(self, *, service: str = "", namespace: str = "", since: float = 0.0) -> Iterator[SeenRow]:
        """The rows, sorted; of a service (`name` or `name.namespace`), of a namespace, last seen at `since` (seconds
        since the epoch) or later."""
        for kind in sorted(self._rows):
            home, name = kind.service
            row = self._rows[kind]
            if service not in ("", name, f"{name}.{home}") or namespace not in ("", home) or row.last < since:
                continue
            yield SeenRow(
                namespace=home,
                service=name,
                identity=kind.identity,
                source=kind.source,
                protocol=kind.protocol,
                method=kind.method,
                path=kind.path,
                example=row.example,
                requests=sum(row.allowed.values()) + sum(row.denied.values()),
                allowed=dict(row.allowed),
                denied=dict(row.denied),
                audited=dict(row.audited),
                workloads=dict(row.workloads),
                first=row.first,
                last=row.last,
            )

    def _forget(self, kind: Kind) -> None:
        self.forgotten += 1
        del self._rows[kind]
        of_service = self._of[kind.service]
        del of_service[kind]
        if not of_service:
            del self._of[kind.service]


def count(counts: dict[str, int], name: str, more: int) -> None:
    """Adds to the count of a name, or to that of all others where there are too many."""
    if name not in counts and len(counts) >= MAX_NAMES:
        name = OTHERS
    counts[name] = counts.get(name, 0) + more


class SeenApi:
    """The part of the API that tells it."""

    def __init__(self, seen: SeenTraffic, *, clock: Callable[[], float] = time.time) -> None:
        self._seen, self._clock = seen, clock

    def routes(self) -> list[Route]:
        """Its row of the table."""
        about = "The kinds of requests that inbound proxies have seen, and what policy said to them."
        query = (SERVICE, NAMESPACE, SINCE)
        return [Route("GET", "/api/v1/seen", about, list[SeenRow], handler=self.seen, query=query)]

    async def seen(self, request: Request) -> Answer:
        seconds = number(request, SINCE)
        since = self._clock() - seconds if seconds else 0.0
        rows: Iterable[SeenRow] = self._seen.rows(
            service=text(request, SERVICE), namespace=text(request, NAMESPACE), since=since
        )
        return answer(list(rows))
