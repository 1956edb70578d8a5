"""What a proxy says it would do with a request: it agrees with what it then does, and asking leaves no trace."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mesh.model.authorization import (
    Action,
    Authorization,
    Authorizer,
    Default,
    Destination,
    Egress,
    EgressRule,
    Operation,
    Rule,
    Source,
    Strictness,
)
from mesh.model.config import Endpoint, Service, Timeouts
from mesh.model.explain import Question, Step, verdict
from mesh.model.identity import parse
from mesh.model.traffic import (
    Abort,
    Backend,
    Balancing,
    BalancingKind,
    Concurrency,
    Edits,
    FieldMatch,
    HashOn,
    Injection,
    LimitBy,
    Match,
    Mirror,
    PathEdit,
    PathMatch,
    RateLimit,
    Redirect,
    Retry,
    Rewrite,
    Route,
    Traffic,
)
from mesh.proxy.credentials import Credentials
from mesh.proxy.explain import Explainer
from tests.proxy.access_table import ASKINGS, CALLERS, CASES, Asking, Caller, Case
from tests.proxy.playbook import Stage

WEB = "web.demo.serviceaccount.identity.cluster.local"
ONLY_WEB = Rule("demo/only-web", sources=(Source(identities=(WEB,)),), operations=(Operation(methods=("GET",)),))


def ask(play: Stage, **question: object) -> tuple[Step, ...]:
    """The steps for a request to votes, by the application here."""
    asked = Question("outbound", "votes")
    return Explainer(play.directory).explain(replace(asked, **question))


def arrive(play: Stage, identity: str = "", **question: object) -> tuple[Step, ...]:
    """The steps for a request that reaches the application here."""
    asked = Question("inbound", "votes", identity=identity)
    return Explainer(play.directory).explain(replace(asked, **question))


def outcomes(steps: tuple[Step, ...]) -> list[tuple[str, str]]:
    return [(step.stage, step.outcome) for step in steps]


def of(steps: tuple[Step, ...], stage: str) -> list[Step]:
    return [step for step in steps if step.stage == stage]


def beside(authorization: Authorization | None = None, traffic: Traffic | None = None) -> Stage:
    """The inbound side of a proxy whose application is votes."""
    play = Stage(outbound=False, traffic=traffic)
    play.directory.inbound["votes"] = [play.cluster]
    if authorization is not None:
        play.update(authorization=authorization)
    return play


# --- what is called -----------------------------------------------------------------------


def test_a_request_that_nothing_speaks_about() -> None:
    """Name, endpoint, TLS, end; the endpoint with its state and load."""
    steps = ask(Stage())
    assert outcomes(steps) == [("name", "found"), ("endpoint", "chosen"), ("tls", "plain"), ("end", "sent")]
    assert verdict(steps) == "allowed"
    [endpoint] = of(steps, "endpoint")
    assert endpoint.address == "10.0.0.1:80"
    assert "in use, 0 in hand" in endpoint.detail


def test_a_name_that_nobody_has_called_is_asked_of_the_control_plane() -> None:
    """As the first request would, once; then it is known, or outside of the mesh."""
    play = Stage()
    for _ in range(2):
        steps = ask(play, authority="words:80")
        assert outcomes(steps) == [("name", "asked")]
        assert verdict(steps) == "refused"
    assert play.asked_for == ["words"]
    play.directory.apply("words", Service("words", (Endpoint("10.0.0.9:80"),), namespace="demo"))
    assert of(ask(play, authority="words"), "endpoint")[0].address == "10.0.0.9:80"
    assert "in demo" in ask(play, authority="words")[0].detail


@pytest.mark.parametrize(("authority", "outcome"), [("a@b", "unknown_authority"), ("127.0.0.1:4140", "loop")])
def test_what_is_no_destination(authority: str, outcome: str) -> None:
    """Refused by its name alone."""
    play = Stage()
    play.directory.own.add("127.0.0.1:4140")
    steps = ask(play, authority=authority)
    assert outcomes(steps) == [("name", outcome)]
    assert verdict(steps) == "refused"


def test_outside_of_the_mesh_the_egress_policy_decides() -> None:
    """Without making a cluster of what is only asked about."""
    play = Stage()
    play.directory.apply("example.com", None)
    steps = ask(play, authority="example.com")
    assert outcomes(steps) == [("name", "outside"), ("endpoint", "chosen"), ("end", "sent")]
    assert play.directory.outside == {}
    rule = EgressRule("demo/no-example", Action.DENY, (Destination(hosts=("example.com",)),))
    play.directory.follow(Egress(default=Action.DENY, rules=(rule,)))
    denied = ask(play, authority="example.com", protocol="tcp")
    assert outcomes(denied) == [("name", "outside"), ("egress", "denied")]
    assert verdict(denied) == "denied"
    assert denied[-1].by != ""


# --- what its policies do -----------------------------------------------------------------


def routed(*backends: Backend, **rest: object) -> Traffic:
    return Traffic(routed=True, routes=(Route("r/0", Match(path=PathMatch("/a")), backends, **rest),))


def test_routes_lead_to_backends_and_the_heaviest_is_followed() -> None:
    """The share of each is told, and the head as it is sent goes onward."""
    rewrite = Rewrite(path=PathEdit(prefix="/b"))
    edits = Edits(set=(("x-by", "route"),))
    traffic = routed(
        Backend("v1", 1), Backend("v2", 3), rewrite=rewrite, request=edits, mirrors=(Mirror("copy", 5.0),), timeout=2.0
    )
    play = Stage(traffic=traffic, others={"v1": 1, "v2": 1})
    play.directory.services["v2"].update(Service("v2", (Endpoint("10.0.2.1:80", meshed=True),)))
    steps = ask(play, path="/a/x?q=1", protocol="grpc")
    assert outcomes(steps) == [
        *[("name", "found"), ("route", "matched"), ("timeout", "bounded")],
        *[("backend", "other"), ("backend", "likeliest"), ("backend", "mirrored")],
        *[("name", "found"), ("route", "rewritten"), ("endpoint", "chosen"), ("tls", "plain"), ("end", "sent")],
    ]
    assert "75 %" in of(steps, "backend")[1].detail
    onward = of(steps, "endpoint")[0].onward
    assert onward is not None
    assert (onward.direction, onward.path, onward.method) == ("inbound", "/b/x?q=1", "POST")
    assert ("x-by", "route") in onward.headers
    assert ask(play, path="/c")[-1].outcome == "no_route"


def test_a_redirect_is_an_answer() -> None:
    """Nothing goes to an endpoint, and nothing was refused."""
    steps = ask(Stage(traffic=routed(redirect=Redirect(hostname="other"))), path="/a")
    assert outcomes(steps)[-1] == ("end", "redirected")
    assert "http://other/a" in steps[-1].detail
    assert verdict(steps) == "allowed"


def test_retries_are_told_as_the_policy_means_this_request() -> None:
    """Whether it repeats such a method."""
    play = Stage(traffic=Traffic(retry=Retry(attempts=2)), timeouts=Timeouts(request=1.0, backend_request=0.2))
    assert of(ask(play), "retry")[0].outcome == "repeatable"
    assert of(ask(play, method="POST"), "retry")[0].outcome == "once"
    assert of(ask(play), "timeout")[0].detail == "1 s in all, 0.2 s for each try"
    assert "as the caller asks" in of(ask(play, headers=(("conduit-timeout-ms", "50"),)), "timeout")[0].detail
    assert ask(play, headers=(("conduit-timeout-ms", "0"),))[-1].outcome == "timeout"


def test_faults_are_told_with_their_share() -> None:
    """Only what strikes every request decides."""
    match = Match(headers=(FieldMatch("x", "1"),))
    faults = (
        Injection("slow", percent=10.0, delay=0.5),
        Injection("broken", match, abort=Abort(503)),
        Injection("over", until=1.0, abort=Abort()),
    )
    play = Stage(traffic=Traffic(faults=faults))
    steps = ask(play)
    assert outcomes(steps)[1] == ("fault", "may_strike")
    assert verdict(steps) == "allowed"
    steps = ask(play, headers=(("X", "1"),))
    assert [step.by for step in of(steps, "fault")] == ["slow", "broken"]
    assert verdict(steps) == "refused"


def test_a_key_that_is_hashed_names_the_endpoint() -> None:
    """It is the one that the request gets; without a key it is drawn."""
    balancing = Balancing(BalancingKind.HASH, hash=HashOn(header="x-user"))
    play = Stage(4, connected=False, traffic=Traffic(balancing=balancing))
    for user in ("ann", "bob", "cyd"):
        chosen = of(ask(play, headers=(("x-user", user),)), "endpoint")[0]
        assert chosen.outcome == "chosen"
        before = {one: one.load.pending for one in play.endpoints}
        play.ask(fields=((b"x-user", user.encode()),))
        [got] = [one for one in play.endpoints if one.load.pending != before[one]]
        assert got.address == chosen.address
    drawn = of(ask(play), "endpoint")
    assert [step.outcome for step in drawn] == [*["candidate"] * 4, "drawn"]


def test_endpoints_that_are_not_used_are_told_with_the_reason() -> None:
    """Last, and without an address to be asked at."""
    play = Stage(3, connected=False)
    play.update(endpoints=(*play.cluster.spec.endpoints[:2], replace(play.cluster.spec.endpoints[2], weight=0)))
    play.endpoints[0].to_dial.append(True)
    play.endpoints[0].dialling += 1
    play.refuse(play.endpoints[0])
    steps = of(ask(play), "endpoint")
    assert [step.outcome for step in steps] == ["chosen", "passed_over", "passed_over"]
    assert "down (Connection refused)" in steps[1].detail
    assert "weight 0" in steps[2].detail
    assert [step.address for step in steps] == ["10.0.0.2:80", "", ""]
    play.update(endpoints=())
    assert ask(play)[-1].outcome == "no_endpoints"


# --- who may call -------------------------------------------------------------------------


def test_without_policy_everybody_may() -> None:
    """And it says so."""
    steps = arrive(beside())
    assert outcomes(steps) == [("tls", "plain"), ("policy", "allowed"), ("end", "served")]


def test_policy_decides_and_is_named() -> None:
    """As the judge says it, for an identity and for nobody."""
    play = beside(Authorization(rules=(ONLY_WEB,)))
    allowed = arrive(play, WEB)
    assert outcomes(allowed) == [("tls", "mutual"), ("policy", "allowed"), ("end", "served")]
    assert allowed[1].by == "demo/only-web"
    for denied in (arrive(play), arrive(play, WEB, method="POST")):
        assert outcomes(denied)[-1] == ("policy", "denied")
        assert verdict(denied) == "denied"
        assert denied[-1].by


def test_strict_listeners_take_no_plain_text() -> None:
    """Before any rule is asked."""
    play = beside(Authorization(strictness=Strictness.STRICT))
    assert outcomes(arrive(play)) == [("tls", "plain_text")]
    assert verdict(arrive(play)) == "denied"
    assert verdict(arrive(play, WEB)) == "allowed"


def test_who_is_of_another_mesh_is_not_listened_to() -> None:
    """Whatever it proves, it is no peer of ours."""
    play = beside()
    who = parse(WEB)
    assert who is not None
    play.cluster.shared = play.cluster.shared._replace(credentials=Credentials(who, log=lambda *words: None))
    steps = arrive(play, "web.demo.serviceaccount.identity.other")
    assert outcomes(steps) == [("tls", "wrong_trust_domain")]
    assert verdict(steps) == "denied"
    assert verdict(arrive(play, WEB)) == "allowed"


def test_audited_requests_pass_and_are_noted() -> None:
    """A step of its own, before the one that lets it through."""
    steps = arrive(beside(Authorization(default=Default.AUDIT)))
    assert outcomes(steps) == [("tls", "plain"), ("policy", "audited"), ("policy", "allowed"), ("end", "served")]


def test_a_path_with_two_readings_is_refused_where_rules_go_by_paths() -> None:
    """As it is on the wire, before it is judged."""
    rule = Rule("demo/paths", operations=(Operation(paths=("/open/*",)),))
    play = beside(Authorization(rules=(rule,)))
    assert verdict(arrive(play, path="/open/a")) == "allowed"
    assert outcomes(arrive(play, path="/open/..%2fsecret"))[-1] == ("policy", "ambiguous_path")


def test_authorisers_that_would_be_asked_are_told() -> None:
    """They are not asked: what they say is not known here."""
    one = Authorizer("demo/outside", "authz.demo", fail_open=True)
    steps = arrive(beside(Authorization(authorizers=(one,))))
    assert [(step.outcome, step.by) for step in of(steps, "authorizer")] == [("asked", "demo/outside")]


def test_a_proxy_without_application_serves_nothing() -> None:
    """It has no inbound listener to reach."""
    assert outcomes(arrive(Stage())) == [("name", "not_served")]


def test_limits_beside_the_application() -> None:
    """After policy, by the client's identity where it has one; no token is taken."""
    traffic = Traffic(rate_limits=(RateLimit(1.0, by=LimitBy.CLIENT),), concurrency=Concurrency(most=1))
    play = beside(traffic=traffic)
    for _ in range(3):
        assert [step.outcome for step in of(arrive(play), "limit")] == ["within", "within"]
    play.ask()
    assert of(arrive(play), "limit")[-1].outcome == "rate_limited"
    assert of(arrive(play, WEB), "limit")[-1].outcome == "over_concurrency"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_agrees_with_the_table(case: Case) -> None:
    """Of what must be decided: allowed or not, by which policy, noted by which; and requests that are made fare so."""
    play = beside(case.authorization())
    for row in case.rows:
        caller, asking = CALLERS[row.caller], ASKINGS[row.asking]
        request = {"method": asking.method, "path": asking.path, "protocol": asking.protocol}
        steps = arrive(play, caller.identity, source=caller.address, **request)
        assert verdict(steps) == ("allowed" if row.allowed else "denied"), row
        policy = of(steps, "policy")
        assert [step.by for step in policy if step.outcome == "audited"] == ([row.audited] if row.audited else []), row
        assert (policy[-1].outcome, policy[-1].by) == ("allowed" if row.allowed else "denied", row.by), row
        if asking.protocol != "tcp":
            assert passes(play, caller, asking) is row.allowed, row


