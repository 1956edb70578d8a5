"""The head that an endpoint gets, where it is not simply the client's: edited by the route, with the time that is left,
and with the marks that proxies leave for each other; and what nobody but a proxy may say (pure).

Hot: `cleaned` looks at each field of each request that comes in, and of each answer of an application.

What is RESERVED, a client cannot tell the application beside us, and an application cannot tell whoever called it. Its
names are compared as applications see them that cannot tell `-` from `_` (RFC 3875 section 4.1.18), and `Connection`
cannot take one away (`wire/http1_head.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mesh.proxy.deadlines import NEVER
from mesh.proxy.retry import format_grpc_timeout, format_timeout_ms
from mesh.wire.head import Field, Head
from mesh.wire.http1_head import KNOWN_NAMES

if TYPE_CHECKING:
    from mesh.proxy.exchange import Exchange
    from mesh.proxy.upstream import Upstream

TIMEOUT = b"conduit-timeout-ms"
"""Milliseconds that are left for the request: towards proxies of ours, and towards the application beside one, which
may pass it on."""
ORIGINAL = b"conduit-orig-proto"
"""`http1`: the request was made in HTTP/1.1, and travels in HTTP/2 between two proxies only."""
GRPC_TIMEOUT = b"grpc-timeout"
MARKS = frozenset({TIMEOUT, ORIGINAL})
ALL_MARKS = frozenset({TIMEOUT, ORIGINAL, GRPC_TIMEOUT})
CLIENT_ID = b"conduit-client-id"
"""Who the client has proved to be, told to the application by the proxy beside it."""
LINKERD_CLIENT_ID = b"l5d-client-id"
"""The same for applications that were written for Linkerd."""
RESERVED = re.compile(rb"(?:conduit|l5d)[^0-9a-z].*|x[^0-9a-z]forwarded[^0-9a-z]client[^0-9a-z]cert", re.DOTALL)
"""Names of fields that are a proxy's to say; Envoy's client certificate is one that applications trust as well."""
LEARNED_NAMES = 512
"""Other names remembered: applications use a few dozen, a flood of random ones must not grow us."""
LEARNED_LENGTH = 64
NO_FIELDS: tuple[Field, ...] = ()
_VISIBLE = re.compile(rb"[!-~]+")
_ordinary: set[bytes] = {*KNOWN_NAMES, *b"te content-length :method :scheme :path :authority :status".split()}
_LEARNED_LIMIT = len(_ordinary) + LEARNED_NAMES


def presented(identity: str) -> tuple[Field, ...]:
    """What an application is told of a client that has proved `identity`; nothing of one that has proved none."""
    value = identity.encode("ascii", "replace")
    return ((CLIENT_ID, value), (LINKERD_CLIENT_ID, value)) if _VISIBLE.fullmatch(value) else NO_FIELDS


def entered(head: Head, credentials: tuple[Field, ...]) -> Head:
    """A request's head as the application beside us may see it: nothing RESERVED but `credentials`, of `presented`."""
    head = cleaned(head)
    return head.with_fields(frozenset(), credentials) if credentials else head


def cleaned(head: Head) -> Head:
    """A head without what is RESERVED; this very head if there is nothing."""
    ordinary = _ordinary
    for field in head.block:
        if field[0] not in ordinary:
            dropped = reserved(head.block)
            return head.with_fields(dropped, NO_FIELDS) if dropped else head
    return head


def cleaned_trailers(fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """Trailers without what is RESERVED."""
    dropped = reserved(fields)
    return tuple([field for field in fields if field[0] not in dropped]) if dropped else fields


def reserved(block: Sequence[Field]) -> frozenset[bytes]:
    """The names in a block that are RESERVED."""
    found: set[bytes] = set()
    for name, _ in block:
        if name not in _ordinary:
            if RESERVED.fullmatch(name):
                found.add(name)
            elif len(_ordinary) < _LEARNED_LIMIT and len(name) <= LEARNED_LENGTH:
                _ordinary.add(name)
    return frozenset(found)


def head(exchange: Exchange, upstream: Upstream, now: float) -> Head:
    """What `upstream` gets for this exchange. The client's head stays as it is."""
    care = exchange.care
    endpoint = upstream.endpoint
    result = exchange.head
    if care is not None and care.head is not None:
        result = care.head
    outbound = endpoint.cluster.outbound
    added: list[Field] = []
    dropped = MARKS
    if exchange.deadline != NEVER:
        left = exchange.deadline - now
        if left < 0.0:
            left = 0.0
        if exchange.is_grpc:
            dropped = ALL_MARKS
            added.append((GRPC_TIMEOUT, format_grpc_timeout(left)))
        if endpoint.meshed or not outbound or result.get(TIMEOUT) is not None:
            added.append((TIMEOUT, format_timeout_ms(left)))
    if exchange.protocol == "http1" or endpoint.cluster.http2 is False:
        if outbound and endpoint.meshed and upstream.http2 and not endpoint.cluster.http2:
            added.append((ORIGINAL, b"http1"))  # but for a service that wants HTTP/2, whoever asks
        elif not added and exchange.downstream.protocol != "http2":
            return result
    elif not added and result.get(ORIGINAL) is None:
        return result
    return result.with_fields(dropped, added)
