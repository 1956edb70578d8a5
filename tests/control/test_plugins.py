"""Policy plugins in Python: called when what they depend on changes, and harmless when they fail."""

import os
import threading
from pathlib import Path

import pytest
import trio

from mesh.control.cluster import Cluster, Held, Key, ServiceKey
from mesh.control.files import decode
from mesh.control.plugins import POLL_SECONDS, RETRY_SECONDS, Plugins, file_of, view_of
from mesh.model.resources import PolicyPlugin

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugins"
PLUGIN = """
apiVersion: conduit.mesh/v1alpha1
kind: PolicyPlugin
metadata: {name: rules, namespace: %s}
spec: {target: {kind: %s}, python: {function: "rules:policies", directory: code}}
"""
WORKLOAD = """---
apiVersion: conduit.mesh/v1alpha1
kind: Workload
metadata: {name: %s, namespace: demo, labels: {team: %s}}
spec: {command: [x], port: auto}
"""
DENY = (
    "{'kind': 'DefaultPolicy', 'metadata': {'name': '%s'}, 'spec': {'target': {'kind': 'Namespace'}, 'inbound': '%s'}}"
)


def writing(*named, before=""):
    """A plugin that writes default policies of these names and words."""
    body = "".join(f"    yield {DENY % each}\n" for each in named)
    return f"{before}\ndef policies(view, options):\n{body or '    return []'}\n"


class Bench:
    """A cluster with one source file, whose plugin's code is in a folder beside it."""

    def __init__(self, folder, log, deadline=5.0):
        self.folder, self.log, self.deadline = folder, log, deadline
        self.source = folder / "mesh.yaml"
        self.code = folder / "code"
        self.code.mkdir(exist_ok=True)
        self.told = []
        self.again()
        self.resources(PLUGIN % ("demo", "Namespace"))

    def again(self):
        """Another life of the control plane, on the same files."""
        self.cluster = Cluster()
        self.plugins = Plugins(
            self.cluster, self.told.append, lambda held: held, self.folder / "state", self.log, deadline=self.deadline
        )

    def resources(self, text):
        self.source.write_text(text)
        self.cluster.set_file(str(self.source), decode(self.source))

    def write(self, *named, before=""):
        (self.code / "rules.py").write_text(writing(*named, before=before))

    def found(self):
        """What is in force, by name."""
        return {
            held.resource.metadata.name: str(held.resource.spec.inbound) for held in self.cluster.held("DefaultPolicy")
        }

    def refusal(self):
        """Why the plugin is refused; empty while it is not."""
        return " ".join(status.reason for status in self.cluster.refusals() if status.file.startswith("plugin:"))

    async def until(self, condition):
        with trio.fail_after(30.0):
            while not condition():
                await trio.sleep(0.01)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    """Tests do not wait for what people hardly notice."""
    monkeypatch.setattr("mesh.control.plugins.POLL_SECONDS", 0.02)


@pytest.fixture
def bench(tmp_path, log):
    """Nothing called yet; rules.py denies by default."""
    bench = Bench(tmp_path, log)
    bench.write(("closed", "deny"))
    return bench


async def test_what_it_writes_is_in_force_before_anybody_is_told_anything(bench):
    """`prepare` returns with its policies in the cluster, from a file that names the plugin."""
    await bench.plugins.prepare()
    held = bench.cluster.get(Key("DefaultPolicy", "demo", "closed"))
    assert (held.file, str(held.resource.spec.inbound)) == (file_of("demo", "rules"), "deny")
    assert bench.refusal() == ""


async def test_edits_are_taken_up_without_a_restart(bench, nursery):
    """A new version of the code replaces what the old one wrote, also of equal length; so does another resource."""
    await bench.plugins.prepare()
    nursery.start_soon(bench.plugins.watch)
    bench.write(("opened", "audit"))
    await bench.until(lambda: bench.found() == {"opened": "audit"})
    bench.write(("opened", "deny"))
    await bench.until(lambda: bench.found() == {"opened": "deny"})
    (bench.code / "other.py").write_text(writing(("other", "deny")))
    bench.resources((PLUGIN % ("demo", "Namespace")).replace("rules:", "other:"))
    await bench.until(lambda: bench.found() == {"other": "deny"})
    nursery.cancel_scope.cancel()


