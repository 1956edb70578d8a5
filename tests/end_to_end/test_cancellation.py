"""A client that goes away in the middle: the application learns of it at once, and the proxy keeps nothing of it."""

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator

import h2.events
import pytest
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tests.end_to_end import grpc_server
from tests.end_to_end.http1_peer import Http1Server, http1_serving
from tests.end_to_end.http2_peer import Http2Client, Http2Server, http2_serving
from tests.end_to_end.scale import CANCELLATIONS
from tests.end_to_end.sidecar import Sidecar, Starter, service, wait_until
from tests.end_to_end.tcp_server import TcpServer, echo, read_until_eof, reset, serving

SECONDS = 30.0
PROMPT = 10.0
"""Seconds in which the application must know on any machine; what it really took is printed."""
STAGES = {"/hold": "waiting", "/stream": "reading", "/upload": "writing"}

Leaver = Callable[[int, str], Callable[[], None]]
"""Begins a request for a path at a port, and returns what makes the client go away."""


# --- clients --------------------------------------------------------------------------------------


def begin_http1(port: int, path: str) -> Callable[[], None]:
    """A client that closes its connection."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    if path == "/upload":
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: web\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000))
    else:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: web\r\n\r\n".encode())
    if path == "/stream":
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
    return sock.close


def begin_http1_reset(port: int, path: str) -> Callable[[], None]:
    """A client whose machine resets the connection."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    sock.sendall(f"POST {path} HTTP/1.1\r\nHost: web\r\nContent-Length: 5000\r\n\r\n".encode() + bytes(1000))
    if path == "/stream":
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
    return lambda: reset(sock)


def _open_http2(port: int, path: str) -> tuple[Http2Client, int]:
    client = Http2Client(port)
    stream = client.request(path, method="POST" if path == "/upload" else "GET", end=path != "/upload")
    if path == "/upload":
        client.connection.send_data(stream, bytes(1000))
        client.flush()
    if path == "/stream":
        while not any(isinstance(event, h2.events.ResponseReceived) for event in client.receive()):
            assert not client.lost
    return client, stream


def begin_http2(port: int, path: str) -> Callable[[], None]:
    """A client that resets its stream and keeps the connection."""
    client, stream = _open_http2(port, path)
    kept.append(client)
    return lambda: client.reset(stream)


def begin_http2_close(port: int, path: str) -> Callable[[], None]:
    """A client that closes its connection with the stream open."""
    return _open_http2(port, path)[0].close


kept: list[Http2Client] = []


@pytest.fixture(autouse=True)
def close_kept() -> Iterator[None]:
    """Connections that outlive a reset of their stream end with the test."""
    yield
    while kept:
        kept.pop().close()


CLIENTS: dict[str, Leaver] = {
    "http1-close": begin_http1,
    "http1-reset": begin_http1_reset,
    "http2-reset": begin_http2,
    "http2-close": begin_http2_close,
}


