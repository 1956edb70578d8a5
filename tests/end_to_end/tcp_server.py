"""Servers made of a function: each accepted connection gets a thread that runs it, and all end with the server."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

SECONDS = 30.0


class TcpServer:
    """Listens on a loopback port until `close`. `failures` are what handlers raised, but for lost connections."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        self._handle = handle
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self.failures: list[BaseException] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def open(self) -> int:
        """Connections that their handlers have not left."""
        with self._lock:
            return len(self._open)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(SECONDS)
            with self._lock:
                self.accepted += 1
                self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                self._handle(sock)
        except OSError:
            return  # the peer has gone: tests that care see it elsewhere
        except Exception as exc:
            self.failures.append(exc)
        finally:
            with self._lock:
                self._open.discard(sock)

    def close(self) -> None:
        """Stop listening, cut off whoever is connected, and wait for the threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            left = list(self._open)
        for sock in left:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(SECONDS)


@contextlib.contextmanager
def serving(handle: Callable[[socket.socket], None]) -> Iterator[TcpServer]:
    """A server for the length of the block; what its handlers raised is raised at the end."""
    server = TcpServer(handle)
    try:
        yield server
    finally:
        server.close()
    if server.failures:
        raise server.failures[0]


def read_head(sock: socket.socket, buffer: bytes = b"") -> tuple[bytes, bytes]:
    """An HTTP/1.1 head without its empty line, and the bytes after it. ConnectionError where the peer ends first."""
    while b"\r\n\r\n" not in buffer:
        data = sock.recv(65536)
        if not data:
            raise ConnectionError("the peer has closed")
        buffer += data
    head, _, rest = buffer.partition(b"\r\n\r\n")
    return head, rest


def read_until_eof(sock: socket.socket) -> bytes:
    """All that comes until the peer closes its direction."""
    chunks = []
    while data := sock.recv(1 << 20):
        chunks.append(data)
    return b"".join(chunks)


def reset(sock: socket.socket) -> None:
    """Close the connection with a RST (socket(7), SO_LINGER of no time)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def echo(sock: socket.socket) -> None:
    """Send back whatever comes, and close our direction when the peer has closed its own."""
    while data := sock.recv(65536):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(65536):
        pass


def greeter(sock: socket.socket) -> None:
    """Speaks first, like a mail server (RFC 5321 section 3.1)."""
    sock.sendall(b"220 mail.test ready\r\n")
    lines = sock.makefile("rb")
    for line in lines:
        word = line.split()[0].upper()
        if word == b"QUIT":
            sock.sendall(b"221 bye\r\n")
            return
        sock.sendall(b"250 hello\r\n" if word == b"HELO" else b"500 what?\r\n")
