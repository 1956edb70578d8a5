"""Policies where they meet each other, and clients that leave, lie or hurry: nothing leaks, and nobody is taken in."""

import socket
from collections.abc import Callable, Iterator

import httpx
import pytest
from websockets.sync.client import connect

from tests.end_to_end.asking import BOTH, ask, call, client, together
from tests.end_to_end.curl import curl
from tests.end_to_end.failing import Board, Order, clear, digest
from tests.end_to_end.failing_grpc import Calls, grpc_serving
from tests.end_to_end.failing_web import Web, web_servers
from tests.end_to_end.sidecar import Sidecar, Starter, service, traffic_policy, wait_until
from tests.end_to_end.traffic_yaml import changed, http_route, path, rule

ROUND = {"kind": "roundRobin"}
NO_BREAKER = {"failures": 0}
POLICIES = {
    "slots": {"concurrency": {"most": 2}},
    "backoff": {"retry": {"attempts": 2, "statuses": [503], "backoff": "400ms"}},
    "delayed": {"faults": [{"delay": "400ms", "match": {"path": {"value": "/slow"}}}]},
    "probed": {
        "breaker": {"failures": 2, "probation": "200ms", "probationMost": "200ms", "ejectMost": 100, "panic": 0},
        "balancing": ROUND,
    },
    "hedged": {"retry": {"attempts": 1, "hedge": {"quantile": 0.5, "minimum": "30ms"}}, "budget": {"perSecond": 100}},
    "calls": {"timeouts": {"request": "5s"}},
}


@pytest.fixture(scope="module")
def webs() -> Iterator[dict[str, Web]]:
    """One of everybody, and one that mirrors go to."""
    with web_servers() as webs:
        yield {name: webs.add(name) for name in ("web", "mirror", "other")}


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    """grpcio."""
    with grpc_serving("calls") as calls:
        yield calls


@pytest.fixture(scope="module")
def refused(free_port: Callable[[], int]) -> int:
    """A port where nobody listens."""
    return free_port()


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, webs: dict[str, Web], calls: Calls, refused: int) -> Sidecar:
    """A service for each policy."""
    port = webs["web"].port
    services = {name: service(port) for name in (*POLICIES, "web", "routed")}
    services["down"] = service(refused)
    services |= {"mirror": service(webs["mirror"].port), "calls": service(calls.port)}
    services["probed"] = service(port, webs["other"].port)
    services["meshed"] = {"endpoints": [{"address": f"127.0.0.1:{port}", "meshed": True}]}
    policies = [traffic_policy(name, **{"breaker": NO_BREAKER, **told}) for name, told in POLICIES.items()]
    mirror = changed("RequestMirror", backendRef={"name": "mirror"})
    lost = changed("RequestMirror", backendRef={"name": "nobody"})
    routes = http_route(
        "routed",
        "routed",
        rule("web", matches=[path("/both")], filters=[mirror]),
        rule("web", matches=[path("/lost")], filters=[lost]),
        rule("web", matches=[path("/socket")]),
    )
    return shared_proxy(services, resources=[*policies, routes])


@pytest.fixture
def board(webs: dict[str, Web], calls: Calls) -> Board:
    """The one that everybody asks; all have seen nothing."""
    clear(calls.board, *(web.board for web in webs.values()))
    return webs["web"].board


@pytest.mark.parametrize("name", ["routed", "meshed"])
def test_websockets(sidecar: Sidecar, board: Board, name: str) -> None:
    """They go through routes, and to endpoints with a proxy as HTTP/1.1."""
    with connect(f"ws://127.0.0.1:{sidecar.ports[name]}/socket", proxy=None) as session:
        for words in ("hello", "again"):
            session.send(words)
            assert session.recv(timeout=20) == words
    assert board.count("/socket") == 1


@pytest.mark.parametrize("how", ["absolute", "connect"])
def test_routes_by_authority(sidecar: Sidecar, board: Board, how: str) -> None:
    """What comes to the listener without a service has the same routes, in the open and through CONNECT."""
    options = ["-x", sidecar.proxy_url, *(["--proxytunnel"] if how == "connect" else [])]
    assert curl("http://routed/lost/x", *options).body == b"web"
    assert curl("http://routed/nowhere", *options).status == 404
    assert curl("http://web/nowhere", *options).status == 200


@pytest.mark.parametrize("version", BOTH)
def test_big_bodies_are_mirrored(sidecar: Sidecar, board: Board, webs: dict[str, Web], version: str) -> None:
    """A body that is far beyond what is kept for retries arrives whole at both, or whole at the one that counts."""
    body = bytes(range(256)) * 4000
    assert ask(sidecar, "routed", "/both", version=version, method="POST", body=body).text == "web"
    [seen] = board.seen()
    assert (seen.size, seen.digest) == (len(body), digest(body))
    assert all(one.digest == digest(body) for one in webs["mirror"].board.seen())


def test_mirrors_to_nobody(sidecar: Sidecar, board: Board) -> None:
    """A mirror that does not exist harms nobody."""
    assert ask(sidecar, "routed", "/lost").text == "web"


@pytest.mark.parametrize("version", BOTH)
def test_clients_that_leave_free_their_slots(sidecar: Sidecar, board: Board, version: str) -> None:
    """Requests that were given up no longer count for the concurrency limit."""
    board.always(Order(hang=True))

    def leave() -> None:
        with client(version, seconds=0.3) as session, pytest.raises(httpx.TimeoutException):
            ask(sidecar, "slots", by=session)

    for _ in range(3):
        together(2, leave)
    board.always(Order())
    wait_until(lambda: not board.active, "all have left")
    wait_until(lambda: [one.status for one in together(2, lambda: ask(sidecar, "slots"))] == [200, 200], "it is free")
    assert len(board.left) == 6


