"""A grpcio server of Envoy's ext_authz v3 that does what the path of the request in question says, and keeps what it
was asked. It knows the protocol's own messages, and nothing of who asks."""

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse

from tests.end_to_end.grpc_server import OPTIONS

METHOD = "/envoy.service.auth.v3.Authorization/Check"
HOLD_SECONDS = 30.0


def header(name: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(header=HeaderValue(key=name, value=value))


def no(code: int = 7, **response: object) -> CheckResponse:
    return CheckResponse(status={"code": code}, denied_response=DeniedHttpResponse(**response))


ANSWERS: dict[str, CheckResponse] = {
    "deny": no(),
    "words": no(
        status={"code": 418},
        headers=[header("content-type", "text/html"), header("set-cookie", "a=1"), header("set-cookie", "b=2")],
        body="<h1>no</h1>",
    ),
    "bare": CheckResponse(status={"code": 16, "message": "who are you?"}),
    "login": no(status={"code": 302}, headers=[header("location", "https://login.example/")]),
    "edits": CheckResponse(
        ok_response=OkHttpResponse(
            headers=[header("x-user", "alice"), header("x-new", "1")],
            headers_to_remove=["x-secret", "X_Other"],
            response_headers_to_add=[header("x-from-authorizer", "yes")],
            query_parameters_to_remove=["token"],
        )
    ),
}


@dataclass
class Guard(grpc.GenericRpcHandler):
    """`asked` is every question so far, `left` gets a word for each caller that was seen to go before its answer."""

    asked: list[CheckRequest] = field(default_factory=list)
    entered: "queue.Queue[str]" = field(default_factory=queue.Queue)
    left: "queue.Queue[str]" = field(default_factory=queue.Queue)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return grpc.unary_unary_rpc_method_handler(self.check) if details.method == METHOD else None

    def check(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        request = CheckRequest.FromString(data)
        self.asked.append(request)
        http = request.attributes.request.http
        word = http.headers.get("x-do") or http.path.strip("/").split("?")[0]
        word, _, rest = word.partition("-")
        context.send_initial_metadata((("cache-control", f"max-age={rest}"),) if word == "cached" else ())
        if word == "hold":
            gone = threading.Event()
            if not context.add_callback(gone.set):
                gone.set()
            self.entered.put(http.path)
            if gone.wait(HOLD_SECONDS):
                self.left.put(http.path)
        elif word == "garbage":
            return b"\xff" * 20
        elif word == "abort":
            context.abort(grpc.StatusCode.INTERNAL, "größer than 100%")
        elif word == "huge":
            return CheckResponse(status={"message": "x" * 1_000_000}).SerializeToString()
        return ANSWERS.get(word, CheckResponse()).SerializeToString()

    def paths(self) -> list[str]:
        return [one.attributes.request.http.path for one in self.asked]


@contextmanager
def guarding(port: int = 0) -> Iterator[tuple[Guard, int]]:
    """A server that runs for the length of the block, and its port."""
    with ThreadPoolExecutor(16) as pool:
        guard = Guard()
        server = grpc.server(pool, handlers=[guard], options=OPTIONS)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield guard, port
        finally:
            server.stop(None).wait()
