"""The exchange as a playbook: events of two codecs go in, commands to two codecs come out; no socket, no clock.

Real are Exchange, Upstream, Downstream, Leg, Deadlines and Reports; the codecs, the channels and the choice of
endpoints are fakes. The fake codec keeps the rules of `mesh.wire.codec` and fails the test when they are broken.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mesh.model.config import Service, Timeouts
from mesh.model.limits import Limits
from mesh.proxy.again import REFUSED_ATTEMPTS
from mesh.proxy.balance import Load
from mesh.proxy.deadlines import TICK, Deadlines
from mesh.proxy.dial import ConnectFailed
from mesh.proxy.downstream import Downstream, Listener, Shared
from mesh.proxy.exchange import (
    ANSWERING,
    ASSIGNED,
    CANCELLED,
    DONE,
    FAILED,
    NEVER,
    QUEUED,
    RESPONSE,
    RETRY,
    SENT,
    TRANSITIONS,
    Exchange,
    Input,
    State,
)
from mesh.proxy.report import Reports
from mesh.proxy.rescue import Reason
from mesh.proxy.taps import Taps
from mesh.proxy.upstream import Upstream
from mesh.wire.codec import Broken, Data, GoAway, Informational, Refused, Request, Reset, Response, Trailers
from mesh.wire.head import Head, UnsendableHead

LIMITS = Limits(replay_bytes=100, pending_timeout=3.0, idle_tcp=60.0)
LOST = b"/cannot-be-said"


class FakeCodec:
    """Records commands as tuples; refuses what the codec's contract forbids; `full` makes it congested."""

    def __init__(self, name: str = "http2") -> None:
        self.name = name
        self.half_close = self.finished = self.full = self.due = self.restless = self.wants_write = False
        self.wants_read = self.can_open = True
        self.commands: list[tuple] = []
        self.acknowledged: Counter[int] = Counter()
        self.closed: set[int] = set()
        self.heads: set[int] = set()
        self.final: set[int] = set()
        self.next = 1

    def take_commands(self) -> list[tuple]:
        taken, self.commands = self.commands, []
        return taken

    def gone(self, stream: int) -> None:
        """The peer has ended the stream: nothing may be sent on it any more."""
        self.closed.add(stream)

    def _said(self, stream: int, *command: object) -> None:
        assert stream not in self.closed, f"{command} on stream {stream}, which is over"
        self.commands.append((command[0], stream, *command[1:]))

    def send_request(self, head: Head, end: bool) -> int:
        if head.path == LOST:
            raise UnsendableHead("path")
        assert self.can_open
        stream, self.next = self.next, self.next + 2
        self.heads.add(stream)
        self._said(stream, "request", head.path, end)
        if end:
            self.final.add(stream)
        return stream

    def send_response(self, stream: int, head: Head, end: bool) -> None:
        if head.get(b"x-cannot-be-said"):
            raise UnsendableHead("field_value")
        assert stream not in self.heads, "two response heads"
        self.heads.add(stream)
        self._said(stream, "response", head.status, end)
        if end:
            self.final.add(stream)

    def send_informational(self, stream: int, head: Head) -> None:
        if head.get(b"x-cannot-be-said"):
            raise UnsendableHead("field_value")
        assert stream not in self.heads, "an interim response after the final one"
        self._said(stream, "informational", head.status)

    def send_data(self, stream: int, data: bytes, end: bool) -> None:
        assert stream in self.heads, "body before a head"
        assert stream not in self.final, "body after the end"
        self._said(stream, "data", data, end)
        if end:
            self.final.add(stream)

    def send_trailers(self, stream: int, fields: tuple) -> None:
        if any(name == b"x-cannot-be-said" for name, _ in fields):
            raise UnsendableHead("field_value")
        assert stream in self.heads, "trailers before a head"
        assert stream not in self.final, "trailers after the end"
        self._said(stream, "trailers", fields)
        self.final.add(stream)

    def reset(self, stream: int, code: int) -> None:
        self._said(stream, "reset", code)
        self.closed.add(stream)

    def acknowledge(self, stream: int, amount: int) -> None:
        self.acknowledged[stream] += amount

    def queued(self, stream: int) -> int:
        return 1 << 30 if self.full else 0

    def receive(self, data: bytes) -> list:
        return []

    def tick(self, now: float) -> bool:
        return False

    def take(self) -> bytes:
        return b""

    def shutdown(self, final: bool) -> None:
        self.commands.append(("shutdown", 0, final))


class FakeChannel:
    backlog = b""

    def __init__(self, clock) -> None:
        self.reactor = SimpleNamespace(clock=clock)
        self.marked = 0

    def mark(self) -> None:
        self.marked += 1


