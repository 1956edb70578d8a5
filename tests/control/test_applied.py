"""What is applied over the API: kept, all or nothing, before what the sources say."""

import pytest

from mesh.control.applied import Applied, InSource
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
