"""Endpoints that fail are left alone, tried with one request at a time, and taken back when they answer well."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.end_to_end.asking import ask, call_on, client
from tests.end_to_end.failing import Board, Order, clear, counts
from tests.end_to_end.failing_grpc import grpc_serving
from tests.end_to_end.failing_raw import raw_serving
from tests.end_to_end.failing_web import web_servers
from tests.end_to_end.grpc_server import channel
from tests.end_to_end.sidecar import Sidecar, Starter, service, traffic_policy, wait_until

BAD = Order(status=500)
ENOUGH = 60
LONG = {"probation": "60s", "probationMost": "60s"}
BREAKERS = {
    "row": {"failures": 3, **LONG},
    "rate": {"failures": 0, "successRate": 0.6, "requests": 10, "window": "10s", **LONG},
    "probed": {"failures": 3, "probation": "300ms", "probationMost": "300ms"},
    "share": {"failures": 3, "ejectMost": 50, "panic": 0, **LONG},
    "panic": {"failures": 3, "ejectMost": 100, "panic": 60, **LONG},
    "never": {"failures": 0},
    "resets": {"failures": 3, **LONG},
    "hangs": {"failures": 2, **LONG},
    "calls": {"failures": 3, **LONG},
}


@pytest.fixture(scope="module")
def boards() -> Iterator[dict[str, tuple[Board, int]]]:
    """Four servers of each service: Hypercorn, but for a raw one among `resets` and grpcio for `calls`."""
    found: dict[str, tuple[Board, int]] = {}
    with ExitStack() as stack:
        webs = stack.enter_context(web_servers())
        for name in BREAKERS:
            for number in range(4):
                key = f"{name}-{number}"
                if name == "calls":
                    server = stack.enter_context(grpc_serving(key))
                elif name == "resets" and number == 0:
                    server = stack.enter_context(raw_serving(key))
                else:
                    server = webs.add(key)
                found[key] = (server.board, server.port)
        yield found


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, boards: dict[str, tuple[Board, int]]) -> Sidecar:
    """Each service has servers of its own, since what was ejected in one test stays so."""
    services = {name: service(*(boards[f"{name}-{number}"][1] for number in range(4))) for name in BREAKERS}
    policies = [
        traffic_policy(
            name,
            breaker=breaker,
            balancing={"kind": "roundRobin"},
            timeouts={"backendRequest": "300ms"} if name == "hangs" else {},
        )
        for name, breaker in BREAKERS.items()
    ]
    return shared_proxy(services, resources=policies)


def four(boards: dict[str, tuple[Board, int]], name: str) -> list[Board]:
    """The boards of a service."""
    return [boards[f"{name}-{number}"][0] for number in range(4)]


def send(sidecar: Sidecar, name: str, count: int = ENOUGH) -> list[int]:
    """One request after the other on one connection; their statuses."""
    with client("http2") as session:
        return [ask(sidecar, name, by=session).status for _ in range(count)]


def test_failures_in_a_row(sidecar: Sidecar, boards: dict[str, tuple[Board, int]]) -> None:
    """After three in a row the endpoint gets nothing; the others share what it had."""
    bad, *good = four(boards, "row")
    bad.always(BAD)
    statuses = send(sidecar, "row")
    assert statuses.count(500) == bad.count() == 3
    assert sum(counts(*good)) == ENOUGH - 3
    assert min(counts(*good)) > 10


def test_successes_between_failures(sidecar: Sidecar, boards: dict[str, tuple[Board, int]]) -> None:
    """Failures that do not follow on each other are not counted as if they did."""
    bad, *_ = four(boards, "row")
    [first, *_] = four(boards, "never")
    first.always(BAD)
    assert send(sidecar, "never").count(500) == first.count() == ENOUGH / 4
    assert bad.count() <= 3


def test_success_rate(sidecar: Sidecar, boards: dict[str, tuple[Board, int]]) -> None:
    """An endpoint that fails every other request is ejected for its rate, once enough is known of it."""
    bad, *good = four(boards, "rate")
    for _ in range(ENOUGH):
        bad.next(BAD)
        bad.next(Order())
    send(sidecar, "rate", 2 * ENOUGH)
    assert 10 <= bad.count() <= 12
    assert min(counts(*good)) > bad.count()


def test_probation(sidecar: Sidecar, boards: dict[str, tuple[Board, int]]) -> None:
    """While it is in probation one request at a time is let through; when one is answered well it is back."""
    bad, *_ = servers = four(boards, "probed")
    bad.always(BAD)
    send(sidecar, "probed", 24)
    assert bad.count() >= 3
    bad.always(Order(status=500, delay=0.2))
    wait_until(lambda: bad.active == 0, "nothing is in hand")
    clear(*servers)
    bad.always(Order(status=500, delay=0.2))
    stop = False

    def load() -> None:
        while not stop:
            send(sidecar, "probed", 4)

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(load) for _ in range(6)]
        try:
            wait_until(lambda: bad.count() >= 3, "it is probed, and again, and again")
            probes = bad.most
            bad.always(Order())
            before = bad.count()
            wait_until(lambda: bad.count() > before + 20, "it is back")
        finally:
            stop = True
        for one in running:
            one.result()
    assert probes == 1


def test_share_that_is_ejected_at_most(sidecar: Sidecar, boards: dict[str, tuple[Board, int]]) -> None:
    """Half of the endpoints stay, however badly they do."""
    servers = four(boards, "share")
    for board in servers:
        board.always(BAD)
    assert set(send(sidecar, "share", 2 * ENOUGH)) == {500}
    few, fewer, *rest = sorted(counts(*servers))
    assert (few, fewer) == (3, 3)
    assert min(rest) > 3 * 3


def test_panic(sidecar: Sidecar, boards: dict[str, tuple[Board, int]]) -> None:
    """With too few endpoints fit for use all are used: better some answers than a crowd on the last one."""
    servers = four(boards, "panic")
    for board in servers[:2]:
        board.always(BAD)
    send(sidecar, "panic", 2 * ENOUGH)
    assert min(counts(*servers)) > ENOUGH / 6


def test_resets(sidecar: Sidecar, boards: dict[str, tuple[Board, int]]) -> None:
    """Resets are failures too."""
    bad, *_ = four(boards, "resets")
    bad.always(Order(cut="reset"))
    assert send(sidecar, "resets").count(502) == bad.count() == 3


def test_timeouts(sidecar: Sidecar, boards: dict[str, tuple[Board, int]]) -> None:
    """So are tries that take too long."""
    bad, *_ = four(boards, "hangs")
    bad.always(Order(hang=True))
    assert send(sidecar, "hangs").count(504) == bad.count() == 2


def test_grpc_statuses(sidecar: Sidecar, boards: dict[str, tuple[Board, int]]) -> None:
    """So are statuses that are the server's fault; those that are the caller's are not."""
    bad, picky, *_ = four(boards, "calls")
    bad.always(Order(grpc="UNAVAILABLE"))
    picky.always(Order(grpc="NOT_FOUND"))
    with channel(sidecar.ports["calls"], ("grpc.enable_retries", 0)) as opened:
        codes = [call_on(opened).code for _ in range(ENOUGH)]
    assert codes.count("UNAVAILABLE") == bad.count() == 3
    assert codes.count("NOT_FOUND") == picky.count() > 10
