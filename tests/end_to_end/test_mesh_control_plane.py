"""The control plane is killed, stopped or away while a whole mesh works: no request notices, and news arrives after."""

import os
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from tests.end_to_end.curl import Answer, curl
from tests.end_to_end.mesh_load import Load, grpc_calls, http1, http2, load_of
from tests.end_to_end.mesh_machine import Mesh, Stopwatch, calls, client, machine_in, policy, workload
from tests.end_to_end.sidecar import wait_until

ARRIVAL_SECONDS = 20.0
"""From where news is there to be had to where proxies act by it, on any machine; what it really took is printed."""
WORKLOADS = [client(), workload("echo-v1", service="echo"), workload("echo-v2", service="echo"), calls()]
NAMES = {"client", "echo-v1", "echo-v2", "calls"}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A client's sidecar, a service of two workloads, and one of gRPC; each test leaves it as it was."""
    with machine_in(tmp_path_factory.mktemp("mesh")) as machine:
        mesh = Mesh(machine, WORKLOADS)
        mesh.until_serving("echo-v1-1", "echo-v2-1", "calls-1")
        mesh.until(lambda: mesh.connected() == NAMES, "all proxies are connected")
        yield mesh


def load_on(mesh: Mesh) -> Load:
    """HTTP/1.1 and HTTP/2 to the one service, gRPC to the other, by way of the client's sidecar."""
    proxy = mesh.sidecar("client-1").forward
    return load_of(
        ("http1", partial(http1, proxy, "echo", "/page"), 3),
        ("http2", partial(http2, proxy, "echo", "/page"), 2),
        ("grpc", partial(grpc_calls, proxy, "calls"), 2),
    )


def told(mesh: Mesh, event: str) -> int:
    """How often the mesh's proxies have said so."""
    return mesh.log.count(f'"event": "{event}"')


def until_linked_again(mesh: Mesh, found: int) -> None:
    """Returns when every proxy has found the control plane once more than when `found` was counted."""
    mesh.until(lambda: told(mesh, "control_plane_found") >= found + len(NAMES), "all proxies reconnect")


def kill_control(mesh: Mesh) -> None:
    """SIGKILL, as the kernel does when memory is short."""
    pid = mesh.control_pid()
    assert pid
    os.kill(pid, signal.SIGKILL)


def ask(mesh: Mesh, service: str, path: str, check: bool = True) -> Answer:
    """One request through the client's sidecar."""
    return curl(f"http://{service}{path}", "-x", mesh.sidecar("client-1").proxy_url, check=check)


def test_killed_under_load(mesh: Mesh) -> None:
    """No request fails; it comes back, proxies reconnect, and a policy applied then is in force within 2 s."""
    before, found = mesh.control_pid(), told(mesh, "control_plane_found")
    with load_on(mesh) as load:
        load.more(30)
        kill_control(mesh)
        load.more(30)
        until_linked_again(mesh, found)
        load.more(30)
    assert load.failures == []
    print(f"answered while the control plane was killed: {load.counts}, failed: 0")
    assert mesh.control_pid() not in (0, before)
    assert mesh.connected() == NAMES

    assert ask(mesh, "echo", "/slow").status == 200
    file = mesh.machine.folder / "policy.yaml"
    for seconds, status in ((0.2, 504), (9.0, 200)):
        file.write_text(policy("echo", timeouts={"request": seconds}))
        done = mesh.machine.conduit("apply", "-f", file)
        since = Stopwatch()
        assert done.code == 0, done.err
        mesh.until(lambda status=status: ask(mesh, "echo", "/slow").status == status, "it is in force", ARRIVAL_SECONDS)
        print(f"timeouts.request: {seconds} was in force {since():.3f} s after `conduit apply` had ended")


def test_stopped_under_load(mesh: Mesh) -> None:
    """SIGSTOP: no request fails, proxies see the silence and reconnect when it goes on, and it is the same process."""
    pid, lost, found = mesh.control_pid(), told(mesh, "control_plane_lost"), told(mesh, "control_plane_found")
    with load_on(mesh) as load:
        load.more(10)
        os.kill(pid, signal.SIGSTOP)
        try:
            mesh.until(lambda: told(mesh, "control_plane_lost") >= lost + len(NAMES), "the silence is noticed")
        finally:
            os.kill(pid, signal.SIGCONT)
        load.more(10)
        until_linked_again(mesh, found)
        load.more(10)
    assert load.failures == []
    assert "silent for 5 s" in mesh.log
    assert mesh.control_pid() == pid


def test_source_changes_while_it_is_away(mesh: Mesh) -> None:
    """What it finds when it is back is what the YAML says by then, also of a name that nobody knew before."""
    assert ask(mesh, "late", "/page", check=False).status in (502, 503, 504)
    found = told(mesh, "control_plane_found")
    kill_control(mesh)
    mesh.write([*WORKLOADS, workload("late")])
    mesh.until_serving("late-1")
    since = Stopwatch()
    mesh.until(lambda: ask(mesh, "late", "/page").status == 200, "the new service answers", ARRIVAL_SECONDS)
    print(f"a new service answered {since():.3f} s after it was there")
    until_linked_again(mesh, found)

    mesh.write(WORKLOADS)
    mesh.until(lambda: not mesh.serving() & {"late-1"}, "it goes again")
    wait_until(lambda: ask(mesh, "late", "/page").status in (502, 503, 504), "nobody is asked for it", ARRIVAL_SECONDS)
