"""HTTP/2 frames and header blocks as bytes, unchecked: what no library lets an attacker send."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4
CANCEL = 8

Field = tuple[bytes, bytes]


class Frame(NamedTuple):
    """One frame of the proxy's."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """RFC 9113 section 4.1."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def number(value: int, bits: int = 32) -> bytes:
    return value.to_bytes(bits // 8, "big")


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, payload=b"".join(number(key, 16) + number(value) for key, value in pairs))


SETTINGS_ACK = frame(SETTINGS, ACK)


def window_update(stream: int, by: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, number(by))


def reset(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, number(code))


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """RFC 7541 section 5.1; `first` has the bits before the prefix."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    out = bytearray((first | most,))
    value -= most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value: bytes) -> bytes:
    """RFC 7541 section 5.2, without Huffman."""
    return integer(len(value), 7) + value


def block(fields: Iterable[Field]) -> bytes:
    """Literal fields, none of them indexed (RFC 7541 section 6.2.2): whatever bytes they have."""
    return b"".join(b"\x00" + text(name) + text(value) for name, value in fields)


def remembered(name: bytes, value: bytes) -> bytes:
    """A literal field that goes into the table (RFC 7541 section 6.2.1), where it is entry 62."""
    return b"\x40" + text(name) + text(value)


ENTRY_62 = b"\xbe"


def request(
    path: bytes = b"/ok", method: bytes = b"GET", more: Sequence[Field] = (), authority: bytes = b"web"
) -> list[Field]:
    return [(b":method", method), (b":scheme", b"http"), (b":authority", authority), (b":path", path), *more]


def headers(stream: int, encoded: bytes, *, end: bool = True) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, encoded)


def get(stream: int, path: bytes = b"/ok") -> bytes:
    """A whole request."""
    return headers(stream, block(request(path)))


class Reader:
    """Cuts what the proxy sends into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now."""
        self._data += data
        while len(self._data) >= 9:
            size = int.from_bytes(self._data[:3], "big")
            if len(self._data) < 9 + size:
                return
            head, payload = self._data[:9], bytes(self._data[9 : 9 + size])
            del self._data[: 9 + size]
            yield Frame(head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF, payload)
