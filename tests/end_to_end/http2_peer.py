"""An HTTP/2 server and client on the `h2` library that show what a peer does to a stream, which real servers hide."""

import hashlib
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from tests.end_to_end.tcp_server import TcpServer, serving

SECONDS = 30.0
BLOCK = bytes(16 * 1024)


class Http2Server:
    """Answers by path: /ok and /trailers at once, /hold never, /stream without end, /upload with its digest.

    Each request goes into `events` as (what, monotonic seconds): `entered`, then `left` if the client reset the stream
    or the connection was lost before the answer was complete. Without `gate` being set, nothing is read.
    """

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[str, float]] = queue.Queue()
        self.trailers: queue.Queue[list[tuple[str, str]]] = queue.Queue()
        self.active = 0
        self.gate = threading.Event()
        self.gate.set()
        self.tcp: TcpServer

    def handle(self, sock: socket.socket) -> None:
        """One connection, to its end."""
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        connection.update_settings({h2.settings.SettingCodes.MAX_FRAME_SIZE: 65536})
        sock.sendall(connection.data_to_send())
        paths: dict[int, str] = {}
        digests = {}
        try:
            while True:
                self.gate.wait(SECONDS)
                data = sock.recv(1 << 18)
                if not data:
                    return
                for event in connection.receive_data(data):
                    stream = getattr(event, "stream_id", 0)
                    match event:
                        case h2.events.RequestReceived(headers=headers):
                            paths[stream] = dict(headers)[":path"]
                            self.active += 1
                            self.events.put(("entered", time.monotonic()))
                            if paths[stream] == "/ok":
                                self._answer(connection, stream, b"ok")
                                del paths[stream]
                                self.active -= 1
                            elif paths[stream] == "/trailers":
                                connection.send_headers(stream, [(":status", "200")])
                                connection.send_data(stream, b"body")
                                connection.send_headers(stream, [("x-sum", "42")], end_stream=True)
                                del paths[stream]
                                self.active -= 1
                            elif paths[stream] == "/stream":
                                connection.send_headers(stream, [(":status", "200")])
                            elif paths[stream] == "/upload":
                                digests[stream] = hashlib.sha256()
                        case h2.events.DataReceived(data=body, flow_controlled_length=size):
                            if stream in digests:
                                digests[stream].update(body)
                            if stream in paths and paths[stream] != "/hold":
                                connection.acknowledge_received_data(size, stream)
                        case h2.events.TrailersReceived(headers=headers):
                            self.trailers.put(headers)
                        case h2.events.StreamEnded() if stream in digests and paths[stream] == "/upload":
                            self._answer(connection, stream, digests.pop(stream).hexdigest().encode())
                            del paths[stream]
                            self.active -= 1
                        case h2.events.StreamReset() if stream in paths:
                            del paths[stream]
                            self.active -= 1
                            self.events.put(("left", time.monotonic()))
                for stream, path in paths.items():
                    if path == "/stream":
                        while connection.local_flow_control_window(stream) >= len(BLOCK):
                            connection.send_data(stream, BLOCK)
                sock.sendall(connection.data_to_send())
        finally:
            for _ in paths:
                self.active -= 1
                self.events.put(("left", time.monotonic()))

    @staticmethod
    def _answer(connection: h2.connection.H2Connection, stream: int, body: bytes) -> None:
        connection.send_headers(stream, [(":status", "200"), ("content-length", str(len(body)))])
        connection.send_data(stream, body, end_stream=True)


@contextmanager
def http2_serving() -> Iterator[Http2Server]:
    """A server for the length of the block."""
    server = Http2Server()
    with serving(server.handle) as server.tcp:
        yield server


class Http2Client:
    """One connection with prior knowledge (RFC 9113 section 3.3). `lost` once the server has closed it."""

    def __init__(self, port: int, seconds: float = 20.0) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.connection.initiate_connection()
        self.lost = False
        self.sock.sendall(self.connection.data_to_send())

    def request(self, path: str, *, method: str = "GET", end: bool = True, authority: str = "web") -> int:
        """Open a stream; returns its number."""
        stream = self.connection.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path)]
        self.connection.send_headers(stream, fields, end_stream=end)
        self.flush()
        return stream

    def flush(self) -> None:
        """Send what the library has queued."""
        self.sock.sendall(self.connection.data_to_send())

    def receive(self) -> list[h2.events.Event]:
        """Wait for bytes and return what they mean; all data is acknowledged. Empty at the end of the connection."""
        data = self.sock.recv(1 << 18)
        if not data:
            self.lost = True
            return []
        events = self.connection.receive_data(data)
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                # a stream that has ended wants no window, the connection does
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()
        return events

    def reset(self, stream: int) -> None:
        """Give a request up."""
        self.connection.reset_stream(stream, 0x8)
        self.flush()

    def close(self) -> None:
        self.sock.close()