def ask(port: int) -> None:
    """One request that is answered, on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
        sock.sendall(b"GET /ok HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
        assert read_until_eof(sock).endswith(b"ok")


# --- servers --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def http1() -> Iterator[Http1Server]:
    """Tells when clients leave."""
    with http1_serving() as server:
        yield server


@pytest.fixture(scope="module")
def http2() -> Iterator[Http2Server]:
    """Tells when clients leave."""
    with http2_serving() as server:
        yield server


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, http1: Http1Server, http2: Http2Server, grpc_port: int) -> Sidecar:
    """A proxy before both, and the gRPC server."""
    return shared_proxy(
        {
            "http1": service(http1.tcp.port, protocol="http1"),
            "http2": service(http2.tcp.port, protocol="http2"),
            "grpc": service(grpc_port),
        }
    )


def seen(events: "queue.Queue[tuple[str, float]]", what: str) -> float:
    """When (monotonic seconds) the next event came, which must be `what`."""
    kind, when = events.get(timeout=SECONDS)
    assert kind == what
    return when


def check_prompt(took: list[float]) -> None:
    """The longest time must be short on any machine; what it was is printed (pytest -rP)."""
    print(f"the application knew after {max(took) * 1000:.1f} ms at most")
    assert max(took) < PROMPT


def back_to(sidecar: Sidecar, before: list[str]) -> None:
    """As many tasks as before; shown line by line where that does not come true."""
    last: list[str] = []

    def same() -> bool:
        nonlocal last
        last = sidecar.tasks()
        return len(last) == len(before)

    try:
        wait_until(same, "the number of tasks is what it was")
    except AssertionError as exc:
        raise AssertionError("\n".join(["before:", *before, "after:", *last])) from exc


# --- the tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", STAGES, ids=STAGES.values())
@pytest.mark.parametrize("upstream", ["http1", "http2"])
@pytest.mark.parametrize("client", CLIENTS)
def test_the_application_learns_that_the_client_has_gone(
    sidecar: Sidecar,
    http1: Http1Server,
    http2: Http2Server,
    client: str,
    upstream: str,
    path: str,
) -> None:
    """Whatever the client speaks and however it goes, its request ends at the application, and no task is left."""
    server = http1 if upstream == "http1" else http2
    port = sidecar.ports[upstream]
    ask(port)
    server.events.get(timeout=SECONDS)
    wait_until(lambda: not [line for line in sidecar.tasks() if line.strip().startswith("connection 127")], "all left")
    before = sidecar.tasks()
    took = []
    for _ in range(CANCELLATIONS):
        leave = CLIENTS[client](port, path)
        seen(server.events, "entered")
        began = time.monotonic()
        leave()
        took.append(seen(server.events, "left") - began)
    assert server.active == 0
    while kept:
        kept.pop().close()
    ask(port)
    seen(server.events, "entered")
    back_to(sidecar, before)
    check_prompt(took)


def one_message(done: threading.Event) -> Iterator[bytes]:
    """A stream of requests that does not end before `done`."""
    yield b"one"
    done.wait(SECONDS)


@pytest.mark.parametrize("method", ["Hold", "HoldStream", "HoldUpload"])
@pytest.mark.parametrize("how", ["cancel", "channel"])
def test_grpc_calls_that_are_cancelled(sidecar: Sidecar, how: str, method: str) -> None:
    """A cancelled call, or a closed channel, cancels the call at the server."""
    took = []
    before: list[str] = []
    for _ in range(CANCELLATIONS):
        with grpc_server.channel(sidecar.ports["grpc"]) as channel:
            assert grpc_server.stub(channel, "Unary")(b"x", timeout=SECONDS) == b"x"
            before = before or sidecar.tasks()
            stub = grpc_server.stub(channel, method)
            done = threading.Event()
            request: object = one_message(done) if method == "HoldUpload" else b""
            call = stub(request) if method == "HoldStream" else stub.future(request)
            grpc_server.entered.get(timeout=SECONDS)
            began = time.monotonic()
            if how == "cancel":
                call.cancel()
            else:
                channel.close()
            took.append(grpc_server.left.get(timeout=SECONDS) - began)
            done.set()
    wait_until(lambda: len(sidecar.tasks()) == len(before) - 1, "only the client's connection is gone")
    check_prompt(took)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("protocol", ["opaque", "detect"])
def test_tunnels_whose_client_goes(proxy: Starter, protocol: str, how: str) -> None:
    """The end or the reset of a raw connection reaches the application, and both connections are gone."""
    gone: queue.Queue[float] = queue.Queue()

    def handle(sock: socket.socket) -> None:
        sock.sendall(b"hello")
        try:
            while sock.recv(65536):
                pass
        finally:
            gone.put(time.monotonic())

    with serving(handle) as server:
        sidecar = proxy({"raw": service(server.port, protocol=protocol)})
        before = sidecar.tasks()
        took = []
        for _ in range(CANCELLATIONS):
            sock = socket.create_connection(("127.0.0.1", sidecar.ports["raw"]), timeout=SECONDS)
            sock.sendall(b"\0" * 10)
            assert sock.recv(5, socket.MSG_WAITALL) == b"hello"
            began = time.monotonic()
            sock.close() if how == "close" else reset(sock)
            took.append(gone.get(timeout=SECONDS) - began)
        wait_until(lambda: server.open == 0, "no connection to the application is left")
        back_to(sidecar, before)
        check_prompt(took)


def test_the_server_of_a_tunnel_goes(proxy: Starter) -> None:
    """A reset by the application reaches the client as the end of its connection, and nothing is left."""

    def handle(sock: socket.socket) -> None:
        sock.recv(10)
        reset(sock)

    with serving(handle) as server:
        sidecar = proxy({"raw": service(server.port, protocol="opaque")})
        before = sidecar.tasks()
        for _ in range(CANCELLATIONS):
            with socket.create_connection(("127.0.0.1", sidecar.ports["raw"]), timeout=SECONDS) as sock:
                sock.sendall(b"\0")
                try:
                    assert sock.recv(10) == b""
                except ConnectionResetError:
                    continue  # this will do as well
        back_to(sidecar, before)


def test_websockets_whose_client_goes(proxy: Starter) -> None:
    """A lost websocket client is lost to the application as well."""
    gone: queue.Queue[float] = queue.Queue()

    def talk(connection: ServerConnection) -> None:
        try:
            for message in connection:
                connection.send(message)
        finally:
            gone.put(time.monotonic())

    with serve(talk, "127.0.0.1", 0, backlog=1024) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        sidecar = proxy({"sockets": service(server.socket.getsockname()[1])})
        took = []
        before: list[str] = []
        for _ in range(CANCELLATIONS):
            before = before or sidecar.tasks()
            with connect(f"ws://127.0.0.1:{sidecar.ports['sockets']}/", proxy=None) as sockets:
                sockets.send("word")
                assert sockets.recv(SECONDS) == "word"
                began = time.monotonic()
                sockets.socket.shutdown(socket.SHUT_RDWR)
                took.append(gone.get(timeout=SECONDS) - began)
        server.shutdown()
        thread.join(SECONDS)
    # the service's endpoint is a task since the first call
    wait_until(lambda: len(sidecar.tasks()) <= len(before) + 1, "the number of tasks is what it was")
    check_prompt(took)


def test_clients_that_leave_before_they_are_understood(proxy: Starter) -> None:
    """Half a request line, half a preface, half a ClientHello, nothing: no task is left, and nothing was dialled."""
    server = TcpServer(echo)
    try:
        sidecar = proxy(
            {"web": service(server.port, protocol="http1")}, inbound=[{"forward": f"127.0.0.1:{server.port}"}]
        )
        before = sidecar.tasks()
        for port in (sidecar.ports["web"], sidecar.inbound[0], sidecar.forward):
            for beginning in (b"", b"GE", b"GET / HTTP/1.1\r\nHos", b"PRI * HT", b"\x16\x03\x01"):
                with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
                    sock.sendall(beginning)
        back_to(sidecar, before)
    finally:
        server.close()
