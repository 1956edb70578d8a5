"""A request becomes a CheckRequest, a CheckResponse becomes a verdict, and a verdict an answer or another head."""

from __future__ import annotations

import importlib

import pytest
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3 import external_auth_pb2 as pb
from google.protobuf.wrappers_pb2 import BoolValue

from mesh.proxy import ext_authz
from mesh.proxy.ext_authz import (
    ADD_IF_ABSENT,
    APPEND,
    OVERWRITE,
    OVERWRITE_IF_EXISTS,
    About,
    Edit,
    Garbage,
    Verdict,
    denial,
    edited,
    framed,
    granted,
    max_age,
    question,
    same,
    verdict,
)
from mesh.wire.head import Head

ANSWER = Head.response(200, [(b"content-type", b"application/grpc")])
WEB = "web.demo.serviceaccount.identity.cluster.local"


def about(head: Head | None = None, **changes: object) -> About:
    """A request of `web` in the middle of a second."""
    head = head or Head.request(b"GET", b"/a?b=c", authority=b"votes:80")
    usual = About(head, "http2", "7:1", "10.0.0.9:5000", WEB, "127.0.0.1:4143", "", "votes", 1_700_000_000.25)
    return usual._replace(**changes)


def read(answer: pb.CheckResponse, head: Head = ANSWER) -> Verdict:
    """What an answer on the wire says."""
    return verdict(framed(answer), head)


def option(name: str, value: str, **rest: object) -> HeaderValueOption:
    return HeaderValueOption(header=HeaderValue(key=name, value=value), **rest)


def allowed(**what: object) -> pb.CheckResponse:
    return pb.CheckResponse(ok_response=pb.OkHttpResponse(**what))


def denied(code: int = 7, message: str = "", **what: object) -> pb.CheckResponse:
    answer = pb.CheckResponse(denied_response=pb.DeniedHttpResponse(**what))
    answer.status.code = code
    answer.status.message = message
    return answer


# --- the question ----------------------------------------------------------------------------------------------------


def test_the_question_says_what_the_request_is_and_who_asks() -> None:
    """Every attribute that we know, the identities as SPIFFE IDs, the time to the nanosecond."""
    attributes = question(about(own="votes.demo.serviceaccount.identity.cluster.local"), ()).attributes
    http = attributes.request.http
    assert (http.id, http.method, http.path, http.host, http.scheme) == ("7:1", "GET", "/a?b=c", "votes:80", "http")
    assert (http.protocol, http.size, http.body, http.raw_body) == ("HTTP/2", -1, "", b"")
    assert attributes.source.principal == "spiffe://cluster.local/ns/demo/sa/web"
    assert attributes.source.address.socket_address.address == "10.0.0.9"
    assert attributes.source.address.socket_address.port_value == 5000
    assert attributes.destination.principal == "spiffe://cluster.local/ns/demo/sa/votes"
    assert attributes.destination.address.socket_address.port_value == 4143
    assert attributes.destination.service == "votes"
    assert (attributes.request.time.seconds, attributes.request.time.nanos) == (1_700_000_000, 250_000_000)


def test_who_is_unknown_has_no_principal() -> None:
    """An identity of another form is told as it is, an address that is none not at all."""
    assert question(about(identity=""), ()).attributes.source.principal == ""
    assert question(about(identity="client.example"), ()).attributes.source.principal == "client.example"
    assert question(about(peer="[::1]:7"), ()).attributes.source.address.socket_address.address == "::1"
    assert not question(about(peer="somewhere"), ()).attributes.source.HasField("address")


def test_only_named_headers_are_told() -> None:
    """Repeated ones as one, credentials only by name, bytes that are no text as marks that nobody can send."""
    fields = [
        (b"x-many", b"1"),
        (b"authorization", b"Bearer secret"),
        (b"cookie", b"a=1"),
        (b"x-many", b"2"),
        (b"cookie", b"b=2"),
        (b"x-odd", b"\xff"),
    ]
    head = Head.request(b"POST", b"/", authority=b"votes", fields=[*fields, (b"content-length", b"12")])
    http = question(about(head), ("x-many", "cookie", "x-odd", "x-absent")).attributes.request.http
    assert dict(http.headers) == {"x-many": "1,2", "cookie": "a=1; b=2", "x-odd": "�"}
    assert http.size == 12
    assert dict(question(about(head), ()).attributes.request.http.headers) == {}
    assert b"secret" not in framed(question(about(head), ("x-many",)))


