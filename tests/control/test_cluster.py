"""Folding files into one state: who wins, what is refused, what a change touches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.control.cluster import APPLIED_RANK, Cluster, Key, ServiceKey, referred, services_of
from mesh.model.config import Timeouts
from mesh.model.errors import ConfigError
from mesh.model.gateway import (
    BackendRef,
    GRPCRouteRule,
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
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    DefaultPolicy,
    Endpoint,
    EndpointSpec,
    ExternalAuthorizer,
    Fault,
    FaultSpec,
    GRPCRoute,
    HTTPRoute,
    Metadata,
    PolicyPlugin,
    PolicyPluginSpec,
    Target,
    TargetKind,
    TrafficPolicy,
    TrafficPolicySpec,
    Workload,
    WorkloadSpec,
)


def workload(name, service="", namespace="demo", port="auto", **spec):
    return Workload(Metadata(name, namespace), WorkloadSpec(("x",), service=service, port=port, **spec))


def endpoint(name, service, address, workload="", namespace="demo"):
    return Endpoint(Metadata(name, namespace), EndpointSpec(service, workload or service, address))


def policy(name, service, seconds, namespace="demo"):
    return TrafficPolicy(Metadata(name, namespace), TrafficPolicySpec(service, Timeouts(request=seconds)))


def parent(name, namespace=""):
    return ParentRef(name, group="", kind="Service", namespace=namespace)


def backend(name, namespace=""):
    return WeightedBackendRef(name, namespace=namespace)


def route(name, parents, *backends, namespace="demo"):
    spec = HTTPRouteSpec(tuple(parents), rules=(HTTPRouteRule(backend_refs=backends),))
    return HTTPRoute(Metadata(name, namespace), spec)


def fault(name, service):
    return Fault(Metadata(name, "demo"), FaultSpec(service, delay=1))


VOTES = ServiceKey("demo", "votes")
WORDS = ServiceKey("demo", "words")


@pytest.mark.parametrize(
    ("resource", "service"),
    [
        (workload("votes"), {VOTES}),
        (workload("words-v1", "words"), {WORDS}),
        (workload("load", port=None), set()),
        (endpoint("votes-1", "votes", "127.0.0.1:1"), {VOTES}),
        (policy("p", "words", 1), {WORDS}),
        (fault("f", "words"), {WORDS}),
        (route("r", [parent("votes"), parent("words", "other")], backend("x")), {VOTES, ServiceKey("other", "words")}),
        (route("r", [ParentRef("votes")]), set()),
        (GRPCRoute(Metadata("r", "demo"), GRPCRouteSpec((parent("votes"),))), {VOTES}),
    ],
)
def test_services_of(resource, service):
    """A workload serves its service, or its own name's, or none without a port; a route is about all its parents."""
    assert services_of(resource) == service


def test_referred():
    """All rules' backends and mirrors, in the route's namespace unless they say another; only services."""
    mirror = HTTPRouteFilter(HTTPFilterType.REQUEST_MIRROR, request_mirror=RequestMirror(BackendRef("copy")))
    rules = (
        HTTPRouteRule(backend_refs=(backend("a"), backend("b", "other")), filters=(mirror,)),
        HTTPRouteRule(backend_refs=(WeightedBackendRef("c", kind="Bucket"),)),
    )
    made = HTTPRoute(Metadata("r", "demo"), HTTPRouteSpec((parent("votes"),), rules=rules))
    assert referred(made) == {ServiceKey("demo", "a"), ServiceKey("other", "b"), ServiceKey("demo", "copy")}
    calls = GRPCRouteSpec((parent("votes"),), rules=(GRPCRouteRule(backend_refs=(backend("a"),)),))
    assert referred(GRPCRoute(Metadata("r", "demo"), calls)) == {ServiceKey("demo", "a")}


def test_changes_touch_their_services_and_the_version_grows_only_then():
    """What has not changed moves nothing; what has names each service that it concerns, the old and the new."""
    cluster = Cluster()
    assert cluster.set_file("a", [workload("votes"), workload("words")]) == {VOTES, WORDS}
    assert cluster.version == 1
    assert cluster.set_file("a", [workload("votes"), workload("words")]) == set()
    assert cluster.version == 1
    assert cluster.set_file("a", [workload("votes"), workload("words", "votes")]) == {VOTES, WORDS}
    assert cluster.set_file("a", [workload("votes")]) == {VOTES}
    assert cluster.remove_file("a") == {VOTES}
    assert cluster.version == 4
    assert cluster.services() == []


