"""Who may ask: Host, Origin and token of each request, judged before anything else looks at it; then what the token is
good for. Pure, but for the clock that it is given.

Rules:
- `Host` must be a loopback name or address, or one that the operator gave: a page elsewhere whose name was made to
  point at us (DNS rebinding) carries its own name.
- What changes something, and every websocket, must come from our own origin if it says where it comes from.
- The token comes as `Authorization: Bearer`, or as our cookie. A browser gets the cookie once, by a link with
  `?token=`, and is sent on to the same page without it: it stays out of history and of what pages tell each other.
- Where the port speaks TLS, plain text is for this machine's people alone: not for other machines, and never for a
  proxy, whose token would be read on the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from http.cookies import CookieError, SimpleCookie
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlencode, urlsplit

from mesh.control.routes import Answer, Refusal, Request, Route
from mesh.control.tokens import Bearer, Role, read
from mesh.model.api import Problem

COOKIE = "conduit_token"
LOOPBACK_NAMES = frozenset({"localhost"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Access:
    """The judge. `hosts` are further names and addresses, without port, under which we may be addressed; `tls` is
    whether the port speaks it; `clock` tells seconds since the epoch."""

    def __init__(
        self, token: str, hosts: Collection[str] = (), *, tls: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        if not token:
            raise ValueError("a control plane without a token would be open to every page and program")
        self._secret = token
        self._hosts = frozenset(host.lower() for host in hosts)
        self._tls, self._clock = tls, clock

    def check(self, request: Request, *, websocket: bool) -> Bearer | Answer:
        """Who asks, where the request may go on; an answer where a browser is to be sent on; raises Refusal."""
        if self._tls and not request.secure and not is_loopback(request.source):
            raise Refusal(403, Problem("plain HTTP is for this machine alone: ask with https"))
        host = request.headers.get("host", "")
        if not self._is_ours(host):
            raise Refusal(403, Problem(f"not addressed to us: Host {host[:100]!r}"))
        origin = request.headers.get("origin")
        strange = origin is not None and not same(origin, host, secure=request.secure)
        if strange and (websocket or request.method not in SAFE_METHODS):
            raise Refusal(403, Problem(f"not from our own pages: Origin {(origin or '')[:100]!r}"))
        given = request.query.get("token")
        if given is not None and request.method == "GET" and not websocket and self._read(given) is not None:
            return send_on(request, given)
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        bearer = self._read(credentials.strip()) if scheme.lower() == "bearer" else None
        bearer = bearer or self._read(cookie(request.headers.get("cookie", "")))
        if bearer is None:
            raise Refusal(
                401, Problem("a token is needed, and none that is good was given: `Authorization: Bearer ...`")
            )
        return bearer

    def permit(self, request: Request, route: Route) -> None:
        """Raises Refusal unless the token of a request that was checked is good for the route."""
        if route.open:
            return
        needed, bearer = route.needed, request.bearer
        if bearer is None or not bearer.may(needed):
            given = f"this one's is {bearer.role.value}" if bearer is not None else "there is none"
            raise Refusal(403, Problem(f"a token of the role {needed.value} is needed; {given}"))
        if needed is Role.PROXY and self._tls and not request.secure:
            raise Refusal(403, Problem("a proxy's control stream is never plain text: connect with https"))

    def _read(self, given: str) -> Bearer | None:
        return read(self._secret, given, self._clock())

    def _is_ours(self, host: str) -> bool:
        name = hostname(host)
        return bool(name) and (name in LOOPBACK_NAMES or name in self._hosts or is_loopback(name))


def send_on(request: Request, token: str) -> Answer:
    """To the same page, with the token in our cookie instead of the link."""
    rest = {name: value for name, value in request.query.items() if name != "token"}
    where = request.path + (f"?{urlencode(rest)}" if rest else "")
    grant = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict{'; Secure' if request.secure else ''}"
    return Answer(303, headers=((b"location", where.encode("ascii", "replace")), (b"set-cookie", grant.encode())))


def hostname(host: str) -> str:
    """The name or address in a Host field, lower-case, without port and brackets; empty where it is none."""
    if any(character in host for character in "@/?#\\ "):
        return ""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises where it is no number
    except ValueError:
        return ""
    return (parts.hostname or "").removesuffix(".")


def is_loopback(name: str) -> bool:
    """Whether it is an address of the loopback interface."""
    try:
        address = ip_address(name)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def same(origin: str, host: str, *, secure: bool = False) -> bool:
    """Whether an Origin field names the very scheme, host and port at which a request came."""
    scheme, separator, authority = origin.partition("://")
    return bool(separator) and scheme == ("https" if secure else "http") and authority.lower() == host.lower()


def cookie(field: str) -> str:
    """Our cookie's value, empty where there is none."""
    try:
        morsel = SimpleCookie(field).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""
