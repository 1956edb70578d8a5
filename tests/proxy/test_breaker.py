"""One endpoint's circuit: what opens it, how it is probed, and how many may be open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.model.traffic import Breaker
from mesh.proxy.breaker import CLOSED, HALF_OPEN, OPEN, TRANSITIONS, Circuit, CircuitState, Turn, may_eject, panicking


def middle() -> float:
    """Random without jitter: probation is as long as the policy says."""
    return 0.5


def circuit(**policy: float) -> Circuit:
    """A circuit with only what is named in its policy, and no jitter."""
    return Circuit(Breaker(**{"failures": 0, **policy}), middle)


def tripped(now: float = 0.0, **policy: float) -> Circuit:
    """One that opened at `now`."""
    one = circuit(failures=1, **policy)
    assert one.failed(now, "503")
    one.open(now)
    return one


def test_the_table_names_every_state_and_turn() -> None:
    """Each state has a row, each turn is used, and no turn leads out of CLOSED but a trip."""
    assert set(TRANSITIONS) == set(CircuitState)
    assert {turn for row in TRANSITIONS.values() for turn in row} == set(Turn)
    assert TRANSITIONS[CLOSED] == {Turn.TRIPPED: OPEN}


def test_failures_in_a_row_trip_it() -> None:
    """Exactly the failure that completes the row does, and the next again while nobody opens it."""
    one = circuit(failures=3)
    assert [one.failed(0.0, "reset") for _ in range(4)] == [False, False, True, True]
    assert one.state is CLOSED
    assert one.cause == "reset"


def test_a_success_ends_the_row() -> None:
    """Failures that are not in a row never trip it."""
    one = circuit(failures=2)
    for _ in range(50):
        assert not one.failed(0.0, "500")
        assert not one.succeeded(0.0)


@pytest.mark.parametrize(
    ("good", "bad", "trips"),
    [(0, 9, False), (0, 10, True), (5, 5, False), (4, 6, True), (9, 1, False)],
)
def test_the_success_rate_trips_it(good: int, bad: int, trips: bool) -> None:
    """Below half of at least ten does; half, or fewer answers, does not."""
    one = circuit(success_rate=0.5, requests=10)
    for _ in range(good):
        one.succeeded(1.0)
    assert any([one.failed(1.0, "500") for _ in range(bad)]) is trips


def test_answers_older_than_the_window_do_not_count() -> None:
    """Failures of a window ago are forgotten at once or slice by slice; those of half a window ago count."""
    for between, expected in ((10.0, False), (300.0, False), (5.0, True)):
        one = circuit(success_rate=0.5, requests=10)
        for _ in range(9):
            assert not one.failed(1000.0, "500")
        one.succeeded(1000.0 + between / 2)
        assert one.failed(1000.0 + between, "500") is expected


def test_a_policy_of_noughts_never_trips() -> None:
    """With neither a row nor a rate to watch for, nothing opens it."""
    one = circuit(failures=0, success_rate=0.0)
    assert not any([one.failed(float(at), "500") for at in range(1000)])


def test_probation_lets_one_probe_through_and_its_success_closes() -> None:
    """OPEN until the second is over, HALF_OPEN for one request, CLOSED with its answer; the row begins anew."""
    one = tripped(now=5.0, probation=1.0)
    assert (one.state, one.opened_until, one.trips) == (OPEN, 6.0, 1)
    assert not one.due(5.99)
    one.probe(5.99)
    assert one.state is OPEN
    assert one.due(6.0)
    one.probe(6.0)
    assert one.state is HALF_OPEN
    assert not one.due(100.0)
    assert one.succeeded(6.1)
    assert one.state is CLOSED
    assert not one.succeeded(6.2)


def test_probation_doubles_up_to_its_bound_and_starts_over_after_recovery() -> None:
    """1, 2, 4, 5, 5 seconds while probes fail; 1 again after one that did not."""
    one = tripped(probation=1.0, probation_most=5.0)
    now, lengths = 0.0, [1.0]
    for _ in range(4):
        now = one.opened_until
        one.probe(now)
        assert one.failed(now, "still 503")
        one.open(now)
        lengths.append(one.opened_until - now)
    assert lengths == [1.0, 2.0, 4.0, 5.0, 5.0]
    now = one.opened_until
    one.probe(now)
    assert one.succeeded(now)
    one.failed(now, "503")
    one.open(now)
    assert one.opened_until - now == 1.0
    assert one.trips == 6


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 100), st.floats(0, 100), st.integers(1, 80))
def test_probation_is_jittered_within_a_fifth_and_its_bound(
    random: float, probation: float, most: float, trips: int
) -> None:
    """However often it tripped, probation is 0.8 to 1.2 of what it was to be, and never beyond the most."""
    one = Circuit(Breaker(failures=1, probation=probation, probation_most=most), lambda: random)
    expected = probation
    for _ in range(trips):
        one.open(0.0)
        expected = min(expected, most)
        assert 0.79 * expected <= one.opened_until <= min(1.21 * expected, most)
        one.probe(one.opened_until)
        assert one.state is HALF_OPEN
        expected *= 2


def test_answers_that_come_late_change_nothing_while_it_is_open() -> None:
    """Neither a success nor failures of requests from before; the cause is the newest."""
    one = tripped(now=0.0)
    assert not one.succeeded(0.1)
    assert not one.failed(0.2, "late")
    one.open(0.3)
    assert (one.state, one.opened_until, one.trips, one.cause) == (OPEN, 1.0, 1, "late")


def test_a_probe_without_a_verdict_is_repeated_at_once() -> None:
    """Its client went away: OPEN, due now, and probation is not longer for it; elsewhere it means nothing."""
    one = tripped()
    one.probe(1.0)
    one.forget_probe(1.5)
    assert one.state is OPEN
    assert one.due(1.5)
    one.probe(1.5)
    assert one.failed(1.6, "503")
    one.open(1.6)
    assert one.opened_until == pytest.approx(3.6)
    one.forget_probe(1.7)
    assert not one.due(1.7)
    closed = circuit()
    closed.forget_probe(0.0)
    assert closed.state is CLOSED


def test_recovery_forgets_the_window() -> None:
    """What was counted before it opened does not open it again with the first failure after."""
    one = circuit(success_rate=0.9, requests=5)
    for _ in range(20):
        one.failed(0.0, "500")
    one.open(0.0)
    one.probe(1.0)
    one.succeeded(1.0)
    assert not one.failed(1.1, "500")


def test_a_new_policy_keeps_the_state() -> None:
    """An open circuit stays open, and goes by the new numbers."""
    one = tripped()
    one.follow(Breaker(failures=2, probation=3.0))
    assert one.state is OPEN
    one.probe(1.0)
    one.succeeded(1.0)
    assert not one.failed(1.0, "500")
    assert one.failed(1.0, "500")
    one.open(1.0)
    assert one.opened_until == 4.0
    assert repr(one) == "<Circuit open, 0 failures in a row, 2 trips>"


@pytest.mark.parametrize(
    ("most", "ejected", "total", "may"),
    [
        (50, 0, 1, False),
        (100, 0, 1, False),
        (50, 0, 2, True),
        (50, 1, 2, False),
        (50, 0, 3, True),
        (50, 1, 3, False),
        (50, 1, 4, True),
        (100, 1, 2, True),
        (10, 0, 9, False),
        (10, 0, 10, True),
        (0, 0, 10, False),
        (50, 0, 0, False),
    ],
)
def test_how_many_may_be_ejected(most: float, ejected: int, total: int, may: bool) -> None:
    """Never the only one, never beyond the share."""
    assert may_eject(Breaker(eject_most=most), ejected, total) is may


@pytest.mark.parametrize(
    ("panic", "fit", "total", "panics"),
    [(30, 0, 5, True), (30, 1, 5, True), (30, 2, 5, False), (30, 3, 10, False), (0, 0, 5, False), (30, 0, 0, False)],
)
def test_when_all_are_used(panic: float, fit: int, total: int, panics: bool) -> None:
    """With less than the share fit; with just the share, or none to use, not."""
    assert panicking(Breaker(panic=panic), fit, total) is panics


class AnyOrder(RuleBasedStateMachine):
    """Every order of answers, probes and time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.random = 0.5
        policy = Breaker(failures=3, success_rate=0.5, requests=5, probation=1.0, probation_most=8.0)
        self.circuit = Circuit(policy, lambda: self.random)
        self.probing = False

    @rule(seconds=st.floats(0, 20), random=st.floats(0, 1, exclude_max=True))
    def pass_time(self, seconds: float, random: float) -> None:
        self.now += seconds
        self.random = random

    @rule()
    def succeed(self) -> None:
        was = self.circuit.state
        assert self.circuit.succeeded(self.now) is (was is HALF_OPEN)
        if was is HALF_OPEN:
            self.probing = False

    @rule(opens=st.booleans())
    def fail(self, opens: bool) -> None:
        was = self.circuit.state
        should = self.circuit.failed(self.now, "500")
        assert should or was is not HALF_OPEN
        assert not should or was is not OPEN
        if should and (opens or was is HALF_OPEN):
            self.circuit.open(self.now)
            self.probing = False
            assert self.now <= self.circuit.opened_until <= self.now + 8.0

    @precondition(lambda self: self.circuit.due(self.now))
    @rule()
    def probe(self) -> None:
        assert not self.probing
        self.circuit.probe(self.now)
        self.probing = True

    @rule()
    def forget(self) -> None:
        if self.circuit.state is HALF_OPEN:
            self.probing = False
        self.circuit.forget_probe(self.now)

    @invariant()
    def one_probe_and_only_then_half_open(self) -> None:
        assert (self.circuit.state is HALF_OPEN) is self.probing


TestAnyOrder = AnyOrder.TestCase