def test_of_two_files_the_first_has_it_until_it_lets_go():
    """The later file's resource is refused with the name of the other, and takes over when that is gone."""
    cluster = Cluster()
    cluster.set_file("a", [policy("p", "votes", 1)])
    cluster.set_file("b", [policy("p", "votes", 2)])
    key = Key("TrafficPolicy", "demo", "p")
    assert cluster.get(key).file == "a"
    [refused] = cluster.refusals()
    assert (refused.file, refused.name, refused.accepted) == ("b", "p", False)
    assert "in force from a" in refused.reason
    assert cluster.remove_file("a") == {VOTES}
    assert cluster.get(key).resource.spec.timeouts.request == 2
    assert cluster.refusals() == []


def test_applied_goes_before_sources():
    """What was applied later over the API still has precedence over what a watched file says."""
    cluster = Cluster()
    cluster.set_file("source", [policy("p", "votes", 1)])
    assert cluster.set_file("applied", [policy("p", "votes", 2)], rank=APPLIED_RANK) == {VOTES}
    assert cluster.get(Key("TrafficPolicy", "demo", "p")).file == "applied"
    assert cluster.set_file("source", [policy("p", "votes", 3)]) == set()


def test_a_file_with_a_resource_twice_changes_nothing():
    """It is refused whole, and what it held stays."""
    cluster = Cluster()
    cluster.set_file("a", [workload("votes")])
    with pytest.raises(ConfigError, match="twice"):
        cluster.set_file("a", [workload("words"), workload("words")])
    assert cluster.services() == [VOTES]
    assert cluster.version == 1


def test_refused_files_are_told_until_they_are_mended_or_gone():
    """A refusal stands beside the last good content, and goes with a good version or with the file."""
    cluster = Cluster()
    cluster.set_file("a", [workload("votes")])
    cluster.refuse_file("a", ConfigError("bad", file="a", line=3), Key("Workload", "demo", "votes"))
    assert [(r.kind, r.name, r.reason) for r in cluster.refusals()] == [("Workload", "votes", "a:3: bad")]
    assert cluster.services() == [VOTES]
    cluster.set_file("a", [workload("votes")])
    assert cluster.refusals() == []
    cluster.refuse_file("a", ConfigError("bad"))
    cluster.remove_file("a")
    assert cluster.refusals() == []


def test_a_policy_alone_is_no_service():
    """There must be something behind the name."""
    cluster = Cluster()
    cluster.set_file("a", [policy("p", "votes", 1)])
    assert cluster.services() == []
    assert cluster.members(VOTES) is None
    cluster.set_file("b", [endpoint("votes-1", "votes", "127.0.0.1:1")])
    assert cluster.services() == [VOTES]


def test_a_route_touches_its_parents_old_and_new():
    """Also where it moves from one to another, in whichever namespace."""
    cluster = Cluster()
    elsewhere = ServiceKey("other", "words")
    assert cluster.set_file("a", [route("r", [parent("votes")], backend("v1"))]) == {VOTES}
    assert cluster.set_file("a", [route("r", [parent("words", "other")], backend("v1"))]) == {VOTES, elsewhere}
    assert cluster.members(VOTES) is None
    cluster.set_file("b", [endpoint("e", "words", "127.0.0.1:1", namespace="other")])
    assert [each.metadata.name for each in cluster.members(elsewhere).routes] == ["r"]
    assert cluster.set_file("a", [route("r", [parent("words", "other")], backend("v2"))]) == {elsewhere}
    assert cluster.remove_file("a") == {elsewhere}


def test_a_route_makes_its_parent_a_service():
    """Nothing else need stand behind the name; a fault, a policy or a route of another namespace does not do."""
    cluster = Cluster()
    foreign = route("r", [parent("words", "demo")], namespace="other")
    cluster.set_file("a", [fault("f", "words"), policy("p", "words", 1), route("r", [parent("votes")]), foreign])
    assert cluster.services() == [VOTES]
    assert (cluster.exists(*VOTES), cluster.exists(*WORDS)) == (True, False)
    cluster.set_file("b", [endpoint("w", "words", "127.0.0.1:1")])
    assert [f.metadata.name for f in cluster.members(WORDS).faults] == ["f"]