def test_clients_that_leave_while_a_retry_waits(sidecar: Sidecar, board: Board) -> None:
    """There is no further try for a client that has gone."""
    board.always(Order(status=503))
    with client("http2", seconds=0.15) as session, pytest.raises(httpx.TimeoutException):
        ask(sidecar, "backoff", "/left", by=session)
    assert ask(sidecar, "backoff", "/stayed").status == 503
    assert (board.count("/left"), board.count("/stayed")) == (1, 3)


def test_pipelined_requests_are_answered_in_order(sidecar: Sidecar, board: Board) -> None:
    """A delayed request holds up those behind it on its connection, and nothing is lost."""
    with socket.create_connection(("127.0.0.1", sidecar.ports["delayed"]), timeout=20) as sock:
        lines = [f"GET /{word} HTTP/1.1\r\nHost: x\r\n{more}\r\n" for word, more in (("slow", ""), ("quick", ""))]
        sock.sendall("".join([*lines, "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]).encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
    assert answer.count(b"HTTP/1.1 200") == 3
    assert [one.path for one in board.seen()] == ["/slow", "/quick", "/last"]


@pytest.mark.parametrize("version", BOTH)
def test_deadlines_end_delays(sidecar: Sidecar, board: Board, version: str) -> None:
    """A request whose deadline comes while it is delayed on purpose is 504, and no server sees it."""
    answer = ask(sidecar, "delayed", "/slow/x", version=version, headers={"conduit-timeout-ms": "100"})
    assert (answer.status, answer.reason) == (504, "timeout")
    ask(sidecar, "delayed", "/slow/y", version=version)
    assert board.count("/slow/x") == 0


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("text", ["abc", "-5", "", "1.5", "9" * 40, "0x10", "1,2"])
def test_deadlines_that_make_no_sense(sidecar: Sidecar, board: Board, version: str, text: str) -> None:
    """A `conduit-timeout-ms` that is no number of milliseconds is no deadline."""
    assert ask(sidecar, "web", version=version, headers={"conduit-timeout-ms": text}).status == 200
    assert ask(sidecar, "meshed", version=version, headers={"conduit-timeout-ms": text}).status == 200
    assert board.count() == 2


@pytest.mark.parametrize("version", BOTH)
def test_deadlines_that_are_over(sidecar: Sidecar, board: Board, version: str) -> None:
    """No time left is 504, however long the server would take."""
    board.always(Order(hang=True))
    answer = ask(sidecar, "web", version=version, headers={"conduit-timeout-ms": "0"})
    assert (answer.status, answer.reason) == (504, "timeout")
    wait_until(lambda: len(board.left) == board.count(), "nobody works on it")


def test_forged_words_between_proxies(sidecar: Sidecar, board: Board) -> None:
    """What proxies tell each other cannot be put into their mouths by a client."""
    assert ask(sidecar, "meshed", version="http2", headers={"conduit-orig-proto": "http1"}).status == 200
    [seen] = board.seen()
    assert "conduit-orig-proto" not in seen.headers
    assert seen.version == "2"


def test_probes_that_are_given_up(sidecar: Sidecar, board: Board, webs: dict[str, Web]) -> None:
    """A client that leaves while its request tries an endpoint leaves that to the next request."""
    board.always(Order(status=500))
    for _ in range(8):
        ask(sidecar, "probed")
    assert board.count() >= 2
    board.always(Order(hang=True))
    board.asked.clear()

    def leave() -> bool:
        with client("http2", seconds=0.2) as session:
            try:
                ask(sidecar, "probed", by=session)
            except httpx.TimeoutException:
                return True
        return False

    wait_until(leave, "a probe is given up")
    board.always(Order())
    before = board.count()

    def back() -> bool:
        return ask(sidecar, "probed").status == 200 and board.count() > before + 5

    wait_until(back, "it is back")


def test_errors_tell_what_is_wrong(sidecar: Sidecar, board: Board, refused: int) -> None:
    """With no endpoint to be had the error names the service, an endpoint, and what was tried last."""
    answer = ask(sidecar, "down")
    assert (answer.status, answer.reason) == (503, "connect_failed")
    for word in ("service down", f"127.0.0.1:{refused}", "refused"):
        assert word in answer.text
    assert answer.text.count("\n") == 1


def test_hedges_are_for_methods_that_are_safe(sidecar: Sidecar, board: Board) -> None:
    """A slow POST is not sent twice; a slow GET is."""
    with client("http2") as session:
        for _ in range(40):
            assert ask(sidecar, "hedged", by=session).status == 200
        for method, tries in (("POST", 1), ("GET", 2)):
            board.next(Order(delay=0.6))
            assert ask(sidecar, "hedged", f"/{method}", method=method, by=session).status == 200
            assert board.count(f"/{method}") == tries


@pytest.mark.parametrize("value", ["5x", "123456789S", "S", "-1S"])
def test_grpc_deadlines_that_make_no_sense(sidecar: Sidecar, board: Board, value: str) -> None:
    """A `grpc-timeout` that cannot be read takes nothing down: the call is answered, somehow, and so is the next."""
    headers = {"content-type": "application/grpc", "te": "trailers", "grpc-timeout": value}
    answer = ask(
        sidecar, "calls", "/test.Calls/One", version="http2", method="POST", headers=headers, body=b"\0\0\0\0\1x"
    )
    assert answer.status in (200, 400)
    assert call(sidecar.ports["calls"]).code == "OK"
