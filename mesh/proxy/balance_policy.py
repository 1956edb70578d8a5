"""What a service asks for, its endpoints, and which of them are fit -> their balancer (pure). `choose` is hot.

Zone preference: traffic stays in the proxy's zone while enough of the zone's endpoints are fit; below that the zone
gets as much less as it has too few, and endpoints of other zones get the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mesh.model.traffic import Balancing, BalancingKind
from mesh.proxy.balance import Balancer, E
from mesh.proxy.balance_hash import Hashed
from mesh.proxy.balance_kinds import LeastRequest, RoundRobin

_SCATTER = 1_000_003
"""A prime: a key's remainder by it says whether the key stays in the zone, whatever its places on the rings."""


def build(
    policy: Balancing,
    endpoints: Sequence[E],
    fit: Sequence[E],
    random: Callable[[], float],
    *,
    zone: str = "",
    now: float = 0.0,
) -> Balancer[E]:
    """The balancer of those in `fit`, which are among `endpoints`, all of the service. `zone` is the proxy's own, empty
    if unknown; `now` of the clock of `Load.since`. To be built anew whenever one of them changes."""
    if policy.zone and zone:
        near = [endpoint for endpoint in endpoints if endpoint.zone == zone and endpoint.load.weight > 0]
        near_fit = [endpoint for endpoint in fit if endpoint.zone == zone and endpoint.load.weight > 0]
        far_fit = [endpoint for endpoint in fit if endpoint.zone != zone and endpoint.load.weight > 0]
        if near_fit and far_fit:
            far = [endpoint for endpoint in endpoints if endpoint.zone != zone]
            wanted = len(near) * policy.zone_overflow / 100.0
            return Zoned(
                _of_one_zone(policy, near, near_fit, random, now),
                _of_one_zone(policy, far, far_fit, random, now),
                random,
                min(1.0, len(near_fit) / wanted) if wanted > 0.0 else 1.0,
            )
    return _of_one_zone(policy, endpoints, fit, random, now)


def _of_one_zone(
    policy: Balancing, endpoints: Sequence[E], fit: Sequence[E], random: Callable[[], float], now: float
) -> Balancer[E]:
    match policy.kind:
        case BalancingKind.LEAST_REQUEST:
            return LeastRequest(fit, random, policy.slow_start, now)
        case BalancingKind.ROUND_ROBIN:
            return RoundRobin(fit, random, policy.slow_start, now)
        case BalancingKind.HASH:
            return Hashed(endpoints, fit, random)
        case _:
            return Balancer(fit, random, policy.slow_start, now)


class Zoned(Balancer[E]):
    """`near` for `share` (0 to 1) of the requests, `far` for the others; a key always stays on its side.

    A retry leaves the zone only when all of it is excluded."""

    __slots__ = ("_far", "_near", "_share")

    def __init__(self, near: Balancer[E], far: Balancer[E], random: Callable[[], float], share: float) -> None:
        super().__init__([*near.endpoints, *far.endpoints], random)
        self._near = near
        self._far = far
        self._share = share

    def choose(self, excluded: Sequence[E] = (), now: float = 0.0, key: int = -1) -> E | None:
        """One of the zone's or of the others', as their balancer chooses."""
        first, second = self._near, self._far
        share = self._share
        if share < 1.0 and (self._random() if key < 0 else key % _SCATTER / _SCATTER) >= share:
            first, second = second, first
        endpoint = first.choose(excluded, now, key)
        if excluded and endpoint in excluded:
            other = second.choose(excluded, now, key)
            if other not in excluded:
                return other
        return endpoint
