"""Requests that are sent again though no policy asks for it: unseen, unreachable, or lost with a reused connection."""

from __future__ import annotations

import pytest

from mesh.proxy.again import REFUSED_ATTEMPTS
from mesh.proxy.exchange import SENT
from mesh.proxy.upstream import Upstream
from mesh.wire.codec import Data, GoAway, Reset, Response, Trailers
from mesh.wire.head import Head
from tests.proxy.playbook import LIMITS, OK, Stage


def reset(stage: Stage, up: Upstream, stream: int, unprocessed: bool) -> None:
    up.leg.codec.gone(stream)
    stage.hear(up, Reset(stream, 7, unprocessed, "refused"))


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_an_unprocessed_request_is_sent_again_to_another_endpoint(method: bytes) -> None:
    """RFC 9113 section 8.7: whatever the method, with the body that was kept."""
    stage = Stage(endpoints=2)
    other = stage.connect(stage.endpoints[1])
    stage.ask(method, end=False)
    stage.downstream.handle([Data(1, b"body", True)])
    reset(stage, stage.up, 1, True)
    assert other.leg.codec.take_commands() == [("request", 1, b"/", False), ("data", 1, b"body", True)]
    assert stage.said() == []
    assert stage.outcomes() == []
    stage.hear(other, Response(1, OK, True))
    assert stage.outcomes() == [("completed", 200, "")]
    assert stage.codec.acknowledged[1] == 4
    assert stage.pending() == 0


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_request_that_never_reached_its_application_is_sent_to_another_endpoint(method: bytes) -> None:
    """The proxy beside the dead application says so; the client hears the other endpoint's answer only."""
    stage = Stage(endpoints=2, meshed=True)
    other = stage.connect(stage.endpoints[1])
    stage.ask(method, end=True)
    refusal = Head.response(503, [(b"conduit-error", b"connect_failed"), (b"content-length", b"5")])
    stage.answer(Response(1, refusal, False))
    assert stage.said() == []
    assert other.leg.codec.take_commands() == [("request", 1, b"/", True)]
    stage.hear(other, Response(1, OK, True))
    assert stage.outcomes() == [("completed", 200, "")]
    assert stage.pending() == 0


def test_it_is_sent_on_also_where_the_one_that_refused_is_no_endpoint_any_more() -> None:
    """The control plane may have told of the death first: the only endpoint that is left has not been tried."""
    stage = Stage(endpoints=2, meshed=True)
    other = stage.connect(stage.endpoints[1])
    stage.ask(end=True)
    del stage.cluster.endpoints[0]
    stage.answer(Response(1, Head.response(503, [(b"conduit-error", b"connect_failed")]), True))
    stage.hear(other, Response(1, OK, True))
    assert stage.outcomes() == [("completed", 200, "")]


def test_the_refusal_is_passed_on_where_there_is_no_other_endpoint() -> None:
    """To ask the same one again would change nothing."""
    stage = Stage(endpoints=1, meshed=True)
    stage.ask(b"GET", end=True)
    stage.answer(Response(1, Head.response(503, [(b"conduit-error", b"connect_failed")]), True))
    assert stage.outcomes() == [("completed", 503, "")]


def test_an_applications_own_503_is_not_sent_again() -> None:
    """It has seen the request, and may have acted on it."""
    stage = Stage(endpoints=2)
    other = stage.connect(stage.endpoints[1])
    stage.ask(b"GET", end=True)
    stage.answer(Response(1, Head.response(503), True))
    assert other.leg.codec.take_commands() == []
    assert stage.outcomes() == [("completed", 503, "")]


@pytest.mark.parametrize(
    ("method", "served", "again"),
    [(b"GET", True, True), (b"PUT", True, True), (b"POST", True, False), (b"GET", False, False)],
)
def test_a_reused_connection_that_fails_is_retried_for_idempotent_methods(
    method: bytes, served: bool, again: bool
) -> None:
    """The endpoint may have closed it as the request came; a first request or a POST is not repeated."""
    stage = Stage(endpoints=2)
    other = stage.connect(stage.endpoints[1])
    if served:
        stage.ask()
        stage.answer(Response(1, OK, True))
        stage.said()
    exchange = stage.ask(method)
    stage.up.lost("closed")
    if again:
        assert other.leg.codec.take_commands() == [("request", 1, b"/", True)]
    else:
        assert other.leg.codec.take_commands() == []
        assert next(command[:3] for command in stage.said()) == ("response", exchange.stream, 502)