def passes(play: Stage, caller: Caller, asking: Asking) -> bool:
    """Whether such a request is sent to the application."""
    downstream = play.downstream
    downstream.identity, downstream.address = caller.identity, caller.address
    downstream.judge = downstream.judged = None
    exchange = play.ask(asking.method.encode(), asking.path.encode(), grpc=asking.protocol == "grpc")
    return exchange is not None


# --- it agrees with what is done ----------------------------------------------------------

BACKENDS = [(), (Backend("v1"),), (Backend("v1", problem="is gone"),), (Backend("", 2), Backend("v1", 0))]
TRAFFIC = st.builds(
    Traffic,
    routed=st.booleans(),
    routes=st.lists(
        st.builds(
            Route,
            st.just("r/0"),
            st.sampled_from([Match(), Match(path=PathMatch("/a")), Match(method="POST")]),
            st.sampled_from(BACKENDS),
            redirect=st.sampled_from([None, None, Redirect(hostname="other")]),
        ),
        max_size=2,
    ).map(tuple),
    rate_limits=st.sampled_from([(), (RateLimit(1.0),), (RateLimit(1.0, match=Match(method="POST")),)]),
    concurrency=st.sampled_from([None, Concurrency(most=1)]),
    faults=st.sampled_from([(), (Injection("f", Match(path=PathMatch("/a")), abort=Abort(599)),)]),
)
RULES = st.lists(
    st.builds(
        Rule,
        st.sampled_from(["demo/a", "demo/b"]),
        st.sampled_from(Action),
        st.sampled_from([(), (Source(identities=(WEB,)),), (Source(networks=("127.0.0.0/8",)),)]),
        st.sampled_from([(), (Operation(methods=("GET",)),), (Operation(paths=("/a",)),)]),
    ),
    max_size=3,
).map(tuple)


