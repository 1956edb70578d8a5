"""One request, from its head to its report, as a state machine. READ FIRST; hot: every request runs through it.

Events come in as method calls with `now` (seconds, monotonic), commands go out to the codecs of two legs. Nothing here
waits, reads a clock or touches a socket, so a test drives it with two fakes and hypothesis drives it in any order.

The states, and what takes one to another:
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from mesh.proxy import rescue, taps
from mesh.proxy.deadlines import Expiring
from mesh.proxy.rescue import Reason
from mesh.wire.codec import CANCEL, NO_ERROR
from mesh.wire.head import Field, Head, UnsendableHead

if TYPE_CHECKING:
    from mesh.proxy.cluster import Cluster
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


class Input(enum.IntEnum):
    """What takes it further."""

    ASSIGNED = 0
    RESPONSE = 1
    RETRY = 2
    COMPLETED = 3
    CANCELLED = 4
    FAILED = 5


QUEUED, SENT, ANSWERING, DONE = State
ASSIGNED, RESPONSE, RETRY, COMPLETED, CANCELLED, FAILED = Input

TRANSITIONS: dict[State, dict[Input, State]] = {
    QUEUED: {ASSIGNED: SENT, CANCELLED: DONE, FAILED: DONE},
    SENT: {RESPONSE: ANSWERING, RETRY: QUEUED, CANCELLED: DONE, FAILED: DONE},
    ANSWERING: {COMPLETED: DONE, CANCELLED: DONE, FAILED: DONE},
    DONE: {},
}

REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})
"""Methods that are idempotent (RFC 9110 section 9.2.2)."""

NEVER_ARRIVED = frozenset({b"connect_failed", b"no_endpoints", b"overloaded"})
"""`conduit-error` of the proxy beside the application, when the application has certainly not seen the request."""
REFUSED_ATTEMPTS = 16
"""Endpoints or connections that may refuse one request unseen (REFUSED_STREAM)."""
GOAWAY_ATTEMPTS = 256
"""Connections that may say goodbye before they come to a request. An endpoint that ends each connection after so many
streams turns away all that were sent beyond them, and the same request may be among those again and again while a crowd
moves from one connection to the next; each time, others were served."""
NEVER = float("inf")
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
        "answered_at",
        "body",
        "body_bytes",
        "cluster",
        "deadline",
        "downstream",
        "endpoint",
        "error",
        "grpc_status",
        "head",
        "is_grpc",
        "last_cause",
        "owed_request",
        "owed_response",
        "queue",
        "queued_at",
        "request_open",
        "response_bytes",
        "response_done",
        "sent_at",
        "slot",
        "started_at",
        "state",
        "status",
        "stream",
        "touched_at",
        "tried",
        "tunnel",
        "up_stream",
        "upstream",
        "watchers",
    )

    cluster: Cluster
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
        self.up_stream = 0
        self.body: list[bytes] | None = NO_BODY if end else []
        self.body_bytes = self.response_bytes = self.owed_request = self.owed_response = 0
        self.status = 0
        self.grpc_status = -1
        self.is_grpc = False
        self.tunnel = self.response_done = False
        self.answered_at = self.sent_at = 0.0
        self.deadline = NEVER
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
        body = self.body
        try:
            stream = leg.codec.send_request(self.head, not self.request_open and not body)
        except UnsendableHead as exc:
            self.upstream = None
            upstream.unused()
            self.fail(Reason.UNSENDABLE, str(exc), now)
            return
        self.up_stream = stream
        upstream.exchanges[stream] = self
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
        if end:
            self.request_open = False
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
        if upstream is None:
            # still queued: without the trailers it would be another request
            self.fail(Reason.UNSENDABLE, "trailers came before an endpoint was ready", now)
            return
        try:
            upstream.leg.codec.send_trailers(self.up_stream, fields)
        except UnsendableHead as exc:
            self.fail(Reason.UNSENDABLE, f"trailers: {exc}", now)
            return
        self.request_open = False
        self.body = None
        upstream.leg.channel.mark()
        if self.response_done:
            self._finish(COMPLETED, "completed", now)

    def move_to(self, cluster: Cluster, now: float) -> None:
        """It waits in the queue of a cluster that turned out to be another one."""
        if self.queue is not None:
            self.queue.pop(self, None)
            self.queue = None
        self.cluster = cluster
        self.slot.discard(self)
        self.deadline = self.started_at + cluster.request_timeout if cluster.request_timeout else NEVER
        cluster.assign(self, now)
        if self.state is not DONE:
            self.arm(now)

    # --- the way back ------------------------------------------------------------------------------------------------

    def informational(self, head: Head, now: float) -> None:
        """1xx, passed on; it decides nothing."""
        self.touched_at = now
        if self.state is SENT:
            try:
                self.downstream.leg.codec.send_informational(self.stream, head)
            except UnsendableHead:
                return  # the client can do without it
            self.downstream.leg.channel.mark()

    def response(self, head: Head, end: bool, now: float) -> None:
        """RESPONSE: the final head."""
        if (head.status == 503 or (self.is_grpc and end)) and head.get(b"conduit-error") in NEVER_ARRIVED:
            attempts = self.downstream.limits.connect_attempts - 1 if self._has_untried() else 0
            if self._send_again(attempts, True, now):
                return
        self.state = TRANSITIONS[self.state][RESPONSE]
        self.touched_at = self.answered_at = now
        status = self.status = head.status
        endpoint = self.endpoint
        assert endpoint is not None
        endpoint.load.observe(now - self.sent_at, now)
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
        if self.is_grpc and end:
            self._grpc_result(head.get(b"grpc-status"))
        if self.watchers:
            taps.responded(self, now)
        if end:
            self._response_ended(now)

    def response_data(self, data: bytes, end: bool, now: float) -> None:
        """Body from the upstream, forwarded; acknowledged now, or when the client's leg has room."""
        self.touched_at = now
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
        if self.is_grpc:
            self._grpc_result(dict(fields).get(b"grpc-status"))
        try:
            self.downstream.leg.codec.send_trailers(self.stream, fields)
        except UnsendableHead as exc:
            self.fail(Reason.UPSTREAM_PROTOCOL, f"trailers: {exc}", now)
            return
        self.downstream.leg.channel.mark()
        self._response_ended(now)

    def _grpc_result(self, value: bytes | None) -> None:
        self.grpc_status = int(value) if value is not None and value.isdigit() and len(value) < 4 else 2

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
        self._reset_upstream()
        self._finish(CANCELLED, "client_cancelled", now)

    def upstream_reset(self, code: int, unprocessed: bool, reason: str, now: float) -> None:
        """The upstream ended the stream early. Sent again where that is certainly safe, else the client is told."""
        upstream = self.upstream
        assert upstream is not None
        reused = upstream.served > 0 and self.head.method in REPEATABLE
        if unprocessed:
            attempts = GOAWAY_ATTEMPTS if upstream.leaving else REFUSED_ATTEMPTS
        else:
            attempts = self.downstream.limits.connect_attempts if reused else 0
        if self._send_again(attempts, False, now):
            return
        if self.state is ANSWERING:
            self.downstream.leg.codec.reset(self.stream, code or CANCEL)
            self.downstream.leg.channel.mark()
            self.error = Reason.UPSTREAM_RESET.value
            self._leave_upstream(now)
            self._finish(FAILED, "failed", now)
            return
        self._leave_upstream(now)
        self.fail(Reason.UPSTREAM_RESET, reason, now)

    def _send_again(self, attempts: int, answered: bool, now: float) -> bool:
        """RETRY: give the request to another endpoint, if nothing was told to the client, all that was sent can be sent
        again, and it has not been tried `attempts` times elsewhere. Returns whether it was.

        `answered`: the upstream has answered, and that answer is dropped."""
        tried = self.tried = self.tried or []
        if self.state is not SENT or self.body is None or len(tried) >= attempts:
            return False
        upstream = self.upstream
        assert upstream is not None
        tried.append(upstream.endpoint)
        self._move(RETRY)
        if answered:
            self._reset_upstream()
        self._leave_upstream(now)
        self.cluster.assign(self, now)
        if self.state is QUEUED:
            self.slot.discard(self)
            self.queued_at = now
            self.arm(now)
        return True

    def _has_untried(self) -> bool:
        """Whether the service has an endpoint, by now, that this was not sent to: those that it was may be gone."""
        tried = self.tried or ()
        return any(one is not self.endpoint and one not in tried for one in self.cluster.endpoints)

    def upstream_refused(self, cause: str, now: float) -> None:
        """What the upstream sent cannot be passed on."""
        self._leave_upstream(now)
        self.fail(Reason.UPSTREAM_PROTOCOL, cause, now)

    def connect_failed(self, endpoint: Endpoint, reason: Reason, cause: str, now: float) -> None:
        """`endpoint`, which this was queued for, could not be reached: another one, or the end."""
        tried = self.tried = self.tried or []
        tried.append(endpoint)
        self.endpoint = endpoint
        self.last_cause = cause
        if len(tried) < self.downstream.limits.connect_attempts and self._has_untried():
            self.cluster.assign(self, now)
        else:
            self.fail(reason, cause, now)

    def expire(self, now: float) -> None:
        """The deadline set by `arm` is here: of the request, of waiting for an endpoint, or of silence."""
        if self.state is DONE:
            return
        self.slot = NO_SLOT
        if now >= self.deadline:
            took = f"no whole answer within {self.deadline - self.started_at:.3g} s"
            self.fail(Reason.TIMEOUT, took, now, outcome="expired")
        elif self.state is QUEUED:
            reason, cause = self.cluster.why_pending(self)
            self.fail(reason, cause, now)
        else:
            self.arm(now)

    def arm(self, now: float) -> None:
        """Set the next deadline: the request's own, or of waiting in a queue. Silence is `watch`'s business."""
        when = self.deadline
        if self.state is QUEUED:
            pending = self.queued_at + self.downstream.limits.pending_timeout
            when = pending if pending < when else when
        if when != NEVER:
            self.slot = self.downstream.deadlines.add(self, when if when > now else now)

    def watch(self, now: float) -> None:
        """End it if neither side has moved for the service's `timeouts.idle`, else `limits.idle_tcp`. For every
        exchange that is open."""
        idle = self.cluster.spec.timeouts.idle or self.downstream.limits.idle_tcp
        if now >= self.touched_at + idle:
            self.fail(Reason.IDLE, f"neither side moved for {idle:.6g} s", now, "expired")

    def fail(self, reason: Reason, cause: str, now: float, outcome: str = "failed") -> None:
        """FAILED: answer with the error, or reset where an answer is under way."""
        self._reset_upstream()
        self.error = reason.value
        leg = self.downstream.leg
        if self.state is ANSWERING:
            leg.codec.reset(self.stream, rescue.ANSWERS[reason].reset)
        else:
            where = self.endpoint.address if self.endpoint is not None else ""
            text = rescue.sentence(self.cluster.name, where, cause)
            head, body = rescue.response(reason, text, grpc=self.is_grpc)
            self.status = head.status
            if self.is_grpc:
                self.grpc_status = rescue.ANSWERS[reason].grpc_status
            self.answered_at = now
            if self.watchers:
                if not self.sent_at:
                    taps.requested(self)
                    self.sent_at = now
                taps.responded(self, now)
            end = not body or self.head.method == b"HEAD"
            leg.codec.send_response(self.stream, head, end)
            if not end:
                leg.codec.send_data(self.stream, body, True)
                self.response_bytes += len(body)
        leg.channel.mark()
        self._finish(FAILED, outcome, now)

    def _reset_upstream(self) -> None:
        upstream = self.upstream
        if upstream is not None:
            upstream.leg.codec.reset(self.up_stream, CANCEL)
            upstream.leg.channel.mark()

    def _leave_upstream(self, now: float) -> None:
        upstream = self.upstream
        if upstream is not None:
            if self.owed_response:
                upstream.leg.codec.acknowledge(self.up_stream, self.owed_response)
                upstream.leg.channel.mark()
                self.owed_response = 0
            self.upstream = None
            upstream.release(self.up_stream, now)

    def _finish(self, event: Input, outcome: str, now: float) -> None:
        self.state = TRANSITIONS[self.state][event]
        self.slot.discard(self)
        if self.queue is not None:
            self.queue.pop(self, None)
            if self.endpoint is not None and self.queue is self.endpoint.queue:
                self.endpoint.load.pending -= 1
        self._leave_upstream(now)
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
