"""A whole small benchmark, with a plain TCP forwarder in the place of a proxy."""

import os
import shlex
import sys
from pathlib import Path

import pytest

from bench.load import Latency
from bench.process import BenchError
from bench.run import Plan, Sample, describe, execute
from bench.scenarios import LARGE_PATH, SCENARIOS, Scenario, quick, warm_up

CORE = min(os.sched_getaffinity(0))
FORWARDER = """
import sys
import trio

async def copy(source, sink):
    async for data in source:
        await sink.send_all(data)
    await sink.send_eof()

async def forward(client):
    async with client, await trio.open_tcp_stream("127.0.0.1", int(sys.argv[2])) as server:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, client, server)
                nursery.start_soon(copy, server, client)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

trio.run(trio.serve_tcp, forward, int(sys.argv[1]))
"""
REFUSER = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    server.accept()[0].close()
"""


def plan(tmp_path: Path, code: str, *scenarios: Scenario) -> Plan:
    """Two rounds with `code` as conduit."""
    script = tmp_path / "proxy.py"
    script.write_text(code)
    command = f"{shlex.join([sys.executable, str(script)])} {{listen}} {{upstream}}"
    return Plan(scenarios, ["conduit"], 2, CORE, CORE, command)


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario("h1", "", "http1", 2, requests=40),
        Scenario("h2", "", "http2", 2, 4, requests=40),
        Scenario("large", "", "http2", 2, 2, LARGE_PATH, requests=8),
    ],
    ids=lambda scenario: scenario.name,
)
def test_http_scenarios(tmp_path: Path, scenario: Scenario) -> None:
    """Every round of an HTTP scenario has its costs, and a line of progress."""
    lines: list[str] = []
    samples = execute(plan(tmp_path, FORWARDER, scenario), lines.append)
    assert [(one.scenario, one.peer, one.round, one.error) for one in samples] == [
        (scenario.name, "conduit", 1, ""),
        (scenario.name, "conduit", 2, ""),
    ]
    assert len(lines) == 2
    for one in samples:
        assert one.cpu_us_per_request is not None
        assert one.cpu_us_per_request > 0
        assert one.rss_load_bytes is not None
        assert one.rss_load_bytes > 1_000_000


def test_opaque_scenario(tmp_path: Path) -> None:
    """Opaque TCP is measured in bytes per second of the proxy's CPU, not in requests."""
    scenario = Scenario("tcp", "", "opaque", 2, stream_bytes=20_000_000)
    samples = execute(plan(tmp_path, FORWARDER, scenario), lambda line: None)
    assert [one.error for one in samples] == ["", ""]
    assert all(one.gigabytes_per_core_second for one in samples)
    assert all(one.cpu_us_per_request is None for one in samples)


def test_a_proxy_that_answers_nothing(tmp_path: Path) -> None:
    """A proxy whose requests fail has one failed sample, with the counts, and is not measured further."""
    scenario = Scenario("h1", "", "http1", 2, requests=40)
    (sample,) = execute(plan(tmp_path, REFUSER, scenario), lambda line: None)
    assert (sample.round, sample.cpu_us_per_request) == (0, None)
    assert "0 succeeded" in sample.error


def test_a_proxy_that_does_not_start(tmp_path: Path) -> None:
    """A proxy that ends at once has a failed sample with its last words; the benchmark goes on."""
    scenarios = [Scenario(name, "", "http1", 1, requests=4) for name in ("one", "two")]
    samples = execute(plan(tmp_path, "raise SystemExit('no such option')", *scenarios), lambda line: None)
    assert [one.scenario for one in samples] == ["one", "two"]
    assert all("no such option" in one.error for one in samples)


def test_a_proxy_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program is a failed sample that says what to install."""
    monkeypatch.setattr("bench.peers.haproxy", not_installed)
    scenario = Scenario("h1", "", "http1", 1, requests=4)
    (sample,) = execute(Plan([scenario], ["haproxy"], 1, CORE, CORE), lambda line: None)
    assert sample.error == "haproxy is not installed"


def not_installed(*_: object) -> None:
    raise BenchError("haproxy is not installed")


def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's folder is gone when it ends."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    execute(plan(tmp_path, FORWARDER, Scenario("h1", "", "http1", 1, requests=4)), lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["proxy.py"]


@pytest.mark.parametrize(
    ("sample", "line"),
    [
        (
            Sample("h1", "envoy", 2, cpu_us_per_request=12.34, per_second=12345.6, foreign_share=0.01),
            "h1 round 2 envoy: 12.3 µs CPU/request, 12,346 requests/s",
        ),
        (
            Sample("tcp", "envoy", 1, gigabytes_per_core_second=3.456, foreign_share=0.25),
            "tcp round 1 envoy: 3.46 GB per second of CPU (25% of the proxy's core went to others)",
        ),
        (
            Sample("r", "envoy", 1, cpu_us_per_request=1.0, per_second=1000.0, latency=Latency(1, 2, 3, 4)),
            "r round 1 envoy: 1.0 µs CPU/request, 1,000 requests/s p50 1 p99 3 µs",
        ),
        (Sample("h1", "envoy", 0, error="10 failed"), "h1 round 0 envoy: FAILED: 10 failed"),
    ],
)
def test_progress_line(sample: Sample, line: str) -> None:
    """One line says what a run found, and whether it was disturbed."""
    assert describe(sample) == line


def test_the_table_of_scenarios() -> None:
    """Names are unique, every scenario has work to do, and a short or warm-up version still has some."""
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    for scenario in [shape for one in SCENARIOS for shape in (one, quick(one), warm_up(one))]:
        assert scenario.requests >= scenario.connections * scenario.streams or scenario.rate or scenario.stream_bytes
        assert scenario.rate % scenario.connections == 0
        assert bool(scenario.seconds) == bool(scenario.rate)
