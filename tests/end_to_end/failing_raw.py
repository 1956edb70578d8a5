"""A server on a raw socket, HTTP/1.1 and h2c on one port, for what no real server can be told to do.

`Order.cut` says how a request ends: `reset` (RST, or RST_STREAM INTERNAL_ERROR, before the head), `refuse`
(RST_STREAM REFUSED_STREAM, HTTP/2 only), `close` (the connection, before the head), `head` (in the middle of the head,
HTTP/1.1 only), `body` (in the middle of the body), `garbage` (what is no HTTP). Without `cut` it answers well.
"""

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import h2.config
import h2.connection
import h2.events

from tests.end_to_end.failing import Asked, Board, Order, digest
from tests.end_to_end.tcp_server import TcpServer, read_head, read_until_eof, reset, serving

INTERNAL_ERROR, REFUSED_STREAM = 0x2, 0x7
GARBAGE = b"I am not a web server\r\n\r\n"
PREFACE = b"PRI * HT"


class Broken(Exception):
    """The connection was ended as ordered."""


class Raw:
    """See the module. Does what its Board says, one request of an HTTP/1.1 connection after the other."""

    def __init__(self, name: str) -> None:
        self.board = Board(name)
        self.tcp: TcpServer

    @property
    def port(self) -> int:
        return self.tcp.port

    def handle(self, sock: socket.socket) -> None:
        """One connection, to its end."""
        host, port = sock.getpeername()
        peer = f"{host}:{port}"
        first = sock.recv(len(PREFACE), socket.MSG_PEEK)
        with contextlib.suppress(Broken):
            if first and PREFACE.startswith(first):
                self._http2(sock, peer)
            elif first:
                self._http1(sock, peer)

    # --- HTTP/1.1 --------------------------------------------------------------------------------

    def _http1(self, sock: socket.socket, peer: str) -> None:
        rest = b""
        while True:
            head, rest = read_head(sock, rest)
            lines = head.decode("latin-1").split("\r\n")
            method, target, _ = lines[0].split(" ")
            pairs = [line.partition(": ") for line in lines[1:]]
            headers = {name.lower(): value for name, _, value in pairs}
            body, rest = self._body(sock, headers, rest)
            path, _, query = target.partition("?")
            asked = Asked(method, path, query, headers, len(body), digest(body), "1.1", peer, time.monotonic())
            with self.board.working():
                self._answer_http1(sock, self.board.take(asked))

    @staticmethod
    def _body(sock: socket.socket, headers: dict[str, str], rest: bytes) -> tuple[bytes, bytes]:
        """The body of a request and the bytes after it."""

        def more() -> bytes:
            data = sock.recv(1 << 18)
            if not data:
                raise ConnectionError("the peer has closed")
            return data

        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                while b"\r\n" not in rest:
                    rest += more()
                size = int(rest.partition(b"\r\n")[0], 16)
                rest = rest.partition(b"\r\n")[2]
                while len(rest) < size + 2:
                    rest += more()
                body, rest = body + rest[:size], rest[size + 2 :]
                if not size:
                    return body, rest
        size = int(headers.get("content-length", "0"))
        while len(rest) < size:
            rest += more()
        return rest[:size], rest[size:]

    def _answer_http1(self, sock: socket.socket, order: Order) -> None:
        time.sleep(order.delay)
        body = self.board.name.encode() if order.body is None else order.body
        fields = "".join(f"{name}: {value}\r\n" for name, value in order.headers)
        if order.hang:
            read_until_eof(sock)
            self.board.gone()
            raise Broken
        match order.cut:
            case "":
                head = f"HTTP/1.1 {order.status} Told\r\ncontent-length: {len(body)}\r\n{fields}\r\n"
                sock.sendall(head.encode() + body)
                return
            case "garbage":
                sock.sendall(GARBAGE)
                read_until_eof(sock)
            case "head":
                sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-le")
            case "body":
                sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
            case "reset":
                reset(sock)
            case "close":
                pass
        raise Broken

    # --- HTTP/2 ----------------------------------------------------------------------------------

    def _http2(self, sock: socket.socket, peer: str) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        sock.sendall(connection.data_to_send())
        heads: dict[int, dict[str, str]] = {}
        bodies: dict[int, bytes] = {}
        hanging: set[int] = set()
        try:
            while data := sock.recv(1 << 18):
                for event in connection.receive_data(data):
                    match event:
                        case h2.events.RequestReceived(stream_id=stream, headers=fields):
                            heads[stream], bodies[stream] = dict(fields), b""
                        case h2.events.DataReceived(stream_id=stream, data=more, flow_controlled_length=size):
                            bodies[stream] += more
                            connection.acknowledge_received_data(size, stream)
                        case h2.events.StreamEnded(stream_id=stream):
                            order = self._take_http2(heads.pop(stream), bodies.pop(stream), peer)
                            if order.hang:
                                hanging.add(stream)
                            else:
                                self._answer_http2(sock, connection, stream, order)
                        case h2.events.StreamReset(stream_id=stream) if stream in hanging:
                            hanging.remove(stream)
                            self.board.gone()
                sock.sendall(connection.data_to_send())
        finally:
            for _ in hanging:
                self.board.gone()

    def _take_http2(self, head: dict[str, str], body: bytes, peer: str) -> Order:
        path, _, query = head[":path"].partition("?")
        return self.board.take(
            Asked(head[":method"], path, query, head, len(body), digest(body), "2", peer, time.monotonic())
        )

    def _answer_http2(
        self, sock: socket.socket, connection: h2.connection.H2Connection, stream: int, order: Order
    ) -> None:
        time.sleep(order.delay)
        body = self.board.name.encode() if order.body is None else order.body
        match order.cut:
            case "":
                head = [(":status", str(order.status)), ("content-length", str(len(body))), *order.headers]
                connection.send_headers(stream, head)
                connection.send_data(stream, body, end_stream=True)
            case "reset":
                connection.reset_stream(stream, INTERNAL_ERROR)
            case "refuse":
                connection.reset_stream(stream, REFUSED_STREAM)
            case "body":
                connection.send_headers(stream, [(":status", "200"), ("content-length", "100")])
                connection.send_data(stream, b"half")
                connection.reset_stream(stream, INTERNAL_ERROR)
            case "garbage":
                sock.sendall(GARBAGE)
                raise Broken
            case "close":
                sock.sendall(connection.data_to_send())
                raise Broken


@contextmanager
def raw_serving(name: str) -> Iterator[Raw]:
    """A server for the length of the block."""
    raw = Raw(name)
    with serving(raw.handle) as raw.tcp:
        yield raw
