"""The control plane's process: when it is there, and when it goes."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from mesh.control.issuer import TrustFiles
from mesh.local import probe
from mesh.local.control_plane import READY_PATH, ControlPlane
from mesh.local.guard import Guard

from .conftest import CONTROL, ListLog, gone, until

TRUST = TrustFiles(Path("/a"), Path("/i"), Path("/k"))


async def test_only_its_scope_stops_it(tmp_path: Path, log: ListLog, guard: Guard) -> None:
    """A cancellation around it does not: it outlives the proxies that still report to it."""
    plane = ControlPlane([tmp_path], tmp_path, log, guard, TRUST, CONTROL, ("--further", "x"))
    async with trio.open_nursery() as nursery:
        await plane.start(nursery)
        pid = plane.pid
        assert await probe.status(plane.port, READY_PATH, plane.token) == 200
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert await probe.status(plane.port, READY_PATH, plane.token) == 200
            plane.scope.cancel()
    assert gone(pid)
    assert plane.pid == 0


async def test_start_can_be_cancelled(
    tmp_path: Path, log: ListLog, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it does not answer yet, a cancellation around it is all it takes, and no process is left."""
    monkeypatch.setenv("CONTROL_SILENT", "yes")
    plane = ControlPlane([tmp_path], tmp_path, log, guard, TRUST, CONTROL, ("--further", "x"))
    with trio.fail_after(30), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel_when_it_runs() -> None:
                await until(lambda: log.find("(control --source)"))
                pids.append(plane.pid)
                scope.cancel()

            pids: list[int] = []
            nursery.start_soon(cancel_when_it_runs)
            await plane.start(nursery)
    assert scope.cancelled_caught
    assert all(gone(pid) for pid in pids)


async def test_token_is_not_on_the_command_line(tmp_path: Path, log: ListLog, guard: Guard) -> None:
    """Others can read command lines; it travels in the environment."""
    plane = ControlPlane([tmp_path], tmp_path, log, guard, TRUST, CONTROL, ("--further", "x"))
    async with trio.open_nursery() as nursery:
        await plane.start(nursery)
        assert plane.token not in Path(f"/proc/{plane.pid}/cmdline").read_text()
        assert log.find("control (.*)") == [
            f"--source {tmp_path} --state {tmp_path} --listen 127.0.0.1:{plane.port}"
            " --trust-anchors /a --issuer-cert /i --issuer-key /k --further x"
        ]
        assert (plane.url, plane.page) == (f"https://127.0.0.1:{plane.port}", f"http://127.0.0.1:{plane.port}")
        plane.scope.cancel()


async def test_port_taken_at_the_start(
    tmp_path: Path, log: ListLog, guard: Guard, free_port: Callable[[], int]
) -> None:
    """Another one is chosen, as long as nobody was told of the first."""
    plane = ControlPlane([tmp_path], tmp_path, log, guard, TRUST, CONTROL, ("--further", "x"))
    plane.port = taken = free_port()
    listeners = await trio.open_tcp_listeners(taken, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await plane.start(nursery)
        assert plane.port != taken
        port = plane.port
        os.kill(plane.pid, signal.SIGKILL)
        await until(lambda: plane.pid == 0)
        await until(lambda: plane.pid != 0)
        await probe.until_ok(port, READY_PATH, plane.token)
        assert plane.port == port
        plane.scope.cancel()
    for listener in listeners:
        await listener.aclose()
