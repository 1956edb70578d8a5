"""Memory is given back after connections have ended, and not at any price."""

import gc
import weakref

from mesh.proxy.sweep import SHARE, Sweep, trimmer


class Cycle:
    """Keeps itself."""

    def __init__(self) -> None:
        self.itself = self


class Clock:
    """Each look at it costs a tenth of a second."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


def test_what_connections_left_in_cycles_is_freed():
    """As soon as one has ended."""
    closed = 0
    sweep = Sweep(lambda: closed, Clock())
    gone = weakref.ref(Cycle())
    gc.disable()
    try:
        assert not sweep.look()
        assert gone() is not None
        closed = 1
        assert sweep.look()
        assert gone() is None
        assert not sweep.look()
    finally:
        gc.enable()


def test_it_takes_a_small_share_of_the_time():
    """However many connections end: here each sweep takes a tenth of a second."""
    closed, clock = 0, Clock()
    sweep = Sweep(lambda: closed, clock)
    began, swept = clock.now, 0
    for _ in range(1000):
        closed += 1
        swept += sweep.look()
    assert swept > 10
    assert swept * 0.1 <= SHARE * (clock.now - began) + 0.1


def test_trimming_is_safe_anywhere():
    """Whether the C library knows of it or not, and as often as one likes."""
    kept = [bytes(1000) for _ in range(1000)]
    for _ in range(3):
        trimmer()()
    assert all(one == bytes(1000) for one in kept)
