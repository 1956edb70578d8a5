"""`python -m bench`: conduit, Envoy, HAProxy and nghttpx side by side, in one run, on two cores.

The tables go to stdout, progress to stderr, and both forms (results.json, results.md) to `--output`.
Exit codes: 0 every run was good (whatever the verdicts), 1 a run failed or the benchmark could not be
set up, 2 usage, 130 interrupted.
"""

import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import click

from bench import attacks
from bench.peers import NAMES, executable
from bench.process import BenchError
from bench.report import Results, as_json, markdown
from bench.run import Plan, execute
from bench.scenarios import SCENARIOS, quick

TOOLS = ("h2load", "nginx", "taskset", "setpriv")
KNOWN = (*(one.name for one in SCENARIOS), attacks.NAME)
ROUNDS = 5  # a saturated Envoy is seen to differ twofold between rounds: three give no steady median


def chosen(value: str | None, known: tuple[str, ...], option: str) -> list[str]:
    """The names in a comma-separated option, in the order of `known`; all of them when it is not given."""
    if value is None:
        return list(known)
    wanted = [name.strip() for name in value.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in known]:
        raise click.BadParameter(f"{', '.join(unknown)}: known are {', '.join(known)}", param_hint=option)
    if not wanted:
        raise click.BadParameter("names nothing", param_hint=option)
    return [name for name in known if name in wanted]


def two_cores() -> tuple[int, int]:
    """The core for load and back ends, and the core for the proxies. Raises BenchError on a single-core machine."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("the benchmark needs two cores: one for the proxy, one for the load and the back end")
    return cores[0], cores[1]


def version(command: list[str]) -> str:
    """The first line a program prints about its version, without its path. BenchError when it does not even run."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    lines = [line.strip() for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    if result.returncode or not lines:
        raise BenchError(f"`{shlex.join(command)}` ended with status {result.returncode}: {' | '.join(lines[-3:])}")
    return lines[0].removeprefix(command[0]).strip()


def described(peers: list[str], conduit_command: str | None) -> dict[str, str]:
    """What a reader needs to repeat the run: date, command, machine, versions. BenchError if a program is missing."""
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise BenchError(f"{tool} is not installed: install it with your system's packages")
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in processors if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "machine": f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "load": "h2load, nginx and the raw source on one core, the proxy on another",
    }
    flags = {"conduit": "version", "envoy": "--version", "haproxy": "-v", "nghttpx": "--version"}
    for peer in peers:
        if peer == "conduit" and conduit_command:
            about[peer] = f"replaced by `{conduit_command}`"
        else:
            about[peer] = version([executable(peer), flags[peer]])
            if peer == "conduit":
                about[peer] += " (compiled)" if is_compiled() else " (interpreted: run `make compiled`)"
    about["nginx"] = version([executable("nginx"), "-v"])
    return about


def is_compiled() -> bool:
    """Whether the conduit that is measured runs its hot modules compiled (docs/adr/0004)."""
    done = subprocess.run([executable("conduit"), "version", "-o", "json"], capture_output=True, text=True, check=True)
    return bool(json.loads(done.stdout)["compiled"])


def tell(line: str) -> None:
    """Progress, for people."""
    click.echo(line, err=True)


def end_like_interrupt(signum: int, frame: FrameType | None) -> None:
    """SIGTERM: leave every `with` block on the way out, as ^C does."""
    raise KeyboardInterrupt


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", metavar="NAME,...", help="What to run: " + ", ".join(KNOWN) + ".")
@click.option("--proxies", metavar="NAME,...", help="Proxies to compare: " + ", ".join(NAMES) + ".")
@click.option("--quick", "is_quick", is_flag=True, help="One round, a sixth of the load; not to publish.")
@click.option("--rounds", type=click.IntRange(1, 20), help=f"Rounds; medians are reported [{ROUNDS}; 1 with --quick].")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench/results"),
    show_default=True,
    help="Where results.json and results.md are written.",
)
@click.option("--conduit-command", hidden=True, help="Run this instead of conduit: {listen}, {upstream}, {config}.")
def main(
    only: str | None,
    proxies: str | None,
    is_quick: bool,
    rounds: int | None,
    output: Path,
    conduit_command: str | None,
) -> None:
    """Measure conduit, Envoy, HAProxy and nghttpx side by side in front of the same nginx, and conduit under attack."""
    names = chosen(only, KNOWN, "--only")
    peers = chosen(proxies, NAMES, "--proxies")
    scenarios = [quick(one) if is_quick else one for one in SCENARIOS if one.name in names]
    signal.signal(signal.SIGTERM, end_like_interrupt)
    try:
        load_core, proxy_core = two_cores()
        about = described(peers, conduit_command)
        os.sched_setaffinity(0, {load_core})
        plan = Plan(scenarios, peers, rounds or (1 if is_quick else ROUNDS), load_core, proxy_core, conduit_command)
        samples = execute(plan, tell)
        attacked = attacks.execute(load_core, proxy_core, tell) if attacks.NAME in names and not is_quick else []
        results = Results(samples, scenarios, peers, attacked)
        output.mkdir(parents=True, exist_ok=True)
        (output / "results.json").write_text(as_json(results, about))
        (output / "results.md").write_text(text := markdown(results, about))
    except BenchError as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("bench: interrupted; everything it started has been ended", err=True)
        sys.exit(130)
    click.echo(text)
    click.echo(f"stored in {output}/results.json and {output}/results.md", err=True)
    sys.exit(1 if results.failures() else 0)


if __name__ == "__main__":
    main()
