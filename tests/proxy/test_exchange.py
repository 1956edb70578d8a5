"""The exchange as a playbook: its table, bodies, ends, repeats that need no policy, deadlines, backpressure.

Random orders of all this are `test_exchange_properties`; what policy does is `test_care` and so on.
"""

from __future__ import annotations

import pytest

from mesh.model.config import Timeouts
from mesh.model.traffic import Injection, Traffic
from mesh.proxy.care import Care
from mesh.proxy.deadlines import TICK
from mesh.proxy.exchange import (
    ANSWERING,
    ASSIGNED,
    CANCELLED,
    COMPLETED,
    DONE,
    FAILED,
    HELD,
    HOLD,
    QUEUED,
    RESPONSE,
    RESUMED,
    RETRY,
    SENT,
    TRANSITIONS,
    Exchange,
    Input,
    State,
)
from mesh.proxy.rescue import Reason
from mesh.wire.codec import Broken, Data, GoAway, Informational, Refused, Request, Reset, Response, Trailers
from mesh.wire.head import Head
from tests.proxy.playbook import GRPC, LIMITS, LOST, Stage

# --- the table --------------------------------------------------------------------------


def test_every_state_is_in_the_table_and_comes_to_an_end() -> None:
    """Each state lists its inputs, DONE has none, and from every state DONE can be reached."""
    assert set(TRANSITIONS) == set(State)
    assert TRANSITIONS[DONE] == {}
    assert {event for row in TRANSITIONS.values() for event in row} == set(Input)
    for state in set(State) - {DONE}:
        assert TRANSITIONS[state][CANCELLED] is DONE
        assert TRANSITIONS[state][FAILED] is DONE
    assert all(RETRY not in TRANSITIONS[state] for state in (ANSWERING, DONE)), (
        "no retry once the client heard something"
    )


DELAYED = Traffic(faults=(Injection(delay=1.0),))
DRIVES = {
    ASSIGNED: lambda stage, exchange: exchange.send(stage.up or stage.connect(), stage.now),
    RESPONSE: lambda stage, exchange: exchange.response(Head.response(200), False, stage.now),
    CANCELLED: lambda stage, exchange: exchange.client_reset(stage.now),
    FAILED: lambda stage, exchange: exchange.fail(Reason.INTERNAL, "why", stage.now),
    HOLD: lambda stage, exchange: exchange.hold(stage.now + 1.0, stage.now),
    RESUMED: lambda stage, exchange: exchange.resume(stage.now),
    RETRY: lambda stage, exchange: exchange.retry(True, stage.now),
    COMPLETED: lambda stage, exchange: exchange.answer(Head.response(302), stage.now),
}


def in_state(state: State) -> tuple[Stage, Exchange]:
    stage = Stage(connected=state is not QUEUED, traffic=DELAYED if state is HELD else None)
    exchange = stage.ask()
    assert exchange is not None
    if state in (ANSWERING, DONE):
        stage.answer(Response(1, Head.response(200), False))
    if state is DONE:
        stage.answer(Data(1, b"", True))
    assert exchange.state is state
    return stage, exchange


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(DRIVES))
def test_an_input_is_listed_or_raises(state: State, event: Input) -> None:
    """What the table lists leads where it says; what it does not list is a bug, and raises."""
    stage, exchange = in_state(state)
    if exchange.care is None:
        exchange.care = Care(stage.cluster.plan)
    if event is ASSIGNED and state is QUEUED:
        stage.connect()  # takes it from the queue and sends it
        assert exchange.state is SENT
    elif event is RESUMED and state is HELD:
        exchange.resume(stage.now)  # there is a connection: it does not stay queued
        assert exchange.state is SENT
    elif event is COMPLETED and state is ANSWERING:
        stage.answer(Data(1, b"", True))
        assert exchange.state is DONE
    elif event in TRANSITIONS[state]:
        DRIVES[event](stage, exchange)
        assert exchange.state is TRANSITIONS[state][event]
    else:
        with pytest.raises((KeyError, AssertionError)):
            DRIVES[event](stage, exchange)


