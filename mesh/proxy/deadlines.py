"""Deadlines of exchanges: a wheel of coarse ticks that one task serves. Hot: two set operations per exchange.

A deadline is kept by the tick after it, so it is never early and late by at most TICK (and by what the machine is busy
with).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

TICK = 0.02
"""Seconds. Short beside any deadline that people set, long beside a request: most are gone when their tick comes."""


NEVER = float("inf")
"""The deadline of what has none."""


class Expiring(Protocol):
    """Something that has a deadline."""

    def expire(self, now: float) -> None:
        """The deadline has passed (`now` in the wheel's seconds); may ask for another one."""


class Deadlines:
    """`add` returns the slot that `exchange.slot.discard(exchange)` later takes it out of."""

    __slots__ = ("_clock", "_slots", "_wake")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._slots: dict[int, set[Expiring]] = {}
        self._wake = trio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def add(self, expiring: Expiring, when: float) -> set[Expiring]:
        """Have `expiring.expire` called once at `when`, unless it is discarded from the returned set before."""
        index = int(when / TICK) + 1
        slot = self._slots.get(index)
        if slot is None:
            slot = self._slots[index] = set()
            self._wake.set()
        slot.add(expiring)
        return slot

    def advance(self, now: float) -> int:
        """Expire what is due and drop empty slots that have passed; returns how many expired."""
        due = int(now / TICK)
        expired = 0
        for index in sorted(index for index in self._slots if index <= due):
            for expiring in list(slot := self._slots.pop(index)):
                if expiring in slot:  # one that expires may take others with it
                    slot.discard(expiring)
                    expiring.expire(now)
                    expired += 1
        return expired

    def next_at(self) -> float | None:
        """When the next slot is due, in seconds of the clock; None while there is none."""
        return min(self._slots) * TICK if self._slots else None

    async def run(self, settle: Callable[[], None]) -> None:
        """Serve until cancelled; `settle` flushes what expiring has written."""
        while True:
            self._wake = trio.Event()
            when = self.next_at()
            if when is None:
                await self._wake.wait()
                continue
            with trio.move_on_after(max(0.0, when - self._clock())):
                await self._wake.wait()
            if self.advance(self._clock()):
                settle()
