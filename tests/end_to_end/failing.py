"""What a server of these tests is told to do, and what it has seen: a Board, shared by the server and the test.

Servers answer well until they are told otherwise. An order for a path stands until it is taken back; orders `next` are
used up one by one by the requests that come for other paths; `always` is for the rest.
"""

import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Order:
    """How one request is answered.

    `hang` and `delay` (seconds) come before the answer. `cut` is for raw servers: how the connection or stream is
    broken, see failing_raw.py. `grpc` is for gRPC servers; `early` sends their head before the status, so that the
    status comes in trailers.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    """None: the name of the server."""
    delay: float = 0.0
    hang: bool = False
    cut: str = ""
    grpc: str = "OK"
    early: bool = False
    parts: int = 1
    """The body is sent so many times, with `delay` between them."""
    turns: bool = False
    """Requests that are told so wait for each other: the server can do no more than one at a time."""


class Asked(NamedTuple):
    """One request as the server had it. `connection` is the address of its peer, `at` monotonic seconds."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    size: int
    digest: str
    version: str
    connection: str
    at: float


@dataclass
class Board:
    """Orders for one server, and what it saw. `left` is when (monotonic seconds) clients went before their answer was
    complete; `active` how many requests it has in hand."""

    name: str
    usual: Order = Order()
    asked: list[Asked] = field(default_factory=list)
    left: list[float] = field(default_factory=list)
    active: int = 0
    most: int = 0
    _queue: deque[Order] = field(default_factory=deque)
    _places: dict[str, Order] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, order: Order, times: int = 1) -> None:
        """The next requests are answered so."""
        with self._lock:
            self._queue.extend([order] * times)

    def always(self, order: Order) -> None:
        """All others are answered so."""
        self.usual = order

    def at(self, path: str, order: Order) -> None:
        """Requests for this path, health checks for example, are always answered so."""
        with self._lock:
            self._places[path] = order

    def clear(self) -> None:
        """Forget all orders and all that was seen."""
        with self._lock:
            self.usual = Order()
            self.asked, self.left = [], []
            self.most = self.active
            self._queue.clear()
            self._places.clear()

    def take(self, request: Asked) -> Order:
        """Note a request and say how it is answered."""
        with self._lock:
            self.asked.append(request)
            if request.path in self._places:
                return self._places[request.path]
            return self._queue.popleft() if self._queue else self.usual

    @contextmanager
    def working(self) -> Iterator[None]:
        """A request is in hand while the block runs."""
        with self._lock:
            self.active += 1
            self.most = max(self.most, self.active)
        try:
            yield
        finally:
            with self._lock:
                self.active -= 1

    def gone(self) -> None:
        """A client has left before the end of its answer."""
        with self._lock:
            self.left.append(time.monotonic())

    def seen(self, path: str = "", method: str = "") -> list[Asked]:
        """Requests for this path (any where empty) and method."""
        with self._lock:
            return [one for one in self.asked if path in ("", one.path) and method in ("", one.method)]

    def count(self, path: str = "", method: str = "") -> int:
        """How many of them there were."""
        return len(self.seen(path, method))

    def connections(self) -> set[str]:
        """Peers that requests came from."""
        return {one.connection for one in self.seen()}

    def paths(self) -> Counter[str]:
        """Requests by path."""
        return Counter(one.path for one in self.seen())


def counts(*boards: Board, path: str = "") -> list[int]:
    """How many requests each has seen."""
    return [board.count(path) for board in boards]


def clear(*boards: Board) -> None:
    """All of them begin again."""
    for board in boards:
        board.clear()


def digest(body: bytes) -> str:
    """As in Asked."""
    return hashlib.sha256(body).hexdigest()
