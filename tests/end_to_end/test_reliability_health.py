"""Active health checks: endpoints that say that they are ill, or say nothing, get no requests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.end_to_end.asking import ask, call_on, client
from tests.end_to_end.failing import Order
from tests.end_to_end.failing_grpc import HEALTH, Calls, grpc_serving
from tests.end_to_end.failing_raw import raw_serving
from tests.end_to_end.failing_web import Web, web_servers
from tests.end_to_end.grpc_server import channel
from tests.end_to_end.sidecar import Sidecar, Starter, service, traffic_policy, wait_until
from tests.end_to_end.tcp_server import TcpServer

OFTEN = {"interval": "100ms", "timeout": "1s", "unhealthy": 2, "healthy": 2}
NO_BREAKER = {"failures": 0, "panic": 0}
ROUND = {"kind": "roundRobin"}


class Flaky:
    """A service of two, the first of which a test makes ill: `web` by its answer, `calls` by its health service."""

    def __init__(self, stack: ExitStack) -> None:
        webs = stack.enter_context(web_servers())
        self.webs: list[Web] = [webs.add("ill"), webs.add("well")]
        self.calls: list[Calls] = [stack.enter_context(grpc_serving(name)) for name in ("ill", "well")]
        self.stop = webs.stop
        self.tcp = [webs.add("ill-tcp"), webs.add("well-tcp")]


@pytest.fixture(scope="module")
def flaky() -> Iterator[Flaky]:
    """All servers."""
    with ExitStack() as stack:
        yield Flaky(stack)


@pytest.fixture(scope="module")
def listening() -> Iterator[TcpServer]:
    """A server that is only ever connected to."""
    with raw_serving("listening") as raw:
        yield raw.tcp


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, flaky: Flaky, listening: TcpServer) -> Sidecar:
    """A service for each kind of check."""
    services = {
        "http": service(*(web.port for web in flaky.webs)),
        "grpc": service(*(calls.port for calls in flaky.calls)),
        "tcp": service(listening.port),
        "mute": service(*(web.port for web in flaky.tcp)),
    }
    checks = {
        "http": {"kind": "http", "path": "/healthz", **OFTEN},
        "grpc": {"kind": "grpc", "service": "test.Calls", **OFTEN},
        "tcp": {"kind": "tcp", **OFTEN},
        "mute": {"kind": "http", "path": "/healthz", **OFTEN, "timeout": "200ms"},
    }
    policies = [
        traffic_policy(name, health=check, breaker=NO_BREAKER, balancing=ROUND) for name, check in checks.items()
    ]
    return shared_proxy(services, resources=policies)


def alone(ask_all: Callable[[], set[str]], who: set[str]) -> None:
    """Returns when rounds of requests are answered by these alone."""
    wait_until(lambda: ask_all() == who, f"{who} answer")


def test_http(sidecar: Sidecar, flaky: Flaky) -> None:
    """An endpoint whose path answers 503 gets nothing until it answers 200 again."""
    with client("http2") as session:

        def who() -> set[str]:
            return {ask(sidecar, "http", by=session).text for _ in range(6)}

        alone(who, {"ill", "well"})
        flaky.webs[0].board.at("/healthz", Order(status=503))
        alone(who, {"well"})
        before = flaky.webs[0].board.count("/")
        assert who() == {"well"}
        assert flaky.webs[0].board.count("/") == before
        flaky.webs[0].board.at("/healthz", Order(status=204))
        alone(who, {"ill", "well"})
    assert flaky.webs[1].board.count("/healthz") >= 2


def test_timeout_of_a_check(sidecar: Sidecar, flaky: Flaky) -> None:
    """A check that is not answered in time has failed."""
    with client("http2") as session:

        def who() -> set[str]:
            return {ask(sidecar, "mute", by=session).text for _ in range(6)}

        flaky.tcp[0].board.at("/healthz", Order(hang=True))
        alone(who, {"well-tcp"})
        flaky.tcp[0].board.clear()
        alone(who, {"ill-tcp", "well-tcp"})


def test_grpc(sidecar: Sidecar, flaky: Flaky) -> None:
    """The same by grpc.health.v1, which is asked about the service that the policy names."""
    with channel(sidecar.ports["grpc"]) as opened:

        def who() -> set[str]:
            return {call_on(opened).message.decode() for _ in range(6)}

        alone(who, {"ill", "well"})
        flaky.calls[0].healthy = False
        alone(who, {"well"})
        flaky.calls[0].healthy = True
        alone(who, {"ill", "well"})
    question = b"\x0a\x0atest.Calls"
    assert {one.size for one in flaky.calls[0].board.seen(HEALTH)} == {len(question)}


def test_tcp(sidecar: Sidecar, listening: TcpServer) -> None:
    """A connection is made and closed, again and again; nothing is said."""
    before = listening.accepted
    wait_until(lambda: listening.accepted >= before + 3 and listening.open <= 1, "it is connected to, and left alone")
