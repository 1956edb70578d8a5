"""conduit proxy: mistakes in the file, and a real proxy from first listener to SIGTERM."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trio

from mesh.local.probe import until_ok
from mesh.local.sidecar import CONDUIT


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("admin: 127.0.0.1:0\nadmim: x\n", "proxy.yaml:2: admim: "),
        ("outbound:\n  - listen: nowhere\n", "proxy.yaml:2: outbound[0].listen: "),
        ("outbound: [\n", "proxy.yaml:"),
        ("resources: [{kind: Workload}]\n", "proxy.yaml:1: resources[0].kind: Workload means nothing here, only "),
    ],
)
def test_mistake_is_told_with_its_place(conduit: Callable, tmp_path: Path, text: str, told: str) -> None:
    """File, line and field, in one line, and exit code 1."""
    path = tmp_path / "proxy.yaml"
    path.write_text(text)
    result = conduit("proxy", "--config", path)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"conduit: {tmp_path}/{told}")
    assert result.err.count("\n") == 1


def test_missing_file_is_told(conduit: Callable, tmp_path: Path) -> None:
    """As a mistake of the caller, without a traceback."""
    result = conduit("proxy", "--config", tmp_path / "none.yaml")
    assert result == (1, "", f"conduit: {tmp_path}/none.yaml: cannot be read: No such file or directory\n")


async def test_proxy_runs_until_sigterm(
    processes: Callable, free_port: Callable[[], int], tmp_path: Path, own_runtime_folder: Path
) -> None:
    """It becomes ready, and SIGTERM ends it with 0."""
    admin, outbound = free_port(), free_port()
    path = tmp_path / "proxy.yaml"
    path.write_text(
        f"admin: 127.0.0.1:{admin}\noutbound: [{{listen: '127.0.0.1:{outbound}'}}]\nlimits: {{drain_grace: 0.01}}\n"
    )
    handle = processes([*CONDUIT, "proxy", "--config", path], ready_port=admin)
    with trio.fail_after(30):
        await until_ok(admin, "/ready")
    handle.terminate()
    assert await trio.to_thread.run_sync(handle.wait) == 0, handle.output()


async def test_proxy_runs_on_the_reference_codec(
    processes: Callable, free_port: Callable[[], int], tmp_path: Path, own_runtime_folder: Path
) -> None:
    """`--http2-codec=h2` serves HTTP/2 without ngh2 being imported; here, a loop is refused by it."""
    admin, outbound = free_port(), free_port()
    path = tmp_path / "proxy.yaml"
    path.write_text(
        f"admin: 127.0.0.1:{admin}\noutbound: [{{listen: '127.0.0.1:{outbound}'}}]\nlimits: {{drain_grace: 0.01}}\n"
    )
    handle = processes([*CONDUIT, "proxy", "--config", path, "--http2-codec", "h2"], ready_port=admin)
    with trio.fail_after(30):
        await until_ok(admin, "/ready")
    async with httpx.AsyncClient(http1=False, http2=True) as client:
        answer = await client.get(f"http://127.0.0.1:{outbound}/")
    assert (answer.http_version, answer.status_code) == ("HTTP/2", 508)
    assert "ngh2" not in Path(f"/proc/{handle.pid}/maps").read_text()
    handle.terminate()
    assert await trio.to_thread.run_sync(handle.wait) == 0
