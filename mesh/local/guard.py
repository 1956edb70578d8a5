"""Sees to it that nothing survives a supervisor that was SIGKILLed.

A supervisor that ends in any other way stops its children itself. For the one case in which it cannot, it keeps a small
process beside it, the guard, whose standard input is a pipe from the supervisor: `+PGID` and `-PGID` lines say which
process groups it is responsible for, and the end of the file, which the kernel brings about however the supervisor
ends, says that it is gone. The guard then ends the groups that are left: SIGTERM, a few seconds, SIGKILL.

This was chosen over PR_SET_PDEATHSIG because it reaches grandchildren, works beyond Linux, and is not triggered by the
end of the thread that happened to fork. Both halves stand in this file; it runs as a script, without site-packages, and
so imports nothing but the standard library.
"""

import os
import signal
import subprocess
import sys
import time

TERM_SECONDS = 2.0  # nobody waits for it any more, but a proxy may still say goodbye
POLL_SECONDS = 0.02


class Guard:
    """The supervisor's half. Use as a context manager: leaving it ends the guard's process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
        )

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the guard; groups that were not released are ended by it first, which takes TERM_SECONDS at most."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def watch(self, group: int) -> None:
        """The process group must not outlive us."""
        self._say(f"+{group}\n")

    def release(self, group: int) -> None:
        """The process group is gone."""
        self._say(f"-{group}\n")

    def _say(self, line: str) -> None:
        """Writes at once. A guard that somebody killed is not worth failing for: we still stop children ourselves."""
        assert self.process.stdin is not None
        try:
            os.write(self.process.stdin.fileno(), line.encode("ascii"))
        except BrokenPipeError:
            return


def signal_group(group: int, signum: int) -> bool:
    """Whether there was such a group to signal; signal 0 only asks."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main() -> None:
    """The guard's half."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # only the supervisor's end ends us
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        groups.add(group) if line[0] == "+" else groups.discard(group)
    left = {group for group in groups if signal_group(group, signal.SIGTERM)}
    deadline = time.monotonic() + TERM_SECONDS
    while left and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        left = {group for group in left if signal_group(group, 0)}
    for group in left:
        signal_group(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
