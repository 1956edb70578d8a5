"""Moves the bytes of all connections; the only poller (ADR 0001). Hot: every byte of every request passes here.

Trio owns each connection: its supervisor opens a `Channel`, attaches it here, and waits on `channel.ended`. This file
owns the nested epoll: one Trio task waits for its descriptor, then, without another await, reads a bounded batch of
ready sockets, hands the bytes to each channel's handler, and when the batch is through flushes each dirty channel once.

Rules:
* Registrations are level-triggered and stay. A channel is watched for writability only while the kernel has refused
  bytes.
* A handler that raises ends its own channel only: the error is delivered to that channel's supervisor.
* Code that runs outside a batch (a dial that finished, a deadline) calls `settle` when it is through.
"""

from __future__ import annotations

import contextlib
import enum
import select
import socket
from collections.abc import Callable
from typing import Protocol

import trio

from mesh.wire.tls import Tls, TlsError

BATCH = 64
"""Sockets served between two flushes: about a millisecond of work."""
WATCH = 1.0
"""Seconds between two looks at all connections: bounds on slowness are kept to within this."""
ROUNDS = 4
"""Batches before other Trio tasks get their turn. Under load the next batch is ready when one has been served, and
asking for it costs a tenth of a turn through Trio's scheduler."""
READ_BYTES = 64 * 1024
"""One read: what a sender's usual socket buffer holds; more only costs memory."""

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Farewell(enum.Enum):
    """Where a handler stands: it goes on, has said its last (the peer may go on), or is through."""

    NONE = 0
    HALF_CLOSE = 1
    CLOSE = 2


GO_ON, HALF_CLOSE, CLOSE = Farewell


class Handler(Protocol):
    """What a channel serves: an HTTP leg or one end of a tunnel. All of it synchronous."""

    def received(self, data: bytes) -> None:
        """Bytes from the peer, decrypted; `b""` once when the peer has closed its direction."""

    def produce(self) -> bytes:
        """Bytes to send now, in plain text. Only called while the kernel has taken all that came before."""

    def watch(self, now: float) -> None:
        """Called once a second, for bounds on slowness."""

    def lost(self, reason: str) -> None:
        """The socket broke or was given up; nothing can be sent any more. Called exactly once, last."""

    @property
    def restless(self) -> bool:
        """`wants_read` may be False, or `farewell` something. Asked first, being cheap."""

    @property
    def wants_read(self) -> bool: ...

    @property
    def farewell(self) -> Farewell:
        """What to do with the socket when what was produced is out."""


class Gone:
    """The handler of a channel that has ended: it has nothing to say, and nobody asks."""

    __slots__ = ()

    def received(self, data: bytes) -> None:
        """Nobody is there."""

    def produce(self) -> bytes:
        return b""

    def watch(self, now: float) -> None:
        """Nothing is left to watch."""

    def lost(self, reason: str) -> None:
        """It is lost already."""

    @property
    def restless(self) -> bool:
        return False

    @property
    def wants_read(self) -> bool:
        return False

    @property
    def farewell(self) -> Farewell:
        return GO_ON


GONE = Gone()


