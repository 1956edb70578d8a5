"""A canary as people run one: a share of the traffic, told by an HTTPRoute over the control plane, and moved live."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.end_to_end.conftest import processes_in
from tests.end_to_end.counting_nginx import CountingNginx
from tests.end_to_end.live import Live, living
from tests.end_to_end.paced import paced, share_of
from tests.end_to_end.scale import FULL
from tests.end_to_end.sidecar import Sidecar, wait_until
from tests.end_to_end.traffic_yaml import Config, http_route, path, rule

REQUESTS = 20_000
RATE = 4000
WAVE = 20_000 if FULL else 4_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For all files."""
    return tmp_path_factory.mktemp("canary")


@pytest.fixture(scope="module")
def live(free_port: Callable[[], int], folder: Path) -> Iterator[Live]:
    """A control plane."""
    with processes_in(folder) as run, living(run, free_port, folder) as live:
        yield live


@pytest.fixture(scope="module")
def nginx(live: Live, free_port: Callable[[], int], folder: Path) -> Iterator[CountingNginx]:
    """Both versions, which are endpoints of services of their own, as is the parent's only one."""
    (folder / "nginx").mkdir()
    with processes_in(folder / "nginx") as run:
        nginx = CountingNginx(run, folder / "nginx", [free_port() for _ in range(3)])
        for name, port in zip(("votes", "votes-v1", "votes-v2"), nginx.ports, strict=True):
            live.add(name, name, port, protocol="http2")
        yield nginx


@pytest.fixture(scope="module")
def sidecar(live: Live, nginx: CountingNginx) -> Sidecar:
    """The caller's proxy."""
    return live.proxy("client", "votes")


def shares(first: int, second: int) -> Config:
    """The route that gives each version its share."""
    backends = ({"name": "votes-v1", "weight": first}, {"name": "votes-v2", "weight": second})
    return http_route("votes-canary", "votes", rule(*backends, matches=[path("/")]))


def send(sidecar: Sidecar, folder: Path, requests: int) -> float:
    """As fast as it goes; the share that was answered well."""
    with paced(sidecar.url("votes"), folder, requests=requests, clients=4, streams=8, authority="votes") as load:
        return share_of(200, load.lines())


def test_canary(live: Live, sidecar: Sidecar, nginx: CountingNginx, tmp_path: Path) -> None:
    """90 to 10 over 20,000 requests is within 1 %; under load it moves to 0 to 100, and not one request fails."""
    wait_until(lambda: send(sidecar, tmp_path, 20) == 1.0, "the parent's own endpoint answers")
    live.apply(shares(90, 10))

    def routed() -> bool:
        nginx.forget()
        return send(sidecar, tmp_path, 20) == 1.0 and nginx.asked()[0] == 0

    wait_until(routed, "the route is in force")
    nginx.forget()
    assert send(sidecar, tmp_path, REQUESTS) == 1.0
    parent, first, second = nginx.asked()
    print(f"{REQUESTS} requests at 90/10: {first} and {second}")
    assert (parent, first + second) == (0, REQUESTS)
    assert abs(second - REQUESTS * 0.1) <= REQUESTS * 0.01

    def wave() -> list[int]:
        nginx.forget()
        with paced(sidecar.url("votes"), tmp_path, rate=RATE, requests=WAVE, clients=8, authority="votes") as load:
            assert share_of(200, load.lines()) == 1.0
        return nginx.asked()

    with ThreadPoolExecutor(1) as pool:
        applying = pool.submit(live.apply, shares(0, 100))
        waves = [wave()]
        wait_until(lambda: (applying.done() and waves[-1][1] == 0) or waves.append(wave()), "it has moved")
        applying.result()
    parent, first, second = (sum(counted) for counted in zip(*waves, strict=True))
    print(f"{WAVE * len(waves)} requests while it moved to 0/100: {first} and {second}, failed: 0")
    assert (parent, first + second) == (0, WAVE * len(waves))
    assert waves[-1] == [0, 0, WAVE]
