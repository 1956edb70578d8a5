"""When a request is tried again, and the header fields that say how long it may take (pure). Hot: asked per answer.

Rules. The readers of fields are total: bytes from a peer make a bounded number or None, never an exception. What is
written never promises a peer more time than there is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC

from mesh.model import traffic
from mesh.model.traffic import Retry

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})
"""RFC 9110 section 9.2.2."""
MOST_AFTER = 86_400.0
"""Seconds: what a peer asks to be left alone for beyond a day is a day."""
MOST_DOUBLINGS = 30
GRPC_UNITS = ((b"n", 1_000_000_000), (b"u", 1_000_000), (b"m", 1_000), (b"S", 1))
"""How many of each make a second, the finest first; minutes and hours are beyond them."""
_UNIT_SECONDS = {b"n": 1e-9, b"u": 1e-6, b"m": 1e-3, b"S": 1.0, b"M": 60.0, b"H": 3600.0}
_GRPC_MOST = 99_999_999
"""TimeoutValue has at most eight digits (gRPC over HTTP/2)."""
_DATE = re.compile(
    rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
    rb"|[A-Z][a-z]{5,8}, \d\d-[A-Z][a-z]{2}-\d\d \d\d:\d\d:\d\d GMT"
    rb"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}"
)
"""RFC 9110 section 5.6.7: the date of today, that of RFC 850 and that of asctime()."""
_SIGNED = re.compile(rb"-?\d{1,10}")


class Retrying:
    """A retry policy, ready to be asked. `grpc` below: whether the request is a gRPC call."""

    __slots__ = ("_codes", "_methods", "_statuses", "attempts", "hedge", "policy", "reset", "timeout")

    def __init__(self, policy: Retry) -> None:
        self.policy = policy
        self.attempts = policy.attempts
        self.reset = policy.reset
        self.timeout = policy.timeout
        self.hedge: traffic.Hedge | None = policy.hedge
        self._statuses = frozenset(policy.statuses)
        self._codes = frozenset(policy.grpc)
        methods = frozenset(method.upper().encode() for method in policy.methods)
        self._methods = None if b"*" in methods else methods or IDEMPOTENT  # None: all

    def __repr__(self) -> str:
        return f"<Retrying {self.attempts} times>"

    def repeats(self, method: bytes, grpc: bool) -> bool:
        """Whether such a request may be sent twice, as far as policy goes. For a gRPC call it is leave enough that
        codes are listed."""
        if grpc and self._codes:
            return True
        return self._methods is None or method in self._methods

    def wants_status(self, status: int) -> bool:
        """Whether an answer with this HTTP status is worth another try."""
        return status in self._statuses

    def wants_grpc(self, code: int) -> bool:
        """Whether this gRPC status is worth another try."""
        return code in self._codes

    def pause(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds before further try number `attempt` (the first is 1): `backoff`, doubled for each before it, up to
        `backoff_most`, of which `random` (a float in [0, 1)) takes up to half."""
        policy = self.policy
        doublings = min(max(attempt - 1, 0), MOST_DOUBLINGS)
        whole = min(policy.backoff * float(1 << doublings), policy.backoff_most)
        return whole * (0.5 + 0.5 * random())


def retry_after(value: bytes | None, now_wall: float) -> float | None:
    """`retry-after` (RFC 9110 section 10.2.3) -> seconds from `now_wall` (since the epoch), 0 to MOST_AFTER. None where
    it is absent or says nothing."""
    if value is None:
        return None
    if value.isdigit():
        return float(min(int(value), 86_400)) if len(value) <= 10 else MOST_AFTER
    if _DATE.fullmatch(value) is None:
        return None
    from email.utils import parsedate_to_datetime  # a package of a megabyte, for what hardly anybody sends

    try:
        when = parsedate_to_datetime(value.decode("ascii"))
        seconds = when.replace(tzinfo=UTC).timestamp() - now_wall
    except (ValueError, OverflowError):
        return None  # 31 February
    return min(max(seconds, 0.0), MOST_AFTER)


def pushback(value: bytes | None) -> float | None:
    """`grpc-retry-pushback-ms` (gRPC retry design, A6) -> seconds until the next try; negative: none is to be made,
    which is also what an unreadable value means there. None where it is absent."""
    if value is None:
        return None
    if _SIGNED.fullmatch(value) is None or value[0] == 0x2D:
        return -1.0
    return min(int(value) / 1000.0, MOST_AFTER)


def grpc_timeout(value: bytes | None) -> float | None:
    """`grpc-timeout` (gRPC over HTTP/2: one to eight digits and a unit) -> seconds; None where it is absent or not
    one."""
    if value is None or not 2 <= len(value) <= 9:
        return None
    digits = value[:-1]
    unit = _UNIT_SECONDS.get(value[-1:])
    if unit is None or not digits.isdigit():
        return None
    return int(digits) * unit


def format_grpc_timeout(seconds: float) -> bytes:
    """`grpc-timeout` for what is left: in the finest unit that eight digits hold, rounded down. One nanosecond where
    nothing is left, for the value must be positive."""
    if not seconds > 0.0:
        return b"1n"
    for unit, per_second in GRPC_UNITS:
        if seconds * per_second < _GRPC_MOST:
            amount = int(seconds * per_second)
            if amount * _UNIT_SECONDS[unit] > seconds:
                amount -= 1  # the product was rounded up
            return b"%d%b" % (amount or 1, unit)
    return b"%dH" % min(int(min(seconds, 1e12) / 3600.0), _GRPC_MOST)


def timeout_ms(value: bytes | None) -> float | None:
    """`conduit-timeout-ms` (one to nine digits) -> seconds; None where it is absent or not one."""
    if value is None or len(value) > 9 or not value.isdigit():
        return None
    return int(value) / 1000.0


def format_timeout_ms(seconds: float) -> bytes:
    """`conduit-timeout-ms` for what is left, rounded down, from 0 to eleven days."""
    if not seconds > 0.0:
        return b"0"
    return b"%d" % int(min(seconds * 1000.0, 999_999_999.0))
