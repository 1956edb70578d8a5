"""The lines of tap, exactly."""

import msgspec
import pytest

from mesh.cli.taplines import line
from mesh.model.reports import TapEvent

REQ = TapEvent(
    "req", "0:1", "in", "web", "10.0.0.1:5000", "10.0.0.2:80", "true",
    method="GET", authority="web", path="/polls?a=b",
)  # fmt: skip
RSP = msgspec.structs.replace(REQ, event="rsp", status=200, latency_us=812)
END = msgspec.structs.replace(RSP, event="end", duration_us=1_203_000, response_bytes=777, outcome="completed")
FLOW = "id=0:1 proxy=in src=10.0.0.1:5000 dst=10.0.0.2:80 tls=true"


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (REQ, f"req {FLOW} :method=GET :authority=web :path=/polls?a=b"),
        (RSP, f"rsp {FLOW} :status=200 latency=812µs"),
        (END, f"end {FLOW} duration=1203000µs response-length=777B"),
        (
            msgspec.structs.replace(END, grpc_status=0),
            f"end {FLOW} duration=1203000µs response-length=777B grpc-status=OK",
        ),
        (
            msgspec.structs.replace(END, grpc_status=14),
            f"end {FLOW} duration=1203000µs response-length=777B grpc-status=Unavailable",
        ),
        (
            msgspec.structs.replace(END, grpc_status=99),
            f"end {FLOW} duration=1203000µs response-length=777B grpc-status=99",
        ),
        (
            msgspec.structs.replace(END, outcome="failed", error="connect refused"),
            f"end {FLOW} duration=1203000µs response-length=777B outcome=failed error=connect%20refused",
        ),
        (
            msgspec.structs.replace(END, route="canary/0", retries=2),
            f"end {FLOW} duration=1203000µs response-length=777B route=canary/0 retries=2",
        ),
        (
            msgspec.structs.replace(REQ, path="/a b\nreq id=9\x1b[2J"),
            f"req {FLOW} :method=GET :authority=web :path=/a%20b\\nreq%20id=9\\x1b[2J",
        ),
    ],
)
def test_line(event: TapEvent, text: str) -> None:
    """What scripts that read linkerd's lines read; what a client wrote cannot make a line or a field of its own."""
    assert line(event) == text
