"""What a tap shows of a path: all of it but values, which may be somebody's key. Pure."""

from __future__ import annotations

import re

MASK = "*"
_PART = re.compile(r"([&;])")
_PARAMETER = re.compile(r";([^/;=]*)=[^/;]*")


def redacted(path: str) -> str:
    """The path with the values in its query, and of parameters in its segments (`;name=value`), as `*`.

    Names stay. A part of the query without a name is masked whole: it may be all key.
    """
    place, mark, query = path.partition("?")
    if ";" in place:
        place = _PARAMETER.sub(rf";\1={MASK}", place)
    if not query:
        return place + mark
    parts = _PART.split(query)
    return f"{place}?{''.join(part if part in ('&', ';', '') else masked(part) for part in parts)}"


def masked(part: str) -> str:
    """One `name=value`."""
    name, equals, _ = part.partition("=")
    return f"{name}={MASK}" if equals else MASK
