"""Ask one endpoint once whether it is well: over HTTP, by gRPC's health protocol v1, or by connecting.

Each check has a connection of its own, for a connection that is at hand says nothing about whether the endpoint takes
another one. All of it is under the policy's timeout.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

import trio

from mesh.model.errors import PeerError
from mesh.model.limits import Limits
from mesh.model.traffic import HealthCheck, HealthKind
from mesh.proxy.dial import Alpn, ClientTls, ConnectFailed, dial, secure, send_all
from mesh.wire.codec import Broken, Codec, Data, Refused, Reset, Response, Role, Trailers
from mesh.wire.head import Field, Head, UnsendableHead
from mesh.wire.http1 import Http1
from mesh.wire.tls import Tls, TlsError

if TYPE_CHECKING:
    from mesh.proxy.credentials import Credentials

AGENT = b"conduit-health"
BODY_MOST = 64 * 1024
"""Bytes of an answer that are read; one that is longer counts as complete."""
SERVING = 1
SERVING_STATUS = {0: "UNKNOWN", SERVING: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
"""Of grpc.health.v1.HealthCheckResponse."""
_READ = 16 * 1024


class Unhealthy(PeerError):
    """A check found an endpoint unfit; `reason` is the cause as a phrase."""


class Answer(NamedTuple):
    """A response, and of its body what was read."""

    head: Head
    body: bytes
    trailers: tuple[Field, ...]

    def get(self, name: bytes) -> bytes:
        """A field of the trailers, else of the head; empty if it is in neither."""
        return dict(self.trailers).get(name) or self.head.get(name) or b""


async def check(
    address: str,
    policy: HealthCheck,
    *,
    name: str,
    http2: bool,
    codec: Callable[[Role, Limits], Codec],
    limits: Limits,
    tls: ClientTls | None = None,
    credentials: Credentials | None = None,
    identity: str = "",
    own: Collection[str] = (),
) -> None:
    """Return if the endpoint at `address` is well; raise Unhealthy if not, also where it takes over `policy.timeout`.

    `name` of the service is the authority that is asked for; `codec` makes HTTP/2, which `http2` chooses for a check of
    kind http; `tls`, `credentials` and `identity` are as in `secure`, `own` as in `dial`."""
    http2 = http2 or policy.kind is HealthKind.GRPC
    with trio.move_on_after(policy.timeout):
        try:
            alpn = Alpn.NONE if policy.kind is HealthKind.TCP else Alpn.HTTP2 if http2 else Alpn.HTTP1
            context, sni = await secure(tls, credentials, identity, alpn)
            sock, secured = await dial(
                address,
                connect_timeout=limits.connect_timeout,
                handshake_timeout=limits.handshake_timeout,
                tls=context,
                identity=identity,
                sni=sni,
                own=own,
            )
            with sock:
                if policy.kind is HealthKind.TCP:
                    return
                machine = codec(Role.CLIENT, limits) if http2 else Http1(Role.CLIENT, limits)
                scheme = b"http" if tls is None else b"https"
                if policy.kind is HealthKind.GRPC:
                    head, body = _grpc_request(name, scheme), encode_request(policy.service)
                else:
                    path = policy.path.encode()
                    fields = ((b"user-agent", AGENT), (b"accept", b"*/*"))
                    head = Head.request(b"GET", path, authority=name.encode(), scheme=scheme, fields=fields)
                    body = b""
                answer = await _ask(sock, secured, machine, head, body)
                _judge(policy.kind, answer)
                return
        except ConnectFailed as exc:
            raise Unhealthy(str(exc)) from exc
        except (OSError, TlsError) as exc:
            raise Unhealthy(f"the connection failed: {exc}") from exc
        except UnsendableHead as exc:
            raise Unhealthy(f"the check cannot be sent: {exc}") from exc
    raise Unhealthy(f"no answer within {policy.timeout:.3g} s")


def _judge(kind: HealthKind, answer: Answer) -> None:
    """Raise Unhealthy unless the answer says that the endpoint is well."""
    status = answer.head.status
    if kind is HealthKind.HTTP:
        if not 200 <= status <= 399:
            raise Unhealthy(f"answered {status}")
        return
    if status != 200:
        raise Unhealthy(f"answered {status} instead of a gRPC status")
    code = answer.get(b"grpc-status").decode("ascii", "replace")
    if code != "0":
        message = answer.get(b"grpc-message").decode("ascii", "replace")[:200]
        raise Unhealthy(f"gRPC status {code or 'missing'}{': ' + message if message else ''}")
    try:
        serving = decode_response(answer.body)
    except ValueError as exc:
        raise Unhealthy(f"not a gRPC health answer: {exc}") from exc
    if serving != SERVING:
        raise Unhealthy(f"gRPC health status {SERVING_STATUS.get(serving, serving)}")


async def _ask(sock: socket.socket, tls: Tls | None, codec: Codec, head: Head, body: bytes) -> Answer:
    """One request and its answer on a connection of our own. Raises Unhealthy, OSError, TlsError, UnsendableHead."""
    codec.start()
    stream = codec.send_request(head, not body)
    if body:
        codec.send_data(stream, body, True)
    found: Head | None = None
    parts: list[bytes] = []
    size = 0
    # what came with the handshake's last bytes is the first to be read
    events = codec.receive(tls.receive(b"")) if tls is not None else []
    closed = False
    while True:
        for event in events:
            match event:
                case Response(_, answer, end):
                    found = answer
                    if end:
                        return Answer(answer, b"", ())
                case Data(number, data, end):
                    parts.append(data)
                    size += len(data)
                    codec.acknowledge(number, len(data))
                    if found is not None and (end or size > BODY_MOST):
                        return Answer(found, b"".join(parts), ())
                case Trailers(_, fields):
                    if found is not None:
                        return Answer(found, b"".join(parts), fields)
                case Reset(_, _, _, reason) | Refused(_, reason):
                    raise Unhealthy(f"the answer was cut off: {reason}")
                case Broken(_, detail):
                    raise Unhealthy(detail)
                case _:
                    pass  # 1xx, and GOAWAY, which does not concern this stream if it leaves it alone
        if closed:
            raise Unhealthy("closed the connection without an answer")
        await _flush(sock, tls, codec)
        data = await _receive(sock)
        if not data:
            closed = True
            events = codec.receive_eof()
        else:
            events = codec.receive(tls.receive(data) if tls is not None else data)


async def _flush(sock: socket.socket, tls: Tls | None, codec: Codec) -> None:
    out = codec.take()
    if tls is not None:
        tls.send(out)
        out = tls.take()
    await send_all(sock, out)


async def _receive(sock: socket.socket) -> bytes:
    while True:
        try:
            return sock.recv(_READ)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)


# --- grpc.health.v1, in protocol buffers by hand: one string field, one enum field -----------------------------------


def _grpc_request(name: str, scheme: bytes) -> Head:
    fields = (
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"user-agent", AGENT),
    )
    return Head.request(b"POST", b"/grpc.health.v1.Health/Check", authority=name.encode(), scheme=scheme, fields=fields)


def encode_request(service: str) -> bytes:
    """A gRPC message that holds HealthCheckRequest{service = 1}."""
    text = service.encode()
    message = b"\x0a" + _varint(len(text)) + text if text else b""
    return b"\0" + len(message).to_bytes(4, "big") + message


def decode_response(data: bytes) -> int:
    """The status in a gRPC message that holds HealthCheckResponse{status = 1}. Raises ValueError if it is none."""
    if len(data) < 5 or data[0] != 0:
        raise ValueError("no uncompressed message")
    message = data[5:]
    if int.from_bytes(data[1:5], "big") != len(message):
        raise ValueError("the message's length is wrong")
    status = 0
    read = iter(message)
    for tag in read:
        kind = tag & 7
        if tag & 0x80:
            raise ValueError("an unknown field")
        if kind == 0:
            value = _read_varint(read)
            if tag >> 3 == 1:
                status = value
        elif kind == 2:
            length = _read_varint(read)
            if length > len(message):
                raise ValueError("it ends early")
            for _ in range(length):
                _next(read)
        else:
            raise ValueError("an unknown field")
    return status


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(read: Iterator[int]) -> int:
    value = 0
    for place in range(0, 70, 7):
        byte = _next(read)
        value |= (byte & 0x7F) << place
        if byte < 0x80:
            return value
    raise ValueError("a number without end")


def _next(read: Iterator[int]) -> int:
    for byte in read:
        return byte
    raise ValueError("it ends early")
