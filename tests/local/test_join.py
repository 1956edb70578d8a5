"""One more process in a mesh that runs already."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from mesh.local import rendezvous
from mesh.local.join import join
from mesh.model.errors import ControlError
from mesh.model.resources import Workload

from .conftest import SIDECAR, ListLog, here_in, until

Make = Callable[..., Workload]


@pytest.fixture
def running(own_runtime_folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A mesh that is announced; yields its runtime file."""
    (tmp_path / "endpoints").mkdir()
    rendezvous.make_folder(own_runtime_folder)
    with rendezvous.announce(own_runtime_folder, here_in(tmp_path)):
        yield own_runtime_folder / "mesh.json"


@pytest.mark.parametrize(
    ("code", "status"), [("exit(0)", 0), ("exit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)]
)
async def test_client_gives_its_status(
    running: Path, workload: Make, tmp_path: Path, log: ListLog, code: str, status: int
) -> None:
    """As a shell would tell it, a signal included; it runs once."""
    client = workload(sys.executable, "-c", code, port=None)
    assert await join(client, tmp_path, log, proxy_command=SIDECAR) == status
    assert log.lines == []


async def test_client_has_the_terminal(
    running: Path, workload: Make, tmp_path: Path, log: ListLog, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it prints is its own, without a prefix, on our stdout."""
    await join(workload("echo", "hello", port=None), tmp_path, log, proxy_command=SIDECAR)
    assert capfd.readouterr().out == "hello\n"


async def test_server_leaves_with_the_mesh(running: Path, workload: Make, tmp_path: Path, log: ListLog) -> None:
    """It is an endpoint under a name of its own while the mesh runs, and an error tells when that is over."""
    endpoint = tmp_path / "endpoints" / f"demo.web-{os.getpid()}.yaml"
    failures: list[ControlError] = []

    async def run() -> None:
        try:
            await join(workload(), tmp_path, log, proxy_command=SIDECAR)
        except ControlError as exc:
            failures.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await until(endpoint.exists)
        running.unlink()
    assert [str(failure) for failure in failures] == ["the mesh is gone (the process that ran it has ended)"]
    assert not endpoint.exists()


async def test_nothing_to_join(own_runtime_folder: Path, workload: Make, tmp_path: Path, log: ListLog) -> None:
    """Without a mesh nothing is started, and the error says how to start one."""
    with pytest.raises(ControlError, match=r"no mesh is running to join: start one with `conduit up"):
        await join(workload(), tmp_path, log, proxy_command=SIDECAR)
