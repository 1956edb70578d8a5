"""Every wait has an end: connect, request, one try, silence in a stream; and deadlines that travel with a request."""

import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.end_to_end.asking import BOTH, ask, call, client
from tests.end_to_end.failing import Order, clear
from tests.end_to_end.failing_grpc import Calls, grpc_serving
from tests.end_to_end.failing_web import Web, web_servers
from tests.end_to_end.sidecar import Sidecar, Starter, service, traffic_policy, wait_until
from tests.end_to_end.traffic_yaml import http_route, path, rule

HANG = Order(hang=True)
LONG_MS = "60000"
ROUNDED = 0.1
"""Seconds that grpcio adds to a deadline where it has no unit to tell it exactly."""
NO_BREAKER = {"failures": 0}


@pytest.fixture(scope="module")
def deaf() -> Iterator[int]:
    """A port that takes no connection and refuses none: its backlog is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fill = [socket.socket() for _ in range(4)]
        for sock in fill:
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for sock in fill:
            sock.close()


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    """The server of all services but one."""
    with web_servers() as webs:
        yield webs.add("web")


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    """The gRPC server."""
    with grpc_serving("calls") as calls:
        yield calls


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, web: Web, calls: Calls, deaf: int) -> Sidecar:
    """A service for each kind of timeout."""
    names = ("plain", "request", "backend", "both", "idle", "routed", "patient")
    meshed = {"endpoints": [{"address": f"127.0.0.1:{web.port}", "meshed": True}]}
    services = {name: service(web.port) for name in names}
    services |= {"deaf": service(deaf), "calls": service(calls.port), "hasty": service(calls.port), "meshed": meshed}
    timeouts = {
        "deaf": {"connect": "150ms"},
        "request": {"request": "300ms"},
        "backend": {"backendRequest": "300ms"},
        "both": {"request": "700ms", "backendRequest": "200ms"},
        "idle": {"idle": "400ms"},
        "calls": {"request": "2s"},
        "hasty": {"request": "300ms"},
        "patient": {"request": "5s"},
        "meshed": {"request": "2s"},
    }
    more = {"backend": {"retry": {"attempts": 2}}, "both": {"retry": {"attempts": 10, "backoff": "1ms"}}}
    policies = [
        traffic_policy(name, timeouts=told, breaker=NO_BREAKER, **more.get(name, {})) for name, told in timeouts.items()
    ]
    routes = [
        http_route(
            "routed",
            "routed",
            rule("plain", matches=[path("/quick")], timeouts={"request": "300ms"}),
            rule("plain", matches=[path("/tries")], timeouts={"request": "5s", "backendRequest": "300ms"}),
        )
    ]
    return shared_proxy(services, resources=[*policies, *routes], limits={"connect_attempts": 1})


@pytest.fixture(autouse=True)
def fresh(web: Web, calls: Calls) -> None:
    """Both answer well and have seen nothing."""
    clear(web.board, calls.board)


def until_left(web: Web, times: int) -> None:
    """Returns when the server has seen its clients leave, and has nothing in hand."""
    wait_until(lambda: len(web.board.left) == times and not web.board.active, f"{times} are cancelled at the server")


def test_connect(sidecar: Sidecar) -> None:
    """An endpoint that does not take the connection: 503, after `connect`."""
    answer = ask(sidecar, "deaf")
    assert (answer.status, answer.reason) == (503, "connect_failed")


@pytest.mark.parametrize("version", BOTH)
def test_request(sidecar: Sidecar, web: Web, version: str) -> None:
    """504, and the server's work is cancelled."""
    web.board.always(HANG)
    answer = ask(sidecar, "request", version=version)
    assert (answer.status, answer.reason) == (504, "timeout")
    until_left(web, 1)
    assert web.board.count() == 1


@pytest.mark.parametrize("version", BOTH)
def test_backend_request(sidecar: Sidecar, web: Web, version: str) -> None:
    """One try takes too long: it is cancelled, and another one is made."""
    web.board.next(HANG)
    answer = ask(sidecar, "backend", version=version)
    assert (answer.status, answer.text) == (200, "web")
    until_left(web, 1)
    assert web.board.count() == 2


