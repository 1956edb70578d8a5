"""Which request gets which fault, on purpose (pure). Hot for a service that has faults.

A fault is one request's: it is drawn anew for each, and only while it lasts. Nobody has to lift it, for whoever asked
for it may be gone by then.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.model.traffic import Injection
from mesh.proxy.route import Matcher
from mesh.wire.head import Head


class Fault:
    """An `Injection`, compiled."""

    __slots__ = ("injection", "matcher", "share", "until")

    def __init__(self, injection: Injection) -> None:
        self.injection = injection
        self.matcher = Matcher(injection.match)
        self.share = injection.percent / 100
        self.until = injection.until

    def means(self, head: Head, wall: float) -> bool:
        """Whether it lasts at `wall`, and is for this request."""
        return (not self.until or wall < self.until) and self.matcher.holds(head)


class Faults:
    """The faults of one service, in order."""

    __slots__ = ("_faults",)

    def __init__(self, injections: tuple[Injection, ...]) -> None:
        self._faults = [Fault(injection) for injection in injections]

    def strike(self, head: Head, random: Callable[[], float], wall: float) -> Injection | None:
        """The first fault that lasts, means this request and is drawn for it: one that is not drawn lets the next try.

        `wall` is in seconds since the epoch; `random` gives numbers in [0, 1), and is asked only where a fault strikes
        a share of the requests.
        """
        for fault in self._faults:
            if fault.means(head, wall):
                share = fault.share
                if share >= 1 or (share > 0 and random() < share):
                    return fault.injection
        return None

    def meaning(self, head: Head, wall: float) -> list[Injection]:
        """Those that may strike this request, in the order in which they are drawn; none is."""
        return [fault.injection for fault in self._faults if fault.means(head, wall)]

    def next_end(self, wall: float) -> float:
        """When the next of those that last lifts, in seconds since the epoch; 0 if none of them does so by itself."""
        return min((fault.until for fault in self._faults if fault.until > wall), default=0.0)
