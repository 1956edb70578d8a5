"""What is more than a service can take is refused, at once and with a reason; what is refused no server sees."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.end_to_end.asking import BOTH, Answer, ask, call_on, client, together
from tests.end_to_end.failing import Board, Order, clear
from tests.end_to_end.failing_grpc import Calls, grpc_serving
from tests.end_to_end.failing_web import Web, web_servers
from tests.end_to_end.grpc_server import channel
from tests.end_to_end.sidecar import Sidecar, Starter, service, traffic_policy, wait_until
from tests.end_to_end.traffic_yaml import http_route, path, rule

BURST = 5
MANY = 25
SLOWLY = {"perSecond": 0.2, "burst": BURST}
LIMITED = {
    "service": {"rateLimits": [SLOWLY]},
    "service2": {"rateLimits": [SLOWLY]},
    "client": {"rateLimits": [{**SLOWLY, "by": "client"}]},
    "route": {"rateLimits": [{**SLOWLY, "by": "route"}]},
    "matched": {"rateLimits": [{**SLOWLY, "match": {"path": {"value": "/dear"}}}]},
    "calls": {"rateLimits": [SLOWLY]},
    "inner": {"rateLimits": [SLOWLY]},
    "fixed": {"concurrency": {"most": 3}},
    "fixed2": {"concurrency": {"most": 3}},
    "inner-fixed": {"concurrency": {"most": 3}},
    "few-calls": {"concurrency": {"most": 2}},
    "adaptive": {"concurrency": {"adaptive": True, "least": 2}},
}
GRPC = ("calls", "few-calls")
INNER = ("inner", "inner-fixed")


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    """Hypercorn, for all but calls."""
    with web_servers() as webs:
        yield webs.add("web")


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    """grpcio."""
    with grpc_serving("calls") as calls:
        yield calls


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, web: Web, calls: Calls) -> Sidecar:
    """Limits at the caller's side for servers that have no proxy of their own, and at an inbound listener."""
    outer = [name for name in LIMITED if name not in INNER]
    services = {name: service((calls if name in GRPC else web).port) for name in outer}
    services["nobody"] = {"endpoints": []}
    policies = [
        traffic_policy(name, breaker={"failures": 0}, timeouts={"request": "10s"}, **limits)
        for name, limits in LIMITED.items()
    ]
    routes = http_route(
        "routes", "route", *(rule("route", matches=[path(f"/{name}")]) for name in ("one", "two", "three"))
    )
    inbound = [{"forward": f"127.0.0.1:{web.port}", "service": name} for name in INNER]
    limits = {"pending_requests": 3, "pending_timeout": 0.5}
    sidecar = shared_proxy(services, inbound=inbound, resources=[*policies, routes], limits=limits)
    sidecar.ports |= dict(zip(INNER, sidecar.inbound, strict=True))
    return sidecar


@pytest.fixture
def board(web: Web) -> Board:
    """Hypercorn's, fresh."""
    wait_until(lambda: not web.board.active, "nothing is in hand")
    clear(web.board)
    return web.board


def send(sidecar: Sidecar, name: str, target: str = "/", count: int = MANY, **how: str) -> list[Answer]:
    """One request after the other."""
    with client(**how) as session:
        return [ask(sidecar, name, target, by=session) for _ in range(count)]


def allowed(answers: list[Answer], seconds: float, name: str) -> int:
    """How many were answered well: a burst, and what came in since; all others were told to come again later."""
    good = [answer for answer in answers if answer.status == 200]
    bad = [answer for answer in answers if (answer.status, answer.reason) == (429, "rate_limited")]
    assert len(good) + len(bad) == len(answers)
    assert BURST <= len(good) <= BURST + 1 + seconds * SLOWLY["perSecond"]
    for answer in bad:
        assert 1 <= int(answer.headers["retry-after"]) <= 5
        assert name in answer.text
    return len(good)


@pytest.mark.parametrize(("name", "version"), [("service", "http1"), ("service2", "http2"), ("inner", "http1")])
def test_rate_of_a_service(sidecar: Sidecar, board: Board, name: str, version: str) -> None:
    """One bucket for all, at the caller's proxy or at the one beside the server; 429 with retry-after beyond it."""
    began = time.monotonic()
    answers = send(sidecar, name, version=version) + send(sidecar, name, version=version, source="127.0.0.2")
    assert allowed(answers, time.monotonic() - began, name) == board.count()


