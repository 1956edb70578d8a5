"""Listeners on loopback: bounds, exhaustion, stopping and draining."""

from __future__ import annotations

import errno
import os
import socket

import pytest
import trio

from mesh.model.errors import ConfigError
from mesh.proxy.accept import bind

GET = b"GET / HTTP/1.1\r\nHost: votes\r\n\r\n"


def http1(gate: trio.Event | None = None, asked: trio.Event | None = None):
    async def handle(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            if asked is not None:
                asked.set()
            if gate is not None:
                await gate.wait()
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    return handle


class Exhausted:
    """A listening socket that fails `errors` before it accepts, as one does in a process without descriptors."""

    def __init__(self, *errors: int) -> None:
        self._sock = bind("127.0.0.1:0", "listen")
        self.errors = list(errors)
        self.tries = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.tries += 1
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, os.strerror(code))
        return self._sock.accept()

    def fileno(self) -> int:
        return self._sock.fileno()

    def getsockname(self) -> object:
        return self._sock.getsockname()

    def __enter__(self) -> Exhausted:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sock.close()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_bind_listens_without_blocking(address: str) -> None:
    """Either family; the port can be taken again at once after a restart."""
    with bind(address, "listen") as sock:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:http", "192.0.2.1:0", "nonsense.invalid:80"])
def test_what_cannot_be_bound_is_a_config_error(address: str) -> None:
    """It names the field and the address."""
    with pytest.raises(ConfigError, match=r"outbound\[0\].listen: cannot listen on") as caught:
        bind(address, "outbound[0].listen")
    assert address in str(caught.value)


def test_a_port_in_use_is_a_config_error() -> None:
    """With what the system says."""
    with bind("127.0.0.1:0", "listen") as taken, pytest.raises(ConfigError, match="Address already in use"):
        bind(f"127.0.0.1:{taken.getsockname()[1]}", "listen")


async def test_connections_past_the_bound_are_closed_and_counted(
    proxy_parts, serve, listen, dialled, received, until
) -> None:
    """Those that are there go on; one that leaves makes room."""
    parts = await proxy_parts(connections=2)
    acceptor, address = await listen(parts, parts.service("votes", await serve(http1())))
    first, second = await dialled(address), await dialled(address)
    await until(lambda: len(acceptor.connections) == 2)
    async with await dialled(address) as third:
        assert await received(third) == b""
    assert parts.reports.refusals == {("connections", "outbound"): 1}
    await first.send_all(GET)
    await received(first, b"ok")
    await second.aclose()
    await until(lambda: len(acceptor.connections) == 1)
    async with await dialled(address) as fourth:
        await fourth.send_all(GET)
        assert (await received(fourth, b"ok")).startswith(b"HTTP/1.1 200 ")
    await first.aclose()


async def test_a_flood_past_the_bound_leaves_others_their_turn(proxy_parts, serve, listen, dialled, until) -> None:
    """Refusing is work too: other tasks run between two refusals."""
    parts = await proxy_parts(connections=0)
    _, address = await listen(parts, parts.service("votes", await serve(http1())))
    host, _, port = address.rpartition(":")
    flood = [socket.create_connection((host, int(port))) for _ in range(200)]
    counts: list[int] = []
    with trio.fail_after(30):
        while sum(parts.reports.refusals.values()) < 200:
            counts.append(sum(parts.reports.refusals.values()))
            await trio.lowlevel.checkpoint()
    assert len(set(counts)) > 20
    for sock in flood:
        sock.close()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
async def test_without_descriptors_accepting_pauses_and_resumes(
    proxy_parts, serve, listen, dialled, received, code: int
) -> None:
    """It is counted, it does not spin, and the connection that waited is served."""
    parts = await proxy_parts()
    sock = Exhausted(code, code)
    _, address = await listen(parts, parts.service("votes", await serve(http1())), sock=sock)
    async with await dialled(address) as client:
        await client.send_all(GET)
        assert (await received(client, b"ok")).startswith(b"HTTP/1.1 200 ")
    assert parts.reports.refusals == {("no_descriptors", "outbound"): 2}
    assert sock.tries < 10


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
async def test_a_client_that_left_before_it_was_accepted(
    proxy_parts, serve, listen, dialled, received, code: int
) -> None:
    """accept(2) tells of it as an error; the listener lives."""
    parts = await proxy_parts()
    _, address = await listen(parts, parts.service("votes", await serve(http1())), sock=Exhausted(code))
    async with await dialled(address) as client:
        await client.send_all(GET)
        assert (await received(client, b"ok")).startswith(b"HTTP/1.1 200 ")


async def test_after_stop_nothing_is_accepted_and_what_was_goes_on(
    proxy_parts, serve, listen, dialled, received
) -> None:
    """The listening socket is closed; a connection under way is served to its end."""
    parts = await proxy_parts()
    acceptor, address = await listen(parts, parts.service("votes", await serve(http1())))
    async with await dialled(address) as client:
        await client.send_all(GET)
        await received(client, b"ok")
        acceptor.stop()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(OSError):
            await dialled(address)
        await client.send_all(GET)
        assert (await received(client, b"ok")).startswith(b"HTTP/1.1 200 ")


async def test_a_final_drain_ends_what_is_idle_and_spares_what_is_not(
    proxy_parts, serve, listen, dialled, received, until
) -> None:
    """Idle and undecided connections close; a request under way is answered, with `Connection: close`."""
    parts = await proxy_parts()
    gate, asked = trio.Event(), trio.Event()
    acceptor, address = await listen(parts, parts.service("votes", await serve(http1(gate, asked))))
    silent, busy = await dialled(address), await dialled(address)
    await busy.send_all(GET)
    with trio.fail_after(30):
        await asked.wait()
    acceptor.drain(False)
    acceptor.drain(True)
    assert await received(silent) == b""
    await until(lambda: len(acceptor.connections) == 1)
    gate.set()
    answer = await received(busy)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer.lower()
    assert answer.endswith(b"ok")
    await until(lambda: not acceptor.connections)
    await silent.aclose()
    await busy.aclose()
