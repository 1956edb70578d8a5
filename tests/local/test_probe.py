"""Asking a process whether it is ready."""

from collections.abc import Callable

import pytest
import trio

from mesh.local import probe
from mesh.local.ports import free_port, is_free
from mesh.local.signals import until_signalled


@pytest.fixture
async def serve(nursery: trio.Nursery) -> Callable:
    """Call it with the bytes to answer for a port that answers so."""

    async def start(answer: bytes) -> int:
        async def handle(stream: trio.SocketStream) -> None:
            async with stream:
                try:
                    await stream.receive_some()
                    for i in range(len(answer)):
                        await stream.send_all(answer[i : i + 1])
                except trio.BrokenResourceError:
                    return  # who asks leaves when it has heard enough

        [listener] = await nursery.start(lambda task_status: trio.serve_tcp(
            handle, 0, host="127.0.0.1", task_status=task_status
        ))  # fmt: skip
        port: int = listener.socket.getsockname()[1]
        return port

    return start


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 200),
        (b"HTTP/1.1 503 No\r\nx: y\r\n\r\nbody", 503),
        (b"", 0),
        (b"HTTP/1.1\r\n", 0),
        (b"SSH-2.0-server 200\r\n", 0),
        (b"HTTP/1.1 abc\r\n", 0),
    ],
)
async def test_status_of_any_answer(serve: Callable, answer: bytes, status: int) -> None:
    """However it is split; what is no answer is 0."""
    port = await serve(answer)
    assert await probe.accepts(port)
    assert await probe.status(port, "/ready") == status


async def test_nobody_there() -> None:
    """No connection is no status, and not an error."""
    port = free_port()
    assert is_free(port)
    assert not await probe.accepts(port)
    assert await probe.status(port, "/ready") == 0


async def test_silence_has_a_limit(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    """One that accepts and says nothing is not ready after ASK_SECONDS."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with listener.socket:
        assert not is_free(listener.socket.getsockname()[1])
        began = trio.current_time()
        autojump_clock.autojump_threshold = 0.05
        assert await probe.status(listener.socket.getsockname()[1], "/ready") == 0
        assert trio.current_time() - began == pytest.approx(probe.ASK_SECONDS)


async def test_until_ready_polls(serve: Callable) -> None:
    """It returns once the answer is 200."""
    with trio.fail_after(30):
        await probe.until_ok(await serve(b"HTTP/1.1 200 OK\r\n\r\n"), "/")
        await probe.until_accepts(await serve(b""))


async def test_work_that_ends_by_itself() -> None:
    """Without a signal its own status is what counts."""

    async def work() -> int:
        return 7

    assert await until_signalled(work) == 7
