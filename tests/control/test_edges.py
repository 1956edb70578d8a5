"""Who calls whom, as whom, from what proxies report."""

import pytest

from mesh.control.aggregate import Aggregate
from mesh.control.cluster import ServiceKey
from mesh.control.edges import edges
from mesh.model.identity import Identity
from mesh.model.reports import SeriesDelta, SeriesKey

WEB, WORDS, ONE, TWO = (str(Identity(name, "demo")) for name in ("web", "words", "words-v1", "words-v2"))


def series(direction, service, requests, peer="", *, identity="", tls="", success=True, protocol="http1"):
    tls = tls or ("true" if identity else "disabled")
    key = SeriesKey(direction, service, peer, protocol, 200, -1, "completed", "", success, tls, "", identity)
    return SeriesDelta(key, requests, 1.0, {7: requests})


def home(label):
    return ServiceKey("demo", label) if "." not in label else ServiceKey("", label)


@pytest.fixture
def aggregate():
    """Nothing reported yet."""
    return Aggregate(0.0)


@pytest.fixture
def report(aggregate):
    """Call it with the deltas of one report of a workload, which is web unless told, with its identity."""

    def add(*deltas, source="web", namespace="demo", own=None):
        own = str(Identity(source, namespace)) if own is None else own
        aggregate.add(10.0, ServiceKey(namespace, source), 1.0, deltas, home, own)

    return add


@pytest.fixture
def found(aggregate):
    """Call it for the edges of the last minute."""
    return lambda: edges(aggregate.window(10.0, 60))


def test_secured_edge_has_both_identities(report, found):
    """One for each workload behind a service, with what both sides proved, and numbers of its own."""
    report(
        series("outbound", "words", 3, "words-v1", identity=ONE),
        series("outbound", "words", 1, "words-v1", identity=ONE, success=False),
        series("outbound", "words", 6, "words-v2", identity=TWO),
        series("inbound", "web", 9, identity=WORDS),
    )
    one, two = found()
    assert (one.namespace, one.source, one.to_namespace, one.to, one.workload) == (
        *("demo", "web"),
        *("demo", "words", "words-v1"),
    )
    assert (one.client_identity, one.server_identity, one.secured, one.reason, one.tls) == (WEB, ONE, True, "", "true")
    assert (one.requests, one.success_rate, one.rps) == (4, 0.75, 0.4)
    assert one.p50_ms == pytest.approx(0.9)
    assert (two.workload, two.server_identity, two.requests) == ("words-v2", TWO, 6)


def test_edges_across_namespaces_are_qualified(report, found):
    """`service.namespace` where the caller is from elsewhere."""
    report(series("outbound", "words", 1, "words-v1", identity=ONE), namespace="other")
    [edge] = found()
    assert (edge.namespace, edge.to, edge.to_namespace) == ("other", "words.demo", "demo")
    assert edge.client_identity == str(Identity("web", "other"))


@pytest.mark.parametrize(
    ("delta", "own", "client", "server", "reason"),
    [
        (series("outbound", "words", 1, "words-v1"), WEB, "", "", "plain text: the endpoint has no identity"),
        (series("outbound", "words", 1, "words-v1"), "", "", "", "plain text: the caller has no identity"),
        (series("outbound", "words", 1, "w", tls="true"), WEB, WEB, "", "the server proved no identity"),
        (series("outbound", "words", 1, "w", identity=ONE), "", "", ONE, "the client has no identity"),
        (series("outbound", "api.example.com", 1, "1.2.3.4:80"), WEB, "", "", "it is outside of the mesh"),
        (series("outbound", "words", 1), WEB, "", "", "no request reached an endpoint"),
        (series("outbound", "words", 1, protocol="tcp"), WEB, "", "", "no request reached an endpoint"),
    ],
)
def test_why_an_edge_is_not_secured(report, found, delta, own, client, server, reason):
    """Each way to be without proof has words of its own, and nobody is said to have proved what they did not."""
    report(delta, own=own)
    [edge] = found()
    assert (edge.client_identity, edge.server_identity, edge.reason) == (client, server, reason)
    assert edge.secured is (reason == "")


def test_one_request_in_plain_text_is_enough(report, found):
    """An edge is not secured for the most part: it is told how much of it was not."""
    report(
        series("outbound", "words", 9, "words-v1", identity=ONE),
        series("outbound", "words", 1, "words-v1"),
    )
    [edge] = found()
    assert (edge.secured, edge.requests, edge.tls) == (False, 10, "true")
    assert edge.reason == "1 of 10 requests: plain text: the endpoint has no identity"
    assert (edge.client_identity, edge.server_identity) == (WEB, ONE)


def test_what_reached_nobody_is_counted_beside(report, found):
    """Requests that found no endpoint fail on the service's busiest edge, and make it no less secure."""
    report(
        series("outbound", "words", 5, "words-v1", identity=ONE),
        series("outbound", "words", 8, "words-v2", identity=TWO),
        series("outbound", "words", 2, success=False),
    )
    one, two = found()
    assert (one.requests, one.success_rate, two.requests, two.success_rate) == (5, 1.0, 10, 0.8)
    assert two.secured


def test_caller_without_a_proxy(report, found):
    """Seen by whom it calls alone: an edge from nobody, beside the secured ones."""
    report(series("outbound", "words", 4, "words-v1", identity=ONE))
    report(series("inbound", "words", 4, identity=WEB), series("inbound", "words", 1), source="words-v1")
    nobody, web = found()
    assert (nobody.source, nobody.namespace, nobody.to, nobody.workload) == ("", "", "words.demo", "words-v1")
    assert (nobody.client_identity, nobody.server_identity, nobody.requests) == ("", "", 1)
    assert (nobody.secured, nobody.reason) == (False, "plain text from outside of the mesh")
    assert (web.source, web.secured, web.requests) == ("web", True, 4)


def test_plain_text_of_our_own_is_told_once(report, found):
    """Where a proxy of ours says that it sent in plain text, there is no edge from nobody for it."""
    report(series("outbound", "words", 4, "words-v1"))
    report(series("inbound", "words", 4), source="words-v1")
    [edge] = found()
    assert (edge.source, edge.requests) == ("web", 4)


def test_what_found_no_room_is_left_out(aggregate, report, found):
    """The overflow of a window is nobody's edge; an endless name is kept by no series."""
    aggregate._max_series = 1
    report(series("outbound", "words", 1, "x" * 1000, identity="y" * 1000))
    report(series("outbound", "web", 1, "web", identity=WEB))
    [edge] = found()
    assert (edge.to, edge.workload, edge.server_identity) == ("words", "", "")
