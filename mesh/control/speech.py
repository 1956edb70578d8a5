"""What proxies say: decoded, checked, metered. Pure.

A message that passes `decode` can be acted upon: its labels are of the known words, its numbers are counts, its sizes
have bounds. Whether this proxy may say it is push.py's question.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import msgspec

from mesh.control.plan import MAX_NAME
from mesh.model.errors import ConduitError
from mesh.model.push import MAX_MESSAGE, Explained, FromControl, FromProxy, Hello, Report, Sign, Tapped
from mesh.model.reports import LATENCY_BOUNDS_MS, Seen, SeriesDelta, TcpDelta

MAX_SUBSCRIPTIONS = 4_096
"""Destinations of one proxy."""
MAX_LISTENERS = 64
MAX_WORD = 1_024
"""Characters of a proxy's id, an address, or a name as an application wrote it."""
MAX_COUNT = 10**9
"""Of anything in one report: no proxy does a billion things between two of them."""
MAX_LABEL = 64
"""Characters of a protocol, or of what TLS is: they become part of a series in memory."""
MAX_PATH = 2_048
"""Characters of a path that was seen; proxies keep half of that."""
MAX_METHOD = 64
MAX_POLICY = 256
"""Characters of what names a policy."""
MAX_IDENTITY = 253
"""Characters of an identity (RFC 1035 section 2.3.4)."""
MAX_CSR = 16 * 1024
MAX_STEPS = 1_000
"""Of one explanation."""

DIRECTIONS = ("inbound", "outbound")

_decoder = msgspec.json.Decoder(FromProxy)
_encoder = msgspec.json.Encoder()


class Malformed(ConduitError):
    """The message is not one that a proxy of ours sends; `str()` says why, for its log and for ours."""


def decode(message: str | bytes) -> FromProxy:
    """The message; raises Malformed."""
    if len(message) > MAX_MESSAGE:
        raise Malformed(f"a message of {len(message)} bytes")
    try:
        decoded: FromProxy = _decoder.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Malformed(f"not a message: {exc}") from exc
    match decoded:
        case Hello():
            check_hello(decoded)
        case Report():
            check_report(decoded)
        case Tapped():
            if not 0 <= decoded.dropped <= MAX_COUNT:
                raise Malformed("dropped is not a count")
        case Sign(csr=csr):
            if len(csr) > MAX_CSR:
                raise Malformed(f"a request for a certificate of {len(csr)} characters")
        case Explained(steps=steps):
            if len(steps) > MAX_STEPS:
                raise Malformed(f"an explanation of {len(steps)} steps")
        case _:
            pass
    return decoded


def encode(message: FromControl) -> bytes:
    """The message as JSON text."""
    return _encoder.encode(message)


def check_hello(hello: Hello) -> None:
    """Raises Malformed where a name is missing, or anything is too long or too many."""
    for what, word, most in (
        ("workload", hello.workload, MAX_NAME),
        ("namespace", hello.namespace, MAX_NAME),
        ("proxy", hello.proxy, MAX_WORD),
    ):
        if not word or len(word) > most:
            raise Malformed(f"{what} of {len(word)} characters")
    words = (hello.version, hello.admin, *hello.inbound, *hello.outbound)
    if len(words) > 2 + 2 * MAX_LISTENERS or any(len(word) > MAX_WORD for word in words):
        raise Malformed("too many listeners, or too long an address")
    if len(hello.services) > MAX_SUBSCRIPTIONS:
        raise Malformed(f"more than {MAX_SUBSCRIPTIONS} subscriptions")


def check_report(report: Report) -> None:
    """Raises Malformed where a label is of no known kind or a number is no count."""
    if not (isfinite(report.seconds) and report.seconds >= 0):
        raise Malformed("seconds is no span of time")
    for delta in report.series:
        check_series(delta)
    for tcp in report.tcp:
        check_tcp(tcp)
    for seen in report.seen:
        check_seen(seen)


def check_series(delta: SeriesDelta) -> None:
    """Raises Malformed."""
    key = delta.key
    if key.direction not in DIRECTIONS or len(key.protocol) > MAX_LABEL or len(key.tls) > MAX_LABEL:
        raise Malformed("a series with an unknown direction or an overlong label")
    if len(key.identity) > MAX_IDENTITY:
        raise Malformed("a series with an overlong identity")
    if not (isfinite(delta.duration_ms) and delta.duration_ms >= 0):
        raise Malformed("duration_ms is no span of time")
    check_counts((delta.requests, *delta.buckets.values()))
    if any(not 0 <= index <= len(LATENCY_BOUNDS_MS) for index in delta.buckets):
        raise Malformed("no such bucket")


def check_tcp(delta: TcpDelta) -> None:
    """Raises Malformed."""
    if delta.direction not in DIRECTIONS:
        raise Malformed("an unknown direction")
    check_counts((delta.opened, delta.closed, delta.open))


def check_seen(seen: Seen) -> None:
    """Raises Malformed."""
    for word, most in (
        (seen.service, MAX_WORD),
        (seen.identity, MAX_IDENTITY),
        (seen.source, MAX_LABEL),
        (seen.protocol, MAX_LABEL),
        (seen.method, MAX_METHOD),
        (seen.path, MAX_PATH),
        (seen.example, MAX_PATH),
        (seen.by, MAX_POLICY),
        (seen.audited, MAX_POLICY),
    ):
        if len(word) > most:
            raise Malformed(f"a word of {len(word)} characters about what was seen")
    check_counts((seen.count,))


def check_counts(counts: Sequence[int]) -> None:
    """Raises Malformed where one is negative or absurd."""
    if any(not 0 <= count <= MAX_COUNT for count in counts):
        raise Malformed("not a count")


class Meter:
    """How fast one proxy may speak: a token bucket, in which a message costs one token and one more per 16 KiB.

    At the default rate that is 8 MiB/s, four times what a proxy with all of its series busy needs.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, now: float, *, rate: float = 500.0, burst: float = 2_000.0) -> None:
        self._rate, self._burst = rate, burst
        self._tokens = burst
        self._at = now

    def delay(self, now: float, size: int) -> float:
        """Seconds to wait before the next message is read, now that one of `size` bytes was."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1 - size // 16384
        self._at = now
        return max(-self._tokens / self._rate, 0.0)
