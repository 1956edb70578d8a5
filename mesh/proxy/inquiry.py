"""Asking external authorisers about a request that the rules have let through. Sans-IO.

The request is HELD meanwhile, with the authoriser's timeout as its deadline (ADR 6). The question is an exchange
without a client (ADR 7) to the authoriser's cluster: it finds an endpoint, waits for a connection and is sent like any
other, is tried again elsewhere while nobody has answered it, and ends with the request that it is about. It is itself
asked about by nobody here; other proxies know it by its user agent.

`ask` -> cached? -> hold, send -> answered: the next authoriser, or go on | denied: answer | failed: answer, or go on
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.model.errors import ConduitError
from mesh.proxy import ext_authz
from mesh.proxy.again import attempts_after_reset
from mesh.proxy.care import Care
from mesh.proxy.deadlines import NEVER
from mesh.proxy.exchange import DONE, EXPIRED_LEAST, FAILED, RESUMED, SENT, Exchange
from mesh.proxy.report import Tally, grpc_code
from mesh.proxy.rescue import Answer, Reason, sentence
from mesh.wire.head import Field, Head, UnsendableHead

if TYPE_CHECKING:
    from mesh.model.authorization import Authorizer
    from mesh.proxy.authorize import Compiled
    from mesh.proxy.cluster import Cluster
    from mesh.proxy.ext_authz import Verdict

AGENT = b"conduit-inquiry/"
"""How the user agent of an inquiry begins; the number behind it is that of the inquiries which led to it, itself among
them. To pretend to be one gains nothing but a refusal."""
MOST_DEEP = 2
"""An authoriser may stand behind another one; beyond that, they ask about each other."""
MOST_BYTES = 64 * 1024
"""Of one answer."""
ENTRIES = 2048
"""Verdicts remembered for one service; beyond, the oldest goes."""
CACHED_BYTES = 4096
"""Of an answer that is remembered; a longer one is asked for each time."""
DEADLINE_EXCEEDED = 4
_AGAIN = 3
"""Tries of one inquiry whose connection breaks before it is answered: nothing is done twice by asking twice."""


class Answers:
    """Verdicts that their authorisers let be used again, by authoriser and all that it was told."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[tuple[Authorizer, bytes], tuple[Verdict, float]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, authorizer: Authorizer, told: bytes, now: float) -> Verdict | None:
        """What it said to just this; None where that is not known, or has been for too long."""
        key = (authorizer, told)
        found = self._kept.get(key)
        if found is None:
            return None
        if now >= found[1]:
            del self._kept[key]
            return None
        return found[0]

    def put(self, authorizer: Authorizer, told: bytes, said: Verdict, now: float) -> None:
        """Remember it as long as both the policy and the authoriser allow."""
        seconds = min(authorizer.cache, said.max_age)
        if seconds <= 0.0:
            return
        if len(self._kept) >= ENTRIES:
            del self._kept[next(iter(self._kept))]
        self._kept[(authorizer, told)] = (said, now + seconds)


def ask(exchange: Exchange, authorizers: tuple[Authorizer, ...], cluster: Cluster, now: float) -> bool:
    """Ask them about a request that is QUEUED, one after another. True: it may go on at once. False: it waits, and goes
    on by itself (`begin.authorized`), or has been answered."""
    asked = tuple([one for one in authorizers if not _is_here(one.service, exchange, cluster)])
    if not asked:
        return True
    if exchange.care is None:
        exchange.care = Care(cluster.plan)
    asking = Asking(exchange, asked, cluster)
    exchange.care.asking = asking
    return asking.proceed(now)


def _is_here(service: str, exchange: Exchange, cluster: Cluster) -> bool:
    """Whether an authoriser is the very application that the request is for: it would be asked about its own
    questions."""
    if service == cluster.name or service == exchange.downstream.listener.address:
        return True
    return any(service == endpoint.address for endpoint in cluster.endpoints)


