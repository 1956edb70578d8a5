"""A client in memory that asks a cluster, and small servers on loopback that answer it."""

from __future__ import annotations

from types import SimpleNamespace

import trio

from mesh.model.limits import Limits
from mesh.proxy.downstream import Downstream, Listener
from mesh.proxy.exchange import DONE, Exchange
from mesh.wire.codec import Request, Role
from mesh.wire.head import Head
from mesh.wire.http1 import Http1
from mesh.wire.http2 import Http2


class Asking:
    """One request of a client in memory to a cluster. `over`, `status` and `error` say how it ended."""

    def __init__(self, parts, cluster, request: bytes = b"GET / HTTP/1.1\r\nHost: votes\r\n\r\n") -> None:
        channel = SimpleNamespace(
            backlog=b"", mark=lambda: None, end=lambda reason: None, reactor=SimpleNamespace(clock=trio.current_time)
        )
        codec = Http1(Role.SERVER, parts.limits)
        listener = Listener("outbound", "127.0.0.1:0", cluster, parts.directory)
        self.downstream = Downstream(parts.downstream, listener, channel, codec, number=1, peer="memory")
        self.out = b""
        self.downstream.leg.received(request)
        self.exchange: Exchange | None = next(iter(self.downstream.exchanges.values()), None)
        parts.reactor.settle()

    def leave(self) -> None:
        """The client goes away."""
        self.downstream.leg.lost("reset")
        self.downstream.leg.channel.end("")

    @property
    def answer(self) -> bytes:
        """All bytes that the client has been sent."""
        self.out += self.downstream.leg.produce()
        return self.out

    @property
    def over(self) -> bool:
        return self.exchange is None or self.exchange.state is DONE

    @property
    def status(self) -> int:
        return int(self.answer.split(b" ", 2)[1]) if self.answer else 0


def http1_server(*, close: bool = False, body: bytes = b"ok", seen: list | None = None, gate: trio.Event | None = None):
    """A handler that answers requests over HTTP/1.1; `seen` gets the connection's number for each."""
    numbers = iter(range(1, 10_000))

    async def handle(stream: trio.SocketStream) -> None:
        number = next(numbers)
        data = b""
        while chunk := await stream.receive_some():
            data += chunk
            while b"\r\n\r\n" in data:
                _, _, data = data.partition(b"\r\n\r\n")
                if seen is not None:
                    seen.append(number)
                if gate is not None:
                    await gate.wait()
                more = b"connection: close\r\n" if close else b""
                await stream.send_all(b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (more, len(body), body))
                if close:
                    return

    return handle


def http2_server(seen: list, gate: trio.Event | None = None, goaway: trio.Event | None = None, streams: int = 256):
    """A handler that answers over HTTP/2, each request when `gate` opens; on `goaway` the first connection says so."""
    numbers = iter(range(1, 10_000))

    async def handle(stream: trio.SocketStream) -> None:
        number = next(numbers)
        codec = Http2(Role.SERVER, Limits(streams=streams))
        codec.start()
        sending = trio.Lock()

        async def flush() -> None:
            async with sending:
                await stream.send_all(codec.take())

        async def answer(number: int) -> None:
            if gate is not None:
                await gate.wait()
            codec.send_response(number, Head.response(200), False)
            codec.send_data(number, b"ok", True)
            await flush()

        async with trio.open_nursery() as nursery:

            async def announce() -> None:
                if goaway is not None and number == 1:
                    await goaway.wait()
                    codec.shutdown(True)
                    await flush()

            nursery.start_soon(announce)
            await flush()
            while data := await stream.receive_some():
                for event in codec.receive(data):
                    if isinstance(event, Request):
                        seen.append(number)
                        nursery.start_soon(answer, event.stream)
                await flush()
            nursery.cancel_scope.cancel()

    return handle


async def silent(stream: trio.SocketStream) -> None:
    """Takes everything and says nothing."""
    while await stream.receive_some():
        pass


def pending(cluster) -> int:
    return sum(endpoint.load.pending for endpoint in cluster.endpoints)


# --- connections ------------------------------------------------------------------------
