"""A grpcio server whose methods, all unary and of any name, do what their Board says; and grpc.health.v1.

Messages are bytes, so that no generated code is needed. A deadline that the server was told is in `headers` as
`time-remaining`, in seconds.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from tests.end_to_end.failing import Asked, Board, digest
from tests.end_to_end.grpc_server import OPTIONS

SECONDS = 30.0
HEALTH = "/grpc.health.v1.Health/Check"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
"""HealthCheckResponse, field 1: status."""
THREADS = 32


class Calls(grpc.GenericRpcHandler):
    """Answers every method. `healthy` is what the health service says."""

    def __init__(self, name: str) -> None:
        self.board = Board(name)
        self.healthy = True
        self.port = 0

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """One handler for each call, which knows the method's name."""
        path = details.method
        return grpc.unary_unary_rpc_method_handler(lambda message, context: self._serve(path, message, context))

    def _serve(self, path: str, message: bytes, context: grpc.ServicerContext) -> bytes:
        over = threading.Event()
        if not context.add_callback(over.set):
            over.set()
        headers = {str(key): str(value) for key, value in context.invocation_metadata()}
        if (remaining := context.time_remaining()) is not None:
            headers["time-remaining"] = f"{remaining:.6f}"
        asked = Asked("POST", path, "", headers, len(message), digest(message), "2", context.peer(), time.monotonic())
        with self.board.working():
            order = self.board.take(asked)
            if path == HEALTH:
                return SERVING if self.healthy else NOT_SERVING
            if order.early:
                context.send_initial_metadata((("x-server", self.board.name),))
            if (order.hang or order.delay) and over.wait(SECONDS if order.hang else order.delay):
                self.board.gone()
                return b""
            if order.headers:
                context.set_trailing_metadata(order.headers)
            if order.grpc != "OK":
                context.abort(grpc.StatusCode[order.grpc], f"{self.board.name} was told so")
            return self.board.name.encode() if order.body is None else order.body


@contextmanager
def grpc_serving(name: str) -> Iterator[Calls]:
    """A server for the length of the block."""
    calls = Calls(name)
    with ThreadPoolExecutor(THREADS) as pool:
        server = grpc.server(pool, handlers=[calls], options=OPTIONS)
        calls.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield calls
        finally:
            server.stop(None).wait()
