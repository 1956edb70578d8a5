"""The reactor on socket pairs: partial writes, half-close, paused reads, handlers that fail."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
import trio

from mesh.proxy.reactor import CLOSE, GO_ON, HALF_CLOSE, Channel, Farewell, Reactor


class Recorder:
    """A handler that keeps what it got, produces what it is told to, and asks to be flushed after each read."""

    channel: Channel

    def __init__(self) -> None:
        self.got = bytearray()
        self.eofs = 0
        self.to_send = b""
        self.reasons: list[str] = []
        self.wants_read = True
        self.farewell: Farewell = GO_ON
        self.fails_on = ""
        self.reads = 0

    @property
    def restless(self) -> bool:
        return self.farewell is not GO_ON or not self.wants_read

    def _maybe_fail(self, where: str) -> None:
        if where == self.fails_on:
            raise ZeroDivisionError(where)

    def received(self, data: bytes) -> None:
        self.reads += 1
        self._maybe_fail("received")
        self.got += data
        self.eofs += not data
        self.channel.mark()

    def produce(self) -> bytes:
        self._maybe_fail("produce")
        data, self.to_send = self.to_send, b""
        return data

    def lost(self, reason: str) -> None:
        self.reasons.append(reason)
        self._maybe_fail("lost")


class Pair:
    """A channel in a running reactor, and the peer's end of its socket."""

    def __init__(self, reactor: Reactor, initial: bytes = b"", prepare=None) -> None:
        ours, self.peer = socket.socketpair()
        ours.setblocking(False)
        self.peer.setblocking(False)
        self.handler = Recorder()
        if prepare is not None:
            prepare(self.handler)
        self.channel = self.handler.channel = Channel(reactor, ours)
        self.channel.attach(self.handler, initial)

    async def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or what came before EOF."""
        found = bytearray()
        while len(found) < size:
            try:
                data = self.peer.recv(size - len(found))
            except BlockingIOError:
                with trio.fail_after(30):
                    await trio.lowlevel.wait_readable(self.peer)
                continue
            if not data:
                break
            found += data
        return bytes(found)

    def say(self, data: bytes) -> None:
        """Give the peer `data` now."""
        self.handler.to_send += data
        self.channel.mark()
        self.channel.reactor.settle()

    def close(self) -> None:
        self.channel.end("test over")
        self.channel.sock.close()
        self.peer.close()


@pytest.fixture
async def reactor(nursery: trio.Nursery):
    made = Reactor(trio.current_time)
    nursery.start_soon(made.run)
    await trio.lowlevel.checkpoint()
    return made


@pytest.fixture
async def pair(reactor: Reactor):
    made = Pair(reactor)
    yield made
    made.close()


async def test_bytes_go_both_ways(pair: Pair, until) -> None:
    """What the peer sends reaches the handler; what the handler produces when marked reaches the peer."""
    pair.peer.send(b"question")
    await until(lambda: pair.handler.got == b"question")
    pair.say(b"answer")
    assert await pair.read(6) == b"answer"
    assert (pair.channel.read_bytes, pair.channel.write_bytes) == (8, 6)


async def test_initial_bytes_are_served_first(reactor: Reactor, until) -> None:
    """Bytes read during detection come before those still in the socket, and are counted."""
    pair = Pair(reactor, initial=b"GET ")
    pair.peer.send(b"/")
    await until(lambda: pair.handler.got == b"GET /")
    assert pair.channel.read_bytes == 5
    pair.close()


async def test_what_the_kernel_refuses_is_sent_later_in_order(pair: Pair, until) -> None:
    """A backlog drains as the peer reads; produce is not called before it is gone."""
    data = bytes(range(256)) * 20_000
    pair.say(data)
    assert pair.channel.backlog
    pair.handler.to_send = b"after"
    pair.channel.mark()
    pair.channel.reactor.settle()
    assert pair.handler.to_send == b"after"
    assert await pair.read(len(data) + 5) == data + b"after"
    await until(lambda: not pair.channel.backlog)
    assert pair.channel.write_bytes == len(data) + 5


async def test_the_peers_half_close_is_told_once_and_we_may_go_on(pair: Pair, until) -> None:
    """EOF after the last bytes; our direction stays open."""
    pair.peer.send(b"last")
    pair.peer.shutdown(socket.SHUT_WR)
    await until(lambda: pair.handler.eofs)
    pair.say(b"still here")
    assert await pair.read(10) == b"still here"
    assert (bytes(pair.handler.got), pair.handler.eofs, pair.handler.reasons) == (b"last", 1, [])


async def test_our_half_close_waits_for_the_backlog(pair: Pair, until) -> None:
    """The peer sees EOF after all bytes; we go on reading."""
    data = b"x" * 4_000_000
    pair.handler.farewell = HALF_CLOSE
    pair.say(data)
    assert pair.channel.backlog
    assert len(await pair.read(len(data) + 1)) == len(data)
    pair.peer.send(b"reply")
    await until(lambda: pair.handler.got == b"reply")
    assert not pair.channel.ended.is_set()


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
async def test_close_waits_for_the_backlog(pair: Pair, size: int) -> None:
    """The channel ends, with no reason, when everything is out."""
    pair.handler.farewell = CLOSE
    pair.say(b"x" * size)
    assert len(await pair.read(size)) == size
    with trio.fail_after(30):
        await pair.channel.ended.wait()
    assert pair.handler.reasons == [""]
    assert pair.channel.failure is None


async def test_both_half_closes_end_the_channel(pair: Pair, until) -> None:
    """When each side has shut its direction nobody will ever say more."""
    pair.peer.shutdown(socket.SHUT_WR)
    await until(lambda: pair.handler.eofs)
    pair.handler.farewell = HALF_CLOSE
    pair.channel.mark()
    pair.channel.reactor.settle()
    with trio.fail_after(30):
        await pair.channel.ended.wait()
    assert pair.handler.reasons == [""]


async def test_a_paused_channel_reads_nothing_and_then_everything(pair: Pair, until) -> None:
    """The kernel's buffer fills, which is what holds the sender back; no byte is lost."""
    pair.handler.wants_read = False
    pair.channel.watch_reads()
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 1 << 30:
            sent += pair.peer.send(b"y" * 65536)
    assert sent < 1 << 30
    await trio.testing.wait_all_tasks_blocked()
    assert pair.handler.got == b""
    pair.handler.wants_read = True
    pair.channel.watch_reads()
    await until(lambda: len(pair.handler.got) == sent)


