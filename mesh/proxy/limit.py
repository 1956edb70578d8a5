"""How many requests a service is given: by the second, and at a time (pure). Hot where limits are set.

Rules. A request that is refused has cost nothing: where several limits apply to it, tokens are taken of all or of none.
The adaptive gate looks at latency alone; whose fault that is it cannot know, so what it learns is per proxy and never
leaves it.
"""

from __future__ import annotations

from collections import OrderedDict
from math import sqrt

from mesh.model.traffic import Concurrency, LimitBy, RateLimit
from mesh.proxy.budget import TokenBucket
from mesh.proxy.route import Matcher
from mesh.wire.head import Head

MOST_KEYS = 4096
"""Buckets of one limit, about a megabyte. The one unused for longest goes. Its key begins with a full bucket when it
comes back, so beyond this many keys at a time a limit lets more through than it says, never less."""
UNLIMITED = 1_000_000_000
"""Requests in hand that no gate refuses."""

ADAPTIVE_MOST = 1_000
"""Requests in hand that an adaptive gate grows to, unless `most` says otherwise."""
BEGIN = 20.0
"""Requests in hand that an adaptive gate begins with: a small application's worth."""
RAMP = 1.5
"""Times the limit each round at first, until latency grows for the first time, or FIRST_PROBE."""
ROUND = 0.1
"""Seconds of answers that are judged together, and at least SAMPLES of them."""
SAMPLES = 32
TOLERANCE = 1.5
"""Times the unhurried latency: what is still no queue."""
SMOOTHING = 0.3
"""How much of a round's latency and of a new limit counts at once."""
FASTER = 0.8
"""Times the latency before: what shows that there had been a queue."""
PROBE = 10.0
"""Seconds at the limit after which the unhurried latency is measured again."""
FIRST_PROBE = 1.0
"""Seconds after the first answers: they may have met a queue, for the beginning is a guess."""


class RateLimits:
    """All rate limits of a service. `refused` counts requests that any of them refused."""

    __slots__ = ("_found", "_limits", "refused")

    def __init__(self, limits: tuple[RateLimit, ...]) -> None:
        self._limits = [_Limited(limit) for limit in limits]
        self._found: list[TokenBucket] = []
        self.refused = 0

    def admit(self, head: Head, route: str, client: str, now: float) -> float:
        """0.0 if the request may pass, else the seconds, for `retry-after`, until all limits would let it.

        `route` is the route's name, `client` its identity, else its address; either may be empty.
        """
        found = self._found
        found.clear()
        longest = 0.0
        for limited in self._limits:
            if limited.matcher is not None and not limited.matcher.holds(head):
                continue
            bucket = limited.bucket(route, client, now)
            seconds = bucket.wait(now)
            if seconds > longest:
                longest = seconds
            found.append(bucket)
        if longest > 0.0:
            self.refused += 1
            return longest
        for bucket in found:
            bucket.spend()
        return 0.0

    def waits(self, head: Head, route: str, client: str, now: float) -> list[tuple[RateLimit, float]]:
        """The limits that hold for a request, with the seconds until each would let it; no token is taken."""
        return [
            (limited.limit, limited.wait(route, client, now))
            for limited in self._limits
            if limited.matcher is None or limited.matcher.holds(head)
        ]


class _Limited:
    """One limit and its buckets: by route's name, by client, or just one."""

    __slots__ = ("_burst", "_buckets", "_by", "_rate", "_single", "limit", "matcher")

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        matcher = Matcher(limit.match)
        self.matcher = None if matcher.anything else matcher
        self._rate = limit.per_second
        self._burst = float(limit.burst) or limit.per_second
        self._by = limit.by
        self._single: TokenBucket | None = None
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def bucket(self, route: str, client: str, now: float) -> TokenBucket:
        """The one that this request draws on."""
        if self._by is LimitBy.SERVICE:
            if self._single is None:
                self._single = TokenBucket(self._rate, self._burst, now)
            return self._single
        key = route if self._by is LimitBy.ROUTE else client
        buckets = self._buckets
        bucket = buckets.get(key)
        if bucket is None:
            if len(buckets) >= MOST_KEYS:
                buckets.popitem(last=False)
            bucket = buckets[key] = TokenBucket(self._rate, self._burst, now)
        else:
            buckets.move_to_end(key)
        return bucket

    def wait(self, route: str, client: str, now: float) -> float:
        """Seconds until there is a token for it. A bucket that nobody has drawn on is full, and not made for that."""
        if self._by is LimitBy.SERVICE:
            bucket = self._single
        else:
            bucket = self._buckets.get(route if self._by is LimitBy.ROUTE else client)
        return bucket.wait(now) if bucket is not None else 0.0


