"""Replicas go, in good order or not, while their twins serve: what clients see of it, and how those that died come
back.

The load has requests that may be repeated (GET), calls, and requests that take 0.4 s and may not (POST).
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.end_to_end.mesh_load import Load, grpc_calls, http1, http2, load_of
from tests.end_to_end.mesh_machine import APPLICATION, Mesh, calls, client, gone, machine_in, workload

TWINS = {"echo": ("echo-1", "echo-2"), "calls": ("calls-1", "calls-2")}
POSTS = 4
"""Requests under way at once that must not be sent again."""


def documents(**spec: object) -> list[dict[str, object]]:
    """A client's sidecar and two services of two replicas each."""
    return [client(), workload("echo", **{"replicas": 2, **spec}), calls(replicas=2)]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """All of them serve; what each test leaves is two replicas of each service."""
    with machine_in(tmp_path_factory.mktemp("mesh")) as machine:
        mesh = Mesh(machine, documents())
        mesh.until_serving(*TWINS["echo"], *TWINS["calls"])
        mesh.until(lambda: mesh.connected() == {"client", "echo", "calls"}, "all proxies are connected")
        yield mesh


def load_on(mesh: Mesh) -> Load:
    """HTTP/1.1 and HTTP/2 to the one service, gRPC to the other, by way of the client's sidecar."""
    proxy = mesh.sidecar("client-1").forward
    return load_of(
        ("http1", partial(http1, proxy, "echo", "/page"), 3),
        ("posts", partial(http1, proxy, "echo", "/slow", "POST"), POSTS),
        ("http2", partial(http2, proxy, "echo", "/page"), 2),
        ("grpc", partial(grpc_calls, proxy, "calls"), 2),
    )


def until_back(mesh: Mesh, replica: str, before: int, pid: Callable[[str], int]) -> None:
    """Returns when the replica serves in another life than that of the process `before`."""
    mesh.until(lambda: gone(before), f"{replica}: the process ends")
    mesh.until(lambda: replica in mesh.serving() and pid(replica) not in (0, before), f"{replica} is back")


@pytest.mark.parametrize("service", TWINS)
def test_sidecar_is_terminated_under_load(mesh: Mesh, service: str) -> None:
    """SIGTERM to one of two: it drains, no request fails, and the supervisor starts the replica again."""
    replica = TWINS[service][0]
    before = mesh.sidecar_pid(replica)
    with load_on(mesh) as load:
        load.more(8)
        os.kill(before, signal.SIGTERM)
        until_back(mesh, replica, before, mesh.sidecar_pid)
        load.more(8)
    assert load.failures == []
    assert f"{replica}/proxy exited with status 0; starting {replica} again" in mesh.log
    print(f"answered while the sidecar of {replica} was terminated: {load.counts}, failed: 0")


def test_application_is_killed_under_load(mesh: Mesh) -> None:
    """SIGKILL to one of two: only what its application had in hand may be lost, and most of that can be sent again.

    That its sidecar goes on to take requests until the mesh has heard harms nobody: they go to the other replica.
    """
    before = mesh.application_pid("echo-2")
    with load_on(mesh) as load:
        load.more(8)
        os.kill(before, signal.SIGKILL)
        mesh.until(lambda: gone(before), "it dies")
        died = time.monotonic()
        until_back(mesh, "echo-2", before, mesh.application_pid)
        load.more(8)
    assert [failure for failure in load.failures if failure.kind == "grpc" or failure.sent > died + 0.25] == []
    assert [failure for failure in load.failures if not failure.what.startswith("502 ")] == []
    assert len(load.failures) <= POSTS
    assert "echo-2 was killed by SIGKILL; starting echo-2 again" in mesh.log
    print(
        f"answered while an application was killed: {load.counts}, lost of those it had in hand: {len(load.failures)}"
    )


def test_both_twins_answer_again(mesh: Mesh) -> None:
    """After all that, both replicas of each service are endpoints, and both are asked."""
    names = [name for twins in TWINS.values() for name in twins]
    mesh.until_serving(*names)
    before = {name: asked(mesh, name) for name in names}
    with load_on(mesh) as load:
        mesh.until(lambda: all(asked(mesh, name) > before[name] for name in names), "all are asked")
    assert load.failures == []


def test_replicas_come_and_go_under_load(mesh: Mesh) -> None:
    """One more joins by `conduit run` and leaves at ^C, then all are replaced by a change of the YAML: none fails."""
    before = mesh.serving()
    with load_on(mesh) as load:
        words = ("--service", "echo", "--port", "auto", "--protocol", "http1", "--", "python", APPLICATION)
        extra = mesh.machine.start("run", "extra", *words)
        mesh.until(lambda: extra.returncode is not None or mesh.serving() > before, "it joins")
        assert extra.returncode is None, extra.output()
        [name] = mesh.serving() - before
        mesh.until(lambda: asked(mesh, name) > 0, "it is asked")
        extra.send_signal(signal.SIGINT)
        assert extra.wait() == 130
        load.more(4)

        mesh.write(documents(environment={"EDITION": "second"}))
        mesh.until(lambda: not {"echo-1", "echo-2"} & mesh.serving(), "both are replaced")
        load.more(4)
    assert load.failures == []
    assert len([name for name in mesh.serving() if name.startswith("echo-")]) == 2
    print(f"answered while replicas came and went: {load.counts}, failed: 0")


def asked(mesh: Mesh, replica: str) -> float:
    """Requests that a replica's sidecar has handed to its application."""
    return mesh.sidecar(replica).total("request_total", direction="inbound")