def test_repr_tells_state_and_request() -> None:
    """A log line or a debugger shows where the exchange stands."""
    _, exchange = in_state(ANSWERING)
    assert repr(exchange) == "<Exchange answering b'GET' b'/' status=200>"


# --- playbooks --------------------------------------------------------------------------


def test_a_get_from_head_to_report() -> None:
    """A request without a body and its answer pass, and make one report."""
    stage = Stage()
    stage.ask(path=b"/a")
    assert stage.asked() == [("request", 1, b"/a", True)]
    stage.now += 0.25
    stage.answer(Response(1, Head.response(200), False), Data(1, b"hello", False), Data(1, b"", True))
    assert stage.said() == [("response", 1, 200, False), ("data", 1, b"hello", False), ("data", 1, b"", True)]
    assert stage.outcomes() == [("completed", 200, "")]
    assert stage.up.leg.codec.acknowledged[1] == 5
    assert stage.pending() == 0
    assert stage.up.exchanges == {}
    assert stage.downstream.exchanges == {}
    assert len(stage.deadlines) == 0


def test_bodies_go_both_ways_and_are_acknowledged() -> None:
    """What a side sends is forwarded, and given back to its window once."""
    stage = Stage()
    stage.ask(b"POST", end=False)
    stage.downstream.handle([Data(1, b"abc", False), Data(1, b"de", True)])
    assert stage.asked() == [("request", 1, b"/", False), ("data", 1, b"abc", False), ("data", 1, b"de", True)]
    assert stage.codec.acknowledged[1] == 5
    stage.answer(Response(1, Head.response(201), True))
    assert stage.said() == [("response", 1, 201, True)]
    assert stage.outcomes() == [("completed", 201, "")]


def test_a_body_that_comes_while_queued_is_kept_and_then_sent() -> None:
    """Before a connection is there, body is held unacknowledged; the send gives all of it, in order."""
    stage = Stage(connected=False)
    exchange = stage.ask(b"PUT", end=False)
    stage.downstream.handle([Data(1, b"ab", False), Data(1, b"c", False)])
    assert stage.codec.acknowledged[1] == 0
    assert exchange.state is QUEUED
    up = stage.connect()
    assert up.leg.codec.take_commands() == [
        ("request", 1, b"/", False), ("data", 1, b"ab", False), ("data", 1, b"c", False)
    ]  # fmt: skip
    assert stage.codec.acknowledged[1] == 3
    stage.downstream.handle([Data(1, b"", True)])
    assert up.leg.codec.take_commands() == [("data", 1, b"", True)]


def test_interim_responses_pass_and_decide_nothing() -> None:
    """A 103 goes to the client before the final head, and the exchange stays as it was."""
    stage = Stage()
    exchange = stage.ask()
    stage.answer(Informational(1, Head.response(103)))
    assert stage.said() == [("informational", 1, 103)]
    assert exchange.state is SENT
    stage.answer(Response(1, Head.response(200), True))
    assert stage.said() == [("response", 1, 200, True)]


def test_an_interim_response_that_cannot_be_passed_on_is_left_out() -> None:
    """It decides nothing, so neither the exchange nor the others on that connection suffer."""
    stage = Stage()
    stage.ask()
    stage.answer(Informational(1, Head.response(103, [(b"x-cannot-be-said", b"1")])))
    stage.answer(Response(1, Head.response(200), True))
    assert stage.said() == [("response", 1, 200, True)]


@pytest.mark.parametrize("side", ["request", "response"])
def test_trailers_that_cannot_be_passed_on_fail_only_their_exchange(side: str) -> None:
    """The message is not passed off as whole, and the connection's other exchanges go on."""
    stage = Stage()
    stage.ask(b"POST", end=False)
    bad = Trailers(1, ((b"x-cannot-be-said", b"1"),))
    if side == "request":
        stage.downstream.handle([bad])
        assert stage.outcomes() == [("failed", 400, "unsendable")]
    else:
        stage.downstream.handle([Data(1, b"", True)])
        stage.answer(Response(1, Head.response(200), False), bad)
        assert [command[0] for command in stage.said()] == ["response", "reset"]
        assert stage.outcomes() == [("failed", 200, "upstream_protocol")]
    assert stage.pending() == 0


