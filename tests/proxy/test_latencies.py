"""Quantiles of what was seen lately, within their precision."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.proxy.latencies import FRESH, LEAST, MOST, PERIOD, SAMPLES, Latencies


def seen(*seconds: float, now: float = 0.0) -> Latencies:
    """What has observed these."""
    one = Latencies()
    for each in seconds:
        one.observe(each, now)
    return one


def test_few_answers_say_nothing() -> None:
    """None until there were twenty."""
    one = seen(*[0.1] * (SAMPLES - 1))
    assert one.quantile(0.95, 0.0) is None
    one.observe(0.1, 0.0)
    assert one.quantile(0.95, 0.0) == pytest.approx(0.1, rel=0.05)
    assert repr(one) == "<Latencies of 20 answers>"


@given(
    st.lists(st.floats(LEAST * 1.01, MOST * 0.99), min_size=SAMPLES, max_size=200),
    st.one_of(st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.99])),
)
def test_a_quantile_is_within_five_percent(latencies: list[float], q: float) -> None:
    """Of the observation of that rank, for any distribution."""
    exact = sorted(latencies)[max(1, ceil(q * len(latencies))) - 1]
    assert seen(*latencies).quantile(q, 0.0) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(("seconds", "told"), [(0.0, LEAST), (-1.0, LEAST), (1e9, MOST)])
def test_what_is_out_of_range_counts_as_its_end(seconds: float, told: float) -> None:
    """Nothing is too short or too long to be counted."""
    assert seen(*[seconds] * 30).quantile(0.5, 0.0) == pytest.approx(told, rel=0.1)


def test_the_last_fifteen_to_thirty_seconds_count() -> None:
    """What is older than two periods is gone, what is younger than one is there."""
    one = seen(*[1.0] * 30, now=100.0)
    assert one.quantile(0.5, 100.0 + PERIOD - 0.1) == pytest.approx(1.0, rel=0.05)
    one.observe(1.0, 100.0 + PERIOD)
    assert one.quantile(0.5, 100.0 + 2 * PERIOD - 0.1) == pytest.approx(1.0, rel=0.05)
    assert one.quantile(0.5, 100.0 + 2 * PERIOD) is None
    assert seen(*[1.0] * 30).quantile(0.5, 1000.0) is None


def test_new_latencies_take_over() -> None:
    """Two periods after the service became ten times faster, only that is told."""
    one = seen(*[1.0] * 100)
    for tick in range(70):
        one.observe(0.1, tick / 2)
    assert one.quantile(0.99, 35.0) == pytest.approx(0.1, rel=0.05)


def test_a_quantile_is_told_again_for_a_moment() -> None:
    """Within a tenth of a second it is not counted anew, but for another share it is."""
    one = seen(*[0.1] * 30)
    assert one.quantile(0.5, 1.0) == pytest.approx(0.1, rel=0.05)
    for _ in range(100):
        one.observe(1.0, 1.0)
    assert one.quantile(0.5, 1.0) == pytest.approx(0.1, rel=0.05)
    assert one.quantile(0.6, 1.0) == pytest.approx(1.0, rel=0.05)
    assert one.quantile(0.5, 1.0) == pytest.approx(1.0, rel=0.05)
    assert one.quantile(0.5, 1.0 + FRESH) == pytest.approx(1.0, rel=0.05)
