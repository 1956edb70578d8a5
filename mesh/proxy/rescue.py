"""An error of our own -> what the client is told: an HTTP status, a gRPC status, or a reset (pure).

Each answer carries `conduit-error: <reason>` and one line that names the service, the endpoint and the cause. The
reasons are a closed list, since they are metric labels and scripts match on them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from mesh.wire.codec import CANCEL, INTERNAL_ERROR, REFUSED_STREAM
from mesh.wire.head import Field, Head


class Reason(enum.StrEnum):
    """Why the proxy answered for an application, or broke an answer off."""

    UNKNOWN_AUTHORITY = "unknown_authority"
    NO_ENDPOINTS = "no_endpoints"
    NOT_CONFIGURED = "not_configured"
    CONNECT_FAILED = "connect_failed"
    TLS_FAILED = "tls_failed"
    UPSTREAM_RESET = "upstream_reset"
    UPSTREAM_PROTOCOL = "upstream_protocol"
    TIMEOUT = "timeout"
    IDLE = "idle"
    OVERLOADED = "overloaded"
    UNSUPPORTED = "unsupported"
    NO_ROUTE = "no_route"
    BAD_BACKEND = "bad_backend"
    RATE_LIMITED = "rate_limited"
    OVER_CONCURRENCY = "over_concurrency"
    FAULT = "fault"
    DENIED = "denied"
    AMBIGUOUS_PATH = "ambiguous_path"
    AUTHORIZER_FAILED = "authorizer_failed"
    MISDIRECTED = "misdirected"
    LOOP = "loop"
    UNSENDABLE = "unsendable"
    INTERNAL = "internal"


class Answer(msgspec.Struct, frozen=True):
    """HTTP status, gRPC status (its code's number) and the code to reset a stream with that is already being
    answered."""

    status: int
    grpc_status: int
    reset: int


# gRPC statuses: 3 INVALID_ARGUMENT, 4 DEADLINE_EXCEEDED, 7 PERMISSION_DENIED, 8 RESOURCE_EXHAUSTED, 12 UNIMPLEMENTED,
# 13 INTERNAL, 14 UNAVAILABLE
ANSWERS: dict[Reason, Answer] = {
    Reason.UNKNOWN_AUTHORITY: Answer(502, 14, REFUSED_STREAM),
    Reason.NO_ENDPOINTS: Answer(503, 14, REFUSED_STREAM),
    Reason.NOT_CONFIGURED: Answer(503, 14, REFUSED_STREAM),
    Reason.CONNECT_FAILED: Answer(503, 14, REFUSED_STREAM),
    Reason.TLS_FAILED: Answer(503, 14, REFUSED_STREAM),
    Reason.UPSTREAM_RESET: Answer(502, 14, INTERNAL_ERROR),
    Reason.UPSTREAM_PROTOCOL: Answer(502, 13, INTERNAL_ERROR),
    Reason.TIMEOUT: Answer(504, 4, CANCEL),
    Reason.IDLE: Answer(504, 4, CANCEL),
    Reason.OVERLOADED: Answer(503, 8, REFUSED_STREAM),
    Reason.UNSUPPORTED: Answer(501, 12, INTERNAL_ERROR),
    Reason.NO_ROUTE: Answer(404, 12, REFUSED_STREAM),
    Reason.BAD_BACKEND: Answer(500, 13, REFUSED_STREAM),
    Reason.RATE_LIMITED: Answer(429, 8, REFUSED_STREAM),
    Reason.OVER_CONCURRENCY: Answer(503, 8, REFUSED_STREAM),
    Reason.FAULT: Answer(503, 14, CANCEL),
    Reason.DENIED: Answer(403, 7, CANCEL),
    Reason.AMBIGUOUS_PATH: Answer(400, 3, REFUSED_STREAM),
    Reason.AUTHORIZER_FAILED: Answer(503, 14, CANCEL),
    Reason.MISDIRECTED: Answer(421, 14, REFUSED_STREAM),
    Reason.LOOP: Answer(508, 13, INTERNAL_ERROR),
    Reason.UNSENDABLE: Answer(400, 13, INTERNAL_ERROR),
    Reason.INTERNAL: Answer(500, 13, INTERNAL_ERROR),
}


def sentence(service: str, endpoint: str, cause: str) -> str:
    """The line that people read; printable ASCII only, since part of it may come from a peer."""
    where = f"service {service}" + (f", endpoint {endpoint}" if endpoint else "")
    return "".join(char if " " <= char <= "~" else "?" for char in f"{where}: {cause}")


def response(
    reason: Reason, text: str, *, grpc: bool, answer: Answer | None = None, fields: Sequence[Field] = ()
) -> tuple[Head, bytes]:
    """Head and body of the answer; for gRPC a trailers-only response, whose body is empty (gRPC over HTTP/2,
    Responses). `answer` goes before the reason's own; `fields` are added to the head."""
    answer = answer or ANSWERS[reason]
    last: list[Field] = [*fields, (b"conduit-error", reason.encode())]
    if grpc:
        message = _percent_encoded(text)
        begin = [(b"content-type", b"application/grpc"), (b"grpc-status", b"%d" % answer.grpc_status)]
        return Head.response(200, [*begin, (b"grpc-message", message), *last]), b""
    body = text.encode() + b"\n"
    begin = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    return Head.response(answer.status, [*begin, *last]), body


def _percent_encoded(text: str) -> bytes:
    """grpc-message's encoding: printable ASCII stays, but for `%` (gRPC over HTTP/2, Status-Message)."""
    return text.replace("%", "%25").encode("ascii", "replace")
