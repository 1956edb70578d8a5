"""What a proxy is told of a service, and how resources fare beside each other."""

import datetime

import pytest

from mesh.model.api import Condition
from mesh.model.compose import conditions, inline, parents_of, policy, routes_for, traffic
from mesh.model.config import Protocol
from mesh.model.gateway import (
    GRPCRouteSpec,
    HTTPFilterType,
    HTTPRouteFilter,
    HTTPRouteRule,
    HTTPRouteSpec,
    ParentRef,
    RequestMirror,
    WeightedBackendRef,
)
from mesh.model.resources import (
    Fault,
    FaultSpec,
    GRPCRoute,
    HTTPRoute,
    Metadata,
    Resource,
    Route,
    TrafficPolicy,
    TrafficPolicySpec,
    Workload,
    WorkloadSpec,
)
from mesh.model.traffic import (
    Backend,
    Balancing,
    BalancingKind,
    Breaker,
    Concurrency,
    FieldMatch,
    HashOn,
    HealthCheck,
    Injection,
    Match,
    RateLimit,
    Retry,
    RetryBudget,
    Traffic,
)

MOMENTS = [datetime.datetime(2026, 1, day, tzinfo=datetime.UTC) for day in (1, 2)]


def known(namespace: str, name: str) -> bool:
    return (namespace, name) in {("default", "votes"), ("default", "v1"), ("demo", "v2")}


def http(
    name: str = "r", namespace: str = "default", *backends: str, parent: str = "votes", home: str = ""
) -> HTTPRoute:
    refs = tuple(WeightedBackendRef(each) for each in backends)
    spec = HTTPRouteSpec((ParentRef(parent, "", "Service", home),), rules=(HTTPRouteRule(backend_refs=refs),))
    return HTTPRoute(Metadata(name, namespace), spec)


def grpc(name: str = "g", namespace: str = "default") -> GRPCRoute:
    return GRPCRoute(Metadata(name, namespace), GRPCRouteSpec((ParentRef("votes", "core", "Service", "default"),)))


def fault(name: str, service: str = "votes", namespace: str = "default") -> Fault:
    return Fault(Metadata(name, namespace), FaultSpec(service, delay=1, match=Match(headers=(FieldMatch("X-A", "b"),))))


def names(told: Traffic) -> list[str]:
    return [route.name for route in told.routes]


# --- traffic


def test_of_nothing_comes_the_default() -> None:
    """A service that nothing speaks of is treated as all are."""
    assert traffic("default", "votes", caller="default", exists=known) == Traffic()


def test_all_of_a_policy_is_told() -> None:
    """With names of headers in lower case."""
    match = Match(headers=(FieldMatch("X-A", "B"),))
    lower = Match(headers=(FieldMatch("x-a", "B"),))
    spec = TrafficPolicySpec(
        "votes",
        retry=Retry(3),
        budget=RetryBudget(5),
        breaker=Breaker(2),
        health=HealthCheck(path="/healthz"),
        balancing=Balancing(BalancingKind.HASH, HashOn(header="X-User")),
        rate_limits=(RateLimit(5, match=match),),
        concurrency=Concurrency(7),
        faults=(Injection("own", match, delay=1),),
    )
    told = traffic("default", "votes", policies=[TrafficPolicy(Metadata("p"), spec)], caller="demo", exists=known)
    assert told == Traffic(
        retry=Retry(3),
        budget=RetryBudget(5),
        breaker=Breaker(2),
        health=HealthCheck(path="/healthz"),
        balancing=Balancing(BalancingKind.HASH, HashOn(header="x-user")),
        rate_limits=(RateLimit(5, match=lower),),
        concurrency=Concurrency(7),
        faults=(Injection("own", lower, delay=1),),
    )


def test_faults_join_the_policys() -> None:
    """After them, by name, only the service's own."""
    spec = TrafficPolicySpec("votes", faults=(Injection("p", delay=2),))
    told = traffic(
        "default",
        "votes",
        policies=[TrafficPolicy(Metadata("p"), spec)],
        faults=[fault("b"), fault("a"), fault("other", "web"), fault("far", namespace="demo")],
        caller="demo",
        exists=known,
    )
    assert [each.name for each in told.faults] == ["p", "a", "b"]
    assert told.faults[1] == Injection("a", Match(headers=(FieldMatch("x-a", "b"),)), delay=1)


