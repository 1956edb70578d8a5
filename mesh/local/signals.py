"""Ends a long-running command on SIGINT or SIGTERM, by cancelling it.

Trio's own KeyboardInterrupt may surface anywhere, also inside of a clean-up; here both signals arrive in one task that
cancels the work, and the work's own `finally` blocks do the rest.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import trio

INTERRUPTED = 130
"""Exit code after SIGINT; SIGTERM is an orderly end: 0."""


async def until_signalled(work: Callable[[], Awaitable[int]]) -> int:
    """Exit code of `work`, or, where a signal cancelled it before it was through, the signal's."""
    code = 0
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def cancel_on_signal() -> None:
                nonlocal code
                async for signum in signals:
                    code = INTERRUPTED if signum == signal.SIGINT else 0
                    nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_on_signal)
            code = await work()
            nursery.cancel_scope.cancel()
    return code
