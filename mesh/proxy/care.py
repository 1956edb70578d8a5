"""What policy does for one exchange beyond sending it once: retries with backoff, per-try timeouts, hedges. Sans-IO.

An exchange has one only where its service or route asks for any of this. While the exchange is SENT the care may keep
an answer from the client: one that is dropped because the request is sent again (it is read to its end, so that an
HTTP/1.1 connection can be used again), or the head of a gRPC answer whose status may still turn out to be one to retry
for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.proxy.deadlines import NEVER
from mesh.proxy.edit import response_head
from mesh.proxy.exchange import ANSWERING, HELD, QUEUED, SENT, Exchange
from mesh.proxy.ext_authz import edited
from mesh.proxy.hedge import Hedge
from mesh.proxy.report import Tally, grpc_code, is_failure
from mesh.proxy.rescue import Answer, Reason
from mesh.proxy.retry import pushback as read_pushback
from mesh.proxy.retry import retry_after
from mesh.wire.head import Field, Head

if TYPE_CHECKING:
    from mesh.proxy.ext_authz import Edit
    from mesh.proxy.inquiry import Asking
    from mesh.proxy.limit import Gate
    from mesh.proxy.mirror import Mirror
    from mesh.proxy.plan import Plan
    from mesh.proxy.retry import Retrying
    from mesh.proxy.route import Compiled

HEAD_SECONDS = 0.02
"""How long the head of a gRPC answer waits for its status, if the route retries for statuses: long enough for a call
that fails at once, short beside what a streaming client would notice."""
RESET_THERE = Reason.UPSTREAM_RESET.value.encode()
"""`conduit-error` of the proxy beside the application: the application reset the request, and that proxy had to say
something."""
MOST_PAUSE = 60.0
"""Seconds that `retry-after` may ask us to hold a request for; for more, the client is told instead."""
SWALLOWED = 64 * 1024
"""Bytes of a dropped answer that are read to spare the connection; the connection of a longer one is given up."""


class Care:
    """See the module. Times are seconds of the exchange's clock, NEVER while they do not matter."""

    __slots__ = (
        "abort",
        "asking",
        "gate",
        "head",
        "head_until",
        "hedge",
        "hedge_at",
        "held_head",
        "held_until",
        "mirrors",
        "pause",
        "plan",
        "repeats",
        "response_edits",
        "retries",
        "retrying",
        "route",
        "swallowed",
        "swallowing",
        "try_timeout",
        "try_until",
        "withdrawn",
    )

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.route: Compiled | None = None
        self.head: Head | None = None
        """What is sent instead of the client's own."""
        self.retrying: Retrying | None = None
        self.repeats = False
        self.retries = 0
        self.try_timeout = 0.0
        self.try_until = self.hedge_at = self.held_until = self.head_until = NEVER
        self.held_head: Head | None = None
        self.swallowing = False
        self.swallowed = 0
        self.pause = 0.0
        self.withdrawn = False
        """A token of the budget is for a try that has not been sent yet."""
        self.hedge: Hedge | None = None
        self.mirrors: list[Mirror] | None = None
        self.gate: Gate | None = None
        self.abort: Answer | None = None
        """What a delayed request is answered with, when the delay is over."""
        self.asking: Asking | None = None
        """External authorisers are being asked: HELD is for that, and no delay."""
        self.response_edits: tuple[Edit, ...] = ()
        """What they have the client be told beside the application's answer."""

    # --- times -------------------------------------------------------------------------------------------------------

    def sent(self, exchange: Exchange, now: float) -> None:
        """A try begins."""
        self.held_head = None
        self.swallowing = False
        self.hedge_at = self.head_until = NEVER
        self.withdrawn = False
        if self.try_timeout:
            self.try_until = now + self.try_timeout
        retrying = self.retrying
        latencies = self.plan.latencies
        if retrying is not None and retrying.policy.hedge is not None and latencies is not None and self.repeats:
            hedge = retrying.policy.hedge
            usual = latencies.quantile(hedge.quantile, now)
            if usual is not None:
                self.hedge_at = now + max(usual, hedge.minimum)
        if self.try_until != NEVER or self.hedge_at != NEVER:
            exchange.arm(now)

    def next_at(self, exchange: Exchange) -> float:
        """When this next has something to do; NEVER for never."""
        if exchange.state is HELD:
            return self.held_until
        if exchange.state is SENT:
            return min(self.try_until, self.hedge_at, self.head_until)
        return self.try_until if exchange.state is ANSWERING else NEVER

    def due(self, exchange: Exchange, now: float) -> bool:
        """Do what has fallen due; False if nothing had."""
        if exchange.state is HELD:
            if now < self.held_until:
                return False
            self.held_until = NEVER
            if self.asking is not None:
                self.asking.expired(now)
            elif self.abort is not None:
                exchange.fail(Reason.FAULT, "aborted on purpose", now, answer=self.abort)
            else:
                exchange.resume(now)
            return True
        if exchange.state is QUEUED:
            return False
        if now >= self.try_until:
            self._try_expired(exchange, now)
            return True
        if exchange.state is not SENT:
            return False
        if now >= self.head_until:
            self._release(exchange, now)
        elif now >= self.hedge_at:
            self.hedge_at = NEVER
            self._start_hedge(exchange, now)
        else:
            return False
        if exchange.state in (SENT, ANSWERING):
            exchange.arm(now)
        return True

    def _try_expired(self, exchange: Exchange, now: float) -> None:
        self.try_until = NEVER
        endpoint = exchange.endpoint
        assert endpoint is not None
        endpoint.failed(exchange, f"no answer within {self.try_timeout:.3g} s", now)
        retrying = self.retrying
        if exchange.state is SENT and (
            self._hedged()
            or self.swallowing
            or (retrying is not None and retrying.policy.timeout and self._may(exchange, "timeout", None, now))
        ):
            self._go(exchange, True, now)
            return
        cause = f"no whole answer to try {self.retries + 1} within {self.try_timeout:.3g} s"
        exchange.fail(Reason.TIMEOUT, cause, now, outcome="expired")

    # --- what comes back ---------------------------------------------------------------------------------------------

    def answered(self, exchange: Exchange, head: Head, end: bool, now: float) -> bool:
        """A response head is here. True: the client does not get it, or not yet."""
        latencies = self.plan.latencies
        if latencies is not None and head.status < 500:
            latencies.observe(now - exchange.sent_at, now)
        self.hedge_at = NEVER
        retrying = self.retrying
        if retrying is not None and (end or head.status >= 500) and head.get(b"conduit-error") == RESET_THERE:
            if retrying.policy.reset and self._may(exchange, "reset", None, now):
                self._go(exchange, True, now)
                return True
        elif retrying is not None:
            grpc = exchange.is_grpc and head.status == 200
            if grpc and not end:
                if retrying.policy.grpc and self._can_repeat(exchange):
                    self.held_head = head
                    self.head_until = now + HEAD_SECONDS
                    exchange.arm(now)
                    return True
            elif (
                retrying.wants_grpc(grpc_code(head.get(b"grpc-status"))) if grpc else retrying.wants_status(head.status)
            ):
                why = "grpc_status" if grpc else "status"
                if self._may(exchange, why, head.get(b"retry-after"), now, head.get(b"grpc-retry-pushback-ms")):
                    length = head.get(b"content-length") or b"0"
                    if end:
                        self._go(exchange, exchange.request_open, now)
                    elif self._hedged() or not length.isdigit() or int(length) > SWALLOWED:
                        self._go(exchange, True, now)
                    else:
                        self.swallowing = True
                        self.swallowed = 0
                    return True
        self._drop_hedge(now)
        return False

    def response_head(self, head: Head) -> Head:
        """The head as the client gets it."""
        if self.route is not None:
            head = response_head(self.route, head)
        return edited(head, self.response_edits) if self.response_edits else head

    def released(self, exchange: Exchange, data: bytes, end: bool, now: float) -> bool:
        """Body of an answer, or trailers (`end`, no data), that the client has not heard of: True if it is to get them
        now."""
        if self.swallowing:
            upstream = exchange.upstream
            assert upstream is not None
            self.swallowed += len(data)
            if data:
                upstream.leg.codec.acknowledge(exchange.up_stream, len(data))
                upstream.leg.channel.mark()
            if end:
                self._go(exchange, exchange.request_open, now)
            elif self.swallowed > SWALLOWED:
                self._go(exchange, True, now)
            return False
        self._release(exchange, now)
        return exchange.state is ANSWERING

    def _release(self, exchange: Exchange, now: float) -> None:
        head, self.held_head = self.held_head, None
        self.head_until = NEVER
        assert head is not None
        self._drop_hedge(now)
        exchange.respond(self.response_head(head), False, now)

    def wants_again(self, exchange: Exchange, code: int, fields: tuple[Field, ...], now: float) -> bool:
        """The trailers of a gRPC answer whose head is held: True if the request is sent again."""
        retrying = self.retrying
        if self.held_head is None or retrying is None or not retrying.wants_grpc(code):
            return False
        if not self._may(exchange, "grpc_status", None, now, dict(fields).get(b"grpc-retry-pushback-ms")):
            return False
        self._go(exchange, exchange.request_open, now)
        return True

    def reset(self, exchange: Exchange, now: float) -> bool:
        """The upstream ended the try early: True if the request is sent again."""
        if exchange.state is not SENT:
            return False
        retrying = self.retrying
        if not self.swallowing and not self._hedged():
            if self.held_head is not None or retrying is None or not retrying.policy.reset:
                return False
            if not self._may(exchange, "reset", None, now):
                return False
        self._go(exchange, False, now)
        return True

    @property
    def heard(self) -> bool:
        """Whether this try has been answered, though the client has not been told."""
        return self.swallowing or self.held_head is not None

    # --- once more ---------------------------------------------------------------------------------------------------

    def _hedged(self) -> bool:
        """Whether another try is under way."""
        return self.hedge is not None and self.hedge.state is SENT

    def _can_repeat(self, exchange: Exchange) -> bool:
        retrying = self.retrying
        return (
            retrying is not None
            and self.repeats
            and exchange.body is not None
            and self.retries < retrying.policy.attempts
        )

    def _may(
        self, exchange: Exchange, why: str, after: bytes | None, now: float, pushback: bytes | None = None
    ) -> bool:
        """Whether policy, deadline and budget allow one more try, whose token is `withdrawn` then; sets `pause`,
        seconds until it."""
        retrying = self.retrying
        if self._hedged():
            return True  # it is under way already
        if retrying is None or not self._can_repeat(exchange):
            return False
        parent = exchange.parent
        reports = parent.shared.reports
        pause = retrying.pause(self.retries + 1, parent.shared.random)
        if pushback is not None:
            told = read_pushback(pushback)
            if told is None or told < 0:
                return False
            pause = max(pause, told)
        elif after is not None:
            wanted = retry_after(after, parent.shared.wall())
            if wanted is not None:
                pause = max(pause, wanted)
        if now + pause >= exchange.deadline:
            reports.tally(Tally.RETRY_REFUSED, parent.name, "deadline")
            return False
        if pause > MOST_PAUSE:
            reports.tally(Tally.RETRY_REFUSED, parent.name, "retry_after")
            return False
        if not self.plan.budget.withdraw(now):
            reports.tally(Tally.RETRY_REFUSED, parent.name, "budget")
            return False
        reports.tally(Tally.RETRY, parent.name, why)
        self.pause = pause
        self.withdrawn = True
        return True

    def _go(self, exchange: Exchange, reset: bool, now: float) -> None:
        """Leave this try (`reset`: its upstream still works for it); the next begins now, or after the pause."""
        self.held_head = None
        self.swallowing = False
        self.try_until = self.hedge_at = self.head_until = NEVER
        hedge = self.hedge
        if hedge is not None:
            if hedge.state is SENT:
                self.take_over(exchange, reset, now)
                return
            self._drop_hedge(now)
        self.retries += 1
        exchange.retry(reset, now)
        if self.pause > 0.0:
            exchange.hold(now + self.pause, now)
        else:
            exchange.reassign(now)

    # --- the other try -----------------------------------------------------------------------------------------------

    def _start_hedge(self, exchange: Exchange, now: float) -> None:
        if self.hedge is not None or exchange.request_open or self.swallowing or not self._can_repeat(exchange):
            return
        parent = exchange.parent
        if not self.plan.budget.withdraw(now):
            parent.shared.reports.tally(Tally.RETRY_REFUSED, parent.name, "budget")
            return
        self.retries += 1
        parent.shared.reports.tally(Tally.HEDGE, parent.name, "started")
        self.hedge = Hedge(exchange, self, now)
        exchange.cluster.assign(self.hedge, now)

    def take_over(self, exchange: Exchange, reset: bool, now: float) -> None:
        """The hedge's try is the exchange's own from here; the one before is left."""
        hedge = self.hedge
        assert hedge is not None
        self.hedge = None
        self.held_head = None
        self.swallowing = False
        self.hedge_at = self.head_until = NEVER
        hedge.become_main(reset, now)
        if self.try_timeout:
            self.try_until = exchange.sent_at + self.try_timeout
        exchange.arm(now)

    def _drop_hedge(self, now: float) -> None:
        hedge = self.hedge
        if hedge is not None:
            self.hedge = None
            hedge.drop(now)

    def over(self, exchange: Exchange, now: float) -> None:
        """The exchange is done: nothing that was started for it goes on, but a copy that is whole."""
        self._drop_hedge(now)
        if self.asking is not None:
            self.asking.cancel(now)
        if self.withdrawn:
            self.withdrawn = False
            self.plan.budget.restore(now)
        if self.mirrors is not None and exchange.request_open:
            for mirror in self.mirrors:
                mirror.client_reset(now)
        gate = self.gate
        if gate is not None:
            self.gate = None
            answered = exchange.answered_at
            failed = is_failure(exchange.status, exchange.grpc_status)
            gate.leave(answered - exchange.started_at if answered else -1.0, now, not failed)

    # --- copies ------------------------------------------------------------------------------------------------------

    def copy_data(self, data: bytes, end: bool, now: float) -> None:
        """Body from the client, for those that get a copy."""
        for mirror in self.mirrors or ():
            mirror.request_data(data, end, now)

    def copy_trailers(self, fields: tuple[Field, ...], now: float) -> None:
        """The same of its trailers."""
        for mirror in self.mirrors or ():
            mirror.request_trailers(fields, now)