class FakeEndpoint:
    """An endpoint whose connections the test makes and breaks: `dialled`, `refused`."""

    def __init__(self, cluster: FakeCluster, address: str) -> None:
        self.cluster = cluster
        self.address = address
        self.load = Load(1, 0.0)
        self.scope = cluster.shared.reports.scope("outbound", cluster.name, address, "disabled")
        self.queue: dict[Exchange, None] = {}
        self.upstreams: list[Upstream] = []
        self.retired = self.meshed = False
        self.probing = None
        self.judged: list[str] = []

    def succeeded(self, exchange, now: float) -> None:
        self.judged.append("")

    def failed(self, exchange, cause: str, now: float) -> None:
        self.judged.append(cause)

    def assign(self, exchange: Exchange, now: float) -> None:
        self.load.pending += 1
        for upstream in self.upstreams:
            if upstream.leg.codec.can_open:
                exchange.send(upstream, now)
                return
        self.queue[exchange] = None
        exchange.queue = self.queue
        exchange.endpoint = self

    def pump(self, now: float) -> None:
        for exchange in list(self.queue):
            for upstream in self.upstreams:
                if upstream.leg.codec.can_open and exchange in self.queue:
                    del self.queue[exchange]
                    exchange.queue = None
                    exchange.send(upstream, now)

    def dialled(self) -> Upstream:
        upstream = Upstream(self, FakeChannel(self.cluster.clock), FakeCodec())
        self.upstreams.append(upstream)
        self.cluster.made.append(upstream)
        self.pump(self.cluster.clock())
        return upstream

    def refused(self) -> None:
        for exchange in list(self.queue):
            if exchange in self.queue:
                del self.queue[exchange]
                exchange.queue = None
                self.load.pending -= 1
                failure = ConnectFailed(Reason.CONNECT_FAILED, "Connection refused", self.address)
                exchange.connect_failed(self, failure, self.cluster.clock())

    def withdraw(self, upstream: Upstream) -> None:
        if upstream in self.upstreams:
            self.upstreams.remove(upstream)

    def returned(self, upstream: Upstream) -> None:
        raise AssertionError("only HTTP/1.1 connections come back")


class FakeCluster:
    """A service whose endpoints are chosen in order, those tried before last."""

    def __init__(self, reports: Reports, clock) -> None:
        self.name = "votes"
        self.clock = clock
        self.request_timeout = 0.0
        self.governed = False
        self.outbound = True
        self.spec = Service("votes")
        self.shared = SimpleNamespace(limits=LIMITS, reports=reports)
        self.scope = reports.scope("outbound", "votes", "", "disabled")
        self.endpoints: list[FakeEndpoint] = []
        self.waiting: dict[Exchange, None] = {}
        self.made: list[Upstream] = []

    def add(self, address: str) -> FakeEndpoint:
        endpoint = FakeEndpoint(self, address)
        self.endpoints.append(endpoint)
        return endpoint

    def assign(self, exchange: Exchange, now: float) -> None:
        tried = exchange.tried or []
        found = [one for one in self.endpoints if one not in tried] or self.endpoints
        if found:
            found[0].assign(exchange, now)
        else:
            self.waiting[exchange] = None
            exchange.queue = self.waiting

    def why_pending(self, exchange: Exchange, now: float) -> tuple[Reason, str]:
        return Reason.NO_ENDPOINTS, "no endpoint became ready"


class Stage:
    """One client connection (HTTP/2) to one service, and a clock that the test moves."""

    def __init__(self, endpoints: int = 1, connected: bool = True) -> None:
        self.now = 1000.0
        clock = self.clock
        self.reports = Reports(1000)
        self.deadlines = Deadlines(clock)
        self.cluster = FakeCluster(self.reports, clock)
        self.endpoints = [self.cluster.add(f"10.0.0.{number}:80") for number in range(1, endpoints + 1)]
        shared = Shared(LIMITS, self.deadlines, self.reports, Taps(clock, "web"), clock)
        self.codec = FakeCodec()
        self.downstream = Downstream(
            shared,
            Listener("outbound", "127.0.0.1:4140", self.cluster, None),
            FakeChannel(clock),
            self.codec,
            number=1,
            peer="127.0.0.1:5000",
        )
        self.up = self.endpoints[0].dialled() if connected else None
        self.next = 1

    def clock(self) -> float:
        return self.now

    def ask(self, method: bytes = b"GET", path: bytes = b"/", end: bool = True, fields: tuple = ()) -> Exchange | None:
        """A request of the client; its exchange, or None if that is over already."""
        stream, self.next = self.next, self.next + 2
        head = Head.request(method, path, authority=b"votes", fields=fields)
        self.downstream.handle([Request(stream, head, end)])
        return self.downstream.exchanges.get(stream)

    def said(self) -> list[tuple]:
        """To the client, since the last time."""
        return self.codec.take_commands()

    def asked(self) -> list[tuple]:
        """To the first endpoint's first connection, since the last time."""
        return self.up.leg.codec.take_commands()

    def outcomes(self) -> list[tuple[str, int, str]]:
        """(outcome, status, error) of every report."""
        return sorted(
            (one.key.outcome, one.key.status, one.key.error) for one in self.reports.series for _ in range(one.requests)
        )

    def pending(self) -> int:
        return sum(endpoint.load.pending for endpoint in self.endpoints)


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