class Asking:
    """The questions about one request. `inquiry` is the one under way."""

    __slots__ = ("access", "authorizers", "cluster", "exchange", "index", "inquiry", "told")

    def __init__(self, exchange: Exchange, authorizers: tuple[Authorizer, ...], cluster: Cluster) -> None:
        self.exchange = exchange
        self.authorizers = authorizers
        self.cluster = cluster
        self.access: Compiled | None = cluster.access
        self.index = 0
        self.inquiry: Inquiry | None = None
        self.told = b""

    def __repr__(self) -> str:
        return f"<Asking {self.index + 1} of {len(self.authorizers)} about {self.exchange!r}>"

    # --- one after another -------------------------------------------------------------------------------------------

    def proceed(self, now: float) -> bool:
        """Ask the next ones. True if all have said yes."""
        cluster = self.cluster
        while self.index < len(self.authorizers):
            authorizer = self.authorizers[self.index]
            question = ext_authz.question(self._about(), authorizer.headers)
            if authorizer.cache > 0.0:
                self.told = ext_authz.same(question)
                answers = cluster.answers
                known = answers.get(authorizer, self.told, now) if answers is not None else None
                if known is not None:
                    self._count("cached")
                    if not self._takes(known, now):
                        return False
                    continue
            self._inquire(authorizer, ext_authz.framed(question), now)
            return False
        self._done()
        return True

    def _about(self) -> ext_authz.About:
        exchange = self.exchange
        downstream, care = exchange.downstream, exchange.care
        return ext_authz.About(
            care.head if care is not None and care.head is not None else exchange.head,
            exchange.protocol,
            f"{downstream.number}:{exchange.stream}",
            downstream.peer,
            downstream.identity,
            downstream.listener.address,
            downstream.own,
            self.cluster.name,
            self.cluster.shared.wall(),
        )

    def _inquire(self, authorizer: Authorizer, message: bytes, now: float) -> None:
        exchange = self.exchange
        exchange.hold(now + authorizer.timeout, now)
        agent = exchange.head.get(b"user-agent")
        depth = 0
        if agent is not None and agent.startswith(AGENT):
            told = agent[len(AGENT) :]
            depth = int(told) if told.isdigit() and len(told) < 4 else MOST_DEEP
        if depth >= MOST_DEEP:
            self._fail("authorisers are asked about each other in a circle", now)  # nor does that open anything
            return
        directory = exchange.downstream.listener.directory
        service = authorizer.service
        try:
            cluster = directory.at(service) if ":" in service else directory.named(service)
        except ConduitError as exc:
            self.failed(str(exc), now)
            return
        inquiry = self.inquiry = Inquiry(self, cluster, service, message, depth + 1, authorizer.timeout, now)
        cluster.assign(inquiry, now)  # which may fail at once, and then has told us

    def _resume(self, now: float) -> None:
        """RESUMED: it is QUEUED again, for the next authoriser or to be sent."""
        exchange = self.exchange
        if exchange.care is not None:
            exchange.care.held_until = NEVER
        exchange._move(RESUMED)
        exchange.queued_at = exchange.touched_at = now

    def _go_on(self, now: float) -> None:
        """The one that was asked lets it pass."""
        from mesh.proxy import begin  # which asks us

        exchange, cluster = self.exchange, self.cluster
        self.index += 1
        self._resume(now)
        if cluster.access is not self.access:  # the policy is another one by now, and judges anew
            self._done()
            if exchange.care is not None:
                exchange.care.head = None
                exchange.care.response_edits = ()
            begin.begin(exchange, cluster, now)
        elif self.proceed(now):
            begin.authorized(exchange, cluster, now)

    def _done(self) -> None:
        care = self.exchange.care
        if care is not None:
            care.asking = None

    # --- what comes back ---------------------------------------------------------------------------------------------

    def answered(self, said: Verdict, size: int, now: float) -> None:
        """The authoriser has decided, in so many bytes."""
        self.inquiry = None
        authorizer, cluster = self.authorizers[self.index], self.cluster
        if authorizer.cache > 0.0 and size <= CACHED_BYTES:
            if cluster.answers is None:
                cluster.answers = Answers()
            cluster.answers.put(authorizer, self.told, said, now)
        self._count("allowed" if said.allowed else "denied")
        if said.allowed:
            self._note(said)
            self._go_on(now)
        else:
            self._deny(said, now)

    def failed(self, cause: str, now: float) -> None:
        """It could not be asked, or what it said makes no sense."""
        self.inquiry = None
        authorizer = self.authorizers[self.index]
        if authorizer.fail_open:
            self._count("open")
            self._go_on(now)
        else:
            self._fail(cause, now)

    def _fail(self, cause: str, now: float) -> None:
        authorizer = self.authorizers[self.index]
        self._count("failed")
        self._done()
        what = f"the authoriser {authorizer.name} ({authorizer.service}) could not be asked: {cause}"
        self.exchange.fail(Reason.AUTHORIZER_FAILED, what, now)

    def expired(self, now: float) -> None:
        """It has taken too long."""
        inquiry, self.inquiry = self.inquiry, None
        cause = f"no answer within {self.authorizers[self.index].timeout:.3g} s"
        if inquiry is not None:
            if inquiry.last_cause:
                cause += f" (last error: {inquiry.last_cause})"
            inquiry.expired(now)
        self.failed(cause, now)

    def cancel(self, now: float) -> None:
        """The request is over."""
        inquiry, self.inquiry = self.inquiry, None
        if inquiry is not None:
            inquiry.over(True, now)

    def _takes(self, said: Verdict, now: float) -> bool:
        """A verdict that is known already. False if that was a no."""
        if said.allowed:
            self._note(said)
            self.index += 1
        else:
            self._deny(said, now)
        return said.allowed

    def _note(self, said: Verdict) -> None:
        """Have the request go on as the authoriser wants it."""
        exchange = self.exchange
        care = exchange.care
        assert care is not None
        before = care.head if care.head is not None else exchange.head
        after = ext_authz.granted(before, said)
        if after is not before:
            care.head = after
        care.response_edits += said.response_edits

    def _deny(self, said: Verdict, now: float) -> None:
        exchange, cluster = self.exchange, self.cluster
        self._done()
        name = self.authorizers[self.index].name
        cluster.shared.reports.tally(Tally.DENIED, cluster.name, name)
        if exchange.decision is not None:
            exchange.decision = exchange.decision._replace(allowed=False, by=name, why="the authoriser denies it")
        text = sentence(cluster.name, "", f"denied by {name}" if exchange.downstream.identity else "denied")
        head, body, code = ext_authz.denial(said, exchange.is_grpc, text)
        exchange.error = Reason.DENIED.value
        exchange.grpc_status = code
        try:
            exchange._say(head, body, now)
        except UnsendableHead as exc:
            exchange.fail(Reason.AUTHORIZER_FAILED, f"what {name} says cannot be sent: {exc}", now)
            return
        exchange._finish(FAILED, "denied", now)

    def _count(self, outcome: str) -> None:
        self.cluster.shared.reports.tally(Tally.AUTHORIZER, self.cluster.name, outcome)


