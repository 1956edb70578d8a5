"""A wire between two proxies, which counts the connections on it and keeps the first bytes of each."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.end_to_end.tcp_server import TcpServer, serving


class Relay:
    """Passes bytes on to a loopback port, both ways. `firsts` are the first bytes that each connection brought."""

    def __init__(self, target: int = 0) -> None:
        self.target = target
        self.firsts: list[bytes] = []
        self.tcp: TcpServer

    @property
    def port(self) -> int:
        return self.tcp.port

    def handle(self, sock: socket.socket) -> None:
        """One connection, to its end."""
        with socket.create_connection(("127.0.0.1", self.target)) as other:
            other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(None)
            back = threading.Thread(target=pump, args=(other, sock), daemon=True)
            back.start()
            first = sock.recv(65536)
            self.firsts.append(first)
            other.sendall(first)
            pump(sock, other)
            back.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    """All bytes of one direction, and its end."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 18):
            target.sendall(data)
    for sock, way in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with contextlib.suppress(OSError):
            sock.shutdown(way)


@contextmanager
def relaying() -> Iterator[Relay]:
    """A relay for the length of the block; set `target`."""
    relay = Relay()
    with serving(relay.handle) as relay.tcp:
        yield relay
