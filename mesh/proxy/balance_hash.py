"""Consistent hashing: a request's key -> always the same endpoint (pure). Hot.

Each endpoint has points on a ring, as many as its weight asks for. A key has PROBES places on it and goes to the owner
of the point that follows one of them most closely ("multi-probe consistent hashing"): shares as even as on a ring with
2 * PROBES - 1 times the points, which makes one for a thousand endpoints cheap to build.

* When an endpoint leaves, its keys move and no others do; when one comes, keys move to it and to no other.
* One that is not fit for use, or `excluded`, is walked past as if it had left, on the ring of all. So it gets its own
  keys back afterwards, and a retry of a key goes where the key would go without the endpoint that failed.
* Points depend on the address alone, so that all proxies agree, whatever order they know the endpoints in.
* Beyond POINTS_MOST points all endpoints give up half of theirs: adding the one that crosses the line moves more keys.

Slow start is not applied: an endpoint whose share grows would move keys all the time.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b, shake_128
from struct import unpack
from typing import Final

from mesh.model.traffic import HashOn
from mesh.proxy.balance import Balancer, E
from mesh.wire.head import Head

PROBES: Final = 4
POINTS: Final = 128
"""Of an endpoint, for each of its weight. With PROBES the shares of equals differ by 3 % (standard deviation)."""
POINTS_MOST: Final = 16_384
"""Of a ring: 16 for each of a thousand endpoints (9 %), built in some 10 ms, once for a set of endpoints."""
RINGS_KEPT = 32
"""Rings remembered, so that an endpoint that is ejected or comes back builds none: more services than hash at once."""
_PLACE: Final = 0xFFF_FFFF_FFFF_FFFF
"""60 bits: places on the ring, so that sums of two are small integers where this is compiled."""
_OWNER: Final = 0xF_FFFF
"""A point's low bits say whose it is, which makes a ring one sorted list."""
_HALF: Final = 0x3FFF_FFFF


def hash_key(head: Head, on: HashOn, source: str) -> int:
    """63 bits of the first of header, cookie and source address that `on` names and the request has, the same in every
    process; -1 if it has none, or only empty ones. `source` is the client's `host:port`; the port does not count."""
    value = b""
    if on.header:
        value = head.get(on.header.lower().encode()) or b""
        if not value and on.header.lower() == "host":
            value = head.authority
    if not value and on.cookie:
        value = cookie(head, on.cookie.encode())
    if not value and on.source:
        host, _, port = source.rpartition(":")
        has_port = port.isdigit() and bool(host) and (":" not in host or host[0] == "[")
        value = (host if has_port else source).encode()
    if not value:
        return -1
    return int.from_bytes(blake2b(value, digest_size=8).digest(), "big") >> 1


def cookie(head: Head, name: bytes) -> bytes:
    """The value of the first cookie `name` (RFC 6265 section 5.4; HTTP/2 may split the field), empty if there is
    none."""
    for field in head.get_all(b"cookie"):
        for pair in field.split(b";"):
            key, equals, value = pair.partition(b"=")
            if equals and key.strip() == name:
                return value.strip()
    return b""


class Hashed(Balancer[E]):
    """The endpoint of a request's key among `fit`; requests without a key are balanced as by `Balancer`.

    `endpoints` are all that the ring is made of, whether they are fit or not."""

    __slots__ = ("_owners", "_points")

    def __init__(self, endpoints: Sequence[E], fit: Sequence[E], random: Callable[[], float]) -> None:
        super().__init__(fit, random)
        owners = {endpoint.address: endpoint for endpoint in endpoints if endpoint.load.weight > 0}
        usable = {endpoint.address: endpoint for endpoint in self.endpoints}
        owners.update(usable)
        addresses = sorted(owners)
        self._owners = [owners[address] for address in addresses]
        points = ring(tuple([(endpoint.address, endpoint.load.weight) for endpoint in self._owners]))
        if len(usable) < len(addresses):
            able = [address in usable for address in addresses]
            points = [point for point in points if able[point & _OWNER]]
        self._points = points

    def choose(self, excluded: Sequence[E] = (), now: float = 0.0, key: int = -1) -> E | None:
        """Whose key it is; with `excluded`, whose it would be without them, if there is anybody left."""
        points = self._points
        size = len(points)
        if key < 0 or not size:
            return super().choose(excluded, now, key)
        place = key & _PLACE
        step = (key & _HALF) << 30 | (key >> 30) & _HALF | 1
        nearest = 2 * _PLACE
        found = 0
        for _ in range(PROBES):
            at = bisect(points, place)
            if at < size:
                point = points[at]
                distance = point - place
            else:
                point = points[0]
                distance = point - place + _PLACE + 1
            if distance < nearest:
                nearest = distance
                found = point
            place = (place + step) & _PLACE
        endpoint = self._owners[found & _OWNER]
        if excluded and endpoint in excluded:
            return self._without(excluded, key) or endpoint
        return endpoint

    def _without(self, excluded: Sequence[E], key: int) -> E | None:
        """The same on the ring without `excluded`; None if nothing is left of it."""
        points, owners = self._points, self._owners
        size = len(points)
        place = key & _PLACE
        step = (key & _HALF) << 30 | (key >> 30) & _HALF | 1
        nearest = 2 * _PLACE
        found: E | None = None
        for _ in range(PROBES):
            start = bisect(points, place)
            for offset in range(size):
                at = start + offset
                point = points[at] if at < size else points[at - size] + _PLACE + 1
                if point - place >= nearest:
                    break
                endpoint = owners[point & _OWNER]
                if endpoint not in excluded:
                    nearest = point - place
                    found = endpoint
                    break
            place = (place + step) & _PLACE
        return found


@lru_cache(maxsize=RINGS_KEPT)
def ring(members: tuple[tuple[str, int], ...]) -> list[int]:
    """The points, in order, of `members`: address and weight (above 0), sorted. A point's last 20 bits are its owner's
    index. Not to be changed: it is shared."""
    share = float(POINTS)
    total = sum([weight for _, weight in members])
    while share * total > POINTS_MOST:
        share /= 2.0
    points: list[int] = []
    for index, (address, weight) in enumerate(members):
        count = max(1, int(share * weight))
        words = unpack(f"<{count}Q", shake_128(address.encode()).digest(8 * count))
        points += [word >> 24 << 20 | index for word in words]
    points.sort()
    return points
