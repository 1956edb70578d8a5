"""A proxy under attack, the application behind it, an honest client beside the attacker, and what must hold after."""

import contextlib
import functools
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from tests.conftest import Handle
from tests.end_to_end.conftest import CONDUIT, Run, processes_in, starter
from tests.end_to_end.sidecar import Sidecar, Starter
from tests.hostile.asking import origin_heard
from tests.hostile.attacks import Attack
from tests.hostile.honest import Honest, Honest1, Honest2, honest

HERE = Path(__file__).parent
MEGABYTE = 1 << 20
SPARE = 10 * MEGABYTE
"""Of memory that the proxy may keep after an attack."""
SETTLE = 20.0
"""Seconds in which it must have given the rest back: time for its own deadlines, below, and for what they free."""
LIMITS = {
    "detect_timeout": 2.0,
    "handshake_timeout": 1.0,
    "header_timeout": 1.0,
    "body_timeout": 0.5,
    "write_timeout": 0.5,
    "idle_http": 20.0,
}
"""Shorter than anybody's, so that attacks that wait need not take long."""
CODECS = ("ngh2", "h2")


@dataclass
class Target:
    """A proxy with an application behind it. `inbound` leads to it, and so does the outbound listener `outbound`."""

    sidecar: Sidecar
    origin: int
    inbound: int = field(init=False)
    outbound: int = field(init=False)

    def __post_init__(self) -> None:
        self.inbound = self.sidecar.inbound[0]
        self.outbound = self.sidecar.ports["web"]

    def refused(self) -> dict[str, float]:
        """Refusals so far, by reason."""
        return refusals(self.sidecar)

    def rss(self) -> int:
        """Resident bytes of the proxy (proc(5), statm)."""
        pages = Path(f"/proc/{self.sidecar.handle.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Open descriptors of the proxy."""
        return len(list(Path(f"/proc/{self.sidecar.handle.pid}/fd").iterdir()))

    def heard(self) -> list[str]:
        """Heads of the requests, other than /ok, that have reached the application since this was asked last."""
        return origin_heard(self.origin)

    @contextlib.asynccontextmanager
    async def under_attack(
        self, *reasons: str, versions: tuple[type[Honest], ...] = (Honest1, Honest2), spare: int = SPARE
    ) -> AsyncIterator[list[Honest]]:
        """While the block runs, honest clients ask and lose nothing; after it the proxy's memory is what it was, within
        `spare`, and a refusal has been counted for one of `reasons`, if any are given."""
        await trio.to_thread.run_sync(self.heard)
        before = self.refused()
        async with honest(self.inbound, versions=versions) as clients:
            await until(lambda: all(client.times for client in clients), "honest clients have had an answer")
            memory = self.rss()
            yield clients
        after = self.refused()
        counted = {reason for reason in after if after[reason] > before.get(reason, 0)}
        assert not reasons or counted & set(reasons), f"none of {reasons} was counted, but {counted}"
        assert self.sidecar.handle.returncode is None
        assert after.get("internal", 0) == before.get("internal", 0)
        await until(
            lambda: self.rss() <= memory + spare,
            f"back to {memory / MEGABYTE:.0f} MB",
            SETTLE,
            lambda: f"{self.rss() / MEGABYTE:.0f} MB",
        )

    async def outlasts(self, attack: Attack, reason: str) -> None:
        """It is under attack, by somebody who waits, until that has been counted as `reason`."""
        async with self.under_attack(reason), trio.open_nursery() as nursery:
            before = self.refused().get(reason, 0)
            nursery.start_soon(attack, self.inbound, SETTLE)
            with trio.fail_after(SETTLE):
                while (await trio.to_thread.run_sync(self.refused)).get(reason, 0) <= before:
                    await trio.sleep(0.1)
            nursery.cancel_scope.cancel()


def refusals(sidecar: Sidecar) -> dict[str, float]:
    """`conduit_refused_total` by reason."""
    found: dict[str, float] = {}
    for line in sidecar.ask("/metrics")[1].splitlines():
        if line.startswith("conduit_refused_total{"):
            reason = line.partition('reason="')[2].partition('"')[0]
            found[reason] = found.get(reason, 0) + float(line.rpartition(" ")[2])
    return found


async def until(
    condition: Callable[[], object], what: str, seconds: float = 20.0, state: Callable[[], object] = lambda: ""
) -> None:
    """Return as soon as the condition holds; AssertionError with `what` and `state()` after so many seconds."""
    with trio.move_on_after(seconds):
        while not condition():
            await trio.sleep(0.05)
        return
    raise AssertionError(f"{what}: not within {seconds:g} s; {state()}")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Call it to start processes that live as long as the session."""
    with processes_in(tmp_path_factory.mktemp("hostile")) as run:
        yield run


@pytest.fixture(scope="session")
def origin(run: Run, free_port: Callable[[], int]) -> int:
    """The port of the application."""
    return start_origin(run, free_port())


def start_origin(run: Run, port: int) -> int:
    """An application of its own."""
    run([sys.executable, HERE / "origin.py", str(port)], ready_port=port)
    return port


@pytest.fixture(scope="session")
def starting(run: Run, free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory) -> Starter:
    """Call it to start a proxy that lives as long as the session."""
    return starter(tmp_path_factory.mktemp("proxies"), free_port, run)


@pytest.fixture(scope="session")
def targets(starting: Starter, origin: int) -> Callable[[str], Target]:
    """Call it with an HTTP/2 codec's name for the proxy that has it, one for all tests."""

    @functools.cache
    def of(codec: str) -> Target:
        service = {"protocol": "http1", "endpoints": [f"127.0.0.1:{origin}"]}
        entry = {"forward": f"127.0.0.1:{origin}", "protocol": "http1"}
        target = Target(starting({"web": service}, inbound=[entry], limits=LIMITS, codec=codec), origin)
        trio.run(warm, target.inbound)
        return target

    return of


@pytest.fixture(params=CODECS)
def target(request: pytest.FixtureRequest, targets: Callable[[str], Target]) -> Target:
    """A proxy with each HTTP/2 codec in turn."""
    return targets(request.param)


@pytest.fixture
def plain(targets: Callable[[str], Target]) -> Target:
    """The proxy with the usual codec."""
    return targets(CODECS[0])


async def warm(port: int) -> None:
    """Have the proxy import and allocate what any traffic makes it: memory is measured from there."""
    for _ in range(5):
        async with honest(*[port] * 20):
            await trio.sleep(0.05)


@pytest.fixture
def alone(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Starter]:
    """Call it to start a proxy for one test."""
    with processes_in(tmp_path) as run:
        yield starter(tmp_path, free_port, run)


__all__ = ["CONDUIT", "Handle", "Target", "refusals", "start_origin", "until"]