REACHED = {QUEUED: False, SENT: True, ANSWERING: True, DONE: True}
DRIVES = {
    ASSIGNED: lambda stage, exchange: exchange.send(stage.up or stage.endpoints[0].dialled(), stage.now),
    RESPONSE: lambda stage, exchange: exchange.response(Head.response(200), False, stage.now),
    CANCELLED: lambda stage, exchange: exchange.client_reset(stage.now),
    FAILED: lambda stage, exchange: exchange.fail(Reason.INTERNAL, "why", stage.now),
}


def in_state(state: State) -> tuple[Stage, Exchange]:
    stage = Stage(connected=REACHED[state])
    exchange = stage.ask()
    assert exchange is not None
    if state in (ANSWERING, DONE):
        stage.up.handle([Response(1, Head.response(200), False)])
    if state is DONE:
        stage.up.handle([Data(1, b"", True)])
    assert exchange.state is state
    return stage, exchange


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(DRIVES))
def test_an_input_is_listed_or_raises(state: State, event: Input) -> None:
    """What the table lists leads where it says; what it does not list is a bug, and raises."""
    stage, exchange = in_state(state)
    if event is ASSIGNED and state is QUEUED:
        stage.endpoints[0].dialled()  # takes it from the queue and sends it
        assert exchange.state is SENT
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
    stage.up.handle([Response(1, Head.response(200), False), Data(1, b"hello", False), Data(1, b"", True)])
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
    stage.up.handle([Response(1, Head.response(201), True)])
    assert stage.said() == [("response", 1, 201, True)]
    assert stage.outcomes() == [("completed", 201, "")]


def test_a_body_that_comes_while_queued_is_kept_and_then_sent() -> None:
    """Before a connection is there, body is held unacknowledged; the send gives all of it, in order."""
    stage = Stage(connected=False)
    exchange = stage.ask(b"PUT", end=False)
    stage.downstream.handle([Data(1, b"ab", False), Data(1, b"c", False)])
    assert stage.codec.acknowledged[1] == 0
    assert exchange.state is QUEUED
    up = stage.endpoints[0].dialled()
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
    stage.up.handle([Informational(1, Head.response(103))])
    assert stage.said() == [("informational", 1, 103)]
    assert exchange.state is SENT
    stage.up.handle([Response(1, Head.response(200), True)])
    assert stage.said() == [("response", 1, 200, True)]


def test_an_interim_response_that_cannot_be_passed_on_is_left_out() -> None:
    """It decides nothing, so neither the exchange nor the others on that connection suffer."""
    stage = Stage()
    stage.ask()
    stage.up.handle([Informational(1, Head.response(103, [(b"x-cannot-be-said", b"1")]))])
    stage.up.handle([Response(1, Head.response(200), True)])
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
        stage.up.handle([Response(1, Head.response(200), False), bad])
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
    exchange = stage.ask(b"POST", fields=((b"content-type", b"application/grpc"),))
    fields = () if value is None else ((b"grpc-status", value),)
    if trailers_only:
        stage.up.handle([Response(1, Head.response(200, fields), True)])
    else:
        stage.up.handle([Response(1, Head.response(200), False), Trailers(1, fields)])
        assert stage.said()[-1] == ("trailers", 1, fields)
    assert exchange.grpc_status == known
    assert [one.key.protocol for one in stage.reports.series] == ["grpc"]


def test_an_answer_before_the_request_is_whole_ends_the_upstream_stream() -> None:
    """RFC 9113 section 8.1: the rest of the request has nobody to go to; the client's bytes are still given back."""
    stage = Stage()
    stage.ask(b"POST", end=False)
    stage.up.handle([Response(1, Head.response(413), True)])
    assert stage.asked() == [("request", 1, b"/", False), ("reset", 1, 0)]
    stage.downstream.handle([Data(1, b"too much", True)])
    assert stage.codec.acknowledged[1] == 8
    assert stage.outcomes() == [("completed", 413, "")]