async def test_it_follows_the_workloads(bench, nursery):
    """A workload that comes, or gets another label, has the plugin called anew, though its code is the same."""
    (bench.code / "rules.py").write_text(
        "def policies(view, options):\n    for w in view.workloads:\n"
        "        if 'team' in w.labels:\n            yield " + DENY.replace("'%s'", "w.name", 1) % "deny" + "\n"
    )
    await bench.plugins.prepare()
    assert bench.found() == {}
    nursery.start_soon(bench.plugins.watch)
    bench.resources(PLUGIN % ("demo", "Namespace") + WORKLOAD % ("web", "a") + WORKLOAD % ("votes", "a"))
    await bench.until(lambda: bench.found() == {"votes": "deny", "web": "deny"})
    bench.resources(PLUGIN % ("demo", "Namespace") + WORKLOAD % ("web", "a"))
    await bench.until(lambda: bench.found() == {"web": "deny"})
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def policies(view, options):\n    return view.nothing\n", "rules.py:2: AttributeError"),
        (writing(("web", "perhaps")), "[0].spec.inbound"),
        (writing(("Not A Name", "deny")), "[0].metadata.name"),
        (writing(("web", "deny"), ("web", "audit")), "twice"),
        ("def policies(view, options): return [{'kind': 'Workload'}]\n", "[0].kind: a plugin writes"),
        ("def policies(view, options): return [{'spec': {}}]\n", "[0].kind: a plugin writes"),
        ("def policies(view, options): return 7\n", "returned int"),
        (writing(("web", "deny")).replace("'inbound'", "'inbounds'"), "[0].spec.inbounds"),
        (
            "def policies(view, options):\n    yield {'kind': 'DefaultPolicy', 'metadata': {'name': 'x', "
            "'namespace': 'other'}, 'spec': {'target': {'kind': 'Namespace'}, 'inbound': 'deny'}}\n",
            "'other' is not the plugin's namespace",
        ),
    ],
)
async def test_what_is_wrong_is_refused_and_the_last_good_stays(bench, nursery, text, words):
    """Whatever it raises or returns: the reason is told, nothing of it is in force; mended, it is as if never wrong."""
    await bench.plugins.prepare()
    nursery.start_soon(bench.plugins.watch)
    (bench.code / "rules.py").write_text(text)
    await bench.until(bench.refusal)
    assert words in bench.refusal()
    assert bench.found() == {"closed": "deny"}
    bench.write(("mended", "deny"))
    await bench.until(lambda: bench.found() == {"mended": "deny"})
    assert bench.refusal() == ""
    nursery.cancel_scope.cancel()


async def test_the_last_good_outlives_the_control_plane(bench, log):
    """Started anew with code that is broken, what was closed stays closed; a plugin that is gone leaves nothing."""
    await bench.plugins.prepare()
    (bench.code / "rules.py").write_text("x = = 1")
    bench.again()
    bench.resources(PLUGIN % ("demo", "Namespace"))
    await bench.plugins.prepare()
    assert bench.found() == {"closed": "deny"}
    assert "SyntaxError" in bench.refusal()
    bench.again()
    await bench.plugins.prepare()
    assert list((bench.folder / "state" / "plugins").iterdir()) == []


async def test_it_goes_with_its_resource(bench, nursery):
    """Without the PolicyPlugin, what it wrote is gone, and whoever it touched is told."""
    await bench.plugins.prepare()
    nursery.start_soon(bench.plugins.watch)
    bench.resources("")
    await bench.until(lambda: bench.found() == {})
    nursery.cancel_scope.cancel()


async def test_only_one_for_the_mesh_writes_elsewhere(bench):
    """Target Mesh, in the mesh's own namespace: policies of every namespace are its to write."""
    bench.resources(PLUGIN % ("conduit", "Mesh"))
    (bench.code / "rules.py").write_text(
        "def policies(view, options):\n    for home in ('a', 'b'):\n        yield {'kind': 'DefaultPolicy', "
        "'metadata': {'name': home, 'namespace': home}, 'spec': {'target': {'kind': 'Namespace'}, 'inbound': 'deny'}}\n"
    )
    await bench.plugins.prepare()
    assert bench.refusal() == ""
    assert bench.found() == {"a": "deny", "b": "deny"}


