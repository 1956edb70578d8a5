"""One request, from its head to its report, as a state machine. READ FIRST; hot: every request runs through it.

Events come in as method calls with `now` (seconds, monotonic), commands go out to the codecs of two legs. Nothing here
waits, reads a clock or touches a socket, so a test drives it with two fakes and hypothesis drives it in any order.

The states, and what takes one to another:
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from mesh.proxy import outgoing, rescue, taps
from mesh.proxy.again import NEVER_ARRIVED, attempts_after_reset, has_untried
from mesh.proxy.deadlines import NEVER, Expiring
from mesh.proxy.report import grpc_code
from mesh.proxy.rescue import Answer, Reason
from mesh.wire.codec import CANCEL, NO_ERROR
from mesh.wire.head import Field, Head, UnsendableHead

if TYPE_CHECKING:
    from mesh.proxy.authorize import Decision
    from mesh.proxy.care import Care
    from mesh.proxy.cluster import Cluster
    from mesh.proxy.dial import ConnectFailed
    from mesh.proxy.downstream import Downstream
    from mesh.proxy.endpoint import Endpoint
    from mesh.proxy.taps import Session
    from mesh.proxy.upstream import Upstream


class State(enum.IntEnum):
    """Where an exchange stands."""

    QUEUED = 0
    """Waits for a route, an endpoint or a connection; nothing has been sent."""
    SENT = 1
    """The head went to an upstream; no response head yet, so it can still be sent again."""
    ANSWERING = 2
    """The response head went to the client: from here only the end or a reset can follow."""
    DONE = 3
    """Exactly one outcome, exactly one report."""
    HELD = 4
    """Waits on purpose, for an injected delay or before it is sent again; nobody works for it."""


class Input(enum.IntEnum):
    """What takes it further."""

    ASSIGNED = 0
    RESPONSE = 1
    RETRY = 2
    COMPLETED = 3
    CANCELLED = 4
    FAILED = 5
    HOLD = 6
    RESUMED = 7


QUEUED, SENT, ANSWERING, DONE, HELD = State
ASSIGNED, RESPONSE, RETRY, COMPLETED, CANCELLED, FAILED, HOLD, RESUMED = Input

TRANSITIONS: dict[State, dict[Input, State]] = {
    QUEUED: {ASSIGNED: SENT, HOLD: HELD, COMPLETED: DONE, CANCELLED: DONE, FAILED: DONE},
    HELD: {RESUMED: QUEUED, CANCELLED: DONE, FAILED: DONE},
    SENT: {RESPONSE: ANSWERING, RETRY: QUEUED, CANCELLED: DONE, FAILED: DONE},
    ANSWERING: {COMPLETED: DONE, CANCELLED: DONE, FAILED: DONE},
    DONE: {},
}

EXPIRED_LEAST = 0.05
"""Seconds that an endpoint must have had for a deadline to count as its failure: callers may set any."""
NO_BODY: list[bytes] = []
"""What is kept of a request that had none; always empty."""
NO_SLOT: set[Expiring] = set()
"""Where an exchange without a deadline is; always empty."""


class Exchange:
    """See the module. `status` is 0 and `grpc_status` -1 until known; times are seconds of the caller's clock.

    `owed_*` are bytes taken from a peer and not yet acknowledged to it, because the other side is congested or not
    there yet.
    """

    __slots__ = (
        *("answered_at", "body", "body_bytes", "care", "cluster", "deadline", "decision", "downstream", "endpoint"),
        *("error", "grpc_status", "head", "is_grpc", "last_cause", "owed_request", "owed_response", "parent"),
        *("protocol", "queue", "queued_at", "request_bytes", "request_open", "response_bytes", "response_done"),
        *("sent_at", "slot", "started_at", "state", "status", "stream", "touched_at", "tried", "tunnel"),
        *("up_stream", "upstream", "watchers"),
    )

    cluster: Cluster
    """Where it is sent: what was asked for, or what a route leads to."""
    parent: Cluster
    """What was asked for."""
    slot: set[Expiring]

    def __init__(self, downstream: Downstream, stream: int, head: Head, end: bool, now: float) -> None:
        self.downstream = downstream
        self.stream = stream
        self.head = head
        self.request_open = not end
        self.started_at = self.touched_at = self.queued_at = now
        self.state = QUEUED
        self.upstream: Upstream | None = None
        self.endpoint: Endpoint | None = None
        self.up_stream = self.status = 0
        self.body: list[bytes] | None = NO_BODY if end else []
        self.body_bytes = self.request_bytes = self.response_bytes = self.owed_request = self.owed_response = 0
        self.grpc_status = -1
        self.is_grpc = False
        self.protocol = downstream.protocol
        self.care: Care | None = None
        self.tunnel = self.response_done = False
        self.answered_at = self.sent_at = 0.0
        self.deadline = NEVER
        self.decision: Decision | None = None
        self.slot = NO_SLOT
        self.queue: dict[Exchange, None] | None = None
        self.tried: list[Endpoint] | None = None
        self.last_cause = ""
        self.error = ""
        self.watchers: list[Session] | None = None

    def __repr__(self) -> str:
        return f"<Exchange {self.state.name.lower()} {self.head.method!r} {self.head.path!r} status={self.status}>"

    def _move(self, event: Input) -> None:
        self.state = TRANSITIONS[self.state][event]

    # --- the way there: a route, an endpoint, a connection -----------------------------------------------------------

    def send(self, upstream: Upstream, now: float) -> None:
        """ASSIGNED: `upstream` can take the request now. Sends the head, and what of the body has come already."""
        self.state = TRANSITIONS[self.state][ASSIGNED]
        self.upstream = upstream
        self.endpoint = upstream.endpoint
        if self.watchers and not self.sent_at:
            taps.requested(self)
        self.sent_at = now
        leg = upstream.leg
        body, head, care = self.body, self.head, self.care
        if (
            care is not None
            or self.deadline != NEVER
            or upstream.endpoint.meshed
            or self.protocol != self.downstream.protocol
        ):
            head = outgoing.head(self, upstream, now)
        try:
            stream = leg.codec.send_request(head, not self.request_open and not body)
        except UnsendableHead as exc:
            self.upstream = None
            upstream.unused()
            self.fail(Reason.UNSENDABLE, str(exc), now)
            return
        self.up_stream = stream
        upstream.exchanges[stream] = self
        if care is not None:
            care.sent(self, now)
        if body:
            for chunk in body[:-1]:
                leg.codec.send_data(stream, chunk, False)
            leg.codec.send_data(stream, body[-1], not self.request_open)
            self._keep_for_replay()
            self.release()
        leg.channel.mark()

    def _keep_for_replay(self) -> None:
        if self.body_bytes > self.downstream.limits.replay_bytes:
            self.body = None

    def request_data(self, data: bytes, end: bool, now: float) -> None:
        """Body from the client: forwarded, or kept while there is nobody to send it to."""
        self.touched_at = now
        size = len(data)
        self.request_bytes += size
        if end:
            self.request_open = False
        if self.care is not None and self.care.mirrors is not None:
            self.care.copy_data(data, end, now)
        if self.body is not None:
            self.body.append(data)
            self.body_bytes += size
        upstream = self.upstream
        if upstream is None:
            self.owed_request += size
            return
        leg = upstream.leg
        leg.codec.send_data(self.up_stream, data, end)
        leg.channel.mark()
        if self.body is not None:
            self._keep_for_replay()
        if size:
            if not end and leg.congested(self.up_stream):
                if not self.owed_request:
                    leg.held.append(self)
                self.owed_request += size
            else:
                self.downstream.leg.codec.acknowledge(self.stream, size)
        if end and self.response_done:
            self._finish(COMPLETED, "completed", now)

    def request_trailers(self, fields: tuple[Field, ...], now: float) -> None:
        """The client's trailers, which end its side. A request that has them is not sent again: they are not kept."""
        self.touched_at = now
        upstream = self.upstream
        if upstream is None:  # without the trailers it would be another request
            self.fail(Reason.UNSENDABLE, "trailers came before an endpoint was ready", now)
            return
        try:
            upstream.leg.codec.send_trailers(self.up_stream, fields)
        except UnsendableHead as exc:
            self.fail(Reason.UNSENDABLE, f"trailers: {exc}", now)
            return
        if self.care is not None:
            self.care.copy_trailers(fields, now)
        self.request_open = False
        self.body = None
        upstream.leg.channel.mark()
        if self.response_done:
            self._finish(COMPLETED, "completed", now)

    def hold(self, until: float, now: float) -> None:
        """HOLD: nobody works for it until then."""
        self._move(HOLD)
        assert self.care is not None
        self.care.held_until = until
        self.arm(now)

    def resume(self, now: float) -> None:
        """RESUMED: it looks for an endpoint."""
        self._move(RESUMED)
        self.queued_at = self.touched_at = now
        self.reassign(now)

    # --- the way back ------------------------------------------------------------------------------------------------

    def informational(self, head: Head, now: float) -> None:
        """1xx, passed on; it decides nothing."""
        self.touched_at = now
        if self.endpoint is not None and not self.endpoint.meshed:
            head = outgoing.cleaned(head)
        if self.state is SENT:
            try:
                self.downstream.leg.codec.send_informational(self.stream, head)
            except UnsendableHead:
                return  # the client can do without it
            self.downstream.leg.channel.mark()

    def response(self, head: Head, end: bool, now: float) -> None:
        """RESPONSE: the final head. It may be one for which the request is sent again."""
        status = head.status
        endpoint = self.endpoint
        assert endpoint is not None
        if not endpoint.meshed:
            head = outgoing.cleaned(head)  # an application's own: it cannot speak for a proxy
        if (status == 503 or (end and self.is_grpc)) and head.get(b"conduit-error") in NEVER_ARRIVED:
            attempts = self.downstream.limits.connect_attempts - 1 if has_untried(self) else 0
            if self._send_again(attempts, True, now):
                return
        if status >= 500:
            endpoint.failed(self, f"status {status}", now)
        else:
            endpoint.load.observe(now - self.sent_at, now)
            if not self.is_grpc:
                endpoint.succeeded(self, now)
            elif end:
                endpoint.judge_grpc(self, grpc_code(head.get(b"grpc-status")), now)
        care = self.care
        if care is not None:
            if care.answered(self, head, end, now):
                return
            head = care.response_head(head)
        self.respond(head, end, now)

    def respond(self, head: Head, end: bool, now: float) -> None:
        """The client gets this head."""
        self.state = TRANSITIONS[self.state][RESPONSE]
        self.touched_at = self.answered_at = now
        status = self.status = head.status
        self.body = None
        leg = self.downstream.leg
        try:
            leg.codec.send_response(self.stream, head, end)
        except UnsendableHead as exc:
            self.state = SENT  # the client has not heard anything yet
            self.fail(Reason.UPSTREAM_PROTOCOL, str(exc), now)
            return
        leg.channel.mark()
        if status == 101 or (self.head.method == b"CONNECT" and 200 <= status < 300):
            self.tunnel = self.request_open = True
            self.deadline = NEVER  # what follows is a conversation: only its silence ends it
            if self.care is not None:
                self.care.try_until = NEVER
        if self.is_grpc and end:
            self.grpc_status = grpc_code(head.get(b"grpc-status"))
        if self.watchers:
            taps.responded(self, now)
        if end:
            self._response_ended(now)

    def response_data(self, data: bytes, end: bool, now: float) -> None:
        """Body from the upstream, forwarded; acknowledged now, or when the client's leg has room."""
        self.touched_at = now
        if self.state is not ANSWERING:
            assert self.care is not None  # which holds an answer back, or drops it
            if not self.care.released(self, data, end, now):
                return
        size = len(data)
        self.response_bytes += size
        leg = self.downstream.leg
        leg.codec.send_data(self.stream, data, end)
        leg.channel.mark()
        if size:
            if not end and leg.congested(self.stream):
                if not self.owed_response:
                    leg.held.append(self)
                self.owed_response += size
            else:
                upstream = self.upstream
                assert upstream is not None
                upstream.leg.codec.acknowledge(self.up_stream, size)
        if end:
            self._response_ended(now)

    def response_trailers(self, fields: tuple[Field, ...], now: float) -> None:
        """The upstream's trailers, which end the response; gRPC's result is in them."""
        code = -1
        if self.endpoint is not None and not self.endpoint.meshed:
            fields = outgoing.cleaned_trailers(fields)
        if self.is_grpc:
            code = grpc_code(dict(fields).get(b"grpc-status"))
            assert self.endpoint is not None
            self.endpoint.judge_grpc(self, code, now)
            if self.state is SENT and self.care is not None and self.care.wants_again(self, code, fields, now):
                return
        if self.state is not ANSWERING:
            assert self.care is not None
            if not self.care.released(self, b"", True, now):
                return
        self.grpc_status = code
        try:
            self.downstream.leg.codec.send_trailers(self.stream, fields)
        except UnsendableHead as exc:
            self.fail(Reason.UPSTREAM_PROTOCOL, f"trailers: {exc}", now)
            return
        self.downstream.leg.channel.mark()
        self._response_ended(now)

    def _response_ended(self, now: float) -> None:
        if self.tunnel and self.request_open:
            self.response_done = True  # half-closed: the client may go on; its end completes the exchange
            return
        if self.request_open and not self.head.upgrade:
            # answered before the request was whole (RFC 9113 section 8.1): the rest has nobody to go to
            upstream = self.upstream
            assert upstream is not None
            upstream.leg.codec.reset(self.up_stream, NO_ERROR if upstream.leg.codec.name == "http2" else CANCEL)
            upstream.leg.channel.mark()
        self._finish(COMPLETED, "completed", now)

    # --- the ends ----------------------------------------------------------------------------------------------------

    def client_reset(self, now: float) -> None:
        """CANCELLED: the client gave up or went away; the upstream learns of it at once."""
        self.reset_upstream()
        self._finish(CANCELLED, "client_cancelled", now)

    def upstream_reset(self, code: int, unprocessed: bool, reason: str, now: float) -> None:
        """The upstream ended the stream early. Sent again where that is certainly safe, else the client is told."""
        upstream = self.upstream
        assert upstream is not None
        attempts = attempts_after_reset(self, upstream, unprocessed)
        care = self.care
        if (care is None or not care.heard) and self._send_again(attempts, False, now):
            return
        if not unprocessed:
            upstream.endpoint.failed(self, reason, now)
        if care is not None and care.reset(self, now):
            return
        if self.state is ANSWERING:
            self.downstream.leg.codec.reset(self.stream, code or CANCEL)
            self.downstream.leg.channel.mark()
            self.error = Reason.UPSTREAM_RESET.value
            self.leave_upstream(now)
            self._finish(FAILED, "failed", now)
            return
        self.leave_upstream(now)
        self.fail(Reason.UPSTREAM_RESET, reason, now)

    def _send_again(self, attempts: int, answered: bool, now: float) -> bool:
        """Give the request to another endpoint, if all that was sent can be sent again and it has not been tried
        `attempts` times elsewhere; returns whether it was. For requests that the application has not seen. `answered`:
        the upstream has answered, and that answer is dropped."""
        tried = self.tried
        if self.state is not SENT or self.body is None or (len(tried) if tried is not None else 0) >= attempts:
            return False
        self.retry(answered, now)
        self.reassign(now)
        return True

    def retry(self, reset: bool, now: float) -> None:
        """RETRY: leave this try (`reset`: the upstream is still busy with it). It has nowhere to go yet: `reassign` or
        `hold` follows."""
        upstream = self.upstream
        assert upstream is not None
        if self.tried is None:
            self.tried = []
        self.tried.append(upstream.endpoint)
        self._move(RETRY)
        if reset:
            self.reset_upstream()
        self.leave_upstream(now)
        self.queued_at = now

    def reassign(self, now: float) -> None:
        """Look for an endpoint once more."""
        self.cluster.assign(self, now)
        if self.state is not DONE:
            self.arm(now)

    def upstream_refused(self, cause: str, now: float) -> None:
        """What the upstream sent cannot be passed on."""
        if self.endpoint is not None:
            self.endpoint.failed(self, cause, now)
        if self.care is not None and self.care.reset(self, now):
            return
        self.leave_upstream(now)
        self.fail(Reason.UPSTREAM_PROTOCOL, cause, now)

    def connect_failed(self, endpoint: Endpoint, failure: ConnectFailed, now: float) -> None:
        """`endpoint`, which this was queued for, could not be reached: another one, or the end. One that did not
        answer in time may have lost our packet: it is asked once more where there is no other."""
        cause = str(failure)
        tried = self.tried = self.tried or []
        tried.append(endpoint)
        self.endpoint = endpoint
        self.last_cause = cause
        if len(tried) < self.downstream.limits.connect_attempts and (failure.silent or has_untried(self)):
            self.cluster.assign(self, now)
        else:
            self.fail(failure.kind, cause + self.cluster.aside(now), now)

    def expire(self, now: float) -> None:
        """A time set by `arm` is here: the request's deadline, the end of waiting, or what its care is about."""
        if self.state is DONE:
            return
        self.slot = NO_SLOT
        care = self.care
        if now >= self.deadline:
            if self.upstream is not None and now - self.sent_at >= EXPIRED_LEAST:
                self.upstream.endpoint.failed(self, "no answer in time", now)
            took = f"no whole answer within {self.deadline - self.started_at:.3g} s"
            if self.upstream is None:
                took += self.cluster.aside(now)
            self.fail(Reason.TIMEOUT, took, now, outcome="expired")
        elif care is not None and care.due(self, now):
            return
        elif self.state is QUEUED and now >= self.queued_at + self.downstream.limits.pending_timeout:
            reason, cause = self.cluster.why_pending(self, now)
            self.fail(reason, cause, now)
        else:
            self.arm(now)

    def arm(self, now: float) -> None:
        """Have `expire` called at the next time that matters, and no other. Silence is `watch`'s business."""
        self.slot.discard(self)
        when = self.deadline
        if self.state is QUEUED:
            pending = self.queued_at + self.downstream.limits.pending_timeout
            when = pending if pending < when else when
        if self.care is not None:
            soon = self.care.next_at(self)
            when = soon if soon < when else when
        if when != NEVER:
            self.slot = self.downstream.deadlines.add(self, when if when > now else now)
        else:
            self.slot = NO_SLOT

    def fail(
        self,
        reason: Reason,
        cause: str,
        now: float,
        outcome: str = "failed",
        answer: Answer | None = None,
        fields: tuple[Field, ...] = (),
    ) -> None:
        """FAILED: answer with the error (`answer` before the reason's own, `fields` in it), or reset what goes on."""
        self.reset_upstream()
        self.error = reason.value
        leg = self.downstream.leg
        if self.state is ANSWERING:
            leg.codec.reset(self.stream, rescue.ANSWERS[reason].reset)
            leg.channel.mark()
        else:
            where = self.endpoint.address if self.endpoint is not None else ""
            text = rescue.sentence(self.cluster.name, where, cause)
            head, body = rescue.response(reason, text, grpc=self.is_grpc, answer=answer, fields=fields)
            if self.is_grpc:
                self.grpc_status = (answer or rescue.ANSWERS[reason]).grpc_status
            self._say(head, body, now)
        self._finish(FAILED, outcome, now)

    def answer(self, head: Head, now: float) -> None:
        """COMPLETED, without an upstream: the proxy was told to answer this itself."""
        self._say(head, b"", now)
        self._finish(COMPLETED, "completed", now)

    def _say(self, head: Head, body: bytes, now: float) -> None:
        self.status = head.status
        self.answered_at = now
        if self.watchers:
            if not self.sent_at:
                taps.requested(self)
                self.sent_at = now
            taps.responded(self, now)
        leg = self.downstream.leg
        end = not body or self.head.method == b"HEAD"
        leg.codec.send_response(self.stream, head, end)
        if not end:
            leg.codec.send_data(self.stream, body, True)
            self.response_bytes += len(body)
        leg.channel.mark()

    def reset_upstream(self) -> None:
        """Have the upstream stop working for it."""
        upstream = self.upstream
        if upstream is not None:
            upstream.leg.codec.reset(self.up_stream, CANCEL)
            upstream.leg.channel.mark()

    def leave_upstream(self, now: float) -> None:
        """Be done with this try."""
        upstream = self.upstream
        if upstream is not None:
            if self.owed_response:
                upstream.leg.codec.acknowledge(self.up_stream, self.owed_response)
                upstream.leg.channel.mark()
                self.owed_response = 0
            self.upstream = None
            endpoint = upstream.endpoint
            if endpoint.probing is self:
                endpoint.unjudged(now)
            upstream.release(self.up_stream, now)

    def leave(self, now: float) -> None:
        """Be nowhere any more: no queue, no upstream, no time to wait for."""
        self.slot.discard(self)
        endpoint = self.endpoint
        if self.queue is not None:
            self.queue.pop(self, None)
            if endpoint is not None and self.queue is endpoint.queue:
                endpoint.load.pending -= 1
            self.queue = None
        self.leave_upstream(now)
        if endpoint is not None and endpoint.probing is self:
            endpoint.unjudged(now)

    def _finish(self, event: Input, outcome: str, now: float) -> None:
        self.state = TRANSITIONS[self.state][event]
        self.leave(now)
        if self.care is not None:
            self.care.over(self, now)
        downstream = self.downstream
        if self.owed_request:
            downstream.leg.codec.acknowledge(self.stream, self.owed_request)
            downstream.leg.channel.mark()
            self.owed_request = 0
        downstream.over(self, outcome, now)

    # --- backpressure ------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """A leg that held this back has room, perhaps: acknowledge what is owed to the side that feeds it."""
        upstream = self.upstream
        if upstream is None:
            return
        down = self.downstream.leg
        if self.owed_request:
            if upstream.leg.congested(self.up_stream):
                if self not in upstream.leg.held:
                    upstream.leg.held.append(self)
            else:
                down.codec.acknowledge(self.stream, self.owed_request)
                self.owed_request = 0
                down.channel.mark()
        if self.owed_response:
            if down.congested(self.stream):
                if self not in down.held:
                    down.held.append(self)
            else:
                upstream.leg.codec.acknowledge(self.up_stream, self.owed_response)
                self.owed_response = 0
                upstream.leg.channel.mark()
