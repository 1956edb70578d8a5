"""Names as applications write them, and the service that each means."""

import pytest

from mesh.control.cluster import Cluster, ServiceKey
from mesh.control.plan import egress, plan, resolve
from mesh.model.authorization import Action, Authorization, Default, Egress, EgressRule, Operation, Rule
from mesh.model.config import Protocol, Timeouts
from mesh.model.gateway import HTTPRouteRule, HTTPRouteSpec, ParentRef, WeightedBackendRef
from mesh.model.resources import (
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    DefaultPolicy,
    DefaultPolicySpec,
    EgressPolicy,
    EgressPolicySpec,
    Endpoint,
    EndpointSpec,
    Fault,
    FaultSpec,
    HTTPRoute,
    Metadata,
    Target,
    TargetKind,
    TrafficPolicy,
    TrafficPolicySpec,
    Workload,
    WorkloadSpec,
)
from mesh.model.traffic import Breaker, HealthCheck, RateLimit, Traffic


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


def route(name, *backends, namespace="demo"):
    parent = ParentRef("words", group="", kind="Service", namespace="demo")
    rule = HTTPRouteRule(backend_refs=tuple(WeightedBackendRef(name, weight=weight) for name, weight in backends))
    return HTTPRoute(Metadata(name, namespace), HTTPRouteSpec((parent,), rules=(rule,)))


def backends(service):
    return [
        (b.service.partition(".")[0], b.weight, bool(b.problem)) for r in service.traffic.routes for b in r.backends
    ]


def test_what_is_known_of_an_endpoint_is_told():
    """Weight, zone and whether a proxy of ours is there."""
    spec = EndpointSpec("words", "words-v1", "127.0.0.1:1", zone="a", meshed=True, weight=0)
    service = plan(cluster_of(Endpoint(Metadata("e", "demo"), spec), endpoint("f", "127.0.0.1:2")), "words", "demo")
    assert [(e.zone, e.meshed, e.weight) for e in service.endpoints] == [("a", True, 0), ("", False, 1)]


def test_policies_and_faults_are_told():
    """Of two policies the first by name holds, in full; one that is about another service does not count."""
    first = policy(breaker=Breaker(failures=1), rate_limits=(RateLimit(5),), timeouts=Timeouts(backend_request=0.5))
    second = TrafficPolicy(Metadata("q", "demo"), TrafficPolicySpec("words", Timeouts(request=9)))
    other = TrafficPolicy(Metadata("a", "demo"), TrafficPolicySpec("votes", Timeouts(request=9)))
    fault = Fault(Metadata("slow", "demo"), FaultSpec("words", delay=1, percent=5, until=100.0))
    service = plan(cluster_of(endpoint("e", "h:1"), first, second, other, fault), "words", "demo")
    assert service.timeouts == Timeouts(backend_request=0.5)
    assert (service.traffic.breaker.failures, service.traffic.rate_limits[0].per_second) == (1, 5)
    assert [(f.name, f.delay, f.percent, f.until) for f in service.traffic.faults] == [("slow", 1, 5, 100.0)]
    assert not service.traffic.routed
    assert plan(cluster_of(endpoint("e", "h:1")), "words", "demo").traffic == Traffic()


def test_routes_alone_make_a_service():
    """It has no endpoints; its routes say where requests go, and which of the references lead nowhere."""
    v1 = Endpoint(Metadata("e", "demo"), EndpointSpec("words-v1", "words-v1", "h:1"))
    service = plan(cluster_of(route("canary", ("words-v1", 9), ("words-v2", 1)), v1), "words", "demo")
    assert (service.endpoints, service.traffic.routed) == ((), True)
    assert backends(service) == [("words-v1", 9, False), ("words-v2", 1, True)]


def test_a_callers_own_route_holds_for_it_alone():
    """Others are told the routes of the service's own namespace."""
    cluster = cluster_of(
        endpoint("e", "h:1"), route("producer", ("words", 1)), route("consumer", ("mine", 1), namespace="other")
    )
    assert backends(plan(cluster, "words", "demo")) == [("", 1, False)]
    assert backends(plan(cluster, "words.demo", "third")) == [("", 1, False)]
    assert backends(plan(cluster, "words.demo", "other")) == [("mine", 1, True)]


def test_who_may_call_is_told_beside_the_application_alone():
    """To the proxies of a workload behind the service: not to its callers, nor to its namesake in another namespace."""
    service = Target(TargetKind.SERVICE, "words")
    cluster = cluster_of(
        workload("words-v1", Protocol.DETECT),
        endpoint("e", "127.0.0.1:1"),
        policy(health=HealthCheck(path="/h")),
        AuthorizationPolicy(Metadata("may", "demo"), AuthorizationPolicySpec(service)),
        AuthorizationPolicy(Metadata("may", "elsewhere"), AuthorizationPolicySpec(service)),
        DefaultPolicy(
            Metadata("word", "conduit"), DefaultPolicySpec(Target(TargetKind.MESH), inbound=Default.ALL_AUTHENTICATED)
        ),
    )
    told = plan(cluster, "words", "demo", "words-v1", trust_domain="mesh.example")
    assert told.authorization == Authorization(
        default=Default.ALL_AUTHENTICATED,
        default_from="conduit/word",
        rules=(Rule("demo/may"),),
        probes=(Operation(("GET", "HEAD"), ("/h",)),),
        trust_domain="mesh.example",
    )
    for asking in (("demo", ""), ("demo", "web"), ("elsewhere", "words-v1")):
        assert plan(cluster, "words.demo", *asking).authorization is None


def test_egress():
    """A workload's own policies, those of the services that it is behind, and of its namespace."""
    targets = {
        "a": Target(TargetKind.WORKLOAD, "words-v1"),
        "b": Target(TargetKind.SERVICE, "words"),
        "c": Target(TargetKind.NAMESPACE),
        "d": Target(TargetKind.SERVICE, "web"),
    }
    policies = [EgressPolicy(Metadata(name, "demo"), EgressPolicySpec(target)) for name, target in targets.items()]
    word = DefaultPolicySpec(Target(TargetKind.NAMESPACE), egress=Action.DENY)
    cluster = cluster_of(
        workload("words-v1", Protocol.DETECT), *policies, DefaultPolicy(Metadata("word", "demo"), word)
    )
    rules = (EgressRule("demo/a"), EgressRule("demo/b"), EgressRule("demo/c"))
    assert egress(cluster, ServiceKey("demo", "words-v1")) == Egress(Action.DENY, "demo/word", rules)
    assert egress(cluster, ServiceKey("demo", "web")) == Egress(Action.DENY, "demo/word", rules[2:])
    assert egress(cluster, ServiceKey("other", "words-v1")) == Egress()
