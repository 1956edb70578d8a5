"""A copy of a request for another service, whose answer nobody gets (Gateway API, RequestMirror). Sans-IO.

It is an exchange of its own: it outlives the client's (whose answer it must not delay), and is owned by the cluster
that it goes to, under a deadline. One that cannot keep up is dropped: what it has not taken is never waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.proxy.exchange import ANSWERING, DONE, Exchange
from mesh.proxy.report import Tally
from mesh.proxy.rescue import Answer, Reason
from mesh.wire.head import Field, Head, UnsendableHead

if TYPE_CHECKING:
    from mesh.proxy.cluster import Cluster

SECONDS = 15.0
"""A copy lives no longer than this, or than the request may."""


class Mirror(Exchange):
    """See the module."""

    __slots__ = ()

    def __init__(self, main: Exchange, head: Head, cluster: Cluster, now: float) -> None:
        super().__init__(main.downstream, main.stream, head, not main.request_open, now)
        self.cluster = self.parent = cluster
        self.protocol = main.protocol
        self.is_grpc = main.is_grpc
        self.deadline = min(main.deadline, now + SECONDS)

    def start(self, now: float) -> None:
        """Find it an endpoint."""
        self.cluster.mirrors.add(self)
        self.cluster.assign(self, now)
        if self.state is not DONE:
            self.arm(now)

    def request_data(self, data: bytes, end: bool, now: float) -> None:
        """Body of the original."""
        if self.state is DONE:
            return
        if end:
            self.request_open = False
        upstream = self.upstream
        if upstream is None:
            if self.body is not None:
                self.body.append(data)
                self.body_bytes += len(data)
                if self.body_bytes > self.downstream.limits.replay_bytes:
                    self.over("dropped", now)
            return
        upstream.leg.codec.send_data(self.up_stream, data, end)
        upstream.leg.channel.mark()
        self.body = None
        if upstream.leg.congested(self.up_stream):
            self.over("dropped", now)

    def request_trailers(self, fields: tuple[Field, ...], now: float) -> None:
        """Trailers of the original."""
        upstream = self.upstream
        if self.state is DONE:
            return
        if upstream is None:
            self.over("dropped", now)
            return
        self.request_open = False
        try:
            upstream.leg.codec.send_trailers(self.up_stream, fields)
        except UnsendableHead:
            self.over("dropped", now)
            return
        upstream.leg.channel.mark()

    def client_reset(self, now: float) -> None:
        """The original will not be whole."""
        if self.state is not DONE:
            self.over("dropped", now)

    def informational(self, head: Head, now: float) -> None:
        """1xx: not the answer yet."""

    def response(self, head: Head, end: bool, now: float) -> None:
        """It is answered; the answer is read and dropped."""
        self.state = ANSWERING
        endpoint = self.endpoint
        assert endpoint is not None
        if head.status >= 500:
            endpoint.failed(self, f"status {head.status}", now)
        else:
            endpoint.load.observe(now - self.sent_at, now)
            endpoint.succeeded(self, now)
        if end:
            self.over("answered", now)

    def response_data(self, data: bytes, end: bool, now: float) -> None:
        upstream = self.upstream
        assert upstream is not None
        if data:
            upstream.leg.codec.acknowledge(self.up_stream, len(data))
            upstream.leg.channel.mark()
        if end:
            self.over("answered", now)

    def response_trailers(self, fields: tuple[Field, ...], now: float) -> None:
        self.over("answered", now)

    def upstream_reset(self, code: int, unprocessed: bool, reason: str, now: float) -> None:
        """It is not sent again."""
        if not unprocessed and self.endpoint is not None:
            self.endpoint.failed(self, reason, now)
        self.leave_upstream(now)
        self.over("failed", now)

    def upstream_refused(self, cause: str, now: float) -> None:
        if self.endpoint is not None:
            self.endpoint.failed(self, cause, now)
        self.leave_upstream(now)
        self.over("failed", now)

    def fail(
        self,
        reason: Reason,
        cause: str,
        now: float,
        outcome: str = "failed",
        answer: Answer | None = None,
        fields: tuple[Field, ...] = (),
    ) -> None:
        """It has nobody to tell."""
        self.over("failed", now)

    def release(self) -> None:
        """Nobody is held back for it."""

    def over(self, outcome: str, now: float) -> None:
        """It is done with, or given up."""
        if self.state is DONE:
            return
        if outcome != "answered" or self.request_open:
            self.reset_upstream()
        self.leave(now)
        self.state = DONE
        self.cluster.mirrors.discard(self)
        self.cluster.shared.reports.tally(Tally.MIRROR, self.cluster.name, outcome)
