"""One line of tap for each event, in linkerd's format.   (pure)"""

from __future__ import annotations

from mesh.cli.output import printable
from mesh.model.reports import TapEvent

GRPC_STATUS = (
    *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists"),
    *("PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented"),
    *("Internal", "Unavailable", "DataLoss", "Unauthenticated"),
)


def line(event: TapEvent) -> str:
    """The line without its newline. What a peer wrote is escaped, so that a line stays one and a blank ends a field."""
    words = [event.event, f"id={word(event.id)}", f"proxy={word(event.proxy)}"]
    words += [f"src={word(event.src)}", f"dst={word(event.dst)}", f"tls={word(event.tls)}"]
    if event.event == "req":
        words += [
            f":method={word(event.method)}",
            f":authority={word(event.authority)}",
            f":path={word(event.path)}",
        ]
    elif event.event == "rsp":
        words += [f":status={event.status}", f"latency={event.latency_us}µs"]
    else:
        words += [f"duration={event.duration_us}µs", f"response-length={event.response_bytes}B"]
        if event.grpc_status >= 0:
            words.append(f"grpc-status={grpc_status(event.grpc_status)}")
        if event.outcome not in ("", "completed"):
            words.append(f"outcome={word(event.outcome)}")
        if event.error:
            words.append(f"error={word(event.error)}")
        if event.route:
            words.append(f"route={word(event.route)}")
        if event.retries:
            words.append(f"retries={event.retries}")
    return " ".join(words)


def word(text: str) -> str:
    """The text without blanks or control characters."""
    return printable(text).replace(" ", "%20")


def grpc_status(code: int) -> str:
    """Its name, or the number of one that has none."""
    return GRPC_STATUS[code] if 0 <= code < len(GRPC_STATUS) else str(code)
