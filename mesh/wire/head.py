"""A header block, in HTTP/2's form whichever protocol it came in: pseudo-header fields first, names in lower case.

A codec makes a `Head` and a codec sends it; nobody between walks its fields. `get` and the named attributes read it.
`set`, `add` and `remove` give this head another block: that of a peer's codec, which other heads may share, never
changes, and one that nobody edits is forwarded as it is. `with_request`, `with_fields` and `with_field` leave this
head alone too: what one try is to say must not show in the next. Connection-specific fields (RFC 9110 section 7.6.1,
RFC 9113 section 8.2.2) are never part of a head: codecs strip and make those.
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

    def get_joined(self, name: bytes) -> bytes | None:
        """All values of field `name` as one, in order, joined by `,` (RFC 9110 section 5.3), those of `cookie` by `; `
        (RFC 9113 section 8.2.3)."""
        value = self.get(name)
        if value is None or self._index is None or len(self._index) == len(self.block):
            return value
        return (b"; " if name == b"cookie" else b",").join(self.get_all(name))

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

    def copy(self) -> Head:
        """Another head that says the same; editing one does not change the other."""
        return Head(
            self.block, self.method, self.scheme, self.authority, self.path, self.status, self.upgrade, self._index
        )

    def with_request(self, *, method: bytes = b"", authority: bytes = b"", path: bytes = b"") -> Head:
        """A request head that asks for this instead, in attributes and block alike; what is empty stays.

        This very head if nothing differs. A head without path (CONNECT) gets none. An authority is added where there
        was none, as the last pseudo field.
        """
        method = method or self.method
        authority = authority or self.authority
        path = path if path and self.path else self.path
        if method == self.method and authority == self.authority and path == self.path:
            return self
        block: list[Field] = []
        plain = 0
        named = not authority
        for field in self.block:
            name = field[0]
            if name[:1] != b":":
                if not named:
                    block.append((b":authority", authority))
                break
            plain += 1
            if name == b":path":
                block.append((b":path", path))
            elif name == b":authority":
                named = True
                block.append((b":authority", authority))
            elif name == b":method":
                block.append((b":method", method))
            else:
                block.append(field)
        else:
            if not named:
                block.append((b":authority", authority))
        block += self.block[plain:]
        return Head(block, method, self.scheme, authority, path, 0, self.upgrade)

    def with_fields(self, dropped: frozenset[bytes], added: Sequence[Field]) -> Head:
        """A head without the fields that `dropped` names and with those of `added` behind; no pseudo fields in either.

        This very head if nothing differs.
        """
        block = [field for field in self.block if field[0] not in dropped] if dropped else [*self.block]
        if not added and len(block) == len(self.block):
            return self
        block += added
        return Head(block, self.method, self.scheme, self.authority, self.path, self.status, self.upgrade)

    def with_field(self, name: bytes, value: bytes) -> Head:
        """A head in which every field `name`, if any, is replaced by one; `name` is no pseudo field."""
        block = [field for field in self.block if field[0] != name]
        block.append((name, value))
        return Head(block, self.method, self.scheme, self.authority, self.path, self.status, self.upgrade)

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
