"""A request -> the route it takes (pure). Hot: once per request to a service that has routes.

Rules, of Gateway API's HTTPRoute where it has any:

* A path is compared without its query, as it came: neither percent-decoded nor normalised, case counts. A prefix is one
  of whole segments, its trailing slash is ignored, and `/` holds for every request, those without a path among them.
* A repeated header is one value, joined by `,` (RFC 9110 section 5.3), `cookie` by `; ` (RFC 9113 section 8.2.3).
  `host` is the authority. Header values are bytes: text in a match means its UTF-8.
* Of a repeated query parameter the first counts. Names and values are percent-decoded; `+` is no space.
* Regular expressions (`mesh.model.patterns`) must match all of a path or value.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from mesh.model.patterns import Pattern
from mesh.model.traffic import Backend, FieldMatch, Match, PathKind, Route
from mesh.proxy.edit import Editing
from mesh.wire.head import Head

_ANY, _EXACT, _PREFIX, _REGEX = 0, 1, 2, 3
_SLASH = 0x2F
_PERCENT = 0x25


class FieldMatcher:
    """One header or query parameter, compiled."""

    __slots__ = ("_pattern", "_value", "name")

    def __init__(self, match: FieldMatch) -> None:
        self.name = match.name.encode()
        self._value = match.value.encode()
        self._pattern = Pattern(match.value) if match.regex else None

    def holds(self, value: bytes | None) -> bool:
        """`value` is None where the request has no such field: then nothing matches, not even the empty string."""
        if value is None:
            return False
        if self._pattern is None:
            return value == self._value
        return self._pattern.holds(value)


class Matcher:
    """A `Match`, compiled. Raises ValueError for a regular expression that is none; one that was read was checked.

    `anything` tells that it holds for every request; `prefix` is that of a prefix match without its trailing slash,
    None for other matches. A match without a path is one of the prefix `/`.
    """

    __slots__ = ("_headers", "_kind", "_method", "_path", "_pattern", "_query", "_under", "anything", "prefix")

    def __init__(self, match: Match) -> None:
        self._kind = _ANY
        self._path = b""
        self._under = b"/"
        self._pattern: Pattern | None = None
        self.prefix: bytes | None = None
        path = match.path
        if path is None:
            self.prefix = b""
        elif path.kind is PathKind.REGEX:
            self._kind = _REGEX
            self._pattern = Pattern(path.value)
        elif path.kind is PathKind.EXACT:
            self._kind = _EXACT
            self._path = path.value.encode()
        else:
            self._path = self.prefix = path.value.encode().rstrip(b"/")
            self._under = self._path + b"/"
            self._kind = _PREFIX if self._path else _ANY
        self._method = match.method.encode()
        self._headers = [FieldMatcher(field) for field in match.headers]
        self._query = [FieldMatcher(field) for field in match.query]
        self.anything = self._kind == _ANY and self.path_only

    @property
    def path_only(self) -> bool:
        """Whether nothing is asked of a request beside its path."""
        return not (self._method or self._headers or self._query)

    @property
    def exact(self) -> bytes | None:
        """The path of an exact match, else None."""
        return self._path if self._kind == _EXACT else None

    def holds(self, head: Head) -> bool:
        """Whether this request is one of those meant."""
        if self.anything:
            return True
        return (self._kind == _ANY or self.holds_path(bare_path(head.path))) and self.holds_beside(head)

    def holds_path(self, path: bytes) -> bool:
        """Whether a path, without query, is one of those meant."""
        kind = self._kind
        if kind == _EXACT:
            return path == self._path
        if kind == _PREFIX:
            return path.startswith(self._under) or path == self._path
        if self._pattern is not None:
            return self._pattern.holds(path)
        return True

    def holds_beside(self, head: Head) -> bool:
        """Whether everything but the path is as meant."""
        if self._method and head.method != self._method:
            return False
        for header in self._headers:
            if not header.holds(header_value(head, header.name)):
                return False
        if self._query:
            parameters = query_parameters(head.path)
            for parameter in self._query:
                if not parameter.holds(parameters.get(parameter.name)):
                    return False
        return True


ANYTHING = Matcher(Match())
"""Holds for every request."""


def bare_path(path: bytes) -> bytes:
    """A request's path without its query."""
    end = path.find(b"?")
    return path if end < 0 else path[:end]


def header_value(head: Head, name: bytes) -> bytes | None:
    """A header as one value, however often it is repeated; None where there is none."""
    if name == b"host":
        return head.authority or None
    return head.get_joined(name)


