"""The head that an endpoint gets: the time that is left, the marks of proxies, and nothing else that is new."""

from __future__ import annotations

import pytest

from mesh.model.config import Protocol, Timeouts
from mesh.proxy.outgoing import (
    CLIENT_ID,
    GRPC_TIMEOUT,
    LINKERD_CLIENT_ID,
    ORIGINAL,
    TIMEOUT,
    cleaned,
    cleaned_trailers,
    entered,
    presented,
)
from mesh.proxy.retry import grpc_timeout
from mesh.wire.codec import Response, Trailers
from mesh.wire.head import Head
from tests.proxy.playbook import OK, Stage


def sent(play: Stage, **ask) -> Head:
    """The head that the first connection gets for a request."""
    exchange = play.ask(**ask)
    return exchange.upstream.leg.codec.heads[exchange.up_stream]


@pytest.mark.parametrize("client", ["http1", "http2"])
def test_a_head_that_needs_nothing_is_the_clients_own(client: str) -> None:
    """The very object: nothing is copied."""
    play = Stage(connected=False, client=client)
    play.connect(codec=client)
    exchange = play.ask()
    assert exchange.upstream.leg.codec.heads[1] is exchange.head


@pytest.mark.parametrize(
    ("outbound", "meshed", "told"), [(True, True, True), (True, False, False), (False, False, True)]
)
def test_proxies_and_applications_beside_them_are_told_the_time_that_is_left(
    outbound: bool, meshed: bool, told: bool
) -> None:
    """In whole milliseconds, rounded down; others are not bothered."""
    play = Stage(outbound=outbound, meshed=meshed, timeouts=Timeouts(request=1.5))
    assert sent(play).get(TIMEOUT) == (b"1500" if told else None)


def test_the_time_that_was_spent_waiting_is_gone() -> None:
    """A request that was queued for a second has a second less."""
    play = Stage(connected=False, meshed=True, timeouts=Timeouts(request=2.0))
    play.ask()
    play.pass_time(1.0)
    assert play.connect().leg.codec.heads[1].get(TIMEOUT) == b"1000"


def test_a_clients_own_time_is_passed_on_as_it_is_now() -> None:
    """Also to endpoints that are not meshed, once, and never longer than the service's."""
    play = Stage(timeouts=Timeouts(request=1.0))
    head = sent(play, fields=[(TIMEOUT, b"5000")])
    assert head.get_all(TIMEOUT) == [b"1000"]


def test_a_grpc_timeout_is_shortened_for_everybody() -> None:
    """It is part of the protocol, whoever the endpoint is; the client's own head stays."""
    play = Stage(timeouts=Timeouts(request=1.0))
    head = sent(play, grpc=True, fields=[(GRPC_TIMEOUT, b"5S")])
    (value,) = head.get_all(GRPC_TIMEOUT)
    assert 0.99 < grpc_timeout(value) <= 1.0
    assert grpc_timeout(sent(play, grpc=True).get(GRPC_TIMEOUT)) <= 1.0
    assert sent(play).get(GRPC_TIMEOUT) is None


@pytest.mark.parametrize("value", [b"1n", b"99999999H"])
def test_the_ends_of_time_can_be_said(value: bytes) -> None:
    """Nothing left, and more than anybody has: both are fields that the next proxy can read."""
    head = sent(Stage(meshed=True), grpc=True, fields=[(GRPC_TIMEOUT, value)])
    assert grpc_timeout(head.get(GRPC_TIMEOUT)) is not None
    assert head.get(TIMEOUT) == (b"0" if value == b"1n" else b"999999999")


def test_http1_in_http2_between_proxies_is_marked() -> None:
    """A client of HTTP/1.1, a meshed endpoint: HTTP/2, with a mark that replaces any of the client's."""
    play = Stage(connected=False, client="http1", meshed=True)
    play.ask(fields=[(ORIGINAL, b"http2")])
    up = play.connect()
    assert up.http2
    assert up.leg.codec.heads[1].get_all(ORIGINAL) == [b"http1"]


def test_an_http2_client_of_an_http1_service_is_marked_too() -> None:
    """The proxy beside the application may not know what the service's policy says of its protocol."""
    play = Stage(protocol=Protocol.HTTP1, meshed=True)
    assert sent(play).get(ORIGINAL) == b"http1"


def test_the_mark_is_taken_off_beside_the_application() -> None:
    """Which is spoken to in HTTP/1.1 again."""
    play = Stage(connected=False, outbound=False)
    play.ask(fields=[(ORIGINAL, b"http1")])
    up = play.connect()
    assert not up.http2
    assert up.leg.codec.heads[1].get(ORIGINAL) is None
    play.hear(up, Response(1, OK, True))
    assert [one.key.protocol for one in play.reports.series] == ["http1"]


