"""Recorded traffic judged by the policies in force and by others: what would change, and what cannot be known."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.cli.replay import replay
from mesh.cli.suggestion import suggest
from mesh.model.api import SeenRow
from mesh.model.authorization import Action, Default, Operation, Source
from mesh.model.documents import decode_resource, load_documents
from mesh.model.resources import (
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    DefaultPolicy,
    DefaultPolicySpec,
    Endpoint,
    EndpointSpec,
    ExternalAuthorizer,
    Metadata,
    PolicyPlugin,
    PolicyPluginSpec,
    Target,
    TargetKind,
    TrafficPolicy,
    TrafficPolicySpec,
)
from mesh.model.traffic import HealthCheck

HOME = ".demo.serviceaccount.identity.cluster.local"
WEB, LOAD = f"web{HOME}", f"load{HOME}"
SERVICE, NAMESPACE = Target(TargetKind.SERVICE, "votes"), Target(TargetKind.NAMESPACE)
EVERYBODY = AuthorizationPolicy(Metadata("all", "demo"), AuthorizationPolicySpec(SERVICE))
CLOSED = DefaultPolicy(Metadata("closed", "demo"), DefaultPolicySpec(NAMESPACE, Default.DENY))


def row(path="/things", example="", *, identity=WEB, source="", method="GET", protocol="http", **fields):
    found = SeenRow(
        namespace="demo",
        service="votes",
        identity=identity,
        source=source,
        protocol=protocol,
        method=method,
        path=path,
        example=example or path,
        requests=5,
        allowed={"default:all-unauthenticated": 5},
        denied={},
        audited={},
        workloads={"votes-v1": 5},
        first=0.0,
        last=1.0,
    )
    return msgspec.structs.replace(found, **fields)


def policy(name="p", action=Action.ALLOW, target=SERVICE, *, operations=(), **source):
    sources = (Source(**source),) if source else ()
    return AuthorizationPolicy(Metadata(name, "demo"), AuthorizationPolicySpec(target, action, sources, operations))


def told(found):
    return [(each.change, each.caller, each.path, each.requests, each.partly) for each in found.changes]


def test_nothing_changes_where_nothing_is_proposed():
    """The policies in force, judged against themselves."""
    found = replay([row(), row(identity="", source="10.0.0.1")], [EVERYBODY, CLOSED], [])
    assert (found.changes, found.requests, found.notes) == ((), 10, ())


def test_what_would_be_denied_is_told_with_the_policy():
    """By an Allow policy that is for others, and by a default."""
    found = replay([row(), row(identity=LOAD)], [], [policy("web", identities=(WEB,))])
    [change] = found.changes
    assert (change.change, change.caller, change.before, change.after) == (
        "denied",
        LOAD,
        "default:all-unauthenticated",
        "demo/web",
    )
    assert (change.service, change.workload, change.method, change.path) == ("votes", "votes-v1", "GET", "/things")
    assert "no policy that allows something allows this" in change.why
    assert {each.after for each in replay([row()], [], [CLOSED]).changes} == {"demo/closed"}


def test_what_would_be_allowed_or_audited_is_told_too():
    """Newly let through, and newly noted."""
    denied = row(identity="", source="10.0.0.1")
    found = replay([denied], [CLOSED], [policy("all", networks=("10.0.0.0/8",))])
    assert told(found) == [("allowed", "10.0.0.1", "/things", 5, False)]
    found = replay([row()], [], [policy("watch", Action.AUDIT)])
    assert [(each.change, each.after) for each in found.changes] == [("audited", "demo/watch")]


def test_the_worst_comes_first():
    """Denied before allowed before audited, and much before little."""
    rows = [row("/a"), row("/b", workloads={"votes-v1": 90}), row("/c", identity=LOAD), row("/d", identity=LOAD)]
    now = [policy("no", Action.DENY, identities=(LOAD,), operations=(Operation(paths=("/c",)),))]
    then = [
        policy("no", Action.DENY, identities=(WEB,)),
        policy("watch", Action.AUDIT, operations=(Operation(paths=("/d",)),)),
    ]
    assert [(each.change, each.path) for each in replay(rows, now, then).changes] == [
        ("denied", "/b"),
        ("denied", "/a"),
        ("allowed", "/c"),
        ("audited", "/d"),
    ]


def test_a_proposed_resource_takes_the_place_of_its_name():
    """Same kind, namespace and name: the one in force counts no more."""
    now = [policy("p", identities=(WEB,))]
    assert told(replay([row()], now, [policy("p", identities=(LOAD,))])) == [("denied", WEB, "/things", 5, False)]
    assert replay([row()], now, [policy("q", identities=(LOAD,))]).changes == ()


def test_each_workload_behind_the_service_is_judged():
    """A policy for one workload changes what its proxies say, for the requests that it got."""
    rows = [row(workloads={"votes-v1": 3, "votes-v2": 2})]
    deny = policy("v2", Action.DENY, Target(TargetKind.WORKLOAD, "votes-v2"))
    assert [(each.workload, each.requests) for each in replay(rows, [], [deny]).changes] == [("votes-v2", 2)]


def test_what_the_rest_of_a_path_decides_is_told_as_partly():
    """A template stands for many paths: that the example goes through does not mean that all do."""
    one = policy("one", operations=(Operation(paths=("/polls/1",)),))
    assert told(replay([row("/polls/*", "/polls/1")], [], [one])) == [("denied", WEB, "/polls/*", 5, True)]
    every = policy("one", operations=(Operation(paths=("/polls/*",)),))
    assert replay([row("/polls/*", "/polls/1")], [], [every]).changes == ()


def test_what_an_unrecorded_address_decides_is_told_as_partly():
    """Of callers with an identity the address is not recorded: only what their endpoints tell is known of it."""
    near = policy("near", networks=("10.1.0.0/16",), identities=(WEB,))
    assert told(replay([row()], [], [near])) == [("denied", WEB, "/things", 5, True)]
    spec = EndpointSpec("web", "web", "10.1.2.3:80", identity=WEB)
    assert replay([row()], [Endpoint(Metadata("e", "demo"), spec)], [near]).changes == ()
    spec = msgspec.structs.replace(spec, address="10.2.2.3:80")
    found = replay([row()], [Endpoint(Metadata("e", "demo"), spec)], [near])
    assert told(found) == [("denied", WEB, "/things", 5, False)]
    strict = DefaultPolicy(Metadata("d", "demo"), DefaultPolicySpec(NAMESPACE, Default.CLUSTER_AUTHENTICATED))
    assert told(replay([row()], [], [strict])) == [("denied", WEB, "/things", 5, True)]


def test_a_path_with_two_readings_is_refused_once_paths_count():
    """As the proxies do it: before anything is judged."""
    found = replay([row("/a//b")], [], [policy("p", operations=(Operation(paths=("/*",)),))])
    assert [(each.change, each.after) for each in found.changes] == [("denied", "ambiguous_path")]


def test_grpc_and_tcp_are_judged_as_such():
    """A gRPC method counts for gRPC alone, operations not at all for TCP."""
    rows = [
        row("/a.B/C", protocol="grpc", method="POST"),
        row("/a.B/C", method="POST"),
        row("", protocol="tcp", method=""),
    ]
    found = replay(rows, [], [policy("p", operations=(Operation(grpc_methods=("a.B/C",)),))])
    assert [each.protocol for each in found.changes] == ["http", "tcp"]


def test_the_mesh_s_own_health_checks_go_through():
    """A TrafficPolicy's probe is allowed where all else is denied, as at the proxy."""
    health = TrafficPolicy(Metadata("t", "demo"), TrafficPolicySpec("votes", health=HealthCheck(path="/healthz")))
    assert [each.path for each in replay([row("/healthz"), row("/x")], [health], [CLOSED]).changes] == ["/x"]