class Channel:
    """One socket in the reactor: its TLS, its unsent bytes, its handler.

    `backlog` is what the kernel has not taken. `ended` is set when the reactor is through with the socket; `failure` is
    then the handler's exception, if it was a bug that ended it. The supervisor closes the socket, never the reactor.
    """

    __slots__ = (
        "active_at",
        "attached",
        "backlog",
        "dirty",
        "ended",
        "failure",
        "fd",
        "half_closed",
        "handler",
        "mask",
        "parked",
        "reactor",
        "read_bytes",
        "shut",
        "sock",
        "tls",
        "write_bytes",
    )

    handler: Handler

    def __init__(self, reactor: Reactor, sock: socket.socket, tls: Tls | None = None) -> None:
        self.reactor = reactor
        self.sock = sock
        self.fd = sock.fileno()
        self.tls = tls
        self.backlog: bytes | memoryview = b""
        self.attached = self.dirty = self.half_closed = self.parked = self.shut = False
        self.mask = 0
        self.ended = trio.Event()
        self.failure: BaseException | None = None
        self.read_bytes = self.write_bytes = 0
        self.active_at = reactor.clock()

    def attach(self, handler: Handler, initial: bytes = b"") -> None:
        """Begin to serve; `initial` are plain-text bytes that the supervisor has read already."""
        self.handler = handler
        self.attached = True
        self.mask = READ
        self.reactor.channels[self.fd] = self
        self.reactor.poller.register(self.fd, READ)
        try:
            if initial:
                self.read_bytes += len(initial)
                handler.received(initial)
        except Exception as exc:  # contained here as in a batch: it ends this channel only
            self.fail(exc)
        self.mark()
        self.reactor.settle()

    def mark(self) -> None:
        """Have this channel flushed when the batch is through."""
        if not self.dirty and self.attached:
            self.dirty = True
            self.reactor.dirty.append(self)

    def readable(self) -> None:
        """One read; all it brought goes to the handler."""
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            self.end(exc.strerror or "connection lost")
            return
        self.active_at = self.reactor.now
        if self.tls is not None:
            self._received_tls(data)
        elif data:
            self.read_bytes += len(data)
            self.handler.received(data)
        else:
            self._eof()

    def _received_tls(self, data: bytes) -> None:
        tls = self.tls
        assert tls is not None
        try:
            if not data:
                tls.receive_eof()  # refuses an end that was not announced: it may have been made by somebody between us
                self._eof()
                return
            plain = tls.receive(data)
        except TlsError as exc:
            self.end(str(exc))
            return
        if plain:
            self.read_bytes += len(plain)
            self.handler.received(plain)
        if tls.eof:
            self._eof()
        if tls.pending:
            self.mark()

    def _eof(self) -> None:
        if self.mask & READ:
            self._watch(self.mask & ~READ)
            self.half_closed = True
            self.handler.received(b"")
            self.mark()

    def flush(self) -> None:
        """Send what the handler has, until the kernel or the handler has had enough."""
        self.dirty = False
        if self.backlog or not self.attached:
            return
        handler = self.handler
        data = handler.produce()
        if data or self.tls is not None:
            self.send(data)
        if handler.restless or not self.mask & READ:
            farewell = handler.farewell
            if farewell is not GO_ON and not self.backlog and self._close(farewell):
                return
            self.watch_reads()

    def _close(self, farewell: Farewell) -> bool:
        """Close the direction or the whole; True if it was the whole."""
        if farewell is CLOSE:
            self._close_notify()
            self.end("")
            return True
        if not self.shut:
            self.shut = True
            self._close_notify()
            with contextlib.suppress(OSError):  # the peer has gone; reading will tell
                self.sock.shutdown(socket.SHUT_WR)
        return False

    def _close_notify(self) -> None:
        if self.tls is not None:
            self.tls.close()
            self.send(b"")

    def send(self, data: bytes) -> None:
        """Encrypt where needed and give it to the kernel; what it does not take is the backlog."""
        if not self.attached:
            return
        self.write_bytes += len(data)
        if self.tls is not None:
            try:
                if data:
                    self.tls.send(data)
                data = self.tls.take()
            except TlsError as exc:
                self.end(str(exc))
                return
            if not data:
                return
        if self.backlog:
            self.backlog = bytes(self.backlog) + data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self.end(exc.strerror or "connection lost")
            return
        if sent < len(data):
            self.backlog = memoryview(data)[sent:]
            self._watch(self.mask | WRITE)

    def writable(self) -> None:
        """The kernel takes bytes again."""
        try:
            sent = self.sock.send(self.backlog)
        except BlockingIOError:
            return
        except OSError as exc:
            self.end(exc.strerror or "connection lost")
            return
        self.active_at = self.reactor.clock()
        if sent < len(self.backlog):
            self.backlog = self.backlog[sent:]
            return
        self.backlog = b""
        self._watch(self.mask & ~WRITE)
        self.mark()

    def watch_reads(self) -> None:
        """Follow the handler's `wants_read`: stop reading while it is False, which pushes back to the sender."""
        if self.attached and not self.half_closed:
            self._watch(self.mask | READ if self.handler.wants_read else self.mask & ~READ)

    def _watch(self, mask: int) -> None:
        if mask != self.mask and self.attached:
            self.mask = mask
            if self.parked:
                self.parked = False
                self.reactor.poller.register(self.fd, mask)
            else:
                self.reactor.poller.modify(self.fd, mask)

    def hung_up(self, mask: int) -> None:
        """EPOLLHUP or EPOLLERR while nobody wants to read: epoll reports those whatever it was asked for.

        With bytes still to be read later (we are paused), leave the poller until somebody wants them."""
        if self.half_closed and self.shut and not mask & select.EPOLLERR:
            self.end("")  # both directions have come to their end
        elif mask & select.EPOLLERR or self.half_closed:
            self.end("connection reset")
        else:
            self.parked = True
            self.reactor.poller.unregister(self.fd)

    def detach(self) -> None:
        """Take the socket out of the reactor, with nothing said to the handler: another handler will follow, or
        none."""
        if self.attached:
            self.attached = False
            self.mask = 0
            del self.reactor.channels[self.fd]
            if self.parked:
                self.parked = False
            elif not self.reactor.poller.closed:  # it is, when the whole proxy is being cancelled
                self.reactor.poller.unregister(self.fd)

    def end(self, reason: str) -> None:
        """Give the connection up; `reason` is empty where it had come to its proper end."""
        if self.attached:
            self.detach()
            self.ended.set()
            handler = self.handler
            self.handler = GONE  # or the two would keep each other, and all that they hold, until the next collection
            handler.lost(reason)
            self.backlog = b""

    def fail(self, exc: BaseException) -> None:
        """A bug in this connection's code: end it, and let its supervisor have the error."""
        self.failure = exc
        try:
            self.end(f"internal error: {exc!r}")
        except Exception as second:  # its clean-up is broken as well; the supervisor reports both
            exc.add_note(f"and while ending it: {second!r}")


