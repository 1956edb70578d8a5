"""Rolling replacement: every replica of every service is replaced, again and again, under requests of all kinds."""

from collections.abc import Iterator
from functools import partial

import pytest

from tests.end_to_end.mesh_load import grpc_calls, http1, http2, load_of
from tests.end_to_end.mesh_machine import Mesh, Stopwatch, calls, client, machine_in, workload
from tests.end_to_end.scale import FULL

pytestmark = pytest.mark.timeout(600 if FULL else 120)

ROUNDS = 3 if FULL else 1
REQUESTS = 30_000 if FULL else 900


def documents(edition: int) -> list[dict[str, object]]:
    """A client's sidecar, and two services of two replicas, which a new edition replaces."""
    environment = {"EDITION": str(edition)}
    return [client(), workload("echo", replicas=2, environment=environment), calls(replicas=2, environment=environment)]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """All of it serves."""
    with machine_in(tmp_path_factory.mktemp("mesh")) as machine:
        mesh = Mesh(machine, documents(0))
        mesh.until_serving("echo-1", "echo-2", "calls-1", "calls-2")
        mesh.until(lambda: mesh.connected() == {"client", "echo", "calls"}, "all proxies are connected")
        yield mesh


def test_rolling_replacement(mesh: Mesh) -> None:
    """Each time, every endpoint goes and another comes, under a load of HTTP/1.1, HTTP/2 and gRPC: none fails."""
    proxy = mesh.sidecar("client-1").forward
    since = Stopwatch()
    with load_of(
        ("http1", partial(http1, proxy, "echo", "/page"), 4),
        ("http2", partial(http2, proxy, "echo", "/page"), 3),
        ("grpc", partial(grpc_calls, proxy, "calls"), 3),
    ) as load:
        load.more(10)
        for edition in range(1, ROUNDS + 1):
            before = mesh.serving()
            mesh.write(documents(edition))
            mesh.until(lambda before=before: not before & mesh.serving(), "all endpoints are others")
            mesh.until(lambda: len(mesh.serving()) == 4, "and as many as before")
            load.more(REQUESTS // ROUNDS // 3, 200)
    total, seconds = sum(load.counts.values()), since()
    print(f"{total} requests in {seconds:.1f} s ({total / seconds:.0f} a second): {load.counts}; {load.failures[:5]}")
    assert load.failures == []
    assert total >= REQUESTS
