"""A whole mesh of real processes, with stand-ins for both planes: it starts, follows its YAML, and leaves nothing."""

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio

from mesh.local.supervise import Mesh
from mesh.model.api import RuntimeFile
from mesh.model.errors import ConduitError, ConfigError

from .conftest import CONTROL, PROGRAMS, SIDECAR, ListLog, gone, until

SUPERVISOR = [sys.executable, str(PROGRAMS / "supervisor.py")]
Yaml = Callable[..., Path]


@pytest.fixture
def yaml(tmp_path: Path) -> Yaml:
    """Call it with `name=replicas` for a mesh.yaml with those workloads; `word` is an argument of their program."""

    def write(word: str = "", **workloads: int) -> Path:
        path = tmp_path / "mesh.yaml"
        documents = [
            f"apiVersion: conduit.mesh/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: demo}}\n"
            f"spec: {{command: [python, {PROGRAMS / 'server.py'}, '{word}'], port: auto, replicas: {replicas}}}\n"
            for name, replicas in workloads.items()
        ]
        path.write_text("---\n".join(documents))
        return path

    return write


def make(path: Path, log: ListLog) -> Mesh:
    """A mesh with stand-ins."""
    return Mesh([path], log, control_command=CONTROL, proxy_command=SIDECAR)


def serving(mesh: Mesh) -> list[str]:
    """Names of the replicas that serve, sorted."""
    return sorted(replica.name for replica in mesh.replicas() if replica.state == "serving")


def announced(mesh: Mesh) -> list[str]:
    """Names of the endpoint files, sorted."""
    return sorted(path.name for path in (mesh.state / "endpoints").glob("*.yaml"))


async def test_mesh_starts_and_leaves_nothing(yaml: Yaml, log: ListLog, own_runtime_folder: Path) -> None:
    """All replicas come to serve and can be found; afterwards no process, no file and no folder of it is left."""
    mesh = make(yaml(web=1, words=2), log)
    async with trio.open_nursery() as nursery:
        await nursery.start(mesh.run)
        await until(lambda: serving(mesh) == ["web-1", "words-1", "words-2"])
        assert announced(mesh) == ["demo.web-1.yaml", "demo.words-1.yaml", "demo.words-2.yaml"]
        runtime = msgspec.json.decode((own_runtime_folder / "mesh.json").read_bytes(), type=RuntimeFile)
        anchors = str(mesh.state / "identity" / "anchors.pem")
        assert runtime == RuntimeFile(mesh.plane.url, mesh.plane.token, str(mesh.state), os.getpid(), anchors)
        pids = [mesh.plane.pid, *(pid for replica in mesh.replicas() for pid in replica.pids)]
        assert len(pids) == 7
        nursery.cancel_scope.cancel()
    await until(lambda: all(gone(pid) for pid in pids), f"{pids} end")
    assert [path.name for path in own_runtime_folder.iterdir()] == ["mesh.lock"]


async def test_workloads_follow_the_yaml(yaml: Yaml, log: ListLog, own_runtime_folder: Path) -> None:
    """A workload that is added starts, one that is removed stops, replicas come and go, and the others are let be."""
    mesh = make(yaml(web=1, words=1), log)
    async with trio.open_nursery() as nursery:
        await nursery.start(mesh.run)
        await until(lambda: serving(mesh) == ["web-1", "words-1"])
        [before] = [replica.pids for replica in mesh.replicas() if replica.name == "web-1"]
        yaml(web=2, votes=1)
        await until(lambda: serving(mesh) == ["votes-1", "web-1", "web-2"])
        assert before in [replica.pids for replica in mesh.replicas()]
        yaml(web=1, votes=0, words=1)
        await until(lambda: serving(mesh) == ["web-1", "words-1"])
        nursery.cancel_scope.cancel()


async def test_changed_workload_is_rolled(yaml: Yaml, log: ListLog, own_runtime_folder: Path) -> None:
    """Each new replica serves before an old one goes, so that there are never fewer than wanted."""
    mesh = make(yaml(web=2), log)
    least = 2

    def rolled() -> bool:
        nonlocal least
        least = min(least, len(announced(mesh)))
        return serving(mesh) == ["web-3", "web-4"]

    async with trio.open_nursery() as nursery:
        await nursery.start(mesh.run)
        await until(lambda: serving(mesh) == ["web-1", "web-2"])
        yaml("other", web=2)
        await until(rolled)
        nursery.cancel_scope.cancel()
    assert least == 2


async def test_bad_change_stops_the_roll(yaml: Yaml, log: ListLog, own_runtime_folder: Path) -> None:
    """A new version that fails at once does not replace the old, and the next change takes its place."""
    mesh = make(yaml(web=2), log)
    async with trio.open_nursery() as nursery:
        await nursery.start(mesh.run)
        await until(lambda: serving(mesh) == ["web-1", "web-2"])
        yaml("3", web=2)
        await until(lambda: any("exited with status 3" in line for line in log.own))
        assert serving(mesh) == ["web-1", "web-2"]
        yaml(web=2)
        await until(lambda: sorted(replica.name for replica in mesh.replicas()) == ["web-1", "web-2"])
        nursery.cancel_scope.cancel()


