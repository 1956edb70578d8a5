"""Who may ask: Host, Origin and token of each request, judged before anything else looks at it. Pure.

Rules:
- `Host` must be a loopback name or address, or one that the operator gave: a page elsewhere whose name was made to
  point at us (DNS rebinding) carries its own name.
- What changes something, and every websocket, must come from our own origin if it says where it comes from.
- The token comes as `Authorization: Bearer`, or as our cookie. A browser gets the cookie once, by a link with
  `?token=`, and is sent on to the same page without it: it stays out of history and of what pages tell each other.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import urlencode, urlsplit

from mesh.control.routes import Answer, Refusal, Request
from mesh.model.api import Problem

COOKIE = "conduit_token"
LOOPBACK_NAMES = frozenset({"localhost"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Access:
    """The judge. `hosts` are further names and addresses, without port, under which we may be addressed."""

    def __init__(self, token: str, hosts: Collection[str] = ()) -> None:
        if not token:
            raise ValueError("a control plane without a token would be open to every page and program")
        self._token = token.encode()
        self._hosts = frozenset(host.lower() for host in hosts)

    def check(self, request: Request, *, websocket: bool) -> Answer | None:
        """None where the request may go on, an answer where a browser is to be sent on; raises Refusal."""
        host = request.headers.get("host", "")
        if not self._is_ours(host):
            raise Refusal(403, Problem(f"not addressed to us: Host {host[:100]!r}"))
        origin = request.headers.get("origin")
        if (websocket or request.method not in SAFE_METHODS) and origin is not None and not same(origin, host):
            raise Refusal(403, Problem(f"not from our own pages: Origin {origin[:100]!r}"))
        given = request.query.get("token")
        if given is not None and request.method == "GET" and not websocket and self._is_token(given):
            return self._send_on(request)
        bearer = request.headers.get("authorization", "")
        scheme, _, credentials = bearer.partition(" ")
        if scheme.lower() == "bearer" and self._is_token(credentials.strip()):
            return None
        if self._is_token(cookie(request.headers.get("cookie", ""))):
            return None
        raise Refusal(401, Problem("a token is needed: `Authorization: Bearer ...`"))

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token)

    def _is_ours(self, host: str) -> bool:
        name = hostname(host)
        return bool(name) and (name in LOOPBACK_NAMES or name in self._hosts or is_loopback(name))

    def _send_on(self, request: Request) -> Answer:
        rest = {name: value for name, value in request.query.items() if name != "token"}
        where = request.path + (f"?{urlencode(rest)}" if rest else "")
        grant = f"{COOKIE}={self._token.decode()}; Path=/; HttpOnly; SameSite=Strict"
        return Answer(
            303,
            headers=(
                (b"location", where.encode("ascii", "replace")),
                (b"set-cookie", grant.encode()),
                (b"referrer-policy", b"no-referrer"),
            ),
        )


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
        return ip_address(name).is_loopback
    except ValueError:
        return False


def same(origin: str, host: str) -> bool:
    """Whether an Origin field names the very host and port of the Host field."""
    scheme, separator, authority = origin.partition("://")
    return bool(separator) and scheme in ("http", "https") and authority.lower() == host.lower()


def cookie(field: str) -> str:
    """Our cookie's value, empty where there is none."""
    try:
        morsel = SimpleCookie(field).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""
