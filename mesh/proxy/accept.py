"""Listeners: accept, bound the number of connections, start a supervisor for each, drain them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import trio

from mesh.model.errors import ConfigError
from mesh.proxy.authority import split_address
from mesh.proxy.connection import Accepting, Connection, Ended
from mesh.proxy.downstream import Listener
from mesh.proxy.supervise import contained

BACKLOG = 4096
"""Connections the kernel holds until we accept: a burst of reconnecting peers, capped by net.core.somaxconn."""
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
PAUSE = 0.1
"""Seconds to leave connections in the backlog when the process has no descriptors left."""


def bind(address: str, field: str) -> socket.socket:
    """A listening, non-blocking socket. Raises ConfigError that names `field`."""
    try:
        host, port = split_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ConfigError(f"cannot listen on {address}: {reason}", field=field) from exc
    return sock


class Acceptor:
    """One listener and the connections that it has accepted."""

    def __init__(
        self, how: Accepting, listener: Listener, sock: socket.socket, log: Callable[[str, str, str], None]
    ) -> None:
        self._how = how
        self._sock = sock
        self._log = log
        self._scope = trio.CancelScope()
        self.listener = listener
        self.connections: set[Connection] = set()
        self._nursery: trio.Nursery | None = None
        self._numbers: Callable[[], int] = int

    async def run(self, numbers: Callable[[], int]) -> None:
        """Accept until `stop`, and then wait for what was accepted. The listening socket is closed at `stop`."""
        reports = self._how.shared.reports
        async with trio.open_nursery() as nursery:
            self._nursery, self._numbers = nursery, numbers
            with self._sock, self._scope:
                while True:
                    try:
                        sock, peer = self._sock.accept()
                    except BlockingIOError:
                        await trio.lowlevel.wait_readable(self._sock)
                        continue
                    except OSError as exc:
                        if exc.errno in EXHAUSTED:
                            reports.refuse("no_descriptors", self.listener.direction)
                            await trio.sleep(PAUSE)
                        await trio.lowlevel.checkpoint()
                        continue  # the others mean that a client left before it was accepted (accept(2))
                    self._start(nursery, sock, peer)
                    await trio.lowlevel.checkpoint()  # a flood of connections must not keep the reactor from its turn

    def _start(self, nursery: trio.Nursery, sock: socket.socket, peer: tuple[str, int]) -> None:
        """Have a connection that was accepted served, unless there are too many."""
        if len(self.connections) >= self._how.shared.limits.connections:
            self._how.shared.reports.refuse("connections", self.listener.direction)
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = f"{peer[0]}:{peer[1]}"
        nursery.start_soon(self._supervise, sock, name, self._numbers(), name=f"connection {name}")

    async def _supervise(self, sock: socket.socket, peer: str, number: int) -> None:
        connection = Connection(self._how, self.listener, sock, peer, number)
        self.connections.add(connection)

        async def serve() -> None:
            try:
                await connection.run()
            except Ended:
                return

        try:
            await contained(f"{self.listener.direction} {peer}", self._how.shared.reports, self._log, serve)
        finally:
            self.connections.discard(connection)

    def stop(self) -> None:
        """Accept no more than what the kernel has accepted for us: closing the socket would reset those."""
        self._scope.cancel()
        if self._nursery is None:
            return
        try:
            while True:
                sock, peer = self._sock.accept()
                self._start(self._nursery, sock, peer)
        except OSError:  # there are no more; or one has left already, or no descriptor is free, and the rest is lost
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def drain(self, final: bool) -> None:
        """Tell every client to go elsewhere; `final` ends the idle ones."""
        for connection in self.connections:
            connection.drain(final)
        self._how.reactor.settle()
