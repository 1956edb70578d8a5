"""What makes a request or response well-formed beyond framing: rules of both HTTP/2 codecs (RFC 9113 section 8.3).

The rules are cheap checks at C speed on the hot path; their exact forms run only for an authority not seen before.
"""

from __future__ import annotations

import re

from mesh.wire.head import Field, Head

STATUSES = {b"%d" % status: status for status in range(100, 1000)}
"""Every status there is; whatever else `:status` says is malformed."""

PATH_BYTES = bytes(byte for byte in range(0x21, 0x7F) if byte != ord("#"))
"""What a request target may consist of: visible ASCII, no fragment. Policy and routing judge its meaning."""

_AUTHORITY = re.compile(
    rb"(?:\[[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,40}\]|[A-Za-z0-9._~!$&'()*+,;=%-]{1,255})(?::[0-9]{1,5})?"
)
_KNOWN_BOUND = 4096
_known: set[bytes] = {b"localhost"}


def authority_is_sound(authority: bytes) -> bool:
    """Whether `authority` is a host with an optional port: no userinfo, no path (RFC 3986 section 3.2)."""
    if authority in _known:
        return True
    if _AUTHORITY.fullmatch(authority) is None:
        return False
    if len(_known) >= _KNOWN_BOUND:  # a peer that makes up names costs us their check, never memory
        _known.clear()
    _known.add(authority)
    return True


def request_head(block: tuple[Field, ...]) -> Head | None:
    """The head of a request whose `block` has been decoded, or None where it is malformed. Hot.

    The codec has seen to it that names are lower-case tokens, values hold no control bytes, pseudo fields come first,
    once each, and that none is missing. Here: the target's bytes, the scheme, the authority and that `host` agrees.
    """
    index = dict(block)
    method = index[b":method"]
    authority = index.get(b":authority", b"")
    if b"host" in index:
        hosts = [value for name, value in block if name == b"host"]
        if len(hosts) > 1 or (authority and authority.lower() != hosts[0].lower()):
            return None
        kept = [field for field in block if field[0] != b"host"]
        if not authority:
            authority = hosts[0]
            kept.insert(sum(name.startswith(b":") for name, _ in kept), (b":authority", authority))
        block = tuple(kept)
        index = dict(block)
    if authority not in _known and not authority_is_sound(authority):
        return None
    if method == b"CONNECT":
        if b":path" in index or b":scheme" in index or not authority.rpartition(b":")[2].isdigit():
            return None
        return Head(block, method, b"", authority, b"", 0, b"", index)
    scheme = index[b":scheme"]
    path = index[b":path"]
    if (scheme != b"http" and scheme != b"https") or path.translate(None, PATH_BYTES):
        return None
    if path[:1] != b"/" and (path != b"*" or method != b"OPTIONS"):
        return None
    return Head(block, method, scheme, authority, path, 0, b"", index)


# --- the rules that libnghttp2 applies by itself ----------------------------------------

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_RESPONSE_PSEUDO = frozenset((b":status",))
_NO_PSEUDO: frozenset[bytes] = frozenset()


def strict_request_head(block: tuple[Field, ...]) -> Head | None:
    """`request_head` for a codec that has checked nothing yet."""
    if not _fields_are_sound(block, _REQUEST_PSEUDO):
        return None
    names = {name for name, _ in block}
    if b":method" not in names or _METHOD.fullmatch(dict(block)[b":method"]) is None:
        return None
    if (b":method", b"CONNECT") not in block and not {b":scheme", b":path"} <= names:
        return None
    return request_head(block)


def strict_response_head(block: tuple[Field, ...]) -> Head | None:
    """The head of a response, interim ones included, or None where it is malformed; 101 is, in HTTP/2."""
    if not _fields_are_sound(block, _RESPONSE_PSEUDO) or block[0][0] != b":status":
        return None
    status = STATUSES.get(block[0][1], 0)
    if status in (0, 101) or (status < 200 and content_length(block) is not None):
        return None
    return Head(block, status=status)


def trailers_are_sound(fields: tuple[Field, ...]) -> bool:
    """Whether `fields` may end a message."""
    return _fields_are_sound(fields, _NO_PSEUDO)


def content_length(block: tuple[Field, ...]) -> int | None:
    """The body's announced length in bytes, of a sound block."""
    for name, value in block:
        if name == b"content-length":
            return int(value)
    return None


def _fields_are_sound(block: tuple[Field, ...], pseudo: frozenset[bytes]) -> bool:
    seen: set[bytes] = set()
    regular = False
    for name, value in block:
        if _VALUE.fullmatch(value) is None:
            return False
        if name[:1] == b":":
            if regular or name not in pseudo or name in seen:
                return False
            seen.add(name)
            continue
        regular = True
        if _TOKEN.fullmatch(name) is None or name in _HOP_BY_HOP:
            return False
        if name == b"te" and value.lower() != b"trailers":
            return False
        if name == b"content-length":
            if name in seen or _LENGTH.fullmatch(value) is None:
                return False
            seen.add(name)
    return bool(block) or pseudo is _NO_PSEUDO
