"""How long a service's answers took lately, and quantiles of it (pure). Hot: one observation per answer.

Two histograms take turns: one is filled for PERIOD seconds while the one before it is still counted, so a quantile is
of the last PERIOD to 2 * PERIOD seconds. Buckets grow by a tenth each and a quantile is the middle of its bucket:
within 5 % of the latency that it stands for, from LEAST to MOST seconds.
"""

from __future__ import annotations

from math import ceil, log, sqrt

PERIOD = 15.0
"""Seconds."""
LEAST = 0.00001
"""Seconds; what is shorter counts as this."""
MOST = 300.0
"""Seconds; what is longer counts as this."""
GROWTH = 1.1
SAMPLES = 20
"""Answers without which nothing is said: a 95 % quantile of fewer is their longest."""
FRESH = 0.1
"""Seconds for which a quantile is told again without counting."""
_SCALE = 1.0 / log(GROWTH)
_BUCKETS = int(log(MOST / LEAST) * _SCALE) + 1


class Latencies:
    """See the module. Times are seconds of the caller's clock."""

    __slots__ = ("_count", "_counted_at", "_new", "_new_count", "_of", "_old", "_quantile", "_turn")

    def __init__(self) -> None:
        self._new = [0] * _BUCKETS
        self._old = [0] * _BUCKETS
        self._new_count = 0
        self._count = 0
        self._turn = 0.0
        self._of = -1.0  # which quantile was told last
        self._counted_at = 0.0
        self._quantile = 0.0

    def __repr__(self) -> str:
        return f"<Latencies of {self._count} answers>"

    def observe(self, seconds: float, now: float) -> None:
        """An answer took `seconds`. Hot."""
        if now >= self._turn:
            self._rotate(now)
        if seconds <= LEAST:
            index = 0
        elif seconds >= MOST:
            index = _BUCKETS - 1
        else:
            index = int(log(seconds / LEAST) * _SCALE)
        self._new[index] += 1
        self._new_count += 1
        self._count += 1

    def quantile(self, q: float, now: float) -> float | None:
        """The seconds that a share `q` (0 to 1) of answers took at most, up to FRESH seconds old; None until SAMPLES
        were seen. Hot: asked for each request that may be hedged."""
        if now >= self._turn:
            self._rotate(now)
        if self._count < SAMPLES:
            return None
        if q == self._of and now - self._counted_at < FRESH:
            return self._quantile
        left = min(self._count, max(1, ceil(q * self._count)))
        old, new = self._old, self._new
        index = -1
        while left > 0:
            index += 1
            left -= old[index] + new[index]
        self._of = q
        self._counted_at = now
        self._quantile = LEAST * GROWTH**index * sqrt(GROWTH)
        return self._quantile

    def _rotate(self, now: float) -> None:
        fresh = now - self._turn < PERIOD
        self._old = self._new if fresh else [0] * _BUCKETS
        self._count = self._new_count if fresh else 0
        self._new = [0] * _BUCKETS
        self._new_count = 0
        self._turn = now + PERIOD
        self._of = -1.0
