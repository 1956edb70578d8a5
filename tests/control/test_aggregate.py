"""Windows of counts: conserved, bounded, and quantiles that stay within their bucket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.control.aggregate import HORIZON_SECONDS, OVERFLOW, Aggregate, Cell, portion, quantile
from mesh.control.cluster import ServiceKey
from mesh.model.reports import LATENCY_BOUNDS_MS, SeriesDelta, SeriesKey, TcpDelta

WEB = ServiceKey("demo", "web")
UNBOUNDED = len(LATENCY_BOUNDS_MS)


def resolve(label):
    return ServiceKey("demo", label)


def delta(requests=1, service="votes", direction="inbound", success=True, buckets=None, protocol="http1"):
    key = SeriesKey(direction, service, "", protocol, 200 if success else 500, -1, "completed", "", success, "disabled")
    return SeriesDelta(key, requests, requests * 2.0, {3: requests} if buckets is None else buckets)


def total(window):
    cell = Cell()
    for one in window.cells.values():
        cell.add(one)
    return cell


reports = st.lists(
    st.tuples(
        st.floats(0, 30),  # seconds since the report before
        st.floats(0, 60),  # seconds that it covers
        st.lists(
            st.builds(
                delta,
                st.integers(0, 500),
                st.sampled_from(["a", "b", "c"]),
                st.sampled_from(["inbound", "outbound"]),
                st.booleans(),
                st.dictionaries(st.integers(0, UNBOUNDED), st.integers(1, 500), max_size=4),
            ),
            max_size=5,
        ),
    ),
    max_size=20,
)


@given(reports, st.integers(1, 8))
def test_slots_add_up_to_reports(made, max_series):
    """Nothing is lost or counted twice: the horizon's window, the totals and the reports agree, overflow included."""
    now = 1000.0
    aggregate = Aggregate(now, max_series=max_series)
    wanted = Cell()
    for pause, seconds, deltas in made:
        now += pause
        aggregate.add(now, WEB, seconds, deltas, resolve)
        for one in deltas:
            cell = Cell()
            cell.requests, cell.successes = one.requests, one.requests if one.key.success else 0
            cell.duration_ms, cell.buckets = one.duration_ms, dict(one.buckets)
            wanted.add(cell)
    for window in (aggregate.window(now, HORIZON_SECONDS), aggregate.window(now, 0)):
        got = total(window)
        assert (got.requests, got.successes, got.buckets) == (wanted.requests, wanted.successes, wanted.buckets)
        if wanted.requests:
            assert got.duration_ms <= wanted.duration_ms + 1e-6  # a share without a request has no cell


@given(st.integers(0, 10_000), st.integers(1, 900))
def test_portions_are_even_and_add_up(count, parts):
    """Whole shares of a count differ by one at most."""
    shares = [portion(count, part, parts) for part in range(parts)]
    assert sum(shares) == count
    assert max(shares) - min(shares) <= 1


@given(
    st.dictionaries(st.integers(0, UNBOUNDED), st.integers(1, 1000), min_size=1),
    st.floats(0, 1),
)
def test_quantiles_stay_within_the_bucket_that_holds_the_rank(buckets, q):
    """The answer lies between the bounds of the bucket in which the rank falls, and grows with q."""
    value = quantile(buckets, q)
    rank, below = q * sum(buckets.values()), 0
    for index in sorted(buckets):
        below += buckets[index]
        if below >= rank:
            break
    upper = LATENCY_BOUNDS_MS[min(index, UNBOUNDED - 1)]
    lower = LATENCY_BOUNDS_MS[index - 1] if 0 < index < UNBOUNDED else 0.0 if index == 0 else upper
    assert lower <= value <= upper
    assert value <= quantile(buckets, min(q + 0.1, 1.0))


@pytest.mark.parametrize(
    ("buckets", "q", "value"),
    [
        ({}, 0.5, None),
        ({0: 10}, 0.5, 0.05),
        ({7: 10}, 1.0, 1.0),
        ({7: 10}, 0.5, 0.9),
        ({7: 5, 11: 5}, 0.5, 1.0),
        ({UNBOUNDED: 1}, 0.5, 50_000),
    ],
)
def test_quantile(buckets, q, value):
    """Interpolation is linear within a bucket; the unbounded one answers with the last bound."""
    assert quantile(buckets, q) == (pytest.approx(value) if value is not None else None)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 100))
def test_no_share_has_more_successes_than_requests(successes, failures, parts):
    """However a late report is spread, each second of it makes sense by itself."""
    cell = Cell()
    cell.requests, cell.successes = successes + failures, successes
    shares = [cell.share(part, parts) for part in range(parts)]
    assert all(share.successes <= share.requests for share in shares)
    assert sum(share.requests for share in shares) == cell.requests


