"""h2load, run to its end, and what it counted."""

import re
import subprocess
from dataclasses import dataclass

SECONDS = 240
COUNTS = re.compile(
    r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout"
)
STATUSES = re.compile(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx")


@dataclass(frozen=True)
class Load:
    """h2load's counts of requests; `good` are those that were answered with 2xx."""

    total: int
    started: int
    done: int
    succeeded: int
    failed: int
    errored: int
    timeout: int
    good: int
    output: str


def parse(output: str) -> Load:
    """What h2load printed at its end."""
    counts, statuses = COUNTS.search(output), STATUSES.search(output)
    assert counts is not None, output
    assert statuses is not None, output
    return Load(*map(int, counts.groups()), int(statuses[1]), output)


def command(url: str, version: str, *, requests: int, clients: int, streams: int, body: str | None = None) -> list[str]:
    """The arguments for so many requests on so many connections."""
    argv = ["h2load", "-n", str(requests), "-c", str(clients), "-m", str(streams)]
    if version == "http1":
        argv.append("--h1")
    if body is not None:
        argv += ["-d", body]
    return [*argv, url]


def h2load(url: str, version: str, *, requests: int, clients: int, streams: int = 1, body: str | None = None) -> Load:
    """Run it."""
    argv = command(url, version, requests=requests, clients=clients, streams=streams, body=body)
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return parse(done.stdout)
