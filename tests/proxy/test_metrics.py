"""What a scraper reads: linkerd-proxy's names and labels, exact buckets, text that Prometheus' own parser takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from mesh.model.reports import LINKERD_BOUNDS_MS
from mesh.proxy.metrics import LABELS, TALLIES, latency_buckets, render
from mesh.proxy.report import Certificate, EndpointState, Reports, Tally


def scrape(reports: Reports) -> dict[str, list]:
    """Samples by name, as Prometheus would read them."""
    body, content_type = render(reports)
    assert content_type.startswith("text/plain; version=0.0.4")
    found: dict[str, list] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


@given(st.lists(st.floats(0, 120), max_size=50))
def test_buckets_fold_exactly(latencies: list[float]) -> None:
    """linkerd's bounds are a subset of ours, so that each count is what a histogram of its own would have."""
    reports = Reports(10)
    scope = reports.scope("outbound", "votes", "a", "true")
    for latency in latencies:
        reports.record(scope, "http1", 200, -1, "completed", "", latency, latency)
    for series in reports.series:
        rows = latency_buckets(series)
        assert [bound for bound, _ in rows] == [*(str(float(bound)) for bound in LINKERD_BOUNDS_MS), "+Inf"]
        exact = [sum(latency * 1000.0 <= bound for latency in latencies) for bound in LINKERD_BOUNDS_MS]
        assert [count for _, count in rows] == [*exact, len(latencies)]


def test_an_empty_proxy_can_be_scraped() -> None:
    """Before the first request there are no samples of ours but those of the process."""
    found = scrape(Reports(10))
    assert "request_total" not in found
    assert found["process_open_fds"][0].value > 0


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
def test_requests_carry_linkerds_labels(direction: str) -> None:
    """The peer is `client_id` inbound and `dst_workload` outbound; numbers unknown are empty."""
    reports = Reports(10)
    scope = reports.scope(direction, "votes", "web.demo", "true")
    reports.record(scope, "grpc", 200, 14, "completed", "", 0.003, 0.010)
    found = scrape(reports)
    (sample,) = found["request_total"]
    assert set(sample.labels) == set(LABELS)
    assert sample.labels["direction"] == direction
    assert sample.labels["authority"] == "votes"
    assert sample.labels["client_id"] == ("web.demo" if direction == "inbound" else "")
    assert sample.labels["dst_workload"] == ("" if direction == "inbound" else "web.demo")
    assert sample.labels["tls"] == "true"
    assert (sample.labels["status_code"], sample.labels["grpc_status"]) == ("200", "14")
    assert sample.labels["classification"] == "failure"
    assert found["response_total"][0].value == 1
    assert found["response_latency_ms_sum"][0].value == pytest.approx(3.0)
    assert found["response_latency_ms_count"][0].value == 1
    assert {one.labels["le"] for one in found["response_latency_ms_bucket"]} >= {"1.0", "50000.0", "+Inf"}


def test_a_request_without_a_response_is_no_response() -> None:
    """A client that left early counts in request_total alone."""
    reports = Reports(10)
    reports.record(reports.scope("inbound", "votes", "", ""), "http1", 0, -1, "client_cancelled", "", 0.0, 1.0)
    found = scrape(reports)
    assert found["request_total"][0].value == 1
    assert found["request_total"][0].labels["status_code"] == ""
    assert "response_total" not in found


def test_connections_and_refusals() -> None:
    """tcp_* by direction and authority, conduit_refused by reason."""
    reports = Reports(10)
    counted = reports.connections("inbound", "votes")
    counted.opened += 2
    counted.end(100, 200)
    reports.refuse("bad_head", "inbound")
    found = scrape(reports)
    names = (
        "tcp_open_total",
        "tcp_close_total",
        "tcp_open_connections",
        "tcp_read_bytes_total",
        "tcp_write_bytes_total",
    )
    assert [found[name][0].value for name in names] == [2, 1, 1, 100, 200]
    assert found["conduit_refused_total"][0].labels == {"reason": "bad_head", "where": "inbound"}


@given(st.text(max_size=30))
def test_label_values_are_escaped(value: str) -> None:
    """Quotes, backslashes and line breaks in a name come out as they went in."""
    reports = Reports(10)
    value = value.encode("utf-8", "replace").decode()
    reports.record(reports.scope("outbound", value, "", ""), "http1", 200, -1, "completed", "", 0.0, 0.0)
    assert scrape(reports)["request_total"][0].labels["authority"] == value


@pytest.mark.parametrize("what", list(Tally))
def test_each_tally_is_a_family_of_its_own(what: Tally) -> None:
    """What policy does is counted by service and by one more label, whose name says what it is."""
    reports = Reports(10)
    reports.tally(what, "votes", "status")
    reports.tally(what, "votes", "status")
    (sample,) = scrape(reports)[f"{what.value}_total"]
    assert sample.value == 2
    assert sample.labels == {"service": "votes", TALLIES[what][1]: "status"}


def test_tallies_are_bounded() -> None:
    """Beyond the bound on series nothing new is kept; what is known is still counted."""
    reports = Reports(1)
    for _ in range(2):
        reports.tally(Tally.RETRY, "votes", "status")
        reports.tally(Tally.RETRY, "words", "status")
    assert reports.tallies == {(Tally.RETRY, "votes", "status"): 2}


def test_endpoints_are_shown_as_they_fare_now() -> None:
    """One sample for each endpoint, up to the bound, labelled with its state."""
    reports = Reports(2)
    reports.states = lambda: [EndpointState("votes", "votes-v1", f"10.0.0.{i}:80", "ejected") for i in range(3)]
    samples = scrape(reports)["conduit_endpoint_state"]
    assert [sample.labels["endpoint"] for sample in samples] == ["10.0.0.0:80", "10.0.0.1:80"]
    assert {sample.labels["state"] for sample in samples} == {"ejected"}


def test_a_proxy_with_an_identity_says_when_its_certificate_ends() -> None:
    """And what became of each that was asked for; one without says nothing."""
    reports = Reports(10)
    assert "conduit_identity_cert_expiration_timestamp_seconds" not in scrape(reports)
    reports.certificate = lambda: Certificate(1700000000.0, 3, 1)
    found = scrape(reports)
    assert [sample.value for sample in found["conduit_identity_cert_expiration_timestamp_seconds"]] == [1700000000.0]
    counts = {sample.labels["result"]: sample.value for sample in found["conduit_identity_cert_refresh_total"]}
    assert counts == {"installed": 3, "failed": 1}