@pytest.mark.parametrize("client_first", [True, False])
def test_a_tunnel_ends_when_both_sides_have(client_first: bool) -> None:
    """CONNECT with 200: each direction is closed by its own end."""
    stage = Stage()
    stage.downstream.handle([Request(1, Head.request(b"CONNECT", b"", authority=b"votes:80"), False)])
    stage.up.handle([Response(1, Head.response(200), False), Data(1, b"hi", False)])
    ends = [lambda: stage.downstream.handle([Data(1, b"x", True)]), lambda: stage.up.handle([Data(1, b"y", True)])]
    first, second = ends if client_first else reversed(ends)
    first()
    assert stage.outcomes() == []
    second()
    assert stage.outcomes() == [("completed", 200, "")]
    assert ("data", 1, b"x", True) in stage.asked()
    assert ("data", 1, b"y", True) in stage.said()
    assert stage.codec.acknowledged[1] == 1
    assert stage.up.leg.codec.acknowledged[1] == 3


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


# --- retries ----------------------------------------------------------------------------


def reset(stage: Stage, up: Upstream, stream: int, unprocessed: bool) -> None:
    up.leg.codec.gone(stream)
    up.handle([Reset(stream, 7, unprocessed, "refused")])


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_an_unprocessed_request_is_sent_again_to_another_endpoint(method: bytes) -> None:
    """RFC 9113 section 8.7: whatever the method, with the body that was kept."""
    stage = Stage(endpoints=2)
    other = stage.endpoints[1].dialled()
    stage.ask(method, end=False)
    stage.downstream.handle([Data(1, b"body", True)])
    reset(stage, stage.up, 1, True)
    assert other.leg.codec.take_commands() == [("request", 1, b"/", False), ("data", 1, b"body", True)]
    assert stage.said() == []
    assert stage.outcomes() == []
    other.handle([Response(1, Head.response(200), True)])
    assert stage.outcomes() == [("completed", 200, "")]
    assert stage.codec.acknowledged[1] == 4
    assert stage.pending() == 0


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_request_that_never_reached_its_application_is_sent_to_another_endpoint(method: bytes) -> None:
    """The proxy beside the dead application says so; the client hears the other endpoint's answer only."""
    stage = Stage(endpoints=2)
    other = stage.endpoints[1].dialled()
    stage.ask(method, end=True)
    refusal = Head.response(503, [(b"conduit-error", b"connect_failed"), (b"content-length", b"5")])
    stage.up.handle([Response(1, refusal, False)])
    assert stage.said() == []
    assert other.leg.codec.take_commands() == [("request", 1, b"/", True)]
    other.handle([Response(1, Head.response(200), True)])
    assert stage.outcomes() == [("completed", 200, "")]
    assert stage.pending() == 0


def test_it_is_sent_on_also_where_the_one_that_refused_is_no_endpoint_any_more() -> None:
    """The control plane may have told of the death first: the only endpoint that is left has not been tried."""
    stage = Stage(endpoints=2)
    other = stage.endpoints[1].dialled()
    stage.ask(end=True)
    del stage.cluster.endpoints[0]
    stage.up.handle([Response(1, Head.response(503, [(b"conduit-error", b"connect_failed")]), True)])
    other.handle([Response(1, Head.response(200), True)])
    assert stage.outcomes() == [("completed", 200, "")]


def test_the_refusal_is_passed_on_where_there_is_no_other_endpoint() -> None:
    """To ask the same one again would change nothing."""
    stage = Stage(endpoints=1)
    stage.ask(b"GET", end=True)
    stage.up.handle([Response(1, Head.response(503, [(b"conduit-error", b"connect_failed")]), True)])
    assert stage.outcomes() == [("completed", 503, "")]


def test_an_applications_own_503_is_not_sent_again() -> None:
    """It has seen the request, and may have acted on it."""
    stage = Stage(endpoints=2)
    other = stage.endpoints[1].dialled()
    stage.ask(b"GET", end=True)
    stage.up.handle([Response(1, Head.response(503), True)])
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
    other = stage.endpoints[1].dialled()
    if served:
        stage.ask()
        stage.up.handle([Response(1, Head.response(200), True)])
        stage.said()
    exchange = stage.ask(method)
    reset(stage, stage.up, exchange.up_stream, False)
    if again:
        assert other.leg.codec.take_commands() == [("request", 1, b"/", True)]
    else:
        assert other.leg.codec.take_commands() == []
        assert next(command[:3] for command in stage.said()) == ("response", exchange.stream, 502)


