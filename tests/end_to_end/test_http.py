"""Ordinary HTTP clients and servers, one of each kind on either side of the proxy."""

import hashlib
import os
import queue
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import requests

from tests.end_to_end.curl import VERSIONS, curl
from tests.end_to_end.http2_peer import Http2Server, http2_serving
from tests.end_to_end.nginx import SMALL, Nginx
from tests.end_to_end.sidecar import Sidecar, Starter, service
from tests.end_to_end.tcp_server import TcpServer, read_head, serving

SERVICES = ("web1", "web2", "any")


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, nginx: Nginx) -> Sidecar:
    """nginx as a service of each protocol; `any` listens where the protocol is whatever the client speaks."""
    return shared_proxy(
        {
            "web1": service(nginx.http1, protocol="http1"),
            "web2": service(nginx.http2, protocol="http2"),
            "any": service(nginx.http1),
            "any2": service(nginx.http2),
        }
    )


@pytest.fixture(params=["http1", "http2"])
def client(request: pytest.FixtureRequest) -> str:
    """The version that curl speaks."""
    return str(request.param)


@pytest.fixture(params=["web1", "web2", "detect"])
def name(request: pytest.FixtureRequest, client: str) -> str:
    """A service: HTTP/1.1, HTTP/2, or one that gets what the client speaks."""
    if request.param == "detect":
        return "any" if client == "http1" else "any2"
    return str(request.param)


def spoken(name: str) -> str:
    """What nginx calls the protocol that must have reached it."""
    return "HTTP/2.0" if name.endswith("2") else "HTTP/1.1"


def test_curl_gets(sidecar: Sidecar, client: str, name: str) -> None:
    """Either version reaches either kind of service, with its path, authority and headers."""
    answer = curl(sidecar.url(name, "/what?x=1"), VERSIONS[client], "-H", "x-test: yes", "-H", "Host: web.test")
    assert (answer.status, answer.body) == (200, f"{spoken(name)} GET web.test yes\n".encode())


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/missing", 404, b"nothing here\n"), ("/broken", 500, b"broken\n"), ("/empty", 204, b"")],
)
def test_curl_sees_the_application_s_errors(
    sidecar: Sidecar, client: str, name: str, path: str, status: int, body: bytes
) -> None:
    """An error of the application is passed on as it is, without a conduit-error."""
    answer = curl(sidecar.url(name, path), VERSIONS[client])
    assert (answer.status, answer.body) == (status, body)
    assert "conduit-error" not in answer.heads


def test_curl_heads(sidecar: Sidecar, client: str, name: str) -> None:
    """HEAD has the length of the body, and no body."""
    answer = curl(sidecar.url(name, "/small"), VERSIONS[client], "--head")
    assert answer.status == 200
    assert f"content-length: {len(SMALL)}\n" in answer.heads


def test_head_leaves_the_connection_as_it_was(sidecar: Sidecar, client: str, name: str) -> None:
    """HEAD, 204 and 304 have no body, whatever their heads say, and the next request on the connection gets its own."""
    with httpx.Client(http1=client == "http1", http2=client == "http2", trust_env=False, timeout=30) as session:
        tag = session.get(sidecar.url(name, "/page.txt")).headers["etag"]
        before = sidecar.total("tcp_open_total", direction="outbound", authority=name)
        for _ in range(3):
            assert session.head(sidecar.url(name, "/small")).headers["content-length"] == str(len(SMALL))
            assert session.get(sidecar.url(name, "/empty")).status_code == 204
            cached = session.get(sidecar.url(name, "/page.txt"), headers={"if-none-match": tag})
            assert (cached.status_code, cached.content) == (304, b"")
            assert session.get(sidecar.url(name, "/small")).text == SMALL
        assert sidecar.total("tcp_open_total", direction="outbound", authority=name) == before


def test_curl_uploads(sidecar: Sidecar, nginx: Nginx, client: str, name: str, tmp_path: Path) -> None:
    """A file that is PUT arrives byte for byte, and comes back byte for byte, with its ETag honoured."""
    content = os.urandom(3_000_001)
    (tmp_path / "up").write_bytes(content)
    path = f"/put/{client}-{name}"
    answer = curl(sidecar.url(name, path), VERSIONS[client], "-T", tmp_path / "up")
    assert answer.status == 201
    assert (nginx.files / path[1:]).read_bytes() == content
    down = curl(sidecar.url(name, path), VERSIONS[client])
    assert hashlib.sha256(down.body).digest() == hashlib.sha256(content).digest()
    part = curl(sidecar.url(name, path), VERSIONS[client], "--range", "1000-1999")
    assert (part.status, part.body) == (206, content[1000:2000])
    tag = next(line for line in down.heads.splitlines() if line.startswith("etag: ")).removeprefix("etag: ")
    cached = curl(sidecar.url(name, path), VERSIONS[client], "-H", f"If-None-Match: {tag}")
    assert (cached.status, cached.body) == (304, b"")
    assert curl(sidecar.url(name, path), VERSIONS[client], "-X", "DELETE").status == 204