def test_the_oldest_policy_holds() -> None:
    """Then the first by name; another service's, or another namespace's, never."""

    def named(
        name: str, created: datetime.datetime | None, service: str = "votes", home: str = "default"
    ) -> TrafficPolicy:
        return TrafficPolicy(Metadata(name, home, created=created), TrafficPolicySpec(service, retry=Retry(len(name))))

    policies = [named("aaa", MOMENTS[1]), named("bb", MOMENTS[0]), named("c", MOMENTS[0], "web")]
    policies.append(named("cccc", MOMENTS[0]))
    policies.append(named("d", None, "votes", "demo"))
    for order in (policies, policies[::-1]):
        assert policy("default", "votes", order).retry == Retry(2)
    assert policy("default", "none", policies) == TrafficPolicySpec("none")


def test_routes_of_all_kinds_of_name() -> None:
    """Only those whose Service parent it is; they are told in order, as a caller would name their backends."""
    routes = [http("b", "default", "v1"), http("a", "default", "votes"), http("x", "default", "v1", parent="web")]
    routes.append(HTTPRoute(Metadata("gateway"), HTTPRouteSpec((ParentRef("votes"),))))
    told = traffic("default", "votes", routes=routes, caller="demo", exists=known)
    assert (names(told), told.routed) == (["a/0", "b/0"], True)
    assert [route.backends for route in told.routes] == [(Backend(""),), (Backend("v1.default"),)]


def test_a_consumers_routes_hold_for_that_consumer() -> None:
    """In place of the producer's; nobody else sees them."""
    routes: list[Route] = [http("producer"), http("consumer", "demo", "v2", home="default")]

    def seen_by(caller: str) -> Traffic:
        return traffic("default", "votes", routes=routes, caller=caller, exists=known)

    assert {caller: names(seen_by(caller)) for caller in ("default", "demo", "third")} == {
        "default": ["producer/0"],
        "demo": ["consumer/0"],
        "third": ["producer/0"],
    }
    assert seen_by("demo").routes[0].backends == (Backend("v2"),)
    assert not traffic("default", "votes", routes=routes[1:], caller="third", exists=known).routed


def test_grpc_routes_go_before_http_routes() -> None:
    """The more specific kind holds, and the other does not at all."""
    assert routes_for("default", "votes", [http(), grpc()], "default") == [grpc()]
    assert routes_for("default", "votes", [http(), grpc("g", "demo")], "default") == [http()]


def test_a_route_without_rules_matches_nothing() -> None:
    """Its service has routes all the same."""
    empty = HTTPRoute(Metadata("r"), HTTPRouteSpec((ParentRef("votes", "", "Service"),), rules=()))
    told = traffic("default", "votes", routes=[empty], caller="default", exists=known)
    assert (told.routes, told.routed) == ((), True)


def test_parents() -> None:
    """Services alone, each once, in the route's namespace unless they say another."""
    refs = (ParentRef("a", "", "Service"), ParentRef("a", "core", "Service", "demo", 80), ParentRef("b"))
    route = HTTPRoute(Metadata("r", "demo"), HTTPRouteSpec((*refs, ParentRef("c", "", "Service", "x"))))
    assert parents_of(route) == [("demo", "a"), ("x", "c")]


# --- proxy.yaml


def test_inline_resources() -> None:
    """Names of `services:` are in the namespace default, or say theirs."""
    spec = TrafficPolicySpec("votes", protocol=Protocol.HTTP2, retry=Retry(3))
    resources: list[Resource] = [
        TrafficPolicy(Metadata("p"), spec),
        http("r", "default", "v1", "v2"),
        fault("f"),
        TrafficPolicy(Metadata("far", "demo"), TrafficPolicySpec("votes", retry=Retry(4))),
    ]
    told, holding = inline("votes", resources, {"votes": 1, "v1": 1})
    assert holding == spec
    assert (told.retry, names(told), [each.name for each in told.faults]) == (Retry(3), ["r/0"], ["f"])
    assert told.routes[0].backends == (Backend("v1"), Backend("v2", 1, "there is no service v2 in namespace default"))
    told, holding = inline("votes.demo", resources, ())
    assert (told.retry, told.routed, holding.service) == (Retry(4), False, "votes")
    assert inline("127.0.0.1:80", resources, ())[0] == Traffic()