def test_http1_is_told_as_such() -> None:
    """The protocol that the client speaks."""
    assert question(about(protocol="http1"), ()).attributes.request.http.protocol == "HTTP/1.1"


@pytest.mark.parametrize(
    "other",
    [
        about(Head.request(b"GET", b"/a?b=d", authority=b"votes:80")),
        about(Head.request(b"PUT", b"/a?b=c", authority=b"votes:80")),
        about(Head.request(b"GET", b"/a?b=c", authority=b"other")),
        about(Head.request(b"GET", b"/a?b=c", authority=b"votes:80", fields=[(b"x-user", b"eve")])),
        about(identity=""),
        about(peer="10.0.0.8:5000"),
        about(protocol="http1"),
        about(service="words"),
    ],
)
def test_questions_that_differ_are_told_apart(other: About) -> None:
    """Whatever a decision may depend on is part of what it is remembered by."""
    assert same(question(about(), ("x-user",))) != same(question(other, ("x-user",)))


def test_a_question_asked_again_is_the_same() -> None:
    """Its number, its time and the caller's port are others each time, and the message itself keeps them."""
    told = question(about(), ())
    again = question(about(number="8:3", wall=1_700_000_009.0, peer="10.0.0.9:5001"), ())
    assert same(told) == same(again)
    assert told.attributes.request.http.id == "7:1"
    assert told.attributes.source.address.socket_address.port_value == 5000


# --- the answer ------------------------------------------------------------------------------------------------------


def test_a_plain_yes() -> None:
    """The status OK is enough, whether or not there is an ok_response."""
    assert read(pb.CheckResponse()) == read(allowed()) == Verdict(True)


def test_a_plain_no() -> None:
    """Any other status denies, with 403 where nothing else is said."""
    said = read(denied(message="no"))
    assert (said.allowed, said.status, said.grpc_status, said.message) == (False, 403, 7, "no")
    answer = pb.CheckResponse()
    answer.status.code = 16
    assert read(answer) == Verdict(False, grpc_status=16)


def test_a_no_in_words() -> None:
    """Status, headers, repeated ones too, and body."""
    said = read(
        denied(
            status={"code": 401},
            headers=[option("WWW-Authenticate", "Basic"), option("set-cookie", "a"), option("set-cookie", "b")],
            body="go away",
        )
    )
    assert (said.status, said.grpc_status, said.body) == (401, 0, b"go away")
    assert said.fields == ((b"www-authenticate", b"Basic"), (b"set-cookie", b"a"), (b"set-cookie", b"b"))


@pytest.mark.parametrize("status", [0, 100, 199, 600])
def test_a_status_that_ends_nothing_is_403(status: int) -> None:
    """What is no final status of HTTP."""
    assert read(denied(status={"code": status})).status == 403


def test_headers_for_the_application() -> None:
    """They replace the client's own unless the answer says otherwise, in the old way or in the new one."""
    options = [
        option("X-User", "alice"),
        option("x-role", "admin", append=BoolValue(value=True)),
        option("x-set", "1", append=BoolValue(value=False)),
        option("x-new", "1", append_action=ADD_IF_ABSENT),
        option("x-there", "1", append_action=OVERWRITE_IF_EXISTS),
        HeaderValueOption(header=HeaderValue(key="x-raw", raw_value=b" \xff ")),
    ]
    said = read(allowed(headers=options, headers_to_remove=["X-Secret", ":path", "host", "conduit-timeout-ms"]))
    assert said.edits == (
        Edit(OVERWRITE, b"x-user", b"alice"),
        Edit(APPEND, b"x-role", b"admin"),
        Edit(OVERWRITE, b"x-set", b"1"),
        Edit(ADD_IF_ABSENT, b"x-new", b"1"),
        Edit(OVERWRITE_IF_EXISTS, b"x-there", b"1"),
        Edit(OVERWRITE, b"x-raw", b"\xff"),
    )
    assert said.removed == {b"x-secret"}


def test_headers_for_the_client_are_added() -> None:
    """Beside what the application says, unless the answer says otherwise."""
    said = read(allowed(response_headers_to_add=[option("a", "1"), option("b", "2", append_action=OVERWRITE)]))
    assert said.response_edits == (Edit(APPEND, b"a", b"1"), Edit(OVERWRITE, b"b", b"2"))


@pytest.mark.parametrize(
    "name", ["content-length", "Transfer-Encoding", "connection", "host", "conduit-error", "l5d-client-id"]
)
def test_what_frames_a_message_stays(name: str) -> None:
    """Whichever list it is in."""
    said = read(allowed(headers=[option(name, "1")], response_headers_to_add=[option(name, "1")]))
    assert (said.edits, said.response_edits) == ((), ())
    assert read(denied(headers=[option(name, "1")])).fields == ()