@pytest.mark.parametrize(
    ("value", "known"), [(b"0", 0), (b"14", 14), (b"", 2), (b"x", 2), (b"-1", 2), (b"9999", 2), (None, 2)]
)
@pytest.mark.parametrize("trailers_only", [False, True])
def test_grpc_status_is_read_where_it_stands(value: bytes | None, known: int, trailers_only: bool) -> None:
    """From the trailers or a trailers-only head; what is no status counts as UNKNOWN."""
    stage = Stage()
    exchange = stage.ask(b"POST", fields=(GRPC,))
    fields = () if value is None else ((b"grpc-status", value),)
    if trailers_only:
        stage.answer(Response(1, Head.response(200, fields), True))
    else:
        stage.answer(Response(1, Head.response(200), False), Trailers(1, fields))
        assert stage.said()[-1] == ("trailers", 1, fields)
    assert exchange.grpc_status == known
    assert [one.key.protocol for one in stage.reports.series] == ["grpc"]


def test_an_answer_before_the_request_is_whole_ends_the_upstream_stream() -> None:
    """RFC 9113 section 8.1: the rest of the request has nobody to go to; the client's bytes are still given back."""
    stage = Stage()
    stage.ask(b"POST", end=False)
    stage.answer(Response(1, Head.response(413), True))
    assert stage.asked() == [("request", 1, b"/", False), ("reset", 1, 0)]
    stage.downstream.handle([Data(1, b"too much", True)])
    assert stage.codec.acknowledged[1] == 8
    assert stage.outcomes() == [("completed", 413, "")]


@pytest.mark.parametrize("client_first", [True, False])
def test_a_tunnel_ends_when_both_sides_have(client_first: bool) -> None:
    """CONNECT with 200: each direction is closed by its own end."""
    stage = Stage()
    stage.downstream.handle([Request(1, Head.request(b"CONNECT", b"", authority=b"votes:80"), False)])
    stage.answer(Response(1, Head.response(200), False), Data(1, b"hi", False))
    ends = [lambda: stage.downstream.handle([Data(1, b"x", True)]), lambda: stage.answer(Data(1, b"y", True))]
    first, second = ends if client_first else reversed(ends)
    first()
    assert stage.outcomes() == []
    second()
    assert stage.outcomes() == [("completed", 200, "")]
    assert ("data", 1, b"x", True) in stage.asked()
    assert ("data", 1, b"y", True) in stage.said()
    assert stage.codec.acknowledged[1] == 1
    assert stage.up.leg.codec.acknowledged[1] == 3


def test_a_tunnel_outlives_the_times_of_a_request() -> None:
    """Once it is a conversation neither the request's timeout nor that of a try ends it."""
    stage = Stage(timeouts=Timeouts(request=1.0, backend_request=0.5))
    stage.downstream.handle([Request(1, Head.request(b"CONNECT", b"", authority=b"votes:80"), False)])
    stage.answer(Response(1, Head.response(200), False))
    stage.pass_time(5.0)
    assert stage.outcomes() == []
    stage.answer(Data(1, b"y", True))
    stage.downstream.handle([Data(1, b"", True)])
    assert stage.outcomes() == [("completed", 200, "")]


@pytest.mark.parametrize("state", [QUEUED, SENT, ANSWERING])
def test_a_client_that_resets_takes_the_upstream_with_it(state: State) -> None:
    """The upstream's stream is reset in the same step; nothing more is said to the client."""
    stage, exchange = in_state(state)
    stage.said()
    stage.codec.gone(1)
    stage.downstream.handle([Reset(1, 8, False, "cancelled")])
    assert exchange.state is DONE
    assert stage.said() == []
    if state is not QUEUED:
        assert stage.asked()[-1] == ("reset", 1, 8)
    assert stage.outcomes() == [("client_cancelled", exchange.status, "")]
    assert stage.pending() == 0
    assert not stage.endpoints[0].queue


