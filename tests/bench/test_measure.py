"""Reading /proc: fields, trees, and what is believed when threads have ended."""

import os

import pytest

from bench import measure
from bench.measure import CoreTimes, CpuReading, Stat

STAT = (
    "4242 (a (odd) name) S 4241 4242 4242 0 -1 4194560 1203 77 0 0 151 49 7 3 20 0 12 0 52525 "
    "75497472 4100 18446744073709551615 1 1 0 0 0 0 0 4096 17642 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)
PROC_STAT = """\
cpu  1000 0 500 9000 10 0 20 30 0 0
cpu0 600 0 300 4000 5 0 10 10 0 0
cpu1 400 1 200 5000 5 2 10 20 0 0
intr 123 0
"""


def test_stat_of_an_awkward_name() -> None:
    """A command name with spaces and parentheses does not shift the fields."""
    assert measure.parse_stat(STAT) == Stat(pid=4242, parent=4241, cpu_ticks=151 + 49 + 7 + 3, rss_pages=4100)


def test_core_line() -> None:
    """Only the asked core counts; steal is busy time, iowait is not."""
    assert measure.parse_core(PROC_STAT, 1) == CoreTimes(busy=400 + 1 + 200 + 2 + 10 + 20, total=633 + 5005)


def test_missing_core() -> None:
    """A core that is not there is an error, not zero."""
    with pytest.raises(KeyError, match="cpu7"):
        measure.parse_core(PROC_STAT, 7)


def test_descendants() -> None:
    """A tree holds children and grandchildren, and nobody else's."""
    stats = [Stat(1, 0, 0, 0), Stat(10, 1, 0, 0), Stat(11, 10, 0, 0), Stat(12, 11, 0, 0), Stat(20, 1, 0, 0)]
    assert measure.descendants(10, stats) == [10, 11, 12]


def test_cpu_by_the_threads_clocks() -> None:
    """While no thread ends, the nanoseconds count and the ticks' rounding does not."""
    assert measure.cpu_seconds(CpuReading(1_000_000_000, 100), CpuReading(1_512_345_678, 149)) == pytest.approx(
        0.512345678
    )


def test_cpu_of_a_thread_that_ended() -> None:
    """When a thread's clock has gone with it, the ticks, which still hold it, are believed."""
    before, after = CpuReading(3_000_000_000, 300), CpuReading(2_000_000_000, 400)
    assert measure.cpu_seconds(before, after) == pytest.approx(100 / measure.TICKS_PER_SECOND)


@pytest.mark.parametrize(("own", "share"), [(0.0, 0.5), (0.25, 0.25), (3.0, 0.0)])
def test_foreign_share(own: float, share: float) -> None:
    """What a core did beyond our own seconds is foreign; rounding never makes it negative."""
    ticks = measure.TICKS_PER_SECOND
    before, after = CoreTimes(0, 0), CoreTimes(ticks // 2, ticks)
    assert measure.foreign_share(before, after, own) == pytest.approx(share)


def test_foreign_share_of_no_time() -> None:
    """Two readings of the same instant have no share."""
    assert measure.foreign_share(CoreTimes(5, 9), CoreTimes(5, 9), 0.0) == 0.0


def test_this_process() -> None:
    """The real /proc agrees: we are in our own tree, have memory, and our CPU time grows as we work."""
    pids = [os.getpid()]
    assert os.getpid() in measure.process_tree(os.getppid())
    assert measure.rss_bytes(pids) > 1_000_000
    before = measure.cpu_reading(pids)
    assert sum(range(1_000_000)) > 0
    assert measure.cpu_seconds(before, measure.cpu_reading(pids)) > 0
    assert measure.core_times(min(os.sched_getaffinity(0))).total > 0