def test_what_cannot_be_judged_is_told():
    """What was not recorded one by one, and who would be asked."""
    asks = PolicyPluginSpec(NAMESPACE, authorizer=ExternalAuthorizer("opa"))
    found = replay([row(), row(protocol="(overflow)")], [], [PolicyPlugin(Metadata("opa", "demo"), asks)])
    assert found.requests == 5
    assert found.notes[0].startswith("5 requests were of too many kinds")
    assert found.notes[1] == "5 of these requests would be put to demo/opa, which is not asked here"


@pytest.mark.parametrize("domain", ["cluster.local", "our.domain"])
def test_the_trust_domain_is_that_of_the_callers(domain):
    """Identities of the mesh, whatever its trust domain is called, are identities here too."""
    web = WEB.replace("cluster.local", domain)
    assert replay([row(identity=web)], [], [policy("p", identities=("*",))]).changes == ()


PATHS = st.sampled_from(["/a", "/b/*", "/c/d", "/", "/%20"])
ROWS = st.lists(
    st.builds(
        row,
        PATHS,
        identity=st.sampled_from([WEB, LOAD]),
        method=st.sampled_from(["GET", "POST"]),
        protocol=st.sampled_from(["http", "http", "grpc", "tcp"]),
    ),
    min_size=1,
    max_size=15,
)


@settings(max_examples=100)
@given(ROWS)
def test_what_is_suggested_denies_nothing_that_was_seen(rows):
    """`suggest` and `test` agree: applied to an open mesh, its policies change nothing for who has an identity."""
    proposed = [each.policy for each in suggest(rows).policies]
    assert [each for each in replay(rows, [], proposed).changes if each.change == "denied"] == []


def test_policies_as_people_write_them_are_judged():
    """From YAML to the verdict."""
    text = """
apiVersion: conduit.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-writes, namespace: demo}
spec:
  target: {kind: Namespace}
  action: Deny
  from: [{namespaces: [demo]}]
  to: [{methods: [POST, DELETE], paths: [/polls/*]}]
"""
    proposed = [decode_resource(document) for document in load_documents(text, "new.yaml")]
    rows = [row("/polls/*", "/polls/1"), row("/polls/*", "/polls/1", method="POST", identity=LOAD)]
    assert told(replay(rows, [], proposed)) == [("denied", LOAD, "/polls/*", 5, False)]
