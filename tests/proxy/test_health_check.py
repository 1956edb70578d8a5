"""One check: each kind against servers on loopback, and against grpcio's own health service."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import trio
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.config import TlsFiles
from mesh.model.limits import Limits
from mesh.model.traffic import HealthCheck, HealthKind
from mesh.proxy.dial import ClientTls
from mesh.proxy.health_check import BODY_MOST, Unhealthy, check, decode_response, encode_request
from mesh.wire.codec import Codec, Request, Role
from mesh.wire.head import Head
from mesh.wire.http2 import Http2
from mesh.wire.tls import client_context
from tests.proxy.asking import silent

HTTP = HealthCheck(path="/healthz", timeout=10.0)
TCP = HealthCheck(kind=HealthKind.TCP, timeout=10.0)
GRPC = HealthCheck(kind=HealthKind.GRPC, timeout=10.0)


async def cause(address: str, policy: HealthCheck, **more: object) -> str:
    """Why the endpoint is unhealthy; empty if it is not."""
    try:
        await check(
            address, policy, **{"name": "votes.demo", "http2": False, "codec": Http2, "limits": Limits(), **more}
        )
    except Unhealthy as exc:
        return exc.reason
    return ""


def says(answer: bytes, seen: list[bytes] | None = None):
    """A handler that reads a head and says `answer`, then closes."""

    async def handle(stream: trio.abc.Stream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            more = await stream.receive_some()
            if not more:
                return
            data += more
        if seen is not None:
            seen.append(data)
        await stream.send_all(answer)

    return handle


def http2(status: int, seen: list[Head], fields: tuple[tuple[bytes, bytes], ...] = (), body: bytes = b"", trailers=()):
    """A handler that answers one request over HTTP/2."""

    async def handle(stream: trio.abc.Stream) -> None:
        codec: Codec = Http2(Role.SERVER, Limits())
        codec.start()
        while data := await stream.receive_some():
            for event in codec.receive(data):
                if isinstance(event, Request):
                    seen.append(event.head)
                    codec.send_response(event.stream, Head.response(status, fields), not body and not trailers)
                    if body:
                        codec.send_data(event.stream, body, not trailers)
                    if trailers:
                        codec.send_trailers(event.stream, trailers)
            await stream.send_all(codec.take())

    return handle


# --- http -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", ""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 399 Hm\r\ncontent-length: 0\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\n\r\n", ""),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil it closes", ""),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", ""),
        (b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "answered 400"),
        (b"HTTP/1.1 503 Unavailable\r\ncontent-length: 3\r\n\r\nno!", "answered 503"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", "the answer was cut off"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "the answer was cut off"),
        (b"", "the answer was cut off"),
    ],
)
async def test_http1_answers(serve, answer: bytes, expected: str) -> None:
    """200 to 399, complete, is well; anything else is not, and the cause says what it was."""
    found = await cause(await serve(says(answer)), HTTP)
    assert found.startswith(expected)
    assert bool(found) is bool(expected)


async def test_what_is_asked_over_http1(serve) -> None:
    """GET of the path, with the service's name as host, and a name of its own for access logs."""
    seen: list[bytes] = []
    assert await cause(await serve(says(b"HTTP/1.1 204 No Content\r\n\r\n", seen)), HTTP) == ""
    lines = seen[0].split(b"\r\n")
    assert lines[0] == b"GET /healthz HTTP/1.1"
    assert {line.lower() for line in lines[1:]} >= {b"host: votes.demo", b"user-agent: conduit-health"}


@pytest.mark.parametrize(("status", "expected"), [(200, ""), (302, ""), (404, "answered 404"), (500, "answered 500")])
async def test_http2_answers(serve, status: int, expected: str) -> None:
    """The same over HTTP/2, where the service speaks that."""
    seen: list[Head] = []
    address = await serve(http2(status, seen, body=b"hello"))
    assert await cause(address, HTTP, http2=True) == expected
    assert (seen[0].method, seen[0].path, seen[0].authority) == (b"GET", b"/healthz", b"votes.demo")
    assert seen[0].get(b"user-agent") == b"conduit-health"


