"""Making load, and reading what the load generators say about it.

A run in which a single request failed, or that was not paced as asked, is not a measurement:
`check` says what was wrong with it, and the run is shown as failed.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench import stream
from bench.process import BenchError, running
from bench.scenarios import Scenario

RUN_SECONDS = 180.0  # a run takes under 20 s; this is for one that hangs
SAMPLE_SECONDS = 0.1
PACE_TOLERANCE = 0.02  # of the asked rate

REQUESTS = re.compile(
    r"^requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, "
    r"(\d+) failed, (\d+) errored, (\d+) timeout$",
    re.MULTILINE,
)
STATUSES = re.compile(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx$", re.MULTILINE)
FINISHED = re.compile(r"^finished in ([\d.]+)(us|ms|s|m|h), ([\d.]+) req/s", re.MULTILINE)
UNIT_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of h2load's output. `errored` and `timed_out` are among `failed`."""

    total: int
    done: int
    succeeded: int
    failed: int
    errored: int
    timed_out: int
    good_status: int
    seconds: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of the time from a request's first byte out to its response's last byte in, in µs."""

    p50: int
    p90: int
    p99: int
    p999: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of load achieved: requests (or, for opaque TCP, bytes) in how many seconds."""

    seconds: float
    requests: int = 0
    per_second: float = 0.0
    stream_bytes: int = 0
    latency: Latency | None = None


def parse_summary(text: str) -> Summary:
    """Read h2load's standard output. Raises BenchError when it did not come to its summary."""
    requests, statuses, finished = REQUESTS.search(text), STATUSES.search(text), FINISHED.search(text)
    if not (requests and statuses and finished):
        raise BenchError("h2load printed no summary: " + " / ".join(text.strip().splitlines()[-3:]))
    total, _, done, succeeded, failed, errored, timed_out = (int(value) for value in requests.groups())
    return Summary(
        total=total,
        done=done,
        succeeded=succeeded,
        failed=failed,
        errored=errored,
        timed_out=timed_out,
        good_status=int(statuses[1]),
        seconds=float(finished[1]) * UNIT_SECONDS[finished[2]],
        per_second=float(finished[3]),
    )


def check(summary: Summary, rate: int = 0) -> None:
    """Raise BenchError, with the counts, unless every request succeeded with a 2xx, at the pace asked for."""
    if summary.failed or summary.succeeded != summary.total or summary.good_status != summary.total:
        raise BenchError(
            f"{summary.total} requests: {summary.succeeded} succeeded ({summary.good_status} with 2xx), "
            f"{summary.failed} failed, {summary.errored} errored, {summary.timed_out} timed out"
        )
    if not summary.total:
        raise BenchError("no request was made")
    if rate and abs(summary.per_second - rate) > PACE_TOLERANCE * rate:
        raise BenchError(f"asked for {rate} requests/s, achieved {summary.per_second:.0f}: latency would mean nothing")


def parse_log(text: str) -> list[int]:
    """The latencies (µs, sorted) in an h2load --log-file. Raises BenchError for a request that failed (status -1)."""
    latencies = []
    for line in text.splitlines():
        _, status, microseconds, *_ = line.split("\t")
        if status == "-1":
            raise BenchError("h2load's log has a failed request")
        latencies.append(int(microseconds))
    return sorted(latencies)


def percentile(ordered: list[int], per_mille: int) -> int:
    """The nearest-rank percentile of a sorted, not empty list: the smallest value that `per_mille` of 1,000 do
    not exceed."""
    return ordered[max(0, -(-len(ordered) * per_mille // 1000) - 1)]


def latency(ordered: list[int]) -> Latency:
    """The four published percentiles. Raises BenchError when nothing was logged."""
    if not ordered:
        raise BenchError("h2load logged no request")
    return Latency(*(percentile(ordered, per_mille) for per_mille in (500, 900, 990, 999)))


def h2load_command(scenario: Scenario, port: int, log: Path) -> list[str]:
    """h2load's command line for an HTTP scenario against 127.0.0.1:`port`."""
    command = ["h2load", "-c", str(scenario.connections), "-m", str(scenario.streams), "-t", "1"]
    if scenario.protocol == "http1":
        command.append("--h1")
    if scenario.rate:
        command += ["--rps", str(scenario.rate // scenario.connections), "-D", str(scenario.seconds)]
        command += ["--log-file", str(log)]
    else:
        command += ["-n", str(scenario.requests)]
    return [*command, f"http://127.0.0.1:{port}{scenario.path}"]


def run(scenario: Scenario, port: int, core: int, folder: Path, sample: Callable[[], None]) -> Outcome:
    """Make the scenario's load against 127.0.0.1:`port` from `core`, calling `sample` ten times a second.

    Raises BenchError for a run that hangs, ends badly, has a failed request or short bytes.
    """
    if scenario.protocol == "opaque":
        words = ["drain", str(port), str(scenario.connections), str(scenario.stream_bytes)]
        text = _watch([sys.executable, stream.__file__, *words], core, folder, sample)
        answer = json.loads(text)
        wanted = scenario.connections * scenario.stream_bytes
        if answer["bytes"] != wanted:
            raise BenchError(f"{answer['bytes']} of {wanted} bytes arrived")
        return Outcome(seconds=answer["seconds"], stream_bytes=wanted)
    log = folder / "latencies.tsv"
    log.unlink(missing_ok=True)
    summary = parse_summary(_watch(h2load_command(scenario, port, log), core, folder, sample))
    check(summary, scenario.rate)
    measured = latency(parse_log(log.read_text())) if scenario.rate else None
    return Outcome(summary.seconds, summary.total, summary.per_second, latency=measured)


def _watch(command: list[str], core: int, folder: Path, sample: Callable[[], None]) -> str:
    """The standard output of a load generator that ended well."""
    log = folder / "load.log"
    deadline = time.monotonic() + RUN_SECONDS
    with running("the load generator", command, core, log) as generator:
        while generator.popen.poll() is None:
            if time.monotonic() > deadline:
                raise BenchError(f"the load did not end within {RUN_SECONDS:.0f} s")
            with suppress(subprocess.TimeoutExpired):
                generator.popen.wait(SAMPLE_SECONDS)
                break
            sample()
    if generator.popen.returncode:
        raise BenchError(generator.why_it_ended())
    return log.read_text(errors="replace")
