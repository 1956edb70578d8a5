"""What waits to be told: added up by key, cut into small enough messages, nothing lost."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.push import MAX_MESSAGE, Report, Tapped
from mesh.model.reports import Seen, SeriesDelta, SeriesKey, TapEvent, TcpDelta
from mesh.proxy.unsent import CHUNK, MOST_SEEN, Unsent, tapped_texts


def series(service, requests=1):
    key = SeriesKey("inbound", service, "", "http1", 200, -1, "completed", "", True, "disabled")
    return SeriesDelta(key, requests, 2.0 * requests, {3: requests})


def tcp(service, opened=1):
    return TcpDelta("inbound", service, opened, 0, opened, 10, 20)


def told(unsent):
    reports = []
    while (text := unsent.next_text(5.0, 1.0)) is not None:
        assert len(text) <= MAX_MESSAGE
        reports.append(msgspec.json.decode(text, type=Report))
        unsent.sent()
    return reports


def test_nothing_is_no_message():
    """Silence is left to heartbeats."""
    assert Unsent().next_text(0.0, 1.0) is None


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 9)), unique_by=lambda d: d[0]), max_size=5)
)
def test_what_is_added_before_it_is_sent_adds_up(drains):
    """However many drains it takes until a message goes out, each key is told once with the sum."""
    unsent = Unsent()
    sums = {}
    for drained in drains:
        unsent.add([series(*one) for one in drained], [tcp(*one) for one in drained])
        for name, count in drained:
            sums[name] = sums.get(name, 0) + count
    reports = told(unsent)
    deltas = [delta for report in reports for delta in report.series]
    assert {d.key.service: (d.requests, d.buckets, d.duration_ms) for d in deltas} == {
        name: (count, {3: count}, 2.0 * count) for name, count in sums.items()
    }
    assert {d.service: d.opened for report in reports for d in report.tcp} == sums
    assert told(unsent) == []


def test_the_gauge_is_the_newest():
    """Counts add up, `open` does not."""
    unsent = Unsent()
    unsent.add([], [TcpDelta("inbound", "a", 5, 1, 4, 1, 2)])
    unsent.add([], [TcpDelta("inbound", "a", 0, 3, 1, 1, 2)])
    assert told(unsent)[0].tcp == (TcpDelta("inbound", "a", 5, 4, 1, 2, 4),)


def test_a_message_that_was_not_sent_is_told_again():
    """Only `sent` takes it away."""
    unsent = Unsent()
    unsent.add([series("a")], [])
    assert unsent.next_text(0.0, 1.0) == unsent.next_text(0.0, 1.0)
    unsent.add([series("a")], [])
    assert [report.series[0].requests for report in told(unsent)] == [2]


def test_many_and_large_ones_are_cut():
    """Chunks hold CHUNK series, fewer where labels are long, and each series is told once."""
    unsent = Unsent()
    unsent.add([series(f"s{n}") for n in range(CHUNK + 1)], [])
    assert [len(report.series) for report in told(unsent)] == [CHUNK, 1]
    unsent.add([series(f"{n}" + "x" * 10_000) for n in range(300)], [])
    reports = told(unsent)
    assert len(reports) > 2
    assert sum(len(report.series) for report in reports) == 300
    assert unsent.dropped == 0


def test_what_is_too_large_alone_is_dropped_and_counted():
    """The rest is told all the same."""
    unsent = Unsent()
    unsent.add([series("a"), series("x" * 2 * MAX_MESSAGE), series("b")], [])
    assert [delta.key.service for report in told(unsent) for delta in report.series] == ["a", "b"]
    assert unsent.dropped == 1


def test_taps_are_cut_too():
    """Every event arrives in order, the dropped are counted once; an event too large alone becomes one of them."""
    events = [TapEvent("req", f"0:{n}", "in", "w", "a", "b", "true", path="/" + "x" * 10_000) for n in range(300)]
    events[7] = TapEvent("req", "0:7", "in", "w", "a", "b", "true", path="/" + "x" * 2 * MAX_MESSAGE)
    texts = list(tapped_texts(Tapped(4, tuple(events), 2)))
    assert all(len(text) <= MAX_MESSAGE for text in texts)
    parts = [msgspec.json.decode(text, type=Tapped) for text in texts]
    assert [e.id for part in parts for e in part.events] == [f"0:{n}" for n in range(300) if n != 7]
    assert sum(part.dropped for part in parts) == 3
    assert {part.session for part in parts} == {4}


def seen(path, count=1, example=""):
    return Seen("votes", "", "10.0.0.1", "http", "GET", path, example or path, True, "default:audit", "", count)


def test_what_was_seen_adds_up_and_keeps_its_first_example():
    """Drained twice before it could be sent, a kind is told once; alone, it is a message too."""
    unsent = Unsent()
    unsent.add([], [], [seen("/a/*", 2, "/a/1"), seen("/b")])
    unsent.add([], [], [seen("/a/*", 3, "/a/2")])
    unsent.add([], [])
    [report] = told(unsent)
    assert report.seen == (seen("/a/*", 5, "/a/1"), seen("/b"))
    assert told(unsent) == []


def test_what_was_seen_is_cut_into_messages_and_bounded():
    """Nothing is lost up to the bound, whatever its size; beyond it what comes later is counted as dropped."""
    unsent = Unsent()
    rows = [seen(f"/{number}/" + "x" * 1_000, example="/" + "\x00" * 1_000) for number in range(MOST_SEEN - 1)]
    unsent.add([series("votes")], [], rows)
    unsent.add([], [], [seen("/more"), seen("/too-much")])
    reports = told(unsent)
    assert [row for report in reports for row in report.seen] == [*rows, seen("/more")]
    assert (unsent.dropped, len(reports[0].series)) == (1, 1)
