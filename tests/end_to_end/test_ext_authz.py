"""A real authoriser decides about requests to a real application; clients are sockets, httpx and grpcio."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import monotonic

import grpc
import httpx
import pytest

from tests.end_to_end.authorizer_server import Guard, guarding
from tests.end_to_end.grpc_server import channel, stub
from tests.end_to_end.sidecar import Config, Sidecar, Starter, service, wait_until

SECONDS = 30
TIMEOUT = 0.4
"""Of authorisers that are to run out of time, in seconds."""
LAVISH = "20s"
"""Of all others."""


class Application(BaseHTTPRequestHandler):
    """Says what it was asked, as JSON; `seen` are the paths of all requests so far."""

    protocol_version = "HTTP/1.1"
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        length = int(self.headers.get("content-length", "0"))
        told = {"path": self.path, "headers": list(self.headers.items()), "body": len(self.rfile.read(length))}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def application() -> Iterator[tuple[int, list[str]]]:
    """Port, and paths that it was asked for."""
    seen: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Seeing", (Application,), {"seen": seen}))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def guard() -> Iterator[tuple[Guard, int]]:
    with guarding() as running:
        yield running


def plugin(where: str, **authorizer: object) -> Config:
    """A PolicyPlugin that has the authoriser at `where` asked about requests to `app`."""
    return {
        "apiVersion": "conduit.mesh/v1alpha1",
        "kind": "PolicyPlugin",
        "metadata": {"name": "guard"},
        "spec": {
            "target": {"kind": "Service", "name": "app"},
            "authorizer": {"service": where, "timeout": LAVISH, "headers": ["x-do"], **authorizer},
        },
    }


def inbound(port: int) -> Config:
    return {"forward": f"127.0.0.1:{port}", "service": "app"}


@pytest.fixture(scope="module", params=["ngh2", "h2"])
def sidecar(
    request: pytest.FixtureRequest, shared_proxy: Starter, application: tuple[int, list[str]], guard: tuple[Guard, int]
) -> Sidecar:
    """The application's proxy, whose authoriser is a service; with either HTTP/2 codec."""
    services = {"guard": service(guard[1])}
    return shared_proxy(services, inbound=[inbound(application[0])], resources=[plugin("guard")], codec=request.param)


@pytest.fixture
def client(sidecar: Sidecar) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{sidecar.inbound[0]}", trust_env=False, timeout=SECONDS) as opened:
        yield opened


def behind(sidecar: Sidecar) -> httpx.Client:
    """A client of the first inbound listener."""
    return httpx.Client(base_url=f"http://127.0.0.1:{sidecar.inbound[0]}", trust_env=False, timeout=SECONDS)


def test_what_is_allowed_reaches_the_application(client: httpx.Client, guard: tuple[Guard, int]) -> None:
    """Head and body; the authoriser was told what the request is, and of its headers the one that the policy names."""
    answer = client.post("/fine?a=b", content=b"x" * 300_000, headers={"authorization": "secret", "x-do": "fine"})
    assert answer.status_code == 200
    assert (answer.json()["path"], answer.json()["body"]) == ("/fine?a=b", 300_000)
    told = guard[0].asked[-1].attributes
    http = told.request.http
    assert (http.method, http.path, http.protocol, http.size) == ("POST", "/fine?a=b", "HTTP/1.1", 300_000)
    assert dict(http.headers) == {"x-do": "fine"}
    assert (http.body, http.raw_body) == ("", b"")
    assert told.source.address.socket_address.address == "127.0.0.1"
    assert told.destination.service == "app"
    assert told.request.time.seconds > 1_700_000_000


def test_what_is_denied_does_not(client: httpx.Client, application: tuple[int, list[str]]) -> None:
    """403, and our reason in a header; a connection that has heard a no can be used again."""
    before = len(application[1])
    for _ in range(3):
        answer = client.post("/deny", content=b"x" * 1000)
        assert (answer.status_code, answer.headers["conduit-error"]) == (403, "denied")
        assert answer.text == "service app: denied\n"
    assert application[1][before:] == []
    assert client.get("/fine").status_code == 200


def test_a_denial_in_the_authorisers_words(client: httpx.Client) -> None:
    """Status, headers, repeated ones too, and body."""
    answer = client.get("/words")
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (418, "<h1>no</h1>", "text/html")
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert client.get("/login").headers["location"] == "https://login.example/"
    assert client.get("/bare").status_code == 403
    assert client.head("/words").status_code == 418


