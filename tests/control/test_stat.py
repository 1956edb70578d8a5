"""Rows from windows."""

import pytest

from mesh.control import stat
from mesh.control.aggregate import Aggregate
from mesh.control.cluster import Cluster, ServiceKey
from mesh.model.reports import SeriesDelta, SeriesKey, TcpDelta
from mesh.model.resources import Endpoint, EndpointSpec, Metadata, Workload, WorkloadSpec


def series(direction, service, requests, success=True, protocol="http1", tls="disabled"):
    key = SeriesKey(direction, service, "", protocol, 200, -1, "completed", "", success, tls)
    return SeriesDelta(key, requests, 1.0, {7: requests})


def home(label):
    return ServiceKey("demo", label) if "." not in label else ServiceKey("", label)


@pytest.fixture
def cluster():
    """Two services, words of two workloads, and a client."""
    cluster = Cluster()
    cluster.set_file(
        "f",
        [
            Workload(Metadata("web", "demo"), WorkloadSpec(("x",), port="auto")),
            Workload(Metadata("words-v1", "demo"), WorkloadSpec(("x",), service="words", port="auto")),
            Workload(Metadata("load", "demo"), WorkloadSpec(("x",))),
            Endpoint(Metadata("w1", "demo"), EndpointSpec("words", "words-v1", "127.0.0.1:1")),
            Endpoint(Metadata("w2", "demo"), EndpointSpec("words", "words-v1", "127.0.0.1:2")),
        ],
    )
    return cluster


def by_name(rows):
    return {row.name: row for row in rows}


def test_services_are_told_by_their_inbound_proxies_or_else_by_callers(cluster):
    """A service that its own proxies saw is told by them alone; any other as its callers saw it."""
    aggregate = Aggregate(0.0)
    words = ServiceKey("demo", "words-v1")
    aggregate.add(10.0, words, 1.0, [series("inbound", "words", 8), series("inbound", "words", 2, False)], home)
    outbound = [series("outbound", "words", 99), series("outbound", "api.example.com", 5), series("outbound", "web", 1)]
    aggregate.add(10.0, ServiceKey("demo", "web"), 1.0, outbound, home)
    aggregate.add_tcp(
        "p", [TcpDelta("inbound", "words", 4, 0, 4, 0, 0), TcpDelta("outbound", "x", 9, 0, 9, 0, 0)], home
    )
    rows = by_name(stat.services(aggregate.window(10.0, 60), cluster, aggregate))
    assert set(rows) == {"words", "web", "api.example.com"}
    row = rows["words"]
    assert (row.requests, row.success_rate, row.rps, row.endpoints, row.tcp_open) == (10, 0.8, 1.0, 2, 4)
    assert row.protocol == "http1"
    assert row.p50_ms == pytest.approx(0.9)
    assert (rows["web"].requests, rows["web"].namespace) == (1, "demo")
    assert (rows["api.example.com"].requests, rows["api.example.com"].namespace) == (5, "")


def test_a_service_without_traffic_has_a_row_without_numbers(cluster):
    """Nothing asked is no success rate, rather than a perfect or a bad one."""
    aggregate = Aggregate(0.0)
    rows = by_name(stat.services(aggregate.window(1.0, 60), cluster, aggregate))
    assert set(rows) == {"words", "web"}
    row = rows["web"]
    assert (row.requests, row.success_rate, row.p50_ms, row.p99_ms, row.protocol) == (0, None, None, None, "")


def test_workloads_are_told_by_their_own_proxies(cluster):
    """Each workload has a row, clients too, with what its proxies saw come in."""
    aggregate = Aggregate(0.0)
    words = ServiceKey("demo", "words-v1")
    aggregate.add(10.0, words, 1.0, [series("inbound", "words", 3), series("outbound", "web", 7)], home)
    aggregate.add_tcp("p", [TcpDelta("inbound", "words", 4, 0, 4, 0, 0)], home)
    rows = by_name(stat.workloads(aggregate.window(10.0, 60), cluster, aggregate, {"p": words}))
    assert set(rows) == {"web", "words-v1", "load"}
    assert (rows["words-v1"].requests, rows["words-v1"].tcp_open, rows["words-v1"].endpoints) == (3, 4, 2)
    assert rows["load"].success_rate is None
