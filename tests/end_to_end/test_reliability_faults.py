"""Faults on purpose: requests that wait or fail as told, as many as told, and only those that match."""

import time
from collections.abc import Iterator

import pytest

from tests.end_to_end.asking import BOTH, ask, call, client
from tests.end_to_end.failing import Board, clear
from tests.end_to_end.failing_grpc import Calls, grpc_serving
from tests.end_to_end.failing_web import Web, web_servers
from tests.end_to_end.sidecar import Sidecar, Starter, service, traffic_policy
from tests.end_to_end.traffic_yaml import fault

MANY = 200
PAST, FUTURE = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"
FAULTS = {
    "late": [{"delay": "300ms", "percent": 100}],
    "failing": [{"abort": {"status": 418}}],
    "half": [{"abort": {"status": 503}, "percent": 50}],
    "matched": [
        {
            "abort": {"status": 500},
            "match": {"path": {"value": "/broken"}, "method": "POST", "headers": [{"name": "x-user", "value": "me"}]},
        }
    ],
    "both": [{"delay": "200ms", "abort": {"status": 503}}],
    "calls": [{"abort": {"grpc": "DATA_LOSS"}}],
}


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    """Hypercorn."""
    with web_servers() as webs:
        yield webs.add("web")


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    """grpcio."""
    with grpc_serving("calls") as calls:
        yield calls


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, web: Web, calls: Calls) -> Sidecar:
    """A service for each fault; some of them as Fault resources, over and done with or not."""
    services = {name: service((calls if name == "calls" else web).port) for name in (*FAULTS, "lifted", "alone")}
    resources = [traffic_policy(name, faults=faults) for name, faults in FAULTS.items()]
    resources.append(fault("over", service="lifted", percent=100, abort={"status": 503}, until=PAST))
    resources.append(fault("on", service="alone", percent=100, abort={"status": 503}, until=FUTURE))
    return shared_proxy(services, resources=resources)


@pytest.fixture
def board(web: Web, calls: Calls) -> Board:
    """Hypercorn's; both have seen nothing."""
    clear(web.board, calls.board)
    return web.board


@pytest.mark.parametrize("version", BOTH)
def test_delay(sidecar: Sidecar, board: Board, version: str) -> None:
    """The request waits, and is then answered by the server."""
    began = time.monotonic()
    assert ask(sidecar, "late", version=version, method="POST", body=b"words").text == "web"
    [seen] = board.seen()
    assert seen.at - began >= 0.3
    assert seen.size == 5


def test_delay_ends_with_the_client(sidecar: Sidecar, board: Board) -> None:
    """A client that leaves while its request is delayed has left: the server never hears of it."""
    with client("http2", seconds=0.1) as session, pytest.raises(Exception, match="timed out"):
        ask(sidecar, "late", "/left", by=session)
    ask(sidecar, "late", "/after")
    assert (board.count("/left"), board.count("/after")) == (0, 1)


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize(("name", "status"), [("failing", 418), ("both", 503), ("alone", 503)])
def test_abort(sidecar: Sidecar, board: Board, version: str, name: str, status: int) -> None:
    """The proxy answers for the server, and says that it did so on purpose."""
    answer = ask(sidecar, name, version=version)
    assert (answer.status, answer.reason) == (status, "fault")
    assert board.count() == 0


def test_percent(sidecar: Sidecar, board: Board) -> None:
    """About half of the requests; the server sees the others."""
    with client("http2") as session:
        statuses = [ask(sidecar, "half", by=session).status for _ in range(MANY)]
    assert set(statuses) == {200, 503}
    assert MANY * 0.3 < statuses.count(503) < MANY * 0.7
    assert board.count() == statuses.count(200)


def test_match(sidecar: Sidecar, board: Board) -> None:
    """Only what matches by path, method and header."""
    assert ask(sidecar, "matched", "/broken/x", method="POST", headers={"x-user": "me"}).status == 500
    for target, method, user in (("/broken", "GET", "me"), ("/other", "POST", "me"), ("/broken", "POST", "you")):
        assert ask(sidecar, "matched", target, method=method, headers={"x-user": user}).status == 200
    assert board.count() == 3


def test_faults_of_the_past(sidecar: Sidecar, board: Board) -> None:
    """A fault whose time is up is none."""
    assert ask(sidecar, "lifted").text == "web"
    assert board.count() == 1


def test_faults_of_calls(sidecar: Sidecar, calls: Calls, board: Board) -> None:
    """A call gets the gRPC status that was told."""
    got = call(sidecar.ports["calls"])
    assert (got.code, got.reason) == ("DATA_LOSS", "fault")
    assert calls.board.count() == 0
