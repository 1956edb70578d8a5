"""Lengths and points of time as text."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.durations import MAX_SECONDS, duration_text, parse_duration, parse_moment, seconds


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("300ms", 0.3),
        ("1.5s", 1.5),
        ("1m30s", 90),
        ("2h", 7200),
        ("0s", 0),
        ("1h1m1s1ms", 3661.001),
        ("99999h", 359_996_400),
        ("250us", 0.00025),
        ("30s1m", 90),
        ("1s1s", 2),
        ("0.5h", 1800),
    ],
)
def test_durations(text: str, length: float) -> None:
    """GEP-2257, and fractions and microseconds."""
    assert parse_duration(text) == pytest.approx(length)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "s",
        "-1s",
        "+1s",
        " 1s",
        "1s ",
        "1 s",
        "1S",
        "1d",
        "1e3s",
        ".5s",
        "1.s",
        "inf",
        "nan",
        "١s",
        "1s\n",
        "x1s",
        "9" * 13 + "s",
        "1s" * 9,
    ],
)
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused with examples of what is."""
    with pytest.raises(ValueError, match=r"is no duration: a number of seconds, or such as 300ms, 1\.5s, 1m30s"):
        parse_duration(text)


@pytest.mark.parametrize("number", [-1, -0.001, float("inf"), float("-inf"), float("nan")])
def test_numbers_that_are_no_length(number: float) -> None:
    """Below zero, and what is no number at all."""
    with pytest.raises(ValueError, match="must be seconds, 0 or more"):
        seconds(number)


def test_the_longest() -> None:
    """All that GEP-2257 can say fits; what is longer is refused."""
    assert seconds(MAX_SECONDS) == MAX_SECONDS
    with pytest.raises(ValueError, match="is over 1000000000 s"):
        parse_duration("999999999h")


@given(st.integers(0, int(MAX_SECONDS) * 1_000_000))
def test_durations_round_trip(microseconds: int) -> None:
    """What is written is read as the same, to the microsecond."""
    number = microseconds / 1_000_000
    assert abs(parse_duration(duration_text(number)) - number) < 1e-6


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0s"), (0.3, "300ms"), (1.5, "1.5s"), (90, "1m30s"), (7200, "2h"), (0.0015, "1500us"), (3600.25, "1h250ms")],
)
def test_durations_are_written_short(number: float, text: str) -> None:
    """The largest units first, none that is zero."""
    assert duration_text(number) == text


UTC = datetime.UTC


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-11-23T22:00:00Z", datetime.datetime(2026, 11, 23, 22, tzinfo=UTC)),
        ("2026-11-23T22:00:00.5+02:00", datetime.datetime(2026, 11, 23, 20, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-11-23", datetime.datetime(2026, 11, 23, tzinfo=UTC)),
        (datetime.date(2026, 11, 23), datetime.datetime(2026, 11, 23, tzinfo=UTC)),
        (datetime.datetime(2026, 11, 23, 22), datetime.datetime(2026, 11, 23, 22, tzinfo=UTC)),
    ],
)
def test_moments(value: str | datetime.date, moment: datetime.datetime) -> None:
    """With an offset as it says, without one UTC."""
    found = parse_moment(value)
    assert (found, found.tzinfo is None) == (moment, False)


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "22:00", "10m"])
def test_what_is_no_moment(text: str) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(ValueError, match="is no point of time such as 2026-11-23T22:00:00Z"):
        parse_moment(text)
