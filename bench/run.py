"""One benchmark: for every scenario all proxies at once, measured in turn, round after round.

The proxies of a scenario are alive together on the proxy's core and take turns (A B C D, A B C D, ...),
so that whatever the machine does slowly happens to all of them. A proxy that is not being measured idles.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench import load, measure
from bench.backend import backends
from bench.load import Latency
from bench.peers import Ports, build, pair, supports
from bench.process import BenchError, Running, free_ports, running, wait_listening
from bench.scenarios import Scenario, warm_up

WORTH_A_WORD = 0.05  # of a core gone to others: shown in the progress line
SETTLE_SECONDS = 0.5  # from listening to the reading of idle memory


@dataclass(frozen=True, slots=True)
class Sample:
    """One proxy in one round of one scenario. Where `error` is not empty, the figures are absent (None)."""

    scenario: str
    peer: str
    round: int
    error: str = ""
    cpu_us_per_request: float | None = None
    per_second: float | None = None
    gigabytes_per_core_second: float | None = None
    latency: Latency | None = None
    rss_idle_bytes: int | None = None
    rss_load_bytes: int | None = None
    foreign_share: float | None = None  # of the proxy's core, 0 to 1
    foreign_load_share: float | None = None  # of the core of load and back ends


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and on which two cores."""

    scenarios: Sequence[Scenario]
    peers: Sequence[str]
    rounds: int
    load_core: int
    proxy_core: int
    conduit_command: str | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    """A started proxy, or two in a row: the processes, the port and its memory before any load."""

    programs: tuple[Running, ...]
    port: int
    rss_idle_bytes: int

    def pids(self) -> list[int]:
        """All processes whose cost counts."""
        return [pid for program in self.programs for pid in measure.process_tree(program.pid)]


def execute(plan: Plan, progress: Callable[[str], None]) -> list[Sample]:
    """Run the whole plan; returns a sample for every scenario, round and proxy that supports it.

    Raises BenchError when a back end cannot be started. A proxy that cannot be, and a bad run, become a
    sample with an `error`.
    """
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="conduit-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's worker reads the large body from here
        with backends(folder, plan.load_core) as servers:
            for scenario in plan.scenarios:
                with ExitStack() as stack:
                    started: dict[str, Contender] = {}
                    for peer in plan.peers:
                        if not supports(peer, scenario.protocol, scenario.policies or scenario.hops > 1):
                            continue
                        try:
                            contender = contend(plan, scenario, peer, servers.ports[scenario.protocol], folder)
                            started[peer] = stack.enter_context(contender)
                        except BenchError as error:
                            samples.append(Sample(scenario.name, peer, 0, error=str(error)))
                            progress(describe(samples[-1]))
                    samples += rounds(plan, scenario, started, servers.pids, folder, progress)
    return samples


@contextmanager
def contend(plan: Plan, scenario: Scenario, name: str, upstreams: tuple[int, ...], folder: Path) -> Iterator[Contender]:
    """One proxy, started for the scenario, listening and idle, for the length of the block."""
    listen, between, *admins = free_ports(4)
    config = folder / f"{name}-{scenario.name}.conf"
    if scenario.hops > 1:
        peers = pair(name, listen, between, upstreams[0], (admins[0], admins[1]), folder)
    else:
        ports = Ports(listen, upstreams if scenario.policies else upstreams[:1], admins[0])
        peers = [build(name, scenario.protocol, ports, config, plan.conduit_command, governed=scenario.policies)]
    with ExitStack() as stack:
        programs = []
        for peer, port in zip(peers, (between, listen) if len(peers) > 1 else (listen,), strict=True):
            path = peer.path
            path.write_text(peer.config)
            program = stack.enter_context(running(name, peer.command, plan.proxy_core, path.with_suffix(".log")))
            wait_listening(program, port)
            programs.append(program)
        time.sleep(SETTLE_SECONDS)
        contender = Contender(tuple(programs), listen, 0)
        yield replace(contender, rss_idle_bytes=measure.rss_bytes(contender.pids()))


