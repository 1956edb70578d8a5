"""Lengths and points of time as people write them: `300ms`, `1.5s`, `1m30s`; `2026-11-23T22:00:00Z`.

A length is what GEP-2257 allows and more: any unit of h, m, s, ms and us, in any order, each with a fraction if one
likes.
"""

from __future__ import annotations

import datetime
import math
import re

MAX_SECONDS = 1_000_000_000.0
"""About 31 years: longer than GEP-2257 can say, and short enough to count in milliseconds."""
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_PIECE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)(h|ms|m|us|s)", re.ASCII)
_WHOLE = re.compile(rf"(?:{_PIECE.pattern}){{1,8}}", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds, 0 to MAX_SECONDS. Raises ValueError, with a sentence."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r:.80} is no duration: a number of seconds, or such as 300ms, 1.5s, 1m30s")
    return seconds(math.fsum(float(count) * _UNITS[unit] for count, unit in _PIECE.findall(text)))


def seconds(number: float) -> float:
    """The number, if it can be a length of time. Raises ValueError, with a sentence."""
    if not 0 <= number < math.inf:
        raise ValueError("must be seconds, 0 or more")
    if number > MAX_SECONDS:
        raise ValueError(f"{number:g} s is over {MAX_SECONDS:.0f} s")
    return number


def duration_text(number: float) -> str:
    """A length of time as short text, to the microsecond: `1h30m`, `1.5s`, `300ms`; `parse_duration` reads it."""
    left = round(number * 1_000_000)
    parts = []
    for unit, size in (("h", 3_600_000_000), ("m", 60_000_000)):
        count, left = divmod(left, size)
        parts += [f"{count}{unit}"] if count else []
    if left >= 1_000_000:
        parts.append(f"{left / 1_000_000:.6f}".rstrip("0").rstrip(".") + "s")
    elif left:
        parts.append(f"{left // 1000}ms" if left % 1000 == 0 else f"{left}us")
    return "".join(parts) or "0s"


def parse_moment(value: str | datetime.date) -> datetime.datetime:
    """A point of time with its offset, of RFC 3339 text or of what YAML made of it. Raises ValueError, with a sentence.

    Without an offset it is UTC, without a time midnight."""
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r:.80} is no point of time such as 2026-11-23T22:00:00Z") from None
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    return value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
