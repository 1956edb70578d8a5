"""Takes applied Faults away when their time is over, so that what is listed is what can still happen.

Proxies lift a fault at that time by themselves, whether we do this or not. A fault in a file that a person keeps stays
there, and is listed as lifted: the file is theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import structlog
import trio

from mesh.control.applied import Applied
from mesh.control.cluster import Cluster, Held, Key, key_of
from mesh.model.resources import Fault

LOOK_SECONDS = 1.0


def expired(held: Iterable[Held], now: float) -> list[Key]:
    """The keys of the Faults that lifted at `now` (seconds since the epoch) or before."""
    return [
        key_of(resource)
        for resource, _ in held
        if isinstance(resource, Fault) and resource.spec.until and resource.spec.until <= now
    ]


class Expiry:
    """The task. `clock` tells seconds since the epoch."""

    def __init__(
        self,
        cluster: Cluster,
        applied: Applied,
        log: structlog.typing.FilteringBoundLogger,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster, self._applied, self._log, self._clock = cluster, applied, log, clock

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            self.look()
            await trio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """One look; a file that cannot be removed is told, and tried again at the next."""
        held = [each for each in self._cluster.held(Fault.kind) if self._applied.has(each)]
        for key in expired(held, self._clock()):
            try:
                self._applied.delete(key)
            except OSError as error:
                self._log.error("fault cannot be removed", fault=str(key), reason=str(error))
            else:
                self._log.info("fault lifted", fault=str(key))
