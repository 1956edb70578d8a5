"""Medians, ratios, verdicts and tables, from made-up samples."""

import json
from dataclasses import replace

import pytest

from bench.load import Latency
from bench.report import CPU, LATENCIES, LIMITS, RSS_LOAD, Limit, Results, as_json, markdown
from bench.run import Sample
from bench.scenarios import Scenario

H1 = Scenario("h1-32", "HTTP/1.1, 32 connections", "http1", 32, requests=10)
H2 = Scenario("h2-16x16", "HTTP/2, 16x16", "http2", 16, 16, requests=10)
PACED = Scenario("h1-1000rps", "HTTP/1.1, 1,000 requests/s", "http1", 10, rate=1000, seconds=1)
TCP = Scenario("tcp", "opaque TCP", "opaque", 4, stream_bytes=1)


def sample(scenario: Scenario, peer: str, number: int, cpu: float, rss: int = 30_000_000) -> Sample:
    """One good round."""
    return Sample(
        scenario.name,
        peer,
        number,
        cpu_us_per_request=cpu,
        per_second=12345.6,
        rss_idle_bytes=20_000_000,
        rss_load_bytes=rss,
        foreign_share=0.01,
    )


def results(*samples: Sample) -> Results:
    return Results(samples, [H1, H2], ["conduit", "envoy"])


GOOD = (
    sample(H1, "conduit", 1, 20.0),
    sample(H1, "envoy", 1, 60.0, rss=60_000_000),
    sample(H1, "conduit", 2, 99.0),
    sample(H1, "envoy", 2, 50.0, rss=60_000_000),
    sample(H1, "conduit", 3, 30.0),
    sample(H1, "envoy", 3, 40.0, rss=60_000_000),
)
SECOND = (sample(H2, "conduit", 1, 20.0), sample(H2, "envoy", 1, 20.0, rss=40_000_000))


def test_medians_and_their_ratio() -> None:
    """One wild round moves neither the median nor the ratio of the medians."""
    found = results(*GOOD)
    assert found.value(CPU, "h1-32", "conduit") == 30.0
    assert found.value(CPU, "h1-32", "envoy") == 50.0
    assert found.ratio(CPU, "h1-32") == pytest.approx(0.6)


def test_a_missing_proxy_has_no_ratio() -> None:
    """Without Envoy's figure there is nothing to divide by."""
    found = results(sample(H1, "conduit", 1, 20.0))
    assert found.ratio(CPU, "h1-32") is None
    assert found.value(LATENCIES[0], "h1-32", "conduit") is None


def test_one_failed_round_spoils_the_figure() -> None:
    """A proxy that failed once has no figure there, even if its other rounds were good."""
    found = results(*GOOD, Sample("h1-32", "conduit", 3, error="1 failed"))
    assert found.value(CPU, "h1-32", "conduit") is None
    assert found.value(CPU, "h1-32", "envoy") == 50.0
    assert found.verdict(Limit("cpu", CPU, ("h1-32",), 0.65)).outcome == "not measured"


@pytest.mark.parametrize(("at_most", "outcome"), [(0.6, "met"), (0.59, "missed")])
def test_verdict(at_most: float, outcome: str) -> None:
    """A ratio equal to its limit meets it; one above misses it."""
    verdict = results(*GOOD).verdict(Limit("cpu", CPU, ("h1-32",), at_most))
    assert (verdict.outcome, verdict.scenario) == (outcome, "h1-32")


def test_verdict_over_all_scenarios_takes_the_worst() -> None:
    """A limit without scenarios is judged by the worst of all that were run."""
    verdict = results(*GOOD, *SECOND).verdict(Limit("rss", RSS_LOAD, (), 0.6))
    assert (verdict.scenario, verdict.ratio, verdict.outcome) == ("h2-16x16", pytest.approx(0.75), "missed")


def test_verdict_over_all_scenarios_needs_them_all() -> None:
    """A scenario that failed cannot be left out of the worst: the limit is then not measured."""
    assert results(*GOOD).verdict(Limit("rss", RSS_LOAD, (), 0.6)).outcome == "not measured"