def test_a_body_that_outgrew_the_replay_bound_is_not_sent_again() -> None:
    """Nothing is repeated that was not kept whole: the client gets the error."""
    stage = Stage(endpoints=2)
    stage.endpoints[1].dialled()
    stage.ask(b"PUT", end=False)
    stage.downstream.handle([Data(1, b"x" * (LIMITS.replay_bytes + 1), False)])
    reset(stage, stage.up, 1, True)
    assert stage.outcomes() == [("failed", 502, "upstream_reset")]


@pytest.mark.parametrize("body", [b"", b"body"])
def test_a_request_with_trailers_is_not_sent_again_without_them(body: bytes) -> None:
    """Trailers are not kept, so the request could only be repeated as another one."""
    stage = Stage(endpoints=2)
    other = stage.endpoints[1].dialled()
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
        endpoint.dialled()
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
        stage.endpoints[0].dialled()
        leaving.handle([GoAway(0, 0), Reset(exchange.up_stream, 7, True, "above the last stream")])
        assert exchange.state is SENT
        assert exchange.upstream is not leaving
    exchange.upstream.handle([Response(exchange.up_stream, Head.response(200), True)])
    assert stage.outcomes() == [("completed", 200, "")]
    assert stage.pending() == 0


def test_no_retry_once_the_client_heard_something() -> None:
    """After the response head only a reset can tell of the failure, even where the endpoint did nothing."""
    stage = Stage(endpoints=2)
    other = stage.endpoints[1].dialled()
    stage.ask()
    stage.up.handle([Response(1, Head.response(200), False)])
    reset(stage, stage.up, 1, True)
    assert other.leg.codec.take_commands() == []
    assert stage.said() == [("response", 1, 200, False), ("reset", 1, 7)]
    assert stage.outcomes() == [("failed", 200, "upstream_reset")]


def test_refused_connects_are_tried_elsewhere_and_then_told() -> None:
    """Each endpoint once, at most `connect_attempts`; the answer names the last endpoint and the cause."""
    stage = Stage(endpoints=2, connected=False)
    exchange = stage.ask()
    stage.endpoints[0].refused()
    assert exchange.queue is stage.endpoints[1].queue
    stage.endpoints[1].refused()
    (head, body) = stage.said()
    assert head == ("response", 1, 503, False)
    assert body == ("data", 1, b"service votes, endpoint 10.0.0.2:80: Connection refused\n", True)
    assert stage.outcomes() == [("failed", 503, "connect_failed")]
    assert stage.pending() == 0


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
    stage.up.handle([Response(1, Head.response(200, [(b"x-cannot-be-said", b"1")]), False)])
    assert stage.said()[0] == ("response", 1, 502, False)
    assert stage.asked()[-1] == ("reset", 1, 8)
    assert stage.outcomes() == [("failed", 502, "upstream_protocol")]


@pytest.mark.parametrize("answering", [False, True])
def test_a_malformed_answer_is_502_or_a_reset(answering: bool) -> None:
    """Refused by the codec, counted by its reason."""
    stage = Stage()
    stage.ask()
    if answering:
        stage.up.handle([Response(1, Head.response(200), False)])
    stage.up.leg.codec.gone(1)
    stage.up.handle([Refused(1, "length_mismatch")])
    assert stage.said()[-1][:2] == (("reset", 1) if answering else ("data", 1))
    assert stage.outcomes() == [("failed", 200 if answering else 502, "upstream_protocol")]
    assert stage.reports.refusals == {("length_mismatch", "votes"): 1}


def test_an_upstream_connection_that_breaks_fails_all_on_it() -> None:
    """Every exchange is told the detail; the connection takes no more."""
    stage = Stage()
    first, second = stage.ask(), stage.ask()
    stage.up.leg.codec.closed |= {1, 3}
    stage.up.handle([Broken("bad_frame", "a frame of unknown size")])
    assert stage.outcomes() == [("failed", 502, "upstream_protocol")] * 2
    assert (first.state, second.state) == (DONE, DONE)
    assert stage.endpoints[0].upstreams == []
    assert stage.pending() == 0


def test_goaway_keeps_what_is_under_way_and_sends_new_requests_elsewhere() -> None:
    """The streams below its last one finish; the connection is not chosen again."""
    stage = Stage()
    stage.ask()
    stage.up.handle([GoAway(1, 0)])
    again = stage.ask()
    assert again.state is QUEUED
    stage.up.handle([Response(1, Head.response(200), True)])
    assert stage.outcomes() == [("completed", 200, "")]


