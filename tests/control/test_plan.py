"""Names as applications write them, and the service that each means."""

import pytest

from mesh.control.cluster import Cluster, ServiceKey
from mesh.control.plan import plan, resolve
from mesh.model.config import Protocol, Timeouts
from mesh.model.resources import (
    Endpoint,
    EndpointSpec,
    Metadata,
    TrafficPolicy,
    TrafficPolicySpec,
    Workload,
    WorkloadSpec,
)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("votes", ("demo", "votes")),
        ("VOTES", ("demo", "votes")),
        ("votes.", ("demo", "votes")),
        ("votes.demo", ("demo", "votes")),
        ("votes.other", ("other", "votes")),
        ("votes.other.svc", ("other", "votes")),
        ("votes.other.svc.cluster.local", ("other", "votes")),
        ("votes.other.svc.cluster.local.", ("other", "votes")),
        ("votes.other.svc.cluster", None),
        ("votes.other.pod", None),
        ("www.example.com", None),
        ("", None),
        (".", None),
        ("votes..svc", None),
        (".demo", None),
        ("v" * 254, None),
    ],
)
def test_resolve(name, key):
    """A name means what it would mean in Kubernetes."""
    assert resolve(name, "demo") == (ServiceKey(*key) if key else None)


def cluster_of(*resources):
    cluster = Cluster()
    cluster.set_file("f", resources)
    return cluster


def endpoint(name, address, protocol=Protocol.DETECT):
    spec = EndpointSpec("words", "words-v1", address, version="v1", protocol=protocol)
    return Endpoint(Metadata(name, "demo"), spec)


def workload(name, protocol):
    return Workload(Metadata(name, "demo"), WorkloadSpec(("x",), service="words", port="auto", protocol=protocol))


def policy(**spec):
    return TrafficPolicy(Metadata("p", "demo"), TrafficPolicySpec("words", **spec))


def test_a_service_with_everything():
    """Endpoints are sorted by address and told once each; the policy's timeouts go along."""
    cluster = cluster_of(
        workload("words-v1", Protocol.HTTP1),
        endpoint("b", "127.0.0.1:2"),
        endpoint("a", "127.0.0.1:1"),
        endpoint("c", "127.0.0.1:1"),
        policy(timeouts=Timeouts(request=2.5)),
    )
    service = plan(cluster, "words.demo", "elsewhere")
    assert (service.name, service.namespace, service.protocol) == ("words", "demo", Protocol.HTTP1)
    assert [(e.address, e.workload, e.version) for e in service.endpoints] == [
        ("127.0.0.1:1", "words-v1", "v1"),
        ("127.0.0.1:2", "words-v1", "v1"),
    ]
    assert service.timeouts.request == 2.5
    assert plan(cluster, "words", "elsewhere") is None


@pytest.mark.parametrize(
    ("resources", "protocol"),
    [
        ([workload("a", Protocol.DETECT)], Protocol.DETECT),
        ([workload("a", Protocol.DETECT), workload("b", Protocol.HTTP2)], Protocol.HTTP2),
        ([workload("a", Protocol.HTTP1), workload("b", Protocol.HTTP2)], Protocol.HTTP1),
        ([endpoint("a", "h:1", Protocol.OPAQUE)], Protocol.OPAQUE),
        ([workload("a", Protocol.HTTP1), policy(protocol=Protocol.HTTP2)], Protocol.HTTP2),
        ([workload("a", Protocol.HTTP1), policy(protocol=Protocol.DETECT)], Protocol.DETECT),
        ([workload("a", Protocol.HTTP1), policy()], Protocol.HTTP1),
    ],
)
def test_whose_word_on_the_protocol_counts(resources, protocol):
    """The policy's before all, then the first workload's or endpoint's that has an opinion."""
    assert plan(cluster_of(*resources), "words", "demo").protocol is protocol
