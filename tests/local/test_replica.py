"""The lives of a replica, with real processes."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import yaml

from mesh.local.replica import Place, Replica
from mesh.model.resources import Workload

from .conftest import PROGRAMS, ListLog, gone, until

Make = Callable[..., Workload]
SERVER = str(PROGRAMS / "server.py")


def endpoint_of(replica: Replica, place: Place) -> Path:
    """Where its endpoint stands while it serves."""
    return place.state / "endpoints" / f"demo.{replica.name}.yaml"


async def test_serving_replica_is_announced(
    nursery: trio.Nursery, place: Place, workload: Make, log: ListLog, tmp_path: Path
) -> None:
    """Once the application answers, the endpoint names its inbound listener; the application knows its proxy."""
    replica = Replica("web-1", workload(service="site", version="v2"), tmp_path, place)
    nursery.start_soon(replica.run)
    await replica.ready.wait()
    resource = yaml.safe_load(endpoint_of(replica, place).read_text())
    assert (resource["kind"], resource["metadata"]) == ("Endpoint", {"name": "web-1", "namespace": "demo"})
    assert resource["spec"]["address"] == f"127.0.0.1:{replica.ports.inbound}"
    assert resource["spec"]["service"] == "site"
    assert resource["spec"]["pid"] == os.getpid()
    assert log.find("proxy (.*)") == [f"http://127.0.0.1:{replica.ports.outbound} workload web"]
    assert (place.state / "replicas/web-1/proxy.yaml").stat().st_mode & 0o777 == 0o600
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("victim", [0, 1], ids=["sidecar", "application"])
async def test_either_death_restarts_both(
    nursery: trio.Nursery, place: Place, workload: Make, tmp_path: Path, log: ListLog, victim: int
) -> None:
    """When one is killed the endpoint goes, the other is stopped, and both come back on other ports."""
    replica = Replica("web-1", workload(), tmp_path, place)
    nursery.start_soon(replica.run)
    await replica.ready.wait()
    before, ports = replica.pids, replica.ports
    os.kill(before[victim], signal.SIGKILL)
    await until(lambda: replica.state == "resting")
    assert all(gone(pid) for pid in before)
    assert not endpoint_of(replica, place).exists()
    assert "was killed by SIGKILL" in replica.last_death
    await until(lambda: replica.state == "serving")
    assert endpoint_of(replica, place).exists()
    assert not set(before) & set(replica.pids)
    assert replica.ports != ports
    assert "starting web-1 again in 0.25 s" in log.own[-1]
    nursery.cancel_scope.cancel()


async def test_cancelling_leaves_no_process(place: Place, workload: Make, tmp_path: Path, log: ListLog) -> None:
    """After cancellation the application, its own child and the sidecar are gone, and so is the endpoint."""
    replica = Replica("web-1", workload(), tmp_path, place)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replica.run)
        await replica.ready.wait()
        pids = (*replica.pids, int(log.find(r"child (\d+)")[0]))
        assert not any(gone(pid) for pid in pids)
        nursery.cancel_scope.cancel()
    await until(lambda: all(gone(pid) for pid in pids), f"{pids} end")
    assert not endpoint_of(replica, place).exists()
    assert replica.state == "stopped"


async def test_deaf_application_is_killed(
    place: Place, workload: Make, tmp_path: Path, log: ListLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ignores SIGTERM has its grace, and is then killed."""
    monkeypatch.setattr("mesh.local.replica.APPLICATION_GRACE", 0.1)
    replica = Replica("web-1", workload("python", SERVER, "deaf"), tmp_path, place)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replica.run)
        await replica.ready.wait()
        pids = replica.pids
        nursery.cancel_scope.cancel()
    assert all(gone(pid) for pid in pids)


async def test_application_that_fails_at_once(
    nursery: trio.Nursery, place: Place, workload: Make, tmp_path: Path
) -> None:
    """It is never announced, its last words are told, and the pauses between its lives grow."""
    replica = Replica("web-1", workload("python", SERVER, "3"), tmp_path, place)
    nursery.start_soon(replica.run)
    await until(lambda: replica.deaths == 2)
    assert replica.last_death == "web-1 exited with status 3 before it was ready: failing with 3"
    log = place.log
    assert isinstance(log, ListLog)
    await until(lambda: len(log.own) == 2)
    assert [line.rpartition(" in ")[2] for line in log.own] == ["0.25 s", "0.5 s"]
    assert not replica.ready.is_set()
    nursery.cancel_scope.cancel()


async def test_sidecar_that_cannot_listen(
    nursery: trio.Nursery, place: Place, workload: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application is not started without it; the next life has other ports."""
    monkeypatch.setenv("SIDECAR_EXIT", "1")
    replica = Replica("web-1", workload(), tmp_path, place)
    nursery.start_soon(replica.run)
    await until(lambda: replica.deaths == 1)
    ports = replica.ports
    assert "web-1/proxy exited with status 1 before it was ready: sidecar cannot listen" in replica.last_death
    monkeypatch.delenv("SIDECAR_EXIT")
    await replica.ready.wait()
    assert replica.ports != ports
    nursery.cancel_scope.cancel()


async def test_missing_program_is_named(nursery: trio.Nursery, place: Place, workload: Make, tmp_path: Path) -> None:
    """A command that does not exist is a death with a reason, not a crash of the supervisor."""
    replica = Replica("web-1", workload("no-such-program"), tmp_path, place)
    nursery.start_soon(replica.run)
    await until(lambda: replica.deaths == 1)
    assert replica.last_death == "web-1: cannot start 'no-such-program': no-such-program: No such file or directory"
    nursery.cancel_scope.cancel()


async def test_port_in_use_is_told(
    nursery: trio.Nursery, place: Place, workload: Make, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """A fixed port that another program has is an error, and not taken for the application's own."""
    port = free_port()
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    replica = Replica("web-1", workload(port=port), tmp_path, place)
    nursery.start_soon(replica.run)
    await until(lambda: replica.deaths == 1)
    assert replica.last_death == f"web-1: port {port} is in use by another program"
    for listener in listeners:
        await listener.aclose()
    await replica.ready.wait()
    assert replica.ports.application == port
    nursery.cancel_scope.cancel()


async def test_client_serves_nothing(
    nursery: trio.Nursery, place: Place, workload: Make, tmp_path: Path, log: ListLog
) -> None:
    """A workload without a port has a sidecar and no endpoint, and is ready when it was started."""
    replica = Replica("web-1", workload(port=None), tmp_path, place)
    nursery.start_soon(replica.run)
    await replica.ready.wait()
    assert replica.ports.inbound == replica.ports.application == 0
    assert not endpoint_of(replica, place).exists()
    await until(lambda: log.find("(workload web)"))
    nursery.cancel_scope.cancel()


async def test_client_that_runs_once(place: Place, workload: Make, tmp_path: Path) -> None:
    """Its exit status is what `run` returns, also where that is a failure."""
    for status in (0, 7):
        client = workload("python", "-c", f"raise SystemExit({status})", port=None)
        assert await Replica("me-1", client, tmp_path, place, once=True).run() == status