# --- conditions

GOOD = Condition("Accepted", True, "Accepted")
RESOLVED = Condition("ResolvedRefs", True, "ResolvedRefs")


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (http("r", "default", "v1", "votes"), (GOOD, RESOLVED)),
        (grpc(), (GOOD, RESOLVED)),
        (
            http("r", "default", "v1", "gone"),
            (
                GOOD,
                Condition(
                    "ResolvedRefs",
                    False,
                    "BackendNotFound",
                    "rules[0]: there is no service gone in namespace default",
                ),
            ),
        ),
        (
            HTTPRoute(
                Metadata("r"),
                HTTPRouteSpec(
                    (ParentRef("votes", "", "Service"),),
                    rules=(
                        HTTPRouteRule(),
                        HTTPRouteRule(
                            filters=(
                                HTTPRouteFilter(
                                    HTTPFilterType.REQUEST_MIRROR,
                                    request_mirror=RequestMirror(WeightedBackendRef("b", "example.org", "Bucket")),
                                ),
                            )
                        ),
                    ),
                ),
            ),
            (
                GOOD,
                Condition("ResolvedRefs", False, "InvalidKind", "rules[1]: b is of kind Bucket, not a Service"),
            ),
        ),
        (
            http(parent="gone"),
            (
                Condition("Accepted", False, "NoMatchingParent", "there is no service gone in namespace default"),
                RESOLVED,
            ),
        ),
        (
            HTTPRoute(Metadata("r"), HTTPRouteSpec((ParentRef("votes"),))),
            (Condition("Accepted", False, "NoMatchingParent", "none of parentRefs is a Service"), RESOLVED),
        ),
        (TrafficPolicy(Metadata("p"), TrafficPolicySpec("votes")), (GOOD,)),
        (
            TrafficPolicy(Metadata("p"), TrafficPolicySpec("gone")),
            (Condition("Accepted", False, "TargetNotFound", "there is no service gone in namespace default"),),
        ),
        (fault("f"), (GOOD,)),
        (
            fault("f", "votes", "demo"),
            (Condition("Accepted", False, "TargetNotFound", "there is no service votes in namespace demo"),),
        ),
        (Workload(Metadata("w"), WorkloadSpec(("a",))), ()),
    ],
)
def test_conditions(resource: Resource, expected: tuple[Condition, ...]) -> None:
    """In the words of Gateway API."""
    assert conditions(resource, exists=known) == expected


def test_an_http_route_conflicts_with_a_grpc_route() -> None:
    """Only within one namespace: a consumer's is no matter to the producer."""
    message = "GRPCRoute g holds for service votes: it can have one kind of route"
    conflict = Condition("Accepted", False, "Conflicted", message)
    assert conditions(http(), routes=[http(), grpc()], exists=known)[0] == conflict
    assert conditions(grpc(), routes=[http(), grpc()], exists=known)[0] == GOOD
    assert conditions(http(), routes=[http(), grpc("g", "demo")], exists=known)[0] == GOOD
    consumer = http("c", "demo", home="default")
    assert conditions(consumer, routes=[consumer, grpc()], exists=known)[0] == GOOD


def test_a_younger_policy_conflicts() -> None:
    """It says which one holds."""
    older = TrafficPolicy(Metadata("b", created=MOMENTS[0]), TrafficPolicySpec("votes"))
    younger = TrafficPolicy(Metadata("a", created=MOMENTS[1]), TrafficPolicySpec("votes"))
    both = [younger, older]
    assert conditions(older, policies=both, exists=known) == (GOOD,)
    message = "TrafficPolicy b holds for service votes"
    assert conditions(younger, policies=both, exists=known) == (Condition("Accepted", False, "Conflicted", message),)
