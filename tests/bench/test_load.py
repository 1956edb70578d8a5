"""Reading h2load: its summary, its log, percentiles, and what is not accepted as a measurement."""

from pathlib import Path

import pytest

from bench import load
from bench.load import Latency, Summary
from bench.process import BenchError
from bench.scenarios import Scenario

GOOD = """\
starting benchmark...
spawning thread #0: 16 total client(s). 2000 total requests
Application protocol: h2c
progress: 100% done

finished in 25.57ms, 78210.54 req/s, 5.40MB/s
requests: 2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 141.39KB (144784) total, 93.75KB (96000) headers (space savings 51.02%), 11.72KB (12000) data
                     min         max         mean         sd        +/- sd
time for request:       35us      3.19ms      2.68ms       692us    88.80%
"""
PACED = """\
Main benchmark duration is over for thread #0. Stopping all clients.
Stopped all clients for thread #0

finished in 2.00s, 1000.00 req/s, 70.55KB/s
requests: 2000 total, 2010 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx
"""
NOT_FOUND = """\
finished in 4.91ms, 40733.20 req/s, 11.96MB/s
requests: 200 total, 200 started, 200 done, 0 succeeded, 200 failed, 0 errored, 0 timeout
status codes: 0 2xx, 0 3xx, 200 4xx, 0 5xx
"""
REFUSED = """\
finished in 445us, 0.00 req/s, 0B/s
requests: 10 total, 0 started, 0 done, 0 succeeded, 10 failed, 10 errored, 0 timeout
status codes: 0 2xx, 0 3xx, 0 4xx, 0 5xx
"""
LOG = """\
1795453555438596	200	133
1795453555438624	200	125
1795453555438652	200	105
"""


def test_summary() -> None:
    """Every count and the time, in seconds, come out of h2load's own words."""
    summary = load.parse_summary(GOOD)
    assert summary == Summary(2000, 2000, 2000, 0, 0, 0, 2000, pytest.approx(0.02557), 78210.54)
    load.check(summary)


def test_paced_summary() -> None:
    """Requests still on their way when a timed run ends are started but not counted, and nothing is wrong."""
    summary = load.parse_summary(PACED)
    assert (summary.total, summary.done, summary.seconds) == (2000, 2000, 2.0)
    load.check(summary, rate=1000)


@pytest.mark.parametrize(
    ("text", "said"), [(NOT_FOUND, "0 succeeded .* 200 failed"), (REFUSED, "10 failed, 10 errored")]
)
def test_failed_requests_are_an_error(text: str, said: str) -> None:
    """A bad status or a refused connection fails the run, with the counts, though h2load exits 0."""
    with pytest.raises(BenchError, match=said):
        load.check(load.parse_summary(text))


def test_one_failed_request_is_enough() -> None:
    """A single failure among thousands is not lost in rounding."""
    text = GOOD.replace("2000 succeeded, 0 failed", "1999 succeeded, 1 failed").replace("2000 2xx", "1999 2xx")
    with pytest.raises(BenchError, match=r"1999 succeeded .* 1 failed"):
        load.check(load.parse_summary(text))


def test_redirects_are_not_answers() -> None:
    """h2load counts a 3xx as a success; we do not."""
    text = GOOD.replace("2000 2xx, 0 3xx", "1990 2xx, 10 3xx")
    with pytest.raises(BenchError, match="1990 with 2xx"):
        load.check(load.parse_summary(text))


def test_a_run_off_its_pace() -> None:
    """Latency at a rate that was not reached is not latency at that rate."""
    text = PACED.replace("1000.00 req/s", "912.50 req/s")
    with pytest.raises(BenchError, match="asked for 1000 requests/s, achieved 912"):
        load.check(load.parse_summary(text), rate=1000)


def test_no_request() -> None:
    """A run that made no request is not a clean one."""
    text = GOOD.replace("2000", "0")
    with pytest.raises(BenchError, match="no request was made"):
        load.check(load.parse_summary(text))


def test_no_summary() -> None:
    """Output that stops early is an error that quotes its end."""
    with pytest.raises(BenchError, match="Invalid URI"):
        load.parse_summary("h2load: Invalid URI\n")


def test_log() -> None:
    """The log's third column is the latency; it comes back sorted."""
    assert load.parse_log(LOG) == [105, 125, 133]


def test_log_with_a_failed_request() -> None:
    """h2load marks a failed stream with status -1; its latency is not one."""
    with pytest.raises(BenchError, match="failed request"):
        load.parse_log(LOG + "1795453555438700\t-1\t9\n")


@pytest.mark.parametrize(
    ("ordered", "per_mille", "value"),
    [([7], 500, 7), ([7], 999, 7), ([1, 2, 3, 4], 500, 2), ([1, 2, 3, 4], 750, 3), ([1, 2, 3, 4], 751, 4)],
)
def test_percentile(ordered: list[int], per_mille: int, value: int) -> None:
    """Nearest rank: always a value that occurred."""
    assert load.percentile(ordered, per_mille) == value


def test_latency() -> None:
    """1 to 1,000 µs have the percentiles one expects."""
    assert load.latency(list(range(1, 1001))) == Latency(500, 900, 990, 999)


def test_latency_of_nothing() -> None:
    """An empty log is an error rather than zeroes."""
    with pytest.raises(BenchError, match="logged no request"):
        load.latency([])


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        (
            Scenario("a", "", "http1", 32, requests=60),
            "h2load -c 32 -m 1 -t 1 --h1 -n 60 http://127.0.0.1:80/small",
        ),
        (
            Scenario("b", "", "http2", 10, 100, rate=1000, seconds=10),
            "h2load -c 10 -m 100 -t 1 --rps 100 -D 10 --log-file /x/log http://127.0.0.1:80/small",
        ),
    ],
)
def test_command(scenario: Scenario, words: str) -> None:
    """Saturating runs count requests; paced ones share the rate among the connections and log each request."""
    assert load.h2load_command(scenario, 80, Path("/x/log")) == words.split()