async def test_bad_yaml_changes_nothing(yaml: Yaml, log: ListLog, own_runtime_folder: Path) -> None:
    """A mistake in the file is told with its line, and what runs goes on."""
    mesh = make(yaml(web=1), log)
    async with trio.open_nursery() as nursery:
        await nursery.start(mesh.run)
        await until(lambda: serving(mesh) == ["web-1"])
        path = mesh.sources[0]
        path.write_text(path.read_text().replace("port: auto", "port: often"))
        await until(lambda: any("what runs goes on" in line for line in log.own))
        assert any(re.search(r"mesh.yaml:4: spec.port: 'often'", line) for line in log.own), log.own
        assert serving(mesh) == ["web-1"]
        nursery.cancel_scope.cancel()


async def test_applied_workloads_go_before_the_yaml(yaml: Yaml, log: ListLog, own_runtime_folder: Path) -> None:
    """They start, take the place of one in the YAML and give it back, whatever is wrong in the YAML meanwhile."""
    mesh = make(yaml(web=1), log)
    async with trio.open_nursery() as nursery:
        await nursery.start(mesh.run)
        await until(lambda: serving(mesh) == ["web-1"])
        applied = mesh.state / "applied"
        applied.mkdir(exist_ok=True)
        source = yaml(web=1).read_text()
        (applied / "Workload.demo.web.yaml").write_text(source.replace("''", "'other'"))
        (applied / "Workload.demo.words.yaml").write_text(source.replace("name: web", "name: words"))
        await until(lambda: serving(mesh) == ["web-2", "words-1"])
        mesh.sources[0].write_text("kind: [")
        await until(lambda: any("what runs goes on" in line for line in log.own))
        (applied / "Workload.demo.words.yaml").unlink()
        await until(lambda: serving(mesh) == ["web-2"])
        (applied / "Workload.demo.web.yaml").unlink()
        await until(lambda: serving(mesh) == ["web-3"])
        nursery.cancel_scope.cancel()


async def test_bad_yaml_at_the_start(yaml: Yaml, log: ListLog, own_runtime_folder: Path) -> None:
    """Nothing is started for a file with a mistake."""
    path = yaml(web=1)
    path.write_text(path.read_text().replace("command", "comand"))
    with pytest.raises(ConfigError, match=r"mesh.yaml:4: spec.comand"):
        await make(path, log).run()
    assert not own_runtime_folder.exists()


async def test_control_plane_is_started_again(yaml: Yaml, log: ListLog, own_runtime_folder: Path) -> None:
    """When it is killed it comes back at the same address with the same token and trust, and no replica notices."""
    mesh = make(yaml(web=1), log)
    async with trio.open_nursery() as nursery:
        await nursery.start(mesh.run)
        await until(lambda: serving(mesh) == ["web-1"])
        url, token, pid = mesh.plane.url, mesh.plane.token, mesh.plane.pid
        trust = [path.read_bytes() for path in mesh.plane.trust]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: mesh.plane.pid not in (0, pid))
        assert (mesh.plane.url, mesh.plane.token) == (url, token)
        assert [replica.deaths for replica in mesh.replicas()] == [0]
        assert trust == [path.read_bytes() for path in mesh.plane.trust]
        assert "the control plane was killed by SIGKILL; starting it again in 0.25 s (traffic goes on)" in log.own
        nursery.cancel_scope.cancel()


async def test_broken_control_plane_is_an_error(
    yaml: Yaml, log: ListLog, own_runtime_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ends three times before it answered is given up, with its last words."""
    monkeypatch.setenv("CONTROL_EXIT", "5")
    with pytest.raises(ConduitError, match="control exited with status 5 before it was ready: control --source"):
        await make(yaml(web=1), log).run()
    assert not (own_runtime_folder / "mesh.json").exists()


async def test_one_mesh_at_a_time(yaml: Yaml, log: ListLog, own_runtime_folder: Path) -> None:
    """A second one is refused, and told whose process the first is."""
    mesh = make(yaml(web=0), log)
    async with trio.open_nursery() as nursery:
        await nursery.start(mesh.run)
        with pytest.raises(ConduitError, match=rf"a mesh is running already \(process {os.getpid()}\)"):
            await make(yaml(web=0), log).run()
        nursery.cancel_scope.cancel()


def pids_of(stderr: str) -> list[int]:
    """The applications' own children, as they told."""
    return [int(pid) for pid in re.findall(r"child (\d+)", stderr)]


def descendants(pid: int) -> set[int]:
    """All processes below this one."""
    below: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            below |= {child} | descendants(child)
    return below


@pytest.mark.parametrize(
    ("signum", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["interrupted", "terminated", "killed"],
)
async def test_supervisor_leaves_no_process(
    yaml: Yaml, own_runtime_folder: Path, processes: Callable, signum: signal.Signals, status: int
) -> None:
    """However the supervisor ends, its children and their children end as well."""
    supervisor = processes([*SUPERVISOR, yaml(web=1, words=1)])
    await until(lambda: len(re.findall(r"web-1 serves|words-1 serves", supervisor.output())) == 2)
    pids = descendants(supervisor.pid) | set(pids_of(supervisor.output()))
    assert len(pids) == 8  # a guard, a control plane, and twice: sidecar, application, its own child
    supervisor.send_signal(signum)
    assert await trio.to_thread.run_sync(supervisor.wait) == status
    await until(lambda: all(gone(pid) for pid in pids), f"{pids}")
