"""What is no request: raw TCP both ways, servers that speak first, CONNECT, websockets."""

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import trustme
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tests.end_to_end.curl import VERSIONS, curl
from tests.end_to_end.nginx import SMALL, Nginx
from tests.end_to_end.sidecar import Sidecar, Starter, service, wait_until
from tests.end_to_end.tcp_server import TcpServer, read_head, read_until_eof, serving

SECONDS = 30


@pytest.fixture(scope="module")
def websocket_port() -> Iterator[int]:
    """A server of the `websockets` library that sends back what it gets, and says which path it was asked for."""

    def talk(connection: ServerConnection) -> None:
        assert connection.request is not None
        connection.send(connection.request.path)
        for message in connection:
            connection.send(message)

    with serve(talk, "127.0.0.1", 0, max_size=None, backlog=1024) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join(SECONDS)


@pytest.fixture(scope="module")
def sidecar(
    shared_proxy: Starter, nginx: Nginx, echo_server: TcpServer, greeting_server: TcpServer, websocket_port: int
) -> Sidecar:
    """A proxy before all of them; `echo-any` and `greeter` are found out by what is said."""
    return shared_proxy(
        {
            "echo": service(echo_server.port, protocol="opaque"),
            "echo-any": service(echo_server.port),
            "greeter": service(greeting_server.port),
            "sockets": service(websocket_port),
            "sockets1": service(websocket_port, protocol="http1"),
            "web": service(nginx.http1),
            "web2": service(nginx.http2),
        }
    )


def dial(port: int) -> socket.socket:
    """A connection to a loopback port, whose waits end."""
    return socket.create_connection(("127.0.0.1", port), timeout=SECONDS)


@contextmanager
def tunnel(sidecar: Sidecar, target: str) -> Iterator[socket.socket]:
    """A connection through CONNECT."""
    with dial(sidecar.forward) as sock:
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head, rest = read_head(sock)
        assert head.startswith(b"HTTP/1.1 200"), head
        assert rest == b""
        yield sock


# --- raw TCP --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["echo", "echo-any"])
def test_bytes_go_both_ways_and_half_close_is_passed_on(sidecar: Sidecar, name: str) -> None:
    """What is sent comes back; when the client has closed its direction the rest still comes, and then the end."""
    content = b"\x00\x01" + os.urandom(1_000_000)
    with dial(sidecar.ports[name]) as sock:
        sock.sendall(content[:100])
        assert sock.recv(100, socket.MSG_WAITALL) == content[:100]

        def send() -> None:
            sock.sendall(content[100:])
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert hashlib.sha256(read_until_eof(sock)).digest() == hashlib.sha256(content[100:]).digest()
        sender.join()


def test_the_server_may_close_first(proxy: Starter) -> None:
    """A server's end of its direction reaches the client, which can still send; then its end reaches the server."""
    got: list[bytes] = []

    def handle(sock: socket.socket) -> None:
        sock.sendall(b"that was all")
        sock.shutdown(socket.SHUT_WR)
        got.append(read_until_eof(sock))

    with serving(handle) as server:
        sidecar = proxy({"quiet": service(server.port, protocol="opaque")})
        with dial(sidecar.ports["quiet"]) as sock:
            assert read_until_eof(sock) == b"that was all"
            sock.sendall(b"late words")
        wait_until(lambda: got, "the server has read to the end")
    assert got == [b"late words"]


def test_a_server_that_speaks_first(sidecar: Sidecar) -> None:
    """With detection on, a greeting comes without the client saying a word, and the talk goes on."""
    with dial(sidecar.ports["greeter"]) as sock:
        lines = sock.makefile("rb")
        assert lines.readline() == b"220 mail.test ready\r\n"
        sock.sendall(b"HELO me\r\n")
        assert lines.readline() == b"250 hello\r\n"
        sock.sendall(b"QUIT\r\n")
        assert lines.read() == b"221 bye\r\n"


def test_a_client_that_speaks_at_once_to_a_server_that_speaks_first(sidecar: Sidecar) -> None:
    """Words that are no HTTP are passed on at once, even split byte by byte, and the greeting comes all the same."""
    with dial(sidecar.ports["greeter"]) as sock:
        for byte in b"HELO me\r\n":
            sock.sendall(bytes([byte]))
        lines = sock.makefile("rb")
        assert lines.readline() == b"220 mail.test ready\r\n"
        assert lines.readline() == b"250 hello\r\n"


def test_tunnels_are_counted(sidecar: Sidecar) -> None:
    """A tunnel is one exchange of protocol tcp, and its bytes are counted."""
    before = [sidecar.total("request_total", protocol="tcp", authority="echo", outcome="completed")]
    read = sidecar.total("tcp_read_bytes_total", direction="outbound", authority="echo")
    with dial(sidecar.ports["echo"]) as sock:
        sock.sendall(b"x" * 1000)
        sock.shutdown(socket.SHUT_WR)
        assert read_until_eof(sock) == b"x" * 1000
    wait_until(
        lambda: sidecar.total("request_total", protocol="tcp", authority="echo", outcome="completed") == before[0] + 1,
        "the tunnel is counted",
    )
    assert sidecar.total("tcp_read_bytes_total", direction="outbound", authority="echo") - read == 1000


