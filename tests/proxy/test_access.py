"""Policy in force: what a decision does to a request, to what is open, and to what leaves the mesh."""

from mesh.model.authorization import (
    Action,
    Authorization,
    Default,
    Destination,
    Egress,
    EgressRule,
    Operation,
    Rule,
    Source,
)
from mesh.proxy.access import connection_decision, exit_decision
from mesh.proxy.authorize import Compiled
from mesh.wire.codec import Request, Response
from mesh.wire.head import Head
from tests.proxy.playbook import OK, Stage

WEB = "web.demo.serviceaccount.identity.cluster.local"
STRANGER = "stranger.demo.serviceaccount.identity.cluster.local"
READERS = Rule("demo/readers", Action.ALLOW, (Source(identities=(WEB,)),), (Operation(methods=("GET",)),))
ONLY_READERS = Authorization(rules=(READERS,))
BY_PATH = Authorization(rules=(Rule("demo/no-admin", Action.DENY, (), (Operation(paths=("/admin/*",)),)),))


def guarded(authorization: Authorization | None, identity: str = WEB) -> Stage:
    """The proxy beside an application that has this policy; its client has proved `identity`."""
    stage = Stage(outbound=False)
    stage.downstream.identity = identity
    stage.update(authorization=authorization)
    return stage


def leaving(egress: Egress, authority: bytes = b"api.example.com") -> Stage:
    """A proxy beside a client that calls a host outside of the mesh, which the control plane does not know."""
    stage = Stage()
    stage.downstream.target = None
    stage.directory.ask = None
    stage.directory.follow(egress)
    stage.downstream.handle([Request(1, Head.request(b"GET", b"/", authority=authority), True)])
    return stage


def test_who_may_is_let_through() -> None:
    """An allowed request reaches the application, and the policy that allowed it is counted."""
    stage = guarded(ONLY_READERS)
    exchange = stage.ask()
    assert exchange is not None
    assert stage.asked() == [("request", 1, b"/", True)]
    stage.answer(Response(1, OK, True))
    assert stage.outcomes() == [("completed", 200, "")]
    assert stage.tallies("allowed") == {"demo/readers": 1}
    stage.settled()


def test_who_may_not_is_refused_and_told_by_which_policy() -> None:
    """A caller that is in the mesh gets a 403 that names the policy; the application hears nothing."""
    stage = guarded(ONLY_READERS)
    assert stage.ask(b"DELETE") is None
    assert stage.asked() == []
    assert stage.outcomes() == [("denied", 403, "denied")]
    told = next(command[2] for command in stage.said() if command[0] == "data")
    assert b"demo/readers" in told
    assert sum(stage.tallies("denied").values()) == 1


def test_strangers_are_not_told_which_policy_it_was() -> None:
    """Who has proved nothing learns nothing about the policies."""
    stage = guarded(ONLY_READERS, identity="")
    assert stage.ask() is None
    told = next(command[2] for command in stage.said() if command[0] == "data")
    assert b"demo/readers" not in told
    assert b"denied" in told


def test_grpc_is_told_in_its_own_words() -> None:
    """A call that may not be made ends with PERMISSION_DENIED."""
    stage = guarded(ONLY_READERS, identity=STRANGER)
    assert stage.ask(b"POST", b"/votes.Votes/Cast", grpc=True) is None
    assert stage.downstream.leg.codec.heads[1].get(b"grpc-status") == b"7"


def test_a_path_with_two_readings_is_refused_where_paths_matter() -> None:
    """`/x/../admin/` would be one path to us and another to the application; where no rule has paths it passes."""
    stage = guarded(BY_PATH)
    assert stage.ask(path=b"/x/../admin/users") is None
    assert stage.outcomes() == [("denied", 400, "ambiguous_path")]
    assert guarded(ONLY_READERS).ask(path=b"/x/../admin/users") is not None


def test_what_would_be_denied_is_only_noted_by_an_audit() -> None:
    """The default `audit` lets an unauthenticated caller through and counts it."""
    stage = guarded(Authorization(default=Default.AUDIT), identity="")
    assert stage.ask() is not None
    assert sum(stage.tallies("audited").values()) == 1


