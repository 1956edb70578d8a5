"""How much a peer may do besides sending messages."""

from mesh.model.limits import Limits
from mesh.wire.allowance import Allowance

CONTROL_BUDGET = Limits().control_frames


def test_resets_up_to_the_bound():
    """The bound itself is still allowed."""
    allowance = Allowance(Limits(resets=3))
    assert [allowance.ended_early() for _ in range(4)] == [False, False, False, True]


def test_completed_streams_allow_more_resets():
    """Each completed stream allows one more, in its window of time and the next, and then no longer."""
    allowance = Allowance(Limits(resets=1, resets_window=10.0))
    allowance.tick(0.0)
    allowance.completed += 2
    assert [allowance.ended_early() for _ in range(4)] == [False, False, False, True]
    allowance.tick(10.0)
    assert [allowance.ended_early() for _ in range(4)] == [False, False, False, True]
    allowance.tick(20.0)
    assert [allowance.ended_early() for _ in range(2)] == [False, True]


def test_a_tick_within_the_window_changes_nothing():
    """Telling the time often does not forgive anything."""
    allowance = Allowance(Limits(resets=1, resets_window=10.0))
    allowance.tick(5.0)
    assert not allowance.ended_early()
    allowance.tick(14.9)
    assert allowance.ended_early()


def test_control_units_are_spent_and_refunded():
    """Messages and bytes sent refund units, never below nothing."""
    allowance = Allowance(Limits())
    assert allowance.heard(17, CONTROL_BUDGET, 0) == ""
    assert allowance.heard(17, 4, 0) != ""
    allowance.said(80)
    assert allowance.control == CONTROL_BUDGET + 4 - 10
    assert allowance.heard(100, 0, 1) == ""
    allowance.said(1_000_000)
    assert allowance.control == 0
    allowance.heard(100, 0, 5)
    assert allowance.control == 0


def test_bytes_without_a_message_are_bounded():
    """A header block of the largest size may dribble in; twice as much and no message may not."""
    limits = Limits()
    allowance = Allowance(limits)
    assert allowance.heard(limits.header_bytes + 16_384, 0, 0) == ""
    assert allowance.heard(10, 0, 1) == ""
    assert allowance.quiet == 0
    assert allowance.heard(2 * limits.header_bytes + 65_536, 0, 0) == ""
    assert allowance.heard(1, 0, 0) == f"{allowance.quiet} bytes without a message"


def test_bytes_for_streams_that_have_ended_are_no_noise():
    """What was under way when a stream was reset is excused, whatever messages come between; what is more is not."""
    limits = Limits()
    allowance = Allowance(limits)
    bound = 2 * limits.header_bytes + 65_536
    allowance.excuse(limits.stream_buffer_bytes)
    assert allowance.heard(10, 0, 1) == ""
    assert allowance.heard(limits.stream_buffer_bytes + bound, 0, 0) == ""
    assert allowance.heard(1, 0, 0) != ""


def test_what_is_excused_is_bounded():
    """No more than can be under way at once is excused, however many streams have ended."""
    limits = Limits()
    allowance = Allowance(limits)
    for _ in range(1000):
        allowance.excuse(limits.stream_buffer_bytes)
    assert allowance.heard(17 * limits.stream_buffer_bytes + 2 * limits.header_bytes + 65_536, 0, 0) != ""


def test_who_said_something_that_was_no_message_is_asked():
    """Until a message comes, or an answer; a new window of time forgives the bytes and not the silence."""
    allowance = Allowance(Limits(header_timeout=5.0, resets_window=2.0))
    assert not allowance.silent(1.0)
    allowance.heard(10, 0, 0)
    for now in (2.0, 4.0, 6.0, 7.0):
        allowance.tick(now)
        assert allowance.silent(now)
        assert not allowance.stuck(now)
    assert allowance.stuck(7.1)
    allowance.heard(10, 0, 1)
    assert not allowance.silent(8.0)
    assert not allowance.stuck(20.0)
