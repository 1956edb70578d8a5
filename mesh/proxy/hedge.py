"""A second try of an exchange, beside the first; whichever answers first is the one. Sans-IO.

It is an exchange without a client: it is assigned, queued and sent like any other, and its first word makes its try the
main exchange's own. Until then its failure is nobody's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.proxy.exchange import ASSIGNED, DONE, QUEUED, TRANSITIONS, Exchange
from mesh.proxy.report import Tally
from mesh.proxy.rescue import Answer, Reason
from mesh.wire.head import Field, Head

if TYPE_CHECKING:
    from mesh.proxy.care import Care
    from mesh.proxy.dial import ConnectFailed
    from mesh.proxy.endpoint import Endpoint


class Hedge(Exchange):
    """See the module. `main` has sent its whole request, and kept it."""

    __slots__ = ("cares", "main")

    def __init__(self, main: Exchange, cares: Care, now: float) -> None:
        super().__init__(main.downstream, main.stream, cares.head or main.head, True, now)
        self.main = main
        self.cares = cares
        self.cluster = main.cluster
        self.parent = main.parent
        self.protocol = main.protocol
        self.is_grpc = main.is_grpc
        self.deadline = main.deadline
        self.body = list(main.body or ())
        self.body_bytes = main.body_bytes
        self.endpoint = main.endpoint
        self.tried = [*(main.tried or ()), *([main.endpoint] if main.endpoint is not None else ())]

    def arm(self, now: float) -> None:
        """It ends with the main exchange, whose times count."""

    def informational(self, head: Head, now: float) -> None:
        """1xx: not the answer yet."""

    def response(self, head: Head, end: bool, now: float) -> None:
        """It was faster."""
        main = self.main
        main.parent.shared.reports.tally(Tally.HEDGE, main.parent.name, "won")
        self.cares.take_over(main, True, now)
        main.response(head, end, now)

    def upstream_reset(self, code: int, unprocessed: bool, reason: str, now: float) -> None:
        """The first try goes on alone."""
        if self.endpoint is not None and not unprocessed:
            self.endpoint.failed(self, reason, now)
        self.leave_upstream(now)
        self.drop(now)

    def upstream_refused(self, cause: str, now: float) -> None:
        """The first try goes on alone."""
        if self.endpoint is not None:
            self.endpoint.failed(self, cause, now)
        self.leave_upstream(now)
        self.drop(now)

    def connect_failed(self, endpoint: Endpoint, failure: ConnectFailed, now: float) -> None:
        """The first try goes on alone."""
        self.drop(now)

    def fail(
        self,
        reason: Reason,
        cause: str,
        now: float,
        outcome: str = "failed",
        answer: Answer | None = None,
        fields: tuple[Field, ...] = (),
    ) -> None:
        """The first try goes on alone."""
        self.drop(now)

    def become_main(self, reset: bool, now: float) -> None:
        """This try, which is SENT, is the main exchange's own from here. `reset`: the upstream of the one before still
        works for it."""
        main, upstream = self.main, self.upstream
        assert upstream is not None
        if reset:
            main.reset_upstream()
        if main.upstream is not None:
            main.tried = [*(main.tried or ()), main.upstream.endpoint]
        main.leave(now)
        if main.state is QUEUED:  # it was on its way to another endpoint
            main.state = TRANSITIONS[QUEUED][ASSIGNED]
        self.upstream = None
        self.state = DONE
        upstream.exchanges[self.up_stream] = main
        main.upstream = upstream
        main.endpoint = upstream.endpoint
        main.up_stream = self.up_stream
        main.sent_at = self.sent_at
        if upstream.endpoint.probing is self:
            upstream.endpoint.probing = main

    def drop(self, now: float) -> None:
        """End it; what is under way is reset."""
        if self.state is DONE:
            return
        if self.cares.hedge is self:
            self.cares.hedge = None
        if not self.sent_at:
            self.cares.plan.budget.restore(now)
            self.cares.retries -= 1
        self.reset_upstream()
        self.leave(now)
        self.state = DONE
