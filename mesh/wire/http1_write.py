"""Writes the heads of HTTP/1.1 messages (RFC 9112 sections 2 to 7): `Head` to bytes. Hot: bench's HTTP/1 scenarios.

A message is framed anew from its block's `content-length` and from nothing else that the block says, and nothing is
written that could end a line early: a head that came by HTTP/2 can hold what HTTP/1.1 cannot say (`UnsendableHead`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus

from mesh.wire.head import Field, Head, UnsendableHead
from mesh.wire.http1_head import (
    BODILESS,
    CHUNKED,
    CLEAN,
    FORBIDDEN_TRAILERS,
    FOREIGN_METHODS,
    IMITATIONS,
    KNOWN_NAMES,
    LEARNED_LENGTH,
    LEARNED_NAMES,
    MAX_DIGITS,
    METHODS,
    OWS,
    SPECIAL,
    TUNNEL,
    UNTIL_CLOSE,
    Malformed,
    is_authority,
    is_target_authority,
    is_token,
    is_upgrade,
    is_visible,
)

_is_lower_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_PREFIXES: dict[bytes, bytes] = {name: b"\r\n%b: " % name for name in KNOWN_NAMES}
_PREFIXES |= dict.fromkeys((b":method", b":scheme", b":path", b":authority", b":status"), b"")
_LEARNED_LIMIT = len(_PREFIXES) + LEARNED_NAMES
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_STATUS_LINES = {
    status: b"HTTP/1.1 %d %b" % (status, phrase)
    for status, phrase in _REASONS.items()
    if status == 101 or status >= 200
}


def write_request(head: Head, end: bool) -> tuple[bytes, int]:
    """A request's head as bytes, and the framing of its body: a length in bytes, `CHUNKED`, or `TUNNEL` for CONNECT.

    Raises `UnsendableHead`.
    """
    method = head.method
    authority = head.authority
    target = head.path
    if method not in METHODS and (is_token(method) is None or method in FOREIGN_METHODS):
        raise UnsendableHead("method")
    if authority and is_authority(authority) is None:
        raise UnsendableHead("authority")
    if method == b"CONNECT":
        target = authority
        if is_target_authority(target) is None:
            raise UnsendableHead("authority")
    elif is_visible(target) is None or (target[0] != 0x2F and not (target == b"*" and method == b"OPTIONS")):
        raise UnsendableHead("path")
    parts = [b"%b %b HTTP/1.1\r\nhost: %b" % (method, target, authority)]
    length, trailers = _write_fields(head.block, parts)
    if method == b"CONNECT":
        length = TUNNEL
    elif length is None:
        if end:
            length = 0
            if method in (b"POST", b"PUT", b"PATCH"):
                parts.append(b"\r\ncontent-length: 0")
        else:
            length = CHUNKED
            parts.append(b"\r\ntransfer-encoding: chunked")
    else:
        if end and length:
            raise UnsendableHead("content_length")
        parts.append(b"\r\ncontent-length: %d" % length)
    if head.upgrade:
        _check_upgrade(head.upgrade)
        parts.append(b"\r\nconnection: upgrade%b\r\nupgrade: %b" % (b", te" if trailers else b"", head.upgrade))
    elif trailers:
        parts.append(b"\r\nconnection: te")
    parts.append(b"\r\n\r\n")
    return b"".join(parts), length


def write_response(head: Head, end: bool, method: bytes, modern: bool, close: bool) -> tuple[bytes, int, bool]:
    """A response's head as bytes, the framing of its body (length, `CHUNKED`, `UNTIL_CLOSE`, `TUNNEL`, or `BODILESS` to
    HEAD, with 204 and 304), and whether the connection ends with it.

    `method` is the request's, `modern` whether that was HTTP/1.1. Raises `UnsendableHead`.
    """
    status = head.status
    line = _STATUS_LINES.get(status)
    if line is None:
        if not 200 <= status <= 999:
            raise UnsendableHead("status")
        line = b"HTTP/1.1 %d " % status
    parts = [line]
    length, _ = _write_fields(head.block, parts)
    if status == 101 or (method == b"CONNECT" and status < 300):
        if status == 101:
            _check_upgrade(head.upgrade)
            parts.append(b"\r\nconnection: upgrade\r\nupgrade: %b" % head.upgrade)
        parts.append(b"\r\n\r\n")
        return b"".join(parts), TUNNEL, False
    if method == b"HEAD" or status == 304:
        if length is not None:
            parts.append(b"\r\ncontent-length: %d" % length)
        length = BODILESS
    elif status == 204:
        length = BODILESS
    elif length is not None:
        if end and length:
            raise UnsendableHead("content_length")
        parts.append(b"\r\ncontent-length: %d" % length)
    elif end:
        parts.append(b"\r\ncontent-length: 0")
        length = 0
    elif modern:
        parts.append(b"\r\ntransfer-encoding: chunked")
        length = CHUNKED
    else:
        length = UNTIL_CLOSE
        close = True
    if close:
        parts.append(b"\r\nconnection: close\r\n\r\n")
    elif modern:
        parts.append(b"\r\n\r\n")
    else:
        parts.append(b"\r\nconnection: keep-alive\r\n\r\n")
    return b"".join(parts), length, close


def write_informational(head: Head) -> bytes:
    """A 1xx response (not 101) as bytes. Raises `UnsendableHead`."""
    status = head.status
    if not 100 <= status <= 199 or status == 101:
        raise UnsendableHead("status")
    parts = [b"HTTP/1.1 %d %b" % (status, _REASONS.get(status, b""))]
    _write_fields(head.block, parts)
    parts.append(b"\r\n\r\n")
    return b"".join(parts)


def write_refusal(bad: Malformed) -> bytes:
    """The answer to a request that is not read any further: why, for programs and for people.

    `detail` is ours, never the peer's: nothing that was refused is said back."""
    body = f"request refused: {bad.detail}\n".encode("ascii", "replace")
    fields = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconduit-error: %b\r\nconnection: close"
    head = fields % (len(body), bad.reason.encode("ascii", "replace"))
    return b"%b\r\n%b\r\n\r\n%b" % (_STATUS_LINES[bad.status], head, body)


