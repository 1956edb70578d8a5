"""What supervisors do: wait, watch for idleness, contain failures. Under a virtual clock."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from mesh.proxy.report import Reports
from mesh.proxy.supervise import LINGER, contained, serve_channel


class Channel:
    """What a supervisor sees of a channel."""

    def __init__(self) -> None:
        self.settled = 0
        self.reactor = SimpleNamespace(clock=trio.current_time, settle=self._settle)
        self.active_at = trio.current_time()
        self.ended = trio.Event()
        self.failure: BaseException | None = None

    def _settle(self) -> None:
        self.settled += 1


async def test_it_waits_until_the_reactor_is_through(autojump_clock, nursery) -> None:
    """However long the connection is used, if it is used."""
    channel = Channel()
    start = trio.current_time()

    async def use() -> None:
        for _ in range(20):
            await trio.sleep(9.0)
            channel.active_at = trio.current_time()
        channel.ended.set()

    nursery.start_soon(use)
    await serve_channel(channel, lambda: True, 10.0, lambda: pytest.fail("closed while in use"))
    assert trio.current_time() - start == pytest.approx(180.0)


async def test_an_idle_connection_is_told_to_close(autojump_clock) -> None:
    """After `timeout` of silence, not before; a close that takes effect at once costs no lingering."""
    channel = Channel()
    start = trio.current_time()
    await serve_channel(channel, lambda: True, 10.0, channel.ended.set)
    assert trio.current_time() - start == pytest.approx(10.0)
    assert channel.settled == 1


async def test_a_goodbye_that_is_not_taken_is_bounded(autojump_clock) -> None:
    """A peer that does not read cannot hold the supervisor."""
    channel = Channel()
    start = trio.current_time()
    await serve_channel(channel, lambda: True, 10.0, lambda: None)
    assert trio.current_time() - start == pytest.approx(10.0 + LINGER)


async def test_what_is_busy_is_not_idle(autojump_clock) -> None:
    """Silence with a request in hand is the exchange's business; it is looked at again later."""
    channel = Channel()
    start = trio.current_time()
    await serve_channel(channel, lambda: trio.current_time() - start > 25, 10.0, channel.ended.set)
    assert 25.0 < trio.current_time() - start <= 40.0


@pytest.mark.parametrize("ended", [True, False])
async def test_a_handlers_bug_is_raised_here(autojump_clock, nursery, ended: bool) -> None:
    """Where its supervisor contains it, whether it came before or while it waited."""
    channel = Channel()
    channel.failure = ZeroDivisionError("a bug")
    if ended:
        channel.ended.set()
    else:
        nursery.start_soon(lambda: _later(channel))
    with pytest.raises(ZeroDivisionError):
        await serve_channel(channel, lambda: True, 10.0, lambda: None)


async def _later(channel: Channel) -> None:
    await trio.sleep(1.0)
    channel.ended.set()


async def _raise(exc: BaseException) -> None:
    raise exc


@pytest.mark.parametrize(
    "failure", [ValueError("a bug"), ExceptionGroup("several", [ValueError("a bug"), KeyError("another")])]
)
async def test_failures_are_contained_logged_and_counted(failure: Exception) -> None:
    """Alone or in a group: the name, the traceback, one refusal."""
    reports, logged = Reports(10), []
    await contained("inbound 10.0.0.1:5", reports, lambda *line: logged.append(line), lambda: _raise(failure))
    assert reports.refusals == {("internal", "inbound"): 1}
    ((event, name, detail),) = logged
    assert (event, name) == ("connection_failed", "inbound 10.0.0.1:5")
    assert "ValueError: a bug" in detail


async def test_success_says_nothing() -> None:
    """No log line, no count."""
    reports, logged = Reports(10), []
    await contained("inbound x", reports, lambda *line: logged.append(line), trio.lowlevel.checkpoint)
    assert (reports.refusals, logged) == ({}, [])


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit])
async def test_what_is_no_failure_of_the_connection_passes(failure: type) -> None:
    """An interrupt is for the whole proxy."""
    with pytest.raises(BaseExceptionGroup) as caught:
        await contained("inbound x", Reports(10), lambda *line: None, lambda: _group(failure()))
    assert caught.group_contains(failure)


async def _group(exc: BaseException) -> None:
    raise BaseExceptionGroup("from a nursery", [exc])


async def test_cancellation_is_never_swallowed(autojump_clock) -> None:
    """Also where a failure comes with it: the failure is told, the cancellation goes on."""
    reports, logged = Reports(10), []

    async def work() -> None:
        async with trio.open_nursery() as inner:

            async def fails_when_cancelled() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    raise ValueError("its clean-up is broken")

            inner.start_soon(fails_when_cancelled)
            await trio.sleep_forever()

    with trio.CancelScope() as scope:
        scope.deadline = trio.current_time() + 1.0
        await contained("inbound x", reports, lambda *line: logged.append(line), work)
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert len(logged) == 1