def test_a_stream_that_is_reset_on_a_reused_connection_is_not_sent_again() -> None:
    """The connection goes on, so it had not been closed: the endpoint did this to the request, and may do it again."""
    stage = Stage(endpoints=2)
    other = stage.connect(stage.endpoints[1])
    stage.ask()
    stage.answer(Response(1, OK, True))
    exchange = stage.ask(b"GET")
    reset(stage, stage.up, exchange.up_stream, False)
    assert other.leg.codec.take_commands() == []
    assert stage.outcomes()[-1] == ("failed", 502, "upstream_reset")


def test_a_body_that_outgrew_the_replay_bound_is_not_sent_again() -> None:
    """Nothing is repeated that was not kept whole: the client gets the error."""
    stage = Stage(endpoints=2)
    stage.connect(stage.endpoints[1])
    stage.ask(b"PUT", end=False)
    stage.downstream.handle([Data(1, b"x" * (LIMITS.replay_bytes + 1), False)])
    reset(stage, stage.up, 1, True)
    assert stage.outcomes() == [("failed", 502, "upstream_reset")]


@pytest.mark.parametrize("body", [b"", b"body"])
def test_a_request_with_trailers_is_not_sent_again_without_them(body: bytes) -> None:
    """Trailers are not kept, so the request could only be repeated as another one."""
    stage = Stage(endpoints=2)
    other = stage.connect(stage.endpoints[1])
    stage.ask(b"PUT", end=False)
    if body:
        stage.downstream.handle([Data(1, body, False)])
    stage.downstream.handle([Trailers(1, ((b"checksum", b"1"),))])
    reset(stage, stage.up, 1, True)
    assert other.leg.codec.take_commands() == []
    assert stage.outcomes() == [("failed", 502, "upstream_reset")]


def test_attempts_are_bounded() -> None:
    """After so many connections that refused it unseen the client is told, however many endpoints there are."""
    stage = Stage(endpoints=6)
    for endpoint in stage.endpoints[1:]:
        stage.connect(endpoint)
    exchange = stage.ask()
    sends = 0
    while exchange.state is SENT:
        sends += 1
        reset(stage, exchange.upstream, exchange.up_stream, True)
    assert sends == REFUSED_ATTEMPTS + 1
    assert stage.outcomes() == [("failed", 502, "upstream_reset")]
    assert stage.pending() == 0


def test_goodbyes_are_followed_from_connection_to_connection() -> None:
    """A request above GOAWAY's last stream goes on, for each connection that says goodbye has served others."""
    stage = Stage(endpoints=1)
    exchange = stage.ask()
    for _ in range(3 * REFUSED_ATTEMPTS):
        leaving = exchange.upstream
        stage.connect()
        leaving.handle([GoAway(0, 0), Reset(exchange.up_stream, 7, True, "above the last stream")])
        assert exchange.state is SENT
        assert exchange.upstream is not leaving
    exchange.upstream.handle([Response(exchange.up_stream, OK, True)])
    assert stage.outcomes() == [("completed", 200, "")]
    assert stage.pending() == 0


def test_no_retry_once_the_client_heard_something() -> None:
    """After the response head only a reset can tell of the failure, even where the endpoint did nothing."""
    stage = Stage(endpoints=2)
    other = stage.connect(stage.endpoints[1])
    stage.ask()
    stage.answer(Response(1, OK, False))
    reset(stage, stage.up, 1, True)
    assert other.leg.codec.take_commands() == []
    assert stage.said() == [("response", 1, 200, False), ("reset", 1, 7)]
    assert stage.outcomes() == [("failed", 200, "upstream_reset")]


def test_refused_connects_are_tried_elsewhere_and_then_told() -> None:
    """Each endpoint once, at most `connect_attempts`; the answer names the last endpoint and the cause."""
    stage = Stage(endpoints=2, connected=False)
    exchange = stage.ask()
    stage.refuse()
    assert exchange.queue is stage.endpoints[1].queue
    stage.refuse(stage.endpoints[1])
    (head, body) = stage.said()
    assert head == ("response", 1, 503, False)
    assert body == (
        "data",
        1,
        b"service votes, endpoint 10.0.0.2:80: Connection refused (2 endpoints: 2 down (Connection refused))\n",
        True,
    )
    assert stage.outcomes() == [("failed", 503, "connect_failed")]
    assert stage.pending() == 0
