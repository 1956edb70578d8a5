"""What a process tree costs, read from /proc: CPU seconds, resident memory, and who else used its core.

CPU time is taken from each thread's `schedstat` (nanoseconds) and checked against the process's
`utime + stime + cutime + cstime` (10 ms ticks), which also holds threads and children that have ended:
where the ticks show more than the threads by more than rounding, the ticks are believed.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGESIZE")
ROUNDING_TICKS = 3  # the counters are cut to whole ticks, so this much difference means nothing


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat used here (proc(5)); `cpu_ticks` includes reaped children."""

    pid: int
    parent: int
    cpu_ticks: int
    rss_pages: int


@dataclass(frozen=True, slots=True)
class CpuReading:
    """CPU used so far by some processes: live threads in nanoseconds, and everything in ticks."""

    nanoseconds: int
    ticks: int


@dataclass(frozen=True, slots=True)
class CoreTimes:
    """Ticks of one core from /proc/stat: everything that was not idle (steal included), and all."""

    busy: int
    total: int


def parse_stat(text: str) -> Stat:
    """Read one /proc/PID/stat line; the command name may hold spaces and parentheses."""
    before, _, after = text.rpartition(")")
    fields = after.split()  # fields[0] is field 3 of proc(5)
    return Stat(
        pid=int(before.split(" ", 1)[0]),
        parent=int(fields[1]),
        cpu_ticks=sum(int(value) for value in fields[11:15]),
        rss_pages=int(fields[21]),
    )


def parse_core(text: str, core: int) -> CoreTimes:
    """Read the line of one core from /proc/stat. Raises KeyError for a core that is not there."""
    for line in text.splitlines():
        name, *values = line.split()
        if name == f"cpu{core}":
            user, nice, system, idle, iowait, irq, softirq, steal = (int(value) for value in values[:8])
            busy = user + nice + system + irq + softirq + steal
            return CoreTimes(busy, busy + idle + iowait)
    raise KeyError(f"no cpu{core} in /proc/stat")


def descendants(root: int, stats: Iterable[Stat]) -> list[int]:
    """`root` and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat.pid)
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def process_tree(root: int) -> list[int]:
    """The process ids of `root` and its live descendants."""
    stats = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
                stats.append(parse_stat((entry / "stat").read_text()))
    return descendants(root, stats)


def cpu_reading(pids: Iterable[int]) -> CpuReading:
    """What these processes have used so far. Raises FileNotFoundError if one of them has ended."""
    nanoseconds = ticks = 0
    for pid in pids:
        for thread in (PROC / str(pid) / "task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                nanoseconds += int((thread / "schedstat").read_text().split()[0])
        ticks += parse_stat((PROC / str(pid) / "stat").read_text()).cpu_ticks
    return CpuReading(nanoseconds, ticks)


def cpu_seconds(before: CpuReading, after: CpuReading) -> float:
    """CPU seconds between two readings: the threads' clocks, or the ticks where an ended thread left a gap."""
    exact = (after.nanoseconds - before.nanoseconds) / 1e9
    coarse = (after.ticks - before.ticks) / TICKS_PER_SECOND
    return coarse if coarse - exact > ROUNDING_TICKS / TICKS_PER_SECOND else exact


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident bytes of these processes, summed as `ps` shows them (pages they share count in each)."""
    return sum(parse_stat((PROC / str(pid) / "stat").read_text()).rss_pages for pid in pids) * PAGE_BYTES


def core_times(core: int) -> CoreTimes:
    """The ticks of `core` so far."""
    return parse_core((PROC / "stat").read_text(), core)


def foreign_share(before: CoreTimes, after: CoreTimes, own_seconds: float) -> float:
    """The share (0 to 1) of a core's time between two readings that went to somebody other than us."""
    total = after.total - before.total
    if total <= 0:
        return 0.0
    return max(0.0, (after.busy - before.busy - own_seconds * TICKS_PER_SECOND) / total)
