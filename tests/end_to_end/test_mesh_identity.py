"""Who is who in `conduit demo`: every edge is secured with both identities, and what commands show is what is so."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Handle
from tests.end_to_end.curl import curl
from tests.end_to_end.mesh_machine import Machine, machine_in
from tests.end_to_end.sidecar import wait_until

READY_SECONDS = 90.0
DOMAIN = "cluster.local"
EDGES = {
    ("load", "web", "web"),
    ("web", "catalog", "catalog"),
    ("web", "votes", "votes"),
    ("web", "words", "words-v1"),
    ("web", "words", "words-v2"),
}
SERVERS = {"catalog", "votes", "web", "words-v1", "words-v2"}

pytestmark = pytest.mark.timeout(180)


def identity(account: str) -> str:
    """The DNS identity of a workload of the demo."""
    return f"{account}.demo.serviceaccount.identity.{DOMAIN}"


class Demo:
    """A demo that runs."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.process: Handle = machine.start("demo", "--headless", "--rps", "20")
        self.until(lambda: "ready. Try" in self.process.output(), "it is ready", READY_SECONDS)

    def until(self, condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
        """Waits, and fails at once where the demo has ended."""

        def met() -> object:
            assert self.process.returncode is None, self.process.output()
            return condition()

        wait_until(met, what, seconds)

    def edges(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """All since the demo began, by source, service and workload."""
        found = self.machine.ask("edges", "-t", "0", "-n", "demo")
        return {(edge["source"], edge["to"], edge["workload"]): edge for edge in found}

    def runtime(self) -> dict[str, Any]:
        """What commands find the mesh by."""
        told: dict[str, Any] = json.loads((self.machine.runtime / "conduit" / "mesh.json").read_text())
        return told

    def inbound(self, workload: str) -> str:
        """Address of the inbound listener of one of its replicas."""
        folder = Path(self.runtime()["state"]) / "endpoints"
        specs = [yaml.safe_load(path.read_text())["spec"] for path in folder.glob("*.yaml")]
        address: str = next(spec["address"] for spec in specs if spec["workload"] == workload)
        return address

    def control_pid(self) -> int:
        """The control plane's process, 0 while there is none."""
        processes = self.machine.processes()
        return next((p.pid for p in processes if p.argv[1:5] == ("-P", "-m", "mesh.cli", "control")), 0)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One demo for the tests of this module, in their order."""
    with machine_in(tmp_path_factory.mktemp("demo")) as machine:
        yield Demo(machine)


def test_every_edge_is_secured_with_both_identities(demo: Demo) -> None:
    """Since the first request: each workload is proved to the other, and nothing went in plain text."""
    demo.until(lambda: set(demo.edges()) >= EDGES, "all edges are there")
    edges = demo.edges()
    assert set(edges) == EDGES
    for (source, _, workload), edge in edges.items():
        assert (edge["secured"], edge["reason"], edge["tls"]) == (True, "", "true"), edge
        assert edge["client_identity"] == identity(source)
        assert edge["server_identity"] == identity(workload)
        assert edge["requests"] > 0


def test_certificates_are_shown_as_they_are(demo: Demo) -> None:
    """Each server's is verified, names the workload in both spellings, holds for a day, and leads to an issuer."""
    rows = demo.machine.ask("identity")
    assert {row["workload"] for row in rows} == SERVERS | {"load"}
    for row in rows:
        assert row["identity"] == identity(row["workload"])
        assert 23 * 3600 < row["not_after"] - time.time() < 25 * 3600
        if row["workload"] == "load":
            continue
        assert (row["verified"], row["problem"]) == (True, "")
        own, issuer = row["chain"]
        assert set(own["names"]) == {identity(row["workload"]), f"spiffe://{DOMAIN}/ns/demo/sa/{row['workload']}"}
        assert own["issuer"] == issuer["subject"]
    told = demo.machine.conduit("identity", "web.demo")
    assert told.code == 0
    assert f"name        spiffe://{DOMAIN}/ns/demo/sa/web" in told.out


def test_all_checks_are_good(demo: Demo) -> None:
    """No check fails or warns: all is connected, certified, in force and secured."""
    found = demo.machine.ask("check")
    assert [check for check in found if check["status"] != "ok"] == []
    assert {check["category"] for check in found} >= {"trust", "proxies", "certificates", "traffic"}


def test_people_may_ask_in_plain_text_on_this_machine(demo: Demo) -> None:
    """The same port answers a browser or curl, which do not know our roots; commands use TLS."""
    runtime = demo.runtime()
    assert runtime["control"].startswith("https://")
    page = runtime["control"].replace("https", "http") + "/api/v1/version"
    assert curl(page, "-H", f"Authorization: Bearer {runtime['token']}").status == 200


def test_trust_outlives_the_control_plane(demo: Demo) -> None:
    """When it is killed it comes back with the same issuer, and proxies keep the certificates that they have."""
    before = {row["proxy"]: row["chain"][:1] for row in demo.machine.ask("identity")}
    issuer = demo.machine.ask("identity", "web")[0]["chain"][1]
    pid = demo.control_pid()
    os.kill(pid, signal.SIGKILL)
    demo.until(lambda: demo.control_pid() not in (0, pid), "it is back")

    def known() -> set[str]:
        done = demo.machine.conduit("identity", "-o", "json")
        return {row["proxy"] for row in json.loads(done.out)} if done.code == 0 else set()

    demo.until(lambda: known() == set(before), "all proxies are connected again")
    assert {row["proxy"]: row["chain"][:1] for row in demo.machine.ask("identity")} == before
    assert demo.machine.ask("identity", "web")[0]["chain"][1] == issuer


def test_plain_text_is_an_edge_from_nobody(demo: Demo) -> None:
    """Who calls a workload's proxy without one is served, since nobody forbids it, and is seen: in edges and check."""
    assert curl(f"http://{demo.inbound('web')}/").status == 200
    demo.until(lambda: ("", "web.demo", "web") in demo.edges(), "it is reported")
    nobody = demo.edges()["", "web.demo", "web"]
    assert (nobody["secured"], nobody["client_identity"], nobody["server_identity"]) == (False, "", "")
    assert nobody["reason"] == "plain text from outside of the mesh"
    done = demo.machine.conduit("check", "-o", "json")
    assert done.code == 0
    [check] = [check for check in json.loads(done.out) if check["status"] != "ok"]
    assert (check["category"], check["status"]) == ("traffic", "warning")
