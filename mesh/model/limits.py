"""Every bound of a proxy, by name, with its default and unit. What is refused because of one is counted under its
name."""

from __future__ import annotations

import msgspec

KIB = 1024


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of one proxy; the `limits:` block of proxy.yaml. Times are in seconds, sizes in bytes."""

    detect_timeout: float = 10.0
    """Silence after which a connection that said nothing recognisable is treated as opaque TCP."""
    connect_timeout: float = 1.0
    handshake_timeout: float = 5.0
    header_bytes: int = 64 * KIB
    """One header block, decoded, all names and values counted."""
    header_fields: int = 100
    header_timeout: float = 10.0
    """From the first byte of a head to its last."""
    body_timeout: float = 60.0
    """Silence of a client in the middle of a request's body that nobody has begun to answer. Not for gRPC."""
    write_timeout: float = 300.0
    """How long a client may leave bytes of an answer untaken."""
    progress_rate: int = 64
    """Bytes per second that count as progress for these two: what comes or goes slower is on its way to its timeout."""
    chunk_extension_bytes: int = 4 * KIB
    """What the chunk-size lines of one message may hold beside sizes; nobody uses extensions."""
    continuations: int = 128
    """CONTINUATION frames of one HTTP/2 header block."""
    informational: int = 32
    """1xx responses to one HTTP/1.1 request: servers send one or two, and no flow control stops those without end."""
    replay_bytes: int = 64 * KIB
    """Body kept so that a request can be sent again."""
    streams: int = 256
    """Concurrent streams per downstream connection."""
    buffer_bytes: int = 256 * KIB
    """Held per connection and direction before its sources are stopped."""
    stream_buffer_bytes: int = 64 * KIB
    """Held per stream before its source is stopped; also the HTTP/2 stream window we advertise."""
    connections: int = 10_000
    """Per listener."""
    pending_requests: int = 1024
    """Per service, while no endpoint is ready."""
    pending_timeout: float = 3.0
    resets: int = 200
    """Streams that a client ends early per `resets_window`, relative to what it completed, before GOAWAY."""
    resets_window: float = 10.0
    """Seconds after which `resets` and `control_frames` are counted anew."""
    control_frames: int = 4000
    """HTTP/2 frames that carry no message, per `resets_window` and relative to messages; one that we must answer counts
    as four."""
    idle_http: float = 300.0
    idle_tcp: float = 3600.0
    """Also the longest silence of one exchange, in which neither side moves a byte."""
    drain_timeout: float = 120.0
    drain_grace: float = 0.2
    """How long a draining proxy keeps accepting, so that peers learn before they are refused."""
    upstream_connections: int = 1024
    """HTTP/1.1 connections per endpoint."""
    upstream_http2_connections: int = 8
    """HTTP/2 connections per endpoint; a second one is dialled when the streams of the first are used up."""
    connect_attempts: int = 3
    """Endpoints tried for one request whose connect was refused."""
    metric_series: int = 2_000
    """Label sets per metric family; what comes after is counted in one overflow series."""
