"""What every supervisor of a connection does: park while the reactor works, watch for idleness, contain failures."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable

import trio

from mesh.proxy.reactor import Channel
from mesh.proxy.report import Reports

LINGER = 1.0
"""Seconds that a connection which was told to close may take to flush its goodbye."""


async def serve_channel(
    channel: Channel, is_idle: Callable[[], bool], timeout: float, close: Callable[[], None]
) -> None:
    """Wait until the reactor is through with `channel`; after `timeout` seconds of nothing, `close` it when idle.

    Raises what ended the channel if that was a bug in its handler."""
    clock, ended = channel.reactor.clock, channel.ended
    while not ended.is_set():
        left = channel.active_at + timeout - clock()
        if left <= 0 and is_idle():
            close()
            channel.reactor.settle()
            with trio.move_on_after(LINGER):
                await ended.wait()
            break
        with trio.move_on_after(left if left > 0 else timeout):
            await ended.wait()
    if channel.failure is not None:
        raise channel.failure


async def contained(
    name: str, reports: Reports, log: Callable[[str, str, str], None], work: Callable[[], Awaitable[None]]
) -> None:
    """Run one connection's `work`; a failure of its code ends here: logged with the connection's name, and counted."""
    try:
        await work()
    except* Exception as group:  # noqa: BLE001 -- the boundary of one connection: told and counted below
        reports.refuse("internal", name.partition(" ")[0])
        log("connection_failed", name, "".join(traceback.format_exception(group)))
