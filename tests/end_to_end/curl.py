"""curl, run to its end: what it printed and the head that it saw."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

VERSIONS = {"http1": "--http1.1", "http2": "--http2-prior-knowledge"}
SECONDS = 30


@dataclass(frozen=True)
class Answer:
    """The last response. `heads` is all that curl saw of heads and trailers, in lower case; `errors` its own words."""

    code: int
    status: int
    body: bytes
    heads: str
    errors: str


def curl(url: str, *options: str | Path, check: bool = True) -> Answer:
    """Run curl; with `check`, its failure fails the test. The body is what -o would have written."""
    argv = [
        *("curl", "--silent", "--show-error", "--noproxy", "", "--max-time", str(SECONDS)),
        *("--dump-header", "/dev/stderr", "--write-out", "\n%{http_code}"),
        *map(str, options),
        url,
    ]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS + 5, check=False)
    body, _, status = done.stdout.rpartition(b"\n")
    words = done.stderr.decode(errors="replace")
    if check:
        assert done.returncode == 0, f"curl ended with {done.returncode}: {words}"
    return Answer(done.returncode, int(status or 0), body, words.lower().replace("\r", ""), words)
