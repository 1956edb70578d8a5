"""What a route changes in the heads that pass by it, and the redirects that it answers with (pure). Hot where used.

A head that is given is never edited, for the block in it may belong to other requests too, and the next try of this one
starts from it: what changes is a new `Head`, and what does not is the very object that was given. Rules:

* Nothing here touches what frames a message or belongs to one connection (`FRAMING`), nor pseudo fields. `host` is the
  authority: an edit of a request may set it, not remove it.
* A rewrite comes before the edits of fields. The query of a path always stays.
* Text becomes UTF-8; in paths, what may not stand there is percent-encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from mesh.model.traffic import Edits, PathEdit, Redirect, Route
from mesh.wire.head import Field, Head
from mesh.wire.http1_head import SPECIAL

if TYPE_CHECKING:
    from mesh.proxy.route import Compiled

FRAMING = SPECIAL | frozenset((b"trailer", b"host"))
"""Fields that an edit leaves as they are."""
_PATH_SAFE = "/%!$&'()*+,;=:@-._~"
_PORTS = {b"http": b"80", b"https": b"443"}


class FieldEdits:
    """`Edits`, compiled. `authority` is what they set `host` to, else empty."""

    __slots__ = ("added", "authority", "dropped")

    def __init__(self, edits: Edits) -> None:
        self.authority = b""
        dropped = [name.encode() for name in edits.remove]
        placed: dict[bytes, bytes] = {}
        for name, value in edits.set:
            placed[name.encode()] = value.strip(" \t").encode()
        dropped += placed
        added = [*placed.items(), *((name.encode(), value.strip(" \t").encode()) for name, value in edits.add)]
        for key, text in added:
            if key == b"host":
                self.authority = text
        self.dropped = frozenset(name for name in dropped if _is_editable(name))
        self.added: list[Field] = [field for field in added if _is_editable(field[0])]


def _is_editable(name: bytes) -> bool:
    return name not in FRAMING and not name.startswith(b":")


class PathChange:
    """A `PathEdit`, compiled, of a route that matches `prefix`: without trailing slash, None if that is no prefix."""

    __slots__ = ("_cut", "_full", "_put")

    def __init__(self, edit: PathEdit, prefix: bytes | None) -> None:
        self._full = b"" if edit.full is None else b"/" + _quoted(edit.full).lstrip(b"/")
        self._cut = -1
        self._put = b""
        if edit.prefix is not None and edit.full is None and prefix is not None:
            self._cut = len(prefix)
            put = _quoted(edit.prefix).strip(b"/")
            self._put = b"/" + put if put else b""

    def apply(self, path: bytes) -> bytes:
        """The path that a request's `path` becomes. What is none (CONNECT, `*`) stays."""
        if path[:1] != b"/":
            return path
        end = path.find(b"?")
        if self._full:
            return self._full if end < 0 else self._full + path[end:]
        if self._cut < 0:
            return path
        changed = self._put + path[self._cut :]
        return changed if changed[:1] == b"/" else b"/" + changed


def _quoted(path: str) -> bytes:
    return quote(path, safe=_PATH_SAFE).encode()


class Redirection:
    """A `Redirect`, compiled. Its status and fields but for `location` are the same for each request."""

    __slots__ = ("_hostname", "_path", "_port", "_scheme", "status")

    def __init__(self, redirect: Redirect, prefix: bytes | None) -> None:
        self._scheme = redirect.scheme.lower().encode()
        self._hostname = redirect.hostname.encode()
        self._port = b"%d" % redirect.port if redirect.port else b""
        self._path = PathChange(redirect.path, prefix) if redirect.path is not None else None
        self.status = redirect.status

    def location(self, head: Head) -> bytes:
        """The URL that the request `head` is sent on to (RFC 9110 section 10.2.2).

        Its port is the one that the redirect names, else its scheme's own if it names a scheme, else the request's; and
        is left out where it is the scheme's own. A request that says no host is sent to another path at most.
        """
        path = head.path if self._path is None else self._path.apply(head.path)
        if path[:1] != b"/":
            path = b""  # of `*`
        hostname, port = _split(head.authority)
        hostname = self._hostname or hostname
        if not hostname:
            return b"/" + path.lstrip(b"/")
        scheme = self._scheme or head.scheme or b"http"
        if self._port or self._scheme:
            port = self._port
        if port and port != _PORTS.get(scheme):
            return b"%b://%b:%b%b" % (scheme, hostname, port, path)
        return b"%b://%b%b" % (scheme, hostname, path)


def _split(authority: bytes) -> tuple[bytes, bytes]:
    """Host, in brackets if it came so, and port, empty if there is none, of an authority that a codec let pass."""
    host, colon, port = authority.rpartition(b":")
    if not colon or authority.endswith(b"]"):
        return authority, b""
    return host, port


class Editing:
    """All that one route changes, compiled; `prefix` is the one that it matches, without trailing slash, if any."""

    __slots__ = ("hostname", "path", "redirection", "request", "response")

    def __init__(self, route: Route, prefix: bytes | None) -> None:
        rewrite = route.rewrite
        self.hostname = rewrite.hostname.encode() if rewrite is not None else b""
        self.path = PathChange(rewrite.path, prefix) if rewrite is not None and rewrite.path is not None else None
        self.request = FieldEdits(route.request) if route.request is not None else None
        self.response = FieldEdits(route.response) if route.response is not None else None
        self.redirection = Redirection(route.redirect, prefix) if route.redirect is not None else None


def request_head(compiled: Compiled, head: Head) -> Head:
    """The request as the route sends it on; `head` itself if it changes nothing."""
    editing = compiled.editing
    authority = editing.hostname
    edits = editing.request
    if edits is not None and edits.authority:
        authority = edits.authority
    if editing.path is not None:
        head = head.with_request(authority=authority, path=editing.path.apply(head.path))
    elif authority:
        head = head.with_request(authority=authority)
    return head if edits is None else head.with_fields(edits.dropped, edits.added)


def response_head(compiled: Compiled, head: Head) -> Head:
    """The response as the route passes it on; `head` itself if it changes nothing."""
    edits = compiled.editing.response
    return head if edits is None else head.with_fields(edits.dropped, edits.added)


def redirect(compiled: Compiled, head: Head) -> Head:
    """The answer, without a body, to the request `head` of a route that redirects, with the route's response edits.

    Raises ValueError for a route that does not redirect."""
    redirection = compiled.editing.redirection
    if redirection is None:
        raise ValueError(f"{compiled.name} does not redirect")
    fields = [(b"location", redirection.location(head)), (b"content-length", b"0")]
    return response_head(compiled, Head.response(redirection.status, fields))
