"""Whether one endpoint may be used: failures -> open, a single probe, closed again (pure). Hot: asked per answer.

Rules. A circuit judges its own endpoint only. How many of a service's endpoints may be open at once is for the caller,
who knows the others: `failed` says that it should be opened, `may_eject` whether it may, `open` does it. What is no
verdict on the endpoint (a client that went away) is not told to the circuit, but for `forget_probe`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from mesh.model.traffic import Breaker


class CircuitState(enum.IntEnum):
    """Whether requests are sent."""

    CLOSED = 0
    """All are."""
    OPEN = 1
    """None is: it is on probation until `opened_until`, then `due`."""
    HALF_OPEN = 2
    """One is, the probe; the rest waits for its verdict."""


class Turn(enum.IntEnum):
    """What changes the state."""

    TRIPPED = 0
    PROBED = 1
    RECOVERED = 2
    FORGOTTEN = 3


CLOSED, OPEN, HALF_OPEN = CircuitState
TRIPPED, PROBED, RECOVERED, FORGOTTEN = Turn

TRANSITIONS: dict[CircuitState, dict[Turn, CircuitState]] = {
    CLOSED: {TRIPPED: OPEN},
    OPEN: {PROBED: HALF_OPEN},
    HALF_OPEN: {RECOVERED: CLOSED, TRIPPED: OPEN, FORGOTTEN: OPEN},
}
"""What is not listed changes nothing: answers that come late are no news."""

SLICES = 10
"""Of the window, so that what is counted is 0.9 to 1 windows old."""
LEAST_WINDOW = 0.1
"""Seconds: a shorter window would hardly ever hold two answers."""
JITTER = 0.2
"""Probation is that share longer or shorter, lest all proxies probe at once."""


class Circuit:
    """See the module. `cause` is the last failure in words, `trips` how often it was opened, ever; `opened_until` (of
    the caller's clock, seconds) means something while it is OPEN. `random` gives floats in [0, 1)."""

    __slots__ = (
        "_bad",
        "_good",
        "_index",
        "_length",
        "_probation",
        "_random",
        "_row",
        "_turn",
        "_watches_rate",
        "cause",
        "opened_until",
        "policy",
        "state",
        "trips",
    )

    def __init__(self, policy: Breaker, random: Callable[[], float]) -> None:
        self._random = random
        self.state: CircuitState = CLOSED
        self.cause = ""
        self.opened_until = 0.0
        self.trips = 0
        self._row = 0
        self._probation = 0.0
        self._index = 0
        self._turn = 0.0
        self.follow(policy)

    def __repr__(self) -> str:
        return f"<Circuit {self.state.name.lower()}, {self._row} failures in a row, {self.trips} trips>"

    def follow(self, policy: Breaker) -> None:
        """Go by a new policy from here on: the state stays, the window's counts do not."""
        self.policy = policy
        self._watches_rate = policy.success_rate > 0.0
        self._length = max(policy.window, LEAST_WINDOW) / SLICES
        self._good = [0] * SLICES
        self._bad = [0] * SLICES

    def succeeded(self, now: float) -> bool:
        """The endpoint answered well; True if that closed the circuit. Hot."""
        state = self.state
        if state == CLOSED:
            self._row = 0
            if self._watches_rate:
                if now >= self._turn:
                    self._next_slice(now)
                self._good[self._index] += 1
            return False
        if state == OPEN:
            return False
        self.state = TRANSITIONS[HALF_OPEN][RECOVERED]
        self._probation = 0.0
        self._reset()
        return True

    def failed(self, now: float, cause: str) -> bool:
        """The endpoint failed, and how; True if the circuit should be opened now. Said again with the next failure if
        the caller did not open it. A probe that failed is always to be followed by `open`."""
        self.cause = cause
        state = self.state
        if state == CLOSED:
            self._row += 1
            policy = self.policy
            if 0 < policy.failures <= self._row:
                return True
            if not self._watches_rate:
                return False
            if now >= self._turn:
                self._next_slice(now)
            self._bad[self._index] += 1
            good = sum(self._good)
            total = good + sum(self._bad)
            return total >= policy.requests and good < policy.success_rate * total
        return state == HALF_OPEN

    def open(self, now: float) -> None:
        """Send it nothing until probation is over: `policy.probation` seconds, doubled each time since it was last
        closed, never more than `policy.probation_most`. Nothing changes if it is open already."""
        if self.state == OPEN:
            return
        self.state = TRANSITIONS[self.state][TRIPPED]
        policy = self.policy
        self._probation = min(self._probation * 2.0 or policy.probation, policy.probation_most)
        jittered = self._probation * (1.0 - JITTER + 2.0 * JITTER * self._random())
        self.opened_until = now + min(jittered, policy.probation_most)
        self.trips += 1
        self._reset()

    def due(self, now: float) -> bool:
        """It is open, and one request may be sent to see whether it has recovered."""
        return self.state == OPEN and now >= self.opened_until

    def probe(self, now: float) -> None:
        """One request is sent: the next verdict decides. Only after `due` said so."""
        if self.due(now):
            self.state = TRANSITIONS[OPEN][PROBED]

    def forget_probe(self, now: float) -> None:
        """The probe ended without a verdict (its client went away): another may follow at once."""
        if self.state == HALF_OPEN:
            self.state = TRANSITIONS[HALF_OPEN][FORGOTTEN]
            self.opened_until = now

    def _reset(self) -> None:
        self._row = 0
        if self._watches_rate:
            self._good = [0] * SLICES
            self._bad = [0] * SLICES

    def _next_slice(self, now: float) -> None:
        length = self._length
        if now - self._turn >= length * SLICES:
            self._good = [0] * SLICES
            self._bad = [0] * SLICES
            self._turn = now + length
            return
        while now >= self._turn:
            self._index = index = (self._index + 1) % SLICES
            self._good[index] = self._bad[index] = 0
            self._turn += length


def may_eject(policy: Breaker, ejected: int, total: int) -> bool:
    """Whether one more of `total` endpoints may be opened where `ejected` are: never the only one, never beyond
    `policy.eject_most` percent."""
    return total > 1 and (ejected + 1) * 100.0 <= policy.eject_most * total


def panicking(policy: Breaker, fit: int, total: int) -> bool:
    """Whether so few of `total` endpoints are `fit` for use that all shall be used: fewer than `policy.panic`
    percent."""
    return fit * 100.0 < policy.panic * total