def test_headers_and_query_as_the_authoriser_wants_them(client: httpx.Client) -> None:
    """The client's own word for them does not count, also in another spelling."""
    answer = client.get(
        "/edits?token=t&a=b", headers={"X-User": "eve", "x_user": "eve", "X-Secret": "s", "x-other": "stays"}
    )
    told = answer.json()
    names = [name.lower() for name, _ in told["headers"]]
    headers = {name.lower(): value for name, value in told["headers"]}
    assert told["path"] == "/edits?a=b"
    assert (headers["x-user"], headers["x-new"], headers["x-other"]) == ("alice", "1", "stays")
    assert names.count("x-user") == 1
    assert {"x_user", "x-secret"}.isdisjoint(names)
    assert answer.headers["x-from-authorizer"] == "yes"


@pytest.mark.parametrize(
    ("word", "cause"),
    [
        ("garbage", "is not a CheckResponse"),
        ("abort", "grpc-status 13"),
        ("huge", "longer than"),
    ],
)
def test_what_makes_no_sense_lets_nobody_through(
    client: httpx.Client, application: tuple[int, list[str]], word: str, cause: str
) -> None:
    """503 that names the authoriser, where it is, and what was wrong; the next request is fine."""
    answer = client.get(f"/{word}")
    assert (answer.status_code, answer.headers["conduit-error"]) == (503, "authorizer_failed")
    assert "default/guard (guard)" in answer.text
    assert cause in answer.text
    assert f"/{word}" not in application[1]
    assert client.get("/fine").status_code == 200


def test_a_client_that_leaves_ends_the_question(sidecar: Sidecar, guard: tuple[Guard, int]) -> None:
    """The authoriser sees its caller go."""
    with socket.create_connection(("127.0.0.1", sidecar.inbound[0])) as sock:
        sock.sendall(b"GET /hold HTTP/1.1\r\nhost: app\r\n\r\n")
        guard[0].entered.get(timeout=SECONDS)
    assert guard[0].left.get(timeout=SECONDS) == "/hold"


def test_outcomes_are_counted(sidecar: Sidecar, client: httpx.Client) -> None:
    """By what came of asking; and the denials also by policy, as any."""
    before = {
        result: sidecar.total("conduit_authorizer_total", service="app", result=result)
        for result in ("allowed", "denied", "failed")
    }
    by_policy = sidecar.total("conduit_denied_total", policy="default/guard")
    for path in ("/fine", "/deny", "/garbage"):
        client.get(path)
    for result, count in before.items():
        assert sidecar.total("conduit_authorizer_total", service="app", result=result) == count + 1
    assert sidecar.total("conduit_denied_total", policy="default/guard") == by_policy + 1


