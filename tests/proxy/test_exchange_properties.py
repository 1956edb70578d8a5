"""Requests through all that policy does, in random orders: what must hold whatever happens, and when it has happened.

Hypothesis plays a client, the endpoints of four services, the control plane and the clock. After each step: load is
what is under way, whatever waits is where it can be found, a half-open circuit has its probe, no deadline has been
overrun. When all has ended: one report for each request, nothing left anywhere, every byte and token given back.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mesh.model.config import Protocol, Service, Timeouts
from mesh.model.traffic import (
    Abort,
    Backend,
    Breaker,
    Concurrency,
    Edits,
    Hedge,
    Injection,
    Match,
    Mirror,
    PathMatch,
    RateLimit,
    Redirect,
    Retry,
    RetryBudget,
    Route,
    Traffic,
)
from mesh.proxy.breaker import CircuitState
from mesh.proxy.budget import RetryBudget as Budget
from mesh.proxy.cluster import Cluster
from mesh.proxy.deadlines import TICK
from mesh.proxy.endpoint import Endpoint
from mesh.proxy.exchange import ANSWERING, DONE, HELD, NEVER, QUEUED, SENT, Exchange
from mesh.proxy.limit import Gate
from mesh.proxy.upstream import Upstream
from mesh.wire.codec import Broken, Data, GoAway, Informational, Refused, Reset, Response, Trailers
from mesh.wire.head import Head
from tests.proxy.playbook import GRPC, LOST, InOrder, Stage, addresses

BAD = (b"x-cannot-be-said", b"1")


def under(path: str) -> Match:
    return Match(path=PathMatch(path))


ROUTES = (
    Route("r/0", under("/two"), (Backend("other"),), retry=Retry(attempts=2, methods=("*",), backoff=0.0)),
    Route("r/1", under("/copied"), (Backend(""),), mirrors=(Mirror("shadow"), Mirror("unheard", 50.0))),
    Route("r/2", under("/gone"), redirect=Redirect(hostname="elsewhere")),
    Route("r/3", under("/unheard"), (Backend("unheard"), Backend("", 1)), timeout=0.4),
    Route("r/4", under("/nowhere"), (Backend("gone", problem="there is none"),)),
    Route("r/5", under("/cannot-be-said"), (Backend(""),), response=Edits(set=(("x-route", "5"),))),
    Route("r/6", under("/"), (Backend(""),), request=Edits(set=(("x-route", "6"),)), try_timeout=0.2),
)
LIMITED = Traffic(concurrency=Concurrency(most=1), retry=Retry())
KEEN = Traffic(
    retry=Retry(2, (500, 503), grpc=(4, 14), methods=("*",), backoff=0.0, hedge=Hedge(0.9, 0.01)),
    budget=RetryBudget(percent=100.0),
    breaker=Breaker(failures=4, probation=0.2),
)
"""A policy under which much happens."""
retries = st.builds(
    Retry,
    attempts=st.integers(1, 3),
    statuses=st.just((500, 503)),
    grpc=st.sampled_from([(4, 14), (4, 14), ()]),
    reset=st.sampled_from([True, True, False]),
    timeout=st.sampled_from([True, True, False]),
    methods=st.sampled_from([("*",), ("*",), ()]),
    backoff=st.sampled_from([0.0, 0.0, 0.025, 0.3]),
    hedge=st.sampled_from([Hedge(0.9, 0.01), None, Hedge(0.9, 0.03)]),
)
traffics = st.builds(
    Traffic,
    routed=st.booleans(),
    routes=st.just(ROUTES),
    retry=st.one_of(retries, retries, retries, st.none()),
    budget=st.builds(RetryBudget, percent=st.sampled_from([20.0, 100.0, 0.0]), per_second=st.sampled_from([10.0, 0.5])),
    breaker=st.builds(
        Breaker,
        failures=st.sampled_from([3, 1, 0]),
        success_rate=st.sampled_from([0.0, 0.5]),
        requests=st.just(3),
        probation=st.just(0.2),
        eject_most=st.sampled_from([100.0, 50.0]),
        panic=st.sampled_from([0.0, 30.0]),
    ),
    rate_limits=st.sampled_from([(), (), (), (RateLimit(4.0),)]),
    concurrency=st.sampled_from([None, None, None, Concurrency(most=3), Concurrency(adaptive=True)]),
    faults=st.sampled_from(
        [
            *[()] * 6,
            (Injection(delay=0.3, percent=50.0),),
            (Injection(abort=Abort(503, 14), percent=30.0),),
            (Injection(delay=0.1, abort=Abort(429, 8), match=under("/copied")),),
        ]
    ),
)
timeouts = st.builds(
    Timeouts,
    request=st.sampled_from([0.0, 0.0, 1.0]),
    backend_request=st.sampled_from([0.0, 0.3]),
    idle=st.sampled_from([0.0, 0.0, 2.0]),
)


class Counting(Budget):
    """A budget that counts."""

    __slots__ = ("asked", "began", "given_back", "given_out")

    def __init__(self, of: Budget, now: float) -> None:
        super().__init__(of.policy, now)
        self.began = now
        self.asked = self.given_out = self.given_back = 0

    def deposit(self, now: float) -> None:
        self.asked += 1
        super().deposit(now)

    def withdraw(self, now: float) -> bool:
        if not super().withdraw(now):
            return False
        self.given_out += 1
        return True

    def restore(self, now: float) -> None:
        self.given_back += 1
        super().restore(now)


class EveryOrder(RuleBasedStateMachine):
    """See the module."""

    @initialize(
        traffic=st.just(KEEN) | traffics,
        times=timeouts,
        count=st.integers(1, 3),
        protocol=st.sampled_from([Protocol.DETECT, Protocol.DETECT, Protocol.HTTP1, Protocol.HTTP2]),
        client=st.sampled_from(["http2", "http2", "http1"]),
        meshed=st.booleans(),
        seed=st.randoms(use_true_random=False),
        connected=st.sampled_from([True, True, False]),
    )
    def begin(self, traffic, times, count, protocol, client, meshed, seed, connected) -> None:
        self.stage = stage = Stage(
            count,
            False,
            traffic=traffic,
            timeouts=times,
            protocol=protocol,
            client=client,
            meshed=meshed,
            others={"other": 1, "shadow": 1},
        )
        stage.random.draw = seed.random
        self.everything: dict[Exchange, float] = {}
        self.heads: set[tuple[Upstream, int]] = set()
        self.request_bytes: Counter[int] = Counter()
        self.response_bytes: Counter[tuple[Upstream, int]] = Counter()
        self.client_open: set[int] = set()
        self.asked = 0
        self.clusters: dict[Cluster, None] = {}
        self.endpoints: dict[Endpoint, None] = {}
        self.gates: dict[Gate, None] = {}
        self.budgets: dict[Counting, None] = {}
        self.look_around()
        if connected:
            for endpoint in stage.endpoints:
                stage.connect(endpoint, "http1" if client == "http1" else "http2")

    def look_around(self) -> None:
        """Know all clusters, endpoints, gates and budgets that there are, or were; count; have seen usual answers."""
        for cluster in self.stage.clusters():
            self.clusters[cluster] = None
            self.endpoints.update(dict.fromkeys(cluster.endpoints))
            if not isinstance(cluster.mirrors, InOrder):
                cluster.mirrors = InOrder.fromkeys(cluster.mirrors)
            plan = cluster.plan
            if plan.gate is not None:
                self.gates[plan.gate] = None
            if not isinstance(plan.budget, Counting):
                plan.budget = Counting(plan.budget, self.stage.now)
                self.budgets[plan.budget] = None
            if plan.latencies is not None and plan.latencies.quantile(0.9, self.stage.now) is None:
                for _ in range(20):
                    plan.latencies.observe(0.02, self.stage.now)

    # what can be chosen from

    def running(self) -> list[Exchange]:
        return list(self.stage.downstream.exchanges.values())

    def wanted(self) -> list[Endpoint]:
        return [endpoint for endpoint in self.endpoints if endpoint.to_dial]

    def open(self, answered: bool | None = None) -> list[tuple[Upstream, int]]:
        """The streams on which an endpoint may still say something."""
        found = []
        for upstream in self.stage.made:
            codec = upstream.leg.codec
            for stream in codec.heads:
                if stream not in codec.closed and stream not in codec.over:
                    one = (upstream, stream)
                    if answered is None or (one in self.heads) is answered:
                        found.append(one)
        return found

    # the client

    @rule(grpc=st.booleans(), path=st.sampled_from([b"/", b"/", b"/two", b"/copied"]), slow=st.booleans())
    def usual_request(self, grpc, path, slow) -> None:
        """It finds connections; the answer may take longer than usual."""
        self.ask(b"POST" if grpc else b"GET", path, not grpc, grpc, None)
        if grpc:
            stream = self.stage.next - 2
            self.client_open.discard(stream)
            self.request_bytes[stream] += 10
            self.stage.downstream.handle([Data(stream, b"x" * 10, True)])
        self.connected()
        if slow:
            self.stage.pass_time(0.06, TICK)
            self.connected()

    @rule(
        method=st.sampled_from([b"GET", b"POST", b"POST", b"CONNECT"]),
        end=st.booleans(),
        path=st.sampled_from([b"/", b"/two", b"/copied", b"/copied", b"/gone", b"/unheard", b"/nowhere", LOST]),
        grpc=st.booleans(),
        field=st.sampled_from(
            [None, None, (b"grpc-timeout", b"300m"), (b"conduit-timeout-ms", b"300"), (b"conduit-timeout-ms", b"0")]
        ),
    )
    def odd_request(self, method, end, path, grpc, field) -> None:
        if self.stage.codec.name == "http1" and method == b"CONNECT":
            method = b"GET"
        self.ask(method, path if method != b"CONNECT" else b"", end and method != b"CONNECT", grpc, field)

    def ask(self, method, path, end, grpc, field) -> None:
        stage = self.stage
        grpc = grpc and stage.codec.name == "http2"
        if not end:
            self.client_open.add(stage.next)
        exchange = stage.ask(method, path, end, [field] if field else [], grpc)
        if exchange is not None:
            self.everything[exchange] = exchange.deadline
        self.asked += 1

    @precondition(lambda self: self.client_open)
    @rule(
        data=st.data(),
        size=st.sampled_from([10, 60, 150]),
        how=st.sampled_from(["", "", "end", "end", "trailers", "bad"]),
    )
    def client_speaks(self, data, size, how) -> None:
        stream = data.draw(st.sampled_from(sorted(self.client_open)))
        if how:
            self.client_open.discard(stream)
        if how in ("trailers", "bad"):
            self.stage.downstream.handle([Trailers(stream, (BAD if how == "bad" else (b"a", b"1"),))])
            return
        self.request_bytes[stream] += size
        self.stage.downstream.handle([Data(stream, b"x" * size, bool(how))])

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def client_reset(self, data) -> None:
        stream = data.draw(st.sampled_from(self.running())).stream
        self.client_open.discard(stream)
        self.stage.codec.gone(stream)
        self.stage.downstream.handle([Reset(stream, 8, False, "cancelled")])

    # the endpoints

    @rule()
    def connected(self) -> None:
        for endpoint in self.wanted():
            self.stage.connect(endpoint)

    @precondition(lambda self: self.wanted())
    @rule(data=st.data(), silent=st.booleans())
    def unreachable(self, data, silent) -> None:
        self.stage.refuse(data.draw(st.sampled_from(self.wanted())), silent)

    @precondition(lambda self: self.open(answered=False))
    @rule(data=st.data(), bad=st.booleans())
    def informational(self, data, bad) -> None:
        upstream, stream = data.draw(st.sampled_from(self.open(answered=False)))
        self.stage.hear(upstream, Informational(stream, Head.response(103, [BAD] if bad else [])))

    @precondition(lambda self: self.open(answered=False))
    @rule(data=st.data(), end=st.booleans(), well=st.booleans())
    def usual_response(self, data, end, well) -> None:
        """With all that belongs to it, or only the head."""
        upstream, stream = data.draw(st.sampled_from(self.open(answered=False)))
        head = upstream.leg.codec.heads[stream]
        self.heads.add((upstream, stream))
        code = (b"grpc-status", b"0" if well else b"14")
        if not head.get(GRPC[0]):
            end = end and head.method != b"CONNECT"
            self.stage.hear(upstream, Response(stream, Head.response(200 if well else 503), end))
        elif end:
            self.stage.hear(upstream, Response(stream, Head.response(200), False), Trailers(stream, (code,)))
        else:
            self.stage.hear(upstream, Response(stream, Head.response(200), False))

    @precondition(lambda self: self.open(answered=False))
    @rule(
        data=st.data(),
        end=st.booleans(),
        status=st.sampled_from([200, 200, 204, 404, 500, 503]),
        fields=st.lists(
            st.sampled_from(
                [
                    (b"retry-after", b"0"),
                    (b"retry-after", b"1"),
                    (b"retry-after", b"100"),
                    (b"content-length", b"70000"),
                    (b"conduit-error", b"connect_failed"),
                    (b"grpc-status", b"14"),
                    (b"grpc-status", b"0"),
                    (b"grpc-retry-pushback-ms", b"100"),
                    (b"grpc-retry-pushback-ms", b"-1"),
                    BAD,
                ]
            ),
            max_size=2,
        ),
    )
    def odd_response(self, data, end, status, fields) -> None:
        upstream, stream = data.draw(st.sampled_from(self.open(answered=False)))
        end = end and upstream.leg.codec.heads[stream].method != b"CONNECT"
        self.heads.add((upstream, stream))
        self.stage.hear(upstream, Response(stream, Head.response(status, fields), end))

    @precondition(lambda self: self.open(answered=True))
    @rule(data=st.data(), size=st.sampled_from([10, 0, 150, 70_000]), end=st.booleans())
    def response_data(self, data, size, end) -> None:
        upstream, stream = data.draw(st.sampled_from(self.open(answered=True)))
        self.response_bytes[upstream, stream] += size
        self.stage.hear(upstream, Data(stream, b"y" * size, end))

    @precondition(lambda self: self.open(answered=True))
    @rule(data=st.data(), field=st.sampled_from([(b"grpc-status", b"0"), (b"grpc-status", b"14"), BAD]))
    def response_trailers(self, data, field) -> None:
        upstream, stream = data.draw(st.sampled_from(self.open(answered=True)))
        self.stage.hear(upstream, Trailers(stream, (field,)))

    @precondition(lambda self: self.open())
    @rule(data=st.data(), unprocessed=st.booleans(), malformed=st.booleans())
    def upstream_reset(self, data, unprocessed, malformed) -> None:
        upstream, stream = data.draw(st.sampled_from(self.open()))
        exchange = upstream.exchanges[stream]
        before = exchange.state
        upstream.leg.codec.gone(stream)
        upstream.handle([Refused(stream, "malformed") if malformed else Reset(stream, 7, unprocessed, "reset")])
        if before is ANSWERING:
            assert exchange.state is DONE, "sent again after the client heard something"

    @precondition(lambda self: self.open())
    @rule(data=st.data(), how=st.sampled_from(["lost", "broken", "goaway"]))
    def connection_ends(self, data, how) -> None:
        upstream = data.draw(st.sampled_from(self.stage.made))
        if how == "goaway" and upstream.http2:
            upstream.leg.codec.alive = False
            upstream.handle([GoAway(upstream.leg.codec.next, 0)])
            return
        if how == "broken":
            upstream.leg.codec.alive = False
            upstream.leg.codec.closed |= set(upstream.exchanges)
            upstream.handle([Broken("bad_frame", "a frame that is none")])
        self.stage.lose(upstream)
        assert upstream.exchanges == {}

    # what is rare gets more than its share: a request with a hedge, or with an answer that is held back or dropped

    def hedged(self) -> list[Exchange]:
        return [one for one in self.running() if one.care is not None and one.care.hedge is not None]

    def heard(self) -> list[Exchange]:
        return [one for one in self.running() if one.care is not None and one.care.heard]

    @precondition(lambda self: self.hedged())
    @rule(
        data=st.data(),
        what=st.sampled_from(["wins", "loses", "first lost", "first refused", "nowhere", "cancelled", "overtakes"]),
    )
    def a_hedge_meets(self, data, what) -> None:
        exchange = data.draw(st.sampled_from(self.hedged()))
        hedge = exchange.care.hedge
        if what == "nowhere":
            self.stage.update(endpoints=())
        elif what == "cancelled":
            self.client_open.discard(exchange.stream)
            self.stage.codec.gone(exchange.stream)
            self.stage.downstream.handle([Reset(exchange.stream, 8, False, "cancelled")])
        elif what in ("wins", "overtakes"):
            if what == "overtakes" and exchange.upstream is not None:
                self.stage.update(endpoints=())
                self.try_meets(exchange, "refused")
            if hedge.upstream is not None:
                self.heads.add((hedge.upstream, hedge.up_stream))
                self.stage.hear(hedge.upstream, Response(hedge.up_stream, Head.response(200), True))
        elif exchange.upstream is not None:
            self.try_meets(exchange, {"loses": "answered", "first lost": "lost"}.get(what, "refused"))

    @precondition(lambda self: self.heard())
    @rule(data=st.data(), what=st.sampled_from(["lost", "refused", "reset", "late", "ended"]))
    def an_answer_kept_back_meets(self, data, what) -> None:
        self.try_meets(data.draw(st.sampled_from(self.heard())), what)

    def try_meets(self, exchange: Exchange, what: str) -> None:
        upstream, stream = exchange.upstream, exchange.up_stream
        if what == "lost":
            self.stage.lose(upstream)
        elif what == "late":
            self.stage.pass_time(0.05, TICK)
        elif what == "ended":
            self.response_bytes[upstream, stream] += 5
            self.stage.hear(upstream, Data(stream, b"y" * 5, True))
        elif what == "answered":
            if (upstream, stream) not in self.heads:
                self.heads.add((upstream, stream))
                self.stage.hear(upstream, Response(stream, Head.response(503), False))
        else:
            told = exchange.care.held_head is not None and exchange.care.hedge is None
            upstream.leg.codec.gone(stream)
            upstream.handle([Reset(stream, 7, what == "refused", "reset")])
            assert exchange.state is DONE or not told, "sent again as unseen though it was answered"

    # the control plane

    @rule(data=st.data(), what=st.sampled_from(["traffic", "endpoints", "timeouts"]))
    def update(self, data, what) -> None:
        stage = self.stage
        if what == "traffic":
            stage.update(traffic=data.draw(traffics))
        elif what == "timeouts":
            stage.update(timeouts=data.draw(timeouts))
        else:
            stage.update(endpoints=addresses(data.draw(st.integers(1, 3)), data.draw(st.integers(0, 3))))
        self.look_around()

    @precondition(lambda self: self.stage.asked_for)
    @rule(known=st.booleans())
    def name_is_told(self, known) -> None:
        name = self.stage.asked_for.pop()
        self.stage.directory.apply(name, Service(name, addresses(300, 1), traffic=LIMITED) if known else None)

    # congestion and time

    @precondition(lambda self: self.stage.made)
    @rule(data=st.data(), full=st.booleans())
    def upstream_congestion(self, data, full) -> None:
        upstream = data.draw(st.sampled_from(self.stage.made))
        upstream.leg.codec.full = full
        upstream.leg.produce()
        if not full:
            assert all(one.owed_request == 0 for one in upstream.exchanges.values())

    @precondition(lambda self: self.running())
    @rule(full=st.booleans())
    def client_congestion(self, full) -> None:
        self.stage.codec.full = full
        self.stage.downstream.leg.produce()
        if not full:
            assert all(one.owed_response == 0 for one in self.running())

    @rule(seconds=st.sampled_from([0.03, 0.05, 0.1, 0.3]))
    def a_moment_passes(self, seconds) -> None:
        self.stage.pass_time(seconds, TICK)

    @rule(seconds=st.sampled_from([1.0, 2.5, 10.0, 70.0]))
    def time_passes(self, seconds) -> None:
        self.stage.pass_time(seconds)
        self.stage.downstream.watch(self.stage.now)

    # what must hold

    @invariant()
    def nothing_is_forgotten_or_counted_twice(self) -> None:
        if not hasattr(self, "stage"):
            return
        self.look_around()
        stage, now = self.stage, self.stage.now
        running = self.running()
        working = Counter(upstream.endpoint for upstream in stage.made for _ in upstream.exchanges)
        for endpoint in self.endpoints:
            assert endpoint.load.pending == working[endpoint] + len(endpoint.queue)
            assert all(one.state is QUEUED and one.queue is endpoint.queue for one in endpoint.queue)
            probing = endpoint.probing
            assert (endpoint.circuit.state is CircuitState.HALF_OPEN) == (probing is not None) or endpoint.retired
            if probing is not None and not endpoint.retired:
                assert probing.endpoint is endpoint
                assert probing.state in (QUEUED, SENT, ANSWERING)
        for upstream in stage.made:
            for stream, one in upstream.exchanges.items():
                assert one.upstream is upstream
                assert one.up_stream == stream
                assert one.state in (SENT, ANSWERING)
        copies = [mirror for cluster in self.clusters for mirror in cluster.mirrors]
        for one in [*running, *copies]:
            assert one.state is not DONE
            assert (one.upstream is not None) == (one.state in (SENT, ANSWERING))
            assert (one.queue is not None) == (one.state is QUEUED)
            # what has become a conversation has no end but its silence
            deadline = NEVER if one.tunnel else min(one.deadline, self.everything.get(one, NEVER))
            assert now <= deadline + TICK + 1e-6, "a deadline was overrun"
            if one.state in (QUEUED, HELD) or one.deadline < NEVER:
                assert one in one.slot
        assert len(stage.deadlines) <= len(running) + len(copies)
        for cluster in self.clusters:
            assert all(one.state is QUEUED and one.queue is cluster.waiting for one in cluster.waiting)
        for gate in self.gates:
            assert gate.in_hand == sum(one.care is not None and one.care.gate is gate for one in running)
        for one in running:
            care = one.care
            if care is not None:
                assert care.retries <= (care.retrying.policy.attempts if care.retrying is not None else 0)
                if care.hedge is not None:
                    assert one.state in (QUEUED, SENT)
                    assert care.hedge.state in (QUEUED, SENT)
        for stream, taken in self.request_bytes.items():
            assert stage.codec.acknowledged[stream] <= taken
        for budget in self.budgets:
            spent = budget.given_out - budget.given_back
            earned = budget.asked * budget.policy.percent / 100.0
            assert 0 <= spent <= earned + budget.policy.per_second * max(1.0, now - budget.began) + 1e-6
        tried_again = sum(stage.tallies("retries").values()) + stage.tallies("hedges").get("started", 0)
        assert tried_again == sum(budget.given_out for budget in self.budgets)

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        stage = self.stage
        stage.codec.closed |= set(stage.downstream.exchanges)
        stage.downstream.lost("the end")
        stage.pass_time(20.0)  # copies have their own deadline
        stage.settled()
        assert len(stage.outcomes()) == self.asked
        for stream, taken in self.request_bytes.items():
            assert stage.codec.acknowledged[stream] == taken
        for (upstream, stream), taken in self.response_bytes.items():
            assert upstream.leg.codec.acknowledged[stream] == taken
        for exchange in self.everything:
            assert exchange.state is DONE
            assert exchange.owed_request == exchange.owed_response == 0
            assert exchange.care is None or not exchange.care.withdrawn
        for endpoint in self.endpoints:
            assert endpoint.load.pending == 0
            assert endpoint.retired or endpoint.circuit.state is not CircuitState.HALF_OPEN
        assert all(gate.in_hand == 0 for gate in self.gates)


EveryOrder.TestCase.settings = settings(
    max_examples=700, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


class TestEveryOrder(EveryOrder.TestCase):
    """Hypothesis plays events in random orders."""
