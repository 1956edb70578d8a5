"""Applied faults go when their time is over; what people keep in files stays."""

import pytest
import trio

from mesh.control.applied import Applied
from mesh.control.cluster import Cluster, Held, Key
from mesh.control.expiry import Expiry, expired
from mesh.control.files import Files
from mesh.model.resources import Fault, FaultSpec, Metadata, TrafficPolicy, TrafficPolicySpec

FAULT = """
apiVersion: conduit.mesh/v1alpha1
kind: Fault
metadata: {name: %s, namespace: demo}
spec: {service: votes, delay: 1, until: %s}
"""


def held(name, until):
    return Held(Fault(Metadata(name, "demo"), FaultSpec("votes", delay=1, until=until)), "f")


def test_which_are_expired():
    """Those whose time has come; never one without an end, nor another kind."""
    policy = Held(TrafficPolicy(Metadata("p"), TrafficPolicySpec("votes")), "f")
    found = expired([held("past", 99.5), held("now", 100), held("later", 100.5), held("ever", 0), policy], 100.0)
    assert [key.name for key in found] == ["past", "now"]


class Bench:
    """A watched file that holds one fault, and a clock that is set by hand."""

    def __init__(self, folder, log):
        source = folder / "mesh.yaml"
        source.write_text(FAULT % ("kept", 10))
        self.now = 0.0
        self.touched = []
        self.cluster = Cluster()
        self.files = Files([source], folder / "state", self.cluster, self.touched.append, log)
        self.files.prepare()
        self.applied = Applied(self.cluster, self.files)
        self.expiry = Expiry(self.cluster, self.applied, log, clock=lambda: self.now)

    def names(self):
        return [each.resource.metadata.name for each in self.cluster.held("Fault")]


@pytest.fixture
def bench(tmp_path, log):
    """At time 0."""
    return Bench(tmp_path, log)


def test_an_applied_fault_goes_at_its_time(bench):
    """Its file too, and its service is touched; one in a watched file is its owner's."""
    bench.applied.put(FAULT % ("a", 10) + "---" + FAULT % ("b", 20), "f")
    bench.touched.clear()
    bench.now = 9.9
    bench.expiry.look()
    assert bench.names() == ["a", "b", "kept"]
    bench.now = 10.0
    bench.expiry.look()
    assert bench.names() == ["b", "kept"]
    assert [path.name for path in bench.files.applied.iterdir()] == ["Fault.demo.b.yaml"]
    assert [[tuple(key) for key in touched] for touched in bench.touched] == [[("demo", "votes")]]


def test_what_cannot_be_removed_is_told(bench, monkeypatch):
    """The task goes on; the fault goes as soon as it can."""
    bench.applied.put(FAULT % ("a", 10), "f")
    bench.now = 10.0
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", failing)
        bench.expiry.look()
    assert bench.cluster.get(Key("Fault", "demo", "a")) is not None
    bench.expiry.look()
    assert bench.names() == ["kept"]


def failing(*_, **__):
    raise PermissionError(13, "Permission denied")


async def test_the_task_looks_again(bench, nursery, autojump_clock):
    """Without anything else happening."""
    bench.applied.put(FAULT % ("a", 10), "f")
    nursery.start_soon(bench.expiry.run)
    await trio.testing.wait_all_tasks_blocked()
    bench.now = 10.0
    with trio.fail_after(3):
        while "a" in bench.names():
            await trio.sleep(0.1)
    nursery.cancel_scope.cancel()