def test_request_bounds_all_tries(sidecar: Sidecar, web: Web) -> None:
    """However many tries are allowed, the whole takes no longer than `request`; all are cancelled."""
    web.board.always(HANG)
    answer = ask(sidecar, "both")
    assert (answer.status, answer.reason) == (504, "timeout")
    tries = web.board.count()
    assert 2 <= tries <= 4
    until_left(web, tries)


@pytest.mark.parametrize("version", BOTH)
def test_timeouts_of_routes(sidecar: Sidecar, web: Web, version: str) -> None:
    """HTTPRoute's `timeouts.request` and `timeouts.backendRequest`."""
    web.board.always(HANG)
    for target in ("/quick", "/tries"):
        answer = ask(sidecar, "routed", target, version=version)
        assert (answer.status, answer.reason) == (504, "timeout")
    wait_until(lambda: web.board.count() == len(web.board.left) >= 2, "all are cancelled at the server")


@pytest.mark.parametrize("version", BOTH)
def test_idle(sidecar: Sidecar, web: Web, version: str) -> None:
    """A stream that falls silent is cut off; one that goes on, however slowly, is not."""
    web.board.next(Order(parts=7, delay=0.07, body=b"data: x\n\n"))
    web.board.next(Order(parts=2, delay=30.0, body=b"data: x\n\n"))
    with client(version) as session:
        assert ask(sidecar, "idle", by=session).text == "data: x\n\n" * 7
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            ask(sidecar, "idle", by=session)
    until_left(web, 1)


@pytest.mark.parametrize("version", BOTH)
def test_deadline_of_a_header(sidecar: Sidecar, web: Web, version: str) -> None:
    """`conduit-timeout-ms` bounds a request to a service that has no timeouts of its own."""
    web.board.always(HANG)
    answer = ask(sidecar, "plain", version=version, headers={"conduit-timeout-ms": "300"})
    assert (answer.status, answer.reason) == (504, "timeout")
    until_left(web, 1)


def test_headers_only_shorten(sidecar: Sidecar, web: Web) -> None:
    """A longer `conduit-timeout-ms` than the policy's timeout changes nothing."""
    web.board.always(HANG)
    answer = ask(sidecar, "request", headers={"conduit-timeout-ms": LONG_MS})
    assert (answer.status, answer.reason) == (504, "timeout")
    until_left(web, 1)


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize(("given", "most"), [("", 2000), ("1000", 1000), (LONG_MS, 2000)])
def test_deadlines_travel_to_meshed_endpoints(sidecar: Sidecar, web: Web, version: str, given: str, most: int) -> None:
    """What is left of the shorter of the policy's timeout and the header's is passed on."""
    ask(sidecar, "meshed", version=version, headers={"conduit-timeout-ms": given} if given else {})
    [seen] = web.board.seen()
    assert 0 < int(seen.headers["conduit-timeout-ms"]) <= most


def test_deadlines_stay_in_the_mesh(sidecar: Sidecar, web: Web) -> None:
    """A policy's timeout is not told to servers outside."""
    ask(sidecar, "patient")
    [seen] = web.board.seen()
    assert "conduit-timeout-ms" not in seen.headers


@pytest.mark.parametrize(("given", "most"), [(1.0, 1.0), (20.0, 2.0)])
def test_grpc_timeout_is_shortened_and_passed_on(sidecar: Sidecar, calls: Calls, given: float, most: float) -> None:
    """The server is told what is left of the shorter of the caller's and the policy's."""
    assert call(sidecar.ports["calls"], seconds=given).code == "OK"
    [seen] = calls.board.seen()
    assert 0 < float(seen.headers["time-remaining"]) < most + ROUNDED


def test_grpc_deadline_of_the_policy(sidecar: Sidecar, calls: Calls) -> None:
    """A call that takes longer than the policy allows is DEADLINE_EXCEEDED, and cancelled at the server."""
    calls.board.always(HANG)
    got = call(sidecar.ports["hasty"], seconds=15)
    assert got.code == "DEADLINE_EXCEEDED"  # by the proxy, or by the server, which is told what is left
    wait_until(lambda: len(calls.board.left) == 1, "it is cancelled at the server")
