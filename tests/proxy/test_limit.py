"""Rate limits that cost nothing where they refuse, and gates that find out what a service can take."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.traffic import Concurrency, FieldMatch, LimitBy, Match, PathKind, PathMatch, RateLimit
from mesh.proxy.limit import ADAPTIVE_MOST, MOST_KEYS, UNLIMITED, Gate, RateLimits
from mesh.wire.head import Head

HEAD = Head.request(b"GET", b"/slow/1?a=b", authority=b"votes")
OTHER = Head.request(b"POST", b"/fast", authority=b"votes")


def limits(*each: RateLimit) -> RateLimits:
    """These, together."""
    return RateLimits(each)


def admitted(of: RateLimits, tries: int, now: float = 0.0, route: str = "", client: str = "", head: Head = HEAD) -> int:
    """How many of so many are."""
    return sum(of.admit(head, route, client, now) == 0.0 for _ in range(tries))


# --- rate limits ---------------------------------------------------------------------------------------------------


def test_a_burst_then_the_rate() -> None:
    """Three at once, then one each tenth of a second; the refused are told when."""
    one = limits(RateLimit(10.0, burst=3))
    assert admitted(one, 5) == 3
    assert one.admit(HEAD, "", "", 0.0) == pytest.approx(0.1)
    assert admitted(one, 5, now=0.2) == 2
    assert one.refused == 2 + 1 + 3


def test_without_a_burst_it_is_a_seconds_worth() -> None:
    """And one at least, however slow the rate."""
    assert admitted(limits(RateLimit(7.0)), 20) == 7
    assert admitted(limits(RateLimit(0.1)), 20) == 1


def test_no_limits_admit_all() -> None:
    """The empty tuple is no limit."""
    assert admitted(limits(), 10) == 10


@pytest.mark.parametrize(
    ("by", "second"),
    [(LimitBy.SERVICE, (0, 0, 0)), (LimitBy.ROUTE, (2, 0, 2)), (LimitBy.CLIENT, (0, 2, 2))],
)
def test_what_a_bucket_is_of(by: LimitBy, second: tuple[int, int, int]) -> None:
    """After route a, client x has used its bucket up: what is left for another route, another client, and both."""
    for left, (route, client) in zip(second, [("b", "x"), ("a", "y"), ("b", "y")], strict=True):
        one = limits(RateLimit(2.0, by=by))
        assert admitted(one, 3, route="a", client="x") == 2
        assert admitted(one, 3, route=route, client=client) == left


@pytest.mark.parametrize(
    ("match", "holds"),
    [
        (Match(), True),
        (Match(path=PathMatch("/slow")), True),
        (Match(path=PathMatch("/slow", PathKind.EXACT)), False),
        (Match(method="POST"), False),
        (Match(query=(FieldMatch("a", "b"),)), True),
    ],
)
def test_only_what_matches_is_limited(match: Match, holds: bool) -> None:
    """Other requests pass, and cost nothing."""
    one = limits(RateLimit(1.0, match=match))
    assert admitted(one, 10) == (1 if holds else 10)


def test_one_that_is_refused_spends_nothing_elsewhere() -> None:
    """Of two limits the one that has tokens keeps them, whichever comes first; the longer wait is told."""
    for order in (1, -1):
        one = limits(*(RateLimit(0.5, match=Match(method="GET")), RateLimit(5.0), RateLimit(1.0, burst=50))[::order])
        assert admitted(one, 10) == 1
        assert one.admit(HEAD, "", "", 0.0) == pytest.approx(2.0)
        assert admitted(one, 10, head=OTHER) == 4


def test_waiting_is_told_without_taking_a_token() -> None:
    """For each limit that means the request; what has no bucket yet gets none and waits for nothing."""
    per_client, few = RateLimit(5.0, burst=2, by=LimitBy.CLIENT), RateLimit(1.0, match=Match(method="GET"))
    of = limits(per_client, few)
    for _ in range(3):
        assert of.waits(HEAD, "", "x", 0.0) == [(per_client, 0.0), (few, 0.0)]
    assert admitted(of, 3, client="x") == 1
    assert of.waits(HEAD, "", "x", 0.0) == [(per_client, 0.0), (few, 1.0)]
    assert of.waits(OTHER, "", "y", 0.0) == [(per_client, 0.0)]
    assert of.waits(HEAD, "", "x", 1.0) == [(per_client, 0.0), (few, 0.0)]


def test_keys_are_bounded_and_the_longest_unused_goes() -> None:
    """One that is used stays among any number of others; one that went begins anew."""
    one = limits(RateLimit(1.0, by=LimitBy.CLIENT))
    assert admitted(one, 2, client="kept") == 1
    assert admitted(one, 2, client="forgotten") == 1
    for index in range(MOST_KEYS + 10):
        assert admitted(one, 1, client=str(index)) == 1
        assert admitted(one, 1, client="kept") == 0
    assert admitted(one, 2, client="forgotten") == 1


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("ab"), st.sampled_from("xyz"), st.booleans()), max_size=120))
def test_no_limit_is_ever_exceeded(requests: list[tuple[float, str, str, bool]]) -> None:
    """Over any sequence each bucket lets through at most its burst and its rate, and nobody is told a wait of 0."""
    one = limits(
        RateLimit(3.0, burst=4),
        RateLimit(1.0, burst=2, by=LimitBy.CLIENT),
        RateLimit(2.0, by=LimitBy.ROUTE, match=Match(method="POST")),
    )
    now, passed = 0.0, []
    for pause, route, client, post in requests:
        now += pause
        seconds = one.admit(OTHER if post else HEAD, route, client, now)
        assert 0.0 <= seconds <= 1.0 + 1e-6
        if not seconds:
            passed.append((route, client, post))
        assert len(passed) <= 4 + 3 * now + 1e-6
        for key in "xyz":
            assert sum(by == key for _, by, _ in passed) <= 2 + now + 1e-6
        for key in "ab":
            assert sum(by == key and post for by, _, post in passed) <= 2 + 2 * now + 1e-6


# --- gates ---------------------------------------------------------------------------------------------------------


def test_a_fixed_gate_is_its_number() -> None:
    """So many at a time, whatever their latency and however they end."""
    gate = Gate(Concurrency(most=2))
    assert [gate.enter(0.0) for _ in range(3)] == [True, True, False]
    gate.leave(60.0, 60.0, False)
    assert [gate.enter(60.0) for _ in range(2)] == [True, False]
    assert (gate.limit, gate.in_hand, gate.refused) == (2, 2, 2)
    assert repr(gate) == "<Gate 2 of 2, 0.00 ms unhurried>"


@pytest.mark.parametrize(
    ("policy", "first", "most"),
    [
        (Concurrency(), UNLIMITED, UNLIMITED),
        (Concurrency(most=3, least=50), 3, 3),
        (Concurrency(adaptive=True), 20, ADAPTIVE_MOST),
        (Concurrency(adaptive=True, least=0), 20, ADAPTIVE_MOST),
        (Concurrency(adaptive=True, most=5, least=50), 5, 5),
        (Concurrency(adaptive=True, most=50, least=30), 30, 50),
    ],
)
def test_where_a_gate_begins_and_ends(policy: Concurrency, first: int, most: int) -> None:
    """At its number, or at twenty within its bounds; a service that never queues takes it to the most."""
    gate = Gate(policy)
    assert gate.limit == first
    now = 0.0
    for _ in range(40_000 if policy.adaptive else 0):
        while gate.enter(now):
            pass
        now += 0.01 / gate.limit
        gate.leave(0.01, now, True)
        if gate.limit == most:
            break
    assert gate.limit == most


def test_a_new_policy_keeps_what_is_in_hand() -> None:
    """Who is in stays in, and leaves as it would have."""
    gate = Gate(Concurrency(most=5))
    assert all(gate.enter(0.0) for _ in range(5))
    gate.follow(Concurrency(most=3))
    gate.leave(0.1, 0.1, True)
    assert not gate.enter(0.1)
    gate.leave(0.1, 0.1, True)
    gate.leave(0.1, 0.1, True)
    assert gate.enter(0.1)
    gate.follow(Concurrency())
    assert gate.enter(0.1)


def rounds(gate: Gate, seconds: float, latency: float, ok: bool = True, in_hand: int = 1, now: float = 0.0) -> float:
    """So many in hand, one after another leaves after `latency`; returns the time then."""
    end = now + seconds
    while now < end:
        while gate.in_hand < in_hand and gate.enter(now):
            pass
        now += 0.002
        gate.leave(latency, now, ok)
    return now


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    """Nine of twenty in hand, and nothing to complain of: it stays at twenty."""
    gate = Gate(Concurrency(adaptive=True))
    rounds(gate, 20.0, 0.01, in_hand=9)
    assert gate.limit == 20


def test_failures_shrink_it_to_the_least() -> None:
    """All fail: half of it is left each round, until it is the least."""
    gate = Gate(Concurrency(adaptive=True, least=3))
    rounds(gate, 5.0, 0.0001, ok=False, in_hand=20)
    assert gate.limit == 3


def test_who_went_away_teaches_nothing() -> None:
    """Clients that cancel, however slow or fast, neither shrink nor grow it."""
    gate = Gate(Concurrency(adaptive=True))
    now = rounds(gate, 2.0, 0.01, in_hand=5)
    rounds(gate, 20.0, -1.0, ok=False, in_hand=20, now=now)
    assert gate.limit == 20


@given(
    st.lists(st.tuples(st.floats(0, 2), st.floats(-0.1, 100), st.integers(0, 60), st.integers(0, 9)), max_size=60),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_an_adaptive_gate_stays_within_its_bounds(
    spans: list[tuple[float, float, int, int]], most: int, least: int
) -> None:
    """Any latencies, failures and crowds: never more in hand than the limit was, never a limit out of bounds."""
    gate = Gate(Concurrency(adaptive=True, most=most, least=least))
    now, most = 0.0, most or ADAPTIVE_MOST
    for pause, latency, crowd, failing in spans:
        now += pause
        before = gate.in_hand
        entered = sum(gate.enter(now) for _ in range(crowd))
        assert entered == max(0, min(crowd, gate.limit - before))
        for index in range(gate.in_hand):
            gate.leave(latency, now, index % 10 >= failing)
            assert max(1, min(least, most)) <= gate.limit <= most
    assert gate.in_hand == 0


class Server:
    """A virtual server of so many workers, in front of which clients crowd: each has one request in hand, or comes
    again 5 ms after it was refused. Times are drawn of one seed, or constant."""

    def __init__(self, gate: Gate, clients: int, varied: bool) -> None:
        self.gate = gate
        self.random = Random(3) if varied else None
        self.now = 0.0
        self.busy = 0
        self.line: deque[float] = deque()
        self.numbers = count()
        self.events: list[tuple[float, int, float | None]] = []  # when, which, since when in hand (None: arrives)
        self.latencies: list[float] = []
        self.gates: list[int] = []
        for index in range(clients):
            self._later(index / 10_000, None)

    def _later(self, seconds: float, since: float | None) -> None:
        heappush(self.events, (self.now + seconds, next(self.numbers), since))

    def run(self, seconds: float, workers: int, service: float) -> None:
        """So long, with so many workers that take `service` seconds each; `latencies` and `gates` are of the last 10 s
        of it."""
        end = self.now + seconds
        self.latencies, self.gates = [], []
        while self.events[0][0] < end:
            self.now, _, since = heappop(self.events)
            if since is None:
                if self.gate.enter(self.now):
                    self.line.append(self.now)
                else:
                    self._later(0.005, None)
            else:
                self.busy -= 1
                self.gate.leave(self.now - since, self.now, True)
                self._later(0.0, None)
                if self.now > end - 10.0:
                    self.latencies.append(self.now - since)
                    self.gates.append(self.gate.limit)
            while self.line and self.busy < workers:
                self.busy += 1
                drawn = self.random.expovariate(1.0) if self.random is not None else 1.0
                self._later(service * drawn, self.line.popleft())

    def holds(self, workers: int, service: float) -> None:
        """Over the last 10 s all workers had something to do, and nobody waited long."""
        capacity = 10.0 * workers / service
        assert len(self.latencies) > 0.85 * capacity
        assert sum(self.latencies) / len(self.latencies) < 3.5 * service
        assert sorted(self.gates)[len(self.gates) // 2] in range(workers, 3 * workers + 4)


@pytest.mark.parametrize("varied", [False, True])
def test_the_limit_finds_the_servers_concurrency_and_follows_it(varied: bool) -> None:
    """A crowd of 150 before ten workers; they get slower, then faster than ever, then there are twice as many."""
    server = Server(Gate(Concurrency(adaptive=True)), 150, varied)
    for workers, service in ((10, 0.02), (10, 0.05), (10, 0.01), (20, 0.01)):
        server.run(30.0, workers, service)
        server.holds(workers, service)


def test_latency_stays_bounded_however_long_the_crowd_stays() -> None:
    """Five minutes of overload do not pass for the normal state of things."""
    server = Server(Gate(Concurrency(adaptive=True)), 100, True)
    server.run(300.0, 5, 0.05)
    server.holds(5, 0.05)


def test_without_a_crowd_nobody_is_refused() -> None:
    """Six clients of ten workers never meet the limit."""
    server = Server(Gate(Concurrency(adaptive=True)), 6, True)
    server.run(30.0, 10, 0.02)
    assert server.gate.refused == 0
