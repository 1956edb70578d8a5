"""When a request is sent again though no policy asks for it: because the application has not seen it, or because the
connection that it was sent on had been closed meanwhile and the method can be repeated (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.proxy.exchange import Exchange
    from mesh.proxy.upstream import Upstream

REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})
"""Methods that are idempotent (RFC 9110 section 9.2.2)."""

NEVER_ARRIVED = frozenset({b"connect_failed", b"no_endpoints", b"overloaded", b"over_concurrency"})
"""`conduit-error` of the proxy beside the application, when the application has certainly not seen the request."""
REFUSED_ATTEMPTS = 16
"""Endpoints or connections that may refuse one request unseen (REFUSED_STREAM)."""
GOAWAY_ATTEMPTS = 256
"""Connections that may say goodbye before they come to a request. An endpoint that ends each connection after so many
streams turns away all that were sent beyond them, and the same request may be among those again and again while a crowd
moves from one connection to the next; each time, others were served."""


def attempts_after_reset(exchange: Exchange, upstream: Upstream, unprocessed: bool) -> int:
    """How often, in all, a request may be tried whose stream on `upstream` was ended before an answer; 0: not again.

    A stream of HTTP/2 that is reset, on a connection that goes on, was not closed under us."""
    if unprocessed:
        return GOAWAY_ATTEMPTS if upstream.leaving else REFUSED_ATTEMPTS
    reused = upstream.served > 0 and exchange.head.method in REPEATABLE and (upstream.gone or not upstream.http2)
    return exchange.downstream.limits.connect_attempts if reused else 0


def has_untried(exchange: Exchange) -> bool:
    """Whether the service has an endpoint, by now, that this was not sent to: those that it was may be gone."""
    tried = exchange.tried or ()
    return any(one is not exchange.endpoint and one not in tried for one in exchange.cluster.endpoints)
