"""What must hold of any codec, whatever a peer sends: the rules of `mesh.wire.codec`, checked event by event."""

from __future__ import annotations

from mesh.model.limits import Limits
from mesh.wire.codec import (
    CANCEL,
    Broken,
    Codec,
    Data,
    Event,
    GoAway,
    Informational,
    Refused,
    Request,
    Reset,
    Response,
    Role,
    Trailers,
)
from mesh.wire.head import Field, Head, UnsendableHead
from mesh.wire.http1 import Http1

LIMITS = Limits(header_bytes=4096, header_fields=20, streams=8, buffer_bytes=8192, stream_buffer_bytes=4096, resets=20)
MOST_QUEUED = 1 << 20
"""Bytes that we may owe a peer, whatever it sends: far above every bound in LIMITS."""


class Broke(AssertionError):
    """A rule does not hold."""


class Watcher:
    """Takes a codec's events and holds them against the rules; answers requests as `answers` (a byte each) says."""

    def __init__(self, codec: Codec, role: Role, answers: bytes = b"") -> None:
        self.codec, self.role = codec, role
        self._answers = list(answers)
        self.broken = False
        self.over: set[int] = set()
        self.ended: set[int] = set()
        self.heads: list[Head] = []
        self.told: list[tuple[object, ...]] = []
        """What was said, in a form that does not depend on how the bytes were split."""

    def feed(self, data: bytes) -> None:
        """Some bytes from the peer."""
        if self.broken or self.codec.finished or not self.codec.wants_read:
            return
        self.take(self.codec.receive(data))
        while self.codec.due and not self.broken:
            events = self.codec.receive(b"")
            if not events:
                break
            self.take(events)
        if len(self.codec.take()) > MOST_QUEUED:
            raise Broke("a peer that only talks is owed a megabyte")

    def eof(self) -> None:
        """The peer closes."""
        if not self.broken and not self.codec.finished:
            self.take(self.codec.receive_eof())
            self.codec.take()

    def take(self, events: list[Event]) -> None:
        """Check some events, and answer them."""
        for event in events:
            if self.broken:
                raise Broke(f"{event!r} after Broken")
            match event:
                case Broken():
                    self.broken = True
                case GoAway():
                    pass
                case Request() | Response() | Informational() | Data() | Trailers() | Reset() | Refused():
                    self._stream_event(event)
                case _:
                    raise Broke(f"{event!r} is no event")
            self._tell(event)
        for event in events:
            self._answer(event)

    def _stream_event(self, event: Request | Response | Informational | Data | Trailers | Reset | Refused) -> None:
        stream = event.stream
        if stream in self.over:
            raise Broke(f"{event!r} for a stream that is over")
        if isinstance(event, Reset | Refused):
            self.over.add(stream)
            return
        if stream in self.ended:
            raise Broke(f"{event!r} after the end")
        if isinstance(event, Request | Response | Informational):
            self.heads.append(event.head)
            check_head(event.head, isinstance(event, Request))
        if isinstance(event, Trailers) or (isinstance(event, Request | Response | Data) and event.end):
            self.ended.add(stream)

    def _tell(self, event: Event) -> None:
        told = self.told
        match event:
            case Data(stream, data, end):
                if told and told[-1][:2] == ("data", stream):
                    told[-1] = ("data", stream, told[-1][2] + data, end)  # type: ignore[operator]
                else:
                    told.append(("data", stream, data, end))
            case Request(stream, head, end) | Response(stream, head, end):
                told.append((type(event).__name__, stream, tuple(map(tuple, head.block))))
                if end:
                    told.append(("data", stream, b"", True))
            case Broken(reason):
                told.append(("broken", reason))
            case Refused(stream, reason):
                told.append(("refused", stream, reason))

    def _answer(self, event: Event) -> None:
        codec = self.codec
        if isinstance(event, Data) and event.data:
            codec.acknowledge(event.stream, len(event.data))
        if not isinstance(event, Request) or event.stream in self.over or self.broken:
            return
        how = self._answers.pop() if self._answers else 0
        if how % 5 == 4:
            codec.reset(event.stream, CANCEL)
            self.over.add(event.stream)
        elif how % 5 == 3:
            codec.send_response(event.stream, Head.response(204), True)
        else:
            codec.send_response(event.stream, Head.response(200, [(b"content-length", b"2")]), False)
            codec.send_data(event.stream, b"ok", True)


def check_head(head: Head, request: bool) -> None:
    """What is shown has no bytes that would mean something else one hop further."""
    for name, value in head.block:
        if not name or name != name.lower() or any(byte in name for byte in b"\r\n\0 \t"):
            raise Broke(f"a field called {name!r}")
        if any(byte in value for byte in b"\r\n\0"):
            raise Broke(f"{name!r} is {value!r}")
    if request:
        if not head.method or any(byte <= 0x20 for byte in head.method + head.path + head.authority):
            raise Broke(f"{head!r}")
        forwarded(head)


def forwarded(head: Head) -> None:
    """Said once more in HTTP/1.1, it is one request, and the same one."""
    client, server = Http1(Role.CLIENT, Limits()), Http1(Role.SERVER, Limits())
    if head.upgrade or head.method == b"CONNECT" or not head.authority:  # without a Host, it is HTTP/1.0's alone
        return
    try:
        client.send_request(head, True)
    except UnsendableHead:
        return
    events = server.receive(client.take())
    if len(events) != 1 or not isinstance(events[0], Request):
        raise Broke(f"{head.block!r} became {events!r}")
    again = events[0].head
    if (again.method, again.path) != (head.method, head.path) or server.due:
        raise Broke(f"{head!r} became {again!r}")
    _same_fields(head.block[:], again.block[:])


HOPS = frozenset({b"connection", b"keep-alive", b"te", b"upgrade", b"proxy-connection", b"transfer-encoding"})


def _same_fields(before: list[Field], after: list[Field]) -> None:
    def plain(block: list[Field]) -> list[Field]:
        return [
            (name, value)
            for name, value in block
            if name[:1] != b":" and name not in HOPS and name not in (b"content-length", b"host", b"cookie")
        ]

    if plain(before) != plain(after):
        raise Broke(f"{before!r} became {after!r}")
