"""A client's connection: events become exchanges; what has no cluster is answered here; every end is reported once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mesh.model.config import Timeouts
from mesh.model.limits import Limits
from mesh.model.traffic import Backend, Route, Traffic
from mesh.proxy.deadlines import Deadlines
from mesh.proxy.directory import Loop, NotAnAuthority
from mesh.proxy.downstream import Downstream, Listener, Shared
from mesh.proxy.exchange import NEVER
from mesh.proxy.report import Reports
from mesh.proxy.rescue import Reason
from mesh.proxy.taps import Taps
from mesh.wire.codec import Response, Role
from mesh.wire.head import Head
from mesh.wire.http1 import Http1
from mesh.wire.http2 import Http2
from tests.proxy.playbook import Stage


class Channel:
    """Counts marks: a downstream that has something to say must ask to be flushed."""

    backlog = b""

    def __init__(self) -> None:
        self.dirty = False
        self.ended: list[str] = []

    def mark(self) -> None:
        self.dirty = True

    def end(self, reason: str) -> None:
        self.ended.append(reason)


class Service:
    """A cluster that answers every request at once with an error of its own, so that no upstream is needed."""

    request_timeout = 0.0
    governed = False
    access = exit = None

    def __init__(self, reports: Reports, name: str = "votes") -> None:
        self.name = name
        self.scope = reports.scope("outbound", name, "", "disabled")
        self.asked: list[bytes] = []

    def assign(self, exchange, now: float) -> None:
        self.asked.append(exchange.head.path)
        exchange.fail(Reason.NO_ENDPOINTS, "nobody is there", now)


class Names:
    """A directory of one service, one loop, and nothing else."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def resolve(self, authority: bytes, scheme: bytes) -> Service:
        match authority:
            case b"votes" | b"votes:443":
                return self.service
            case b"self":
                raise Loop("127.0.0.1:4140 is this proxy itself")
        raise NotAnAuthority("that is no host")


class Client:
    """Bytes in, bytes out, through a real codec."""

    def __init__(self, codec=Http1, direction: str = "outbound", limits: Limits | None = None, **who: str) -> None:
        limits = limits or Limits()
        self.now = 100.0
        self.reports = Reports(100)
        self.service = Service(self.reports)
        clock = lambda: self.now  # noqa: E731
        shared = Shared(limits, Deadlines(clock), self.reports, Taps(clock, "web"), clock)
        self.channel = Channel()
        self.codec = codec(Role.SERVER, limits)
        self.codec.start()
        self.channel.reactor = SimpleNamespace(clock=clock)
        listener = Listener(direction, "127.0.0.1:4140", None, Names(self.service))
        self.downstream = Downstream(shared, listener, self.channel, self.codec, number=1, peer="c:1", **who)

    def say(self, data: bytes) -> bytes:
        """All that the proxy sends in answer to `data`, flushing as often as it asks for."""
        self.channel.dirty = False
        self.downstream.leg.received(data)
        out = b""
        for _ in range(100):
            if not self.channel.dirty:
                return out
            self.channel.dirty = False
            out += self.downstream.leg.produce()
        raise AssertionError("it never stops asking for flushes")

    def reported(self) -> list[tuple[str, str, int, str]]:
        return sorted(
            (one.key.service, one.key.outcome, one.key.status, one.key.error)
            for one in self.reports.series
            for _ in range(one.requests)
        )


def get(path: str = "/", host: str = "votes") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def test_an_error_is_answered_and_reported_under_the_service() -> None:
    """The client gets status, reason and line; one report is made."""
    client = Client()
    answer = client.say(get())
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"conduit-error: no_endpoints\r\n" in answer
    assert answer.endswith(b"service votes: nobody is there\n")
    assert client.reported() == [("votes", "failed", 503, "no_endpoints")]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_pipelined_requests_are_answered_in_order(count: int) -> None:
    """All in one segment, each served when the response before it is out."""
    client = Client()
    answer = client.say(b"".join(get(f"/{number}") for number in range(count)))
    assert answer.count(b"HTTP/1.1 503 ") == count
    assert client.service.asked == [b"/%d" % number for number in range(count)]