def test_rate_of_a_client(sidecar: Sidecar, board: Board) -> None:
    """Each address has a bucket of its own."""
    began = time.monotonic()
    for source in ("127.0.0.1", "127.0.0.2"):
        before = board.count()
        answers = send(sidecar, "client", source=source)
        assert allowed(answers, time.monotonic() - began, "client") == board.count() - before


def test_rate_of_a_route(sidecar: Sidecar, board: Board) -> None:
    """Each route has one."""
    began = time.monotonic()
    for target in ("/one", "/two"):
        answers = send(sidecar, "route", target)
        assert allowed(answers, time.monotonic() - began, "route") == board.count(target)


def test_rate_of_what_matches(sidecar: Sidecar, board: Board) -> None:
    """A limit for some requests leaves the others alone."""
    began = time.monotonic()
    answers = send(sidecar, "matched", "/dear/x")
    assert allowed(answers, time.monotonic() - began, "matched") == board.count("/dear/x")
    assert {answer.status for answer in send(sidecar, "matched", "/cheap")} == {200}


def test_rate_of_calls(sidecar: Sidecar, calls: Calls) -> None:
    """gRPC is told RESOURCE_EXHAUSTED."""
    calls.board.clear()
    with channel(sidecar.ports["calls"], ("grpc.enable_retries", 0)) as opened:
        answers = [call_on(opened) for _ in range(MANY)]
    bad = [answer for answer in answers if (answer.code, answer.reason) == ("RESOURCE_EXHAUSTED", "rate_limited")]
    assert calls.board.count() == MANY - len(bad) >= BURST
    assert len(bad) > 5


@pytest.mark.parametrize(("name", "version"), [("fixed", "http1"), ("fixed2", "http2"), ("inner-fixed", "http1")])
def test_fixed_concurrency(sidecar: Sidecar, board: Board, name: str, version: str) -> None:
    """Never more than three at a time at the server; the rest is 503 at once."""
    board.always(Order(delay=0.4))
    answers = together(10, lambda: ask(sidecar, name, version=version))
    good = [answer for answer in answers if answer.status == 200]
    bad = [answer for answer in answers if (answer.status, answer.reason) == (503, "over_concurrency")]
    assert len(good) + len(bad) == 10
    assert bad
    assert board.most == 3
    assert board.count() == len(good)
    board.clear()
    assert send(sidecar, name, count=1)[0].status == 200


def test_concurrency_of_calls(sidecar: Sidecar, calls: Calls) -> None:
    """gRPC is told RESOURCE_EXHAUSTED."""
    calls.board.clear()
    calls.board.always(Order(delay=0.4))
    with channel(sidecar.ports["few-calls"], ("grpc.enable_retries", 0)) as opened:
        answers = together(8, lambda: call_on(opened))
    assert calls.board.most == 2
    bad = [answer for answer in answers if (answer.code, answer.reason) == ("RESOURCE_EXHAUSTED", "over_concurrency")]
    assert calls.board.count() == 8 - len(bad)
    assert bad


def test_adaptive_concurrency(sidecar: Sidecar, board: Board) -> None:
    """A server that does one thing at a time is not given as much as callers have: they wait less, or are refused."""
    board.always(Order(delay=0.01, turns=True))
    assert [answer.status for answer in send(sidecar, "adaptive", count=10)] == [200] * 10
    before = board.count()
    answers: list[Answer] = []
    stop = False

    def load() -> None:
        with client() as session:
            while not stop:
                answers.append(ask(sidecar, "adaptive", by=session))

    with ThreadPoolExecutor(24) as pool:
        running = [pool.submit(load) for _ in range(24)]
        try:
            wait_until(lambda: [one for one in answers if one.status == 503], "some are refused")
            wait_until(lambda: board.active < 24, "the server has less in hand than there are callers")
        finally:
            stop = True
        for one in running:
            one.result()
    assert {(one.status, one.reason) for one in answers} == {(200, ""), (503, "over_concurrency")}
    assert board.count() - before == len([one for one in answers if one.status == 200])


@pytest.mark.parametrize("version", BOTH)
def test_queue_while_no_endpoint_is_ready(sidecar: Sidecar, version: str) -> None:
    """So many wait, for so long; one more is refused at once, and both are told apart and name the service."""
    answers = together(6, lambda: ask(sidecar, "nobody", version=version))
    assert {answer.status for answer in answers} == {503}
    reasons = sorted(answer.reason for answer in answers)
    assert reasons == ["no_endpoints"] * 3 + ["overloaded"] * 3
    assert all("nobody" in answer.text for answer in answers)
