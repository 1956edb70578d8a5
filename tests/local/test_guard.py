"""The process that ends what a killed supervisor left."""

import os
import signal
import subprocess
import sys
import threading
import time

from mesh.local.guard import Guard, signal_group

from .conftest import gone

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"


def sleeper(code: str = "import time; print(flush=True); time.sleep(600)") -> subprocess.Popen[bytes]:
    """A process in a group of its own, once it has said that it runs."""
    process = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_watched_groups_are_ended() -> None:
    """When the supervisor's end of the pipe closes, a watched group ends; one that was released is let be."""
    watched, released = sleeper(), sleeper()
    # Who ends must be reaped, as init would reap an orphan: the guard waits for the group to be gone.
    reaper = threading.Thread(target=watched.wait)
    reaper.start()
    try:
        with Guard() as guard:
            guard.watch(watched.pid)
            guard.watch(released.pid)
            guard.release(released.pid)
        assert watched.wait(30) == -signal.SIGTERM
        assert released.poll() is None
    finally:
        for process in (watched, released):
            process.kill()
            process.wait()
        reaper.join()


def test_deaf_group_is_killed() -> None:
    """One that ignores SIGTERM gets SIGKILL a little later."""
    deaf = sleeper(DEAF)
    with Guard() as guard:
        guard.watch(deaf.pid)
    assert deaf.wait(30) == -signal.SIGKILL


def test_guard_survives_signals_and_ends_with_us() -> None:
    """Neither ^C nor SIGTERM ends it, only the end of the supervisor does."""
    with Guard() as guard:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # A signal before its handlers stand would end it: the answer to the first shows that they do.
            guard.watch(os.getpid())
            guard.release(os.getpid())
            deadline = time.monotonic() + 30
            while not ignores(guard.process.pid, signum):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            guard.process.send_signal(signum)
        assert guard.process.poll() is None
    assert guard.process.returncode == 0


def ignores(pid: int, signum: int) -> bool:
    """Whether the process ignores that signal."""
    with open(f"/proc/{pid}/status") as file:
        [mask] = [int(line.split()[1], 16) for line in file if line.startswith("SigIgn")]
    return bool(mask >> (signum - 1) & 1)


def test_killed_guard_is_no_failure() -> None:
    """Somebody who kills the guard does not stop the mesh."""
    with Guard() as guard:
        guard.process.kill()
        guard.process.wait()
        guard.watch(os.getpid())
        guard.release(os.getpid())
    assert guard.process.returncode == -signal.SIGKILL


def test_signal_group_tells_whether_there_is_one() -> None:
    """A group that is gone is no error."""
    process = sleeper()
    assert signal_group(process.pid, 0)
    assert signal_group(process.pid, signal.SIGKILL)
    process.wait()
    assert gone(process.pid)
    assert not signal_group(process.pid, 0)