@pytest.mark.parametrize("grpc", [False, True])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_errors_are_told_in_the_clients_terms(grpc: bool, method: bytes) -> None:
    """HTTP gets status and line (HEAD no body), gRPC a trailers-only response."""
    stage = Stage()
    exchange = stage.ask(method, fields=((b"content-type", b"application/grpc"),) if grpc else ())
    exchange.fail(Reason.OVERLOADED, "too much", stage.now)
    head, *body = stage.said()
    assert head == ("response", 1, 200 if grpc else 503, grpc or method == b"HEAD")
    assert len(body) == (0 if grpc or method == b"HEAD" else 1)
    assert exchange.grpc_status == (8 if grpc else -1)


# --- deadlines --------------------------------------------------------------------------


def pass_time(stage: Stage, seconds: float) -> None:
    stage.now += seconds
    stage.deadlines.advance(stage.now)


@pytest.mark.parametrize("state", [QUEUED, SENT, ANSWERING])
def test_the_requests_own_deadline_expires_it_in_any_state(state: State) -> None:
    """504 before the response head, a reset after it; the upstream is reset; the outcome is `expired`."""
    stage = Stage(connected=state is not QUEUED)
    stage.cluster.request_timeout = 1.0
    stage.ask()
    if state is ANSWERING:
        stage.up.handle([Response(1, Head.response(200), False)])
    stage.said()
    pass_time(stage, 0.99)
    assert stage.said() == []
    pass_time(stage, 0.01 + TICK)
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
    pass_time(stage, LIMITS.pending_timeout + TICK)
    assert exchange.state is DONE
    assert stage.cluster.waiting == {}
    assert stage.outcomes() == [("failed", 503, "no_endpoints")]


def test_silence_ends_an_exchange_and_any_byte_puts_it_off() -> None:
    """`idle_tcp` counts from the last byte of either side."""
    stage = Stage()
    stage.ask(b"POST", end=False)
    for _ in range(3):
        pass_time(stage, LIMITS.idle_tcp - 1)
        stage.downstream.watch(stage.now)
        stage.downstream.handle([Data(1, b"x", False)])
    assert stage.outcomes() == []
    pass_time(stage, LIMITS.idle_tcp)
    stage.downstream.watch(stage.now)
    assert stage.outcomes() == [("expired", 504, "idle")]
    assert stage.pending() == 0
    assert stage.asked()[-1] == ("reset", 1, 8)


def test_the_services_own_bound_on_silence_counts() -> None:
    """A TrafficPolicy's `timeouts.idle` stands before the proxy's limit."""
    stage = Stage()
    stage.cluster.spec = Service("votes", timeouts=Timeouts(idle=2.0))
    stage.ask(b"POST", end=False)
    pass_time(stage, 1.9)
    stage.downstream.watch(stage.now)
    assert stage.outcomes() == []
    pass_time(stage, 0.2)
    stage.downstream.watch(stage.now)
    assert stage.outcomes() == [("expired", 504, "idle")]


# --- backpressure -----------------------------------------------------------------------


def test_a_congested_client_holds_the_upstream_back() -> None:
    """Bytes are owed while there is no room, and acknowledged once when there is."""
    stage = Stage()
    stage.ask()
    stage.codec.full = True
    stage.up.handle([Response(1, Head.response(200), False), Data(1, b"abc", False), Data(1, b"de", False)])
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
    stage.up.handle([Response(1, Head.response(200), False), Data(1, b"de", False)])
    stage.codec.gone(1)
    stage.downstream.handle([Reset(1, 8, False, "cancelled")])
    assert stage.codec.acknowledged[1] == 3
    assert stage.up.leg.codec.acknowledged[1] == 2


# --- every order ------------------------------------------------------------------------


