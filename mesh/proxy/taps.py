"""Tap sessions within one proxy: which exchanges are watched, and the bounded queue of what was seen.

Costs nothing while nobody watches: an exchange looks at `active`, an empty list, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mesh.model.push import Tapped
from mesh.model.reports import TapEvent, TapMatch
from mesh.wire.head import Head

if TYPE_CHECKING:
    from mesh.proxy.exchange import Exchange

QUEUE = 2_000
"""Events per session between two drains: a quarter of a second at far more than anyone reads."""


class Session:
    """One watcher's filter, its allowance of exchanges per second, and what waits to be sent."""

    __slots__ = ("_allowance", "_at", "dropped", "events", "id", "match")

    def __init__(self, session: int, match: TapMatch, now: float) -> None:
        self.id = session
        self.match = match
        self.events: list[TapEvent] = []
        self.dropped = 0
        self._allowance = match.max_rps
        self._at = now

    def admits(self, service: str, head: Head, now: float) -> bool:
        """Whether this exchange is watched; takes one from the allowance of max_rps if so."""
        match = self.match
        if match.to and match.to != service and match.to != service.partition(".")[0]:
            return False
        if match.method and match.method.encode() != head.method:
            return False
        if match.path and not head.path.startswith(match.path.encode()):
            return False
        if match.authority and match.authority.encode() != head.authority:
            return False
        self._allowance = min(match.max_rps, self._allowance + (now - self._at) * match.max_rps)
        self._at = now
        if self._allowance < 1.0:
            self.dropped += 1
            return False
        self._allowance -= 1.0
        return True

    def put(self, event: TapEvent) -> None:
        if len(self.events) < QUEUE:
            self.events.append(event)
        else:
            self.dropped += 1


class Taps:
    """All sessions; `active` is the list that exchanges look at."""

    def __init__(self, clock: Callable[[], float], workload: str) -> None:
        self._clock = clock
        self.workload = workload
        self.active: list[Session] = []

    def start(self, session: int, match: TapMatch) -> None:
        """Begin, or replace, session number `session`."""
        self.stop(session)
        if not match.workload or match.workload == self.workload:
            self.active.append(Session(session, match, self._clock()))

    def stop(self, session: int) -> None:
        self.active = [one for one in self.active if one.id != session]

    def stop_all(self) -> None:
        self.active = []

    def watchers(self, service: str, head: Head) -> list[Session]:
        """The sessions that want this exchange; empty for none."""
        now = self._clock()
        return [session for session in self.active if session.admits(service, head, now)]

    def take(self) -> list[Tapped]:
        """What has been seen since the last take."""
        taken = []
        for session in self.active:
            if session.events or session.dropped:
                taken.append(Tapped(session.id, tuple(session.events), session.dropped))
                session.events = []
                session.dropped = 0
        return taken


def _event(exchange: Exchange, kind: str, **rest: object) -> None:
    downstream, endpoint, care = exchange.downstream, exchange.endpoint, exchange.care
    inbound, decision = downstream.inbound, exchange.decision
    event = TapEvent(
        event=kind,
        id=f"{downstream.number}:{exchange.stream}",
        proxy="in" if inbound else "out",
        workload=downstream.taps.workload,
        src=downstream.peer,
        dst=endpoint.address if endpoint is not None else "",
        tls=downstream.tls,
        service=exchange.parent.name,
        src_workload=downstream.identity if inbound else downstream.own,
        dst_identity=downstream.own if inbound else endpoint.scope.identity if endpoint is not None else "",
        policy=decision.by if decision is not None else "",
        audited=decision.audited if decision is not None else "",
        method=exchange.head.method.decode("latin-1"),
        authority=exchange.head.authority.decode("latin-1"),
        path=exchange.head.path.decode("latin-1"),
        route=care.route.name if care is not None and care.route is not None else "",
        at=time.time(),
        **rest,  # type: ignore[arg-type]
    )
    for session in exchange.watchers or ():
        session.put(event)


def requested(exchange: Exchange) -> None:
    """A watched exchange has begun."""
    _event(exchange, "req")


def responded(exchange: Exchange, now: float) -> None:
    """Its response head is on the way to the client."""
    _event(exchange, "rsp", status=exchange.status, latency_us=round((now - exchange.started_at) * 1e6))


def ended(exchange: Exchange, outcome: str, now: float) -> None:
    """It is over."""
    _event(
        exchange,
        "end",
        status=exchange.status,
        duration_us=round((now - (exchange.answered_at or exchange.started_at)) * 1e6),
        response_bytes=exchange.response_bytes,
        grpc_status=exchange.grpc_status,
        outcome=outcome,
        error=exchange.error,
        retries=exchange.care.retries if exchange.care is not None else 0,
    )
