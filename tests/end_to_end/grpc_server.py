"""A grpcio server whose methods take and return bytes, so that no generated code is needed, and its client's stubs."""

import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0))
LONG_SECONDS = 30.0

left: "queue.Queue[float]" = queue.Queue()
"""When (monotonic seconds) a caller of Hold, HoldStream or HoldUpload was seen to go."""
entered: "queue.Queue[float]" = queue.Queue()


def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
    """The request, sent back, with the metadata that it came with, in front and at the end."""
    given = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-seen", str(given.get("x-test", ""))),))
    context.set_trailing_metadata((("x-trailing", "the end"), ("x-binary-bin", bytes(range(256)))))
    return request


def total(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    """How many messages and bytes came."""
    count = size = 0
    for request in requests:
        count += 1
        size += len(request)
    return b"%d %d" % (count, size)


def count(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    """As many messages as asked for."""
    for number in range(int(request)):
        yield b"%d" % number


def chat(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    """Answers each message before it reads the next one."""
    for request in requests:
        yield request.upper()


def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
    """The status that the request names, with words that need encoding."""
    context.abort(grpc.StatusCode[request.decode()], "größer than 100%")
    raise AssertionError("abort raises")


def hold(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Answers when the caller has gone."""
    _wait(context)
    return b""


def hold_stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    """Says one thing, and then nothing until the caller has gone."""
    yield b"first"
    _wait(context)


def hold_upload(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    """Reads one message, and then nothing until the caller has gone."""
    next(requests)
    _wait(context)
    return b""


def _wait(context: grpc.ServicerContext) -> None:
    gone: queue.Queue[float] = queue.Queue()
    if not context.add_callback(lambda: gone.put(time.monotonic())):
        gone.put(time.monotonic())
    entered.put(time.monotonic())
    left.put(gone.get(timeout=LONG_SECONDS))


HANDLERS: dict[str, grpc.RpcMethodHandler] = {
    "/test.Test/Unary": grpc.unary_unary_rpc_method_handler(unary),
    "/test.Test/Total": grpc.stream_unary_rpc_method_handler(total),
    "/test.Test/Count": grpc.unary_stream_rpc_method_handler(count),
    "/test.Test/Chat": grpc.stream_stream_rpc_method_handler(chat),
    "/test.Test/Fail": grpc.unary_unary_rpc_method_handler(fail),
    "/test.Test/Hold": grpc.unary_unary_rpc_method_handler(hold),
    "/test.Test/HoldStream": grpc.unary_stream_rpc_method_handler(hold_stream),
    "/test.Test/HoldUpload": grpc.stream_unary_rpc_method_handler(hold_upload),
}


class Methods(grpc.GenericRpcHandler):
    """All of HANDLERS."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return HANDLERS.get(details.method)


@contextmanager
def running() -> Iterator[int]:
    """The port of a server that runs for the length of the block."""
    with ThreadPoolExecutor(32) as pool:
        server = grpc.server(pool, handlers=[Methods()], options=OPTIONS)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


@contextmanager
def channel(target: int | str, *options: tuple[str, Any]) -> Iterator[grpc.Channel]:
    """A channel of its own (grpcio would share connections between equal ones) to a loopback port or a target."""
    address = f"127.0.0.1:{target}" if isinstance(target, int) else target
    own = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1), *options)
    with grpc.insecure_channel(address, options=own) as opened:
        yield opened


def stub(opened: grpc.Channel, method: str) -> Callable[..., Any]:
    """A method of HANDLERS, by its short name, as grpcio's callable of the right kind."""
    path = f"/test.Test/{method}"
    handler: Any = HANDLERS[path]
    way = {(False, False): "unary_unary", (True, False): "stream_unary", (False, True): "unary_stream"}
    kind = way.get((handler.request_streaming, handler.response_streaming), "stream_stream")
    made: Callable[..., Any] = getattr(opened, kind)(path)
    return made