class Reactor:
    """The poller and the batch. `clock` is monotonic seconds."""

    __slots__ = ("channels", "clock", "dirty", "now", "poller", "settling")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.poller = select.epoll()
        self.channels: dict[int, Channel] = {}
        self.dirty: list[Channel] = []
        self.clock = clock
        self.now = clock()  # of the latest batch
        self.settling = False

    async def run(self) -> None:
        """Serve until cancelled; the poller is closed then."""
        descriptor = self.poller.fileno()
        try:
            while True:
                await trio.lowlevel.wait_readable(descriptor)
                for _ in range(ROUNDS):
                    if not self._batch():
                        break
        finally:
            trio.lowlevel.notify_closing(descriptor)
            self.poller.close()

    async def watch(self) -> None:
        """Once a second have every handler look for what keeps it waiting; until cancelled."""
        while True:
            await trio.sleep(WATCH)
            now = self.clock()
            for channel in list(self.channels.values()):
                if channel.attached:
                    try:
                        channel.handler.watch(now)
                    except Exception as exc:  # contained, as in a batch
                        channel.fail(exc)
            self.settle()

    def _batch(self) -> int:
        """Serve what is ready, flush what that made dirty; returns how many sockets were ready."""
        channels = self.channels
        self.settling = True
        self.now = self.clock()
        ready = self.poller.poll(0, BATCH)
        for fd, mask in ready:
            channel = channels.get(fd)
            if channel is None:
                continue
            try:
                if mask & WRITE:
                    channel.writable()
                if mask & ~WRITE and channel.attached:
                    if channel.mask & READ:
                        channel.readable()
                    else:
                        channel.hung_up(mask)
            except Exception as exc:  # contained: it ends this channel only, and its supervisor reports it
                channel.fail(exc)
        self.settling = False
        self.settle()
        return len(ready)

    def settle(self) -> None:
        """Flush what is dirty, and what that makes dirty. Does nothing inside a batch, which settles at its end."""
        if self.settling:
            return
        self.settling = True
        while self.dirty:
            batch, self.dirty = self.dirty, []
            for channel in batch:
                try:
                    channel.flush()
                except Exception as exc:  # contained, as in a batch
                    channel.fail(exc)
        self.settling = False
