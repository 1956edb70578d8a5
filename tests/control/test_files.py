"""The files source, one look at a time."""

import os
import subprocess
import sys

import pytest

from mesh.control.cluster import Cluster, Key, ServiceKey
from mesh.control.files import Files, look

HEAD = "apiVersion: conduit.mesh/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: demo}}\n"
VOTES = ServiceKey("demo", "votes")


def workload(name, **spec):
    text = "".join(f", {key}: {value}" for key, value in spec.items())
    return HEAD.format(kind="Workload", name=name) + f"spec: {{command: [x], port: auto{text}}}\n"


def endpoint(name, service="votes", pid=0):
    spec = f'spec: {{service: {service}, workload: {service}, address: "127.0.0.1:1", pid: {pid}}}\n'
    return HEAD.format(kind="Endpoint", name=name) + spec


class Bench:
    """A source folder, a state folder and what became of them."""

    def __init__(self, folder, log):
        self.source, self.state = folder / "source", folder / "state"
        self.source.mkdir()
        self.cluster = Cluster()
        self.changes = []
        self.log = log
        self.files = Files([self.source], self.state, self.cluster, self.changes.append, log)

    def put(self, name, text):
        (self.source / name).write_text(text)

    def look_twice(self):
        self.files.look_at_sources()
        self.files.look_at_sources()

    def names(self):
        return [held.resource.metadata.name for held in self.cluster.held()]


@pytest.fixture
def bench(tmp_path, log):
    """Nothing read yet."""
    return Bench(tmp_path, log)


def test_all_is_there_after_preparing(bench):
    """A proxy that reconnects is told of everything at once; nothing settles first."""
    bench.put("a.yaml", workload("votes"))
    (bench.state / "endpoints").mkdir(parents=True)
    (bench.state / "endpoints" / "votes-1.yaml").write_text(endpoint("votes-1"))
    bench.files.prepare()
    assert bench.names() == ["votes-1", "votes"]
    assert (bench.state / "applied").is_dir()


def test_a_change_is_taken_once_it_has_settled(bench):
    """Two looks must agree, so that half a file is not taken for the whole; an unchanged file is not read again."""
    bench.files.prepare()
    bench.put("a.yaml", workload("votes"))
    bench.files.look_at_sources()
    assert bench.names() == []
    bench.put("a.yaml", workload("votes") + "---\n" + workload("words"))
    bench.files.look_at_sources()
    assert bench.names() == []
    bench.files.look_at_sources()
    assert bench.names() == ["votes", "words"]
    version = bench.cluster.version
    bench.look_twice()
    assert (bench.cluster.version, len(bench.changes)) == (version, 1)


def test_a_bad_file_keeps_the_last_good_content(bench):
    """It is refused with file, line, field and resource; mended, it is taken."""
    bench.put("a.yaml", workload("votes"))
    bench.files.prepare()
    bench.put("a.yaml", workload("votes", replicas="many"))
    bench.look_twice()
    [refused] = bench.cluster.refusals()
    assert (refused.kind, refused.name, refused.accepted) == ("Workload", "votes", False)
    assert "a.yaml:4: spec.replicas: must be" in refused.reason
    [told] = [event for event in bench.log.kept if event["event"] == "file refused"]
    assert (told["line"], told["field"]) == (4, "spec.replicas")
    assert bench.names() == ["votes"]
    bench.put("a.yaml", workload("votes", replicas=2))
    bench.look_twice()
    assert bench.cluster.refusals() == []
    assert bench.cluster.get(Key("Workload", "demo", "votes")).resource.spec.replicas == 2


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"- a\n", b"x" * 2_000_000, b"a: " + b"[" * 1000])
def test_whatever_is_no_yaml_of_ours_is_refused(bench, content):
    """Bytes, syntax, shape or size: the file is refused and the looking goes on."""
    bench.files.prepare()
    (bench.source / "bad.yaml").write_bytes(content)
    bench.put("good.yaml", workload("votes"))
    bench.look_twice()
    assert bench.names() == ["votes"]
    assert len(bench.cluster.refusals()) == 1


def test_a_bug_over_a_file_costs_that_file_alone(bench, monkeypatch):
    """Whatever decoding raises, the file is refused and the looking goes on."""

    def trip(path):
        raise RecursionError("deep")

    bench.files.prepare()
    bench.put("a.yaml", workload("votes"))
    monkeypatch.setattr("mesh.control.files.decode", trip)
    bench.look_twice()
    assert "RecursionError" in bench.cluster.refusals()[0].reason


def test_a_removed_file_takes_its_resources_along(bench):
    """They are gone, and the services that they made are told as changed."""
    bench.put("a.yaml", workload("votes"))
    bench.files.prepare()
    (bench.source / "a.yaml").unlink()
    bench.files.look_at_sources()
    assert bench.names() == []
    assert bench.changes == [{VOTES}, {VOTES}]


def test_the_same_resource_in_two_files(bench):
    """The later one is refused, with the other's name."""
    bench.put("a.yaml", workload("votes"))
    bench.files.prepare()
    bench.put("b.yaml", workload("votes", replicas=3))
    bench.look_twice()
    [refused] = bench.cluster.refusals()
    assert refused.file.endswith("b.yaml")
    assert "a.yaml" in refused.reason


def test_what_is_looked_at(bench):
    """YAML by its suffix at any depth, nothing hidden, and the state folder is nobody's source."""
    (bench.source / "deep" / ".git").mkdir(parents=True)
    for name in ("a.yaml", "b.yml", "c.txt", ".d.yaml", "deep/e.yaml", "deep/.git/f.yaml"):
        bench.put(name, "")
    assert [path.name for path in look(bench.source)] == ["a.yaml", "b.yml", "e.yaml"]
    assert look(bench.source / "nowhere") == {}
    files = Files([bench.source.parent], bench.state, bench.cluster, bench.changes.append, bench.log)
    files.prepare()
    (files.applied / "x.yaml").write_text(workload("votes"))
    files.look_at_sources(settle=False)
    assert bench.names() == []


def test_endpoints_of_a_dead_supervisor_are_removed(bench):
    """The file goes, and with it the endpoint, at start and later; those of the living stay."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        bench.files.prepare()
        folder = bench.files.endpoints
        (folder / "mine.yaml").write_text(endpoint("mine", pid=os.getpid()))
        (folder / "other.yaml").write_text(endpoint("other", pid=child.pid))
        (folder / "unowned.yaml").write_text(endpoint("unowned"))
        bench.files.look_at_state()
        assert bench.names() == ["mine", "other", "unowned"]
        child.communicate(b"\n")
    bench.files.look_at_state()
    assert bench.names() == ["mine", "unowned"]
    assert not (folder / "other.yaml").exists()
    assert bench.cluster.refusals() == []
    (folder / "other.yaml").write_text(endpoint("other", pid=child.pid))
    bench.files.look_at_state()
    assert bench.names() == ["mine", "unowned"]


def test_only_endpoints_belong_among_the_endpoints(bench):
    """Another kind there is refused: it would vanish with a process."""
    bench.files.prepare()
    (bench.files.endpoints / "a.yaml").write_text(workload("votes"))
    bench.files.look_at_state()
    assert bench.names() == []
    assert "only Endpoints" in bench.cluster.refusals()[0].reason


def test_a_file_that_cannot_be_read_is_refused(bench):
    """A folder where a file should be is an error of that file alone."""
    bench.files.prepare()
    os.symlink("/proc/self/mem", bench.source / "odd.yaml")
    bench.look_twice()
    [refused] = bench.cluster.refusals()
    assert "cannot be read" in refused.reason
