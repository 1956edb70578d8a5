"""A sidecar is told to go, or an application dies, while its twin serves: what clients see, and how both come back."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.end_to_end.mesh_load import Load, grpc_calls, http1, http2, load_of
from tests.end_to_end.mesh_machine import Mesh, Stopwatch, calls, client, gone, machine_in, workload

TWINS = {"echo": ("echo-1", "echo-2"), "calls": ("calls-1", "calls-2")}
BLAMED = "endpoint 127.0.0.1:"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A client's sidecar and two services of two replicas each."""
    with machine_in(tmp_path_factory.mktemp("mesh")) as machine:
        mesh = Mesh(machine, [client(), workload("echo", replicas=2), calls(replicas=2)])
        mesh.until_serving(*TWINS["echo"], *TWINS["calls"])
        mesh.until(lambda: mesh.connected() == {"client", "echo", "calls"}, "all proxies are connected")
        yield mesh


def load_on(mesh: Mesh) -> Load:
    """HTTP/1.1 and HTTP/2 to the one service, gRPC to the other, by way of the client's sidecar."""
    proxy = mesh.sidecar("client-1").forward
    return load_of(
        ("http1", partial(http1, proxy, "echo", "/page"), 4),
        ("http2", partial(http2, proxy, "echo", "/page"), 2),
        ("grpc", partial(grpc_calls, proxy, "calls"), 2),
    )


def until_back(mesh: Mesh, replica: str, before: int, pid: Callable[[str], int]) -> None:
    """Returns when the replica serves in another life than that of the process `before`."""
    mesh.until(lambda: gone(before), f"{replica}: the process ends", 15)
    mesh.until(lambda: replica in mesh.serving() and pid(replica) not in (0, before), f"{replica} is back", 20)


@pytest.mark.parametrize("service", TWINS)
def test_sidecar_is_terminated_under_load(mesh: Mesh, service: str) -> None:
    """SIGTERM to one of two: it drains, no request fails, and the supervisor starts the replica again."""
    replica = TWINS[service][0]
    before = mesh.sidecar_pid(replica)
    with load_on(mesh) as load:
        load.more(30)
        os.kill(before, signal.SIGTERM)
        until_back(mesh, replica, before, mesh.sidecar_pid)
        load.more(30)
    assert load.failures == []
    assert f"{replica}/proxy exited with status 0; starting {replica} again" in mesh.log
    print(f"answered while the sidecar of {replica} was terminated: {load.counts}, failed: 0")


def test_application_is_killed_under_load(mesh: Mesh) -> None:
    """SIGKILL to one of two.

    Its sidecar cannot know whether the application had acted on a request that was under way, and refuses those that
    come before the mesh has heard: these, and no others, may fail, each with 502 or 503 that names the endpoint (or a
    connection that ends). As soon as the endpoint is gone, which takes less than two seconds, nothing fails.
    """
    before = mesh.application_pid("echo-2")
    with load_on(mesh) as load:
        load.more(30)
        since = Stopwatch()
        killed = since.began
        os.kill(before, signal.SIGKILL)
        mesh.until(lambda: "echo-2" not in mesh.serving(), "the endpoint goes", 2)
        until_back(mesh, "echo-2", before, mesh.application_pid)
        load.more(30)
    late = [failure for failure in load.failures if failure.sent > killed + 1.0 or failure.failed < killed]
    assert late == []
    assert {failure.kind for failure in load.failures} <= {"http1", "http2"}
    assert all(BLAMED in failure.what for failure in load.failures), load.failures
    print(f"answered while an application was killed: {load.counts}, failed: {len(load.failures)} {load.failures[:3]}")
    assert "echo-2 was killed by SIGKILL; starting echo-2 again" in mesh.log


def test_both_twins_answer_again(mesh: Mesh) -> None:
    """After all that, both replicas of each service are endpoints, and both are asked."""
    names = [name for twins in TWINS.values() for name in twins]
    mesh.until_serving(*names)
    before = {name: asked(mesh, name) for name in names}
    with load_on(mesh) as load:
        mesh.until(lambda: all(asked(mesh, name) > before[name] for name in names), "all are asked", 20)
    assert load.failures == []


def asked(mesh: Mesh, replica: str) -> float:
    """Requests that a replica's sidecar has handed to its application."""
    return mesh.sidecar(replica).total("request_total", direction="inbound")
