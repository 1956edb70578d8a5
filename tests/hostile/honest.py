"""An honest client: one connection, a request every few milliseconds, and nothing may go wrong with any of them."""

import contextlib
import time
from collections.abc import AsyncIterator

import hpack
import trio

from tests.hostile import frames
from tests.hostile.attacks import GREETING, connect
from tests.hostile.frames import ACK, END_STREAM, Frame

PAUSE = 0.01
PATIENCE = 15.0
"""Seconds for one answer: attacker, client, application and proxy share two processors."""


class Failed(AssertionError):
    """A request of an honest client was not answered as it should have been."""


class Honest:
    """Asks for /ok until `stop`. `times` are the seconds that each answer took."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.times: list[float] = []
        self.stopping = False

    async def run(self) -> None:
        """Raises Failed for the first request that is not answered with `ok`."""
        while not self.stopping:
            began = time.monotonic()
            with trio.move_on_after(PATIENCE) as scope:
                try:
                    await self.ask()
                except trio.BrokenResourceError as exc:
                    raise Failed(f"connection lost after {len(self.times)} answers") from exc
            if scope.cancelled_caught:
                raise Failed(f"no answer within {PATIENCE} s, after {len(self.times)} answers")
            self.times.append(time.monotonic() - began)
            await trio.sleep(PAUSE)

    async def ask(self) -> None:
        """One request and its whole answer."""
        raise NotImplementedError

    async def receive(self) -> bytes:
        data = await self._stream.receive_some(65536)
        if not data:
            raise Failed(f"the proxy closed the connection after {len(self.times)} answers")
        return data


class Honest1(Honest):
    """In HTTP/1.1."""

    async def ask(self) -> None:
        await self._stream.send_all(b"GET /ok HTTP/1.1\r\nhost: web\r\n\r\n")
        data = b""
        while not data.endswith(b"\r\n\r\nok"):
            data += await self.receive()
            while data.startswith(b"HTTP/1.1 103") and b"\r\n\r\n" in data:
                data = data.partition(b"\r\n\r\n")[2]
            if not b"HTTP/1.1 103".startswith(data[:12]) and not b"HTTP/1.1 200".startswith(data[:12]):
                raise Failed(f"answered {data!r}")


class Honest2(Honest):
    """In HTTP/2, with prior knowledge."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._reader = frames.Reader()
        self._decoder = hpack.Decoder()
        self._next = 1

    async def greet(self) -> None:
        """Say what opens a connection."""
        await self._stream.send_all(GREETING)

    async def ask(self) -> None:
        stream = self._next
        self._next += 2
        await self._stream.send_all(frames.get(stream))
        body = b""
        while True:
            for one in self._reader.feed(await self.receive()):
                if one.kind == frames.PING and not one.flags & ACK:
                    await self._stream.send_all(frames.frame(frames.PING, ACK, 0, one.payload))
                elif one.kind == frames.HEADERS:
                    self._check(one)
                elif one.kind == frames.DATA:
                    body += one.payload
                    if one.flags & END_STREAM:
                        if body != b"ok":
                            raise Failed(f"answered {body!r}")
                        await self._stream.send_all(frames.window_update(0, len(body)))
                        return
                elif one.kind in (frames.RST_STREAM, frames.GOAWAY):
                    raise Failed(f"answered {one!r}")

    def _check(self, one: Frame) -> None:
        status = dict(self._decoder.decode(one.payload, raw=True)).get(b":status")
        if status != b"200":
            raise Failed(f"answered {status!r}")


@contextlib.asynccontextmanager
async def honest(*ports: int, versions: tuple[type[Honest], ...] = (Honest1, Honest2)) -> AsyncIterator[list[Honest]]:
    """Honest clients of these ports for the length of the block, each of which must have had an answer at its end."""
    async with contextlib.AsyncExitStack() as stack:
        clients: list[Honest] = []
        for port in ports:
            for version in versions:
                stream = await connect(port)
                stack.push_async_callback(trio.aclose_forcefully, stream)
                client = version(stream)
                clients.append(client)
                if isinstance(client, Honest2):
                    await client.greet()
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.run)
            yield clients
            asked = [len(client.times) for client in clients]
            for client, before in zip(clients, asked, strict=True):
                while len(client.times) <= before:  # it still gets its answers when the attack is over
                    await trio.sleep(PAUSE)
                client.stopping = True
