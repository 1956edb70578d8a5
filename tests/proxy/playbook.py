"""A stage for playbooks: events go in, commands to codecs come out; no socket, no task, no clock but a number.

Real are the exchange, its care, hedges and mirrors, Downstream, Upstream, Leg, Deadlines, Reports, Directory, Cluster
with its plan, balancer and budget, and Endpoint with its queue and circuit. The codecs and channels are fakes, and
nobody dials: an endpoint's wish for a connection stands in `to_dial` until the test has it `connect` or `refuse`. The
fake codec keeps the rules of `mesh.wire.codec` and fails the test when they are broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import msgspec

from mesh.model.config import Endpoint as EndpointSpec
from mesh.model.config import Protocol, Service, Timeouts
from mesh.model.limits import Limits
from mesh.model.traffic import Traffic
from mesh.proxy.cluster import Cluster
from mesh.proxy.cluster import Shared as ClusterShared
from mesh.proxy.deadlines import TICK, Deadlines, Expiring
from mesh.proxy.dial import ConnectFailed
from mesh.proxy.directory import Directory
from mesh.proxy.downstream import Downstream, Listener, Shared
from mesh.proxy.endpoint import Endpoint
from mesh.proxy.exchange import Exchange
from mesh.proxy.report import Reports
from mesh.proxy.rescue import Reason
from mesh.proxy.taps import Taps
from mesh.proxy.upstream import Upstream
from mesh.wire.codec import Data, Event, Request, Response, Trailers
from mesh.wire.head import Head, UnsendableHead

LIMITS = Limits(replay_bytes=100, pending_timeout=3.0, idle_tcp=60.0)
LOST = b"/cannot-be-said"
GRPC = (b"content-type", b"application/grpc")
OK = Head.response(200)
LATE = TICK * 1.01
"""Seconds after which what is due has surely happened."""


class FakeCodec:
    """Records commands as tuples; refuses what the codec's contract forbids; `full` makes it congested.

    `heads` are what was sent, by stream. `final` and `over` are the streams that our side, and the peer's, have brought
    to their end; `closed` those that either ended early. One called http1 has one stream at a time."""

    def __init__(self, name: str = "http2") -> None:
        self.name = name
        self.half_close = self.finished = self.full = self.due = self.restless = self.wants_write = False
        self.wants_read = self.alive = True
        self.commands: list[tuple] = []
        self.acknowledged: Counter[int] = Counter()
        self.heads: dict[int, Head] = {}
        self.final: set[int] = set()
        self.over: set[int] = set()
        self.closed: set[int] = set()
        self.next = 1

    @property
    def can_open(self) -> bool:
        if self.name == "http1":
            return self.alive and all(one in self.final and one in self.over for one in self.heads)
        return self.alive

    def take_commands(self) -> list[tuple]:
        taken, self.commands = self.commands, []
        return taken

    def gone(self, stream: int) -> None:
        """The peer has ended the stream: nothing may be sent on it any more."""
        self.closed.add(stream)
        if self.name == "http1":
            self.alive = False

    def heard(self, event: Event) -> None:
        """The peer says this."""
        if type(event) is Trailers or (type(event) in (Data, Response) and event.end):
            self.over.add(event.stream)

    def _said(self, stream: int, *command: object) -> None:
        assert stream not in self.closed, f"{command} on stream {stream}, which is over"
        self.commands.append((command[0], stream, *command[1:]))

    def send_request(self, head: Head, end: bool) -> int:
        if head.path == LOST:
            raise UnsendableHead("path")
        assert self.can_open
        stream, self.next = self.next, self.next + 2
        self.heads[stream] = head
        self._said(stream, "request", head.path, end)
        if end:
            self.final.add(stream)
        return stream

    def send_response(self, stream: int, head: Head, end: bool) -> None:
        if head.get(b"x-cannot-be-said"):
            raise UnsendableHead("field_value")
        assert stream not in self.heads, "two response heads"
        self.heads[stream] = head
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
        self.gone(stream)

    def acknowledge(self, stream: int, amount: int) -> None:
        self.acknowledged[stream] += amount

    def queued(self, stream: int) -> int:
        return 1 << 30 if self.full else 0

    def waiting(self) -> list[int]:
        return []

    def receive(self, data: bytes) -> list[Event]:
        return []

    def tick(self, now: float) -> bool:
        return False

    def take(self) -> bytes:
        return b""

    def shutdown(self, final: bool) -> None:
        self.alive = False
        self.commands.append(("shutdown", 0, final))


class FakeChannel:
    backlog = b""

    def __init__(self, reactor: SimpleNamespace) -> None:
        self.reactor = reactor
        self.marked = 0

    def mark(self) -> None:
        self.marked += 1


class FakeRandom:
    """Gives `value`, 0.0 (which draws the first of everything) until a test makes it another; or what `draw` does."""

    def __init__(self) -> None:
        self.value = 0.0
        self.draw: Callable[[], float] | None = None

    def __call__(self) -> float:
        return self.value if self.draw is None else self.draw()


class InOrder(dict):
    """A set that is walked in the order in which it was filled, so that a playbook runs the same each time."""

    def add(self, one: object) -> None:
        self[one] = None

    def discard(self, one: object) -> None:
        self.pop(one, None)


class OrderedDeadlines(Deadlines):
    """What is due in one tick expires in the order in which it was added."""

    def add(self, expiring: Expiring, when: float) -> InOrder:
        self._slots.setdefault(int(when / TICK) + 1, InOrder())
        return super().add(expiring, when)


class Stage:
    """One client connection to one service, `votes`, and a clock that the test moves.

    `connected`: the first endpoint has a connection, `up`. `others` are further services, by name, with the number of
    their endpoints."""

    def __init__(
        self,
        endpoints: int = 1,
        connected: bool = True,
        *,
        traffic: Traffic | None = None,
        timeouts: Timeouts | None = None,
        protocol: Protocol = Protocol.DETECT,
        client: str = "http2",
        outbound: bool = True,
        meshed: bool = False,
        others: dict[str, int] | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self.now = 1000.0
        self.wall = 1_700_000_000.0
        self.random = FakeRandom()
        self.reports = Reports(1000)
        self.deadlines = OrderedDeadlines(self.clock)
        self.reactor = SimpleNamespace(clock=self.clock, settle=lambda: None)
        shared = ClusterShared(self.reactor, limits, self.reports, self.random, None, None, lambda: self.wall)
        self.asked_for: list[str] = []
        self.directory = Directory(shared, self.asked_for.append)
        spec = Service(
            "votes",
            addresses(1, endpoints, meshed),
            protocol=protocol,
            timeouts=timeouts or Timeouts(),
            traffic=traffic or Traffic(),
        )
        if outbound:
            self.cluster = self.directory.add(spec)
        else:
            self.cluster = Cluster(shared, spec, outbound=False)
        for number, (name, count) in enumerate((others or {}).items(), 1):
            self.directory.add(Service(name, addresses(number * 100, count), protocol=protocol))
        self.made: list[Upstream] = []
        self.codec = FakeCodec(client)
        self.taps = Taps(self.clock, "web")
        self.downstream = Downstream(
            Shared(limits, self.deadlines, self.reports, self.taps, self.clock),
            Listener("outbound" if outbound else "inbound", "127.0.0.1:4140", self.cluster, self.directory),
            FakeChannel(self.reactor),
            self.codec,
            number=1,
            peer="127.0.0.1:5000",
        )
        self.next = 1
        if connected:
            self.up = self.connect(self.endpoints[0])

    def clock(self) -> float:
        return self.now

    @property
    def endpoints(self) -> list[Endpoint]:
        return self.cluster.endpoints

    def clusters(self) -> list[Cluster]:
        """All that there are, `votes` first."""
        found = {self.cluster: None, **dict.fromkeys(self.directory.services.values())}
        return [*found, *self.directory.outside.values()]

    def update(self, **changes: object) -> None:
        """The control plane tells of another version of `votes`."""
        self.cluster.update(msgspec.structs.replace(self.cluster.spec, **changes))

    # --- the endpoints -----------------------------------------------------------------

    def connect(self, endpoint: Endpoint | None = None, codec: str = "") -> Upstream:
        """The connection that the endpoint wants is there (or one that it did not ask for)."""
        endpoint = endpoint or self.endpoints[0]
        http2 = codec != "http1"
        if endpoint.to_dial:
            http2 = endpoint.to_dial.pop(0)
            endpoint.dialling -= 1
        endpoint.down_until = endpoint.down_for = 0.0
        upstream = Upstream(endpoint, FakeChannel(self.reactor), FakeCodec("http2" if http2 else "http1"))
        self.made.append(upstream)
        endpoint.connections.add(upstream)
        if http2:
            endpoint.http2.append(upstream)
            endpoint.pump(self.now)
            if endpoint.retired and not upstream.exchanges:
                upstream.close()
        else:
            endpoint.returned(upstream)
        return upstream

    def refuse(self, endpoint: Endpoint | None = None, silent: bool = False) -> None:
        """The connection that the endpoint wants cannot be made."""
        endpoint = endpoint or self.endpoints[0]
        if endpoint.to_dial:
            endpoint.to_dial.pop(0)
            endpoint.dialling -= 1
        failure = ConnectFailed(Reason.CONNECT_FAILED, "Connection refused", endpoint.address, silent=silent)
        endpoint._connect_failed(failure, self.now)

    def hear(self, upstream: Upstream, *events: Event) -> None:
        """The endpoint at the other end of `upstream` says this."""
        for event in events:
            upstream.leg.codec.heard(event)
        upstream.handle(list(events))

    def answer(self, *events: Event) -> None:
        """The same of the first connection."""
        self.hear(self.up, *events)

    def lose(self, upstream: Upstream) -> None:
        """The connection breaks."""
        codec = upstream.leg.codec
        codec.alive = False
        codec.closed |= set(codec.heads)
        upstream.leg.lost("reset")

    # --- the client --------------------------------------------------------------------

    def ask(
        self,
        method: bytes = b"GET",
        path: bytes = b"/",
        end: bool = True,
        fields: Sequence[tuple[bytes, bytes]] = (),
        grpc: bool = False,
    ) -> Exchange | None:
        """A request of the client; its exchange, or None if that is over already."""
        stream, self.next = self.next, self.next + 2
        head = Head.request(method, path, authority=b"votes", fields=(*fields, GRPC) if grpc else fields)
        self.downstream.handle([Request(stream, head, end)])
        return self.downstream.exchanges.get(stream)

    def pass_time(self, seconds: float, step: float = 0.0) -> None:
        """Let the clock run on, in steps (0: in one), and have what falls due happen."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + step) if step else until
            self.deadlines.advance(self.now)

    # --- what came of it ---------------------------------------------------------------

    def said(self) -> list[tuple]:
        """To the client, since the last time."""
        return self.codec.take_commands()

    def asked(self, upstream: Upstream | None = None) -> list[tuple]:
        """Of an endpoint, since the last time: on the first connection, unless another is named."""
        return (upstream or self.up).leg.codec.take_commands()

    def outcomes(self) -> list[tuple[str, int, str]]:
        """(outcome, status, error) of every report."""
        return sorted(
            (one.key.outcome, one.key.status, one.key.error) for one in self.reports.series for _ in range(one.requests)
        )

    def tallies(self, name: str) -> dict[str, int]:
        """Counts by detail of one of `report.Tally`, which is named without its `conduit_`."""
        return {detail: count for (what, _, detail), count in self.reports.tallies.items() if what == f"conduit_{name}"}

    def pending(self) -> int:
        return sum(endpoint.load.pending for cluster in self.clusters() for endpoint in cluster.endpoints)

    def settled(self) -> None:
        """Fail unless everything has come to its end and nothing is left of it."""
        assert self.downstream.exchanges == {}
        assert self.pending() == 0
        assert len(self.deadlines) == 0
        for cluster in self.clusters():
            assert not cluster.waiting
            assert not cluster.mirrors
            assert not any(endpoint.queue for endpoint in cluster.endpoints)
            assert cluster.plan.gate is None or cluster.plan.gate.in_hand == 0
        for upstream in self.made:
            assert upstream.exchanges == {}
            codec = upstream.leg.codec
            assert set(codec.heads) <= codec.closed | (codec.final & codec.over)


def addresses(first: int, count: int, meshed: bool = False) -> tuple[EndpointSpec, ...]:
    """Endpoints 10.0.0.first:80 and so on."""
    return tuple(EndpointSpec(f"10.0.0.{number}:80", meshed=meshed) for number in range(first, first + count))