def test_open_requests_are_ended_when_the_policy_changes() -> None:
    """What is under way and would not be let in now is reset; what would be goes on."""
    stage = guarded(Authorization())
    reading, writing = stage.ask(), stage.ask(b"POST", end=False)
    assert reading is not None
    assert writing is not None
    stage.answer(Response(writing.up_stream, OK, False))
    stage.update(authorization=ONLY_READERS)
    assert list(stage.downstream.exchanges.values()) == [reading]
    assert ("reset", 3, 8) in stage.said()
    assert stage.outcomes() == [("denied", 200, "denied")]


def test_what_waits_for_a_connection_is_judged_again() -> None:
    """A request that has not been sent yet is refused when it may not be any more."""
    stage = Stage(connected=False, outbound=False)
    stage.downstream.identity = STRANGER
    stage.update(authorization=Authorization())
    assert stage.ask() is not None
    stage.update(authorization=ONLY_READERS)
    assert stage.outcomes() == [("denied", 403, "denied")]
    stage.settled()


def test_open_tunnels_are_judged_again() -> None:
    """A connection that is not HTTP is asked to look at the new policy."""
    stage = guarded(Authorization())
    asked = []

    class Tunnel:
        def reconsider(self) -> None:
            asked.append(True)

    stage.cluster.tunnels.add(Tunnel())
    stage.update(authorization=Authorization())
    assert asked == []
    stage.update(authorization=ONLY_READERS)
    assert asked == [True]


def test_a_policy_that_is_taken_away_holds_no_longer() -> None:
    """Without an authorization everybody may."""
    stage = guarded(ONLY_READERS, identity=STRANGER)
    assert stage.ask() is None
    stage.update(authorization=None)
    assert stage.ask() is not None


def test_a_connection_is_judged_by_who_makes_it() -> None:
    """TCP has no method: an Allow rule with operations does not let it in, one without does."""
    assert not connection_decision(Compiled(ONLY_READERS), WEB, "10.0.0.1:5").allowed
    anything = Authorization(rules=(Rule("demo/web", Action.ALLOW, (Source(identities=(WEB,)),)),))
    assert connection_decision(Compiled(anything), WEB, "10.0.0.1:5").allowed
    assert not connection_decision(Compiled(anything), STRANGER, "[::1]:5").allowed


def test_what_may_not_leave_the_mesh_is_refused_here() -> None:
    """A host that policy denies gets a 403 from the caller's own proxy, which names the policy."""
    deny = Egress(rules=(EgressRule("demo/no-api", Action.DENY, (Destination(hosts=("api.example.com",)),)),))
    stage = leaving(deny)
    assert stage.outcomes() == [("denied", 403, "denied")]
    assert b"demo/no-api" in next(command[2] for command in stage.said() if command[0] == "data")
    assert stage.tallies("denied") == {"demo/no-api": 1}


def test_without_an_egress_policy_everything_may_leave() -> None:
    """Nothing is judged, and nothing counted."""
    stage = leaving(Egress())
    assert len(stage.downstream.exchanges) == 1
    assert stage.tallies("allowed") == {}


def test_the_host_inside_a_connection_is_judged_as_well() -> None:
    """A connection to an allowed place may name another host inside (CONNECT, SNI): both must be allowed."""
    only = Egress(
        default=Action.DENY, rules=(EgressRule("demo/api", Action.ALLOW, (Destination(hosts=("api.example.com",)),)),)
    )
    stage = leaving(only)
    (cluster,) = stage.directory.outside.values()
    assert exit_decision(cluster, stage.directory, "api.example.com").allowed
    assert not exit_decision(cluster, stage.directory, "evil.example.net").allowed


def test_egress_that_is_closed_ends_what_is_open() -> None:
    """A request that is under way to a host which is denied now is ended."""
    stage = leaving(Egress())
    (cluster,) = stage.directory.outside.values()
    stage.connect(cluster.endpoints[0])
    assert len(stage.downstream.exchanges) == 1
    stage.directory.follow(Egress(default=Action.DENY))
    assert stage.downstream.exchanges == {}
    assert stage.outcomes() == [("denied", 403, "denied")]


def test_a_connection_serves_the_host_that_it_was_opened_for() -> None:
    """Where TLS was asked for by another name, the request is misdirected (RFC 9110 section 15.5.20)."""
    stage = Stage(outbound=False)
    stage.downstream.sni = "shop.example.com"
    assert stage.ask() is None
    assert stage.codec.heads[1].status == 421
    stage.downstream.sni = "votes"
    assert stage.ask() is not None