def rounds(
    plan: Plan,
    scenario: Scenario,
    started: dict[str, Contender],
    server_pids: list[int],
    folder: Path,
    progress: Callable[[str], None],
) -> list[Sample]:
    """Warm every contender up (round 0, kept only if it fails), then measure those that did not fail, in turn."""
    samples: list[Sample] = []
    fit = dict(started)
    for number in range(plan.rounds + 1):
        for name, contender in list(fit.items()):
            shape = scenario if number else warm_up(scenario)
            sample = measured(plan, shape, number, name, contender, server_pids, folder)
            if number or sample.error:
                samples.append(sample)
                progress(describe(sample))
            if sample.error:
                del fit[name]
    return samples


def measured(
    plan: Plan,
    scenario: Scenario,
    number: int,
    name: str,
    contender: Contender,
    server_pids: list[int],
    folder: Path,
) -> Sample:
    """One run of load against one contender: what it achieved, what it cost, and who disturbed it."""
    pids = contender.pids()
    loaders = [os.getpid(), *server_pids]  # the load generator is counted in us, its parent
    peak = 0

    def sample_memory() -> None:
        nonlocal peak
        peak = max(peak, measure.rss_bytes(pids))

    try:
        cores_before = measure.core_times(plan.proxy_core), measure.core_times(plan.load_core)
        loaders_before = measure.cpu_reading(loaders)
        cpu_before = measure.cpu_reading(pids)
        outcome = load.run(scenario, contender.port, plan.load_core, folder, sample_memory)
        used = measure.cpu_seconds(cpu_before, measure.cpu_reading(pids))
        used_by_load = measure.cpu_seconds(loaders_before, measure.cpu_reading(loaders))
        cores_after = measure.core_times(plan.proxy_core), measure.core_times(plan.load_core)
        sample_memory()
        error = ""
    except (FileNotFoundError, ProcessLookupError):
        error = f"a process of {name} ended during the run"
    except BenchError as reason:
        error = str(reason)
    for program in contender.programs:
        if program.popen.poll() is not None:
            error = f"{error}; {program.why_it_ended()}".removeprefix("; ")
    if error:
        return Sample(scenario.name, name, number, error=error)
    return Sample(
        scenario=scenario.name,
        peer=name,
        round=number,
        cpu_us_per_request=used * 1e6 / outcome.requests if outcome.requests else None,
        per_second=outcome.per_second or None,
        gigabytes_per_core_second=outcome.stream_bytes / used / 1e9 if outcome.stream_bytes else None,
        latency=outcome.latency,
        rss_idle_bytes=contender.rss_idle_bytes,
        rss_load_bytes=peak,
        foreign_share=measure.foreign_share(cores_before[0], cores_after[0], used),
        foreign_load_share=measure.foreign_share(cores_before[1], cores_after[1], used_by_load),
    )


def describe(sample: Sample) -> str:
    """The progress line of one run."""
    words = [f"{sample.scenario} round {sample.round} {sample.peer}:"]
    if sample.error:
        return " ".join([*words, "FAILED:", sample.error])
    if sample.cpu_us_per_request is not None:
        words.append(f"{sample.cpu_us_per_request:.1f} µs CPU/request, {sample.per_second:,.0f} requests/s")
    if sample.gigabytes_per_core_second is not None:
        words.append(f"{sample.gigabytes_per_core_second:.2f} GB per second of CPU")
    if sample.latency is not None:
        words.append(f"p50 {sample.latency.p50} p99 {sample.latency.p99} µs")
    for core, share in (("proxy's", sample.foreign_share), ("load's", sample.foreign_load_share)):
        if share is not None and share > WORTH_A_WORD:
            words.append(f"({share:.0%} of the {core} core went to others)")
    return " ".join(words)