def test_a_backend_that_comes_or_goes_touches_who_refers_to_it():
    """Only its first and its last trace does: what changes in between is told to who subscribed to it."""
    cluster = Cluster()
    v1 = ServiceKey("demo", "v1")
    cluster.set_file("a", [route("r", [parent("votes")], backend("v1"))])
    assert cluster.set_file("b", [endpoint("e1", "v1", "127.0.0.1:1")]) == {v1, VOTES}
    assert cluster.set_file("b", [endpoint("e1", "v1", "127.0.0.1:1"), endpoint("e2", "v1", "127.0.0.1:2")]) == {v1}
    assert cluster.set_file("c", [policy("p", "v1", 1)]) == {v1}
    assert cluster.remove_file("b") == {v1, VOTES}
    assert cluster.set_file("d", [route("s", [parent("v1")], backend("x"))]) == {v1, VOTES}


def test_workloads_and_who_serves():
    """Workloads count their endpoints, also undeclared ones; only those behind a service serve it."""
    cluster = Cluster()
    cluster.set_file("a", [workload("words-v1", "words"), workload("load", port=None)])
    cluster.set_file("b", [endpoint("w1", "words", "127.0.0.1:1", "words-v1"), endpoint("x", "words", "h:2", "guest")])
    assert cluster.workloads() == {
        ServiceKey("demo", "words-v1"): 1,
        ServiceKey("demo", "load"): 0,
        ServiceKey("demo", "guest"): 1,
    }
    assert cluster.serves(WORDS, "demo", "words-v1")
    assert cluster.serves(WORDS, "demo", "guest")
    assert not cluster.serves(WORDS, "demo", "load")
    assert not cluster.serves(WORDS, "other", "words-v1")


def test_there_is_a_bound(monkeypatch):
    """More resources than the bound are refused before anything changes."""
    monkeypatch.setattr("mesh.control.cluster.MAX_RESOURCES", 2)
    cluster = Cluster()
    cluster.set_file("a", [workload("a"), workload("b")])
    with pytest.raises(ConfigError, match="more than 2"):
        cluster.set_file("b", [workload("c")])
    assert cluster.set_file("a", [workload("a")]) == {ServiceKey("demo", "b")}
    assert cluster.set_file("b", [workload("c")]) == {ServiceKey("demo", "c")}


NAMES = st.sampled_from(["a", "b", "c"])
RESOURCES = st.one_of(
    st.builds(lambda name, service: endpoint(name, service, "h:1"), NAMES, NAMES),
    st.builds(lambda name, service: policy(name, service, 1), NAMES, NAMES),
    st.builds(lambda name, service, to: route(name, [parent(service)], backend(to)), NAMES, NAMES, NAMES),
)
FILES = st.lists(RESOURCES, max_size=4, unique_by=lambda resource: (resource.kind, resource.metadata.name))


@given(st.lists(st.tuples(st.sampled_from(["f", "g"]), st.none() | FILES, st.integers(0, 1)), max_size=12))
def test_services_are_what_is_in_force(changes):
    """After any changes: each service holds just what is about it, and whoever's plan could differ was touched."""
    cluster = Cluster()
    for file, content, rank in changes:
        before = snapshot(cluster)
        touched = cluster.remove_file(file) if content is None else cluster.set_file(file, content, rank=rank)
        after = snapshot(cluster)
        assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} <= touched
        for key in [ServiceKey("demo", name) for name in "abc"]:
            about = [each.resource for each in cluster.held() if key in services_of(each.resource)]
            members = cluster.members(key)
            if members is None:
                assert not any(isinstance(resource, Endpoint | HTTPRoute) for resource in about)
            else:
                assert [*members.endpoints, *members.routes, *members.policies] == about


def snapshot(cluster):
    """What each service is made of, and which of those that its routes refer to are there."""
    made = {}
    for key in cluster.services():
        members = cluster.members(key)
        there = {other: cluster.exists(*other) for each in members.routes for other in referred(each)}
        made[key] = (tuple(members.endpoints), tuple(members.policies), tuple(members.routes), there)
    return made


# --- policies of access ------------------------------------------------------------------------------------------


def access(name, kind, target="", namespace="demo"):
    return AuthorizationPolicy(Metadata(name, namespace), AuthorizationPolicySpec(Target(kind, target)))


def keys(*names):
    """`votes.demo` is a service; `.demo` a namespace, which is told apart from any."""
    return {ServiceKey(*reversed(name.split("."))) for name in names}