def test_a_mark_that_a_client_made_up_goes_no_further() -> None:
    """It speaks HTTP/2: the other side would take it for HTTP/1.1."""
    assert sent(Stage(meshed=True), fields=[(ORIGINAL, b"http1")]).get(ORIGINAL) is None


# --- what only a proxy may say -------------------------------------------------------------------

SPOOFED = [
    *(b"conduit-client-id", b"conduit_client_id", b"conduit.client-id", b"l5d-client-id", b"l5d_anything"),
    *(b"x-forwarded-client-cert", b"x_forwarded_client_cert", b"conduit-", b"conduit-orig-proto"),
]
ORDINARY = [b"conduits-own", b"conduit", b"x-conduit-id", b"x-forwarded-client-certs", b"x-forwarded-for", b"l5dx"]
WEB = "web.demo.serviceaccount.identity.cluster.local"


@pytest.mark.parametrize("name", SPOOFED)
def test_what_is_a_proxys_to_say_does_not_enter(name: bytes) -> None:
    """However an application may read the name; the rest of the head stays as it is."""
    head = Head.request(b"GET", b"/", authority=b"web", fields=[(b"accept", b"*/*"), (name, b"admin"), (b"x", b"y")])
    wanted = Head.request(b"GET", b"/", authority=b"web", fields=[(b"accept", b"*/*"), (b"x", b"y")])
    assert cleaned(head) == wanted
    assert head.get(name) == b"admin"
    assert cleaned_trailers(((name, b"admin"), (b"x", b"y"))) == ((b"x", b"y"),)


@pytest.mark.parametrize("name", ORDINARY)
def test_what_only_looks_like_it_does(name: bytes) -> None:
    """The very head."""
    head = Head.request(b"GET", b"/", fields=[(name, b"1")])
    assert cleaned(head) is head
    assert cleaned(head) is head
    assert cleaned_trailers(((name, b"1"),)) == ((name, b"1"),)


def test_a_client_that_proved_who_it_is_is_told_of() -> None:
    """Once, in both spellings, whatever it said itself."""
    head = Head.request(b"GET", b"/", fields=[(CLIENT_ID, b"admin"), (LINKERD_CLIENT_ID, b"admin")])
    told = entered(head, presented(WEB))
    assert told.get_all(CLIENT_ID) == told.get_all(LINKERD_CLIENT_ID) == [WEB.encode()]
    plain = Head.request(b"GET", b"/")
    assert entered(plain, presented("")) is plain


@pytest.mark.parametrize("identity", ["", "a b", "a\r\nx: y", "a\0"])
def test_an_identity_that_is_none_is_not_told(identity: str) -> None:
    """A name that no head can carry proves nothing."""
    assert presented(identity) == ()


def test_a_flood_of_names_is_not_remembered() -> None:
    """And is judged all the same."""
    for number in range(2000):
        assert cleaned(Head.request(b"GET", b"/", fields=[(b"x-%d" % number, b"")])).get(b"x-%d" % number) == b""
    assert cleaned(Head.request(b"GET", b"/", fields=[(b"l5d-2000", b"")])).get(b"l5d-2000") is None


@pytest.mark.parametrize(("meshed", "kept"), [(True, True), (False, False)])
def test_an_application_cannot_speak_for_a_proxy(meshed: bool, kept: bool) -> None:
    """Its answer says nothing of ours to the caller, head or trailers; that of the proxy beside it does."""
    play = Stage(client="http2", meshed=meshed)
    play.ask()
    play.answer(Response(1, Head.response(200, [(b"conduit-error", b"timeout"), (b"x", b"y")]), False))
    play.answer(Trailers(1, ((b"l5d-proxy-error", b"no"), (b"sum", b"1"))))
    head = play.codec.heads[1]
    assert (head.get(b"conduit-error") == b"timeout") is kept
    assert head.get(b"x") == b"y"


def test_an_application_cannot_have_its_requests_sent_elsewhere() -> None:
    """A 503 that claims never to have arrived is an answer."""
    play = Stage(endpoints=2)
    play.connect(play.endpoints[1])
    play.ask()
    play.answer(Response(1, Head.response(503, [(b"conduit-error", b"connect_failed")]), True))
    assert play.outcomes() == [("completed", 503, "")]


def test_a_spoofed_request_reaches_the_application_without() -> None:
    """Beside the application; and there its deadline is still told."""
    head = sent(Stage(outbound=False), fields=[(CLIENT_ID, b"admin"), (TIMEOUT, b"900"), (b"x", b"y")])
    assert head.get(CLIENT_ID) is None
    assert head.get(b"x") == b"y"
    assert len(head.get_all(TIMEOUT)) == 1
    assert 890 <= int(head.get(TIMEOUT)) <= 900
