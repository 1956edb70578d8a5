"""The admin port: /metrics, /ready, /live, /tasks. GET only, loopback only, and nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import trio

from mesh.model.limits import Limits
from mesh.proxy import metrics
from mesh.proxy.report import Reports
from mesh.proxy.supervise import contained
from mesh.wire.codec import Request, Role
from mesh.wire.head import Head
from mesh.wire.http1 import Http1

CONNECTIONS = 16
"""At a time: probes, a scraper, a person."""
IDLE = 30.0
"""Seconds of silence until an admin connection is closed."""


def tree(task: trio.lowlevel.Task, depth: int = 0) -> Iterator[str]:
    """The live supervision tree below `task`, a line each."""
    name = task.name.rpartition(".")[2] if task.name.startswith(("mesh.", "trio.")) else task.name
    yield "  " * depth + name
    for nursery in task.child_nurseries:
        for child in sorted(nursery.child_tasks, key=lambda child: child.name):
            yield from tree(child, depth + 1)


class Admin:
    """Answers for one proxy. `root` is the task whose tree /tasks shows."""

    def __init__(
        self,
        reports: Reports,
        unready: Callable[[], str | None],
        root: trio.lowlevel.Task,
        log: Callable[[str, str, str], None],
    ) -> None:
        self._log = log
        self._reports = reports
        self._unready = unready
        self._root = root

    def answer(self, method: bytes, path: bytes) -> tuple[int, str, bytes]:
        """Status, content type and body for a request."""
        text = "text/plain; charset=utf-8"
        if method not in (b"GET", b"HEAD"):
            return 405, text, b"only GET\n"
        match path.partition(b"?")[0]:
            case b"/live":
                return 200, text, b"live\n"
            case b"/ready":
                why = self._unready()
                return (200, text, b"ready\n") if why is None else (503, text, f"not ready: {why}\n".encode())
            case b"/metrics":
                body, content_type = metrics.render(self._reports)
                return 200, content_type, body
            case b"/tasks":
                return 200, text, ("\n".join(tree(self._root)) + "\n").encode()
        return 404, text, b"try /metrics, /ready, /live or /tasks\n"

    async def serve(self, listeners: list[trio.SocketListener]) -> None:
        """Accept until cancelled."""
        limiter = trio.CapacityLimiter(CONNECTIONS)

        async def bounded(stream: trio.SocketStream) -> None:
            async with limiter, stream:
                await contained("admin", self._reports, self._log, partial(self._connection, stream))

        await trio.serve_listeners(bounded, listeners)

    async def _connection(self, stream: trio.SocketStream) -> None:
        codec = Http1(Role.SERVER, Limits())
        try:
            while not codec.finished:
                with trio.fail_after(IDLE):
                    data = await stream.receive_some(16 * 1024)
                events = codec.receive(data) if data else codec.receive_eof()
                while events:
                    for event in events:
                        if isinstance(event, Request):
                            self._respond(codec, event)
                    events = codec.receive(b"")
                with trio.fail_after(IDLE):
                    await stream.send_all(codec.take())
                if not data:
                    return
        except (trio.BrokenResourceError, trio.TooSlowError):
            return  # the client has gone, or gone quiet

    def _respond(self, codec: Http1, request: Request) -> None:
        status, content_type, body = self.answer(request.head.method, request.head.path)
        fields = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
        headless = request.head.method == b"HEAD"
        codec.send_response(request.stream, Head.response(status, fields), headless)
        if not headless:
            codec.send_data(request.stream, body, True)
