"""What an honest client feels while somebody attacks the same proxy: its p99 beside each attack, and in quiet.

The attacks are those of tests/hostile, which also hold the proxy to losing nothing. Here they run as a process of their
own, on the core of the load and at a low priority, so that it is the proxy that is measured and not who shares the
load's core. A figure, never a test.

    python -m bench.attacks NAME PORT SECONDS       the attacker
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import trio
import yaml

from bench import hops, load
from bench.backend import backends
from bench.peers import executable
from bench.process import BenchError, free_ports, running, wait_listening
from bench.scenarios import LARGE_PATH, Protocol, Scenario
from tests.hostile import attacks

NAME = "attacks"
"""What `--only` calls all of this."""
ATTACK_SECONDS, LEAD_SECONDS, QUIET_RUNS = 3, 0.5, 3
RATE = 200  # requests of the honest client per second
AT_MOST = 5.0
"""Times its quiet value, by the p99 of the honest client."""
NICE = 10


@dataclass(frozen=True, slots=True)
class AttackSample:
    """The honest client's p99 in µs, in quiet and beside the attack; where `error` is not empty, it lost something."""

    attack: str
    protocol: Protocol
    quiet_p99: float
    p99: float | None = None
    error: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.p99 is None else self.p99 / self.quiet_p99


@dataclass(frozen=True, slots=True)
class Victim:
    """The proxy: a plain port for each protocol and one with TLS."""

    plain: dict[Protocol, int]
    tls: int


def honest(protocol: Protocol) -> Scenario:
    """What the honest client does."""
    return Scenario("honest", "", protocol, 10, 10 if protocol == "http2" else 1, rate=RATE, seconds=ATTACK_SECONDS)


def execute(load_core: int, proxy_core: int, progress: Callable[[str], None]) -> list[AttackSample]:
    """All attacks in turn, on one proxy. Raises BenchError where it cannot be set up."""
    samples = []
    with tempfile.TemporaryDirectory(prefix="conduit-attacks-", ignore_cleanup_errors=True) as name, ExitStack() as end:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's worker reads the large body from here
        servers = end.enter_context(backends(folder, load_core))
        target = end.enter_context(victim(folder, proxy_core, servers.ports["http1"][0], servers.ports["http2"][0]))
        for protocol, kinds in _plan():
            quiet = median(_p99(protocol, target, load_core, folder) for _ in range(QUIET_RUNS))
            for attack in kinds:
                samples.append(_beside(attack, protocol, quiet, target, load_core, folder))
                progress(describe(samples[-1]))
    return samples


def _plan() -> Iterator[tuple[Protocol, list[str]]]:
    yield "http1", [*attacks.HTTP1, *attacks.BELOW]
    yield "http2", list(attacks.HTTP2)


@contextmanager
def victim(folder: Path, core: int, http1: int, http2: int) -> Iterator[Victim]:
    """One conduit with its usual bounds."""
    one, two, tls, admin = free_ports(4)
    _, files = hops.certificates(folder)
    config = folder / "victim.yaml"
    document = {
        "admin": f"127.0.0.1:{admin}",
        "outbound": [
            {"listen": f"127.0.0.1:{one}", "service": "http1"},
            {"listen": f"127.0.0.1:{two}", "service": "http2"},
        ],
        "inbound": [
            {
                "listen": f"127.0.0.1:{tls}",
                "forward": f"127.0.0.1:{http1}",
                "tls": {**files.document(), "mode": "strict"},
            }
        ],
        "services": {
            "http1": {"protocol": "http1", "endpoints": [f"127.0.0.1:{http1}"]},
            "http2": {"protocol": "http2", "endpoints": [f"127.0.0.1:{http2}"]},
        },
    }
    config.write_text(yaml.safe_dump(document, sort_keys=False))
    command = [executable("conduit"), "proxy", "--config", str(config)]
    with running("conduit", command, core, config.with_suffix(".log")) as program:
        wait_listening(program, two)
        yield Victim({"http1": one, "http2": two}, tls)


def _p99(protocol: Protocol, target: Victim, core: int, folder: Path) -> float:
    outcome = load.run(honest(protocol), target.plain[protocol], core, folder, lambda: None)
    if outcome.latency is None:
        raise BenchError("the honest client measured nothing")
    return outcome.latency.p99


def _beside(attack: str, protocol: Protocol, quiet: float, target: Victim, core: int, folder: Path) -> AttackSample:
    """The honest client beside one attack."""
    port = target.tls if attack == "half_handshakes" else target.plain[protocol]
    words = [sys.executable, "-m", "bench.attacks", attack, str(port), str(ATTACK_SECONDS + 2 * LEAD_SECONDS)]
    with running("the attacker", ["nice", "-n", str(NICE), *words], core, folder / "attacker.log") as attacker:
        time.sleep(LEAD_SECONDS)
        try:
            return AttackSample(attack, protocol, quiet, _p99(protocol, target, core, folder))
        except BenchError as error:
            return AttackSample(attack, protocol, quiet, error=str(error))
        finally:
            try:
                attacker.popen.wait(ATTACK_SECONDS)
            except subprocess.TimeoutExpired:
                attacker.popen.kill()


def describe(sample: AttackSample) -> str:
    """The progress line of one attack."""
    if sample.error:
        return f"{NAME} {sample.attack}: FAILED: {sample.error}"
    return f"{NAME} {sample.attack}: p99 {sample.p99:.0f} µs, quiet {sample.quiet_p99:.0f} µs, {sample.ratio:.1f} times"


def main() -> None:
    """The attacker."""
    name, port, seconds = sys.argv[1:]
    attacks.BIG = LARGE_PATH.encode()  # what nginx has plenty of
    trio.run(attacks.ATTACKS[name], int(port), float(seconds))


if __name__ == "__main__":
    main()
