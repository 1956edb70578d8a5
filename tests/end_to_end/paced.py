"""h2load at a steady rate, and what became of each request: its log has a line for each."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

SECONDS = 300


class Line(NamedTuple):
    """One request: seconds since the first one, its status (-1: none came), and how long it took."""

    at: float
    status: int
    took: float


class Pace:
    """A running h2load; `lines` waits for its end."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path, requests: int) -> None:
        self._process = process
        self._log = log
        self._requests = requests

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def lines(self) -> list[Line]:
        """All requests, in the order in which they were sent."""
        output, _ = self._process.communicate(timeout=SECONDS)
        assert self._process.returncode == 0, output
        rows = [line.split("\t") for line in self._log.read_text().splitlines()]
        rows.sort(key=lambda row: int(row[0]))
        assert len(rows) == self._requests, output
        first = int(rows[0][0])
        return [Line((int(at) - first) / 1e6, int(status), int(took) / 1e6) for at, status, took in rows]


@contextmanager
def paced(
    url: str,
    folder: Path,
    *,
    requests: int,
    rate: int = 0,
    clients: int = 10,
    version: str = "http2",
    streams: int = 32,
    authority: str = "",
) -> Iterator[Pace]:
    """So many requests, `rate` a second over all `clients` (0: as many as go); killed with the block where it has not
    ended."""
    log = folder / f"h2load-{rate}-{version}.log"
    log.unlink(missing_ok=True)
    argv = ["h2load", "-n", str(requests), "-c", str(clients), "--log-file", str(log)]
    argv += ["--h1"] if version == "http1" else ["-m", str(streams)]
    if rate:
        argv += ["--rps", str(rate / clients)]
    if authority:
        argv += ["-H", f":authority: {authority}"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([*argv, url], text=True, **pipes) as process:
        try:
            yield Pace(process, log, requests)
        finally:
            process.kill()


def share_of(status: int, lines: Sequence[Line]) -> float:
    """Of these lines, how many had this status."""
    return sum(line.status == status for line in lines) / len(lines)
