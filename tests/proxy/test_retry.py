"""Retry policy asked, and the header fields that say how long: read totally, written without promising too much."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.traffic import Hedge, Retry
from mesh.proxy.retry import (
    MOST_AFTER,
    Retrying,
    format_grpc_timeout,
    format_timeout_ms,
    grpc_timeout,
    pushback,
    retry_after,
    timeout_ms,
)

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize(
    ("methods", "codes", "method", "grpc", "repeats"),
    [
        ((), (), b"GET", False, True),
        ((), (), b"PUT", False, True),
        ((), (), b"DELETE", False, True),
        ((), (), b"POST", False, False),
        ((), (), b"PATCH", False, False),
        ((), (), b"CONNECT", False, False),
        ((), (), b"get", False, False),
        (("POST",), (), b"POST", False, True),
        (("post",), (), b"POST", False, True),
        (("POST",), (), b"GET", False, False),
        (("*",), (), b"POST", False, True),
        (("GET", "*"), (), b"BREW", False, True),
        ((), (14,), b"POST", True, True),
        ((), (), b"POST", True, False),
        (("POST",), (), b"POST", True, True),
        ((), (14,), b"POST", False, False),
    ],
)
def test_what_may_be_repeated(
    methods: tuple[str, ...], codes: tuple[int, ...], method: bytes, grpc: bool, repeats: bool
) -> None:
    """Idempotent methods, or those that are named; gRPC calls where codes are."""
    assert Retrying(Retry(methods=methods, grpc=codes)).repeats(method, grpc) is repeats


def test_which_answers_are_worth_it() -> None:
    """Those that the policy lists, and no others; what else it says can be read."""
    hedge = Hedge()
    one = Retrying(Retry(attempts=3, statuses=(500, 503), grpc=(14,), reset=False, timeout=False, hedge=hedge))
    assert [status for status in range(100, 600) if one.wants_status(status)] == [500, 503]
    assert [code for code in range(-1, 17) if one.wants_grpc(code)] == [14]
    assert (one.attempts, one.reset, one.timeout, one.hedge) == (3, False, False, hedge)
    assert repr(one) == "<Retrying 3 times>"


@pytest.mark.parametrize(
    ("attempt", "random", "seconds"),
    [(1, 0.0, 0.05), (1, 0.9999, 0.1), (2, 0.0, 0.1), (3, 0.0, 0.2), (4, 0.0, 0.3), (5, 0.0, 0.3), (0, 0.0, 0.05)],
)
def test_the_pause_doubles_up_to_its_bound(attempt: int, random: float, seconds: float) -> None:
    """100, 200, 400, then 600 ms of which chance takes up to half."""
    one = Retrying(Retry(backoff=0.1, backoff_most=0.6))
    assert one.pause(attempt, lambda: random) == pytest.approx(seconds, rel=1e-3)


@given(st.integers(-5, 1_000_000), st.floats(0, 1, exclude_max=True), st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_pause_is_always_within_bounds(attempt: int, random: float, backoff: float, most: float) -> None:
    """Never longer than the most, never less than half of what it was to be, for any number of tries."""
    pause = Retrying(Retry(backoff=backoff, backoff_most=most)).pause(attempt, lambda: random)
    assert min(backoff, most) / 2 <= pause <= most


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (b"0", 0.0),
        (b"120", 120.0),
        (b"86401", MOST_AFTER),
        (b"9" * 5000, MOST_AFTER),
        (b"-1", None),
        (b"+1", None),
        (b"1.5", None),
        (b"1 ", None),
        (b"", None),
        ("٣".encode(), None),
        (b"Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        (b"Sunday, 06-Nov-94 08:49:47 GMT", 10.0),
        (b"Sun Nov  6 08:49:47 1994", 10.0),
        (b"Sun, 06 Nov 1994 08:49:00 GMT", 0.0),
        (b"Sun, 06 Nov 2094 08:49:00 GMT", MOST_AFTER),
        (b"Sun, 31 Feb 1994 08:49:00 GMT", None),
        (b"Sun, 06 Abc 1994 08:49:00 GMT", None),
        (b"Sun, 06 Nov 1994 99:49:00 GMT", None),
        (b"Sun, 06 Nov 1994 08:49:47 EST", None),
        (b"06 Nov 1994", None),
        (b"soon", None),
    ],
)
def test_retry_after_is_read(value: bytes | None, seconds: float | None) -> None:
    """Seconds, or any of the three forms of a date; a day at most; anything else is as if it were not there."""
    assert retry_after(value, NOW) == seconds


@given(st.floats(0, 4e9))
def test_dates_of_today_are_read_back(when: float) -> None:
    """What the standard library writes is that many seconds from now, to the second."""
    written = formatdate(when, usegmt=True).encode()
    assert retry_after(written, when - 60) == pytest.approx(60, abs=1.01)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (b"0", 0.0),
        (b"250", 0.25),
        (b"9999999999", MOST_AFTER),
        (b"-1", -1.0),
        (b"-0", -1.0),
        (b"", -1.0),
        (b"1.5", -1.0),
        (b"soon", -1.0),
        (b"99999999999", -1.0),
        (b"1\n", -1.0),
    ],
)
def test_pushback_is_read(value: bytes | None, seconds: float | None) -> None:
    """Milliseconds; negative or unreadable asks not to try again."""
    assert pushback(value) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"300m", 0.3),
        (b"5u", 5e-6),
        (b"7n", 7e-9),
        (b"00000001S", 1.0),
        (b"0m", 0.0),
        (b"99999999H", 99999999 * 3600.0),
        (b"999999999m", None),
        (b"1", None),
        (b"m", None),
        (b"", None),
        (None, None),
        (b"1s", None),
        (b"-1m", None),
        (b"+1m", None),
        (b"1 m", None),
        (b"1.5S", None),
        (b"1mm", None),
        (b"1\xff", None),
    ],
)
def test_grpc_timeout_is_read(value: bytes | None, seconds: float | None) -> None:
    """One to eight digits and one of six units; anything else is as if it were not there."""
    assert grpc_timeout(value) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (0.0, b"1n"),
        (-5.0, b"1n"),
        (1e-12, b"1n"),
        (float("nan"), b"1n"),
        (0.05, b"50000000n"),
        (0.3, b"300000u"),
        (2.0, b"2000000u"),
        (100.0, b"100000m"),
        (200_000.0, b"200000S"),
        (1e8, b"27777H"),
        (1e15, b"99999999H"),
        (float("inf"), b"99999999H"),
    ],
)
def test_grpc_timeout_is_written(seconds: float, value: bytes) -> None:
    """In the finest unit that eight digits hold; what is over is still a positive value."""
    assert format_grpc_timeout(seconds) == value


@given(st.floats(1e-8, 1e10))
def test_a_written_grpc_timeout_is_what_is_left_or_a_little_less(seconds: float) -> None:
    """It reads back, never to more, and to at most a hundred-thousandth (or an hour) less."""
    read = grpc_timeout(format_grpc_timeout(seconds))
    assert read is not None
    assert read <= seconds
    assert seconds - read <= (max(seconds * 1.1e-5, 2e-9) if seconds < 99_999_999 else 3600.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"0", 0.0), (b"300", 0.3), (b"999999999", 999_999.999), (b"1000000000", None), (b"", None), (None, None)]
    + [(bad, None) for bad in (b"-1", b"+1", b"1.0", b" 1", b"1m", b"\xb2")],
)
def test_timeout_ms_is_read(value: bytes | None, seconds: float | None) -> None:
    """One to nine digits; anything else is as if it were not there."""
    assert timeout_ms(value) == seconds


@pytest.mark.parametrize(
    ("seconds", "value"), [(0.3, b"300"), (0.0009, b"0"), (-1.0, b"0"), (float("nan"), b"0"), (1e30, b"999999999")]
)
def test_timeout_ms_is_written(seconds: float, value: bytes) -> None:
    """Whole milliseconds, rounded down, in bounds."""
    assert format_timeout_ms(seconds) == value


@given(st.floats(0, 999_999))
def test_a_written_timeout_is_what_is_left_or_a_millisecond_less(seconds: float) -> None:
    """It reads back to never more."""
    read = timeout_ms(format_timeout_ms(seconds))
    assert read is not None
    assert read - 1e-9 <= seconds <= read + 0.0011


@given(st.one_of(st.binary(max_size=40), st.text("0123456789 GMTSunNovHmnu:-,", max_size=40).map(str.encode)))
def test_readers_are_total(value: bytes) -> None:
    """Whatever a peer sends is a bounded number or None."""
    for read in (grpc_timeout(value), timeout_ms(value), pushback(value), retry_after(value, NOW)):
        assert read is None or -1.0 <= read < 1e12
