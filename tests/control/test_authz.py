"""Which policies hold for each service, with what they did."""

import msgspec
import pytest
import trio

from mesh.control.aggregate import Aggregate
from mesh.control.authz import AuthzApi
from mesh.control.cluster import Cluster, ServiceKey
from mesh.control.routes import Refusal, Request
from mesh.control.seen import SeenTraffic
from mesh.model.api import AuthzRow
from mesh.model.authorization import Action, Default, Operation, Source, Strictness
from mesh.model.reports import Seen, SeriesDelta, SeriesKey
from mesh.model.resources import (
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    DefaultPolicy,
    DefaultPolicySpec,
    ExternalAuthorizer,
    Metadata,
    PolicyPlugin,
    PolicyPluginSpec,
    Target,
    TargetKind,
    Workload,
    WorkloadSpec,
)

VOTES = ServiceKey("demo", "votes")
WEB = Source(identities=("web.demo.serviceaccount.identity.cluster.local",))
SERVICE = Target(TargetKind.SERVICE, "votes")


def workload(name, service):
    return Workload(Metadata(name, "demo"), WorkloadSpec(("x",), service=service, port="auto"))


def policy(name, target, action=Action.ALLOW, **spec):
    return AuthorizationPolicy(Metadata(name, "demo"), AuthorizationPolicySpec(target, action, **spec))


@pytest.fixture
async def mesh(autojump_clock):
    """votes of two workloads, words of one, and nothing said of either."""
    mesh = Cluster()
    mesh.set_file("w", [workload("votes-v1", "votes"), workload("votes-v2", "votes"), workload("words", "words")])
    mesh.seen, mesh.aggregate = SeenTraffic(), Aggregate(trio.current_time())
    return mesh


async def rows(mesh, **query):
    api = AuthzApi(mesh, mesh.aggregate, mesh.seen)
    answer = await api.get(Request("GET", "/api/v1/authz", query))
    return msgspec.json.decode(answer.body, type=list[AuthzRow])


async def table(mesh, **query):
    return [(row.service, row.policy, row.action, row.workloads) for row in await rows(mesh, **query)]


async def test_without_policies_the_default_holds(mesh, autojump_clock):
    """For each service that there is; it comes from nowhere."""
    name, both = "default:all-unauthenticated", ("votes-v1", "votes-v2")
    assert await table(mesh) == [("votes", name, "Default", both), ("words", name, "Default", ("words",))]
    [votes] = await rows(mesh, target="votes")
    assert (votes.mode, votes.default, votes.success_rate, votes.rps) == (
        *("permissive", "all-unauthenticated"),
        *(None, 0.0),
    )


async def test_policies_in_the_order_in_which_they_decide(mesh, autojump_clock):
    """With an Allow the default has nothing to say; each row tells for which workloads it holds."""
    v1 = Target(TargetKind.WORKLOAD, "votes-v1")
    mesh.set_file(
        "p",
        [
            policy("a-audit", SERVICE, Action.AUDIT),
            policy("b-allow", v1, sources=(WEB,)),
            policy("c-deny", SERVICE, Action.DENY, operations=(Operation(methods=("DELETE",)),)),
            DefaultPolicy(
                Metadata("d", "demo"),
                DefaultPolicySpec(
                    Target(TargetKind.NAMESPACE), inbound=Default.ALL_AUTHENTICATED, tls=Strictness.STRICT
                ),
            ),
            PolicyPlugin(
                Metadata("e", "demo"), PolicyPluginSpec(SERVICE, authorizer=ExternalAuthorizer("127.0.0.1:9"))
            ),
        ],
    )
    both = ("votes-v1", "votes-v2")
    assert await table(mesh, target="votes.demo") == [
        ("votes", "demo/c-deny", "Deny", both),
        ("votes", "demo/b-allow", "Allow", ("votes-v1",)),
        ("votes", "demo/d", "Default", ("votes-v2",)),
        ("votes", "demo/a-audit", "Audit", both),
        ("votes", "demo/e", "External", both),
    ]
    [row, *_] = await rows(mesh, target="words")
    assert (row.mode, row.default, row.policy) == ("strict", "all-authenticated", "demo/d")


async def test_a_workload_is_asked_about(mesh, autojump_clock):
    """What holds for others behind the same service is left out."""
    mesh.set_file("p", [policy("mine", Target(TargetKind.WORKLOAD, "votes-v1"))])
    assert await table(mesh, target="votes-v1") == [("votes", "demo/mine", "Allow", ("votes-v1",))]
    assert [row[1] for row in await table(mesh, target="votes-v2.demo")] == ["default:all-unauthenticated"]
    with pytest.raises(Refusal, match="there is no service or workload nobody"):
        await table(mesh, target="nobody")


async def test_counts_are_of_what_was_seen(mesh, autojump_clock):
    """By policy; of one that is gone too. Rate and success are those of the window."""
    mesh.set_file("p", [policy("allow", SERVICE)])
    seen = Seen("votes", WEB.identities[0], "", "http", "GET", "/a", "/a", True, "demo/allow", "demo/gone", 3)
    mesh.seen.add(VOTES, "votes-v1", seen)
    denied = msgspec.structs.replace(seen, identity="", source="10.0.0.1", allowed=False, audited="", count=2)
    mesh.seen.add(VOTES, "votes-v2", denied)
    mesh.seen.add(VOTES, "votes-v2", msgspec.structs.replace(denied, allowed=True, by="probe", count=7))
    for success, requests in ((True, 3), (False, 1)):
        key = SeriesKey("inbound", "votes", "", "http1", 200, -1, "completed", "", success, "true")
        delta = SeriesDelta(key, requests, 1.0, {0: requests})
        mesh.aggregate.add(trio.current_time(), ServiceKey("demo", "votes-v1"), 1.0, [delta], lambda name: VOTES)
    found = {row.policy: row for row in await rows(mesh, target="votes")}
    assert {name: (row.action, row.allowed, row.denied, row.audited) for name, row in found.items()} == {
        "demo/allow": ("Allow", 3, 2, 0),
        "demo/gone": ("gone", 0, 0, 3),
        "probe": ("probe", 7, 0, 0),
    }
    assert found["demo/allow"].success_rate == 0.75
    assert found["demo/allow"].rps > 0


async def test_it_is_a_route(plane):
    """Anybody with a token may look."""
    assert [row["service"] for row in await plane.get("/api/v1/authz")] == ["web", "words"]
