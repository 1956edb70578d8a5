"""What may be spent: tokens for retries, tokens for requests (pure). Hot: a deposit per request.

Rules. A budget belongs to a service, whichever connections its requests come by. What requests earn can be spent for a
window's length and is gone then. What trickles in by itself is held for a second at most, and whoever takes of a full
second waits for the next to begin, so calm buys no storm. From the beginning to any T >= 1 seconds later, `withdraw`
says yes to at most `percent` of the requests and `per_second` * T more; from any later moment on, to those and what the
requests of the window before it had earned.
"""

from __future__ import annotations

from mesh.model import traffic

SLICES = 10
"""Of the window: a token is held for 0.9 to 1 windows."""
LEAST_WINDOW = 0.01
"""Seconds."""
ADVANCE = 1.0
"""Seconds whose trickle is there at once; the tokens after it come after it."""
ROUNDING = 1e-9
"""Of a token: five times a fifth is one."""


class RetryBudget:
    """The retries and hedges that a service's requests may cost. `refused` counts what `withdraw` said no to."""

    __slots__ = (
        "_earned",
        "_full",
        "_index",
        "_length",
        "_rate",
        "_requests",
        "_share",
        "_spent",
        "_trickle",
        "_trickle_at",
        "_turn",
        "policy",
        "refused",
    )

    def __init__(self, policy: traffic.RetryBudget, now: float) -> None:
        self.refused = 0
        self._earned = [0.0] * SLICES  # of slices that are over; the current one's stays 0 until it is
        self._index = 0
        self._requests = 0
        self._spent = 0.0  # of what the current slice's requests earn
        self._turn = 0.0
        self._trickle = policy.per_second * ADVANCE
        self._trickle_at = now + ADVANCE
        self.follow(policy)

    def follow(self, policy: traffic.RetryBudget) -> None:
        """Go by a new policy from here on; what was earned before stays so."""
        self.policy = policy
        self._share = policy.percent / 100.0
        self._length = max(policy.window, LEAST_WINDOW) / SLICES
        self._rate = policy.per_second
        self._full = max(1.0, policy.per_second)
        self._trickle = min(self._trickle, self._full)

    def __repr__(self) -> str:
        return f"<RetryBudget {self._trickle:.1f} + {sum(self._earned) + self._current():.1f}, {self.refused} refused>"

    def deposit(self, now: float) -> None:
        """A request began (not a retry or hedge of it). Hot."""
        if now >= self._turn:
            self._next_slice(now)
        self._requests += 1

    def withdraw(self, now: float) -> bool:
        """Whether one more try may be made; if so its token is spent."""
        if now >= self._turn:
            self._next_slice(now)
        if now > self._trickle_at:
            self._trickle = min(self._full, self._trickle + (now - self._trickle_at) * self._rate)
            self._trickle_at = now
        if self._trickle + sum(self._earned) + self._current() < 1.0 - ROUNDING:
            self.refused += 1
            return False
        missing = 1.0
        if self._trickle > 0.0:
            if self._trickle >= self._full:
                self._trickle_at = now + ADVANCE  # what is there now is the trickle of the second that begins
            taken = min(missing, self._trickle)
            self._trickle -= taken
            missing -= taken
        earned = self._earned
        for step in range(1, SLICES):  # the oldest first
            if missing <= 0.0:
                return True
            index = (self._index + step) % SLICES
            taken = min(missing, earned[index])
            earned[index] -= taken
            missing -= taken
        self._spent += missing
        return True

    def restore(self, now: float) -> None:
        """A token was withdrawn and then not needed: the try was never made."""
        if now >= self._turn:
            self._next_slice(now)
        self._spent -= 1.0

    def _current(self) -> float:
        return max(0.0, self._requests * self._share - self._spent)

    def _next_slice(self, now: float) -> None:
        length = self._length
        if now - self._turn >= length * SLICES:
            self._earned = [0.0] * SLICES
            self._turn = now + length
        else:
            earned = self._earned
            earned[self._index] = self._current()
            while now >= self._turn:
                self._index = (self._index + 1) % SLICES
                earned[self._index] = 0.0
                self._turn += length
        self._requests = 0
        self._spent = 0.0


class TokenBucket:
    """`rate` tokens a second, `burst` (at least one) of them at once; it begins full. Hot where limits are set."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = self._tokens = max(1.0, burst)
        self._at = now

    def __repr__(self) -> str:
        return f"<TokenBucket {self._tokens:.2f} of {self._burst:g}, {self._rate:g}/s>"

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0.0 if there is one. Takes none."""
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
        missing = 1.0 - self._tokens
        return missing / self._rate if missing > ROUNDING else 0.0

    def spend(self) -> None:
        """Take the token that `wait` has just found."""
        self._tokens = max(0.0, self._tokens - 1.0)

    def take(self, now: float) -> float:
        """0.0 if a token was taken, else seconds until there is one."""
        seconds = self.wait(now)
        if not seconds:
            self.spend()
        return seconds
