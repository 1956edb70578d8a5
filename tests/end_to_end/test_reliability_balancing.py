"""How requests are spread over endpoints, as each kind of balancing promises."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.asking import ask, client, together
from tests.end_to_end.failing import Board, Order, clear, counts
from tests.end_to_end.failing_web import Web, web_servers
from tests.end_to_end.sidecar import Config, Sidecar, Starter, service, traffic_policy

MANY = 90
NO_BREAKER = {"failures": 0}
KINDS = {
    "ewma": {"kind": "ewma"},
    "alike": {"kind": "ewma"},
    "least": {"kind": "leastRequest"},
    "round": {"kind": "roundRobin"},
    "header": {"kind": "hash", "hash": {"header": "x-user"}},
    "cookie": {"kind": "hash", "hash": {"cookie": "session"}},
    "source": {"kind": "hash", "hash": {"source": True}},
    "weighted": {"kind": "roundRobin"},
    "zoned": {"kind": "roundRobin", "zone": True},
}


@pytest.fixture(scope="module")
def webs() -> Iterator[list[Web]]:
    """Three of them."""
    with web_servers() as webs:
        yield [webs.add(name) for name in "abc"]


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, webs: list[Web]) -> Sidecar:
    """A service of all three for each kind."""
    services: dict[str, Config] = {name: service(*(web.port for web in webs)) for name in KINDS}
    addresses = [f"127.0.0.1:{web.port}" for web in webs]
    services["weighted"] = {
        "endpoints": [
            {"address": address, "weight": weight} for address, weight in zip(addresses, (2, 1, 0), strict=True)
        ]
    }
    services["zoned"] = {
        "endpoints": [
            {"address": address, "zone": zone}
            for address, zone in zip(addresses, ("here", "here", "there"), strict=True)
        ]
    }
    breakers = {"zoned": {"failures": 2, "probation": "60s", "ejectMost": 100, "panic": 0}}
    policies = [
        traffic_policy(name, balancing=kind, breaker=breakers.get(name, NO_BREAKER)) for name, kind in KINDS.items()
    ]
    return shared_proxy(services, resources=policies, zone="here")


@pytest.fixture
def boards(webs: list[Web]) -> list[Board]:
    """Fresh ones."""
    boards = [web.board for web in webs]
    clear(*boards)
    return boards


def send(sidecar: Sidecar, name: str, count: int = MANY, **headers: str) -> set[str]:
    """One request after the other; who answered."""
    with client("http2") as session:
        return {ask(sidecar, name, by=session, headers=headers).text for _ in range(count)}


def test_round_robin(sidecar: Sidecar, boards: list[Board]) -> None:
    """Each in its turn."""
    send(sidecar, "round")
    assert counts(*boards) == [MANY / 3] * 3


def test_weights(sidecar: Sidecar, boards: list[Board]) -> None:
    """Twice the weight is twice the requests; 0 is none."""
    send(sidecar, "weighted")
    assert counts(*boards) == [MANY * 2 / 3, MANY / 3, 0]


@pytest.mark.parametrize("name", ["ewma", "least"])
def test_slow_endpoints_get_less(sidecar: Sidecar, boards: list[Board], name: str) -> None:
    """An endpoint that is slow, with many requests at a time, gets less than its share."""
    boards[0].always(Order(delay=0.15))
    together(8, lambda: send(sidecar, name, 12))
    slow, *fast = counts(*boards)
    assert slow + sum(fast) == 96
    assert slow < 24
    assert slow < min(fast)


def test_ewma_spreads(sidecar: Sidecar, boards: list[Board]) -> None:
    """Endpoints that are alike all get something, as soon as one has a request in hand."""
    for board in boards:
        board.always(Order(delay=0.01))
    together(6, lambda: send(sidecar, "alike", 15))
    assert min(counts(*boards)) > 0


def test_hash_of_a_header(sidecar: Sidecar, boards: list[Board]) -> None:
    """A user stays with an endpoint, on whatever connection; users are spread over endpoints."""
    homes = {f"user-{number}": send(sidecar, "header", 3, **{"x-user": f"user-{number}"}) for number in range(30)}
    assert {len(home) for home in homes.values()} == {1}
    assert {name for home in homes.values() for name in home} == {"a", "b", "c"}
    for user, home in list(homes.items())[:5]:
        assert send(sidecar, "header", 2, **{"X-User": user}) == home
    assert len(send(sidecar, "header")) > 1


def test_hash_of_a_cookie(sidecar: Sidecar, boards: list[Board]) -> None:
    """So does a session, wherever its cookie stands among others."""
    homes = [
        {
            *send(sidecar, "cookie", 2, cookie=f"first=1; session={number}"),
            *send(sidecar, "cookie", 2, cookie=f"session={number}; last=2"),
        }
        for number in range(20)
    ]
    assert {len(home) for home in homes} == {1}
    assert {name for home in homes for name in home} == {"a", "b", "c"}


def test_hash_of_the_source(sidecar: Sidecar, boards: list[Board]) -> None:
    """So do all connections of one address."""
    assert len(set().union(*(send(sidecar, "source", 3) for _ in range(10)))) == 1


def test_zone(sidecar: Sidecar, boards: list[Board]) -> None:
    """The own zone gets everything, until too little of it is fit for use; then the others take their part."""
    send(sidecar, "zoned")
    assert counts(*boards) == [MANY / 2, MANY / 2, 0]
    clear(*boards)
    boards[0].always(Order(status=500))
    send(sidecar, "zoned")
    assert boards[0].count() == 2
    assert boards[2].count() > 10
    clear(*boards)
    boards[1].always(Order(status=500))
    send(sidecar, "zoned")
    assert counts(*boards) == [0, 2, MANY - 2]
