"""The retry budget's bound, whatever happens when, and the token bucket's arithmetic."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model import traffic
from mesh.proxy.budget import RetryBudget, TokenBucket


def budget(percent: float = 20.0, per_second: float = 10.0, window: float = 10.0, now: float = 0.0) -> RetryBudget:
    """One that begins at `now`."""
    return RetryBudget(traffic.RetryBudget(percent, per_second, window), now)


def drain(one: RetryBudget, now: float) -> int:
    """How many tokens there are; none is left."""
    count = 0
    while one.withdraw(now):
        count += 1
    return count


def test_it_begins_with_a_seconds_trickle() -> None:
    """Ten at once, none within the second that they stand for, then ten each second to who always wants more."""
    one = budget()
    assert [drain(one, at) for at in (0.0, 0.99, 1.5, 2.0, 2.8)] == [10, 0, 5, 5, 8]
    assert one.refused == 5


def test_a_full_second_that_is_taken_is_that_second() -> None:
    """Who comes back when it has just filled up gets ten, and the next when the second after has begun."""
    one = budget()
    assert [drain(one, at) for at in (0.0, 2.0, 3.0, 3.5, 4.0)] == [10, 10, 0, 5, 5]


def test_the_trickle_of_calm_is_one_seconds() -> None:
    """After an hour of nothing there are ten, and the second that begins then has no more: calm buys no storm."""
    one = budget()
    assert drain(one, 3600.0) == 10
    assert drain(one, 3600.9) == 0
    assert drain(one, 3602.0) == 10


def test_requests_earn_their_share() -> None:
    """A fifth of a token each, added up without a rounding error."""
    one = budget(per_second=0.0)
    for _ in range(4):
        one.deposit(0.0)
    assert not one.withdraw(0.0)
    one.deposit(0.0)
    assert one.withdraw(0.0)
    assert not one.withdraw(0.0)
    for _ in range(1000):
        one.deposit(0.5)
    assert drain(one, 0.5) == 200


@pytest.mark.parametrize(("later", "left"), [(0.0, 20), (5.0, 20), (8.9, 20), (10.0, 0), (500.0, 0)])
def test_what_is_earned_is_gone_after_the_window(later: float, left: int) -> None:
    """Tokens of requests last nine to ten tenths of the window, not longer."""
    one = budget(per_second=0.0, now=100.0)
    for _ in range(100):
        one.deposit(100.0)
    assert drain(one, 100.0 + later) == left


def test_the_oldest_tokens_go_first() -> None:
    """What was spent early does not come out of what is still good later."""
    one = budget(per_second=0.0)
    for at in (0.0, 5.0):
        for _ in range(50):
            one.deposit(at)
    assert sum(one.withdraw(5.0) for _ in range(10)) == 10
    assert drain(one, 10.5) == 10


def test_a_trickle_below_one_a_second_adds_up_to_a_token() -> None:
    """One in four seconds is one in four seconds, not none."""
    one = budget(per_second=0.25)
    assert [one.withdraw(at) for at in (0.0, 2.0, 4.0, 8.0, 9.0)] == [False, False, True, False, True]


def test_a_try_that_was_not_made_is_given_back() -> None:
    """Its token is there again, and goes with the window like others."""
    one = budget(percent=0.0, per_second=1.0)
    assert one.withdraw(0.0)
    assert not one.withdraw(0.1)
    one.restore(0.2)
    assert one.withdraw(0.3)
    assert not one.withdraw(0.3)
    assert repr(one) == "<RetryBudget 0.0 + 0.0, 2 refused>"


def test_a_budget_of_nothing_gives_nothing() -> None:
    """0 % and 0 a second: no retries, ever."""
    one = budget(percent=0.0, per_second=0.0)
    for at in range(100):
        one.deposit(float(at))
        assert not one.withdraw(float(at))


def test_a_new_policy_counts_from_now_on() -> None:
    """What was earned stays; what is earned is by the new share; a smaller trickle holds less."""
    one = budget(percent=20.0, per_second=10.0)
    for _ in range(50):
        one.deposit(0.0)
    one.deposit(1.0)
    one.follow(traffic.RetryBudget(100.0, 2.0))
    for _ in range(5):
        one.deposit(1.0)
    assert drain(one, 1.0) == 10 + 6 + 2


STEPS = st.lists(
    st.tuples(st.sampled_from(["deposit", "withdraw", "drain"]), st.floats(0, 3), st.integers(1, 60)), max_size=60
)


@given(STEPS, st.sampled_from([0.0, 1.0, 20.0, 33.3, 100.0]), st.sampled_from([0.0, 0.3, 1.0, 2.5, 10.0]))
def test_the_bound_holds_over_any_sequence(
    steps: list[tuple[str, float, int]], percent: float, per_second: float
) -> None:
    """From the start to any T later: never more than the share of the requests and the trickle of max(T, 1)."""
    one = budget(percent, per_second)
    now, requests, spent = 0.0, 0, 0
    for kind, pause, count in steps:
        now += pause
        if kind == "deposit":
            requests += count
            for _ in range(count):
                one.deposit(now)
        elif kind == "withdraw":
            spent += one.withdraw(now)
        else:
            spent += drain(one, now)
        assert spent <= percent / 100 * requests + per_second * max(now, 1.0) + 1e-6


@given(STEPS, st.floats(0.1, 20))
def test_no_token_outlives_the_window(steps: list[tuple[str, float, int]], window: float) -> None:
    """Whatever is withdrawn was earned by requests not older than the window, less what those have paid already."""
    one = budget(per_second=0.0, window=window)
    now = 0.0
    earned: list[float] = []
    for kind, pause, count in steps:
        now += pause
        if kind == "deposit":
            earned += [now] * count
            for _ in range(count):
                one.deposit(now)
            continue
        got = int(one.withdraw(now)) if kind == "withdraw" else drain(one, now)
        assert got <= 0.2 * sum(at > now - window - 1e-6 for at in earned) + 1e-6


@given(STEPS)
def test_from_any_calm_the_trickle_bound_holds(steps: list[tuple[str, float, int]]) -> None:
    """Whichever moment one begins to count at, T seconds later at most 10 * max(T, 1) were had without requests."""
    one = budget(percent=0.0)
    now = 0.0
    had: list[float] = []
    for kind, pause, _ in steps:
        now += pause
        had += [now] * (int(one.withdraw(now)) if kind == "withdraw" else drain(one, now) if kind == "drain" else 0)
    calm = [0.0] + [after for before, after in pairwise(had) if after - before >= 2.0]
    for start in calm:
        for end in had:
            if end >= start:
                assert sum(start <= at <= end for at in had) <= 10 * max(end - start, 1.0) + 1e-6


def test_a_bucket_begins_full_and_says_when_the_next_token_comes() -> None:
    """A burst of three at once, then a tenth of a second for each."""
    one = TokenBucket(10.0, 3.0, 5.0)
    assert [one.take(5.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert one.take(5.0) == pytest.approx(0.1)
    assert one.take(5.05) == pytest.approx(0.05)
    assert one.take(5.1) == 0.0
    assert repr(one) == "<TokenBucket 0.00 of 3, 10/s>"


def test_asking_takes_nothing() -> None:
    """`wait` may be asked any number of times; a bucket holds at least one token."""
    one = TokenBucket(0.5, 0.0, 0.0)
    assert [one.wait(0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    one.spend()
    assert one.wait(0.0) == pytest.approx(2.0)
    assert one.wait(-1.0) == pytest.approx(2.0)


@given(
    st.floats(0.1, 1000),
    st.integers(1, 50),
    st.lists(st.floats(0, 5), max_size=80),
    st.sampled_from([0.0, 1_000_000.0]),
)
def test_a_bucket_keeps_its_rate_and_its_word(rate: float, burst: int, pauses: list[float], start: float) -> None:
    """Never more than burst + rate * T, and whoever waits as long as told gets a token."""
    one = TokenBucket(rate, float(burst), start)
    now = start
    for taken, pause in enumerate(pauses, 1):
        now += pause
        seconds = one.take(now)
        if seconds:
            now += seconds * (1 + 1e-6) + 1e-9
            assert one.take(now) == 0.0
        assert taken <= burst + rate * (now - start) + 1e-3