def test_curl_posts_without_a_length(sidecar: Sidecar, nginx: Nginx, client: str, name: str, tmp_path: Path) -> None:
    """A body of unknown length (chunked, in HTTP/1.1) arrives whole."""
    (tmp_path / "up").write_bytes(b"0123456789" * 10_000)
    path = f"/put/chunked-{client}-{name}"
    options = (VERSIONS[client], "-X", "PUT", "-H", "Transfer-Encoding: chunked" if client == "http1" else "x-none: 1")
    answer = curl(sidecar.url(name, path), *options, "-T", tmp_path / "up")
    assert answer.status == 201
    assert (nginx.files / path[1:]).read_bytes() == b"0123456789" * 10_000


def test_curl_waits_for_100_continue(sidecar: Sidecar, nginx: Nginx, tmp_path: Path) -> None:
    """With Expect: 100-continue the client is told to go on by the application, and its body arrives."""
    (tmp_path / "up").write_bytes(b"x" * 100_000)
    options = ("--http1.1", "-H", "Expect: 100-continue", "--expect100-timeout", "60", "--max-time", "30")
    answer = curl(sidecar.url("web1", "/put/expect"), *options, "-T", tmp_path / "up")
    assert answer.status == 201
    assert answer.heads.startswith("http/1.1 100 ")
    assert (nginx.files / "put/expect").stat().st_size == 100_000


def test_curl_goes_on_without_100_continue(sidecar: Sidecar, nginx: Nginx, tmp_path: Path) -> None:
    """nginx does not answer Expect over HTTP/2: the body of a client that stops waiting arrives all the same."""
    (tmp_path / "up").write_bytes(b"x" * 100_000)
    options = ("--http1.1", "-H", "Expect: 100-continue", "--expect100-timeout", "0.1")
    assert curl(sidecar.url("web2", "/put/expect2"), *options, "-T", tmp_path / "up").status == 201
    assert (nginx.files / "put/expect2").stat().st_size == 100_000


@pytest.mark.parametrize("version", VERSIONS)
def test_curl_sees_trailers(sidecar: Sidecar, version: str) -> None:
    """Trailers of the response come after its body; over HTTP/1.1 to a client that says it wants them."""
    options = ("-H", "TE: trailers", "-H", "Connection: TE") if version == "http1" else ()
    answer = curl(sidecar.url("web1", "/trailers/page.txt"), VERSIONS[version], *options)
    assert answer.body == b"a page\n" * 100
    head, _, trailers = answer.heads.partition("\n\n")
    assert "x-checksum" not in head.replace("trailer: x-checksum", "")
    assert "x-checksum: cafe" in trailers


@pytest.mark.parametrize("client", ["http1"], indirect=True)
def test_keep_alive_is_kept(sidecar: Sidecar, client: str, name: str) -> None:
    """Many requests of one curl use one connection to the proxy, and one or none that is new to nginx."""
    before = sidecar.total("tcp_open_total", direction="outbound", authority=name)
    url = sidecar.url(name, "/small?[1-20]")
    answer = curl(url, VERSIONS[client])
    assert answer.body.count(SMALL.encode()[:-1]) == 20
    assert sidecar.total("tcp_open_total", direction="outbound", authority=name) - before <= 2


@pytest.mark.parametrize("name", ["web1", "web2"])
def test_requests_uses_a_session(sidecar: Sidecar, name: str) -> None:
    """requests, with a session: GET, POST and streaming of a response."""
    with requests.Session() as session:
        session.trust_env = False
        for _ in range(3):
            assert session.get(sidecar.url(name, "/small"), timeout=30).text == SMALL
        assert session.put(sidecar.url(name, "/put/requests"), data=b"abc", timeout=30).status_code in {201, 204}
        with session.get(sidecar.url(name, "/put/requests"), stream=True, timeout=30) as response:
            assert b"".join(response.iter_content(1)) == b"abc"


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("name", ["web1", "web2"])
async def test_httpx_asks_in_parallel(sidecar: Sidecar, name: str, http2: bool) -> None:
    """httpx with either version, on Trio, thirty requests at a time on its pool."""
    import trio

    results: list[str] = []
    async with httpx.AsyncClient(http1=not http2, http2=http2, trust_env=False, timeout=30) as session:

        async def ask() -> None:
            response = await session.get(sidecar.url(name, "/small"))
            results.append(response.text)

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(ask)
    assert results == [SMALL] * 30


# --- through the listener without a service -------------------------------------------------------


def test_curl_through_the_forward_proxy(sidecar: Sidecar, nginx: Nginx) -> None:
    """-x: absolute-form by a service's name, and by an address outside the mesh; nginx gets origin-form."""
    by_name = curl("http://web1/what", "-x", sidecar.proxy_url)
    assert by_name.body == b"HTTP/1.1 GET web1 \n"
    to_http2 = curl("http://web2/what", "-x", sidecar.proxy_url)
    assert to_http2.body == b"HTTP/2.0 GET web2 \n"
    outside = curl(f"http://127.0.0.1:{nginx.http1}/what", "-x", sidecar.proxy_url)
    assert outside.body == b"HTTP/1.1 GET 127.0.0.1 \n"


