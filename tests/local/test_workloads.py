"""Which workloads the YAML asks for, and when a replica is still what is asked for."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio

from mesh.local.workloads import Member, Wanted, WorkloadKey, first_of, is_current, read_applied, read_workloads
from mesh.model.errors import ConfigError
from mesh.model.resources import Workload

TEXT = """
apiVersion: conduit.mesh/v1alpha1
kind: Workload
metadata: {name: %s}
spec:
  command: [serve]
  environment: {A: "1", B: "2"}
---
apiVersion: conduit.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: words}
spec: {service: words}
"""


def test_workloads_of_files_and_folders(tmp_path: Path) -> None:
    """All of them, by namespace and name, each with its file's folder; other kinds are passed over."""
    (tmp_path / "one.yaml").write_text(TEXT % "one")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "two.yml").write_text(TEXT % "two")
    found = read_workloads([tmp_path / "one.yaml", tmp_path / "more"])
    assert {key: wanted.directory for key, wanted in found.items()} == {
        WorkloadKey("default", "one"): tmp_path,
        WorkloadKey("default", "two"): tmp_path / "more",
    }


def test_environment_from_the_command_line(tmp_path: Path) -> None:
    """It goes over what the file says, for the workload of that name alone."""
    (tmp_path / "one.yaml").write_text(TEXT % "one")
    [wanted] = read_workloads([tmp_path], {"one": {"B": "3", "C": "4"}, "two": {"A": "5"}}).values()
    assert wanted.workload.spec.environment == {"A": "1", "B": "3", "C": "4"}


def test_applied_workloads(tmp_path: Path) -> None:
    """Their folder is that of the file they were applied from, which leaves no trace on them; no state, no workload."""
    kept = (TEXT % "one, annotations: {a: b, conduit.mesh/source: /far/one.yaml}") + "---" + (TEXT % "two")
    (tmp_path / "kept.yaml").write_text(kept)
    found = read_applied(tmp_path, {"one": {"B": "3"}})
    one, two = found[WorkloadKey("default", "one")], found[WorkloadKey("default", "two")]
    assert (one.directory, two.directory) == (Path("/far"), tmp_path)
    assert (one.workload.metadata.annotations, one.workload.spec.environment) == ({"a": "b"}, {"A": "1", "B": "3"})
    assert read_applied(tmp_path / "nothing") == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: Workload\n", r"a\.yaml:1: "),
        ((TEXT % "x").replace("[serve]", "[serve, '${PORT}']"), r"a\.yaml:6: spec\.command: .*without `port`"),
        ((TEXT % "x").replace("command:", "port: 80\n  replicas: 2\n  command:"), r"a\.yaml:7: spec\.replicas: 2 rep"),
        (TEXT % "x" + "---" + TEXT % "x", r"a\.yaml: a second Workload default/x"),
        ((TEXT % "x").replace("service: words", "service: []"), r"a\.yaml:12: spec\.service"),
    ],
)
def test_mistakes_have_a_place(tmp_path: Path, text: str, told: str) -> None:
    """In any document of the file, also of another kind: the file as a whole is refused."""
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_workloads([tmp_path])


def test_what_is_current(workload: Callable[..., Workload], tmp_path: Path) -> None:
    """The number of replicas is no difference between them; all else is."""
    now = Wanted(workload(replicas=1), tmp_path)
    member = Member(1, None, now, trio.CancelScope(), trio.Event())  # type: ignore[arg-type]
    renamed = msgspec.structs.replace(
        now.workload, metadata=msgspec.structs.replace(now.workload.metadata, labels={"a": "b"})
    )
    assert is_current(member, now)
    assert is_current(member, Wanted(workload(replicas=5), tmp_path))
    assert not is_current(member, Wanted(workload(version="v2"), tmp_path))
    assert not is_current(member, Wanted(renamed, tmp_path))
    assert not is_current(member, Wanted(now.workload, tmp_path / "other"))
    assert not is_current(member, None)


async def test_first_of_events(nursery: trio.Nursery) -> None:
    """Any one is enough."""
    events = [trio.Event(), trio.Event()]
    nursery.start_soon(first_of, *events)
    events[1].set()
    await first_of(*events)
    assert not events[0].is_set()
