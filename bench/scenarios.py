"""What is measured: each scenario is a value, and this table is the whole of the benchmark's plan.

A scenario says what the load looks like, never how a proxy is set up (`peers.py`) nor how the load
is made (`load.py`). Changing a row changes what the published figures mean: say so in CHANGELOG.md.
"""

from dataclasses import dataclass, replace
from typing import Literal

Protocol = Literal["http1", "http2", "opaque"]

SMALL_PATH, LARGE_PATH = "/small", "/large"
LARGE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Scenario:
    """One shape of load, the same for every proxy.

    Saturating HTTP scenarios send `requests`; paced ones (`rate` > 0, requests per second over all
    connections) last `seconds`; opaque ones pull `stream_bytes` over each connection. Where `policies` is
    set the proxies have those of `policies.py`, and two endpoints; only proxies that can have them take part. With two
    `hops` there are two proxies in a row, with mutual TLS between them (`hops.py`).
    """

    name: str
    title: str
    protocol: Protocol
    connections: int
    streams: int = 1
    path: str = SMALL_PATH
    requests: int = 0
    rate: int = 0
    seconds: int = 0
    stream_bytes: int = 0
    policies: bool = False
    hops: int = 1


SCENARIOS = (
    Scenario("h1-32", "HTTP/1.1, 32 connections", "http1", 32, requests=60_000),
    Scenario("h2-1x1", "HTTP/2, 1 connection x 1 stream", "http2", 1, 1, requests=20_000),
    Scenario("h2-1x32", "HTTP/2, 1 connection x 32 streams", "http2", 1, 32, requests=60_000),
    Scenario("h2-16x16", "HTTP/2, 16 connections x 16 streams", "http2", 16, 16, requests=60_000),
    Scenario("h2-64x1", "HTTP/2, 64 connections x 1 stream", "http2", 64, 1, requests=60_000),
    Scenario("h1-64k", "HTTP/1.1, 64 KiB bodies, 16 connections", "http1", 16, path=LARGE_PATH, requests=6_000),
    Scenario("h2-64k", "HTTP/2, 64 KiB bodies, 16 connections x 4 streams", "http2", 16, 4, LARGE_PATH, 6_000),
    Scenario("h1-1000rps", "HTTP/1.1, 1,000 requests/s", "http1", 10, rate=1000, seconds=6),
    Scenario("h2-1000rps", "HTTP/2, 1,000 requests/s", "http2", 10, 100, rate=1000, seconds=6),
    Scenario("h1-32-policies", "HTTP/1.1, 32 connections, policies", "http1", 32, requests=60_000, policies=True),
    Scenario(
        "h2-16x16-policies",
        "HTTP/2, 16 connections x 16 streams, policies",
        "http2",
        16,
        16,
        requests=60_000,
        policies=True,
    ),
    Scenario(
        "h2-64x1-policies", "HTTP/2, 64 connections x 1 stream, policies", "http2", 64, requests=60_000, policies=True
    ),
    Scenario(
        "h2-16x16-mtls",
        "HTTP/2, 16 connections x 16 streams, two hops with mTLS",
        "http2",
        16,
        16,
        requests=60_000,
        hops=2,
    ),
    Scenario("tcp", "opaque TCP, 4 connections", "opaque", 4, stream_bytes=512 * 1024 * 1024),
)


def quick(scenario: Scenario) -> Scenario:
    """The same shape with about a sixth of the work: for trying the harness, not for publishing figures."""
    return replace(
        scenario,
        requests=scenario.requests // 6,
        seconds=min(scenario.seconds, 3),
        stream_bytes=scenario.stream_bytes // 6,
    )


def warm_up(scenario: Scenario) -> Scenario:
    """The unmeasured run before the first round: opens upstream connections and fills caches."""
    return replace(
        scenario,
        requests=max(scenario.connections * scenario.streams, min(scenario.requests, 3000)),
        seconds=min(scenario.seconds, 1),
        stream_bytes=min(scenario.stream_bytes, 16 * 1024 * 1024),
    )
