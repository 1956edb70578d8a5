"""Tap sessions: who watches which exchanges, how many of them, and what waits for each watcher.

Rules:
- A session's `max_rps` holds over all proxies together, by exchange: req, rsp and end of one are shown together or not
  at all. Each proxy holds it too, so that what crosses the wire stays small.
- What waits for a slow watcher is bounded. New exchanges are turned away before there is no room left for the ends of
  those already shown. All that is not shown is counted, and told to the watcher.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio
from msgspec.structs import replace

from mesh.control.cluster import ServiceKey
from mesh.control.plan import resolve
from mesh.control.recent import Recent
from mesh.model.errors import ConduitError
from mesh.model.push import Tapped
from mesh.model.reports import TapEvent, TapMatch

MAX_SESSIONS = 64
MAX_WAITING = 2_000
"""Events for one watcher: some 1 MB."""
ADMIT_BELOW = 1_500
"""Above it no new exchange is shown, and the rest is kept for the rsp and end of those that are."""
MAX_EXCHANGES = 10_000
"""Shown and not ended, per session. An exchange that ends unseen (its proxy died) is forgotten when they are more."""
BURST_SECONDS = 0.25
"""Proxies send what they have seen a few times a second: one such batch may come at once."""


class TooManyTaps(ConduitError):
    """There are MAX_SESSIONS already."""


class Session:
    """One watch. `wake` is set when there is something to take; what is shown is remembered in `recent`."""

    def __init__(self, number: int, match: TapMatch, now: float, recent: Recent | None = None) -> None:
        self.number = number
        self.match = match
        self._recent = recent if recent is not None else Recent()
        self.wake = trio.Event()
        self._waiting: deque[TapEvent] = deque()
        self._dropped = 0
        self._shown: dict[tuple[str, str], None] = {}
        self._burst = max(1.0, match.max_rps * BURST_SECONDS)
        self._tokens = self._burst
        self._refilled = now

    def __repr__(self) -> str:
        return f"<Session {self.number} {self.match} waiting={len(self._waiting)} dropped={self._dropped}>"

    def wants(self, workload: ServiceKey) -> bool:
        """Whether the proxies of this workload may see what the session matches."""
        return self.match.workload in ("", workload.name, f"{workload.name}.{workload.namespace}")

    def is_to(self, label: str, namespace: str) -> bool:
        """Whether a service's label, as the proxies of a namespace write it, is the one whose calls are wanted."""
        wanted, _, home = self.match.to.partition(".")
        if self.match.to in ("", label):
            return True
        key = resolve(label, namespace)
        return key is not None and key.name == wanted and home.partition(".")[0] in ("", key.namespace)

    def take_in(self, now: float, proxy: str, workload: ServiceKey, tapped: Tapped) -> None:
        """What a proxy of this workload saw."""
        self._dropped += tapped.dropped
        for event in tapped.events:
            exchange = (proxy, event.id)
            if event.event == "req":
                if not self.is_to(event.service, workload.namespace):
                    continue
                if not self._admit(now):
                    self._dropped += 1
                    continue
                self._shown[exchange] = None
                if len(self._shown) > MAX_EXCHANGES:
                    del self._shown[next(iter(self._shown))]
            elif exchange not in self._shown:
                continue
            elif len(self._waiting) >= MAX_WAITING:
                self._dropped += 1
                del self._shown[exchange]
                continue
            elif event.event == "end":
                del self._shown[exchange]
            self._recent.add(workload, event)
            self._waiting.append(event)
        if self._waiting or self._dropped:
            self.wake.set()

    def take_out(self) -> tuple[list[TapEvent], int]:
        """What waits for the watcher, and how many exchanges were not shown since the last time; `wake` is renewed."""
        events, dropped = list(self._waiting), self._dropped
        self._waiting.clear()
        self._dropped = 0
        self.wake = trio.Event()
        return events, dropped

    def _admit(self, now: float) -> bool:
        self._tokens = min(self._burst, self._tokens + max(now - self._refilled, 0.0) * self.match.max_rps)
        self._refilled = now
        if self._tokens < 1 or len(self._waiting) >= ADMIT_BELOW:
            return False
        self._tokens -= 1
        return True


class Taps:
    """All sessions; `changed` is called when one has begun or ended, so that the proxies are told. `recent` are the
    requests that they have shown lately."""

    def __init__(self) -> None:
        self.recent = Recent()
        self.changed: Callable[[], None] = nobody
        self._sessions: dict[int, Session] = {}
        self._last = 0

    def __repr__(self) -> str:
        return f"<Taps {list(self._sessions.values())}>"

    def are_full(self) -> bool:
        """Whether no more can be opened."""
        return len(self._sessions) >= MAX_SESSIONS

    def open(self, match: TapMatch, now: float) -> Session:
        """Begins a session; raises TooManyTaps."""
        if self.are_full():
            raise TooManyTaps
        self._last += 1
        session = self._sessions[self._last] = Session(self._last, match, now, self.recent)
        self.changed()
        return session

    def close(self, session: Session) -> None:
        """Ends it."""
        self._sessions.pop(session.number, None)
        self.changed()

    def of(self, workload: ServiceKey) -> dict[int, TapMatch]:
        """The sessions that the proxies of a workload take part in now."""
        return {number: session.match for number, session in self._sessions.items() if session.wants(workload)}

    def take_in(self, now: float, proxy: str, workload: ServiceKey, tapped: Tapped) -> None:
        """What a proxy saw for a session; of one that is over, or that it has no part in, nothing is taken."""
        session = self._sessions.get(tapped.session)
        if session is not None and session.wants(workload):
            session.take_in(now, proxy, workload, tapped)


def for_proxy(match: TapMatch, workload: str) -> TapMatch:
    """What the proxies of a workload that has part in it are asked for: plain names, for they know no others."""
    return replace(match, workload=workload if match.workload else "", to=match.to.partition(".")[0])


def nobody() -> None:
    """Before there are proxies to be told."""
