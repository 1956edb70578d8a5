"""Endpoints and their load -> the endpoint for a request: power of two choices over peak EWMA (pure). Hot.

The load of an endpoint is its latency estimate times the requests it has in hand. The estimate jumps up with a slow
answer at once and forgets it over DECAY seconds (Finagle's "peak EWMA"), also while it has nothing to do: it is spared
for one slow answer, and then tried again. Weights decide how often an endpoint is drawn.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import exp
from typing import Generic, TypeVar

DECAY = 10.0
"""Seconds until an old latency counts for 1/e."""
IDLE = 1.0
"""Seconds without an answer or a request in hand after which the estimate fades."""
UNKNOWN = 0.001
"""Seconds assumed of an endpoint that has not answered yet: optimistic, so that it is soon tried, but not a magnet."""


class Load:
    """What balancing knows of one endpoint: `pending` requests in hand and its latency estimate in seconds."""

    __slots__ = ("_at", "ewma", "pending", "weight")

    def __init__(self, weight: int, now: float) -> None:
        self.weight = weight
        self.pending = 0
        self.ewma = UNKNOWN
        self._at = now

    def observe(self, latency: float, now: float) -> None:
        """An answer took `latency` seconds."""
        if latency > self.ewma:
            self.ewma = latency
        else:
            keep = exp((self._at - now) / DECAY)
            self.ewma = self.ewma * keep + latency * (1.0 - keep)
        self._at = now

    def fade(self, now: float) -> None:
        """Forget a part of what was seen, where nothing has been seen for IDLE seconds."""
        if not self.pending and now - self._at > IDLE:
            self.ewma *= exp((self._at - now) / DECAY)
            self._at = now

    def __repr__(self) -> str:
        return f"<Load {self.pending} pending, {self.ewma * 1000:.2f} ms, weight {self.weight}>"


class Loaded:
    """Whatever is balanced: it has a `load`."""

    __slots__ = ("load",)

    load: Load


E = TypeVar("E", bound=Loaded)


class Balancer(Generic[E]):
    """Chooses among `endpoints`; `random` gives floats in [0, 1). Endpoints of weight 0 are never chosen."""

    __slots__ = ("_cumulative", "_random", "endpoints")

    def __init__(self, endpoints: Sequence[E], random: Callable[[], float]) -> None:
        self.endpoints = [endpoint for endpoint in endpoints if endpoint.load.weight > 0]
        weights = [endpoint.load.weight for endpoint in self.endpoints]
        self._cumulative = None if len(set(weights)) <= 1 else list(accumulate(weights))
        self._random = random

    def _draw(self, count: int) -> int:
        if self._cumulative is None:
            return int(self._random() * count)
        return bisect(self._cumulative, self._random() * self._cumulative[-1])

    def choose(self, excluded: Sequence[E] = (), now: float = 0.0) -> E | None:
        """The less loaded of two drawn by weight; None if there is none. `excluded` are avoided while others are left;
        `now` is of the clock of `observe`."""
        endpoints = self.endpoints
        count = len(endpoints)
        if excluded:
            left = [endpoint for endpoint in endpoints if endpoint not in excluded]
            if left:
                return min(left, key=lambda endpoint: endpoint.load.ewma * (endpoint.load.pending + 1))
        if count <= 1:
            return endpoints[0] if count else None
        i = self._draw(count)
        j = self._draw(count)
        if i == j:
            if self._cumulative is not None:
                return endpoints[i]  # drawn twice by weight: its share, whatever its load
            j = i - 1
        first, second = endpoints[i], endpoints[j]
        one, two = first.load, second.load
        if one.ewma * (one.pending + 1) <= two.ewma * (two.pending + 1):
            two.fade(now)  # only who loses may be idle for long
            return first
        one.fade(now)
        return second
