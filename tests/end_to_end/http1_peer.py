"""An HTTP/1.1 server on a raw socket that shows when a client has gone, which real servers hide."""

import hashlib
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.end_to_end.tcp_server import TcpServer, read_head, serving

SECONDS = 30.0
CHUNK = b"4000\r\n" + bytes(0x4000) + b"\r\n"


class Http1Server:
    """Answers by path as Http2Server does: /ok, /hold, /stream without end, /upload with its digest.

    `events` and `gate` are Http2Server's too. What ends a request here is the end of its connection.
    """

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[str, float]] = queue.Queue()
        self.active = 0
        self.gate = threading.Event()
        self.gate.set()
        self.tcp: TcpServer

    def handle(self, sock: socket.socket) -> None:
        """One connection, to its end."""
        rest = b""
        while True:
            head, rest = read_head(sock, rest)
            self.active += 1
            self.events.put(("entered", time.monotonic()))
            complete = False
            try:
                complete, rest = self._answer(sock, head, rest)
            finally:
                self.active -= 1
                if not complete:
                    self.events.put(("left", time.monotonic()))
            if not complete:
                return

    def _answer(self, sock: socket.socket, head: bytes, rest: bytes) -> tuple[bool, bytes]:
        """Whether the client had its whole answer, and bytes after the request."""
        path = head.split(b" ")[1]
        if path == b"/ok":
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            return True, rest
        if path == b"/stream":
            sock.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                sock.sendall(CHUNK)
        if path == b"/upload":
            digest = hashlib.sha256()
            if not self._body(sock, head.lower(), rest, digest):
                return False, b""
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 64\r\n\r\n" + digest.hexdigest().encode())
            return True, b""
        while sock.recv(65536):  # /hold
            pass
        return False, b""

    def _body(self, sock: socket.socket, head: bytes, rest: bytes, digest: "hashlib._Hash") -> bool:
        """Feed the body to `digest`; False where the client went before its end."""
        if b"transfer-encoding: chunked" in head:
            lines = _Reader(sock, rest, self.gate)
            while size := int(lines.line(), 16):
                digest.update(lines.exactly(size))
                lines.line()
            return lines.line() == b""
        left = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        digest.update(rest)
        left -= len(rest)
        while left:
            self.gate.wait(SECONDS)
            data = sock.recv(1 << 20)
            if not data:
                return False
            digest.update(data)
            left -= len(data)
        return True


class _Reader:
    """Takes lines and counted bytes from a socket. Raises ConnectionError where the peer closes."""

    def __init__(self, sock: socket.socket, buffer: bytes, gate: threading.Event) -> None:
        self._sock = sock
        self._buffer = bytearray(buffer)
        self._gate = gate

    def _more(self) -> None:
        self._gate.wait(SECONDS)
        data = self._sock.recv(1 << 18)
        if not data:
            raise ConnectionError("the peer has closed")
        self._buffer += data

    def line(self) -> bytes:
        while (place := self._buffer.find(b"\r\n")) < 0:
            self._more()
        return self.exactly(place + 2)[:-2]

    def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


@contextmanager
def http1_serving() -> Iterator[Http1Server]:
    """A server for the length of the block."""
    server = Http1Server()
    with serving(server.handle) as server.tcp:
        yield server