class EveryOrder(RuleBasedStateMachine):
    """Requests on one client connection, two endpoints, and whatever can happen to them, in any order."""

    @initialize(connected=st.sampled_from([True, True, False]), down=st.booleans(), up=st.booleans())
    def begin(self, connected: bool, down: bool, up: bool) -> None:
        self.stage = Stage(endpoints=2, connected=connected)
        self.stage.codec.full = down
        if self.stage.up is not None:
            self.stage.up.leg.codec.full = up
        self.all: list[Exchange] = []
        self.request_bytes: Counter[int] = Counter()
        self.response_bytes: Counter[tuple[Upstream, int]] = Counter()
        self.client_open: set[int] = set()
        self.answered: set[tuple[Upstream, int]] = set()

    # what can be chosen from

    def running(self) -> list[Exchange]:
        return list(self.stage.downstream.exchanges.values())

    def pick(self, data: st.DataObject, found: list[Exchange]) -> Exchange:
        return data.draw(st.sampled_from(found))

    def sending(self) -> list[Exchange]:
        """Those whose client may still send."""
        return [one for one in self.running() if one.stream in self.client_open]

    def in_state(self, *states: State) -> list[Exchange]:
        return [one for one in self.running() if one.state in states]

    # the client

    @rule(
        method=st.sampled_from([b"GET", b"POST", b"CONNECT"]),
        end=st.booleans(),
        path=st.sampled_from([b"/", b"/", LOST]),
        timeout=st.sampled_from([0.0, 1.0]),
        grpc=st.booleans(),
    )
    def request(self, method: bytes, end: bool, path: bytes, timeout: float, grpc: bool) -> None:
        stage = self.stage
        stage.cluster.request_timeout = timeout
        stream = stage.next
        end = end and method != b"CONNECT"
        fields = ((b"content-type", b"application/grpc"),) if grpc else ()
        exchange = stage.ask(method, path if method != b"CONNECT" else b"", end, fields)
        if not end:
            self.client_open.add(stream)
        if exchange is not None:
            self.all.append(exchange)
        self.asked = getattr(self, "asked", 0) + 1

    @precondition(lambda self: self.client_open)
    @rule(data=st.data(), size=st.integers(0, 150), end=st.booleans())
    def client_data(self, data: st.DataObject, size: int, end: bool) -> None:
        stream = data.draw(st.sampled_from(sorted(self.client_open)))
        self.request_bytes[stream] += size
        if end:
            self.client_open.discard(stream)
        self.stage.downstream.handle([Data(stream, b"x" * size, end)])

    @precondition(lambda self: self.client_open)
    @rule(data=st.data(), bad=st.booleans())
    def client_trailers(self, data: st.DataObject, bad: bool) -> None:
        stream = data.draw(st.sampled_from(sorted(self.client_open)))
        self.client_open.discard(stream)
        self.stage.downstream.handle([Trailers(stream, ((b"x-cannot-be-said" if bad else b"a", b"1"),))])

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def client_reset(self, data: st.DataObject) -> None:
        stream = self.pick(data, self.running()).stream
        self.client_open.discard(stream)
        self.stage.codec.gone(stream)
        self.stage.downstream.handle([Reset(stream, 8, False, "cancelled")])

    # the endpoints

    @rule(which=st.integers(0, 1))
    def dialled(self, which: int) -> None:
        self.stage.endpoints[which].dialled()

    @rule(which=st.integers(0, 1))
    def refused(self, which: int) -> None:
        self.stage.endpoints[which].refused()

    @precondition(lambda self: self.in_state(SENT))
    @rule(data=st.data(), bad=st.booleans())
    def informational(self, data: st.DataObject, bad: bool) -> None:
        exchange = self.pick(data, self.in_state(SENT))
        head = Head.response(103, [(b"x-cannot-be-said", b"1")] if bad else [])
        exchange.upstream.handle([Informational(exchange.up_stream, head)])

    @precondition(lambda self: self.in_state(SENT))
    @rule(data=st.data(), end=st.booleans(), bad=st.booleans(), status=st.sampled_from([200, 204, 500]))
    def response(self, data: st.DataObject, end: bool, bad: bool, status: int) -> None:
        exchange = self.pick(data, self.in_state(SENT))
        end = end and exchange.head.method != b"CONNECT"
        fields = [(b"x-cannot-be-said", b"1")] if bad else [(b"grpc-status", b"0")]
        if end:
            self.answered.add((exchange.upstream, exchange.up_stream))
        exchange.upstream.handle([Response(exchange.up_stream, Head.response(status, fields), end)])

    def answering(self) -> list[Exchange]:
        return [one for one in self.in_state(ANSWERING) if not one.response_done]

    @precondition(lambda self: self.answering())
    @rule(data=st.data(), size=st.integers(0, 150), end=st.booleans())
    def response_data(self, data: st.DataObject, size: int, end: bool) -> None:
        exchange = self.pick(data, self.answering())
        self.response_bytes[exchange.upstream, exchange.up_stream] += size
        if end:
            self.answered.add((exchange.upstream, exchange.up_stream))
        exchange.upstream.handle([Data(exchange.up_stream, b"y" * size, end)])

    @precondition(lambda self: self.answering())
    @rule(data=st.data(), bad=st.booleans())
    def response_trailers(self, data: st.DataObject, bad: bool) -> None:
        exchange = self.pick(data, self.answering())
        name = b"x-cannot-be-said" if bad else b"grpc-status"
        self.answered.add((exchange.upstream, exchange.up_stream))
        exchange.upstream.handle([Trailers(exchange.up_stream, ((name, b"0"),))])

    @precondition(lambda self: self.in_state(SENT, ANSWERING))
    @rule(data=st.data(), unprocessed=st.booleans(), malformed=st.booleans())
    def upstream_reset(self, data: st.DataObject, unprocessed: bool, malformed: bool) -> None:
        exchange = self.pick(data, self.in_state(SENT, ANSWERING))
        before, upstream, stream = exchange.state, exchange.upstream, exchange.up_stream
        upstream.leg.codec.gone(stream)
        upstream.handle([Refused(stream, "malformed") if malformed else Reset(stream, 7, unprocessed, "reset")])
        if before is ANSWERING:
            assert exchange.state is DONE, "sent again after the client heard something"

    @precondition(lambda self: self.stage.cluster.made)
    @rule(data=st.data(), how=st.sampled_from(["lost", "broken", "goaway"]))
    def connection_ends(self, data: st.DataObject, how: str) -> None:
        upstream = data.draw(st.sampled_from(self.stage.cluster.made))
        if how == "goaway":
            upstream.leg.codec.can_open = False
            upstream.handle([GoAway(upstream.leg.codec.next, 0)])
            return
        self.stage.cluster.made.remove(upstream)
        upstream.leg.codec.can_open = False
        upstream.leg.codec.closed |= set(upstream.exchanges)
        if how == "broken":
            upstream.handle([Broken("bad_frame", "a frame that is none")])
        upstream.leg.lost("reset")
        assert upstream.exchanges == {}

    # congestion and time

    @precondition(lambda self: self.stage.cluster.made)
    @rule(data=st.data(), full=st.booleans())
    def upstream_congestion(self, data: st.DataObject, full: bool) -> None:
        upstream = data.draw(st.sampled_from(self.stage.cluster.made))
        upstream.leg.codec.full = full
        upstream.leg.produce()
        if not full:
            assert all(one.owed_request == 0 for one in upstream.exchanges.values())

    @rule(full=st.booleans())
    def client_congestion(self, full: bool) -> None:
        self.stage.codec.full = full
        self.stage.downstream.leg.produce()
        if not full:
            assert all(one.owed_response == 0 for one in self.running())

    @rule(seconds=st.sampled_from([0.01, 0.5, 2.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        pass_time(self.stage, seconds)
        self.stage.downstream.watch(self.stage.now)

    # what must hold

    @invariant()
    def nothing_is_forgotten_or_counted_twice(self) -> None:
        """Load is what is under way; queues hold only what waits; windows are never given more than was taken."""
        if not hasattr(self, "stage"):
            return
        stage = self.stage
        for endpoint in stage.endpoints:
            under_way = sum(one.endpoint is endpoint and one.upstream is not None for one in self.running())
            assert endpoint.load.pending == under_way + len(endpoint.queue)
            assert all(one.state is QUEUED and one.queue is endpoint.queue for one in endpoint.queue)
        assert all(one.state is not DONE for one in self.running())
        assert all(one in one.slot for one in self.running() if one.state is QUEUED or one.deadline < NEVER)
        assert len(stage.deadlines) <= len(self.running())
        for stream, taken in self.request_bytes.items():
            assert stage.codec.acknowledged[stream] <= taken

    def teardown(self) -> None:
        """Everything ends: one report for each request, every byte given back, nothing left behind."""
        if not hasattr(self, "stage"):
            return
        stage = self.stage
        for stream in list(stage.downstream.exchanges):
            stage.codec.gone(stream)
        stage.downstream.lost("the end")
        assert len(stage.outcomes()) == getattr(self, "asked", 0)
        assert stage.pending() == 0
        assert len(stage.deadlines) == 0
        assert not any(endpoint.queue for endpoint in stage.endpoints)
        assert not stage.cluster.waiting
        for stream, taken in self.request_bytes.items():
            assert stage.codec.acknowledged[stream] == taken
        for (upstream, stream), taken in self.response_bytes.items():
            assert upstream.leg.codec.acknowledged[stream] == taken
        for exchange in self.all:
            assert exchange.state is DONE
            assert exchange.owed_request == exchange.owed_response == 0
        for upstream in stage.cluster.made:
            assert not upstream.exchanges
            codec = upstream.leg.codec
            for stream in codec.heads - codec.closed:  # neither side ended it early: so both have come to their end
                assert stream in codec.final
                assert (upstream, stream) in self.answered


EveryOrder.TestCase.settings = settings(
    max_examples=250, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


class TestEveryOrder(EveryOrder.TestCase):
    """Hypothesis plays events in random orders."""
