"""Resources: Kubernetes' envelope around our specs."""

import msgspec
import pytest

from mesh.model.config import Protocol, Timeouts
from mesh.model.resources import (
    API_VERSION,
    KINDS,
    Endpoint,
    EndpointSpec,
    Metadata,
    Resource,
    TrafficPolicy,
    TrafficPolicySpec,
    Workload,
    WorkloadSpec,
)

RESOURCES: list[Resource] = [
    Workload(
        Metadata("web", labels={"a": "b"}), WorkloadSpec(("python", "web.py"), port="auto", environment={"A": "1"})
    ),
    Workload(Metadata("load", "demo"), WorkloadSpec(("load",))),
    Endpoint(Metadata("votes-1", "demo"), EndpointSpec("votes", "votes", "127.0.0.1:1", "v1", Protocol.HTTP2, "x", 9)),
    TrafficPolicy(Metadata("votes"), TrafficPolicySpec("votes", Timeouts(request=1.5), Protocol.HTTP1)),
]


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.metadata.name)
def test_resources_survive_json(resource: Resource) -> None:
    """Each comes back as it was, under the kind that it says it is."""
    assert msgspec.json.decode(msgspec.json.encode(resource), type=KINDS[resource.kind]) == resource


def test_kinds() -> None:
    """Each kind is found under its name."""
    assert {name: kind.kind for name, kind in KINDS.items()} == {name: name for name in KINDS}
    assert set(KINDS) == {"Workload", "Endpoint", "TrafficPolicy"}
    assert API_VERSION == "conduit.mesh/v1alpha1"


def test_defaults() -> None:
    """A workload that says little is one client process of a service of its own name in the default namespace."""
    workload = msgspec.convert({"metadata": {"name": "a"}, "spec": {"command": ["b"]}}, Workload)
    assert workload == Workload(
        Metadata("a", "default"),
        WorkloadSpec(("b",), service="", directory=".", port=None, protocol=Protocol.DETECT, replicas=1),
    )


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_unknown_fields_of_a_spec_are_refused(kind: type) -> None:
    """Metadata may carry what Kubernetes adds; a spec holds our fields alone."""
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"metadata": {"name": "a", "uid": "1"}, "spec": {"x": 1}}, kind)
