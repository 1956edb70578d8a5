"""conduit control: what it is started with, its token, its end."""

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from mesh.local.probe import status
from mesh.local.sidecar import CONDUIT

from .conftest import MESH


@pytest.mark.parametrize(
    ("source", "told"),
    [("kubernetes", "not in this version"), ("/no/such/folder", "no such folder or file")],
)
def test_bad_source_is_wrong_usage(conduit: Callable, source: str, told: str) -> None:
    """It is told at once, and nothing starts."""
    result = conduit("control", "--source", source)
    assert result.code == 2
    assert told in result.err


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_token_is_made_and_told(processes: Callable, tmp_path: Path, signum: int, code: int) -> None:
    """Without CONDUIT_TOKEN one is made; the URL on stderr opens it; signals end it."""
    (tmp_path / "mesh.yaml").write_text(MESH)
    words = ["control", "--source", tmp_path / "mesh.yaml", "--state", tmp_path / "s", "--listen", "127.0.0.1:0"]
    handle = processes([*CONDUIT, *words], env={"CONDUIT_TOKEN": ""})
    found = None
    with trio.fail_after(30):
        while not found:
            found = re.search(r"conduit control: http://127.0.0.1:(\d+)/\?token=(\S+)\n", handle.output())
            await trio.sleep(0.01)
    assert await status(int(found[1]), "/api/v1/version") == 401
    assert await status(int(found[1]), "/api/v1/version", found[2]) == 200
    handle.send_signal(signum)
    assert await trio.to_thread.run_sync(handle.wait) == code


def test_port_in_use_is_told(conduit: Callable, control: str, tmp_path: Path) -> None:
    """One line that names the address, and exit code 1."""
    address = control.removeprefix("http://")
    result = conduit("control", "--source", tmp_path, "--state", tmp_path / "other", "--listen", address)
    assert result.code == 1
    [line] = [line for line in result.err.splitlines() if line.startswith("conduit: ")]
    assert address in line
