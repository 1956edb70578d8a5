"""What retries, hedges and one bad endpoint may cost: a budget for all connections of a service, and ejection."""

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.end_to_end.asking import ask, client
from tests.end_to_end.failing import Order, clear, counts
from tests.end_to_end.failing_web import Web, web_servers
from tests.end_to_end.paced import paced, share_of
from tests.end_to_end.scale import FULL
from tests.end_to_end.sidecar import Sidecar, Starter, service, traffic_policy, wait_until

pytestmark = pytest.mark.timeout(300 if FULL else 120)

RATE = 500
SECONDS = 30 if FULL else 2
HANG_SECONDS = 10 if FULL else 1.5
SLOW = 1.0
"""Seconds that a request in the tail would take."""
USUAL = 0.003
SLOW_ONES = 1
TRY = "300ms" if FULL else "1s"
"""What one try may take: at small size more than a busy machine takes for a request to a server that is well."""


@pytest.fixture(scope="module")
def webs() -> Iterator[dict[str, Web]]:
    """Five of one service and one for each of the others."""
    with ExitStack() as stack:
        webs = stack.enter_context(web_servers())
        yield {name: webs.add(name) for name in ("failing", "hedged", "unhedged", "stingy", *"abcde")}


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, webs: dict[str, Web]) -> Sidecar:
    """Retries with the default budget; hedges; a service of five."""
    services = {name: service(webs[name].port) for name in ("failing", "hedged", "unhedged", "stingy")}
    services["five"] = service(*(webs[name].port for name in "abcde"))
    no_breaker = {"failures": 0}
    hedge = {"quantile": 0.9, "minimum": "20ms"}
    policies = [
        traffic_policy("failing", retry={"attempts": 3, "statuses": [500], "backoff": "1ms"}),
        traffic_policy("hedged", retry={"attempts": 1, "hedge": hedge}, breaker=no_breaker),
        traffic_policy(
            "stingy",
            retry={"attempts": 1, "hedge": hedge},
            budget={"percent": 0, "perSecond": 0},
            breaker=no_breaker,
        ),
        traffic_policy(
            "five",
            retry={"attempts": 2, "backoff": "1ms"},
            timeouts={"request": "5s", "backendRequest": TRY},
            breaker={"failures": 3, "probation": "500ms", "probationMost": "1s"},
        ),
    ]
    return shared_proxy(services, resources=policies)


@pytest.mark.parametrize("version", ["http1", "http2"])
def test_failing_backend(sidecar: Sidecar, webs: dict[str, Web], tmp_path: Path, version: str) -> None:
    """Every request of 500 a second on ten connections fails: tries are at most 1.2 x requests and 10 a second."""
    board = webs["failing"].board
    board.clear()
    board.always(Order(status=500))
    requests = RATE * SECONDS
    began = time.monotonic()
    with paced(sidecar.url("failing"), tmp_path, rate=RATE, requests=requests, version=version) as load:
        lines = load.lines()
    took = time.monotonic() - began
    assert share_of(500, lines) == 1.0
    tries = board.count()
    print(f"{requests} requests in {took:.1f} s: {tries} tries, {tries / requests:.3f} for each")
    assert requests < tries <= 1.2 * requests + 10 * (took + 1)


def tail(sidecar: Sidecar, web: Web, name: str) -> float:
    """Seconds that the slowest of some requests took, when the server is slow once in a while."""
    web.board.clear()
    web.board.always(Order(delay=USUAL))
    took = []
    with client("http2") as session:
        for _ in range(100):
            ask(sidecar, name, by=session)
        for _ in range(SLOW_ONES):
            web.board.next(Order(delay=SLOW))
            began = time.monotonic()
            assert ask(sidecar, name, by=session).status == 200
            took.append(time.monotonic() - began)
    return statistics.mean(took)


def test_hedges_lower_the_tail(sidecar: Sidecar, webs: dict[str, Web]) -> None:
    """A second try starts when the first takes longer than most did; the first is given up when the second answers."""
    board = webs["hedged"].board
    assert tail(sidecar, webs["hedged"], "hedged") < SLOW
    assert 100 + 2 * SLOW_ONES <= board.count() <= (100 + SLOW_ONES) * 1.2 + 20
    wait_until(lambda: len(board.left) >= SLOW_ONES and not board.active, "the slow tries are cancelled")


def test_hedges_have_a_budget(sidecar: Sidecar, webs: dict[str, Web]) -> None:
    """With nothing in the budget there is no second try, and the tail is what it was."""
    assert tail(sidecar, webs["stingy"], "stingy") >= SLOW
    assert webs["stingy"].board.count() == 100 + SLOW_ONES


def test_one_of_five_hangs(sidecar: Sidecar, webs: dict[str, Web], tmp_path: Path) -> None:
    """After the first second at least 99.9 % succeed; the endpoint is ejected, and taken back when it answers again."""
    boards = [webs[name].board for name in "abcde"]
    clear(*boards)
    bad, *good = boards
    bad.always(Order(hang=True))
    rate = RATE if FULL else 300
    requests = int(rate * (HANG_SECONDS + 1))
    with paced(sidecar.url("five"), tmp_path, rate=rate, requests=requests) as load:
        lines = load.lines()
    later = [line for line in lines if line.at >= 1.0]
    print(f"{requests} requests, {bad.count()} of them to the endpoint that hangs; {share_of(200, later):.4f} good")
    assert share_of(200, later) >= 0.999
    assert 3 <= bad.count() < requests / (20 if FULL else 7)  # a fifth of them would be its share
    assert min(counts(*good)) > requests / 10

    bad.always(Order())
    healed = bad.count()
    with client("http2") as session:

        def back() -> bool:
            for _ in range(20):
                assert ask(sidecar, "five", by=session).status == 200
            return bad.count() > healed + 20

        wait_until(back, "it is back")