def test_a_window_forgets_what_is_older():
    """Only slots within the window count, and its length is the divisor."""
    aggregate = Aggregate(0.0)
    aggregate.add(100.5, WEB, 1.0, [delta(10)], resolve)
    aggregate.add(150.5, WEB, 1.0, [delta(20)], resolve)
    assert total(aggregate.window(151.0, 10)).requests == 20
    assert total(aggregate.window(151.0, 60)).requests == 30
    assert total(aggregate.window(151.0, 0)).requests == 30
    assert aggregate.window(151.0, 10).seconds == pytest.approx(10.0)
    assert aggregate.window(151.5, 10).seconds == pytest.approx(10.5)
    assert total(aggregate.window(151.0 + 2 * HORIZON_SECONDS, HORIZON_SECONDS)).requests == 0


def test_a_window_that_reaches_before_the_start_is_as_long_as_we_live():
    """Rates of the first minute are rates of the time that passed, not of the minute."""
    aggregate = Aggregate(1000.0)
    aggregate.add(1004.0, WEB, 1.0, [delta(40)], resolve)
    assert aggregate.window(1004.0, 60).seconds == pytest.approx(4.0)
    assert aggregate.window(1004.0, 0).seconds == pytest.approx(4.0)
    assert aggregate.window(1000.0, 60).seconds == 1.0


def test_a_late_report_is_spread_over_what_it_covers():
    """Ten seconds that come at once after a broken stream are ten slots, not a peak."""
    aggregate = Aggregate(0.0)
    aggregate.add(100.2, WEB, 10.0, [delta(100)], resolve)
    assert total(aggregate.window(100.2, 4)).requests == 50
    assert total(aggregate.window(100.2, 60)).requests == 100
    aggregate.add(101.2, WEB, 1e300, [delta(900)], resolve)
    assert total(aggregate.window(101.2, 0)).requests == 1000


def test_series_are_bounded_and_idle_ones_make_room():
    """What finds no room is counted under one name; a series silent for the horizon is folded into it."""
    aggregate = Aggregate(0.0, max_series=2)
    for name in "abc":
        aggregate.add(1.0, WEB, 1.0, [delta(1, name)], resolve)
    names = sorted(series.service for series in aggregate.window(1.0, 0).cells)
    assert names == [OVERFLOW, "a", "b"]
    assert aggregate.overflowed == 1
    later = 2.0 + HORIZON_SECONDS
    aggregate.add(later, WEB, 1.0, [delta(1, "d")], resolve)
    window = aggregate.window(later, 0)
    assert sorted(series.service for series in window.cells) == [OVERFLOW, "d"]
    assert total(window).requests == 4


def test_cells_are_bounded_by_shortening_windows():
    """With too many cells the oldest slots go, and the divisor with them."""
    aggregate = Aggregate(0.0, max_cells=10)
    for second in range(100):
        aggregate.add(float(second), WEB, 1.0, [delta(1)], resolve)
    window = aggregate.window(99.0, 60)
    assert total(window).requests == 10
    assert window.seconds == pytest.approx(9.0)


def test_gauges_belong_to_their_proxy():
    """The newest value counts, none at zero, and all go with the proxy."""
    aggregate = Aggregate(0.0)
    aggregate.add_tcp("p1", [TcpDelta("inbound", "votes", 3, 0, 3, 0, 0)], resolve)
    aggregate.add_tcp("p1", [TcpDelta("inbound", "votes", 0, 1, 2, 0, 0)], resolve)
    aggregate.add_tcp("p2", [TcpDelta("inbound", "votes", 5, 0, 5, 0, 0)], resolve)
    assert sorted(aggregate.tcp_open()) == [
        ("p1", "inbound", ServiceKey("demo", "votes"), 2),
        ("p2", "inbound", ServiceKey("demo", "votes"), 5),
    ]
    aggregate.add_tcp("p2", [TcpDelta("inbound", "votes", 0, 5, 0, 0, 0)], resolve)
    aggregate.forget("p1")
    assert list(aggregate.tcp_open()) == []


def test_who_was_called_as_whom_is_kept_apart():
    """Peers of calls and identities make series of their own; of callers, what they proved and no address."""
    aggregate = Aggregate(0.0)
    deltas = [
        SeriesDelta(
            SeriesKey(direction, "votes", peer, "http1", 200, -1, "completed", "", True, "true", "", identity),
            1,
            1.0,
            {},
        )
        for direction, peer, identity in (
            *(("outbound", "v1", "a"), ("outbound", "v2", "a"), ("outbound", "v2", "b")),
            *(("inbound", "10.0.0.1", "a"), ("inbound", "10.0.0.2", "a")),
        )
    ]
    aggregate.add(1.0, WEB, 1.0, deltas, resolve, "web's own")
    cells = aggregate.window(1.0, 60).cells
    found = {(series.direction, series.peer, series.identity): cell.requests for series, cell in cells.items()}
    assert found == {
        ("outbound", "v1", "a"): 1,
        ("outbound", "v2", "a"): 1,
        ("outbound", "v2", "b"): 1,
        ("inbound", "", "a"): 2,
    }
    assert {series.own for series in cells} == {"web's own"}
