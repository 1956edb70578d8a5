"""Requests wait for external authorisers, one after another, and what those say is done; all times by a number."""

from __future__ import annotations

import msgspec
import pytest
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3 import external_auth_pb2 as pb

from mesh.model.authorization import Authorization, Authorizer, Default, Operation
from mesh.model.config import Service
from mesh.model.traffic import Concurrency, Traffic
from mesh.proxy import inquiry
from mesh.proxy.ext_authz import PATH, framed
from mesh.proxy.inquiry import Answers
from mesh.proxy.upstream import Upstream
from mesh.wire.codec import Broken, Data, GoAway, Informational, Refused, Reset, Response, Trailers
from mesh.wire.head import Head
from tests.proxy.playbook import LATE, LIMITS, OK, Stage

GUARD = Authorizer("demo/guard", "opa", timeout=0.25)
SECOND = Authorizer("demo/second", "extra", timeout=0.5)
YES = pb.CheckResponse()
NO = pb.CheckResponse(status={"code": 7})
CALL = Head.response(200, [(b"content-type", b"application/grpc")])
GOOD = ((b"grpc-status", b"0"),)


def stage(*authorizers: Authorizer, client: str = "http2", traffic: Traffic | None = None) -> Stage:
    """An application behind its proxy, with authorisers `opa` and `extra`, whose connections are `guard` and
    `second`."""
    play = Stage(outbound=False, client=client, others={"opa": 1, "extra": 1}, traffic=traffic)
    play.update(authorization=Authorization(authorizers=authorizers or (GUARD,)))
    play.guard = play.connect(play.directory.services["opa"].endpoints[0])
    play.second = play.connect(play.directory.services["extra"].endpoints[0])
    return play


def say(play: Stage, answer: pb.CheckResponse, upstream: Upstream | None = None, **metadata: str) -> None:
    """The authoriser answers its latest question."""
    upstream = upstream or play.guard
    stream = upstream.leg.codec.next - 2
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in metadata.items()]
    head = Head.response(200, [(b"content-type", b"application/grpc"), *fields])
    play.hear(upstream, Response(stream, head, False), Data(stream, framed(answer), False), Trailers(stream, GOOD))


def questions(upstream: Upstream) -> list[pb.CheckRequest]:
    """What was asked since the last time."""
    told = [one[2] for one in upstream.leg.codec.take_commands() if one[0] == "data"]
    return [pb.CheckRequest.FromString(data[5:]) for data in told]


def headers(answer: dict[str, str], **rest: object) -> pb.CheckResponse:
    options = [HeaderValueOption(header=HeaderValue(key=key, value=value)) for key, value in answer.items()]
    return pb.CheckResponse(ok_response=pb.OkHttpResponse(headers=options, **rest))


# --- yes and no ------------------------------------------------------------------------------------------------------


def test_the_application_gets_what_the_authoriser_allows() -> None:
    """The request waits until it is answered, then goes on; the call is gRPC with the authoriser's time on it."""
    play = stage()
    play.ask(b"GET", b"/a")
    assert play.asked() == []
    call = play.guard.leg.codec.heads[1]
    assert (call.method, call.path, call.authority) == (b"POST", PATH, b"opa")
    assert call.get(b"te") == b"trailers"
    assert call.get(b"grpc-timeout") == b"250000u"
    (question,) = questions(play.guard)
    assert question.attributes.request.http.path == "/a"
    assert question.attributes.destination.service == "votes"
    say(play, YES)
    assert play.asked() == [("request", 1, b"/a", True)]
    play.answer(Response(1, OK, True))
    assert play.outcomes() == [("completed", 200, "")]
    assert play.tallies("authorizer") == {"allowed": 1}
    play.settled()


def test_the_application_never_sees_what_is_denied() -> None:
    """The client gets the status; a stranger is not told who has denied it."""
    play = stage()
    play.ask()
    say(play, NO)
    assert play.asked() == []
    assert play.said() == [("response", 1, 403, False), ("data", 1, b"service votes: denied\n", True)]
    assert play.outcomes() == [("denied", 403, "denied")]
    assert play.tallies("authorizer") == {"denied": 1}
    assert play.tallies("denied") == {"demo/guard": 1}
    play.settled()