class Gate:
    """Requests in hand at a time: `limit` at most, fixed or adaptive. `refused` counts those it kept out.

    The adaptive limit goes by the gradient between the unhurried latency (`_base`) and the present one: a round of
    answers that took TOLERANCE times the former multiplies it down, and each round adds its square root, the queue that
    is allowed. `_base` falls with the latency. It may rise only where the gate cannot be what keeps requests waiting:
    while less than half of the limit is used, at the least limit, and, after PROBE seconds at the limit, in a probe:
    the limit is halved for a round, and again while that makes answers faster.
    """

    __slots__ = (
        "_base",
        "_before_probe",
        "_compared",
        "_count",
        "_exact",
        "_failed",
        "_least",
        "_most",
        "_peak",
        "_probe_at",
        "_ramping",
        "_recent",
        "_round_at",
        "_since",
        "_sum",
        "adaptive",
        "in_hand",
        "limit",
        "refused",
    )

    def __init__(self, policy: Concurrency) -> None:
        self.in_hand = 0
        self.refused = 0
        self._exact = BEGIN
        self._ramping = True
        self._base = self._recent = 0.0
        self._before_probe = 0.0  # the limit that is come back to; 0: this is no probe
        self._compared = 0.0
        self._probe_at = 0.0
        self._round_at = 0.0
        self._since = 0.0
        self._sum = 0.0
        self._count = self._failed = self._peak = 0
        self.follow(policy)

    def follow(self, policy: Concurrency) -> None:
        """Go by a new policy from here on: what is in hand stays so, and what was learnt if it is still adaptive."""
        self.adaptive = policy.adaptive
        most = policy.most or (ADAPTIVE_MOST if policy.adaptive else UNLIMITED)
        self._most = float(most)
        self._least = float(max(1, min(policy.least, most)))
        exact = self._exact = max(self._least, min(self._exact, self._most))
        self.limit = int(exact) if policy.adaptive else most

    def __repr__(self) -> str:
        return f"<Gate {self.in_hand} of {self.limit}, {self._base * 1000:.2f} ms unhurried>"

    def enter(self, now: float) -> bool:
        """Whether the request may pass; each that does must `leave` once. Hot."""
        in_hand = self.in_hand
        if in_hand >= self.limit:
            self._peak = in_hand
            self.refused += 1
            return False
        self.in_hand = in_hand + 1
        if in_hand >= self._peak:
            self._peak = in_hand + 1
        return True

    def leave(self, latency: float, now: float, ok: bool) -> None:
        """It ended after `latency` seconds; not `ok` means that the service failed or was too slow. A negative latency
        teaches nothing (the client went away). Hot."""
        self.in_hand -= 1
        if not self.adaptive or latency < 0.0:
            return
        if not ok:
            self._failed += 1
        elif now - latency >= self._since:
            self._sum += latency
            self._count += 1
        if now >= self._round_at and self._count + self._failed >= SAMPLES:
            self._judge(now)

    def _judge(self, now: float) -> None:
        """A round of answers is complete: what limit follows from it."""
        count, failed = self._count, self._failed
        if count:
            latency = self._sum / count
            if self._before_probe:
                self._probe(latency, now)
            else:
                self._adapt(latency, now)
        if failed:
            self._exact *= max(0.5, 1.0 - failed / (count + failed))
        self._exact = max(self._least, min(self._exact, self._most))
        self.limit = int(self._exact)
        self._round_at = now + max(ROUND, self._recent)
        self._sum = 0.0
        self._count = self._failed = 0
        self._peak = self.in_hand

    def _adapt(self, latency: float, now: float) -> None:
        if not self._base:
            self._base = self._recent = latency
            self._probe_at = now + FIRST_PROBE
        limit = self._exact
        self._recent = recent = self._recent + SMOOTHING * (latency - self._recent)
        used = self._peak * 2 >= self.limit
        if not used or limit <= self._least:
            self._base += SMOOTHING * (recent - self._base)
            self._probe_at = now + PROBE
        elif recent < self._base:
            self._base += 0.1 * (recent - self._base)
        gradient = max(0.5, min(1.0, TOLERANCE * self._base / recent)) if recent else 1.0
        target = limit * gradient + sqrt(limit)
        if self._ramping and recent > TOLERANCE * self._base:
            self._ramping = False
        if self._ramping and used:
            self._exact = limit * RAMP
        elif target < limit or used:
            self._exact = limit + SMOOTHING * (target - limit)
        if now >= self._probe_at and limit > self._least:
            self._ramping = False
            self._before_probe = limit
            self._halve(recent, now)

    def _halve(self, latency: float, now: float) -> None:
        self._compared = latency
        self._exact /= 2.0
        self._since = now  # answers to requests from before then waited in the longer queue

    def _probe(self, latency: float, now: float) -> None:
        """The limit was halved for this round. Were answers faster, it had been a queue, and half may be one still."""
        if latency < FASTER * self._compared and self._exact > self._least:
            self._halve(latency, now)
            return
        self._base = latency
        self._exact = self._before_probe
        self._before_probe = self._since = 0.0
        self._probe_at = now + PROBE
