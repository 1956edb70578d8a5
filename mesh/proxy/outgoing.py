"""The head that an endpoint gets, where it is not simply the client's: edited by the route, with the time that is left,
and with the marks that proxies leave for each other (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.proxy.deadlines import NEVER
from mesh.proxy.retry import format_grpc_timeout, format_timeout_ms
from mesh.wire.head import Field, Head

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
