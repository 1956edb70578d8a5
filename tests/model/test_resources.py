"""Resources: Kubernetes' envelope around our specs."""

import datetime

import msgspec
import pytest

from mesh.model.config import Protocol, Timeouts
from mesh.model.gateway import (
    GRPCMethodMatch,
    GRPCRouteMatch,
    GRPCRouteRule,
    GRPCRouteSpec,
    HTTPRouteRetry,
    HTTPRouteRule,
    HTTPRouteSpec,
    ParentRef,
    WeightedBackendRef,
)
from mesh.model.resources import (
    API_VERSION,
    API_VERSIONS,
    KINDS,
    Endpoint,
    EndpointSpec,
    Fault,
    FaultSpec,
    GRPCRoute,
    HTTPRoute,
    Metadata,
    Resource,
    TrafficPolicy,
    TrafficPolicySpec,
    Workload,
    WorkloadSpec,
)
from mesh.model.traffic import Abort, Hedge, Injection, RateLimit, Retry, Traffic

RESOURCES: list[Resource] = [
    Workload(
        Metadata("web", labels={"a": "b"}), WorkloadSpec(("python", "web.py"), port="auto", environment={"A": "1"})
    ),
    Workload(Metadata("load", "demo"), WorkloadSpec(("load",))),
    Endpoint(Metadata("votes-1", "demo"), EndpointSpec("votes", "votes", "127.0.0.1:1", "v1", Protocol.HTTP2, "x", 9)),
    TrafficPolicy(Metadata("votes"), TrafficPolicySpec("votes", Timeouts(request=1.5), Protocol.HTTP1)),
    TrafficPolicy(
        Metadata("all", created=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)),
        TrafficPolicySpec(
            "votes", retry=Retry(2, hedge=Hedge()), rate_limits=(RateLimit(5),), faults=(Injection("a"),)
        ),
    ),
    Fault(Metadata("fault-1"), FaultSpec("votes", delay=0.2, abort=Abort(500), until=1e9)),
    HTTPRoute(
        Metadata("web"),
        HTTPRouteSpec(
            (ParentRef("votes", "", "Service"),),
            rules=(HTTPRouteRule(backend_refs=(WeightedBackendRef("v2", weight=9),), retry=HTTPRouteRetry((500,), 2)),),
        ),
    ),
    GRPCRoute(
        Metadata("calls"),
        GRPCRouteSpec(
            (ParentRef("votes", "", "Service"),), rules=(GRPCRouteRule(matches=(GRPCRouteMatch(GRPCMethodMatch()),)),)
        ),
    ),
]


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.metadata.name)
def test_resources_survive_json(resource: Resource) -> None:
    """Each comes back as it was, under the kind that it says it is."""
    assert msgspec.json.decode(msgspec.json.encode(resource), type=KINDS[resource.kind]) == resource


def test_kinds() -> None:
    """Each kind is found under its name."""
    assert {name: kind.kind for name, kind in KINDS.items()} == {name: name for name in KINDS}
    policies = {"AuthorizationPolicy", "DefaultPolicy", "EgressPolicy", "PolicyPlugin"}
    assert set(KINDS) == {"Workload", "Endpoint", "TrafficPolicy", "Fault", "HTTPRoute", "GRPCRoute"} | policies
    assert API_VERSION == "conduit.mesh/v1alpha1"
    assert {name: kind.api_version for name, kind in KINDS.items()} == {
        n: versions[0] for n, versions in API_VERSIONS.items()
    }
    assert GRPCRoute.api_version == HTTPRoute.api_version == "gateway.networking.k8s.io/v1"


def test_a_fault_is_an_injection_with_a_service() -> None:
    """Field by field, so that neither gets one that the other lacks; the resource's name is the injection's."""
    fault = {field.name: field.type for field in msgspec.structs.fields(FaultSpec)}
    injection = {field.name: field.type for field in msgspec.structs.fields(Injection)}
    assert fault.pop("service") is str
    assert injection.pop("name") is str
    assert fault == injection


def test_a_policy_holds_all_of_traffic_but_routes() -> None:
    """What a proxy can be told of a service's treatment can be written."""
    told = set(Traffic.__struct_fields__) - {"routes", "routed"}
    assert set(TrafficPolicySpec.__struct_fields__) == told | {"service", "timeouts", "protocol"}


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
