"""Questions to proxies, over their control streams: numbered, answered within a deadline, and bounded in number.

A proxy answers for itself alone: what it says is marked with its workload, whatever it says of where it is from.
"""

from __future__ import annotations

from typing import Protocol

import trio
from msgspec.structs import replace

from mesh.control.cluster import ServiceKey
from mesh.model.errors import ConduitError
from mesh.model.explain import Question, Step
from mesh.model.push import Explain, Explained

DEADLINE = 2.0
"""Seconds that a proxy has for an answer; it takes it from memory."""
MOST_OPEN = 64
"""Questions without an answer, over all proxies: people ask one at a time."""
MOST_STEPS = 200
"""Of an answer; what a proxy says beyond is not kept."""


class NoAnswer(ConduitError):
    """The proxy did not answer in time, or cannot be asked now; `str()` says which."""


class Asked(Protocol):
    """A connected proxy: a Link."""

    workload: ServiceKey

    def send(self, message: Explain) -> bool:
        """Has it sent; False where too much waits for this proxy already."""


class _Open:
    """One question whose answer is waited for."""

    __slots__ = ("answered", "link", "steps")

    def __init__(self, link: Asked) -> None:
        self.link = link
        self.answered = trio.Event()
        self.steps: tuple[Step, ...] = ()


class Questions:
    """All open ones. `take` is to be called with each Explained that comes."""

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}
        self._last = 0

    def __repr__(self) -> str:
        return f"<Questions open={len(self._open)} asked={self._last}>"

    async def ask(self, link: Asked, question: Question, seconds: float = DEADLINE) -> tuple[Step, ...]:
        """The proxy's steps; raises NoAnswer."""
        where = f"{link.workload.name}.{link.workload.namespace}"
        if len(self._open) >= MOST_OPEN:
            raise NoAnswer(f"{MOST_OPEN} questions wait for an answer already")
        self._last += 1
        number = self._last
        waiting = self._open[number] = _Open(link)
        try:
            if not link.send(Explain(number, question)):
                raise NoAnswer(f"the proxy of {where} has too much to read already")
            with trio.move_on_after(seconds):
                await waiting.answered.wait()
        finally:
            del self._open[number]
        if not waiting.answered.is_set():
            raise NoAnswer(f"the proxy of {where} has not answered within {seconds:.3g} s")
        return tuple(replace(step, where=where) for step in waiting.steps)

    def take(self, link: Asked, explained: Explained) -> None:
        """An answer has come; one that nobody waits for any more, or another proxy's, is dropped."""
        waiting = self._open.get(explained.number)
        if waiting is not None and waiting.link is link:
            waiting.steps = explained.steps[:MOST_STEPS]
            waiting.answered.set()