GARBAGE = {
    "nothing": b"",
    "half a prefix": b"\0\0\0",
    "cut off": framed(denied(body="long enough to cut"))[:-1],
    "two messages": framed(allowed()) * 2,
    "compressed": b"\1" + framed(allowed())[1:],
    "no protobuf": b"\0\0\0\0\3\xff\xff\xff",
    "OK and denied": framed(pb.CheckResponse(denied_response=pb.DeniedHttpResponse())),
    "denied and ok": framed(pb.CheckResponse(status={"code": 7}, ok_response=pb.OkHttpResponse())),
    "cannot decide": framed(pb.CheckResponse(status={"code": 13}, error_response=pb.DeniedHttpResponse())),
    "a path": framed(allowed(headers=[option(":path", "/admin")])),
    "no name": framed(allowed(headers=[option("", "1")])),
    "a name of two words": framed(allowed(headers=[option("a b", "1")])),
    "an imitation": framed(denied(headers=[option("content_length", "1")])),
    "two lines": framed(allowed(response_headers_to_add=[option("a", "1\r\nb: 2")])),
    "an unknown action": framed(allowed(headers=[HeaderValueOption(header=HeaderValue(key="a"), append_action=9)])),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_no_verdict(data: bytes) -> None:
    """What cannot be read, contradicts itself or cannot be done is refused as a whole, in words."""
    with pytest.raises(Garbage, match=r"\w+ \w+"):
        verdict(data, ANSWER)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0),
        (b"max-age=60", 60),
        (b"private, Max-Age=5", 5),
        (b"max-age=60, no-store", 0),
        (b"no-cache,max-age=60", 0),
        (b"max-age=-1", 0),
        (b"max-age=1e3", 0),
        (b"s-maxage=60", 0),
        (b"max-age=99999999999", 0),
    ],
)
def test_how_long_a_verdict_holds(value: bytes | None, seconds: float) -> None:
    """As cache-control says it; what is unclear is not remembered."""
    assert max_age(value) == seconds


def test_where_an_answer_says_how_long_it_holds() -> None:
    """In the call's metadata, or where there is one in dynamic_metadata; what the client is told of caching is not
    meant for us."""
    head = Head.response(200, [(b"cache-control", b"max-age=60")])
    assert read(allowed(), head).max_age == 60
    answer = denied(headers=[option("cache-control", "max-age=600")])
    assert read(answer).max_age == 0
    answer.dynamic_metadata["cache-control"] = "max-age=5"
    assert read(answer, head).max_age == 5


# --- what comes of it ------------------------------------------------------------------------------------------------


def test_fields_are_edited_as_asked() -> None:
    """Each action, on a field that is there twice and on one that is not; the head that was given stays."""
    head = Head.request(b"GET", b"/", fields=[(b"a", b"1"), (b"a", b"2"), (b"z", b"0")])
    results = {
        action: [field for field in edited(head, [Edit(action, b"a", b"9"), Edit(action, b"b", b"9")]).block[3:]]
        for action in (APPEND, ADD_IF_ABSENT, OVERWRITE, OVERWRITE_IF_EXISTS)
    }
    there = [(b"a", b"1"), (b"a", b"2"), (b"z", b"0")]
    assert results == {
        APPEND: [*there, (b"a", b"9"), (b"b", b"9")],
        ADD_IF_ABSENT: [*there, (b"b", b"9")],
        OVERWRITE: [(b"z", b"0"), (b"a", b"9"), (b"b", b"9")],
        OVERWRITE_IF_EXISTS: [(b"z", b"0"), (b"a", b"9")],
    }
    assert list(head.block[3:]) == there
    assert edited(head, ()) is head


def test_what_is_removed_goes_last() -> None:
    """Also what the same answer has set."""
    head = Head.request(b"GET", b"/", fields=[(b"a", b"1")])
    assert granted(head, Verdict(True, (Edit(OVERWRITE, b"b", b"1"),), frozenset({b"a", b"b"}))).block[3:] == []