def test_calls_of_grpc(proxy: Starter, grpc_port: int, guard: tuple[Guard, int]) -> None:
    """Streams wait as well; a no is a gRPC status with the authoriser's words, and UNAVAILABLE is what cannot be
    decided."""
    sidecar = proxy(inbound=[inbound(grpc_port)], resources=[plugin(f"127.0.0.1:{guard[1]}")])
    with channel(sidecar.inbound[0]) as opened:
        assert stub(opened, "Unary")(b"hello", timeout=SECONDS) == b"hello"
        assert stub(opened, "Total")((b"x" * 1000 for _ in range(300)), timeout=SECONDS) == b"300 300000"
        assert list(stub(opened, "Count")(b"3", timeout=SECONDS)) == [b"0", b"1", b"2"]
        for word, code, details in (
            ("deny", grpc.StatusCode.PERMISSION_DENIED, "service app: denied"),
            ("bare", grpc.StatusCode.UNAUTHENTICATED, "who are you?"),
            ("words", grpc.StatusCode.UNKNOWN, "<h1>no</h1>"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                stub(opened, "Unary")(b"", timeout=SECONDS, metadata=(("x-do", word),))
            assert (caught.value.code(), caught.value.details()) == (code, details)
        with pytest.raises(grpc.RpcError) as caught:
            stub(opened, "Unary")(b"", timeout=SECONDS, metadata=(("x-do", "garbage"),))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError) as caught:
            stub(opened, "Unary")(b"", timeout=TIMEOUT, metadata=(("x-do", "hold"),))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert guard[0].left.get(timeout=SECONDS) == "/test.Test/Unary"


@pytest.mark.parametrize("fail_open", [False, True])
def test_silence(proxy: Starter, application: tuple[int, list[str]], guard: tuple[Guard, int], fail_open: bool) -> None:
    """After the policy's time it is over, one way or the other; the authoriser is told that nobody waits any more."""
    policy = plugin("guard", timeout=f"{TIMEOUT}s", failOpen=fail_open)
    sidecar = proxy({"guard": service(guard[1])}, inbound=[inbound(application[0])], resources=[policy])
    with behind(sidecar) as client:
        began = monotonic()
        answer = client.get("/hold")
        assert monotonic() - began >= TIMEOUT
        assert answer.status_code == (200 if fail_open else 503)
        if not fail_open:
            assert f"no answer within {TIMEOUT:g} s" in answer.text
        assert guard[0].left.get(timeout=SECONDS) == "/hold"
        assert client.get("/deny").status_code == 403
    result = "open" if fail_open else "failed"
    assert sidecar.total("conduit_authorizer_total", result=result) == 1


@pytest.mark.parametrize("fail_open", [False, True])
def test_nobody_is_there(
    proxy: Starter, application: tuple[int, list[str]], free_port: Callable[[], int], fail_open: bool
) -> None:
    """Refused connections fail at once; when the authoriser comes, it is asked."""
    port = free_port()
    policy = plugin(f"127.0.0.1:{port}", failOpen=fail_open)
    sidecar = proxy(inbound=[inbound(application[0])], resources=[policy])
    with behind(sidecar) as client, ExitStack() as stack:
        answer = client.get("/fine")
        assert answer.status_code == (200 if fail_open else 503)
        if not fail_open:
            assert f"127.0.0.1:{port}" in answer.text
        guard, _ = stack.enter_context(guarding(port))
        wait_until(lambda: client.get("/deny").status_code == 403, "the authoriser is asked")
        assert guard.paths()[-1] == "/deny"


def test_it_comes_back(proxy: Starter, application: tuple[int, list[str]]) -> None:
    """A connection that was lost is replaced; what the one before said is not what the next one says."""
    with ExitStack() as stack:
        with guarding() as (_, port):
            sidecar = proxy(inbound=[inbound(application[0])], resources=[plugin(f"127.0.0.1:{port}")])
            client = stack.enter_context(behind(sidecar))
            assert client.get("/fine").status_code == 200
        wait_until(lambda: client.get("/fine").status_code == 503, "the authoriser is missed")
        stack.enter_context(guarding(port))
        wait_until(lambda: client.get("/fine").status_code == 200, "the authoriser is found again")


def test_verdicts_are_used_again(proxy: Starter, application: tuple[int, list[str]], guard: tuple[Guard, int]) -> None:
    """As long as both say so: the same question is asked once, from any connection, until its time is over."""
    sidecar = proxy(
        {"guard": service(guard[1])}, inbound=[inbound(application[0])], resources=[plugin("guard", cache="10m")]
    )

    def asked(path: str) -> int:
        return guard[0].paths().count(path)

    for _ in range(3):
        with behind(sidecar) as client:
            assert client.get("/cached-600").status_code == 200
            assert client.get("/deny").status_code == 403
    assert asked("/cached-600") == 1
    assert sidecar.total("conduit_authorizer_total", result="cached") == 2
    with behind(sidecar) as client:
        assert client.get("/cached-600", headers={"x-do": "deny"}).status_code == 403
        assert asked("/cached-600") == 2
        wait_until(lambda: client.get("/cached-1").status_code == 200 and asked("/cached-1") > 1, "it is asked again")


def test_only_what_the_policy_names(
    proxy: Starter, application: tuple[int, list[str]], guard: tuple[Guard, int]
) -> None:
    """Paths that it is not for go on; a path that has two readings is refused before anybody is asked."""
    policy = plugin("guard", to=[{"paths": ["/deny"]}])
    sidecar = proxy({"guard": service(guard[1])}, inbound=[inbound(application[0])], resources=[policy])
    before = len(guard[0].asked)
    with behind(sidecar) as client:
        assert client.get("/words").status_code == 200
        assert client.get("/deny?a").status_code == 403
        with socket.create_connection(("127.0.0.1", sidecar.inbound[0])) as sock:
            sock.sendall(b"GET /x/..%2fdeny HTTP/1.1\r\nhost: app\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
    assert guard[0].paths()[before:] == ["/deny?a"]


def test_what_is_not_http_is_not_let_past(proxy: Starter, guard: tuple[Guard, int]) -> None:
    """An authoriser that fails closed cannot be asked about bytes: the connection is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        listening.settimeout(0)
        sidecar = proxy(
            {"guard": service(guard[1])}, inbound=[inbound(port)], resources=[plugin("guard", timeout="1s")]
        )
        with socket.create_connection(("127.0.0.1", sidecar.inbound[0]), timeout=SECONDS) as sock:
            sock.sendall(b"\0\1\2\3 no protocol that anybody knows\n")
            assert sock.recv(100) == b""
        with pytest.raises(BlockingIOError):
            listening.accept()
