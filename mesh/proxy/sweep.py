"""Gives memory back that connections have left behind: what they held in cycles, and what the allocator keeps.

The cyclic collector is asked to look rarely (`run.spare_the_collector`), and the C library keeps what was freed: a
burst of connections that held much would stay with us for as long as we are idle. So once a second, if connections have
ended since, both are done; and never for more than SHARE of the time, whatever they cost.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import trio

SECONDS = 1.0
SHARE = 0.02
"""Of our time."""


def trimmer() -> Callable[[], None]:
    """What returns freed memory to the system: malloc_trim(3) of glibc; where there is no such call, nothing."""

    def keep() -> None:
        """There is no such call."""

    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return keep

    def give_back() -> None:
        trim(0)

    return give_back


class Sweep:
    """Runs beside the reactor. `closed` counts the connections that have ended; `clock` is monotonic seconds."""

    def __init__(self, closed: Callable[[], int], clock: Callable[[], float]) -> None:
        self._closed = closed
        self._clock = clock
        self._trim = trimmer()
        self._seen = 0
        self._not_before = 0.0

    def look(self) -> bool:
        """Sweep if there may be something, and it is time; whether it was done."""
        closed, began = self._closed(), self._clock()
        if closed == self._seen or began < self._not_before:
            return False
        self._seen = closed
        gc.collect()
        self._trim()
        ended = self._clock()
        self._not_before = ended + (ended - began) / SHARE
        return True

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(SECONDS)
            self.look()
