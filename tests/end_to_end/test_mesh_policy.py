"""Policies from traffic: what a real mesh was seen to do is suggested, applied, and goes on; all else is denied.

And policies from Python: the example of a plugin, in a mesh that runs.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.curl import curl
from tests.end_to_end.mesh_machine import ROOT, Mesh, client, machine_in, workload

HOME = ".default.serviceaccount.identity.cluster.local"
DOCUMENTS = [client("buyer"), client("stranger"), workload("shop", replicas=2), workload("stock")]
PLUGINS = ROOT / "examples" / "plugins"
SEEN = [
    ("GET", "shop", "/things/1", 6),
    ("GET", "shop", "/things/2", 3),
    ("POST", "shop", "/orders", 4),
    ("GET", "stock", "/", 2),
]

pytestmark = pytest.mark.timeout(240)


def send(mesh: Mesh, caller: str, service: str, path: str, method: str = "GET") -> tuple[int, str]:
    """One request through the sidecar of a caller: status and body."""
    options = ("-d", "words") if method == "POST" else ("-X", method)
    answer = curl(f"http://{service}{path}", "-x", mesh.sidecar(f"{caller}-1").proxy_url, *options)
    return answer.status, answer.body.decode()


def suggested(mesh: Mesh) -> dict[str, Any]:
    """What `conduit policy suggest` says now; nothing while nothing was seen."""
    done = mesh.machine.conduit("policy", "suggest", "-o", "json")
    found: dict[str, Any] = json.loads(done.out) if done.code == 0 else {"policies": [], "notes": []}
    return found


def apply(mesh: Mesh, text: str) -> None:
    """`conduit apply`, which must succeed."""
    file = mesh.machine.folder / "apply.yaml"
    file.write_text(text)
    done = mesh.machine.conduit("apply", "-f", file)
    assert done.code == 0, done.err


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    """Two callers, a service of two replicas and one of one; everybody may do everything."""
    with machine_in(tmp_path) as machine:
        mesh = Mesh(machine, DOCUMENTS)
        mesh.until_serving("shop-1", "shop-2", "stock-1")
        mesh.until(lambda: len(mesh.connected()) == 4, "all proxies are connected")
        yield mesh


def test_what_was_seen_goes_on_and_a_stranger_is_denied(mesh: Mesh) -> None:
    """Suggested from a real mesh's traffic, tested, applied: each request that was seen is answered as before, others
    and other callers are denied; a test of a stricter policy lists the change and applies nothing."""
    for method, service, path, times in SEEN:
        for _ in range(times):
            assert send(mesh, "buyer", service, path, method)[0] == 200
    listener = mesh.config("stock-1")["inbound"][0]["listen"]
    assert curl(f"http://{listener}/", "-H", "Host: stock").status == 200

    def complete() -> bool:
        notes = suggested(mesh)["notes"]
        wanted = ("shop.default: 13 requests", "stock.default: 2 requests", "networks: ['127.0.0.1']")
        return all(any(word in note for note in notes) for word in wanted)

    mesh.until(complete, "all that was sent is seen")
    policies = {each["metadata"]["name"]: each["spec"] for each in suggested(mesh)["policies"]}
    assert policies == {
        "seen-shop": {
            "target": {"kind": "Service", "name": "shop"},
            "from": [{"identities": [f"buyer{HOME}"]}],
            "to": [{"methods": ["GET"], "paths": ["/things/*"]}, {"methods": ["POST"], "paths": ["/orders"]}],
        },
        "seen-stock": {
            "target": {"kind": "Service", "name": "stock"},
            "from": [{"identities": [f"buyer{HOME}"]}],
            "to": [{"methods": ["GET"], "paths": ["/"]}],
        },
        "seen-default": {"target": {"kind": "Namespace"}, "inbound": "deny"},
    }

    text = mesh.machine.conduit("policy", "suggest").out
    file = mesh.machine.folder / "suggested.yaml"
    file.write_text(text)
    tested = mesh.machine.conduit("policy", "test", "-f", file, "-o", "json")
    [change] = json.loads(tested.out)["changes"]  # who proved no identity
    assert tested.code == 1
    assert (change["change"], change["caller"], change["service"]) == ("denied", "127.0.0.1", "stock")
    assert send(mesh, "stranger", "stock", "/")[0] == 200

    apply(mesh, text)
    mesh.until(lambda: send(mesh, "stranger", "stock", "/")[0] == 403, "it is in force at stock")
    mesh.until(
        lambda: all(send(mesh, "stranger", "shop", "/things/1")[0] == 403 for _ in range(8)), "it is in force at shop"
    )
    for method, service, path, times in SEEN:
        for _ in range(times):
            assert send(mesh, "buyer", service, path, method)[0] == 200
    status, body = send(mesh, "stranger", "shop", "/things/1")
    assert (status, "default/seen-shop" in body) == (403, True)
    assert send(mesh, "buyer", "shop", "/things")[0] == 403
    assert send(mesh, "buyer", "shop", "/things/1", "DELETE")[0] == 403
    assert send(mesh, "buyer", "stock", "/else")[0] == 403
    assert curl(f"http://{listener}/", "-H", "Host: stock").status == 403

    new = mesh.machine.folder / "new.yaml"
    shop = {"target": {"kind": "Service", "name": "shop"}, "action": "Deny", "to": [{"methods": ["POST"]}]}
    envelope = {"apiVersion": "conduit.mesh/v1alpha1", "kind": "AuthorizationPolicy"}
    new.write_text(yaml.safe_dump({**envelope, "metadata": {"name": "no-orders"}, "spec": shop}))
    tested = mesh.machine.conduit("policy", "test", "-f", new, "-o", "json")
    changes = json.loads(tested.out)["changes"]
    assert tested.code == 1
    assert {(each["change"], each["method"], each["path"], each["before"], each["after"]) for each in changes} == {
        ("denied", "POST", "/orders", "default/seen-shop", "default/no-orders")
    }
    assert sum(each["requests"] for each in changes) >= 4
    assert send(mesh, "buyer", "shop", "/orders", "POST")[0] == 200


def test_policies_of_a_python_plugin_are_in_force(tmp_path: Path) -> None:
    """examples/plugins: one team's workloads call each other and no others'; an edit of the code, and of a label, holds
    without a restart; an error is told and leaves what was."""
    with machine_in(tmp_path) as machine:
        shutil.copy(PLUGINS / "team_access.py", machine.folder)
        documents = list(yaml.safe_load_all((PLUGINS / "mesh.yaml").read_text()))
        mesh = Mesh(machine, documents)
        mesh.until_serving("orders-1", "cart-1", "ledger-1")
        mesh.until(lambda: send(mesh, "cart", "orders", "/")[0] == 200, "team mates may call")
        mesh.until(lambda: send(mesh, "cart", "ledger", "/")[0] == 403, "others may not")
        pid = mesh.control_pid()

        code = machine.folder / "team_access.py"
        good = code.read_text()
        code.write_text(good.replace("view.workloads:\n", "view.nothing:\n", 1))

        def status() -> dict[str, Any]:
            [row] = machine.ask("get", "policyplugins")
            found: dict[str, Any] = row["status"]
            return found

        mesh.until(lambda: not status()["accepted"], "the error is told")
        assert "team_access.py:" in status()["reason"]
        assert "AttributeError" in status()["reason"]
        assert send(mesh, "cart", "orders", "/")[0] == 200
        assert send(mesh, "cart", "ledger", "/")[0] == 403

        code.write_text(good.replace('"identities": callers', '"identities": callers[:1]'))  # cart's alone
        mesh.until(lambda: send(mesh, "orders", "cart", "/")[0] == 403, "the edit is in force")
        assert status()["accepted"]
        code.write_text(good)
        mesh.until(lambda: send(mesh, "orders", "cart", "/")[0] == 200, "it is taken back")

        for each in documents:
            if each["metadata"]["name"] == "ledger":
                each["metadata"]["labels"]["team"] = "shop"
        mesh.write(documents)
        mesh.until(lambda: send(mesh, "cart", "ledger", "/")[0] == 200, "ledger is of the team now")
        assert mesh.control_pid() == pid
