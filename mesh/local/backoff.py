"""How long to wait before something that died is started again.   (pure)"""

from __future__ import annotations

FIRST_SECONDS, LONGEST_SECONDS = 0.25, 10.0
GOOD_SECONDS = 10.0  # after that long a run, a death is news and not part of a series


class Backoff:
    """Doubles with each death in a series."""

    def __init__(self) -> None:
        self._next = FIRST_SECONDS

    def after(self, good: float) -> float:
        """Seconds to wait after a run that was good for `good` seconds."""
        if good >= GOOD_SECONDS:
            self._next = FIRST_SECONDS
        pause, self._next = self._next, min(self._next * 2, LONGEST_SECONDS)
        return pause
