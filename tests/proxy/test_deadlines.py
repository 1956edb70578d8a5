"""The wheel under a clock that the test moves: never early, a tick late at most."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from mesh.proxy.deadlines import TICK, Deadlines


class Due:
    """Notes when it expired; may discard others, or ask for another deadline, as it does."""

    def __init__(self, then=None) -> None:
        self.at: list[float] = []
        self.then = then

    def expire(self, now: float) -> None:
        self.at.append(now)
        if self.then is not None:
            self.then(now)


times = st.floats(0, 10)


@given(
    start=st.floats(0, 1e6),
    whens=st.lists(times, max_size=20),
    steps=st.lists(st.floats(0.001, 1.0), min_size=1, max_size=40),
    dropped=st.sets(st.integers(0, 19)),
)
def test_never_early_at_most_a_tick_late_and_once(
    start: float, whens: list[float], steps: list[float], dropped: set[int]
) -> None:
    """Each expires at the first step that is a tick past its time, or before, but not before its time."""
    wheel = Deadlines(lambda: start)
    dues = [(Due(), start + when) for when in whens]
    slots = [wheel.add(due, when) for due, when in dues]
    for index in dropped & set(range(len(dues))):
        slots[index].discard(dues[index][0])
    now = start
    for step in steps:
        now += step
        wheel.advance(now)
        for index, (due, when) in enumerate(dues):
            if index in dropped or now < when:
                assert due.at == []
            elif now >= when + TICK + 1e-6:
                assert len(due.at) == 1
                assert due.at[0] >= when
    assert len(wheel) == sum(not due.at for index, (due, _) in enumerate(dues) if index not in dropped)


def test_one_that_expires_may_take_others_with_it() -> None:
    """Of two in one slot that discard each other, exactly one expires."""
    wheel = Deadlines(lambda: 0.0)
    first, second = Due(), Due()
    slot = wheel.add(first, 1.0)
    assert wheel.add(second, 1.0) is slot
    first.then = lambda now: slot.discard(second)
    second.then = lambda now: slot.discard(first)
    assert wheel.advance(2.0) == 1
    assert len(first.at) + len(second.at) == 1


def test_one_that_expires_may_ask_again() -> None:
    """The new deadline is kept like any other, even one that is due already: at the next advance."""
    wheel = Deadlines(lambda: 0.0)
    due = Due()
    due.then = lambda now: wheel.add(due, now + 1.0) if len(due.at) < 3 else None
    wheel.add(due, 1.0)
    for now in (1.1, 1.2, 2.2, 3.3, 9.9):
        wheel.advance(now)
    assert due.at == [1.1, 2.2, 3.3]


def test_slots_that_have_passed_are_dropped() -> None:
    """A wheel whose deadlines were all discarded has nothing to wait for."""
    wheel = Deadlines(lambda: 0.0)
    due = Due()
    wheel.add(due, 1.0).discard(due)
    assert len(wheel) == 0
    assert wheel.advance(5.0) == 0
    assert wheel.next_at() is None


def test_next_at_is_the_earliest() -> None:
    """In seconds of the clock, never before the deadline it stands for, nor more than a tick after."""
    wheel = Deadlines(lambda: 0.0)
    for when in (7.3, 2.51, 4.0):
        wheel.add(Due(), when)
    assert 2.51 <= wheel.next_at() <= 2.51 + TICK


async def test_run_serves_under_trios_clock(autojump_clock: trio.testing.MockClock) -> None:
    """Deadlines added before and while it sleeps, an earlier one after a later one; each batch is settled once."""
    wheel = Deadlines(trio.current_time)
    start = trio.current_time()
    settled: list[float] = []
    late, early, after = Due(), Due(), Due()
    async with trio.open_nursery() as nursery:
        wheel.add(late, start + 5.0)
        nursery.start_soon(wheel.run, lambda: settled.append(trio.current_time()))
        await trio.sleep(1.0)
        wheel.add(early, start + 2.0)
        await trio.sleep(9.0)
        assert len(wheel) == 0
        wheel.add(after, start + 11.0)
        await trio.sleep(2.0)
        nursery.cancel_scope.cancel()
    for due, when in ((late, 5.0), (early, 2.0), (after, 11.0)):
        (at,) = due.at
        assert at - start == pytest.approx(when, abs=TICK + 1e-9)
        assert at - start >= when
    assert len(settled) == 3
