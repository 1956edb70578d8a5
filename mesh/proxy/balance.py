"""Endpoints and their load -> the endpoint for a request: power of two choices over peak EWMA (pure). Hot.

The load of an endpoint is its latency estimate times the requests it has in hand. The estimate jumps up with a slow
answer at once and forgets it over DECAY seconds (Finagle's "peak EWMA"), also while it has nothing to do: it is spared
for one slow answer, and then tried again. Weights decide how often an endpoint is drawn.

Slow start: an endpoint that is new is drawn as if its weight were a tenth, growing to the whole. Of two that are not
equally warm the first drawn is chosen, however unknown the latency of either, unless it has more requests in hand for
its share than the other: this keeps an idle new endpoint from winning every comparison it comes into.

Other ways to choose are `balance_kinds` and `balance_hash`; `balance_policy` makes what a service asks for. They are
compiled together with this.
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
COLDEST = 0.1
"""The part of its share with which slow start begins."""
REDRAWS = 20
"""Draws until a cold endpoint is taken although its share is used up: some endpoint must be."""


class Load:
    """What balancing knows of one endpoint: `pending` requests in hand, its latency estimate in seconds, and `since`
    when it has been there (or back), for slow start."""

    __slots__ = ("_at", "ewma", "pending", "since", "weight")

    def __init__(self, weight: int, now: float) -> None:
        self.weight = weight
        self.pending = 0
        self.ewma = UNKNOWN
        self.since = now
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

    def warmth(self, slow_start: float, now: float) -> float:
        """The part of its share that it may have, COLDEST to 1, where that takes `slow_start` seconds."""
        if slow_start <= 0.0:
            return 1.0
        return max(COLDEST, min(1.0, (now - self.since) / slow_start))

    def __repr__(self) -> str:
        return f"<Load {self.pending} pending, {self.ewma * 1000:.2f} ms, weight {self.weight}>"


class Loaded:
    """Whatever is balanced: it has a `load`, an `address` that names it, and a `zone`, which may be empty."""

    __slots__ = ("address", "load", "zone")

    address: str
    load: Load
    zone: str


E = TypeVar("E", bound=Loaded)


class Balancer(Generic[E]):
    """Chooses among `endpoints`; `random` gives floats in [0, 1). Endpoints of weight 0 are never chosen.

    `slow_start` in seconds; 0: every endpoint has its whole share at once. Other kinds inherit from this one."""

    __slots__ = ("_cumulative", "_oldest", "_random", "_slow_start", "_warm_at", "endpoints")

    def __init__(
        self, endpoints: Sequence[E], random: Callable[[], float], slow_start: float = 0.0, now: float = 0.0
    ) -> None:
        self.endpoints = [endpoint for endpoint in endpoints if endpoint.load.weight > 0]
        weights = [endpoint.load.weight for endpoint in self.endpoints]
        self._cumulative = None if len(set(weights)) <= 1 else list(accumulate(weights))
        self._random = random
        self._slow_start = slow_start
        self._oldest = self._warm_at = 0.0
        if slow_start > 0.0 and self.endpoints:
            since = [endpoint.load.since for endpoint in self.endpoints]
            self._oldest, newest = min(since), max(since)
            if self._oldest < newest and newest + slow_start > now:
                self._warm_at = newest + slow_start  # when all are equally warm there is no difference

    def choose(self, excluded: Sequence[E] = (), now: float = 0.0, key: int = -1) -> E | None:
        """The less loaded of two drawn by weight; None if there is none. `excluded` are avoided while others are left;
        `now` is of the clock of `observe`. `key` (`balance_hash.hash_key`) is for kinds that keep a key with its
        endpoint."""
        endpoints = self.endpoints
        count = len(endpoints)
        if excluded:
            least = self._least(excluded, now)
            if least is not None:
                return least
        if count <= 1:
            return endpoints[0] if count else None
        if now < self._warm_at:
            return self._choose_warming(now)
        if self._cumulative is None:
            i = int(self._random() * count)
            j = int(self._random() * count)
            if i == j:
                j = i - 1
        else:
            i = self._draw()
            j = self._draw()
            if i == j:
                return endpoints[i]  # drawn twice by weight: its share, whatever its load
        first, second = endpoints[i], endpoints[j]
        one, two = first.load, second.load
        if self._lighter(one, two):
            two.fade(now)  # only who loses may be idle for long
            return first
        one.fade(now)
        return second

    def _lighter(self, one: Load, two: Load) -> bool:
        """Is `one` at most as loaded as `two`?"""
        return one.ewma * (one.pending + 1) <= two.ewma * (two.pending + 1)

    def _draw(self) -> int:
        """An index, by weight."""
        if self._cumulative is None:
            return int(self._random() * len(self.endpoints))
        return bisect(self._cumulative, self._random() * self._cumulative[-1])

    def _least(self, excluded: Sequence[E], now: float) -> E | None:
        """The least loaded of those not `excluded`, of the warmest of them; None if there is none."""
        slow_start = self._slow_start if now < self._warm_at else 0.0
        best: E | None = None
        best_warmth = 0.0
        for endpoint in self.endpoints:
            if endpoint in excluded:
                continue
            warmth = endpoint.load.warmth(slow_start, now)
            if (
                best is None
                or warmth > best_warmth
                or (warmth == best_warmth and not self._lighter(best.load, endpoint.load))
            ):
                best, best_warmth = endpoint, warmth
        return best

    def _choose_warming(self, now: float) -> E:
        """The same of at least two endpoints that are not equally warm."""
        i = self._draw_warming(now)
        j = self._draw_warming(now)
        if i == j:
            if self._cumulative is not None:
                return self.endpoints[i]
            j = i - 1
        first, second = self.endpoints[i], self.endpoints[j]
        one, two = first.load, second.load
        warm_one, warm_two = one.warmth(self._slow_start, now), two.warmth(self._slow_start, now)
        if warm_one == warm_two:
            wins = self._lighter(one, two)
        else:
            wins = (two.pending + 1) * warm_one > one.pending * warm_two
        if wins:
            two.fade(now)
            return first
        one.fade(now)
        return second

    def _draw_warming(self, now: float) -> int:
        """An index, by weight times warmth."""
        random = self._random
        most = max(COLDEST, min(1.0, (now - self._oldest) / self._slow_start))
        index = self._draw()
        for _ in range(REDRAWS):
            if random() * most < self.endpoints[index].load.warmth(self._slow_start, now):
                break
            index = self._draw()
        return index