async def test_one_that_does_not_return_is_refused_and_holds_up_nobody(tmp_path, log, nursery, monkeypatch):
    """It has its deadline; later calls wait for its thread and no others are made; when it returns, all is well."""
    bench = Bench(tmp_path, log, deadline=0.1)
    monkeypatch.setattr("mesh.control.plugins.RETRY_SECONDS", 0.1)
    gate = threading.Event()
    monkeypatch.setattr(os, "gate_of_the_test", gate, raising=False)
    calls = []
    monkeypatch.setattr(os, "calls_of_the_test", calls, raising=False)
    bench.write(("late", "deny"), before="import os")
    text = (bench.code / "rules.py").read_text()
    waiting = "):\n    os.calls_of_the_test.append(1); os.gate_of_the_test.wait(60)\n"
    (bench.code / "rules.py").write_text(text.replace("):\n", waiting))
    try:
        await bench.plugins.prepare()
        assert "has not returned after 0.1 s" in bench.refusal()
        nursery.start_soon(bench.plugins.watch)
        later = trio.current_time() + 4 * POLL_SECONDS
        await bench.until(lambda: trio.current_time() > later)
        assert calls == [1]
    finally:
        gate.set()
    await bench.until(lambda: bench.found() == {"late": "deny"})
    assert bench.refusal() == ""
    nursery.cancel_scope.cancel()


async def test_what_a_person_wrote_goes_before(bench):
    """A policy of the same name in a file is the one in force; the plugin's is refused, and told so."""
    bench.resources(
        PLUGIN
        % ("demo", "Namespace")
        + "---\napiVersion: conduit.mesh/v1alpha1\nkind: DefaultPolicy\nmetadata: {name: closed, namespace: demo}\n"
        "spec: {target: {kind: Namespace}, inbound: audit}\n"
    )
    await bench.plugins.prepare()
    assert bench.found() == {"closed": "audit"}
    assert "in force from" in bench.refusal()


async def test_the_view_tells_what_the_mesh_is_made_of(bench):
    """Declared workloads with their labels and identity, those that are only endpoints, services, namespaces."""
    bench.resources(
        WORKLOAD
        % ("web", "a")
        + "---\napiVersion: conduit.mesh/v1alpha1\nkind: Workload\nmetadata: {name: load, namespace: demo}\n"
        "spec: {command: [x], account: robot}\n"
        "---\napiVersion: conduit.mesh/v1alpha1\nkind: Endpoint\nmetadata: {name: e, namespace: other}\n"
        "spec: {service: words, workload: words-v1, address: '127.0.0.1:1'}\n"
    )
    view = view_of(bench.cluster, "our.domain")
    assert [(w.namespace, w.name, w.service, w.account, dict(w.labels)) for w in view.workloads] == [
        ("demo", "load", "", "robot", {}),
        ("demo", "web", "web", "web", {"team": "a"}),
        ("other", "words-v1", "words", "words-v1", {}),
    ]
    assert view.workloads[0].identity == "robot.demo.serviceaccount.identity.our.domain"
    assert [tuple(service) for service in view.services] == [
        ("web", "demo", ("web",)),
        ("words", "other", ("words-v1",)),
    ]
    assert view.namespaces == ("demo", "other")


async def test_the_example_works(tmp_path, log):
    """examples/plugins: each service may be called by its own team, and by nobody else; a new team mate may too."""
    cluster = Cluster()
    cluster.set_file("mesh.yaml", decode(EXAMPLE / "mesh.yaml"))

    def shown(held):
        return Held(held.resource, str(EXAMPLE / held.file))

    plugins = Plugins(cluster, lambda changed: None, shown, tmp_path, log)
    await plugins.prepare()

    def callers():
        return {
            policy.resource.spec.target.name: [
                identity.partition(".")[0] for source in policy.resource.spec.sources for identity in source.identities
            ]
            for policy in cluster.held("AuthorizationPolicy")
        }

    assert [status.reason for status in cluster.refusals()] == []
    assert callers() == {"orders": ["cart", "orders"], "cart": ["cart", "orders"], "ledger": ["ledger"]}
    [default] = cluster.held("DefaultPolicy")
    assert (default.resource.spec.inbound, default.file) == ("deny", "plugin:default/teams")
    assert isinstance(cluster.held(PolicyPlugin.kind)[0].resource, PolicyPlugin)
    assert RETRY_SECONDS > POLL_SECONDS
    assert cluster.exists(*ServiceKey("default", "orders"))
