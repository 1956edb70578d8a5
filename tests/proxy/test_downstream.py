"""A client's connection: events become exchanges; what has no cluster is answered here; every end is reported once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mesh.model.limits import Limits
from mesh.proxy.deadlines import Deadlines
from mesh.proxy.directory import Loop, NotAnAuthority
from mesh.proxy.downstream import Downstream, Listener, Shared
from mesh.proxy.report import Reports
from mesh.proxy.rescue import Reason
from mesh.proxy.taps import Taps
from mesh.wire.codec import Role
from mesh.wire.http1 import Http1
from mesh.wire.http2 import Http2


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
