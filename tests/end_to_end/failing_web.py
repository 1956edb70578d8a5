"""Hypercorn, HTTP/1.1 and h2c on one port, with an application that does what its Board says.

All servers of a block share one thread and its event loop, so that a test may have many of them. Paths of their own:
a websocket anywhere echoes; everything else is told by the Board.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

from tests.end_to_end.failing import Asked, Board, Order, digest
from tests.end_to_end.sidecar import wait_until

SECONDS = 30.0
STOP_SECONDS = 10.0


class Web:
    """One server. `board.left` notes clients that Hypercorn has seen leave."""

    def __init__(self, name: str) -> None:
        self.board = Board(name)
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self.sock.getsockname()[1]
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application."""
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
        elif scope["type"] == "websocket":
            await self._echo(scope, receive, send)
        else:
            with self.board.working():
                await self._http(scope, receive, send)

    def _note(self, scope: Any, body: bytes) -> Order:
        host, port = scope["client"] or ("", 0)
        return self.board.take(
            Asked(
                scope.get("method", "GET"),
                scope["path"],
                scope["query_string"].decode(),
                {name.decode(): value.decode("latin-1") for name, value in scope["headers"]},
                len(body),
                digest(body),
                scope["http_version"],
                f"{host}:{port}",
                time.monotonic(),
            )
        )

    async def _http(self, scope: Any, receive: Any, send: Any) -> None:
        body = bytearray()
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                self.board.gone()
                return
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        order = self._note(scope, bytes(body))
        waiting = asyncio.ensure_future(receive())
        try:
            if await self._answer(order, waiting, send):
                return
            self.board.gone()
        finally:
            waiting.cancel()

    async def _answer(self, order: Order, gone: "asyncio.Future[Any]", send: Any) -> bool:
        """False where the client left before all was sent."""
        body = self.board.name.encode() if order.body is None else order.body
        if order.turns:
            async with self._turn:
                await asyncio.sleep(order.delay)
        elif order.hang or (order.delay and order.parts == 1):
            await asyncio.wait([gone], timeout=SECONDS if order.hang else order.delay)
            if order.hang or gone.done():
                return False
        headers = [(b"content-length", b"%d" % (len(body) * order.parts)), (b"x-server", self.board.name.encode())]
        if order.parts > 1:
            headers[0] = (b"content-type", b"text/event-stream")
        headers += [(name.encode(), value.encode()) for name, value in order.headers]
        await send({"type": "http.response.start", "status": order.status, "headers": headers})
        for left in range(order.parts - 1, 0, -1):
            await send({"type": "http.response.body", "body": body, "more_body": left > 0})
            await asyncio.wait([gone], timeout=order.delay)
            if gone.done():
                return False
        await send({"type": "http.response.body", "body": body})
        return True

    async def _echo(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self._note(scope, b"")
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            words = {key: event[key] for key in ("text", "bytes") if event.get(key) is not None}
            await send({"type": "websocket.send", **words})
        self.board.gone()


class Webs:
    """Servers by name; `add` and `stop` work while others serve."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._ends: dict[Web, tuple[asyncio.Event, Any]] = {}

    def add(self, name: str, web: Any = None) -> Any:
        """One more server, which accepts already. `web` may be another application with `sock` and `board`."""
        web = web or Web(name)
        config = Config()
        config.bind = [f"fd://{web.sock.detach()}"]  # which is Hypercorn's to close from here on
        config.errorlog = None
        config.graceful_timeout = 0.2
        config.keep_alive_timeout = 600
        config.keep_alive_max_requests = 1_000_000  # at its limit it answers some of its HTTP/2 streams never
        config.h2_max_concurrent_streams = 1000
        config.backlog = 1024
        end = asyncio.Event()
        running = serve(web, config, shutdown_trigger=end.wait, mode="asgi")
        future = asyncio.run_coroutine_threadsafe(running, self._loop)
        self._ends[web] = (end, future)
        return web

    def stop(self, web: Any) -> None:
        """End a server; its port is refused afterwards."""
        end, future = self._ends.pop(web)
        self._loop.call_soon_threadsafe(end.set)
        future.result(STOP_SECONDS)

    def close(self) -> None:
        """End all of them."""
        for web in list(self._ends):
            self.stop(web)
        asyncio.run_coroutine_threadsafe(self._rest(), self._loop).result(STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SECONDS)
        wait_until(lambda: not self._loop.is_running(), "the servers' loop ends")
        self._loop.close()

    async def _rest(self) -> None:
        """What Hypercorn left running."""
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def web_servers() -> Iterator[Webs]:
    """A place for servers, which end with the block."""
    webs = Webs()
    try:
        yield webs
    finally:
        webs.close()
