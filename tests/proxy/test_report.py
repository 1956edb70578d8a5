"""Counters and histograms: what was recorded is what the deltas add up to, in bounded memory."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.reports import LATENCY_BOUNDS_MS
from mesh.proxy.report import BUCKETS, OVERFLOW, Reports, is_failure

records = st.tuples(
    st.sampled_from(["http1", "http2", "grpc"]),
    st.sampled_from([200, 404, 500]),
    st.sampled_from([-1, 0, 14]),
    st.sampled_from(["completed", "failed", "client_cancelled"]),
    st.sampled_from(["", "timeout"]),
    st.floats(0, 100),
    st.floats(0, 100),
)


@given(st.lists(st.one_of(records, st.just("drain")), max_size=60))
def test_deltas_add_up_to_the_cumulative_values(steps: list) -> None:
    """However drains fall between records: nothing is told twice, nothing is left out."""
    reports = Reports(100)
    scope = reports.scope("outbound", "votes", "10.0.0.1:80", "true")
    told_requests: Counter = Counter()
    told_buckets: Counter = Counter()
    told_duration: Counter = Counter()

    def drain() -> None:
        series, _ = reports.drain()
        for delta in series:
            assert delta.requests > 0
            assert sum(delta.buckets.values()) == delta.requests
            told_requests[delta.key] += delta.requests
            told_duration[delta.key] += delta.duration_ms
            for index, count in delta.buckets.items():
                told_buckets[delta.key, index] += count

    for step in steps:
        if step == "drain":
            drain()
        else:
            reports.record(scope, *step)
    drain()
    assert reports.drain() == ([], [])
    assert sum(told_requests.values()) == sum(step != "drain" for step in steps)
    for series in reports.series:
        assert told_requests[series.key] == series.requests
        assert told_duration[series.key] == pytest.approx(series.duration_ms)
        assert [told_buckets[series.key, index] for index in range(BUCKETS)] == series.buckets


@pytest.mark.parametrize(("index", "bound"), list(enumerate(LATENCY_BOUNDS_MS)))
def test_bounds_are_inclusive(index: int, bound: float) -> None:
    """A latency of exactly the bound is in its bucket, a little more in the next."""
    reports = Reports(10)
    scope = reports.scope("outbound", "votes", "", "true")
    reports.record(scope, "http1", 200, -1, "completed", "", bound * 0.999999 / 1000, 1.0)
    reports.record(scope, "http1", 200, -1, "completed", "", bound * 1.000001 / 1000, 1.0)
    (series,) = reports.series
    assert (series.buckets[index], series.buckets[index + 1]) == (1, 1)


def test_the_number_of_series_is_bounded_and_nothing_is_uncounted() -> None:
    """Past the bound all goes to overflow series: one per scope and outcome."""
    reports = Reports(5)
    scope = reports.scope("inbound", "votes", "", "disabled")
    for status in range(200, 300):
        reports.record(scope, "http1", status, -1, "completed", "", 0.0, 0.0)
    assert len(reports.series) == 6
    assert sum(series.requests for series in reports.series) == 100
    assert [(one.key.protocol, one.requests) for one in reports.series if one.key.protocol == OVERFLOW] == [
        (OVERFLOW, 95)
    ]


def test_the_number_of_scopes_is_bounded() -> None:
    """A client that makes up names, or endpoints that come and go, cost no memory past the bound."""
    reports = Reports(10)
    scopes = {id(reports.scope("outbound", f"s{index}", "", "disabled")) for index in range(1000)}
    assert len(scopes) == 11
    assert reports.scope("outbound", "s999", "", "disabled").service == OVERFLOW
    assert reports.scope("outbound", "s3", "", "disabled").service == "s3"


def test_all_series_together_stay_bounded() -> None:
    """Many scopes with many statuses: at most twice the bound, with its overflow series."""
    reports = Reports(20)
    for index in range(200):
        scope = reports.scope("outbound", f"s{index}", "", "disabled")
        for status in (200, 201, 202):
            reports.record(scope, "http1", status, -1, "completed", "", 0.0, 0.0)
    assert sum(series.requests for series in reports.series) == 600
    assert len(reports.series) <= 41


def test_equal_labels_are_one_scope() -> None:
    """So that a cluster made again goes on counting where the one before stopped."""
    reports = Reports(10)
    assert reports.scope("a", "b", "c", "d") is reports.scope("a", "b", "c", "d")
    assert reports.connections("a", "b") is reports.connections("a", "b")


@given(st.lists(st.sampled_from(["open", "close", "drain"]), max_size=40))
def test_connection_deltas_add_up(steps: list[str]) -> None:
    """Opened, closed and bytes are told once each; the gauge is what is open now."""
    reports = Reports(10)
    counted = reports.connections("inbound", "votes")
    told = [0, 0, 0, 0]

    def drain() -> None:
        for delta in reports.drain()[1]:
            assert delta.open == counted.opened - counted.closed
            for index, grown in enumerate((delta.opened, delta.closed, delta.read_bytes, delta.write_bytes)):
                told[index] += grown

    for step in steps:
        if step == "open":
            counted.opened += 1
        elif step == "close" and counted.open:
            counted.end(10, 20)
        elif step == "drain":
            drain()
    drain()
    assert told == [counted.opened, counted.closed, counted.closed * 10, counted.closed * 20]


def test_connection_counters_are_bounded() -> None:
    """Names past the bound share one counter per direction."""
    reports = Reports(5)
    for index in range(100):
        reports.connections("outbound", f"s{index}").opened += 1
    assert len(reports.all_connections()) == 6
    assert sum(one.opened for one in reports.all_connections()) == 100


def test_refusals_are_counted_by_reason_and_place_and_bounded() -> None:
    """Known ones go on counting when the bound is reached."""
    reports = Reports(3)
    for index in range(10):
        reports.refuse(f"reason{index}", "inbound")
    reports.refuse("reason0", "inbound")
    assert reports.refusals == {("reason0", "inbound"): 2, ("reason1", "inbound"): 1, ("reason2", "inbound"): 1}


@pytest.mark.parametrize(
    ("status", "grpc_status", "outcome", "success"),
    [
        (200, -1, "completed", True),
        (404, -1, "completed", True),
        (500, -1, "completed", False),
        (200, 0, "completed", True),
        (200, 5, "completed", True),
        (200, 13, "completed", False),
        (200, 14, "completed", False),
        (0, -1, "client_cancelled", True),
        (200, -1, "failed", False),
        (400, -1, "failed", False),
        (504, -1, "expired", False),
    ],
)
def test_success_is_classified_as_linkerd_does(status: int, grpc_status: int, outcome: str, success: bool) -> None:
    """5xx, the server's gRPC faults, and what the mesh could not finish are failures; 4xx is not."""
    reports = Reports(10)
    reports.record(reports.scope("inbound", "a", "", ""), "http2", status, grpc_status, outcome, "", 0.0, 0.0)
    assert [one.key.success for one in reports.series] == [success]
    assert is_failure(status, grpc_status) is (status >= 500 or grpc_status in {2, 4, 12, 13, 14, 15})


@pytest.mark.parametrize(
    ("status", "grpc_status", "error", "success"),
    [(429, -1, "rate_limited", True), (200, 8, "rate_limited", True), (503, -1, "over_concurrency", False)],
)
def test_over_a_rate_is_no_failure(status: int, grpc_status: int, error: str, success: bool) -> None:
    """The limit is there to say so; who has no room has failed."""
    reports = Reports(10)
    reports.record(reports.scope("inbound", "votes", "", ""), "http1", status, grpc_status, "shed", error, 0.0, 0.0)
    assert [one.key.success for one in reports.series] == [success]
