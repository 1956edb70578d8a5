"""The paths of requests as policies see them: which have more than one reading, and what is compared. Pure, and hot
where a policy depends on paths."""

from __future__ import annotations

import re

_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
_PLAIN = re.compile(rb"(?:/[A-Za-z0-9_~!$&'()*+,;=:@-][A-Za-z0-9_~!$&'()*+,;=:@.-]*)+/?")
"""Most paths: each segment begins with something else than a dot, nothing is escaped."""
_CANNOT_BE = re.compile(rb"[^!-~]")
_DOTS = re.compile(rb"/\.\.?(?:[/;]|$)")
"""There are applications to which what follows a semicolon is no part of a segment."""
_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_AS_IS = b"!$&'()*+,;=:@"
"""What else a segment may hold unescaped (RFC 3986 section 3.3)."""
_CUTS = {0x2F: "a slash", 0x5C: "a backslash", 0x00: "NUL"}


def ambiguous(path: bytes) -> str:
    """Why a request's path could be read in more ways than one (`holds //`); empty for a path in normal form.

    The query is passed over. `*` (OPTIONS) and the empty path (CONNECT) are normal."""
    end = path.find(b"?")
    if end >= 0:
        path = path[:end]
    if _PLAIN.fullmatch(path) or path in (b"/", b"*", b""):
        return ""
    if not path.startswith(b"/"):
        return "does not begin with /"
    if b"//" in path:
        return "holds //"
    if b"\\" in path:
        return "holds a backslash"
    if _DOTS.search(path):
        return "holds a segment of dots"
    if _CANNOT_BE.search(path):
        return "holds a blank, a control character or one that is not ASCII"
    at = path.find(b"%")
    while at >= 0:
        escape = path[at : at + 3]
        if not _ESCAPE.fullmatch(escape):
            return "holds a % that escapes nothing"
        octet = int(escape[1:], 16)
        if octet in _CUTS:
            return f"escapes {_CUTS[octet]}"
        if octet in _UNRESERVED:
            return f"escapes {chr(octet)!r}, which needs none"
        if octet < 0x20 or octet == 0x7F:
            return "escapes a control character"
        at = path.find(b"%", at + 3)
    return ""


def comparable(path: bytes) -> bytes:
    """A path without its query, as it is compared: escapes in capitals, and none where a path may hold the character
    itself (`%40` is `@`)."""
    end = path.find(b"?")
    if end >= 0:
        path = path[:end]
    return _ESCAPE.sub(_unescaped, path) if b"%" in path else path


def _unescaped(found: re.Match[bytes]) -> bytes:
    escape = found.group().upper()
    octet = int(escape[1:], 16)
    return bytes((octet,)) if octet in _AS_IS else escape
