"""Tap sessions: whole exchanges, bounded in rate and in what waits."""

import pytest

from mesh.control import tap
from mesh.control.cluster import ServiceKey
from mesh.control.tap import Taps, TooManyTaps, for_proxy
from mesh.model.push import Tapped
from mesh.model.reports import TapEvent, TapMatch

WEB = ServiceKey("demo", "web")


def event(kind, number, service="votes"):
    return TapEvent(kind, f"0:{number}", "out", "web", "a", "b", "disabled", service=service)


def exchange(number, service="votes"):
    return tuple(event(kind, number, service) for kind in ("req", "rsp", "end"))


def test_exchanges_are_shown_whole_or_not_at_all():
    """Over max_rps the rest is dropped by exchange and counted; what was shown keeps its rsp and end."""
    taps = Taps()
    session = taps.open(TapMatch(max_rps=8.0), 0.0)
    requests = [event("req", n) for n in range(10)]
    rest = [event(kind, n) for n in range(10) for kind in ("rsp", "end")]
    taps.take_in(0.0, "p", WEB, Tapped(session.number, (*requests, *rest), dropped=3))
    events, dropped = session.take_out()
    assert [(e.event, e.id) for e in events] == [
        *[("req", "0:0"), ("req", "0:1")],
        *[(kind, f"0:{n}") for n in (0, 1) for kind in ("rsp", "end")],
    ]
    assert dropped == 3 + 8
    taps.take_in(1.0, "p", WEB, Tapped(session.number, exchange(1)))
    assert len(session.take_out()[0]) == 3


def test_the_rate_holds_over_all_proxies_and_in_time():
    """However many proxies send, a second shows max_rps exchanges, and a burst at most."""
    session = Taps().open(TapMatch(max_rps=10.0), 0.0)
    shown = 0
    for tick in range(50):
        for proxy in "ab":
            session.take_in(tick / 10, proxy, WEB, Tapped(session.number, exchange(tick) + exchange(-tick - 1)))
        shown += len(session.take_out()[0]) // 3
    assert 48 <= shown <= 53


def test_the_same_id_at_two_proxies_is_two_exchanges():
    """Ids are a proxy's own."""
    session = Taps().open(TapMatch(max_rps=4.0), 0.0)
    session.take_in(0.0, "a", WEB, Tapped(1, (event("req", 1),)))
    session.take_in(0.0, "b", WEB, Tapped(1, (event("rsp", 1), event("end", 1))))
    assert [e.event for e in session.take_out()[0]] == ["req"]


def test_what_waits_for_a_slow_watcher_is_bounded():
    """New exchanges are turned away while there is still room for the ends of those shown."""
    session = Taps().open(TapMatch(max_rps=10_000.0), 0.0)
    for n in range(5_000):
        session.take_in(n / 10, "p", WEB, Tapped(1, (event("req", n),)))
    for n in range(5_000):
        session.take_in(1000.0, "p", WEB, Tapped(1, (event("rsp", n), event("end", n))))
    events, dropped = session.take_out()
    assert len(events) == tap.MAX_WAITING
    assert sum(e.event == "req" for e in events) == tap.ADMIT_BELOW
    assert dropped > 5_000 - tap.ADMIT_BELOW


@pytest.mark.parametrize(
    ("to", "label", "namespace", "wanted"),
    [
        ("", "anything", "demo", True),
        ("votes", "votes", "demo", True),
        ("votes", "votes.demo", "web", True),
        ("votes.demo", "votes", "demo", True),
        ("votes.demo", "votes", "other", False),
        ("votes.demo.svc", "votes.demo", "other", True),
        ("votes", "words", "demo", False),
        ("api.example.com", "api.example.com", "demo", True),
        ("api.example.com", "api.example.org", "demo", False),
        ("127.0.0.1:80", "127.0.0.1:80", "demo", True),
    ],
)
def test_whose_calls_are_wanted(to, label, namespace, wanted):
    """A service is the same however the caller names it, and another namespace's is another."""
    session = Taps().open(TapMatch(to=to), 0.0)
    session.take_in(0.0, "p", ServiceKey(namespace, "x"), Tapped(1, exchange(1, label)))
    assert bool(session.take_out()[0]) is wanted


@pytest.mark.parametrize(("match", "wanted"), [("", True), ("web", True), ("web.demo", True), ("web.x", False)])
def test_which_proxies_take_part(match, wanted):
    """Those of the workload, named alone or with its namespace; they are asked for the plain name."""
    taps = Taps()
    session = taps.open(TapMatch(workload=match, to="votes.demo"), 0.0)
    assert (session.number in taps.of(WEB)) is wanted
    assert for_proxy(session.match, "web") == TapMatch(workload="web" if match else "", to="votes")
    taps.take_in(0.0, "p", WEB, Tapped(session.number, exchange(1)))
    assert session.wake.is_set() is wanted


def test_sessions_begin_and_end_and_are_few():
    """Each change is told; what comes for an ended session is nothing; there is a bound."""
    taps = Taps()
    told = []
    taps.changed = lambda: told.append(1)
    session = taps.open(TapMatch(), 0.0)
    taps.close(session)
    taps.take_in(0.0, "p", WEB, Tapped(session.number, exchange(1)))
    assert (len(told), session.wake.is_set(), taps.of(WEB)) == (2, False, {})
    for _ in range(tap.MAX_SESSIONS):
        taps.open(TapMatch(), 0.0)
    assert taps.are_full()
    with pytest.raises(TooManyTaps):
        taps.open(TapMatch(), 0.0)
