"""Run targets under atheris, in turn or those that are named.

    python -m fuzz [--seconds 60] [--list] [TARGET ...]

New inputs that lead further are kept in .fuzz/NAME/; an input that breaks a rule is written to .fuzz/NAME.crash-HASH,
and the exit status is 1. Add it to fuzz/seeds/NAME.txt with the fix.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from fuzz.seeds import spread

HERE = Path(__file__).parent
WORK = HERE.parent / ".fuzz"
MOST_BYTES = 4096
ONE = "CONDUIT_FUZZ_TARGET"


def main() -> int:
    """Each target in a process of its own, since libFuzzer ends it."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz what reads bytes from others.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("target", nargs="*")
    options = parser.parse_args()
    from fuzz.targets import TARGETS

    if options.list:
        print("\n".join(TARGETS))
        return 0
    unknown = set(options.target) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    failed = [name for name in options.target or TARGETS if not run(name, options.seconds)]
    print(f"fuzz: {'broken: ' + ', '.join(failed) if failed else 'nothing found'}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, seconds: int) -> bool:
    """One target for so long; whether nothing was found."""
    corpus = WORK / name
    corpus.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fuzz.one", str(corpus), str(spread(name, WORK))]
    command += [f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", "-timeout=10", "-rss_limit_mb=2048"]
    command += [f"-artifact_prefix={WORK}/{name}.", "-print_final_stats=1", "-verbosity=0"]
    print(f"fuzz: {name}, {seconds} s", file=sys.stderr)
    environment = {**os.environ, ONE: name, "CONDUIT_COMPILED": "0"}
    return subprocess.run(command, env=environment, cwd=HERE.parent, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
