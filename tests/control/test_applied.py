"""What is applied over the API: kept, all or nothing, before what the sources say."""

import pytest

from mesh.control.applied import Applied, InSource, without_source
from mesh.control.cluster import Cluster, Key
from mesh.control.files import Files
from mesh.model.errors import ConfigError

HEAD = "apiVersion: conduit.mesh/v1alpha1\nkind: TrafficPolicy\n"


def policy(name, seconds):
    metadata = f"metadata: {{name: {name}, namespace: demo, labels: {{a: é}}}}\n"
    return f"{HEAD}{metadata}spec: {{service: votes, timeouts: {{request: {seconds}}}}}\n"


class Bench:
    """One source file with one policy, and a state folder."""

    def __init__(self, folder, log):
        self.source, self.state, self.log = folder / "mesh.yaml", folder / "state", log
        self.source.write_text(policy("kept", 1))
        self.restart()

    def restart(self):
        self.cluster = Cluster()
        self.files = Files([self.source], self.state, self.cluster, lambda changed: None, self.log)
        self.files.prepare()
        self.applied = Applied(self.cluster, self.files)

    def seconds(self, name):
        held = self.cluster.get(Key("TrafficPolicy", "demo", name))
        return held.resource.spec.timeouts.request if held else None


@pytest.fixture
def bench(tmp_path, log):
    """Nothing applied yet."""
    return Bench(tmp_path, log)


def results(statuses):
    return [(status.name, status.result, status.accepted) for status in statuses]


def test_created_configured_unchanged(bench):
    """The result says what became of each, and it is in force at once and after a restart."""
    assert results(bench.applied.put(policy("a", 1) + "---\n" + policy("b", 2), "f")) == [
        ("a", "created", True),
        ("b", "created", True),
    ]
    assert results(bench.applied.put(policy("a", 3) + "---\n" + policy("b", 2), "f")) == [
        ("a", "configured", True),
        ("b", "unchanged", True),
    ]
    assert (bench.seconds("a"), bench.seconds("b")) == (3, 2)
    bench.restart()
    assert (bench.seconds("a"), bench.seconds("b")) == (3, 2)


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        (policy("a", 1) + "---\n" + policy("b", "soon"), 9, "spec.timeouts.request"),
        (policy("a", 1) + "---\n" + policy("a", 2), 0, "metadata.name"),
        (policy("a", 1) + "---\n" + policy("../../x", 2), 8, "metadata.name"),
        ("", 0, ""),
        ("# nothing\n", 0, ""),
    ],
)
def test_one_mistake_and_nothing_is_applied(bench, text, line, field):
    """The error names file, line and field; nothing is in force or on disk."""
    with pytest.raises(ConfigError) as caught:
        bench.applied.put(text, "mine.yaml")
    assert (caught.value.file, caught.value.line, caught.value.field) == ("mine.yaml", line, field)
    assert list(bench.files.applied.iterdir()) == []
    assert bench.seconds("a") is None


def test_a_full_disk_changes_nothing(bench, monkeypatch):
    """If the second file cannot be written, the first is not in force either."""
    written = []

    def fail(resource):
        written.append(resource)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        return "x"

    monkeypatch.setattr("mesh.control.applied.dump", fail)
    with pytest.raises(ConfigError, match="No space left"):
        bench.applied.put(policy("a", 1) + "---\n" + policy("b", 2), "f")
    assert list(bench.files.applied.iterdir()) == []


def test_applied_stands_in_for_the_source_until_it_is_deleted(bench):
    """The answer says whose place it takes, and what is in force again after."""
    [status] = bench.applied.put(policy("kept", 5), "f")
    assert (status.result, "mesh.yaml" in status.reason) == ("configured", True)
    assert bench.seconds("kept") == 5
    gone = bench.applied.delete(Key("TrafficPolicy", "demo", "kept"))
    assert (gone.result, "mesh.yaml" in gone.reason) == ("deleted", True)
    assert bench.seconds("kept") == 1


def test_what_the_source_says_already_is_not_applied(bench):
    """Applying the file that is watched leaves it in its place."""
    assert results(bench.applied.put(policy("kept", 1), "f")) == [("kept", "unchanged", True)]
    assert list(bench.files.applied.iterdir()) == []


def test_delete(bench):
    """Only what was applied can be deleted; what stands in a file is its owner's."""
    assert bench.applied.delete(Key("TrafficPolicy", "demo", "nothing")) is None
    with pytest.raises(InSource) as caught:
        bench.applied.delete(Key("TrafficPolicy", "demo", "kept"))
    assert caught.value.file == str(bench.source)
    bench.applied.put(policy("a", 1), "f")
    assert bench.applied.delete(Key("TrafficPolicy", "demo", "a")).result == "deleted"
    assert bench.seconds("a") is None


WORKLOAD = Key("Workload", "demo", "w")


def workload(more=""):
    return (
        "apiVersion: conduit.mesh/v1alpha1\nkind: Workload\n"
        f"metadata: {{name: w, namespace: demo{more}}}\nspec: {{command: [x]}}\n"
    )


def test_the_file_is_kept_with_the_resource(bench):
    """People see what they wrote and where, also after a restart; the annotation is ours, whatever they wrote there."""
    bench.applied.put(workload(", annotations: {a: b, conduit.mesh/source: /elsewhere/w.yaml}"), "/here/w.yaml")
    bench.restart()
    kept = bench.cluster.get(WORKLOAD)
    assert without_source(kept.resource)[1] == "/here/w.yaml"
    shown = bench.applied.shown(kept)
    assert (shown.file, shown.resource.metadata.annotations) == ("/here/w.yaml", {"a": "b"})
    source = bench.cluster.get(Key("TrafficPolicy", "demo", "kept"))
    assert bench.applied.shown(source) == source
    assert bench.applied.delete(WORKLOAD).file == "/here/w.yaml"


def test_the_folder_is_part_of_a_workload(bench):
    """Its directory is relative to it: the same text from another folder is a change, for a Workload alone."""
    both = workload() + "---\n" + policy("a", 1)
    assert results(bench.applied.put(both, "/here/w.yaml")) == [("w", "created", True), ("a", "created", True)]
    assert results(bench.applied.put(both, "/here/v.yaml")) == [("w", "unchanged", True), ("a", "unchanged", True)]
    assert results(bench.applied.put(both, "/there/w.yaml")) == [("w", "configured", True), ("a", "unchanged", True)]
    assert bench.applied.shown(bench.cluster.get(WORKLOAD)).file == "/there/w.yaml"


def test_an_endpoint_of_a_replica_is_not_deleted(bench):
    """It is told apart from what a person keeps in a file."""
    text = "apiVersion: conduit.mesh/v1alpha1\nkind: Endpoint\nmetadata: {name: w-1, namespace: demo}\n"
    (bench.files.endpoints / "w-1.yaml").write_text(text + 'spec: {service: w, workload: w, address: "127.0.0.1:9"}\n')
    bench.files.look_at_state()
    with pytest.raises(InSource) as caught:
        bench.applied.delete(Key("Endpoint", "demo", "w-1"))
    assert caught.value.of_replica is True
