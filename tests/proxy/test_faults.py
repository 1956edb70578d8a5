"""Which fault strikes which request."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from mesh.model.traffic import Abort, Injection, Match, PathMatch
from mesh.proxy.faults import Faults
from mesh.wire.head import Head

HEAD = Head.request(b"GET", b"/slow/1", authority=b"votes")
OTHER = Head.request(b"GET", b"/fast", authority=b"votes")
SLOW = Match(path=PathMatch("/slow"))


def drawing(*numbers: float) -> Callable[[], float]:
    """Gives these numbers, and fails when it is asked for more."""
    return iter(numbers).__next__


def test_the_first_that_means_the_request_strikes() -> None:
    """And it is told as it was configured."""
    first, second = Injection("a", match=SLOW, delay=0.2), Injection("b", abort=Abort(503))
    faults = Faults((first, second))
    assert faults.strike(HEAD, drawing(), 0) is first
    assert faults.strike(OTHER, drawing(), 0) is second
    assert Faults((first,)).strike(OTHER, drawing(), 0) is None
    assert Faults(()).strike(HEAD, drawing(), 0) is None


@pytest.mark.parametrize(("percent", "drawn", "struck"), [(50, 0.4999, True), (50, 0.5, False), (0.1, 0.0009, True)])
def test_a_share_is_drawn_for_each_request(percent: float, drawn: float, struck: bool) -> None:
    """Below the share it strikes."""
    fault = Injection("a", percent=percent)
    assert (Faults((fault,)).strike(HEAD, drawing(drawn), 0) is fault) is struck


def test_all_and_nothing_are_not_drawn() -> None:
    """100 percent strikes each request and 0 none: no random number is asked for."""
    whole = Injection("b")
    assert Faults((Injection("a", percent=0), whole)).strike(HEAD, drawing(), 0) is whole
    assert Faults((Injection("a", percent=0),)).strike(HEAD, drawing(), 0) is None


def test_one_that_is_not_drawn_lets_the_next_try() -> None:
    """Each with a draw of its own."""
    faults = Faults((Injection("a", percent=50), Injection("b", percent=50)))
    struck = faults.strike(HEAD, drawing(0.9, 0.1), 0)
    assert struck is not None
    assert struck.name == "b"
    assert faults.strike(HEAD, drawing(0.9, 0.9), 0) is None


def test_a_request_that_is_not_meant_is_not_drawn_for() -> None:
    """The share is one of the requests that match."""
    assert Faults((Injection("a", match=SLOW, percent=50),)).strike(OTHER, drawing(), 0) is None


def test_the_share_holds_in_the_long_run() -> None:
    """30 percent of 10,000 requests, within 2."""
    faults, random = Faults((Injection("a", percent=30),)), Random(1)
    struck = sum(faults.strike(HEAD, random.random, 0) is not None for _ in range(10_000))
    assert abs(struck - 3000) < 200


def test_a_fault_lifts_by_itself() -> None:
    """At the time that it names, whoever is there to see it; the others go on."""
    faults = Faults((Injection("a", until=100.0), Injection("b", until=200.0), Injection("c", match=SLOW)))
    names = []
    for wall in (0.0, 99.9, 100.0, 199.9, 200.0, 1e10):
        struck = faults.strike(HEAD, drawing(), wall)
        assert struck is not None
        names.append(struck.name)
    assert names == ["a", "a", "b", "b", "c", "c"]


def test_the_next_end_is_told() -> None:
    """Of those that last still and lift by themselves."""
    faults = Faults((Injection("a", until=200.0), Injection("b", until=100.0), Injection("c")))
    assert [faults.next_end(wall) for wall in (0, 100, 150, 200)] == [100, 200, 200, 0]
    assert Faults(()).next_end(0) == 0


def test_what_may_strike_is_told_without_drawing() -> None:
    """All that last and mean the request, in order, whatever their share."""
    faults = Faults((Injection("a", percent=1), Injection("b", match=SLOW), Injection("c", until=100.0)))
    assert [one.name for one in faults.meaning(OTHER, 50.0)] == ["a", "c"]
    assert [one.name for one in faults.meaning(OTHER, 100.0)] == ["a"]