class Inquiry(Exchange):
    """One call of an authoriser. It stays SENT until its answer is whole."""

    __slots__ = ("answer_head", "asking", "read", "size", "timeout")

    def __init__(
        self, asking: Asking, cluster: Cluster, authority: str, message: bytes, depth: int, timeout: float, now: float
    ) -> None:
        main = asking.exchange
        fields = [
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"user-agent", AGENT + b"%d" % depth),
        ]
        head = Head.request(b"POST", ext_authz.PATH, authority=authority.encode(), fields=fields)
        super().__init__(main.downstream, main.stream, head, True, now)
        self.asking = asking
        self.cluster = self.parent = cluster
        self.protocol = "http2"
        self.is_grpc = True
        self.deadline = now + timeout  # not the client's: who asks with little time must not make it fail open
        self.body = [message]
        self.body_bytes = len(message)
        self.timeout = timeout
        self.answer_head: Head | None = None
        self.read: list[bytes] = []
        self.size = 0

    def arm(self, now: float) -> None:
        """It ends with the request that it is about, whose times count."""

    def _keep_for_replay(self) -> None:
        """The message is kept until there is an answer."""

    def informational(self, head: Head, now: float) -> None:
        """1xx: not the answer yet."""

    def response(self, head: Head, end: bool, now: float) -> None:
        """An answer begins."""
        endpoint = self.endpoint
        assert endpoint is not None
        self.body = None
        self.answer_head = head
        if head.status >= 500:
            endpoint.failed(self, f"status {head.status}", now)
        else:
            endpoint.load.observe(now - self.sent_at, now)
        kind = head.get(b"content-type") or b""
        if head.status != 200:
            self._stop(not end, f"it answered with status {head.status}", now)
        elif not kind.startswith(b"application/grpc"):
            self._stop(not end, f"its answer is no gRPC but {kind.decode('latin-1') or 'of no type'}", now)
        elif end:
            self._ended(head.get(b"grpc-status"), head.get(b"grpc-message"), now)

    def response_data(self, data: bytes, end: bool, now: float) -> None:
        upstream = self.upstream
        assert upstream is not None
        if data:
            upstream.leg.codec.acknowledge(self.up_stream, len(data))
            upstream.leg.channel.mark()
        self.read.append(data)
        self.size += len(data)
        if self.size > MOST_BYTES:
            self._stop(not end, f"its answer is longer than {MOST_BYTES} bytes", now)
        elif end:
            self._stop(False, "its answer has no grpc-status", now)

    def response_trailers(self, fields: tuple[Field, ...], now: float) -> None:
        told = dict(fields)
        self._ended(told.get(b"grpc-status"), told.get(b"grpc-message"), now)

    def _ended(self, status: bytes | None, message: bytes | None, now: float) -> None:
        code = grpc_code(status)
        endpoint = self.endpoint
        assert endpoint is not None
        endpoint.judge_grpc(self, code, now)
        if code == DEADLINE_EXCEEDED:  # it keeps the time that it was told, and may be a moment before us
            self._stop(False, f"no answer within {self.timeout:.3g} s", now)
            return
        if code:
            words = f": {message.decode('latin-1')[:200]}" if message else ""
            self._stop(False, f"it answered with grpc-status {code}{words}", now)
            return
        assert self.answer_head is not None
        try:
            said = ext_authz.verdict(b"".join(self.read), self.answer_head)
        except ext_authz.Garbage as exc:
            self._stop(False, str(exc), now)
            return
        self.over(False, now)
        self.asking.answered(said, self.size, now)

    def upstream_reset(self, code: int, unprocessed: bool, reason: str, now: float) -> None:
        """Nobody is hurt by being asked twice."""
        upstream = self.upstream
        assert upstream is not None
        if self._send_again(max(_AGAIN, attempts_after_reset(self, upstream, unprocessed)), False, now):
            return
        if not unprocessed:
            upstream.endpoint.failed(self, reason, now)
        self.leave_upstream(now)
        self._stop(False, reason, now)

    def upstream_refused(self, cause: str, now: float) -> None:
        if self.endpoint is not None:
            self.endpoint.failed(self, cause, now)
        self.leave_upstream(now)
        self._stop(False, cause, now)

    def fail(
        self,
        reason: Reason,
        cause: str,
        now: float,
        outcome: str = "failed",
        answer: Answer | None = None,
        fields: tuple[Field, ...] = (),
    ) -> None:
        """It could not be sent."""
        self._stop(True, cause, now)

    def client_reset(self, now: float) -> None:
        """Its cluster goes away."""
        self._stop(True, "it is not there any more", now)

    def release(self) -> None:
        """Nobody is held back for it."""

    def expired(self, now: float) -> None:
        """Its time is up."""
        if self.state is SENT and now - self.sent_at >= EXPIRED_LEAST and self.endpoint is not None:
            self.endpoint.failed(self, "no answer in time", now)
        self.over(True, now)

    def _stop(self, reset: bool, cause: str, now: float) -> None:
        """It has come to nothing. `reset`: the authoriser still works for it."""
        if self.state is DONE:
            return
        where = f"endpoint {self.endpoint.address}: " if self.endpoint is not None else ""
        self.over(reset, now)
        self.asking.failed(where + cause, now)

    def over(self, reset: bool, now: float) -> None:
        """It is done with."""
        if reset:
            self.reset_upstream()
        self.leave(now)
        self.state = DONE