def test_who_has_an_identity_is_told_who_denies() -> None:
    """As with any policy."""
    play = stage()
    play.downstream.identity = "web.demo.serviceaccount.identity.cluster.local"
    play.ask()
    say(play, NO)
    assert play.said()[-1] == ("data", 1, b"service votes: denied by demo/guard\n", True)


def test_a_denial_in_words() -> None:
    """Status, headers and body are the authoriser's."""
    play = stage()
    option = HeaderValueOption(header=HeaderValue(key="www-authenticate", value="Basic"))
    denied = pb.DeniedHttpResponse(status={"code": 401}, headers=[option], body="who?")
    play.ask()
    say(play, pb.CheckResponse(status={"code": 16}, denied_response=denied))
    assert play.said() == [("response", 1, 401, False), ("data", 1, b"who?", True)]
    assert play.codec.heads[1].get(b"www-authenticate") == b"Basic"
    assert play.outcomes() == [("denied", 401, "denied")]


def test_a_denied_call() -> None:
    """A gRPC client gets a gRPC status, in trailers only."""
    play = stage()
    play.ask(b"POST", grpc=True)
    say(play, NO)
    assert play.said() == [("response", 1, 200, True)]
    assert play.codec.heads[1].get(b"grpc-status") == b"7"
    assert [one.key.grpc_status for one in play.reports.series] == [7]


def test_a_head_request_is_denied_without_a_body() -> None:
    """RFC 9110 section 9.3.2."""
    play = stage()
    play.ask(b"HEAD")
    say(play, NO)
    assert play.said() == [("response", 1, 403, True)]


def test_what_the_authoriser_has_the_application_told() -> None:
    """Headers replace the client's own, or go away; the answer gets some, too."""
    play = stage()
    play.ask(fields=[(b"x-user", b"root"), (b"x-secret", b"1")])
    option = HeaderValueOption(header=HeaderValue(key="x-seen", value="yes"))
    say(play, headers({"x-user": "alice"}, headers_to_remove=["x-secret"], response_headers_to_add=[option]))
    sent = play.up.leg.codec.heads[1]
    assert sent.get_all(b"x-user") == [b"alice"]
    assert sent.get(b"x-secret") is None
    play.answer(Response(1, Head.response(200, [(b"x-seen", b"before")]), True))
    assert play.codec.heads[1].get_all(b"x-seen") == [b"before", b"yes"]


def test_named_headers_are_told_alone() -> None:
    """Nothing else leaves the proxy."""
    play = stage(Authorizer("demo/guard", "opa", headers=("x-user",)))
    play.ask(fields=[(b"x-user", b"alice"), (b"authorization", b"secret")])
    (question,) = questions(play.guard)
    assert dict(question.attributes.request.http.headers) == {"x-user": "alice"}


def test_body_waits_with_its_request() -> None:
    """What comes meanwhile is kept unacknowledged, and sent once it may be."""
    play = stage()
    play.ask(b"POST", end=False)
    play.downstream.handle([Data(1, b"ab", False)])
    assert play.codec.acknowledged[1] == 0
    say(play, YES)
    assert play.asked() == [("request", 1, b"/", False), ("data", 1, b"ab", False)]
    assert play.codec.acknowledged[1] == 2
    play.downstream.handle([Data(1, b"c", True)])
    play.answer(Response(1, OK, True))
    assert play.outcomes() == [("completed", 200, "")]
    play.settled()


def test_limits_come_after_the_authoriser() -> None:
    """A request that waits for leave takes no room in a limit; what it is told by then still holds."""
    play = stage(traffic=Traffic(concurrency=Concurrency(most=1)))
    play.ask()
    assert play.cluster.plan.gate.in_hand == 0
    say(play, headers({"x-user": "alice"}))
    assert play.cluster.plan.gate.in_hand == 1
    assert play.up.leg.codec.heads[1].get(b"x-user") == b"alice"
    play.answer(Response(1, OK, True))
    play.settled()


