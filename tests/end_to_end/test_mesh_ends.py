"""However `conduit up` and `conduit run` end, their exit status says so, and no process of theirs is left."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Handle
from tests.end_to_end.mesh_machine import Machine, Mesh, descendants, gone, machine_in, workload
from tests.end_to_end.sidecar import wait_until

LEFT_SECONDS = 30.0
"""A guard waits 2 s before it uses force, a sidecar drains for some, the machine may be busy."""
# A program with a child of its own, as a development server with a reloader has; and one that ignores SIGTERM.
FORKING = "import os, signal; os.fork(); os.write(1, b'pid %d\\n' % os.getpid()); signal.pause()"  # a line in one piece
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FORKING}"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine where no mesh runs yet."""
    with machine_in(tmp_path) as machine:
        yield machine


def start(machine: Machine) -> Mesh:
    """A small mesh that serves: one application, and one program that will not listen to SIGTERM."""
    mesh = Mesh(machine, [workload("echo"), workload("stubborn", "python", "-c", STUBBORN)])
    mesh.until_serving("echo-1")
    mesh.until(lambda: mesh.log.count("| pid ") == 2, "the stubborn program and its child run")
    return mesh


def start_client(machine: Machine) -> Handle:
    """`conduit run` of a program that goes on until it is ended."""
    handle = machine.start("run", "me", "--", "python", "-c", FORKING)
    wait_until(lambda: handle.stdout.read_text().count("pid ") == 2, "the client and its child run")
    return handle


def until_none_is_left(machine: Machine, pids: set[int]) -> None:
    """Returns when nothing carries our environment any more, and each of the processes has ended."""
    wait_until(lambda: not machine.processes() and all(gone(pid) for pid in pids), "no process is left", LEFT_SECONDS)


def test_interrupted(machine: Machine) -> None:
    """^C on `conduit run` ends the client alone, ^C on `conduit up` all the rest; both with 130."""
    mesh = start(machine)
    client = start_client(machine)
    of_client, of_mesh = descendants(client.pid), descendants(mesh.up.pid)
    assert len(of_client) == 4  # a guard, a sidecar, the program and its child
    client.send_signal(signal.SIGINT)
    assert client.wait() == 130
    wait_until(lambda: all(gone(pid) for pid in of_client), "nothing of the client is left", LEFT_SECONDS)
    assert not any(gone(pid) for pid in of_mesh), mesh.log

    mesh.up.send_signal(signal.SIGINT)
    assert mesh.up.wait() == 130
    until_none_is_left(machine, of_mesh)
    assert [path.name for path in (machine.runtime / "conduit").iterdir()] == ["mesh.lock"]
    assert "Traceback" not in mesh.log


def test_killed(machine: Machine) -> None:
    """SIGKILL of `conduit up` leaves no process, a joined `conduit run` ends by itself, and a new mesh can start."""
    mesh = start(machine)
    client = start_client(machine)
    pids = descendants(client.pid) | descendants(mesh.up.pid)
    mesh.up.kill()
    assert mesh.up.wait() == -signal.SIGKILL
    assert client.wait(LEFT_SECONDS + 5.0) == 1
    assert "the mesh is gone" in client.stderr.read_text()
    until_none_is_left(machine, pids)

    again = Mesh(machine, [workload("echo")])
    again.until(lambda: "echo-1 serves echo" in again.log, "it serves")
    assert len(list((machine.runtime / "conduit").glob("state-*"))) == 1
    os.kill(again.up.pid, signal.SIGTERM)
    assert again.up.wait() == 0
    until_none_is_left(machine, set())


def test_interrupted_while_it_starts(machine: Machine) -> None:
    """^C before anything is ready is no different."""
    mesh = Mesh(machine, [workload("echo", replicas=2)])
    mesh.until(lambda: mesh.control_pid() or descendants(mesh.up.pid), "its first process runs")
    mesh.up.send_signal(signal.SIGINT)
    assert mesh.up.wait() == 130
    until_none_is_left(machine, set())