@pytest.mark.parametrize(
    ("policy", "touched"),
    [
        (access("p", TargetKind.SERVICE, "votes"), keys(".demo", "votes.demo")),
        (access("p", TargetKind.SERVICE, "nobody"), keys(".demo", "nobody.demo")),
        (access("p", TargetKind.NAMESPACE), keys(".demo", "votes.demo", "web.demo")),
        (access("p", TargetKind.WORKLOAD, "votes-v1"), keys(".demo", "votes.demo")),
        (access("p", TargetKind.WORKLOAD, "votes-v2"), keys(".demo", "votes.demo")),
        (access("p", TargetKind.WORKLOAD, "client"), keys(".demo")),
        (access("p", TargetKind.NAMESPACE, namespace="empty"), keys(".empty")),
        (access("p", TargetKind.MESH, namespace="conduit"), keys(".conduit", "votes.demo", "web.demo", "web.other")),
    ],
)
def test_a_policy_touches_what_it_is_for(policy, touched):
    """When it comes, when it changes and when it goes; its namespace too, for whoever calls from there."""
    cluster = Cluster()
    cluster.set_file(
        "mesh",
        [
            workload("votes-v1", "votes"),
            endpoint("e", "votes", "a:1", "votes-v2"),
            workload("web"),
            workload("web", namespace="other"),
            workload("client", port=None),
        ],
    )
    services = cluster.services()
    assert cluster.set_file("f", [policy]) == touched
    version = cluster.version
    assert cluster.set_file("f", [policy]) == frozenset()
    assert cluster.version == version
    assert cluster.remove_file("f") == touched
    assert cluster.version == version + 1
    assert cluster.services() == services


def test_a_policy_that_aims_elsewhere_touches_both():
    """What it was for is open again, and must know."""
    cluster = Cluster()
    cluster.set_file("mesh", [workload("a"), workload("b")])
    cluster.set_file("f", [access("p", TargetKind.SERVICE, "a")])
    assert cluster.set_file("f", [access("p", TargetKind.SERVICE, "b")]) == keys(".demo", "a.demo", "b.demo")


def test_a_policy_makes_no_service():
    """A target that is not there is a condition of the policy, not a name that leads anywhere."""
    cluster = Cluster()
    cluster.set_file("f", [access("p", TargetKind.SERVICE, "votes")])
    assert cluster.services() == []
    assert services_of(access("p", TargetKind.SERVICE, "votes")) == frozenset()


def test_policies_for_a_namespace():
    """Its own and the mesh's, of one kind, sorted; none that has gone."""
    cluster = Cluster()
    found = [
        access("b", TargetKind.NAMESPACE),
        access("a", TargetKind.NAMESPACE),
        access("m", TargetKind.MESH, namespace="conduit"),
        access("o", TargetKind.NAMESPACE, namespace="other"),
    ]
    cluster.set_file("f", found)
    assert [each.metadata.name for each in cluster.policies_for("demo", AuthorizationPolicy)] == ["m", "a", "b"]
    assert [each.metadata.name for each in cluster.policies_for("conduit", AuthorizationPolicy)] == ["m"]
    assert cluster.policies_for("demo", DefaultPolicy) == []
    cluster.set_file("f", found[1:2])
    assert [each.metadata.name for each in cluster.policies_for("demo", AuthorizationPolicy)] == ["a"]
    assert cluster.policies_for("other", AuthorizationPolicy) == []


def test_an_authorizer_touches_all():
    """Whom one may ask without end depends on who asks whom anywhere."""
    cluster = Cluster()
    cluster.set_file("mesh", [workload("a"), workload("b", namespace="other")])
    spec = PolicyPluginSpec(Target(TargetKind.SERVICE, "a"), authorizer=ExternalAuthorizer("b.other"))
    plugin = PolicyPlugin(Metadata("p", "demo"), spec)
    assert cluster.set_file("f", [plugin]) == keys(".demo", "a.demo", "b.other")
    assert cluster.authorizers() == [plugin]
    cluster.remove_file("f")
    assert cluster.authorizers() == []


def test_workloads_that_are_there():
    """Declared, or seen as an endpoint; and the services that they are behind."""
    cluster = Cluster()
    cluster.set_file("f", [workload("a", port=None), endpoint("e", "votes", "a:1", "b"), workload("b", "polls")])
    assert [cluster.has_workload("demo", name) for name in ("a", "b", "votes")] == [True, True, False]
    assert not cluster.has_workload("other", "a")
    assert cluster.services_with("demo", "b") == ["polls", "votes"]
    assert cluster.services_with("demo", "a") == cluster.services_with("other", "b") == []
