"""What a connection speaks, told from its first bytes; pure, and never wrong about what it has once decided.

Rules:

* `sniff` is monotone: once it says anything but MORE, further bytes never change it. So bytes may be split anywhere.
* Anything that can no longer become HTTP or TLS is OPAQUE at once, so that other protocols do not wait for a timeout.
* When in doubt, what an application might take for a request is HTTP/1: our strict parser then refuses it, where
  calling it opaque would hand it to the application past every check.
"""

from __future__ import annotations

import enum
import re
from typing import Literal

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""RFC 9113 section 3.4."""

MAX_REQUEST_LINE = 8192
"""Bytes in which the request line of an unknown method must end: what RFC 9112 section 3 asks everybody to accept."""

MAX_CLIENT_HELLO = 16 * 1024
"""Bytes, record headers included; real ones are under 2 KiB, 1.2 KiB more with post-quantum key shares."""


class Verdict(enum.Enum):
    """What the bytes so far are."""

    MORE = "more"
    HTTP1 = "http1"
    HTTP2 = "http2"
    TLS = "tls"
    OPAQUE = "opaque"


# No other protocol that we know starts with one of these and a space, except NATS with `CONNECT {`.
_KNOWN = (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"PATCH ", b"OPTIONS ", b"TRACE ")
_CONNECT = b"CONNECT "

_METHOD = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}"
_TARGET = rb"[/*\[%_.~\-0-9A-Za-z][^\x00-\x20\x7f]*"
_REQUEST_LINE = re.compile(_METHOD + b" " + _TARGET + rb" HTTP/[0-9]\.[0-9]\r?\n")
_VERSION_SO_FAR = rb"(?:H(?:T(?:T(?:P(?:/(?:[0-9](?:\.(?:[0-9]\r?)?)?)?)?)?)?)?)?"
_REQUEST_LINE_SO_FAR = re.compile(_METHOD + b"(?: (?:" + _TARGET + b"(?: " + _VERSION_SO_FAR + b")?)?)?")

_HANDSHAKE_RECORD = 0x16
_CLIENT_HELLO = 0x01
_MAX_RECORD = 1 << 14


def sniff(data: bytes) -> Verdict:
    """Say what `data`, all bytes received so far, begins.

    HTTP2 is the whole client preface. TLS is a record that begins a ClientHello (RFC 8446 sections 5.1, 4.1.2). HTTP1
    is a well-known method and a space, or else a whole request line of any method. MORE: undecided, ask again with
    more bytes; it is never said of MAX_REQUEST_LINE bytes or more.
    """
    if not data:
        return Verdict.MORE
    if data[0] == _HANDSHAKE_RECORD:
        return _tls(data)
    if data.startswith(PREFACE):
        return Verdict.HTTP2
    if PREFACE.startswith(data):
        return Verdict.MORE
    # RFC 9112 section 2.2: a server ignores an empty line before the request line.
    if data[0] == 0x0D:
        if len(data) <= 2:
            return Verdict.MORE if b"\r\n".startswith(data) else Verdict.OPAQUE
        if data[1] != 0x0A:
            return Verdict.OPAQUE
        data = data[2:]
    return _http1(data)


def _http1(data: bytes) -> Verdict:
    if data.startswith(_KNOWN):
        return Verdict.HTTP1
    if data.startswith(_CONNECT) and len(data) > len(_CONNECT):
        return Verdict.OPAQUE if data[len(_CONNECT)] == 0x7B else Verdict.HTTP1
    if _REQUEST_LINE.match(data, 0, MAX_REQUEST_LINE - 2):
        return Verdict.HTTP1
    if len(data) < MAX_REQUEST_LINE - 2 and _REQUEST_LINE_SO_FAR.fullmatch(data):
        return Verdict.MORE
    return Verdict.OPAQUE


def _tls(data: bytes) -> Verdict:
    if len(data) > 1 and data[1] != 3:
        return Verdict.OPAQUE
    if len(data) > 2 and data[2] > 4:
        return Verdict.OPAQUE
    # A record's length: its high byte alone can already be too much; zero is known when both are there.
    if len(data) > 3 and data[3] > _MAX_RECORD >> 8:
        return Verdict.OPAQUE
    if len(data) > 4 and not 0 < (data[3] << 8 | data[4]) <= _MAX_RECORD:
        return Verdict.OPAQUE
    if len(data) > 5:
        return Verdict.TLS if data[5] == _CLIENT_HELLO else Verdict.OPAQUE
    return Verdict.MORE


_HOST_NAME = re.compile(rb"[0-9A-Za-z_\-.]{1,255}")


class _Short(Exception):
    """A length points past the end of what holds it."""


class _Reader:
    """Takes fields off the front of a byte string; never reads past its end."""

    __slots__ = ("data", "pos")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = 0

    def take(self, size: int) -> bytes:
        end = self.pos + size
        if end > len(self.data):
            raise _Short
        taken = self.data[self.pos : end]
        self.pos = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """A field preceded by its length in `size` bytes (RFC 8446 section 3.4)."""
        return self.take(self.number(size))


def server_name(client_hello: bytes) -> str | Literal[Verdict.MORE] | None:
    """The host name that a ClientHello asks for (RFC 6066 section 3), in lower case; the argument is all bytes so far.

    None where it asks for none, is malformed, or is over MAX_CLIENT_HELLO; `Verdict.MORE` while it is incomplete. It
    may be split over records. Never raises, and more bytes never change an answer.
    """
    message = _handshake_message(client_hello[:MAX_CLIENT_HELLO])
    if message is None:
        return None
    if message is Verdict.MORE:
        return Verdict.MORE if len(client_hello) < MAX_CLIENT_HELLO else None
    try:
        return _host_name(_Reader(message))
    except _Short:
        return None


def _handshake_message(data: bytes) -> bytes | Literal[Verdict.MORE] | None:
    """The body of the first handshake message, put together from its records; None if it is no ClientHello."""
    gathered = bytearray()
    pos = 0
    while True:
        if gathered and gathered[0] != _CLIENT_HELLO:
            return None
        if len(gathered) >= 4:
            size = int.from_bytes(gathered[1:4], "big")
            if size > MAX_CLIENT_HELLO:
                return None
            if len(gathered) - 4 >= size:
                return bytes(gathered[4 : 4 + size])
        header = data[pos : pos + 5]
        if len(header) < 5:
            return Verdict.MORE if b"\x16\x03".startswith(header[:2]) else None
        size = header[3] << 8 | header[4]
        if header[:2] != b"\x16\x03" or not 0 < size <= _MAX_RECORD:
            return None
        gathered += data[pos + 5 : pos + 5 + size]
        pos += 5 + size


def _host_name(hello: _Reader) -> str | None:
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    if hello.pos == len(hello.data):
        return None  # no extensions at all
    extensions = _Reader(hello.vector(2))
    while extensions.pos < len(extensions.data):
        kind, body = extensions.number(2), extensions.vector(2)
        if kind == 0:
            names = _Reader(_Reader(body).vector(2))
            kind, name = names.number(1), names.vector(2)
            return name.decode("ascii").lower() if kind == 0 and _HOST_NAME.fullmatch(name) else None
    return None


def is_http2_settings(data: bytes) -> bool:
    """Whether a server's first bytes are HTTP/2's SETTINGS frame (RFC 9113 section 3.4), which waits for nobody."""
    return len(data) >= 9 and data[3] == 4 and data[0] == 0 and data[5:9] == bytes(4)