@settings(max_examples=150, deadline=None)
@given(TRAFFIC, RULES, st.sampled_from(Default), st.booleans(), st.data())
def test_it_agrees_with_what_is_done(
    traffic: Traffic, rules: tuple[Rule, ...], default: Default, outbound: bool, data: st.DataObject
) -> None:
    """For any policy and any requests one after the other, the step that ends it is the error that the client gets."""
    play = Stage(traffic=traffic, outbound=outbound, others={"v1": 1})
    play.codec.acknowledge = lambda stream, amount: None
    identity = data.draw(st.sampled_from(["", WEB]))
    play.downstream.identity = identity
    if not outbound:
        play.directory.inbound["votes"] = [play.cluster]
        play.update(authorization=Authorization(default=default, rules=rules))
    for _ in range(3):
        method, path = data.draw(st.sampled_from(["GET", "POST"])), data.draw(st.sampled_from(["/", "/a", "/a/%2e"]))
        direction = "outbound" if outbound else "inbound"
        steps = Explainer(play.directory).explain(Question(direction, "votes", method, path, identity=identity))
        assert steps == Explainer(play.directory).explain(Question(direction, "votes", method, path, identity=identity))
        before = {id(one): one.requests for one in play.reports.series}
        exchange = play.ask(method.encode(), path.encode())
        grown = [one.key for one in play.reports.series if one.requests != before.get(id(one), 0)]
        ending = next((step for step in steps if step.verdict), None)
        if ending is not None:
            assert exchange is None
            assert [key.error for key in grown] == [ending.outcome]
        elif steps[-1].outcome == "redirected":
            assert [key.status for key in grown] == [302]
        else:
            assert exchange is not None
