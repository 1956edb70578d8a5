"""One connection to an endpoint, as HTTP: the codec's events go to the exchanges that are on it. Hot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.proxy.leg import Leg
from mesh.proxy.reactor import Channel
from mesh.wire.codec import Broken, Codec, Data, Event, GoAway, Informational, Refused, Reset, Response, Trailers

if TYPE_CHECKING:
    from mesh.proxy.endpoint import Endpoint
    from mesh.proxy.exchange import Exchange

CLOSED = frozenset({"connection_closed", "closed_early"})
"""Reasons for which a connection is `Broken` without the endpoint having said anything wrong."""


class Upstream:
    """One connection to an endpoint, as HTTP: gives the codec's events to the exchanges. Hot."""

    __slots__ = ("clock", "endpoint", "exchanges", "gone", "http2", "is_idle", "leaving", "leg", "served")

    def __init__(self, endpoint: Endpoint, channel: Channel, codec: Codec) -> None:
        self.endpoint = endpoint
        self.clock = channel.reactor.clock
        self.leg = Leg(channel, codec, self, endpoint.cluster.shared.limits)
        self.exchanges: dict[int, Exchange] = {}
        self.http2 = codec.name == "http2"
        self.is_idle = False
        self.gone = False  # the connection has ended
        self.leaving = False  # it has said GOAWAY
        self.served = 0

    def __repr__(self) -> str:
        return f"<Upstream {self.leg.codec.name} {self.endpoint.address}, {len(self.exchanges)} exchanges>"

    def handle(self, events: list[Event]) -> None:
        """Events of the codec, in order."""
        now = self.clock()
        exchanges = self.exchanges
        for event in events:
            kind = type(event)
            if kind is Data:
                exchange = exchanges.get(event.stream)  # type: ignore[union-attr]
                if exchange is not None:
                    exchange.response_data(event.data, event.end, now)  # type: ignore[union-attr]
                elif event.data:  # type: ignore[union-attr]
                    self.leg.codec.acknowledge(event.stream, len(event.data))  # type: ignore[union-attr]
            elif kind is Response:
                exchange = exchanges.get(event.stream)  # type: ignore[union-attr]
                if exchange is not None:
                    exchange.response(event.head, event.end, now)  # type: ignore[union-attr]
            else:
                self._handle_rare(event, events[-1], now)

    def _handle_rare(self, event: Event, last: Event, now: float) -> None:
        match event:
            case Trailers(stream, fields):
                if exchange := self.exchanges.get(stream):
                    exchange.response_trailers(fields, now)
            case Informational(stream, head):
                if exchange := self.exchanges.get(stream):
                    exchange.informational(head, now)
            case Reset(stream, code, unprocessed, reason):
                self.gone = type(last) is Broken
                if exchange := self.exchanges.get(stream):
                    if type(last) is Broken and last.reason not in CLOSED and not unprocessed:
                        exchange.upstream_refused(last.detail, now)  # what the whole connection ends for
                    else:
                        exchange.upstream_reset(code, unprocessed, reason, now)
            case Refused(stream, reason):
                self.endpoint.cluster.shared.reports.refuse(reason, self.endpoint.cluster.name)
                if exchange := self.exchanges.get(stream):
                    exchange.upstream_refused(f"malformed answer: {reason}", now)
            case GoAway():
                self.leaving = True
                self.endpoint.withdraw(self)
                self.endpoint.pump(now)
            case Broken(reason, detail):
                self.endpoint.cluster.shared.reports.refuse(reason, self.endpoint.cluster.name)
                self.endpoint.withdraw(self)
                for number in list(self.exchanges):
                    if exchange := self.exchanges.get(number):  # the end of one may be that of another
                        exchange.upstream_refused(detail, now)
            case _:
                raise AssertionError(f"an upstream cannot send {event!r}")

    def watch(self, now: float) -> None:
        """Once a second: what a peer may do per window begins anew."""
        self.leg.codec.tick(now)

    def lost(self, reason: str) -> None:
        """The connection is gone: every exchange on it ends, or is sent again where that is safe."""
        now = self.clock()
        self.gone = True
        self.endpoint.withdraw(self)
        for number in list(self.exchanges):
            if exchange := self.exchanges.get(number):  # the end of one may be that of another
                exchange.upstream_reset(0, False, reason or "the endpoint closed the connection", now)
        self.endpoint.pump(now)  # who waited for this connection, at the bound on their number, needs another

    def release(self, stream: int, now: float) -> None:
        """An exchange is over with its stream; the connection can serve another."""
        del self.exchanges[stream]
        self.served += 1
        endpoint = self.endpoint
        endpoint.load.pending -= 1
        if not self.http2:
            endpoint.returned(self)
        elif endpoint.queue:
            endpoint.pump(now)
        elif endpoint.retired and not self.exchanges:
            self.close()

    def unused(self) -> None:
        """It was lent for a request that could not be sent."""
        self.endpoint.load.pending -= 1
        if not self.http2:
            self.endpoint.returned(self)

    def close(self) -> None:
        """Take no more and end when what is under way has ended."""
        self.leg.codec.shutdown(True)
        self.leg.channel.mark()