# --- CONNECT --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_curl_through_a_tunnel(sidecar: Sidecar, nginx: Nginx, version: str) -> None:
    """curl -p to a service and to an address outside: what is inside is detected, and served as HTTP."""
    suffix = "2" if version == "http2" else ""
    before = sidecar.total("request_total", authority=f"web{suffix}", protocol=version)
    answer = curl(f"http://web{suffix}/small", "-p", "-x", sidecar.proxy_url, VERSIONS[version])
    assert (answer.status, answer.body) == (200, SMALL.encode())
    wait_until(
        lambda: sidecar.total("request_total", authority=f"web{suffix}", protocol=version) == before + 1,
        "the request inside is counted",
    )
    port = nginx.http2 if version == "http2" else nginx.http1
    outside = curl(f"http://127.0.0.1:{port}/small", "-p", "-x", sidecar.proxy_url, VERSIONS[version])
    assert outside.body == SMALL.encode()


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_reaches_https_through_a_tunnel(
    sidecar: Sidecar, nginx: Nginx, authority: trustme.CA, version: str
) -> None:
    """TLS of the application itself goes through untouched: curl verifies nginx's own certificate."""
    with authority.cert_pem.tempfile() as anchors:
        url = f"https://127.0.0.1:{nginx.https}/what"
        answer = curl(url, "-x", sidecar.proxy_url, "--cacert", anchors, version)
    assert answer.body == (b"HTTP/2.0" if version == "--http2" else b"HTTP/1.1") + b" GET 127.0.0.1 \n"


def test_raw_bytes_through_a_tunnel(sidecar: Sidecar, echo_server: TcpServer) -> None:
    """Anything at all can be inside, to a service or to an address; half-close is passed on."""
    for target in ("echo:7", "echo-any:7", f"127.0.0.1:{echo_server.port}"):
        with tunnel(sidecar, target) as sock:
            sock.sendall(b"\x00anything")
            sock.shutdown(socket.SHUT_WR)
            assert read_until_eof(sock) == b"\x00anything"


def test_a_tunnel_to_a_server_that_speaks_first(sidecar: Sidecar) -> None:
    """The greeting comes through CONNECT too."""
    with tunnel(sidecar, "greeter:25") as sock:
        assert sock.makefile("rb").readline() == b"220 mail.test ready\r\n"


def test_bytes_right_behind_connect(sidecar: Sidecar) -> None:
    """A client that does not wait for the 200 loses nothing: bytes in the same packet, or after it, are all kept."""
    for gap in (False, True):
        for _ in range(20):
            with dial(sidecar.forward) as sock:
                sock.sendall(b"CONNECT echo:7 HTTP/1.1\r\nHost: echo:7\r\n\r\n" + (b"" if gap else b"\x00early"))
                if gap:
                    sock.sendall(b"\x00early")
                sock.shutdown(socket.SHUT_WR)
                head, rest = read_head(sock)
                assert head.startswith(b"HTTP/1.1 200")
                assert rest + read_until_eof(sock) == b"\x00early"


def test_a_tunnel_to_nobody_ends(sidecar: Sidecar, free_port: object) -> None:
    """A tunnel to a port where nobody listens is ended, and counted as a failure."""
    assert callable(free_port)
    with dial(sidecar.forward) as sock:
        target = f"127.0.0.1:{free_port()}"
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n\0words".encode())
        everything = read_until_eof(sock)
    assert b"words" not in everything
    assert sidecar.total("conduit_refused_total", reason="connect_failed") >= 1


# --- websockets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sockets", "sockets1"])
def test_websocket_through_a_service(sidecar: Sidecar, name: str) -> None:
    """Text, binary, large and empty messages, and the closing handshake."""
    with connect(f"ws://127.0.0.1:{sidecar.ports[name]}/chat?room=1", proxy=None, max_size=None) as sockets:
        assert sockets.recv(SECONDS) == "/chat?room=1"
        for message in ("hé", b"\x00\xff", b"x" * 3_000_000, ""):
            sockets.send(message)
            assert sockets.recv(SECONDS) == message
    assert sockets.close_code == 1000


def test_websocket_through_the_forward_proxy(sidecar: Sidecar) -> None:
    """By CONNECT, as websockets does with a proxy set, and by the Host of an ordinary Upgrade."""
    with connect("ws://sockets/a", proxy=sidecar.proxy_url) as sockets:
        assert sockets.recv(SECONDS) == "/a"
    with connect("ws://sockets1/b", sock=dial(sidecar.forward)) as sockets:
        assert sockets.recv(SECONDS) == "/b"
        sockets.send("over")
        assert sockets.recv(SECONDS) == "over"


def test_a_refused_upgrade_is_an_ordinary_answer(sidecar: Sidecar) -> None:
    """An application that does not upgrade answers as ever, and the connection can go on."""
    with httpx.Client(trust_env=False, timeout=SECONDS) as session:
        headers = {"connection": "upgrade", "upgrade": "websocket"}
        assert session.get(sidecar.url("web", "/small"), headers=headers).text == SMALL
        assert session.get(sidecar.url("web", "/small")).text == SMALL


def test_many_websockets_at_once(sidecar: Sidecar) -> None:
    """A hundred at a time, each with its own words."""
    from websockets.asyncio.client import connect as connect_async

    async def one(number: int) -> bool:
        url = f"ws://127.0.0.1:{sidecar.ports['sockets']}/{number}"
        async with connect_async(url, proxy=None, open_timeout=SECONDS) as sockets:
            assert await sockets.recv() == f"/{number}"
            await sockets.send(f"word {number}")
            return await sockets.recv() == f"word {number}"

    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*map(one, range(100)))

    assert asyncio.run(all_of_them()) == [True] * 100