def query_parameters(path: bytes) -> dict[bytes, bytes]:
    """The first value of each parameter in the query of a request's path, percent-decoded; `a` is `a=`."""
    found: dict[bytes, bytes] = {}
    start = path.find(b"?")
    if start >= 0:
        query = path[start + 1 :]
        encoded = _PERCENT in query
        for pair in query.split(b"&"):
            if pair:
                name, _, value = pair.partition(b"=")
                if encoded:
                    name, value = unquote_to_bytes(name), unquote_to_bytes(value)
                found.setdefault(name, value)
    return found


class Compiled:
    """A `Route`, compiled: whom it takes, where to, and (`mesh.proxy.edit`) what it changes. Raises as `Matcher`."""

    __slots__ = ("_bounds", "_mirrors", "_takers", "_total", "editing", "matcher", "name", "rank", "route")

    def __init__(self, route: Route, rank: int = 0) -> None:
        self.route = route
        self.name = route.name
        self.rank = rank
        """Its place among the routes of its service."""
        self.matcher = Matcher(route.match)
        self.editing = Editing(route, self.matcher.prefix)
        self._takers = [backend for backend in route.backends if backend.weight]
        self._bounds: list[int] = []
        self._total = 0
        for backend in self._takers:
            self._total += backend.weight
            self._bounds.append(self._total)
        self._mirrors = [(mirror.service, mirror.percent / 100) for mirror in route.mirrors]

    def __repr__(self) -> str:
        return f"<Route {self.name}>"

    def pick(self, random: float) -> Backend | None:
        """The backend of a request, by weight; None where there are none, or all have weight 0. `random` is in [0, 1).

        It may have a `problem`."""
        takers = self._takers
        if not takers:
            return None
        if len(takers) > 1:
            point = random * self._total
            for at, bound in enumerate(self._bounds):
                if point < bound:
                    return takers[at]
        return takers[-1]

    def mirrors(self, random: Callable[[], float]) -> list[str]:
        """The services that get a copy of this request; `random` gives numbers in [0, 1)."""
        return [service for service, share in self._mirrors if share >= 1 or random() < share]


class Routes:
    """The routes of one service, in order of precedence.

    What `find` returns is what trying one after the other would. But exact paths are looked up, and so are prefixes,
    segment by segment of the request's path, to the depth of the deepest prefix: what a request costs grows with the
    routes of its own path, with those that have a regular expression, and with those that have no path.
    """

    __slots__ = ("_depth", "_exact", "_others", "_prefixes", "compiled")

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self.compiled = [Compiled(route, rank) for rank, route in enumerate(routes)]
        self._exact: dict[bytes, list[Compiled]] = {}
        self._prefixes: dict[bytes, list[Compiled]] = {}
        self._others: list[Compiled] = []
        self._depth = 0
        """Slashes, after the first octet, of the deepest prefix."""
        for route in self.compiled:
            exact, prefix = route.matcher.exact, route.matcher.prefix
            if exact is not None:
                self._exact.setdefault(exact, []).append(route)
            elif prefix:
                self._prefixes.setdefault(prefix, []).append(route)
                self._depth = max(self._depth, prefix.count(b"/", 1))
            else:
                self._others.append(route)

    def find(self, head: Head) -> Compiled | None:
        """The first route whose match holds; None if no one's does."""
        path = bare_path(head.path)
        best: Compiled | None = None
        alike = self._exact.get(path)
        if alike is not None:
            best = _first(alike, head, None)
        if self._prefixes:
            end = path.find(b"/", 1)
            depth = self._depth
            while end >= 0 and depth >= 0:
                alike = self._prefixes.get(path[:end])
                if alike is not None:
                    best = _first(alike, head, best)
                end = path.find(b"/", end + 1)
                depth -= 1
            if end < 0:
                alike = self._prefixes.get(path)
                if alike is not None:
                    best = _first(alike, head, best)
        for route in self._others:
            if best is not None and route.rank > best.rank:
                break
            matcher = route.matcher
            if matcher.anything or (matcher.holds_path(path) and matcher.holds_beside(head)):
                return route
        return best


def _first(alike: list[Compiled], head: Head, best: Compiled | None) -> Compiled | None:
    """The first of `alike`, whose path holds, that holds altogether, unless `best` comes before it."""
    for route in alike:
        if best is not None and route.rank > best.rank:
            break
        if route.matcher.holds_beside(head):
            return route
    return best
