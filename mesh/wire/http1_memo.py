"""Remembers what heads that come again and again mean, and how they are written. Hot: bench's HTTP/1 scenarios.

A client that keeps its connection sends the same fields with nearly every request, and a server much the same head for
a second; HTTP/2's HPACK rests on the same fact. So what `http1_head` made of a block of fields is kept under its very
bytes, and what `http1_write` makes of it beside that. Nothing is decided here: on a miss both are asked, and a hit
repeats their answer. Rules:

* Only blocks of up to LENGTH bytes are kept, ENTRIES of them, and none with a secret (SECRETS). When it is full it is
  emptied.
* Only the plain case is kept: HTTP/1.1, origin-form, no upgrade, a status that frames its body by its fields.
* A head that was edited has another block, and is written afresh.
"""

from __future__ import annotations

from mesh.wire.head import Field, Head
from mesh.wire.http1_head import METHODS, is_visible, parse_request, parse_response
from mesh.wire.http1_write import write_request, write_response

ENTRIES = 512
"""Of requests and of responses each: at LENGTH bytes and what hangs on them, under 3 MB together."""
LENGTH = 1024
SECRETS = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"x-api-key"))
_SIMPLE = frozenset(METHODS) - {b"CONNECT"}
_SCHEME: Field = (b":scheme", b"http")


class Known:
    """What is known of a block of fields. `written` is its form on the wire, by the flags that it depends on."""

    __slots__ = ("authority", "block", "length", "persists", "status", "written")

    def __init__(
        self, block: tuple[Field, ...], authority: bytes, length: int, persists: bool, status: int = 0
    ) -> None:
        self.block = block
        self.authority = authority
        self.length = length
        self.persists = persists
        self.status = status
        self.written: dict[int, tuple[bytes, int, bool]] = {}


class KnownHead(Head):
    """A head whose fields are known; `original` is the block that it came with."""

    __slots__ = ("known", "original")

    known: Known
    original: object


_requests: dict[bytes, Known] = {}
_responses: dict[bytes, Known] = {}


def _remember(memo: dict[bytes, Known], key: bytes, known: Known) -> None:
    if len(key) <= LENGTH and SECRETS.isdisjoint(name for name, _ in known.block):
        if len(memo) >= ENTRIES:
            memo.clear()
        memo[key] = known


def read_request(raw: bytes, max_fields: int) -> tuple[Head, int, bool, bool]:
    """`http1_head.parse_request`, remembered."""
    line, _, rest = raw.partition(b"\r\n")
    parts = line.split(b" ")
    if len(parts) == 3:
        method, target, version = parts
        if version == b"HTTP/1.1" and method in _SIMPLE and target[:1] == b"/":
            known = _requests.get(rest)
            if known is not None and is_visible(target) is not None:
                authority = known.authority
                block = (METHODS[method], _SCHEME, (b":path", target), *known.block)
                head = KnownHead(block, method, b"http", authority, target)
                head.known = known
                head.original = block
                return head, known.length, known.persists, True
            found = parse_request(raw, max_fields)
            head_, length, persists, _ = found
            if not head_.upgrade and head_.authority:
                fields = ((b":authority", head_.authority), *head_.block[4:])
                _remember(_requests, rest, Known(fields, head_.authority, length, persists))
            return found
    return parse_request(raw, max_fields)


def read_response(raw: bytes, max_fields: int, method: bytes, upgrade_asked: bytes) -> tuple[Head, int, bool]:
    """`http1_head.parse_response`, remembered."""
    if method == b"HEAD" or method == b"CONNECT" or upgrade_asked:
        return parse_response(raw, max_fields, method, upgrade_asked)
    known = _responses.get(raw)
    if known is None:
        found = parse_response(raw, max_fields, method, upgrade_asked)
        head_, length, persists = found
        status = head_.status
        if status >= 200 and status != 204 and status != 304:
            _remember(_responses, raw, Known(tuple(head_.block), b"", length, persists, status))
        return found
    block = known.block
    head = KnownHead(block, b"", b"", b"", b"", known.status)
    head.known = known
    head.original = block
    return head, known.length, known.persists


def request_bytes(head: Head, end: bool) -> tuple[bytes, int]:
    """`http1_write.write_request`, remembered."""
    if type(head) is KnownHead and head.block is head.original and head.authority is head.known.authority:
        method, path = head.method, head.path
        if method in _SIMPLE and is_visible(path) is not None and path[0] == 0x2F:
            kind = end + 2 * (method in (b"POST", b"PUT", b"PATCH"))
            written = head.known.written.get(kind)
            if written is None:
                raw, length = write_request(head, end)
                written = (raw[len(method) + 1 + len(path) :], length, False)
                head.known.written[kind] = written
            return b"%b %b%b" % (method, path, written[0]), written[1]
    return write_request(head, end)


def response_bytes(head: Head, end: bool, method: bytes, modern: bool, close: bool) -> tuple[bytes, int, bool]:
    """`http1_write.write_response`, remembered."""
    if type(head) is KnownHead and head.block is head.original and method != b"HEAD" and method != b"CONNECT":
        kind = end + 2 * modern + 4 * close
        written = head.known.written.get(kind)
        if written is None:
            written = head.known.written[kind] = write_response(head, end, method, modern, close)
        return written
    return write_response(head, end, method, modern, close)
