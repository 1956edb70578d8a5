"""A header block, in HTTP/2's form whichever protocol it came in: pseudo-header fields first, names in lower case.

A codec makes a `Head` and a codec sends it; nobody between walks its fields. `get` and the named attributes read it,
`set`, `add` and `remove` edit a copy, so that a block that nobody edits is forwarded as the very object that the peer's
codec made. Connection-specific fields (RFC 9110 section 7.6.1, RFC 9113 section 8.2.2) are never part of it: codecs
strip and make those.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Field = tuple[bytes, bytes]


class UnsendableHead(ValueError):
    """A head that the protocol of the other side cannot carry, such as a line break in a value; `str()` says which
    field."""


class Head:
    """A request's or response's head. Hot: one is made per message (bench: all HTTP scenarios).

    `block` holds all fields; `method`, `scheme`, `authority`, `path` are empty for responses, `status` is 0 for
    requests. `upgrade` is the protocol that an HTTP/1.1 head asks to switch to or agrees to (RFC 9110 section 7.8),
    else empty.
    """

    __slots__ = ("_index", "authority", "block", "method", "path", "scheme", "status", "upgrade")

    def __init__(
        self,
        block: Sequence[Field],
        method: bytes = b"",
        scheme: bytes = b"",
        authority: bytes = b"",
        path: bytes = b"",
        status: int = 0,
        upgrade: bytes = b"",
        index: dict[bytes, bytes] | None = None,
    ) -> None:
        self.block = block
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self.path = path
        self.status = status
        self.upgrade = upgrade
        self._index = index

    @classmethod
    def request(
        cls,
        method: bytes,
        path: bytes,
        *,
        authority: bytes = b"",
        scheme: bytes = b"http",
        fields: Iterable[Field] = (),
        upgrade: bytes = b"",
    ) -> Head:
        """A request head of our own making; `fields` in lower case. CONNECT (RFC 9113 section 8.5) has no path."""
        block = [(b":method", method)]
        if method != b"CONNECT":
            block += [(b":scheme", scheme), (b":path", path)]
        if authority:
            block.append((b":authority", authority))
        block += fields
        return cls(block, method, scheme, authority, path, upgrade=upgrade)

    @classmethod
    def response(cls, status: int, fields: Iterable[Field] = (), *, upgrade: bytes = b"") -> Head:
        """A response head of our own making; `fields` in lower case."""
        return cls([(b":status", b"%d" % status), *fields], status=status, upgrade=upgrade)

    def get(self, name: bytes) -> bytes | None:
        """The value of field `name` (lower case), the last one where it is repeated."""
        index = self._index
        if index is None:
            index = self._index = dict(self.block)
        return index.get(name)

    def get_all(self, name: bytes) -> list[bytes]:
        """All values of field `name`, in order."""
        return [value for key, value in self.block if key == name]

    def set(self, name: bytes, value: bytes) -> None:
        """Replace every field `name` by one."""
        self.block = [field for field in self.block if field[0] != name]
        self.block.append((name, value))
        self._index = None

    def add(self, name: bytes, value: bytes) -> None:
        """Append a field, beside those of the same name."""
        self.block = [*self.block, (name, value)]
        self._index = None

    def remove(self, name: bytes) -> None:
        """Drop every field `name`, if any."""
        self.block = [field for field in self.block if field[0] != name]
        self._index = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Head):
            return NotImplemented
        return list(map(tuple, self.block)) == list(map(tuple, other.block)) and self.upgrade == other.upgrade

    def __hash__(self) -> int:
        return hash(tuple(self.block))

    def __repr__(self) -> str:
        if self.status:
            return f"<Head {self.status}, {len(self.block)} fields>"
        return f"<Head {self.method!r} {self.authority!r} {self.path!r}, {len(self.block)} fields>"
