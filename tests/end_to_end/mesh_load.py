"""Load from within the test: threads that send requests through a sidecar until they are told to stop.

A failure is any answer but 200 (or grpc-status OK), any exception, any connection that broke. Each is kept with when it
was sent and when it failed, in monotonic seconds.
"""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import grpc
import httpx

from tests.end_to_end.grpc_server import channel, stub
from tests.end_to_end.sidecar import StillWaiting, wait_until

PAUSE_SECONDS = 0.01
ANSWER_SECONDS = 30.0
JOIN_SECONDS = 40.0


class Failure(NamedTuple):
    """One request that failed."""

    kind: str
    sent: float
    failed: float
    what: str


class Once(NamedTuple):
    """How to send one request: `send` returns what was wrong, or nothing; `again` makes a fresh connection."""

    send: Callable[[], str]
    again: Callable[[], None]


class Load:
    """A running load. `counts` are requests answered well, by kind."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.failures: list[Failure] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def add(self, kind: str, make: Callable[[], Any], threads: int) -> None:
        """`make` gives a context manager of a Once; each thread has its own."""
        self.counts[kind] = 0
        for _ in range(threads):
            thread = threading.Thread(target=self._run, args=(kind, make), name=kind, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, kind: str, make: Callable[[], Any]) -> None:
        with make() as once:
            while not self._stop.wait(PAUSE_SECONDS):
                sent = time.monotonic()
                try:
                    wrong = once.send()
                except (OSError, http.client.HTTPException, httpx.HTTPError, grpc.RpcError) as exc:
                    wrong = f"{type(exc).__name__}: {exc}"
                    once.again()
                with self._lock:
                    if wrong:
                        self.failures.append(Failure(kind, sent, time.monotonic(), wrong))
                    else:
                        self.counts[kind] += 1

    def more(self, count: int, seconds: float = 30.0) -> None:
        """Returns when each kind has been answered so many times more."""
        wanted = {kind: done + count for kind, done in self.counts.items()}
        try:
            wait_until(lambda: all(self.counts[k] >= n for k, n in wanted.items()), f"{wanted} answers", seconds)
        except StillWaiting as exc:
            raise StillWaiting(f"{exc}; had {self.counts}; failures {self.failures[-3:]}") from exc

    def stop(self) -> None:
        """Returns when the last request is over."""
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
            assert not thread.is_alive(), f"a request of {thread.name} hangs"


@contextmanager
def http1(proxy: int, service: str, path: str, method: str = "GET") -> Iterator[Once]:
    """Absolute-form requests on one connection that is kept; a POST has a body."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy, timeout=ANSWER_SECONDS)

    def send() -> str:
        connection.request(method, f"http://{service}{path}", b"words" if method == "POST" else None, {"Host": service})
        response = connection.getresponse()
        body = response.read()
        return "" if response.status == 200 else f"{response.status} {response.headers.get('conduit-error')} {body!r}"

    try:
        yield Once(send, connection.close)
    finally:
        connection.close()


@contextmanager
def http2(proxy: int, service: str, path: str) -> Iterator[Once]:
    """HTTP/2 with prior knowledge, on one connection."""
    with httpx.Client(http1=False, http2=True, trust_env=False, timeout=ANSWER_SECONDS) as client:

        def send() -> str:
            answer = client.get(f"http://127.0.0.1:{proxy}{path}", headers={"Host": service})
            assert answer.http_version == "HTTP/2"
            return "" if answer.status_code == 200 else f"{answer.status_code} {answer.text}"

        yield Once(send, lambda: None)


@contextmanager
def grpc_calls(proxy: int, service: str) -> Iterator[Once]:
    """gRPC as grpcio does it behind a proxy: CONNECT, then HTTP/2."""
    way = ("grpc.http_proxy", f"http://127.0.0.1:{proxy}")
    with channel(f"dns:///{service}:80", way) as opened:
        call = stub(opened, "Unary")

        def send() -> str:
            return "" if call(b"words", timeout=ANSWER_SECONDS) == b"words" else "not what was sent"

        yield Once(send, lambda: None)


@contextmanager
def load_of(*kinds: tuple[str, Callable[[], Any], int]) -> Iterator[Load]:
    """A load of (name, factory, threads) that ends with the block at the latest."""
    load = Load()
    with ExitStack() as stack:
        stack.callback(load.stop)
        for kind, make, threads in kinds:
            load.add(kind, make, threads)
        yield load
