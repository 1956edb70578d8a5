"""HTTP/1.1 between two applications with proxies travels as HTTP/2 between their proxies, and neither can tell.

The wire between the proxies is a relay of the test's, which sees what is spoken on it.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from websockets.sync.client import connect

from tests.end_to_end.asking import ask, client, together
from tests.end_to_end.failing import Order, clear, digest
from tests.end_to_end.failing_raw import PREFACE, Raw, raw_serving
from tests.end_to_end.failing_web import Web, web_servers
from tests.end_to_end.relay import Relay, relaying
from tests.end_to_end.sidecar import Sidecar, Starter, service, wait_until
from tests.end_to_end.tcp_server import read_until_eof

CROWD = 8


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    """Hypercorn, which would speak HTTP/2 as well."""
    with web_servers() as webs:
        yield webs.add("web")


@pytest.fixture(scope="module")
def raw() -> Iterator[Raw]:
    """A server whose view of a head is exact."""
    with raw_serving("raw") as raw:
        yield raw


@pytest.fixture(scope="module")
def wires() -> Iterator[dict[str, Relay]]:
    """One before each application's proxy."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(relaying()) for name in ("web", "raw")}


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, web: Web, raw: Raw, wires: dict[str, Relay]) -> Sidecar:
    """The caller's proxy."""
    inner = shared_proxy(
        inbound=[
            {"forward": f"127.0.0.1:{web.port}", "service": "web"},
            {"forward": f"127.0.0.1:{raw.port}", "service": "raw"},
        ]
    )
    wires["web"].target, wires["raw"].target = inner.inbound
    services = {
        name: {"endpoints": [{"address": f"127.0.0.1:{wire.port}", "meshed": True}]} for name, wire in wires.items()
    }
    return shared_proxy({**services, "direct": service(raw.port)})


@pytest.fixture(autouse=True)
def fresh(web: Web, raw: Raw) -> None:
    """Both have seen nothing."""
    clear(web.board, raw.board)


def test_one_connection_between_proxies(sidecar: Sidecar, web: Web, wires: dict[str, Relay]) -> None:
    """Many connections of HTTP/1.1 clients are streams of one HTTP/2 connection, and HTTP/1.1 at the server."""
    assert ask(sidecar, "web").version == "HTTP/1.1"
    web.board.always(Order(delay=0.2))
    answers = together(CROWD, lambda: ask(sidecar, "web", "/crowd", method="POST", body=b"words"))
    assert {(answer.status, answer.text, answer.version) for answer in answers} == {(200, "web", "HTTP/1.1")}
    assert web.board.most > 1
    assert {(one.version, one.digest) for one in web.board.seen("/crowd")} == {("1.1", digest(b"words"))}
    spoken = [first for first in wires["web"].firsts if first]  # one that was dialled early and not used says nothing
    assert [first[: len(PREFACE)] for first in spoken] == [PREFACE]


def test_http2_stays_http2(sidecar: Sidecar, web: Web) -> None:
    """A client that speaks HTTP/2 finds a server that does."""
    assert ask(sidecar, "web", version="http2").version == "HTTP/2"
    assert [one.version for one in web.board.seen()] == ["2"]


HEADERS = {"x-test": "a, b", "cookie": "a=1; b=2", "accept": "*/*", "user-agent": "test/1", "authorization": "Basic x"}


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_requests_arrive_as_they_were(sidecar: Sidecar, raw: Raw, method: str) -> None:
    """The server sees what it would see of a direct request through one proxy, and nothing of the way."""
    body = bytes(5000) if method == "POST" else None
    for name in ("direct", "raw"):
        headers = {**HEADERS, "host": "shop.test"}
        answer = ask(sidecar, name, "/a%20b//c;d?x=%2F&y", method=method, headers=headers, body=body)
        assert (answer.status, answer.text) == (200, "raw")
    direct, meshed = raw.board.seen()
    assert meshed.version == "1.1"
    assert (meshed.method, meshed.path, meshed.query) == (method, "/a%20b//c;d", "x=%2F&y")
    assert (meshed.size, meshed.digest) == (direct.size, direct.digest)
    assert {key: meshed.headers[key] for key in HEADERS} == HEADERS
    assert meshed.headers["host"] == "shop.test"
    assert "conduit-orig-proto" not in meshed.headers
    assert set(meshed.headers) - {"conduit-timeout-ms"} == set(direct.headers)


def test_chunked_bodies(sidecar: Sidecar, raw: Raw) -> None:
    """A body whose length nobody knew arrives whole."""
    with client() as session:
        got = session.post(sidecar.url("raw"), content=iter([b"some ", b"words"]))
    assert got.status_code == 200
    assert raw.board.seen()[0].digest == digest(b"some words")


def test_clients_that_ask_to_close(sidecar: Sidecar) -> None:
    """`Connection: close` is between the client and its proxy: it is answered, and closed."""
    with socket.create_connection(("127.0.0.1", sidecar.ports["raw"]), timeout=20) as sock:
        sock.sendall(b"GET /close HTTP/1.1\r\nHost: raw\r\nConnection: close\r\n\r\n")
        answer = read_until_eof(sock)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\nraw")


def test_heads_and_empty_answers(sidecar: Sidecar, web: Web) -> None:
    """HEAD has its lengths and no body; 204 and 304 have none."""
    web.board.next(Order(body=b"x" * 500))
    head = ask(sidecar, "web", method="HEAD")
    assert (head.status, head.headers["content-length"], head.text) == (200, "500", "")
    web.board.next(Order(status=404, headers=(("x-a", "1"), ("x-a", "2"))))
    missing = ask(sidecar, "web")
    assert (missing.status, missing.headers["x-a"]) == (404, "1, 2")


def test_websockets(sidecar: Sidecar, web: Web) -> None:
    """A websocket goes through, both ways, text and bytes, and its end is seen."""
    with connect(f"ws://127.0.0.1:{sidecar.ports['web']}/socket", proxy=None) as session:
        for words in ("hello", b"\x00\xff", "x" * 70_000):
            session.send(words)
            assert session.recv(timeout=20) == words
    wait_until(lambda: len(web.board.left) == 1, "the server sees it end")
    assert web.board.count("/socket") == 1


def test_server_sent_events(sidecar: Sidecar, web: Web) -> None:
    """Each event is passed on when it is sent; a client that leaves is seen to leave."""
    web.board.always(Order(parts=3, delay=0.1, body=b"data: x\n\n"))
    assert ask(sidecar, "web", "/events").text == "data: x\n\n" * 3
    web.board.always(Order(parts=2, delay=1.5, body=b"data: x\n\n"))
    with client() as session, session.stream("GET", sidecar.url("web", "/events")) as stream:
        assert next(stream.iter_bytes()) == b"data: x\n\n"
    wait_until(lambda: len(web.board.left) == 1, "the server sees the client leave")


def test_cancellation(sidecar: Sidecar, web: Web) -> None:
    """An HTTP/1.1 client that goes away is a stream that is reset between the proxies, and a closed connection."""
    web.board.always(Order(hang=True))
    with client(seconds=0.2) as session, pytest.raises(Exception, match="timed out"):
        ask(sidecar, "web", by=session)
    wait_until(lambda: len(web.board.left) == 1, "the server sees it")
