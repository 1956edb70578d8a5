"""Tunnels between socket pairs in a running reactor: every byte, backpressure, both orders of ending."""

from __future__ import annotations

import socket
import struct

import pytest
import trio

from mesh.proxy.reactor import Channel, Reactor
from mesh.proxy.tunnel import join


class Tunnel:
    """Two outer ends, joined through two channels, each closed when it has ended as a supervisor would."""

    def __init__(
        self, nursery: trio.Nursery, reactor: Reactor, from_left: bytes = b"", from_right: bytes = b""
    ) -> None:
        self.left, ours = tcp_pair()
        self.right, theirs = tcp_pair()
        self.reactor = reactor
        self.ours, self.theirs = Channel(reactor, ours), Channel(reactor, theirs)
        self.pipe, self.other_pipe = join(self.ours, self.theirs, from_left, from_right)
        for channel in (self.ours, self.theirs):
            nursery.start_soon(self._supervise, channel)

    async def _supervise(self, channel: Channel) -> None:
        with channel.sock:
            await channel.ended.wait()

    async def ended(self) -> None:
        with trio.fail_after(30):
            await self.ours.ended.wait()
            await self.theirs.ended.wait()

    def close(self) -> None:
        for channel in (self.ours, self.theirs):
            channel.end("test over")
            channel.sock.close()
        self.left.close()
        self.right.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Connected loopback sockets that do not block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        two, _ = listener.accept()
    one.setblocking(False)
    two.setblocking(False)
    return one, two


async def read(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or what came before EOF."""
    found = bytearray()
    while len(found) < size:
        try:
            data = sock.recv(min(65536, size - len(found)))
        except BlockingIOError:
            with trio.fail_after(30):
                await trio.lowlevel.wait_readable(sock)
            continue
        if not data:
            break
        found += data
    return bytes(found)


async def write(sock: socket.socket, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            with trio.fail_after(30):
                await trio.lowlevel.wait_writable(sock)


@pytest.fixture
async def reactor(nursery: trio.Nursery):
    made = Reactor(trio.current_time)
    nursery.start_soon(made.run)
    await trio.lowlevel.checkpoint()
    return made


@pytest.fixture
async def tunnel(nursery: trio.Nursery, reactor: Reactor):
    made = Tunnel(nursery, reactor)
    yield made
    made.close()


async def test_bytes_pass_both_ways_at_once(tunnel: Tunnel) -> None:
    """Megabytes each way, identical and in order."""
    there, back = bytes(range(256)) * 16_000, bytes(range(255, -1, -1)) * 12_000
    found: dict[str, bytes] = {}

    async def reader(name: str, sock: socket.socket, size: int) -> None:
        found[name] = await read(sock, size)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, tunnel.left, there)
        nursery.start_soon(write, tunnel.right, back)
        nursery.start_soon(reader, "right", tunnel.right, len(there))
        nursery.start_soon(reader, "left", tunnel.left, len(back))
    assert found == {"right": there, "left": back}
    assert (tunnel.ours.read_bytes, tunnel.theirs.write_bytes) == (len(there), len(there))
    assert (tunnel.theirs.read_bytes, tunnel.ours.write_bytes) == (len(back), len(back))


async def test_what_was_read_before_goes_first(nursery: trio.Nursery, reactor: Reactor) -> None:
    """Bytes read during detection, and what an application said first, are not lost."""
    tunnel = Tunnel(nursery, reactor, b"hello ", b"220 ")
    await write(tunnel.left, b"server")
    await write(tunnel.right, b"ready")
    assert await read(tunnel.right, 12) == b"hello server"
    assert await read(tunnel.left, 9) == b"220 ready"
    tunnel.close()


async def test_a_slow_reader_stops_the_writer(tunnel: Tunnel) -> None:
    """While one side does not read, the proxy holds one read at most; all of it arrives in the end."""
    sent = 0
    for _ in range(100_000):
        try:
            sent += tunnel.left.send(b"x" * 65536)
        except BlockingIOError:
            await trio.testing.wait_all_tasks_blocked()
            try:
                sent += tunnel.left.send(b"x")
            except BlockingIOError:
                break
    else:
        pytest.fail("the tunnel takes without end")
    assert len(tunnel.theirs.backlog) <= 64 * 1024
    assert len(await read(tunnel.right, sent)) == sent


@pytest.mark.parametrize("first", ["left", "right"])
async def test_half_close_in_both_orders(tunnel: Tunnel, first: str) -> None:
    """One direction ends, the other goes on; when both have ended the tunnel is over, without a reason."""
    one, two = (tunnel.left, tunnel.right) if first == "left" else (tunnel.right, tunnel.left)
    await write(one, b"question")
    one.shutdown(socket.SHUT_WR)
    assert await read(two, 100) == b"question"
    await write(two, b"answer" * 1000)
    two.shutdown(socket.SHUT_WR)
    assert await read(one, 10_000) == b"answer" * 1000
    await tunnel.ended()
    assert (tunnel.pipe.reason, tunnel.other_pipe.reason) == ("", "")


@pytest.mark.parametrize("size", [0, 5_000_000])
async def test_a_close_behind_much_data_loses_none_of_it(tunnel: Tunnel, size: int) -> None:
    """A sender that closes at once: the slow receiver still gets all, then EOF."""

    async def send_and_leave() -> None:
        await write(tunnel.left, b"y" * size)
        tunnel.left.shutdown(socket.SHUT_WR)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_and_leave)
        assert len(await read(tunnel.right, size + 1)) == size
    tunnel.right.close()
    await tunnel.ended()


@pytest.mark.parametrize("side", ["left", "right"])
async def test_a_reset_takes_the_other_side_with_it(tunnel: Tunnel, side: str) -> None:
    """Both channels end, and say why."""
    victim = getattr(tunnel, side)
    victim.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    victim.close()
    await tunnel.ended()
    assert tunnel.pipe.reason
    assert tunnel.other_pipe.reason


async def test_a_reset_while_the_other_side_is_stuck_ends_both(tunnel: Tunnel) -> None:
    """A backlog for somebody who does not read is not kept for a source that has gone."""
    for _ in range(1000):
        try:
            tunnel.left.send(b"x" * 65536)
        except BlockingIOError:
            await trio.testing.wait_all_tasks_blocked()
            if tunnel.theirs.backlog:
                break
    assert tunnel.theirs.backlog
    tunnel.right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    tunnel.right.close()
    await tunnel.ended()


async def test_an_end_that_closes_at_once(tunnel: Tunnel) -> None:
    """The application closed before it said a word: the client sees EOF, its own direction stays."""
    tunnel.right.shutdown(socket.SHUT_WR)
    assert await read(tunnel.left, 1) == b""
    await write(tunnel.left, b"to whom it concerns")
    assert await read(tunnel.right, 19) == b"to whom it concerns"
