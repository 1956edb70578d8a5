"""Other ways to choose an endpoint: by requests in hand, and in turn (pure). Hot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush, heapreplace

from mesh.proxy.balance import Balancer, E, Load


class LeastRequest(Balancer[E]):
    """The one of two drawn by weight that has fewer requests in hand for its weight, whatever its latency."""

    __slots__ = ()

    def _lighter(self, one: Load, two: Load) -> bool:
        return one.pending * two.weight <= two.pending * one.weight


class RoundRobin(Balancer[E]):
    """Each in turn, those of more weight more often; the turns of each are evenly spread.

    Every endpoint has the time at which it is due, in rounds; who is due first is chosen and due again 1/weight later.
    The order begins at random, so that many proxies do not walk in step. Slow start: due again that much later."""

    __slots__ = ("_turns",)

    def __init__(
        self, endpoints: Sequence[E], random: Callable[[], float], slow_start: float = 0.0, now: float = 0.0
    ) -> None:
        super().__init__(endpoints, random, slow_start, now)
        self._turns: list[tuple[float, int]] = [
            (random() * self._span(endpoint.load, now), index) for index, endpoint in enumerate(self.endpoints)
        ]
        heapify(self._turns)

    def choose(self, excluded: Sequence[E] = (), now: float = 0.0, key: int = -1) -> E | None:
        """Whose turn it is; one of `excluded` keeps its turn while others are left."""
        turns = self._turns
        if not turns:
            return None
        if excluded:
            other = self._other(excluded, now)
            if other is not None:
                return other
        return self._take(turns[0], now)

    def _take(self, turn: tuple[float, int], now: float) -> E:
        """The first in the order, which is due later now."""
        endpoint = self.endpoints[turn[1]]
        heapreplace(self._turns, (turn[0] + self._span(endpoint.load, now), turn[1]))
        return endpoint

    def _span(self, load: Load, now: float) -> float:
        """Rounds until it is due again."""
        if self._slow_start <= 0.0:
            return 1.0 / load.weight
        return 1.0 / (load.weight * load.warmth(self._slow_start, now))

    def _other(self, excluded: Sequence[E], now: float) -> E | None:
        turns = self._turns
        passed: list[tuple[float, int]] = []
        found: E | None = None
        while turns:
            if self.endpoints[turns[0][1]] not in excluded:
                found = self._take(turns[0], now)
                break
            passed.append(heappop(turns))
        for turn in passed:
            heappush(turns, turn)
        return found