def test_curl_by_authority(sidecar: Sidecar) -> None:
    """Without a proxy setting, the listener finds the service by Host or :authority."""
    for version in VERSIONS.values():
        answer = curl(sidecar.proxy_url + "/what", version, "-H", "Host: web2:80")
        assert answer.body == b"HTTP/2.0 GET web2 \n"


def test_libraries_through_the_forward_proxy(sidecar: Sidecar) -> None:
    """requests and httpx with the proxy set as HTTP_PROXY sets it."""
    proxies = {"http": sidecar.proxy_url}
    assert requests.get("http://web1/small", proxies=proxies, timeout=30).text == SMALL
    with httpx.Client(proxy=sidecar.proxy_url, trust_env=False, timeout=30) as session:
        assert session.get("http://web2/small").text == SMALL


def test_an_unknown_name_is_told(sidecar: Sidecar) -> None:
    """A name that resolves to nothing: one line that says so, and the reason in a header."""
    answer = curl("http://no-such-service.invalid/", "-x", sidecar.proxy_url)
    assert answer.status in {502, 503}
    assert "conduit-error: connect_failed" in answer.heads
    assert b"no-such-service.invalid" in answer.body
    assert answer.body.count(b"\n") == 1


# --- streaming ------------------------------------------------------------------------------------


@pytest.fixture
def ticker() -> Iterator[tuple[TcpServer, "queue.Queue[bytes]"]]:
    """An event stream over HTTP/1.1: what is put into the queue is sent as a chunk; b"" ends it."""
    lines: queue.Queue[bytes] = queue.Queue()

    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            line = lines.get(timeout=30)
            sock.sendall(b"%x\r\n%b\r\n" % (len(line), line))
            if not line:
                return

    with serving(handle) as server:
        yield server, lines


@pytest.mark.parametrize("http2", [False, True])
def test_events_arrive_one_by_one(proxy: Starter, ticker: tuple[TcpServer, "queue.Queue[bytes]"], http2: bool) -> None:
    """Each event of an SSE stream is seen before the next one is sent: nothing is held until a buffer is full."""
    server, lines = ticker
    sidecar = proxy({"events": service(server.port, protocol="http1")})
    with (
        httpx.Client(http1=not http2, http2=http2, trust_env=False, timeout=30) as session,
        session.stream("GET", sidecar.url("events")) as response,
    ):
        got = response.iter_raw()
        for number in range(5):
            line = b"data: %d\n\n" % number
            lines.put(line)
            assert next(got) == line
        lines.put(b"")
        assert list(got) == []


@pytest.fixture
def reference() -> Iterator[Http2Server]:
    """The `h2` library's server."""
    with http2_serving() as server:
        yield server


def test_request_trailers_cross_over(proxy: Starter, reference: Http2Server) -> None:
    """Trailers of a chunked HTTP/1.1 request are trailers of the HTTP/2 request, and the body is whole."""
    sidecar = proxy({"web": service(reference.tcp.port, protocol="http2")})
    with socket.create_connection(("127.0.0.1", sidecar.ports["web"]), timeout=30) as sock:
        sock.sendall(b"GET /ok HTTP/1.1\r\nHost: web\r\n\r\n")  # the connection upstream is open after this
        assert b"200" in sock.recv(65536)
        sock.sendall(
            b"POST /upload HTTP/1.1\r\nHost: web\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n"
        )
        answer = b""
        while not answer.endswith(hashlib.sha256(b"abc").hexdigest().encode()):
            data = sock.recv(65536)
            assert data, answer
            answer += data
    assert ("x-sum", "42") in reference.trailers.get(timeout=30)


def test_response_trailers_cross_over(proxy: Starter, reference: Http2Server) -> None:
    """Trailers of an HTTP/2 response come after its body, and end a chunked HTTP/1.1 response where they are wanted."""
    sidecar = proxy({"web": service(reference.tcp.port, protocol="http2")})
    answer = curl(sidecar.url("web", "/trailers"), "--http1.1", "-H", "TE: trailers", "-H", "Connection: TE")
    assert answer.body == b"body"
    assert "transfer-encoding: chunked" in answer.heads
    assert answer.heads.rstrip().endswith("x-sum: 42")
    assert curl(sidecar.url("web", "/trailers"), "--http1.1").body == b"body"
    answer = curl(sidecar.url("web", "/trailers"), "--http2-prior-knowledge")
    assert answer.body == b"body"
    assert answer.heads.rstrip().endswith("x-sum: 42")


def test_pipelined_requests_are_answered_in_order(sidecar: Sidecar) -> None:
    """Requests sent without waiting get their answers in the order in which they were asked."""
    paths = [b"/small", b"/missing", b"/empty", b"/broken"] * 5
    wanted = [b"200", b"404", b"204", b"500"] * 5
    with socket.create_connection(("127.0.0.1", sidecar.ports["web1"]), timeout=30) as sock:
        asked = [b"GET %b HTTP/1.1\r\nHost: web\r\n" % path for path in paths]
        sock.sendall(b"\r\n".join(asked) + b"Connection: close\r\n\r\n")
        answers = b""
        while data := sock.recv(65536):
            answers += data
    statuses = [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert statuses == wanted
