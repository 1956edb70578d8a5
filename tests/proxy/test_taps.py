"""Tap sessions: what they match, how much they take, what they keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.reports import TapEvent, TapMatch
from mesh.proxy.taps import QUEUE, Session, Taps
from mesh.wire.head import Head

HEAD = Head.request(b"GET", b"/api/votes?x=1", authority=b"votes:80")
EVENT = TapEvent("req", "1:1", "out", "web", "a", "b", "true")


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("match", "admitted"),
    [
        (TapMatch(), True),
        (TapMatch(to="votes.demo"), True),
        (TapMatch(to="votes"), True),
        (TapMatch(to="vote"), False),
        (TapMatch(to="web"), False),
        (TapMatch(method="GET"), True),
        (TapMatch(method="get"), False),
        (TapMatch(method="POST"), False),
        (TapMatch(path="/api"), True),
        (TapMatch(path="/api/votes?x=1"), True),
        (TapMatch(path="api"), False),
        (TapMatch(authority="votes:80"), True),
        (TapMatch(authority="votes"), False),
        (TapMatch(to="votes", method="GET", path="/", authority="votes:80"), True),
        (TapMatch(to="votes", method="PUT", path="/", authority="votes:80"), False),
    ],
)
def test_a_match_is_all_of_its_fields(match: TapMatch, admitted: bool) -> None:
    """Empty fields match everything; a service by its full or short name, a path by its beginning."""
    assert Session(1, match, 0.0).admits("votes.demo", HEAD, 0.0) is admitted


@given(rate=st.floats(1, 50), gaps=st.lists(st.floats(0, 0.5), min_size=1, max_size=200))
def test_no_more_than_max_rps_is_watched(rate: float, gaps: list[float]) -> None:
    """In any span no more than a second's worth plus the rate; the rest is counted as dropped."""
    session, now, admitted = Session(1, TapMatch(max_rps=rate), 0.0), 0.0, []
    for gap in gaps:
        now += gap
        if session.admits("votes", HEAD, now):
            admitted.append(now)
    for index, start in enumerate(admitted):
        inside = sum(at <= start + 1.0 for at in admitted[index:])
        assert inside <= 2 * rate + 1
    assert len(admitted) + session.dropped == len(gaps)


def test_an_exchange_that_does_not_match_costs_no_allowance() -> None:
    """Only what matches is counted, watched or dropped."""
    session = Session(1, TapMatch(method="POST", max_rps=1.0), 0.0)
    assert not any(session.admits("votes", HEAD, 0.0) for _ in range(10))
    assert session.dropped == 0
    assert session.admits("votes", Head.request(b"POST", b"/", authority=b"votes"), 0.0)


def test_events_are_bounded_between_takes() -> None:
    """What nobody takes is dropped and counted, and told with what is taken."""
    taps = Taps(Clock(), "web")
    taps.start(1, TapMatch())
    (session,) = taps.active
    for _ in range(QUEUE + 7):
        session.put(EVENT)
    (tapped,) = taps.take()
    assert (tapped.session, len(tapped.events), tapped.dropped) == (1, QUEUE, 7)
    assert taps.take() == []


@pytest.mark.parametrize(("workload", "active"), [("", True), ("web", True), ("other", False)])
def test_a_session_for_another_workload_is_not_ours(workload: str, active: bool) -> None:
    """A proxy that it does not mean pays nothing for it."""
    taps = Taps(Clock(), "web")
    taps.start(1, TapMatch(workload=workload))
    assert bool(taps.active) is active


def test_sessions_start_stop_and_are_replaced() -> None:
    """A number is one session: started again it has its new match only; each is asked for every exchange."""
    taps = Taps(Clock(), "web")
    taps.start(1, TapMatch(method="POST"))
    taps.start(2, TapMatch())
    assert [one.id for one in taps.watchers("votes", HEAD)] == [2]
    taps.start(1, TapMatch())
    assert sorted(one.id for one in taps.watchers("votes", HEAD)) == [1, 2]
    taps.stop(2)
    taps.stop(99)
    assert [one.id for one in taps.watchers("votes", HEAD)] == [1]
    taps.stop_all()
    assert taps.active == []
    assert taps.watchers("votes", HEAD) == []


def test_a_stopped_session_still_takes_what_is_under_way() -> None:
    """An exchange that was watched ends quietly: nothing is sent of a session that is gone."""
    taps = Taps(Clock(), "web")
    taps.start(1, TapMatch())
    (session,) = taps.watchers("votes", HEAD)
    taps.stop(1)
    session.put(EVENT)
    assert taps.take() == []
