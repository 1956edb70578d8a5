"""One request from within the test, over HTTP/1.1 or HTTP/2, and its answer; many at once, on connections of their
own."""

import functools
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import httpx

from tests.end_to_end.grpc_server import channel
from tests.end_to_end.sidecar import Sidecar

SECONDS = 20.0
BOTH = ("http1", "http2")


class Answer(NamedTuple):
    """A response. `text` is its body; `reason` the proxy's `conduit-error`, empty where the application answered."""

    status: int
    headers: Mapping[str, str]
    text: str
    version: str

    @property
    def reason(self) -> str:
        return self.headers.get("conduit-error", "")


@functools.cache
def _no_tls() -> ssl.SSLContext:
    """Made once: it takes longer than a request."""
    return ssl.create_default_context()


def client(version: str = "http1", seconds: float = SECONDS, source: str = "127.0.0.1") -> httpx.Client:
    """A client that keeps its connections and knows one version; close it. `source` is the address it calls from."""
    one = version == "http1"
    way = httpx.HTTPTransport(http1=one, http2=not one, verify=_no_tls(), local_address=source)
    return httpx.Client(transport=way, trust_env=False, timeout=seconds)


def ask(
    sidecar: Sidecar,
    service: str,
    path: str = "/",
    *,
    version: str = "http1",
    method: str = "GET",
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
    by: httpx.Client | None = None,
) -> Answer:
    """One request to the sidecar's listener of a service, on a connection of its own unless there is a client."""
    if by is None:
        with client(version) as own:
            return ask(sidecar, service, path, method=method, headers=headers, body=body, by=own)
    fields = {"host": service, **dict(headers)}
    got = by.request(method, sidecar.url(service, path), headers=fields, content=body)
    return Answer(got.status_code, got.headers, got.text, got.http_version)


def together(count: int, one: Callable[[], Any]) -> list[Any]:
    """As many at once, each in a thread."""
    with ThreadPoolExecutor(count) as pool:
        return [done.result() for done in [pool.submit(one) for _ in range(count)]]


class Called(NamedTuple):
    """What became of a call: its code's name, the words with it, and trailing metadata."""

    code: str
    details: str
    trailing: dict[str, Any]
    message: bytes = b""

    @property
    def reason(self) -> str:
        return str(self.trailing.get("conduit-error", ""))


def call(
    port: int,
    method: str = "/test.Calls/One",
    message: bytes = b"words",
    *,
    seconds: float | None = SECONDS,
    metadata: Sequence[tuple[str, str]] = (),
) -> Called:
    """One unary gRPC call, on a channel of its own, without retries by grpcio."""
    with channel(port, ("grpc.enable_retries", 0)) as opened:
        return call_on(opened, method, message, seconds=seconds, metadata=metadata)


def call_on(
    opened: grpc.Channel,
    method: str = "/test.Calls/One",
    message: bytes = b"words",
    *,
    seconds: float | None = SECONDS,
    metadata: Sequence[tuple[str, str]] = (),
) -> Called:
    """The same on a channel that is there already."""
    try:
        answer, done = opened.unary_unary(method).with_call(message, timeout=seconds, metadata=tuple(metadata))
    except grpc.RpcError as error:
        failed: Any = error
        return Called(failed.code().name, failed.details(), dict(failed.trailing_metadata() or ()))
    return Called("OK", "", dict(done.trailing_metadata()), answer)