def test_a_client_connection_that_is_lost_cancels_all_its_exchanges() -> None:
    """Each gets its outcome and each upstream stream its reset."""
    stage = Stage()
    for _ in range(3):
        stage.ask()
    stage.codec.closed |= {1, 3, 5}
    stage.downstream.lost("reset")
    assert stage.outcomes() == [("client_cancelled", 0, "")] * 3
    assert [command[:2] for command in stage.asked()[3:]] == [("reset", 1), ("reset", 3), ("reset", 5)]


# --- errors -----------------------------------------------------------------------------


def test_a_head_that_the_upstream_cannot_carry_is_refused_with_400() -> None:
    """It never reaches the application, and the connection it was for stays usable."""
    stage = Stage()
    stage.ask(path=LOST)
    assert stage.said()[0] == ("response", 1, 400, False)
    assert stage.outcomes() == [("failed", 400, "unsendable")]
    assert stage.pending() == 0
    assert stage.asked() == []


def test_a_response_that_the_client_cannot_be_told_is_502() -> None:
    """The upstream's stream is reset, the client gets an error of ours."""
    stage = Stage()
    stage.ask()
    stage.answer(Response(1, Head.response(200, [(b"x-cannot-be-said", b"1")]), False))
    assert stage.said()[0] == ("response", 1, 502, False)
    assert stage.asked()[-1] == ("reset", 1, 8)
    assert stage.outcomes() == [("failed", 502, "upstream_protocol")]


@pytest.mark.parametrize("answering", [False, True])
def test_a_malformed_answer_is_502_or_a_reset(answering: bool) -> None:
    """Refused by the codec, counted by its reason."""
    stage = Stage()
    stage.ask()
    if answering:
        stage.answer(Response(1, Head.response(200), False))
    stage.up.leg.codec.gone(1)
    stage.answer(Refused(1, "length_mismatch"))
    assert stage.said()[-1][:2] == (("reset", 1) if answering else ("data", 1))
    assert stage.outcomes() == [("failed", 200 if answering else 502, "upstream_protocol")]
    assert stage.reports.refusals == {("length_mismatch", "votes"): 1}


def test_an_upstream_connection_that_breaks_fails_all_on_it() -> None:
    """Every exchange is told the detail; the connection takes no more."""
    stage = Stage()
    first, second = stage.ask(), stage.ask()
    stage.up.leg.codec.closed |= {1, 3}
    stage.answer(Broken("bad_frame", "a frame of unknown size"))
    assert stage.outcomes() == [("failed", 502, "upstream_protocol")] * 2
    assert (first.state, second.state) == (DONE, DONE)
    assert not stage.endpoints[0].connections
    assert stage.pending() == 0


def test_goaway_keeps_what_is_under_way_and_sends_new_requests_elsewhere() -> None:
    """The streams below its last one finish; the connection is not chosen again."""
    stage = Stage()
    stage.ask()
    stage.answer(GoAway(1, 0))
    again = stage.ask()
    assert again.state is QUEUED
    stage.answer(Response(1, Head.response(200), True))
    assert stage.outcomes() == [("completed", 200, "")]


@pytest.mark.parametrize("grpc", [False, True])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_errors_are_told_in_the_clients_terms(grpc: bool, method: bytes) -> None:
    """HTTP gets status and line (HEAD no body), gRPC a trailers-only response."""
    stage = Stage()
    exchange = stage.ask(method, fields=(GRPC,) if grpc else ())
    exchange.fail(Reason.OVERLOADED, "too much", stage.now)
    head, *body = stage.said()
    assert head == ("response", 1, 200 if grpc else 503, grpc or method == b"HEAD")
    assert len(body) == (0 if grpc or method == b"HEAD" else 1)
    assert exchange.grpc_status == (8 if grpc else -1)


# --- deadlines --------------------------------------------------------------------------