def test_what_an_authoriser_says_cannot_be_imitated() -> None:
    """A client's field that applications may take for it goes, however it is spelt; what is only added stays beside."""
    fields = [(b"x_user", b"eve"), (b"x_gone", b"1"), (b"x_role", b"root"), (b"x_other", b"1")]
    edits = (Edit(OVERWRITE, b"x-user", b"alice"), Edit(APPEND, b"x-role", b"admin"))
    head = granted(Head.request(b"GET", b"/", fields=fields), Verdict(True, edits, frozenset({b"x-gone"})))
    assert head.block[3:] == [(b"x_role", b"root"), (b"x_other", b"1"), (b"x-user", b"alice"), (b"x-role", b"admin")]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        (b"/a", b"/a?k=v%20w"),
        (b"/a?x=1&k=old&k&gone=1&y", b"/a?x=1&y&k=v%20w"),
        (b"/a?", b"/a?k=v%20w"),
    ],
)
def test_query_parameters(path: bytes, sent: bytes) -> None:
    """They are set and removed by name; the path before them never changes."""
    said = read(
        allowed(query_parameters_to_set=[{"key": "k", "value": "v w"}], query_parameters_to_remove=["gone", "absent"])
    )
    head = granted(Head.request(b"GET", path), said)
    assert head.path == sent
    assert (b":path", sent) in head.block


def test_the_last_query_parameter_takes_its_mark_along() -> None:
    """Nothing is left of the query."""
    said = Verdict(True, query_removed=frozenset({b"a"}))
    assert granted(Head.request(b"GET", b"/p?a=1"), said).path == b"/p"


def test_a_denial_in_the_authorisers_words() -> None:
    """Its body and type, our length and reason."""
    said = Verdict(False, status=401, fields=((b"content-type", b"text/html"),), body="<h1>nö".encode())
    head, body, code = denial(said, False, "ours")
    assert (head.status, body, code) == (401, "<h1>nö".encode(), -1)
    assert head.get_all(b"content-type") == [b"text/html"]
    assert head.get_all(b"content-length") == [b"7"]
    assert head.get(b"conduit-error") == b"denied"
    head, _, _ = denial(said._replace(fields=()), False, "ours")
    assert head.get(b"content-type") == b"text/plain; charset=utf-8"


def test_a_denial_without_words_gets_ours() -> None:
    """With its headers, but for the type of a body that is not there."""
    said = Verdict(False, status=302, fields=((b"location", b"/login"), (b"content-type", b"text/html")))
    head, body, _ = denial(said, False, "service votes: denied")
    assert (head.status, body) == (302, b"service votes: denied\n")
    assert head.get(b"location") == b"/login"
    assert head.get_all(b"content-type") == [b"text/plain; charset=utf-8"]


def test_a_denial_that_may_not_have_a_body() -> None:
    """204 ends with its head (RFC 9110 section 15.3.5)."""
    head, body, _ = denial(Verdict(False, status=204, body=b"x", fields=((b"a", b"1"),)), False, "ours")
    assert (head.status, body) == (204, b"")
    assert [name for name, _ in head.block] == [b":status", b"a", b"conduit-error"]


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (Verdict(False), 7),
        (Verdict(False, status=401), 16),
        (Verdict(False, status=429), 14),
        (Verdict(False, status=418), 2),
        (Verdict(False, grpc_status=5), 5),
    ],
)
def test_a_denial_of_a_call(said: Verdict, code: int) -> None:
    """gRPC's own code where there is one, else what gRPC makes of the status; trailers only."""
    head, body, status = denial(said, True, "ours")
    assert (head.status, body, status) == (200, b"", code)
    assert head.get(b"grpc-status") == b"%d" % code
    assert head.get(b"content-type") == b"application/grpc"


def test_the_message_of_a_denied_call() -> None:
    """Body, else message, else ours; encoded, and no longer than a header should be."""
    fields = ((b"x-why", b"quota"), (b"content-type", b"text/html"), (b"grpc-status", b"0"))
    head, _, _ = denial(Verdict(False, body="100 %\nnö".encode(), message="m", fields=fields), True, "ours")
    assert head.get(b"grpc-message") == b"100 %25%0An%C3%B6"
    assert (head.get(b"x-why"), head.get_all(b"grpc-status")) == (b"quota", [b"7"])
    assert denial(Verdict(False, message="m"), True, "ours")[0].get(b"grpc-message") == b"m"
    assert denial(Verdict(False), True, "ours")[0].get(b"grpc-message") == b"ours"
    assert len(denial(Verdict(False, body=b"x" * 5000), True, "ours")[0].get(b"grpc-message") or b"") == 1000


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package that has the messages, the reason says how to get it."""
    assert ext_authz.missing() == ""

    def nothing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", nothing)
    assert "conduit-mesh[authorizer]" in ext_authz.missing()