async def test_http2_without_http2_is_told(serve) -> None:
    """An HTTP/1.1 server that is asked over HTTP/2 is unwell; it does not make the check fail itself."""
    address = await serve(says(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"))
    assert await cause(address, HTTP, http2=True) != ""


async def test_an_answer_without_end_is_read_to_a_bound(serve) -> None:
    """A path that streams for ever is well once BODY_MOST has come."""

    async def stream_on(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b"x" * (BODY_MOST // 4))

    assert await cause(await serve(stream_on), HTTP) == ""


@pytest.mark.parametrize("kind", [HealthKind.HTTP, HealthKind.GRPC])
async def test_silence_is_unhealthy_after_the_timeout(serve, kind: HealthKind) -> None:
    """One deadline over all of it."""
    policy = HealthCheck(kind=kind, timeout=0.05)
    assert await cause(await serve(silent), policy) == "no answer within 0.05 s"


@pytest.mark.parametrize("policy", [HTTP, TCP, GRPC])
async def test_who_refuses_is_unhealthy(refusing: str, policy: HealthCheck) -> None:
    """Of each kind, with what the system says."""
    assert "refused" in await cause(refusing, policy)


async def test_what_cannot_be_sent_is_no_crash(serve) -> None:
    """A path with a line break, which no YAML gets past us, makes the endpoint unhealthy rather than the proxy."""
    found = await cause(await serve(silent), HealthCheck(path="/a\r\nb: c"))
    assert found.startswith("the check cannot be sent")


async def test_a_check_does_not_lead_back_to_this_proxy(serve) -> None:
    """An address of our own is unfit for use."""
    address = await serve(silent)
    assert "itself" in await cause(address, TCP, own={address})


async def test_tcp_connects_and_says_nothing(serve) -> None:
    """A listener is well whatever it would answer; it sees a connection that closes."""
    got = trio.Event()

    async def handle(stream: trio.SocketStream) -> None:
        assert await stream.receive_some() == b""
        got.set()

    assert await cause(await serve(handle), TCP) == ""
    with trio.fail_after(10):
        await got.wait()


# --- tls --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> ClientTls:
    """What we dial with."""
    issued = authority.issue_cert("web.demo")
    paths = [tmp_path / kind for kind in ("cert", "key", "ca")]
    issued.cert_chain_pems[0].write_to_path(paths[0])
    issued.private_key_pem.write_to_path(paths[1])
    authority.cert_pem.write_to_path(paths[2])
    files = TlsFiles(*map(str, paths))
    return ClientTls(client_context(files, alpn=["h2"]), client_context(files, alpn=["http/1.1"]))


async def test_checks_speak_tls(serve, authority: trustme.CA, tls: ClientTls) -> None:
    """Over HTTP/1.1, HTTP/2 and for a bare connection, with the right ALPN; a wrong identity is unhealthy."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("votes.demo").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    seen: list[Head] = []

    async def handle(stream: trio.SocketStream) -> None:
        secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await secured.do_handshake()
            if secured.selected_alpn_protocol() == "h2":
                await http2(200, seen)(secured)
            else:
                await says(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")(secured)
        except trio.BrokenResourceError:
            return

    address = await serve(handle)
    for policy in (HTTP, TCP):
        assert await cause(address, policy, tls=tls, identity="votes.demo") == ""
        assert "not for other.demo" in await cause(address, policy, tls=tls, identity="other.demo")
    assert await cause(address, HTTP, tls=tls, identity="votes.demo", http2=True) == ""
    assert seen[0].scheme == b"https"


# --- gRPC -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def servicer() -> Iterator[tuple[str, health.HealthServicer]]:
    """grpcio's health service: its address and where its statuses are set."""
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        server.stop(0).wait()


async def test_grpcio_is_asked(servicer: tuple[str, health.HealthServicer]) -> None:
    """SERVING is well, for the whole server and for one service; NOT_SERVING and an unknown service are not."""
    address, statuses = servicer
    votes = HealthCheck(kind=HealthKind.GRPC, service="votes.Votes", timeout=10.0)
    assert await cause(address, GRPC) == ""
    assert await cause(address, votes) == "gRPC status 5"
    statuses.set("votes.Votes", health_pb2.HealthCheckResponse.SERVING)
    assert await cause(address, votes) == ""
    statuses.set("votes.Votes", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert await cause(address, votes) == "gRPC health status NOT_SERVING"
    statuses.enter_graceful_shutdown()
    assert await cause(address, GRPC) == "gRPC health status NOT_SERVING"


SERVING = b"\0\0\0\0\x02\x08\x01"
OK = ((b"grpc-status", b"0"),)


@pytest.mark.parametrize(
    ("status", "fields", "body", "trailers", "expected"),
    [
        (200, (), SERVING, OK, ""),
        (200, (), b"\0\0\0\0\0", OK, "gRPC health status UNKNOWN"),
        (200, (), b"\0\0\0\0\x02\x08\x09", OK, "gRPC health status 9"),
        (200, (), SERVING[:-1], OK, "not a gRPC health answer: the message's length is wrong"),
        (200, (), b"", OK, "not a gRPC health answer: no uncompressed message"),
        (200, (), SERVING, (), "gRPC status missing"),
        (
            200,
            ((b"grpc-status", b"12"), (b"grpc-message", b"no such method")),
            b"",
            (),
            "gRPC status 12: no such method",
        ),
        (404, (), b"", (), "answered 404 instead of a gRPC status"),
    ],
)
async def test_grpc_answers(serve, status: int, fields, body: bytes, trailers, expected: str) -> None:
    """A message that says SERVING and a status of 0 is well; the cause says what was wrong with any other."""
    assert await cause(await serve(http2(status, [], fields, body, trailers)), GRPC) == expected


@given(st.text(max_size=300))
def test_requests_are_what_grpcio_reads(service: str) -> None:
    """Our bytes are the message that protocol buffers make of the same service."""
    message = encode_request(service)
    assert message[5:] == health_pb2.HealthCheckRequest(service=service).SerializeToString()
    assert int.from_bytes(message[1:5], "big") == len(message) - 5


@given(st.integers(0, 2**31 - 1))
def test_responses_of_grpcio_are_read(status: int) -> None:
    """Every status, known or not, is what was written; 0 is written as nothing at all."""
    message = health_pb2.HealthCheckResponse.FromString(b"")
    message.status = status
    data = message.SerializeToString()
    assert decode_response(b"\0" + len(data).to_bytes(4, "big") + data) == status


@given(st.binary(max_size=40))
def test_any_bytes_are_a_status_or_refused(data: bytes) -> None:
    """No message makes the decoder fail in another way, or read past its end."""
    message = b"\0" + len(data).to_bytes(4, "big") + data
    try:
        status = decode_response(message)
    except ValueError:
        status = 0
    assert status >= 0


@pytest.mark.parametrize(
    ("message", "status"), [(b"\x12\x02hi\x08\x01", 1), (b"\x18\x96\x01\x08\x02", 2), (b"\x08\x01\x08\x03", 3)]
)
def test_fields_that_may_come_later_are_passed_over(message: bytes, status: int) -> None:
    """Unknown strings and numbers are ignored, and the last status counts, as protocol buffers have it."""
    assert decode_response(b"\0" + len(message).to_bytes(4, "big") + message) == status