async def test_a_hang_up_while_paused_loses_nothing_and_does_not_spin(pair: Pair, until) -> None:
    """epoll reports it whatever it was asked for: the channel leaves the poller until somebody wants its bytes."""
    pair.handler.wants_read = False
    pair.channel.watch_reads()
    pair.peer.send(b"the last words")
    pair.peer.close()
    await until(lambda: pair.channel.reactor.poller.poll(0) == [])
    assert pair.handler.reasons == []
    assert not pair.channel.ended.is_set()
    pair.handler.wants_read = True
    pair.channel.watch_reads()
    await until(lambda: pair.handler.eofs)
    assert pair.handler.got == b"the last words"


async def test_a_hang_up_while_paused_with_a_backlog_ends_it(pair: Pair) -> None:
    """Bytes that nobody will ever take do not hold a channel open, paused or not."""
    pair.say(b"x" * 3_000_000)
    pair.handler.wants_read = False
    pair.channel.watch_reads()
    pair.peer.close()
    with trio.fail_after(30):
        await pair.channel.ended.wait()
    assert len(pair.handler.reasons) == 1
    assert pair.handler.reasons[0]


async def test_a_reset_is_told_with_its_cause(reactor: Reactor, until) -> None:
    """RST from a TCP peer: `lost` once, with a reason."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    handler = Recorder()
    channel = handler.channel = Channel(reactor, ours)
    channel.attach(handler)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    with trio.fail_after(30):
        await channel.ended.wait()
    assert len(handler.reasons) == 1
    assert "reset" in handler.reasons[0]
    ours.close()


@pytest.mark.parametrize("where", ["received", "produce", "lost"])
async def test_a_handler_that_raises_ends_its_own_channel_only(reactor: Reactor, where: str, until) -> None:
    """The error is kept for the supervisor; another channel in the same batch is served."""
    broken, sound = Pair(reactor), Pair(reactor)
    broken.handler.fails_on = where
    broken.peer.send(b"x")
    sound.peer.send(b"x")
    if where == "lost":
        broken.handler.farewell = CLOSE
    with trio.fail_after(30):
        await broken.channel.ended.wait()
    assert isinstance(broken.channel.failure, ZeroDivisionError)
    assert len(broken.handler.reasons) == 1
    await until(lambda: sound.handler.got == b"x")
    sound.say(b"fine")
    assert await sound.read(4) == b"fine"
    broken.close()
    sound.close()


async def test_a_handler_that_raises_on_initial_bytes_is_contained(reactor: Reactor) -> None:
    """`attach` does not raise: the failure is the supervisor's to find."""
    pair = Pair(reactor, initial=b"x", prepare=lambda handler: setattr(handler, "fails_on", "received"))
    assert pair.channel.ended.is_set()
    assert isinstance(pair.channel.failure, ZeroDivisionError)
    pair.close()


async def test_detach_gives_the_socket_back_silently(pair: Pair) -> None:
    """The handler hears nothing, the poller forgets the socket, bytes stay in it for the next owner."""
    pair.channel.detach()
    pair.peer.send(b"for the next")
    await trio.testing.wait_all_tasks_blocked()
    assert (pair.handler.reads, pair.handler.reasons) == (0, [])
    assert pair.channel.sock.recv(100) == b"for the next"
    assert pair.channel.reactor.channels == {}


async def test_lost_comes_once_however_often_it_ends(pair: Pair) -> None:
    """A second end, a mark or a settle after it do nothing."""
    pair.channel.end("first")
    pair.channel.end("second")
    pair.say(b"into the void")
    assert pair.handler.reasons == ["first"]
    assert pair.channel.reactor.dirty == []


async def test_marking_twice_flushes_once_and_a_flush_may_mark_others(reactor: Reactor) -> None:
    """One settle serves what is dirty and what that makes dirty."""
    first, second = Pair(reactor), Pair(reactor)
    calls: list[str] = []

    def produce_first() -> bytes:
        calls.append("first")
        if len(calls) < 3:
            second.channel.mark()
        return b""

    first.handler.produce = produce_first
    second.handler.produce = lambda: calls.append("second") or b""
    first.channel.mark()
    first.channel.mark()
    reactor.settle()
    assert calls == ["first", "second"]
    first.close()
    second.close()


async def test_other_tasks_get_their_turn_under_load(reactor: Reactor, until) -> None:
    """A peer that never stops sending does not keep other tasks from running."""
    pair = Pair(reactor)
    turns = 0
    stop = False

    async def send_forever() -> None:
        while not stop:
            try:
                pair.peer.send(b"z" * 65536)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(pair.peer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_forever)
        while turns < 50:
            await trio.lowlevel.checkpoint()
            turns += 1
        stop = True
        nursery.cancel_scope.cancel()
    await until(lambda: pair.handler.reads > 0)
    pair.close()