def test_the_limits_of_the_project() -> None:
    """The published limits are these: a change of them is a change of what the project promises."""
    assert [(limit.figure.key, limit.scenarios, limit.at_most) for limit in LIMITS] == [
        ("cpu_us_per_request", ("h2-16x16",), 0.8),
        ("cpu_us_per_request", ("h2-64x1",), 0.8),
        ("cpu_us_per_request", ("h2-16x16-policies",), 0.85),
        ("cpu_us_per_request", ("h2-16x16-mtls",), 0.65),
        ("cpu_us_per_request", ("h1-32",), 0.65),
        ("rss_load_mb", (), 0.6),
        ("p99_us", ("h1-1000rps",), 1.0),
        ("p99_us", ("h2-1000rps",), 1.0),
    ]


def test_markdown() -> None:
    """The report holds the run's facts, aligned tables, ratios and verdicts, and no table without rows."""
    text = markdown(results(*GOOD, *SECOND), {"date": "today"})
    assert "- date: today\n" in text
    assert "| HTTP/1.1, 32 connections | 30.0 (20.0-99.0) | 50.0 (40.0-60.0) |            0.60 |\n" in text
    assert "| CPU per request, HTTP/1.1               |    0.65 |            0.60 | h1-32    | met          |\n" in text
    assert "Opaque TCP" not in text
    assert "FAILED" not in text


def test_markdown_shows_failures() -> None:
    """A failed run stands in its cell and, with its reason on one line, at the end."""
    text = markdown(results(*GOOD, Sample("h2-16x16", "conduit", 2, error="3 failed\nof 10"), SECOND[1]), {})
    assert "| HTTP/2, 16x16            |           FAILED |             20.0 |               - |\n" in text
    assert "- h2-16x16, conduit, round 2: 3 failed | of 10\n" in text


def test_latency_and_throughput_tables() -> None:
    """Each percentile has its row with its ratio, and opaque TCP its table, where a proxy may be absent."""
    paced = [
        replace(sample(PACED, peer, 1, 5.0), latency=Latency(p50, 2, 3, 4))
        for peer, p50 in [("conduit", 1), ("envoy", 2)]
    ]
    tcp = Sample("tcp", "envoy", 1, gigabytes_per_core_second=3.456)
    text = markdown(Results([*paced, tcp], [PACED, TCP], ["conduit", "envoy", "nghttpx"]), {})
    assert "| p50, HTTP/1.1, 1,000 requests/s   |       1 |     2 |       - |            0.50 |\n" in text
    assert "| p99.9, HTTP/1.1, 1,000 requests/s |       4 |     4 |       - |            1.00 |\n" in text
    assert "| opaque TCP |       - |  3.46 |       - |               - |\n" in text


def test_a_disturbed_round_does_not_count() -> None:
    """Rounds in which others took the core are left out of the median, unless there are no others."""
    disturbed = [replace(one, foreign_load_share=0.5) for one in GOOD]
    assert results(*GOOD[:2], *disturbed[2:]).rounds(CPU, "h1-32", "conduit") == [20.0]
    assert results(*disturbed).rounds(CPU, "h1-32", "conduit") == [20.0, 30.0, 99.0]


def test_a_verdict_on_disturbed_rounds_says_so() -> None:
    """A verdict that rests on disturbed rounds alone, on either side, is marked as doubtful."""
    disturbed = [replace(one, foreign_load_share=0.5) if one.peer == "envoy" else one for one in GOOD]
    limit = Limit("cpu", CPU, ("h1-32",), 0.65)
    assert not results(*GOOD).verdict(limit).doubtful
    assert results(*disturbed).verdict(limit).doubtful
    assert "| met, but in disturbed rounds |\n" in markdown(results(*disturbed, *SECOND), {})


def test_disturbed_runs_are_counted() -> None:
    """A run that lost more than a tenth of either core to others is counted, not hidden."""
    disturbed = replace(GOOD[0], foreign_share=0.3), replace(GOOD[0], foreign_load_share=0.3)
    assert results(*GOOD, *disturbed).disturbed() == 2


def test_json() -> None:
    """The JSON holds medians, ratios, verdicts, each sample and each failure."""
    document = json.loads(as_json(results(*GOOD, Sample("h2-16x16", "envoy", 1, error="refused")), {"date": "today"}))
    assert document["about"] == {"date": "today"}
    assert document["medians"]["h1-32"]["conduit"]["cpu_us_per_request"] == 30.0
    assert document["ratios"]["h1-32"]["cpu_us_per_request"] == pytest.approx(0.6)
    assert len(document["samples"]) == 7
    assert [one["error"] for one in document["failures"]] == ["refused"]
    assert [one["outcome"] for one in document["verdicts"]][4] == "met"
