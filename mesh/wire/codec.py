"""The seam between protocol machines and their users: one vocabulary of events and one set of commands for all of HTTP.

A codec is one connection's protocol state in one role. It is fed bytes and returns events; commands queue bytes that
`take` hands out. Streams are numbered as HTTP/2 numbers them; an HTTP/1.1 codec numbers its exchanges 1, 3, 5 and so
on.

Rules that every codec keeps:

* It never raises on what a peer sends. A message that must be refused becomes `Refused` (one stream) or `Broken` (the
  whole connection); what the peer should be told (RST_STREAM, GOAWAY, a 400) is queued already. Nothing follows
  `Broken`.
* A malformed request or response is never shown as `Request` or `Response`.
* After `Data`, `Request` or `Response` with `end`, or `Trailers`, no more comes for that direction of the stream.
* After `Reset` or `Refused` nothing more comes for the stream, and nothing may be sent on it.
* Commands for a stream that is gone (the peer reset it, the event is still on its way to you) do nothing.
* `Data` is not given back to the peer's window until `acknowledge`; a codec whose `wants_read` is False is not to be
  fed.
"""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec

from mesh.wire.head import Field, Head


class Role(enum.Enum):
    """Which side of the connection we are."""

    CLIENT = "client"
    SERVER = "server"


class Request(msgspec.Struct, gc=False):
    """A request's head; `end`: it has no body."""

    stream: int
    head: Head
    end: bool


class Response(msgspec.Struct, gc=False):
    """A final response head, 101 included (the connection is then raw bytes both ways, shown as `Data`)."""

    stream: int
    head: Head
    end: bool


class Informational(msgspec.Struct, gc=False):
    """A 1xx response other than 101 (RFC 9110 section 15.2)."""

    stream: int
    head: Head


class Data(msgspec.Struct, gc=False):
    """Some of a body; `end`: the last of it, perhaps empty."""

    stream: int
    data: bytes
    end: bool


class Trailers(msgspec.Struct, gc=False):
    """Trailer fields; they end the direction."""

    stream: int
    fields: tuple[Field, ...]


class Reset(msgspec.Struct, gc=False):
    """The stream was ended early: by the peer, or by the connection's end.

    `unprocessed` says that the peer certainly did nothing with the request (REFUSED_STREAM, above GOAWAY's last
    stream), so that any request may be sent again (RFC 9113 section 8.7)."""

    stream: int
    code: int
    unprocessed: bool
    reason: str


class Refused(msgspec.Struct, gc=False):
    """The peer's message on this stream was malformed or over a bound; the codec has answered. `reason` is one
    word_like_this."""

    stream: int
    reason: str


class GoAway(msgspec.Struct, gc=False):
    """The peer takes no new streams. Streams above `last_stream` also get `Reset(unprocessed=True)`."""

    last_stream: int
    code: int


class Broken(msgspec.Struct, gc=False):
    """The connection is over because of what the peer sent (or because it ended in mid-message). Every open stream has
    had its `Reset` before this. `reason` is one word_like_this, for metrics; `detail` is a sentence for people."""

    reason: str
    detail: str


Event = Request | Response | Informational | Data | Trailers | Reset | Refused | GoAway | Broken


class Codec(Protocol):
    """One connection's protocol machine."""

    name: str
    """http1 | http2"""

    half_close: bool
    """Raw HTTP/1.1 (after 101 or CONNECT): all has been sent in our direction; shut it once the bytes are out."""

    def start(self) -> None:
        """Queue what opens the connection (HTTP/2: preface and SETTINGS)."""

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the peer; `b""` returns events that fell due since (a pipelined request, say)."""

    def receive_eof(self) -> list[Event]:
        """The peer has closed its direction. Ends what depended on it, by `Reset`, or `Data(end=True)` where EOF is the
        end."""

    def take(self) -> bytes:
        """All bytes queued for the peer that its windows allow; empty if none."""

    def send_request(self, head: Head, end: bool) -> int:
        """Client role: open a stream and return its number. Only while `can_open`."""

    def send_response(self, stream: int, head: Head, end: bool) -> None: ...

    def send_informational(self, stream: int, head: Head) -> None: ...

    def send_data(self, stream: int, data: bytes, end: bool) -> None: ...

    def send_trailers(self, stream: int, fields: tuple[Field, ...]) -> None: ...

    def reset(self, stream: int, code: int) -> None:
        """End a stream early. On HTTP/1.1 the connection ends with it."""

    def acknowledge(self, stream: int, amount: int) -> None:
        """`amount` bytes of `Data` have been dealt with: the peer may send as many more."""

    def queued(self, stream: int) -> int:
        """Body bytes queued for the peer on this stream; 0: on the whole connection."""

    def waiting(self) -> list[int]:
        """Streams whose body bytes the peer's windows do not let go. HTTP/1.1 has no windows, and so none."""

    def shutdown(self, final: bool) -> None:
        """Drain: HTTP/2 announces GOAWAY (2^31-1 first, the last stream when `final`); HTTP/1.1 ends with the next
        response, and when `final` at once if it is idle."""

    def tick(self, now: float) -> bool:
        """Called about once a second with any monotonic time, in seconds. True: the peer has left a head unfinished for
        longer than `limits.header_timeout`, and should be cut off. Rates of what a peer may do begin anew here."""

    @property
    def can_open(self) -> bool:
        """Client role: a request can be sent now (below the peer's stream limit, no GOAWAY, not closing)."""

    @property
    def active(self) -> int:
        """Streams that are open."""

    @property
    def wants_read(self) -> bool: ...

    @property
    def due(self) -> bool:
        """`receive(b"")` may return something: a request was pipelined behind the one that has been answered."""

    @property
    def wants_write(self) -> bool:
        """`take` would return something."""

    @property
    def restless(self) -> bool:
        """`finished`, `half_close` or `wants_read` may be other than they usually are. One cheap look instead of
        three."""

    @property
    def finished(self) -> bool:
        """Nothing more will come or go once what is queued is sent: close the socket then."""


NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR = 0x0, 0x1, 0x2
REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0x7, 0x8, 0xB