@pytest.mark.parametrize("state", [QUEUED, SENT, ANSWERING])
def test_the_requests_own_deadline_expires_it_in_any_state(state: State) -> None:
    """504 before the response head, a reset after it; the upstream is reset; the outcome is `expired`."""
    stage = Stage(connected=state is not QUEUED, timeouts=Timeouts(request=1.0))
    stage.ask()
    if state is ANSWERING:
        stage.answer(Response(1, Head.response(200), False))
    stage.said()
    stage.pass_time(0.99)
    assert stage.said() == []
    stage.pass_time(0.01 + TICK)
    assert stage.said()[0][:2] == (("reset", 1) if state is ANSWERING else ("response", 1))
    assert stage.outcomes() == [("expired", 200 if state is ANSWERING else 504, "timeout")]
    assert stage.pending() == 0
    assert len(stage.deadlines) == 0
    if state is not QUEUED:
        assert stage.asked()[-1] == ("reset", 1, 8)


def test_waiting_for_an_endpoint_ends_after_the_pending_timeout() -> None:
    """With the reason that the service gives, and the exchange leaves the queue."""
    stage = Stage(endpoints=0, connected=False)
    exchange = stage.ask()
    stage.pass_time(LIMITS.pending_timeout + TICK)
    assert exchange.state is DONE
    assert stage.cluster.waiting == {}
    assert stage.outcomes() == [("failed", 503, "no_endpoints")]


def test_silence_ends_an_exchange_and_any_byte_puts_it_off() -> None:
    """`idle_tcp` counts from the last byte of either side."""
    stage = Stage()
    stage.ask(b"POST", end=False)
    for _ in range(3):
        stage.pass_time(LIMITS.idle_tcp - 1)
        stage.downstream.watch(stage.now)
        stage.downstream.handle([Data(1, b"x", False)])
    assert stage.outcomes() == []
    stage.pass_time(LIMITS.idle_tcp)
    stage.downstream.watch(stage.now)
    assert stage.outcomes() == [("expired", 504, "idle")]
    assert stage.pending() == 0
    assert stage.asked()[-1] == ("reset", 1, 8)


def test_the_services_own_bound_on_silence_counts() -> None:
    """A TrafficPolicy's `timeouts.idle` stands before the proxy's limit."""
    stage = Stage(timeouts=Timeouts(idle=2.0))
    stage.ask(b"POST", end=False)
    stage.pass_time(1.9)
    stage.downstream.watch(stage.now)
    assert stage.outcomes() == []
    stage.pass_time(0.2)
    stage.downstream.watch(stage.now)
    assert stage.outcomes() == [("expired", 504, "idle")]


# --- backpressure -----------------------------------------------------------------------


def test_a_congested_client_holds_the_upstream_back() -> None:
    """Bytes are owed while there is no room, and acknowledged once when there is."""
    stage = Stage()
    stage.ask()
    stage.codec.full = True
    stage.answer(Response(1, Head.response(200), False), Data(1, b"abc", False), Data(1, b"de", False))
    stage.downstream.leg.produce()
    assert stage.up.leg.codec.acknowledged[1] == 0
    stage.codec.full = False
    stage.downstream.leg.produce()
    stage.downstream.leg.produce()
    assert stage.up.leg.codec.acknowledged[1] == 5


def test_a_congested_upstream_holds_the_client_back() -> None:
    """The same the other way, with the exchange held once however much comes."""
    stage = Stage()
    stage.ask(b"POST", end=False)
    stage.up.leg.codec.full = True
    stage.downstream.handle([Data(1, b"abc", False), Data(1, b"de", False)])
    stage.up.leg.produce()
    assert stage.codec.acknowledged[1] == 0
    assert len(stage.up.leg.held) == 1
    stage.up.leg.codec.full = False
    stage.up.leg.produce()
    assert stage.codec.acknowledged[1] == 5
    assert stage.up.leg.held == []


def test_what_is_owed_is_given_back_when_the_exchange_ends() -> None:
    """A reset while both sides were congested leaves no window short."""
    stage = Stage()
    stage.ask(b"POST", end=False)
    stage.codec.full = stage.up.leg.codec.full = True
    stage.downstream.handle([Data(1, b"abc", False)])
    stage.answer(Response(1, Head.response(200), False), Data(1, b"de", False))
    stage.codec.gone(1)
    stage.downstream.handle([Reset(1, 8, False, "cancelled")])
    assert stage.codec.acknowledged[1] == 3
    assert stage.up.leg.codec.acknowledged[1] == 2