@pytest.mark.parametrize(("host", "status", "error"), [("self", 508, "loop"), ("nobody", 502, "unknown_authority")])
@pytest.mark.parametrize("count", [1, 3])
def test_what_names_nobody_is_answered_here(host: str, status: int, error: str, count: int) -> None:
    """Without a cluster, with a report, pipelined or not; the connection stays."""
    client = Client()
    answer = client.say(get(host=host) * count + get())
    assert answer.count(b"HTTP/1.1 %d " % status) == count
    assert answer.count(b"HTTP/1.1 503 ") == 1
    assert client.reported() == [("(none)", "failed", status, error)] * count + [
        ("votes", "failed", 503, "no_endpoints")
    ]
    assert client.reports.refusals == {(error, "outbound"): count}


def test_a_refused_head_is_no_answer_with_a_body() -> None:
    """HEAD to nobody: the response ends with its head, and the next request is read as one."""
    client = Client()
    head = get(host="self").replace(b"GET", b"HEAD")
    answer = client.say(head + get())
    assert b"this proxy itself" not in answer
    assert answer.count(b"HTTP/1.1 ") == 2


def test_connect_hands_the_connection_over() -> None:
    """200, and the supervisor is told where it goes; no exchange, no report."""
    client = Client()
    answer = client.say(b"CONNECT votes:443 HTTP/1.1\r\nHost: votes:443\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert client.downstream.tunnel_to is client.service
    assert client.downstream.handed_over.is_set()
    assert client.reported() == []


@pytest.mark.parametrize(
    "data", [b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"]
)
def test_malformed_requests_are_refused_and_counted(data: bytes) -> None:
    """400 and close, a refusal with its reason, nothing for any service."""
    client = Client()
    answer = client.say(data)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert client.service.asked == []
    assert sum(client.reports.refusals.values()) == 1


@pytest.mark.parametrize(
    ("direction", "identity", "peer"),
    [("outbound", "web.demo", ""), ("inbound", "web.demo", "web.demo"), ("inbound", "", "")],
)
def test_reports_name_the_peer_of_their_direction(direction: str, identity: str, peer: str) -> None:
    """Inbound the client's identity; outbound the endpoint, of which there was none."""
    client = Client(direction=direction, identity=identity)
    client.say(get())
    (series,) = client.reports.series
    assert (series.key.direction, series.key.peer) == (direction, peer)


def test_a_tap_sees_request_response_and_end() -> None:
    """While a session matches, each exchange leaves its three events."""
    from mesh.model.reports import TapMatch

    client = Client()
    client.downstream.taps.start(7, TapMatch())
    client.say(get("/a"))
    (tapped,) = client.downstream.taps.take()
    assert [event.event for event in tapped.events] == ["req", "rsp", "end"]
    assert {(event.id, event.path, event.service) for event in tapped.events} == {("1:1", "/a", "votes")}
    assert tapped.events[-1].error == "no_endpoints"


def test_a_slow_head_ends_the_connection() -> None:
    """Dribbled bytes do not keep a connection: the head as a whole has `header_timeout`, and the refusal is counted."""
    client = Client(limits=Limits(header_timeout=10.0))
    for byte in get()[:-1]:
        client.say(bytes([byte]))
        client.now += 0.5
        client.downstream.watch(client.now)
        if client.channel.ended:
            break
    assert 110.0 <= client.now <= 112.0
    assert client.reports.refusals == {("header_timeout", "outbound"): 1}


def test_waiting_between_requests_is_no_slow_head() -> None:
    """An idle keep-alive connection is left to its idle timeout."""
    client = Client(limits=Limits(header_timeout=10.0))
    for _ in range(3):
        assert client.say(get()).startswith(b"HTTP/1.1 503 ")
        for _ in range(30):
            client.now += 1.0
            client.downstream.watch(client.now)
    assert client.channel.ended == []


@pytest.mark.parametrize("codec", [Http1, Http2])
def test_drain_tells_the_client(codec: type) -> None:
    """Not final: what is under way and what races goes on. Final: an idle connection ends."""
    client = Client(codec)
    client.downstream.leg.produce()
    client.downstream.drain(False)
    if codec is Http2:
        assert client.downstream.leg.produce()[3:4] == b"\x07"
    client.downstream.drain(True)
    client.downstream.leg.produce()
    assert client.channel.dirty
    assert client.codec.finished


def test_repr_tells_who_and_what() -> None:
    """For /tasks, logs and debuggers."""
    assert repr(Client().downstream) == "<Downstream 1 http1 from c:1, 0 exchanges>"


# --- what a request says of its time and its way ----------------------------------------


@pytest.mark.parametrize(
    ("fields", "grpc", "seconds"),
    [
        ([], False, NEVER),
        ([], True, NEVER),
        ([(b"grpc-timeout", b"1500m")], True, 1.5),
        ([(b"grpc-timeout", b"1500m")], False, NEVER),
        ([(b"conduit-timeout-ms", b"250")], False, 0.25),
        ([(b"conduit-timeout-ms", b"250"), (b"grpc-timeout", b"1S")], True, 0.25),
        ([(b"conduit-timeout-ms", b"2500"), (b"grpc-timeout", b"1S")], True, 1.0),
        ([(b"grpc-timeout", b"soon")], True, NEVER),
        ([(b"grpc-timeout", b"123456789S")], True, NEVER),
        ([(b"grpc-timeout", b"")], True, NEVER),
        ([(b"conduit-timeout-ms", b"-1")], False, NEVER),
        ([(b"conduit-timeout-ms", b"1.5")], False, NEVER),
        ([(b"conduit-timeout-ms", b"9999999999")], False, NEVER),
        ([(b"conduit-timeout-ms", b"x"), (b"grpc-timeout", b"2S")], True, 2.0),
        ([(b"conduit-timeout-ms", b"3000"), (b"grpc-timeout", b"x")], True, 3.0),
    ],
)
@pytest.mark.parametrize("outbound", [True, False])
def test_a_request_may_bring_its_deadline(fields: list, grpc: bool, seconds: float, outbound: bool) -> None:
    """Of two the shorter wins; what is malformed is none. A gRPC call's own field counts for gRPC only."""
    stage = Stage(connected=False, outbound=outbound)
    exchange = stage.ask(b"POST", fields=fields, grpc=grpc)
    assert exchange.deadline - stage.now == pytest.approx(seconds)


@pytest.mark.parametrize(("asked", "expected"), [(b"500", 0.5), (b"5000", 2.0)])
def test_a_deadline_that_is_brought_along_only_shortens(asked: bytes, expected: float) -> None:
    """The service's own stays what it is at most."""
    stage = Stage(connected=False, timeouts=Timeouts(request=2.0))
    exchange = stage.ask(fields=[(b"conduit-timeout-ms", asked)])
    assert exchange.deadline - stage.now == pytest.approx(expected)


@pytest.mark.parametrize("seconds", [b"0", b"0n"])
def test_a_deadline_of_nothing_is_over_at_once(seconds: bytes) -> None:
    """It is answered as any that has passed."""
    stage = Stage()
    fields = [(b"grpc-timeout" if seconds.endswith(b"n") else b"conduit-timeout-ms", seconds)]
    stage.ask(b"POST", fields=fields, grpc=True)
    stage.pass_time(0.1)
    assert [(one.key.error, one.key.grpc_status) for one in stage.reports.series] == [("timeout", 4)]
    stage.settled()


@pytest.mark.parametrize(
    ("outbound", "client", "mark", "grpc", "protocol", "is_grpc"),
    [
        (False, "http2", b"http1", False, "http1", False),
        (False, "http2", b"http1", True, "http1", False),
        (False, "http2", b"http2", False, "http2", False),
        (False, "http2", b"http2", True, "http2", True),
        (False, "http1", b"http1", False, "http1", False),
        (True, "http2", b"http1", False, "http2", False),
        (True, "http2", b"http1", True, "http2", True),
    ],
)
def test_what_was_made_in_http1_reaches_the_application_so(
    outbound: bool, client: str, mark: bytes, grpc: bool, protocol: str, is_grpc: bool
) -> None:
    """The mark of another proxy counts on inbound listeners only, whatever the content is called; an application's own
    does nothing."""
    stage = Stage(connected=False, outbound=outbound, client=client)
    exchange = stage.ask(fields=[(b"conduit-orig-proto", mark)], grpc=grpc)
    assert (exchange.protocol, exchange.is_grpc) == (protocol, is_grpc)
    assert stage.endpoints[0].to_dial == [protocol == "http2"]


# --- reports ----------------------------------------------------------------------------


@pytest.mark.parametrize("answered", [True, False])
def test_a_report_names_the_route_and_what_was_asked_for(answered: bool) -> None:
    """The parent service, however the backend is called; the peer is the endpoint that answered."""
    stage = Stage(connected=False, others={"votes-v2": 1})
    route = Route("canary/0", backends=(Backend("votes-v2"),))
    stage.update(traffic=Traffic(routed=True, routes=(route,)))
    exchange = stage.ask()
    assert exchange.cluster.name == "votes-v2"
    backend = stage.directory.services["votes-v2"].endpoints[0]
    if answered:
        upstream = stage.connect(backend)
        stage.hear(upstream, Response(exchange.up_stream, Head.response(200), True))
    else:
        exchange.client_reset(stage.now)
    (series,) = stage.reports.series
    assert (series.key.service, series.key.route, series.key.peer) == ("votes", "canary/0", backend.address)
    assert series.key.direction == "outbound"


def test_a_request_that_no_route_matches_is_reported_without_one() -> None:
    """404, under the service that was asked for."""
    stage = Stage(connected=False)
    stage.update(traffic=Traffic(routed=True))
    assert stage.ask() is None
    assert [(one.key.service, one.key.route, one.key.status, one.key.error) for one in stage.reports.series] == [
        ("votes", "", 404, "no_route")
    ]


def test_a_tap_names_the_route() -> None:
    """As well as what was asked for, in each of its events."""
    from mesh.model.reports import TapMatch

    stage = Stage(connected=False, others={"votes-v2": 1})
    route = Route("canary/0", backends=(Backend("votes-v2"),))
    stage.update(traffic=Traffic(routed=True, routes=(route,)))
    stage.taps.start(1, TapMatch())
    exchange = stage.ask()
    upstream = stage.connect(stage.directory.services["votes-v2"].endpoints[0])
    stage.hear(upstream, Response(exchange.up_stream, Head.response(200), True))
    (tapped,) = stage.taps.take()
    assert [event.event for event in tapped.events] == ["req", "rsp", "end"]
    assert {(event.service, event.route) for event in tapped.events} == {("votes", "canary/0")}
    assert tapped.events[-1].retries == 0


@pytest.mark.parametrize(
    ("kind", "grpc"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc-web+proto", False),
        (b"application/json", False),
    ],
)
def test_grpc_is_known_by_its_content_type(kind: bytes, grpc: bool) -> None:
    """gRPC-Web's begins alike and is ordinary HTTP: its status is in its body."""
    stage = Stage()
    stage.ask(method=b"POST", fields=[(b"content-type", kind)])
    (exchange,) = stage.downstream.exchanges.values()
    assert exchange.is_grpc is grpc
