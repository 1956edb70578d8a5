"""The table of what the API answers, and how a request finds its row. Pure.

Everything about a route stands in its row: the server dispatches by it and the OpenAPI document is made from it, so
that the one cannot say what the other does not do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from mesh.control.tokens import Bearer, Role
from mesh.control.websocket import Socket
from mesh.model.api import Problem, ResourceStatus

JSON = ((b"content-type", b"application/json"),)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, its target taken apart. `parameters` are those of the path; header names are lower-case.

    `source` is the client's address, `secure` whether it came over TLS, `bearer` who it is: None until that is known,
    and where anybody may ask."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    source: str = ""
    secure: bool = False
    bearer: Bearer | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body and header fields; content-length is the server's to add. `changes` is what the audit log is told
    was changed."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = JSON
    changes: tuple[ResourceStatus, ...] = ()


class Refusal(Exception):
    """A request that cannot be answered as asked: becomes `status` with a Problem."""

    def __init__(self, status: int, problem: Problem) -> None:
        self.status, self.problem = status, problem
        super().__init__(problem.error)

    def answer(self) -> Answer:
        """The answer to give."""
        return Answer(self.status, msgspec.json.encode(self.problem))


@dataclass(frozen=True, slots=True)
class Query:
    """One parameter of the query: `kind` is `str`, or `float` with a least and a greatest value."""

    name: str
    about: str
    kind: type[str] | type[float] = str
    default: str | float = ""
    least: float = 0.0
    most: float = 0.0
    choices: tuple[str, ...] = ()


Handler = Callable[[Request], Awaitable[Answer]]
SocketHandler = Callable[[Request, Socket], Awaitable[None]]
Check = Callable[[Request], object]


@dataclass(frozen=True, slots=True)
class Route:
    """One row. Exactly one of `handler` and `socket` is there.

    `answer` is the type of the body or of each message, or a tuple of the types that it may have.
    """

    method: str
    path: str
    """With parameters in braces, one segment each."""
    about: str
    answer: Any
    handler: Handler | None = None
    socket: SocketHandler | None = None
    check: Check | None = None
    """Of a websocket: raises Refusal before it is accepted, so that the client sees a status, not a close."""
    query: tuple[Query, ...] = ()
    takes: str = ""
    """Media type of the body, if it takes one."""
    hears: Any = None
    """Of a websocket: the type of the messages that the client sends, if it may send any. Else that of a JSON body."""
    problems: tuple[int, ...] = ()
    """Statuses of Problems that are this route's own."""
    open: bool = False
    """Answered without token, to anybody and under any name: it tells nothing."""
    role: Role | None = None
    """What a token must be good for; None: `view` for a GET, `admin` for anything else."""
    audit: str = ""
    """What the audit log calls it; empty: it is not kept there."""

    @property
    def needed(self) -> Role:
        """What a token must be good for."""
        return self.role or (Role.VIEW if self.method == "GET" else Role.ADMIN)


@dataclass(frozen=True, slots=True)
class Target:
    """A request target taken apart."""

    path: str
    query: Mapping[str, str]


def parse_target(target: str) -> Target:
    """Path, still quoted, and query of an origin-form target (RFC 9112 3.2.1); raises Refusal where it is no such."""
    if not target.startswith("/") or target.startswith("//") or "\\" in target:
        raise Refusal(400, Problem("the request target must be a path"))
    parts = urlsplit(target)
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=32, errors="strict")
    except ValueError as exc:
        raise Refusal(400, Problem(f"the query cannot be read: {exc}")) from exc
    query: dict[str, str] = {}
    for name, value in pairs:
        if name in query:
            raise Refusal(400, Problem(f"{name} is given twice", field=name))
        query[name] = value
    return Target(parts.path, query)


class Router:
    """Finds routes. A path that exists with another method is 405, any other 404."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._shapes = [(tuple(route.path.split("/")[1:]), route) for route in routes]

    def __repr__(self) -> str:
        return f"<Router routes={len(self.routes)}>"

    def is_open(self, path: str) -> bool:
        """Whether anybody may ask for this path."""
        return any(route.open and route.path == path for route in self.routes)

    def find(self, method: str, path: str, *, websocket: bool) -> tuple[Route, dict[str, str]]:
        """The route and its path parameters; raises Refusal."""
        segments = tuple(path.split("/")[1:])
        allowed: set[str] = set()
        for shape, route in self._shapes:
            parameters = matched(shape, segments)
            if parameters is None:
                continue
            if route.socket is not None and not websocket:
                raise Refusal(426, Problem("this path is a websocket"))
            if route.method == method and (route.socket is not None) == websocket:
                return route, parameters
            allowed.add(route.method)
        if allowed:
            raise Refusal(405, Problem(f"{method} is not possible here; {', '.join(sorted(allowed))} is"))
        raise Refusal(404, Problem(f"there is no {path[:200]}"))


def matched(shape: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
    """The path parameters, unquoted, where the segments fit the shape; None where they do not."""
    if len(shape) != len(segments):
        return None
    parameters: dict[str, str] = {}
    for wanted, given in zip(shape, segments, strict=True):
        if wanted.startswith("{"):
            if not given:
                return None
            parameters[wanted[1:-1]] = unquote(given)
        elif wanted != given:
            return None
    return parameters


def text(request: Request, query: Query) -> str:
    """The parameter's value, or its default; raises Refusal where it is none of its choices."""
    value = request.query.get(query.name) or str(query.default)
    if query.choices and value not in query.choices:
        raise Refusal(400, Problem(f"{value!r} is none of {', '.join(query.choices)}", field=query.name))
    return value


def number(request: Request, query: Query) -> float:
    """The parameter's value, or its default; raises Refusal where it is no number within its bounds."""
    given = request.query.get(query.name) or query.default
    try:
        value = float(given)
    except ValueError:
        value = float("nan")
    if not query.least <= value <= query.most:
        reason = f"{given!r} is not a number from {query.least:g} to {query.most:g}"
        raise Refusal(400, Problem(reason, field=query.name))
    return value


def check_known(request: Request, route: Route) -> None:
    """Raises Refusal where the query has a parameter that the route does not know: a typing error should be seen."""
    known = {query.name for query in route.query}
    for name in request.query:
        if name not in known:
            raise Refusal(400, Problem(f"there is no parameter {name[:100]!r} here", field=name[:100]))


def answer(body: object, changes: Sequence[ResourceStatus] = ()) -> Answer:
    """200 with the body as JSON."""
    return Answer(200, msgspec.json.encode(body), changes=tuple(changes))
