"""What the proxy's tests share: a reactor that runs, small servers of the test's own, and a proxy's shared parts."""

from __future__ import annotations

import itertools
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from random import Random

import pytest
import trio

from mesh.model.config import Endpoint, Protocol, Service, Timeouts
from mesh.model.limits import Limits
from mesh.proxy.accept import Acceptor, bind
from mesh.proxy.cluster import Cluster, Shared
from mesh.proxy.connection import Accepting
from mesh.proxy.credentials import Credentials
from mesh.proxy.deadlines import Deadlines
from mesh.proxy.directory import Directory
from mesh.proxy.downstream import Listener
from mesh.proxy.downstream import Shared as DownstreamShared
from mesh.proxy.reactor import Reactor
from mesh.proxy.report import Reports
from mesh.proxy.taps import Taps
from mesh.wire.http2 import Http2

PATIENCE = 30.0
"""Seconds until a wait in a test is given up: far more than any takes."""


async def eventually(what: Callable[[], object]) -> None:
    """Return once `what()` is true; fail when it has not become so within PATIENCE."""
    with trio.fail_after(PATIENCE):
        while not what():
            await trio.lowlevel.checkpoint()
            await trio.sleep(0.001)


class Parts:
    """The shared parts of one proxy under test, all real; `logged` is what it logged."""

    def __init__(self, limits: Limits, credentials: Credentials | None = None) -> None:
        clock = trio.current_time
        self.limits = limits
        self.reactor = Reactor(clock)
        self.reports = Reports(limits.metric_series)
        self.deadlines = Deadlines(clock)
        self.taps = Taps(clock, "web")
        self.logged: list[tuple[str, str, str]] = []
        self.shared = Shared(
            self.reactor,
            limits,
            self.reports,
            Random(1).random,
            Http2,
            lambda *line: self.logged.append(line),
            credentials=credentials,
        )
        self.downstream = DownstreamShared(limits, self.deadlines, self.reports, self.taps, clock)
        self.directory = Directory(self.shared, None)
        self.nursery: trio.Nursery

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self.nursery:
            self.nursery.start_soon(self.reactor.run, name="reactor")
            self.nursery.start_soon(self.deadlines.run, self.reactor.settle, name="deadlines")
            self.nursery.start_soon(self.directory.run, name="upstreams")
            await trio.lowlevel.checkpoint()
            task_status.started()

    def service(
        self,
        name: str,
        *addresses: str,
        protocol: Protocol = Protocol.DETECT,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    ) -> Cluster:
        """A cluster of the directory, with its task running."""
        return self.directory.add(Service(name, tuple(map(Endpoint, addresses)), protocol, timeouts))


@pytest.fixture
def proxy_parts(nursery: trio.Nursery) -> Callable[..., object]:
    """Call and await it, with bounds by name, for the running parts of a proxy; `credentials` are what it proves
    itself with."""

    async def build(credentials: Credentials | None = None, **bounds: object) -> Parts:
        parts = Parts(Limits(**bounds), credentials)
        await nursery.start(parts.run)
        return parts

    return build


@pytest.fixture
def until() -> Callable[[Callable[[], object]], object]:
    """Await it with a condition: returns when that holds, fails if it never does."""
    return eventually


@pytest.fixture
async def serve(nursery: trio.Nursery) -> AsyncIterator[Callable[..., object]]:
    """Await it with a handler of a stream: the `host:port` that the handler serves until the test is over."""

    async def start(handler: Callable[[trio.SocketStream], object]) -> str:
        async def contained(stream: trio.SocketStream) -> None:
            async with stream:
                try:
                    await handler(stream)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return  # the proxy went away, which some tests are about

        listeners = await nursery.start(partial(trio.serve_tcp, contained, 0, host="127.0.0.1"))
        host, port = listeners[0].socket.getsockname()
        return f"{host}:{port}"

    yield start
    nursery.cancel_scope.cancel()


@pytest.fixture
def refusing() -> Iterator[str]:
    """A loopback address that refuses to be connected to: bound, so that nobody else gets it, and not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def listen(nursery: trio.Nursery) -> Callable[..., object]:
    """Await it with a proxy's parts and what the listener is for: the running acceptor and its address."""
    numbers = itertools.count(1).__next__

    async def start(parts: Parts, cluster: Cluster | None = None, **how: object) -> tuple[Acceptor, str]:
        accepting = Accepting(
            parts.downstream,
            parts.reactor,
            how.get("http2", Http2),  # type: ignore[arg-type]
            how.get("tls"),  # type: ignore[arg-type]
            bool(how.get("permissive")),
            how.get("credentials"),  # type: ignore[arg-type]
        )
        sock = how.get("sock") or bind("127.0.0.1:0", "listen")
        host, port = sock.getsockname()  # type: ignore[attr-defined]
        listener = Listener(str(how.get("direction", "outbound")), f"{host}:{port}", cluster, parts.directory)
        acceptor = Acceptor(accepting, listener, sock, lambda *line: parts.logged.append(line))  # type: ignore[arg-type]
        parts.directory.own.add(f"{host}:{port}")
        nursery.start_soon(acceptor.run, numbers)
        return acceptor, f"{host}:{port}"

    return start


async def connected(address: str) -> trio.SocketStream:
    host, _, port = address.rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def read_all(stream: trio.SocketStream, until: bytes | None = None) -> bytes:
    """Bytes until `until` has come, or EOF or a reset; within PATIENCE."""
    found = b""
    with trio.fail_after(PATIENCE):
        while until is None or until not in found:
            try:
                data = await stream.receive_some()
            except trio.BrokenResourceError:
                break
            if not data:
                break
            found += data
    return found


@pytest.fixture
def dialled() -> Callable[[str], object]:
    """Await it with `host:port` for a stream to there."""
    return connected


@pytest.fixture
def received() -> Callable[..., object]:
    """Await it with a stream, and perhaps bytes to stop at, for what comes."""
    return read_all