# --- several ---------------------------------------------------------------------------------------------------------


def test_one_after_another() -> None:
    """The second is asked when the first has said yes, about the request as that one wants it."""
    play = stage(GUARD, Authorizer("demo/second", "extra", headers=("x-user",)))
    play.ask()
    assert questions(play.second) == []
    say(play, headers({"x-user": "alice"}))
    (question,) = questions(play.second)
    assert dict(question.attributes.request.http.headers) == {"x-user": "alice"}
    assert play.asked() == []
    say(play, headers({"x-role": "admin"}), play.second)
    sent = play.up.leg.codec.heads[1]
    assert (sent.get(b"x-user"), sent.get(b"x-role")) == (b"alice", b"admin")
    assert play.tallies("authorizer") == {"allowed": 2}
    play.answer(Response(1, OK, True))
    play.settled()


def test_the_first_no_ends_it() -> None:
    """Nobody else is asked."""
    play = stage(GUARD, SECOND)
    play.ask()
    say(play, NO)
    assert questions(play.second) == []
    assert play.outcomes() == [("denied", 403, "denied")]
    play.settled()


def test_each_has_its_own_time() -> None:
    """The second one's begins when it is asked."""
    play = stage(GUARD, SECOND)
    play.ask()
    play.pass_time(0.2)
    say(play, YES)
    play.pass_time(0.4)
    assert play.said() == []
    play.pass_time(0.1 + LATE)
    assert play.outcomes() == [("failed", 503, "authorizer_failed")]
    play.settled()


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_silence_fails_closed() -> None:
    """In the authoriser's time, not before; the call is given up, and the error names authoriser and cause."""
    play = stage()
    play.ask()
    play.pass_time(0.24)
    assert play.said() == []
    play.guard.leg.codec.take_commands()
    play.pass_time(0.01 + LATE)
    assert play.guard.leg.codec.take_commands() == [("reset", 1, 8)]
    words = play.said()[-1][2].decode()
    assert "demo/guard (opa)" in words
    assert "no answer within 0.25 s" in words
    assert play.codec.heads[1].get(b"conduit-error") == b"authorizer_failed"
    assert play.outcomes() == [("failed", 503, "authorizer_failed")]
    assert play.tallies("authorizer") == {"failed": 1}
    assert play.directory.services["opa"].endpoints[0].last_cause == "no answer in time"
    play.settled()


def test_a_call_that_cannot_be_decided() -> None:
    """Is UNAVAILABLE to a gRPC client."""
    play = stage()
    play.ask(b"POST", grpc=True)
    play.pass_time(0.25 + LATE)
    assert play.codec.heads[1].get(b"grpc-status") == b"14"
    play.settled()