def write_trailers(fields: Sequence[Field]) -> bytes:
    """The last chunk and trailer fields, without those that may not stand there. Raises `UnsendableHead`."""
    parts = [b"0"]
    _write_fields([field for field in fields if field[0] not in FORBIDDEN_TRAILERS], parts)
    parts.append(b"\r\n\r\n")
    return b"".join(parts)


def _write_fields(block: Sequence[Field], parts: list[bytes]) -> tuple[int | None, bool]:
    """Append what of `block` is end-to-end, as `CRLF name: ` and value.

    Returns content-length, and whether trailers are taken. Raises `UnsendableHead`.
    """
    if 0 in b"".join([value for _, value in block]).translate(CLEAN):
        raise UnsendableHead("field_value")  # HTTP/2 can carry what ends a line here
    append = parts.append
    prefixes = _PREFIXES.get
    length = None
    trailers = False
    for name, value in block:
        prefix = prefixes(name)
        if prefix:
            append(prefix)
            append(value)
        elif prefix is None and name[:1] != b":":
            if name == b"content-length":
                if length is not None or not value.isdigit() or len(value) > MAX_DIGITS:
                    raise UnsendableHead("content_length")
                length = int(value)
            elif name not in SPECIAL:
                append(_prefix(name))
                append(value)
            elif name == b"te" and value.strip(OWS).lower() == b"trailers":
                if not trailers:
                    parts.append(b"\r\nte: trailers")
                trailers = True
    return length, trailers


def _prefix(name: bytes) -> bytes:
    if _is_lower_token(name) is None or (b"_" in name and name.replace(b"_", b"-") in IMITATIONS):
        raise UnsendableHead("field_name")
    prefix = b"\r\n%b: " % name
    if len(_PREFIXES) < _LEARNED_LIMIT and len(name) <= LEARNED_LENGTH:
        _PREFIXES[name] = prefix
    return prefix


def _check_upgrade(upgrade: bytes) -> None:
    if is_upgrade(upgrade) is None:
        raise UnsendableHead("upgrade")
