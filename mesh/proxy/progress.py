"""Which clients stand still: with an answer that they do not take, or with a body that they do not go on with.

Whoever moves slower than `limits.progress_rate` runs up a debt of time: each second adds one, each `progress_rate`
bytes pay for one. Who owes more than `limits.write_timeout`, or `limits.body_timeout`, is given up. So a byte now and
then buys nothing, and a burst is no credit. Time in which it is we who hold the client back counts for nobody.

Looked at once a second (`Reactor.watch`), so bounds are kept to within that. No clock here: `now` is seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.proxy.exchange import QUEUED, SENT, Exchange
from mesh.proxy.rescue import Answer, Reason
from mesh.wire.codec import CANCEL

if TYPE_CHECKING:
    from mesh.model.limits import Limits
    from mesh.proxy.leg import Leg
    from mesh.proxy.report import Reports

TOO_SLOW = Answer(408, 1, CANCEL)
"""What a client is told that does not go on with its body (RFC 9110 section 15.5.9)."""
MOST = 2.0
"""Seconds that one look may add: where it is we who stood still, it is nobody's debt."""
CONNECTION = 0
"""Stands for what the kernel does not take, whichever stream it is of."""


class Debt:
    """How far one sender or taker is behind. `moved` is a count of bytes that grows as it moves."""

    __slots__ = ("moved", "of", "seconds")

    def __init__(self, of: object, moved: int) -> None:
        self.of = of
        self.moved = moved
        self.seconds = 0.0

    def grow(self, of: object, moved: int, passed: float, rate: int) -> float:
        """`passed` seconds are over, and so many bytes have moved by now; the debt in seconds. What counts bytes of
        something else (`of`) than before begins there."""
        if of is self.of:
            passed -= max(0, moved - self.moved) / rate
        self.of = of
        self.moved = moved
        self.seconds = max(0.0, self.seconds + passed)
        return self.seconds


class Progress:
    """The debts of one client's connection."""

    __slots__ = ("_at", "_direction", "_leg", "_limits", "_reading", "_reports", "_taking")

    def __init__(self, leg: Leg, limits: Limits, reports: Reports, direction: str) -> None:
        self._leg = leg
        self._limits = limits
        self._reports = reports
        self._direction = direction
        self._at = 0.0
        self._taking: dict[int, Debt] = {}  # by stream
        self._reading: dict[int, Debt] = {}

    def look(self, exchanges: dict[int, Exchange], now: float) -> None:
        """Give up who is too far behind: one stream, or the connection where its own bytes do not move."""
        passed = min(now - self._at, MOST) if self._at else 0.0
        self._at = now
        leg = self._leg
        if leg.channel.backlog or self._taking or leg.codec.queued(0):
            self._look_at_answers(exchanges, passed, now)
        if exchanges or self._reading:
            self._look_at_bodies(exchanges, passed, now)

    def _look_at_answers(self, exchanges: dict[int, Exchange], passed: float, now: float) -> None:
        leg = self._leg
        channel, codec = leg.channel, leg.codec
        taking: dict[int, Debt] = {}
        if any(exchange.tunnel for exchange in exchanges.values()):
            self._taking = taking  # a conversation, whose pauses are its own (`idle_tcp`)
            return
        late: list[int] = []
        waiting = [CONNECTION, *codec.waiting()] if channel.backlog else codec.waiting()
        for stream in waiting:
            exchange = exchanges.get(stream)
            if stream == CONNECTION:
                of: object = channel
                moved = channel.write_bytes - len(channel.backlog)
            else:
                of = exchange
                moved = (exchange.response_bytes if exchange is not None else 0) - codec.queued(stream)
            debt = taking[stream] = self._taking.get(stream) or Debt(of, moved)
            if debt.grow(of, moved, passed, self._limits.progress_rate) > self._limits.write_timeout:
                late.append(stream)
        self._taking = taking
        for stream in late:
            del taking[stream]
            self._reports.refuse("write_timeout", self._direction)
            if stream == CONNECTION:
                channel.end("the client does not take what it asked for")
                return
            codec.reset(stream, CANCEL)
            channel.mark()
            if exchange := exchanges.get(stream):
                exchange.client_reset(now)

    def _look_at_bodies(self, exchanges: dict[int, Exchange], passed: float, now: float) -> None:
        reading: dict[int, Debt] = {}
        late: list[Exchange] = []
        for stream, exchange in exchanges.items():
            if (
                not exchange.request_open
                or exchange.owed_request  # it is we who stop the client
                or (exchange.state is not SENT and exchange.state is not QUEUED)
                or exchange.is_grpc  # a call may say nothing for as long as it likes
                or not exchange.head.path  # CONNECT
                or exchange.head.upgrade
            ):
                continue
            debt = reading[stream] = self._reading.get(stream) or Debt(exchange, exchange.request_bytes)
            if (
                debt.grow(exchange, exchange.request_bytes, passed, self._limits.progress_rate)
                > self._limits.body_timeout
            ):
                late.append(exchange)
        self._reading = reading
        for exchange in late:
            self._reports.refuse("body_timeout", self._direction)
            cause = f"the rest of the request's body did not come within {self._limits.body_timeout:.6g} s"
            exchange.fail(Reason.IDLE, cause, now, "client_cancelled", TOO_SLOW)
            if self._leg.codec.name == "http1":
                self._leg.codec.shutdown(True)