BROKEN = {
    "status 404": (Response(1, Head.response(404), True),),
    "status 500": (Response(1, Head.response(500), False), Data(1, b"oops", True)),
    "no gRPC": (Response(1, Head.response(200, [(b"content-type", b"text/html")]), False),),
    "no type": (Response(1, OK, True),),
    "grpc-status 13: oh": (Response(1, CALL, False), Trailers(1, ((b"grpc-status", b"13"), (b"grpc-message", b"oh")))),
    "grpc-status 12": (
        Response(1, Head.response(200, [(b"content-type", b"application/grpc"), (b"grpc-status", b"12")]), True),
    ),
    "no answer within 0.25 s": (Response(1, CALL, False), Trailers(1, ((b"grpc-status", b"4"),))),
    "grpc-status 2": (Response(1, CALL, False), Trailers(1, ())),
    "no grpc-status": (Response(1, CALL, False), Data(1, framed(YES), True)),
    "not one gRPC message": (Response(1, CALL, False), Trailers(1, GOOD)),
    "not a CheckResponse": (
        Response(1, CALL, False),
        Data(1, b"\0\0\0\0\2\xff\xff", False),
        Trailers(1, GOOD),
    ),
    "longer than 65536 bytes": (Response(1, CALL, False), Data(1, b"x" * 65537, False)),
    "malformed answer: field_value": (Refused(1, "field_value"),),
    "gone": (Response(1, CALL, False), Reset(1, 2, False, "gone")),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_makes_no_sense_fails_closed(what: str) -> None:
    """Each cause is named, and nothing is left of the call."""
    play = stage()
    play.ask()
    for event in BROKEN[what]:
        play.hear(play.guard, event)
        if isinstance(event, Refused | Reset):
            play.guard.leg.codec.gone(1)
    assert what in play.said()[-1][2].decode()
    assert play.asked() == []
    assert play.outcomes() == [("failed", 503, "authorizer_failed")]
    assert play.tallies("authorizer") == {"failed": 1}
    play.settled()


@pytest.mark.parametrize("what", BROKEN)
def test_or_open_if_the_policy_says_so(what: str) -> None:
    """The request goes on as it was, and is counted."""
    play = stage(Authorizer("demo/guard", "opa", fail_open=True))
    play.ask()
    for event in BROKEN[what]:
        play.hear(play.guard, event)
        if isinstance(event, Refused | Reset):
            play.guard.leg.codec.gone(1)
    assert play.asked() == [("request", 1, b"/", True)]
    assert play.tallies("authorizer") == {"open": 1}
    play.answer(Response(1, OK, True))
    assert play.outcomes() == [("completed", 200, "")]
    play.settled()


def test_open_after_silence() -> None:
    """The call is given up, and the request goes on."""
    play = stage(Authorizer("demo/guard", "opa", timeout=0.1, fail_open=True))
    play.ask()
    play.pass_time(0.1 + LATE)
    assert play.guard.leg.codec.take_commands()[-1] == ("reset", 1, 8)
    play.answer(Response(1, OK, True))
    assert play.outcomes() == [("completed", 200, "")]
    play.settled()


def test_a_hasty_client_does_not_open_it() -> None:
    """Its deadline ends its request; the authoriser's time is told as it is, so that it does not give up early."""
    play = stage(Authorizer("demo/guard", "opa", timeout=0.5, fail_open=True))
    play.ask(b"POST", fields=[(b"grpc-timeout", b"100m")], grpc=True)
    assert play.guard.leg.codec.heads[1].get(b"grpc-timeout") == b"500000u"
    play.pass_time(0.1 + LATE)
    assert play.asked() == []
    assert play.outcomes() == [("expired", 200, "timeout")]
    play.settled()


def test_an_authoriser_that_refuses_connections() -> None:
    """Fails at once."""
    play = Stage(outbound=False, others={"opa": 1})
    play.update(authorization=Authorization(authorizers=(GUARD,)))
    play.ask()
    play.refuse(play.directory.services["opa"].endpoints[0])
    assert "endpoint 10.0.0.100:80: Connection refused" in play.said()[-1][2].decode()
    assert play.outcomes() == [("failed", 503, "authorizer_failed")]
    play.settled()


@pytest.mark.parametrize("fail_open", [False, True])
def test_no_room_for_a_question(fail_open: bool) -> None:
    """A queue that is full fails a question before anything waits for it."""
    limits = msgspec.structs.replace(LIMITS, pending_requests=1)
    play = Stage(outbound=False, others={"opa": 1}, limits=limits)
    play.update(authorization=Authorization(authorizers=(Authorizer("demo/guard", "opa", fail_open=fail_open),)))
    first, second = play.ask(), play.ask()
    assert first is not None
    assert play.tallies("authorizer") == ({"open": 1} if fail_open else {"failed": 1})
    assert (second is None) is not fail_open
    if not fail_open:
        assert "wait for a connection already" in play.said()[-1][2].decode()


def test_a_service_that_nobody_knows() -> None:
    """What cannot be a service, or is this proxy itself, fails at once."""
    play = stage(Authorizer("demo/guard", "a b@c"))
    play.ask()
    assert "user information" in play.said()[-1][2].decode()
    play.update(authorization=Authorization(authorizers=(Authorizer("demo/guard", "127.0.0.1:4141"),)))
    play.directory.own.add("127.0.0.1:4141")
    play.ask()
    assert "is this proxy itself" in play.said()[-1][2].decode()
    assert play.tallies("authorizer") == {"failed": 2}
    play.settled()


def test_nobody_says_where_the_authoriser_is() -> None:
    """A service that the control plane has not told of yet is waited for, no longer than the authoriser's time."""
    play = stage(Authorizer("demo/guard", "later"))
    play.directory.ask = play.asked_for.append
    play.ask()
    assert play.asked_for == ["later"]
    play.pass_time(0.25 + LATE)
    assert play.outcomes() == [("failed", 503, "authorizer_failed")]
    play.settled()


def test_a_service_that_is_not_of_the_mesh() -> None:
    """The control plane's word ends the wait."""
    play = stage(Authorizer("demo/guard", "later"))
    play.directory.ask = play.asked_for.append
    play.ask()
    play.directory.apply("later", None)
    assert "later is no service of the mesh" in play.said()[-1][2].decode()
    play.settled()


def test_an_address_is_asked_directly() -> None:
    """In HTTP/2 with prior knowledge, whatever the client speaks."""
    play = stage(Authorizer("demo/guard", "127.0.0.1:9191"), client="http1")
    play.ask()
    endpoint = play.directory.outside["127.0.0.1:9191"].endpoints[0]
    assert endpoint.to_dial == [True]
    guard = play.connect(endpoint)
    assert guard.leg.codec.heads[1].authority == b"127.0.0.1:9191"
    say(play, YES, guard)
    application = play.connect()
    play.hear(application, Response(1, OK, True))
    assert play.outcomes() == [("completed", 200, "")]


# --- asked again -----------------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_is_replaced() -> None:
    """To ask twice hurts nobody: the question is sent again, within its time."""
    play = stage()
    play.ask()
    play.lose(play.guard)
    again = play.connect(play.directory.services["opa"].endpoints[0])
    assert len(questions(again)) == 1
    say(play, YES, again)
    assert play.asked() == [("request", 1, b"/", True)]
    play.answer(Response(1, OK, True))
    play.settled()


def test_one_that_breaks_each_time_is_given_up() -> None:
    """After three tries."""
    play = stage()
    play.ask()
    upstream = play.guard
    for _ in range(3):
        assert play.said() == []
        play.lose(upstream)
        upstream = play.connect(play.directory.services["opa"].endpoints[0])
    play.lose(upstream)
    assert play.outcomes() == [("failed", 503, "authorizer_failed")]
    play.settled()


def test_a_question_that_was_refused_unseen() -> None:
    """GOAWAY and REFUSED_STREAM move it to another connection."""
    play = stage()
    play.ask()
    play.guard.leg.codec.alive = False
    play.guard.leg.codec.gone(1)
    play.hear(play.guard, GoAway(0, 0), Reset(1, 7, True, "refused"))
    again = play.connect(play.directory.services["opa"].endpoints[0])
    say(play, YES, again)
    assert play.asked() == [("request", 1, b"/", True)]


def test_a_broken_connection_after_the_answer_began() -> None:
    """Half an answer is none."""
    play = stage()
    play.ask()
    play.hear(play.guard, Informational(1, Head.response(103)), Response(1, CALL, False))
    play.lose(play.guard)
    assert play.outcomes() == [("failed", 503, "authorizer_failed")]
    play.settled()


def test_a_connection_that_breaks_the_rules() -> None:
    """Its cause is told."""
    play = stage()
    play.ask()
    play.guard.leg.codec.alive = False
    play.guard.leg.codec.gone(1)
    play.hear(play.guard, Broken("frame_size", "a frame is too long"))
    assert "a frame is too long" in play.said()[-1][2].decode()
    play.settled()


# --- the client ------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_takes_its_question_along() -> None:
    """The authoriser hears of it at once, and nothing is counted for it."""
    play = stage()
    play.ask()
    play.guard.leg.codec.take_commands()
    play.codec.gone(1)
    play.downstream.handle([Reset(1, 8, False, "")])
    assert play.guard.leg.codec.take_commands() == [("reset", 1, 8)]
    assert play.outcomes() == [("client_cancelled", 0, "")]
    assert play.tallies("authorizer") == {}
    play.settled()


def test_a_client_that_leaves_while_the_question_waits() -> None:
    """It leaves the queue."""
    play = Stage(outbound=False, others={"opa": 1})
    play.update(authorization=Authorization(authorizers=(GUARD,)))
    play.ask()
    play.codec.gone(1)
    play.downstream.handle([Reset(1, 8, False, "")])
    play.settled()


def test_trailers_before_the_answer() -> None:
    """They cannot be kept: the request fails as any does that has nobody yet, and its question ends."""
    play = stage()
    play.ask(b"POST", end=False)
    play.downstream.handle([Trailers(1, ((b"a", b"1"),))])
    assert play.outcomes() == [("failed", 400, "unsendable")]
    play.settled()


# --- remembered ------------------------------------------------------------------------------------------------------

CACHED = Authorizer("demo/guard", "opa", cache=60.0)


@pytest.mark.parametrize("answer", [headers({"x-user": "alice"}), NO], ids=["yes", "no"])
def test_a_verdict_is_used_again_while_both_allow_it(answer: pb.CheckResponse) -> None:
    """For as long as the answer says, and no longer."""
    play = stage(CACHED)
    play.ask()
    say(play, answer, cache_control="max-age=10")
    play.pass_time(9.9)
    play.ask()
    assert len(questions(play.guard)) == 1
    assert play.tallies("authorizer") == {"allowed" if answer is not NO else "denied": 1, "cached": 1}
    if answer is not NO:
        assert play.up.leg.codec.heads[3].get(b"x-user") == b"alice"
    else:
        assert play.outcomes() == [("denied", 403, "denied")] * 2
    play.pass_time(0.2)
    play.ask()
    assert len(questions(play.guard)) == 1


@pytest.mark.parametrize(
    ("cache", "told"), [(0.0, "max-age=10"), (60.0, "no-store"), (60.0, "max-age=0"), (60.0, "max-age=10, no-cache")]
)
def test_what_either_does_not_allow_is_asked_again(cache: float, told: str) -> None:
    """Without the policy's leave or the answer's."""
    play = stage(Authorizer("demo/guard", "opa", cache=cache))
    for _ in range(2):
        play.ask()
        say(play, YES, cache_control=told)
    assert len(questions(play.guard)) == 2


def test_the_policy_bounds_how_long() -> None:
    """An answer that asks for an hour gets what the policy allows."""
    play = stage(Authorizer("demo/guard", "opa", cache=2.0))
    play.ask()
    say(play, YES, cache_control="max-age=3600")
    play.pass_time(2.0)
    play.ask()
    assert len(questions(play.guard)) == 2


def test_another_question_is_asked() -> None:
    """Another path, another header that is told, another caller; a header that is not told makes no difference."""
    play = stage(Authorizer("demo/guard", "opa", cache=60.0, headers=("x-user",)))
    for path, fields, asked in (
        (b"/a", [], 1),
        (b"/a", [(b"x-other", b"1")], 0),
        (b"/b", [], 1),
        (b"/a", [(b"x-user", b"eve")], 1),
    ):
        play.ask(b"GET", path, fields=fields)
        assert len(questions(play.guard)) == asked
        if asked:
            say(play, YES, cache_control="max-age=10")


def test_another_policy_remembers_nothing() -> None:
    """What was said under another authoriser's terms is not its answer."""
    play = stage(CACHED)
    play.ask()
    say(play, YES, cache_control="max-age=10")
    play.update(authorization=Authorization(authorizers=(Authorizer("demo/guard", "extra", cache=60.0),)))
    play.ask()
    assert len(questions(play.second)) == 1


def test_a_long_answer_is_not_remembered() -> None:
    """What is kept is bounded in bytes as well."""
    play = stage(CACHED)
    play.ask()
    say(play, headers({"x": "y" * inquiry.CACHED_BYTES}), cache_control="max-age=10")
    play.ask()
    assert len(questions(play.guard)) == 2


def test_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many entries, no more; what has expired is gone when it is looked for."""
    monkeypatch.setattr(inquiry, "ENTRIES", 2)
    answers = Answers()
    said = inquiry.ext_authz.Verdict(True, max_age=5.0)
    for key in (b"1", b"2", b"3"):
        answers.put(CACHED, key, said, 0.0)
    assert [answers.get(CACHED, key, 1.0) for key in (b"1", b"2", b"3")] == [None, said, said]
    assert answers.get(CACHED, b"2", 5.0) is None
    assert len(answers) == 1


# --- loops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["votes", "10.0.0.1:80", "127.0.0.1:4140"])
def test_nobody_is_asked_about_the_authoriser_itself(service: str) -> None:
    """By its name, its application's address or its proxy's; others are asked about it as about any."""
    play = stage(Authorizer("demo/guard", service))
    play.ask(b"POST", PATH, grpc=True)
    assert play.asked() == [("request", 1, PATH, True)]
    play.update(authorization=Authorization(authorizers=(Authorizer("demo/guard", service), SECOND)))
    play.ask(b"POST", PATH, grpc=True)
    assert len(questions(play.second)) == 1
    assert play.asked() == []


def test_an_authoriser_may_stand_behind_another_one() -> None:
    """Its own questions tell how deep they are."""
    play = stage()
    play.ask()
    assert play.guard.leg.codec.heads[1].get(b"user-agent") == b"conduit-inquiry/1"
    play.ask(fields=[(b"user-agent", b"conduit-inquiry/1")])
    assert play.guard.leg.codec.heads[3].get(b"user-agent") == b"conduit-inquiry/2"


@pytest.mark.parametrize("mark", [b"2", b"9", b"-1", b"", b"99999"])
@pytest.mark.parametrize("fail_open", [False, True])
def test_a_circle_is_refused(mark: bytes, fail_open: bool) -> None:
    """Whatever the policy says of failures, since anybody can pretend that there is one."""
    play = stage(Authorizer("demo/guard", "opa", fail_open=fail_open))
    play.ask(fields=[(b"user-agent", b"conduit-inquiry/" + mark)])
    assert "in a circle" in play.said()[-1][2].decode()
    assert questions(play.guard) == []
    assert play.asked() == []
    play.settled()


# --- changes meanwhile -----------------------------------------------------------------------------------------------


def test_a_policy_that_changes_meanwhile_judges_anew() -> None:
    """The old one's yes is not enough for the new one, and what it set is gone."""
    play = stage()
    play.ask()
    play.update(authorization=Authorization(authorizers=(SECOND,)))
    say(play, headers({"x-user": "alice"}))
    assert play.asked() == []
    say(play, YES, play.second)
    assert play.up.leg.codec.heads[1].get(b"x-user") is None
    play.answer(Response(1, OK, True))
    play.settled()


def test_a_policy_that_denies_meanwhile() -> None:
    """Nobody gets through on what was allowed before."""
    play = stage()
    play.ask()
    play.update(authorization=Authorization(default=Default.DENY))
    say(play, YES)
    assert play.asked() == []
    assert play.outcomes() == [("denied", 403, "denied")]
    play.settled()


def test_an_authoriser_that_is_retired_meanwhile() -> None:
    """A question that is under way may end; one that waits for an endpoint fails."""
    play = stage(GUARD, Authorizer("demo/empty", "empty"))
    play.directory.add(Service("empty"))
    play.ask()
    play.directory.services["opa"].retire()
    say(play, YES)
    play.directory.services["empty"].retire()
    assert "it is not there any more" in play.said()[-1][2].decode()
    play.settled()


def test_only_what_an_authoriser_is_for_waits() -> None:
    """A request that no authoriser is for goes on at once."""
    play = stage(Authorizer("demo/guard", "opa", operations=(Operation(paths=("/private/*",)),)))
    play.ask(b"GET", b"/public")
    assert play.asked() == [("request", 1, b"/public", True)]
    play.ask(b"GET", b"/private/a")
    assert play.asked() == []
    assert len(questions(play.guard)) == 1
