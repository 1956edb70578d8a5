"""HTTP/1.1 in either role: RFC 9112 as a `mesh.wire.codec.Codec`. Hot: bench's HTTP/1 scenarios.

One exchange at a time. What the peer sends and what we send are two machines, which meet in `_over`:

    reading   HEAD -> LENGTH | CHUNKS | CLOSE -> WAIT      writing   HEAD -> LENGTH | CHUNKS | CLOSE | NONE -> WAIT
              101, CONNECT: -> RAW -> DEAD                           101, CONNECT: -> RAW -> DEAD
              answered early: -> DRAIN -> DEAD

When both are in WAIT the exchange is over. A server then reads the next HEAD; a client does when it sends the next
request, and whatever its upstream says unasked before that breaks the connection. All that ends a connection leads to
DEAD. Both machines are in this file, in either role, because each step of one depends on where the other is.

Rules beside those of `Codec`:

* Only a complete head is parsed (by `http1_head`): dribbled bytes cost one search of what is new. Chunks are
  `http1_chunks`', what is written is `http1_write`'s. Field names are lower case in both directions.
* Doubt ends the connection: after a refusal nothing that was received is looked at again and nothing is written but
  the refusal, and a client's connection with a doubtful response takes no further request.
* Pipelined requests wait unparsed until the response before them is queued in full; `receive(b"")` yields the next.
* A tunnel (101, CONNECT with 2xx) is raw bytes, shown as `Data`; its directions end one by one, see `half_close`. What
  is said before CONNECT has its answer waits; if the answer is no, the connection ends with it.
* A client that closes its direction while it waits for the response has gone (`Reset`), as nearly all that do so have.
* A response that begins before its request has been received ends the connection (RFC 9112 section 9.3); of the rest,
  `stream_buffer_bytes` or `header_timeout` is taken in and dropped: to close at once would reset it under the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.model.limits import Limits
from mesh.wire import http1_head, http1_write
from mesh.wire.codec import (
    CANCEL,
    INTERNAL_ERROR,
    PROTOCOL_ERROR,
    Broken,
    Data,
    Event,
    Informational,
    Request,
    Reset,
    Response,
    Role,
    Trailers,
)
from mesh.wire.head import Field, Head, UnsendableHead
from mesh.wire.http1_chunks import Chunks
from mesh.wire.http1_head import BODILESS, CHUNKED, TUNNEL, UNTIL_CLOSE, Malformed
from mesh.wire.http1_memo import read_request, read_response, request_bytes, response_bytes

__all__ = ["Http1", "UnsendableHead"]

HEAD, LENGTH, CHUNKS, CLOSE, NONE, WAIT, RAW, DRAIN, DEAD = range(9)
_STATES = ("HEAD", "LENGTH", "CHUNKS", "CLOSE", "NONE", "WAIT", "RAW", "DRAIN", "DEAD")
_FRAMINGS = {CHUNKED: CHUNKS, UNTIL_CLOSE: CLOSE, BODILESS: NONE, TUNNEL: NONE}


class Http1:
    """One HTTP/1.1 connection.

    `active` is 1 during an exchange or tunnel, else 0. `finished`: close the socket once `take` is empty. `half_close`:
    nothing more will be sent; shut the socket down for writing once `take` is empty, and go on reading. `aborted`: what
    was being sent was cut short, and only a reset (SO_LINGER 0) tells a peer that reads until the connection closes.
    """

    name = "http1"

    __slots__ = (
        "_asked", "_block", "_buffer", "_chunks", "_closing", "_due", "_early", "_head_since", "_informed", "_limits",
        "_method", "_modern", "_out", "_persists", "_queued", "_reading", "_remaining", "_scanned", "_server",
        "_skipped", "_stream", "_taken", "_to_send", "_unacknowledged", "_writing", "aborted", "active", "finished",
        "half_close",
    )  # fmt: skip

    def __init__(self, role: Role, limits: Limits) -> None:
        self._server = role is Role.SERVER
        self._limits = limits
        self._reading = HEAD if self._server else WAIT
        self._writing = WAIT if self._server else HEAD
        self._stream = -1
        self._buffer = bytearray()  # a head's beginning, or what waits for its turn
        self._head_since = 0.0  # when `tick` first saw an unfinished head
        self._scanned = 0  # of a head's beginning: holds no empty line
        self._remaining = 0  # body bytes to come
        self._to_send = 0  # body bytes that we have promised
        self._chunks: Chunks | None = None
        self._due: list[Event] = []
        self._out: list[bytes] = []
        self._queued = 0
        self._taken = False  # something of this exchange has been handed out
        self._unacknowledged = 0
        self._method = b""
        self._asked = b""  # the protocol to switch to
        self._modern = True
        self._block: Sequence[Field] = ()  # of the request, server role
        self._informed = 0  # 1xx responses to this request
        self._skipped = False  # an empty line before the request
        self._early = b""  # said before CONNECT has its answer
        self._persists = True
        self._closing = False
        self.active = 0
        self.finished = False
        self.half_close = False
        self.aborted = False

    def __repr__(self) -> str:
        role = "server" if self._server else "client"
        states = f"reading {_STATES[self._reading]}, writing {_STATES[self._writing]}"
        return f"<Http1 {role}, {states}, stream {self._stream}>"

    def start(self) -> None:
        """Nothing opens an HTTP/1.1 connection."""

    # --- reading -----------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        events = self._due
        self._due = []
        buffer = self._buffer
        if self._server and not buffer and self._reading == HEAD and data[-4:] == b"\r\n\r\n":
            end = data.find(b"\r\n\r\n")
            if 0 < end == len(data) - 4 <= self._limits.header_bytes and data[0] != 0x0D:
                self._request(data[:end], events)  # the usual: one whole head without a body, and nothing behind it
                return events
        source: bytes | bytearray = data
        if buffer:
            buffer += data
            source = buffer
        size = len(source)
        position = 0
        while position < size:
            reading = self._reading
            if reading == HEAD:
                if source[position] == 0x0D:
                    skip = self._empty_line(source, position, events)
                    if not skip:
                        break
                    position += skip
                    continue
                end = source.find(b"\r\n\r\n", position + self._scanned)
                if end < 0 or end - position > self._limits.header_bytes:
                    self._incomplete(source, position, events)
                    break
                raw = source[position:end]
                self._scanned = 0
                self._head_since = 0.0
                position = end + 4
                if self._server:
                    self._request(bytes(raw), events)
                else:
                    self._response(bytes(raw), events)
            elif reading == LENGTH:
                remaining = self._remaining
                if size - position < remaining:
                    self._remaining = remaining - (size - position)
                    events.append(self._data(source[position:], False))
                    position = size
                else:
                    events.append(self._data(source[position : position + remaining], True))
                    position += remaining
                    self._read_all()
            elif reading == CHUNKS:
                position = self._decode(source, position, events)
            elif reading in (CLOSE, RAW):
                events.append(self._data(source[position:], False))
                position = size
            elif reading == WAIT:
                if self._server:
                    break
                self._broken(events, "unexpected_bytes", "the upstream sent something that no request had asked for")
            elif reading == DRAIN:  # what is left of a request that has been answered: the connection ends with it
                self._remaining -= size - position
                position = size
                if self._remaining <= 0:
                    self._end()
            else:
                position = size
        if self._reading == DEAD:
            buffer.clear()
        elif source is buffer:
            del buffer[:position]
        elif position < size:
            buffer += source[position:] if position else source
        return events

    def _data(self, data: bytes | bytearray, end: bool) -> Data:
        self._unacknowledged += len(data)
        return Data(self._stream, bytes(data), end)

    def _request(self, raw: bytes, events: list[Event]) -> None:
        """A request's head is complete."""
        try:
            head, length, persists, self._modern = read_request(raw, self._limits.header_fields)
        except Malformed as bad:
            self._refuse(events, bad)
            return
        self._stream += 2
        self.active = 1
        self._taken = False
        self._writing = HEAD
        self._method = head.method
        self._asked = head.upgrade
        self._block = head.block
        self._skipped = False
        self._unacknowledged = 0
        self._persists = persists and not self._closing
        if length == 0:
            self._reading = WAIT
            events.append(Request(self._stream, head, True))
            return
        if length > 0:
            self._reading = LENGTH
            self._remaining = length
        elif length == CHUNKED:
            self._begin_chunks()
        else:
            self._reading = WAIT  # a tunnel is one only when the answer says so
            self._persists = False
        events.append(Request(self._stream, head, False))

    def _response(self, raw: bytes, events: list[Event]) -> None:
        """A response's head is complete."""
        try:
            head, length, persists = read_response(raw, self._limits.header_fields, self._method, self._asked)
        except Malformed as bad:
            self._broken(events, bad.reason, bad.detail)
            return
        if head.status == 101 and self._writing != WAIT:
            self._broken(events, "upgrade_early", "the upstream switches protocols in the middle of the request")
            return
        if not persists:
            self._persists = False
        stream = self._stream
        if head.status < 200 and length == 0:
            self._informed += 1
            if self._informed > self._limits.informational:
                self._broken(events, "informational_flood", "the upstream sends 1xx responses without end")
            else:
                events.append(Informational(stream, head))
        elif length == 0:
            events.append(Response(stream, head, True))
            self._read_all()
        else:
            events.append(Response(stream, head, False))
            if length > 0:
                self._reading = LENGTH
                self._remaining = length
            elif length == CHUNKED:
                self._begin_chunks()
            elif length == UNTIL_CLOSE:
                self._reading = CLOSE
            else:
                self._tunnel()

    def _begin_chunks(self) -> None:
        self._reading = CHUNKS
        if self._chunks is None:
            self._chunks = Chunks(self._limits)
        self._chunks.begin()

    def _decode(self, source: bytes | bytearray, position: int, events: list[Event]) -> int:
        """Decode chunks; returns the position after them."""
        chunks = self._chunks
        assert chunks is not None
        try:
            body, position = chunks.feed(source, position)
        except Malformed as bad:
            self._refuse(events, bad)
            return len(source)
        if not chunks.done:
            if body:
                events.append(self._data(body, False))
            return position
        if chunks.trailers:
            if body:
                events.append(self._data(body, False))
            events.append(Trailers(self._stream, chunks.trailers))
        else:
            events.append(self._data(body, True))
        self._read_all()
        return position

    def _empty_line(self, source: bytes | bytearray, position: int, events: list[Event]) -> int:
        """An empty line stands where a message should begin. Returns how many bytes of it are to be skipped.

        One before a request is an old client's mistake (RFC 9112 section 2.2); more, or before a response, are doubt.
        """
        if len(source) - position < 2:
            return 0
        if self._server and not self._skipped and source[position + 1] == 0x0A:
            self._skipped = True
            return 2
        self._refuse(events, Malformed("start_line", "an empty line stands where a message should begin"))
        return 0

    def _incomplete(self, source: bytes | bytearray, position: int, events: list[Event]) -> None:
        """No whole head is there: refuse what cannot become one."""
        size = len(source) - position
        if size > self._limits.header_bytes:
            limit = self._limits.header_bytes
            self._refuse(events, Malformed("header_bytes", f"the head exceeds {limit} bytes", 431))
            return
        bad = http1_head.check_beginning(source, position, self._scanned, self._server)
        if bad is not None:
            self._refuse(events, bad)
            return
        self._scanned = max(0, size - 3)

    def receive_eof(self) -> list[Event]:
        events = self._due
        self._due = []
        reading = self._reading
        if reading == DEAD:
            return events
        if reading in (RAW, CLOSE):
            events.append(Data(self._stream, b"", True))
            if reading == CLOSE:
                self._read_all()
            else:
                self._reading = DEAD
                if self._writing == DEAD:
                    self._end()
        elif reading == DRAIN:
            self._end()
        elif self.active and self._server and reading == WAIT:
            self._broken(events, "client_closed", "the client closed before its answer was complete", CANCEL)
        elif self.active or self._buffer:
            self._broken(events, "closed_early", "the peer closed the connection in the middle of a message", CANCEL)
        else:
            self._end()
        return events

    # --- the end of an exchange, of a connection ---------------------------------------

    def _read_all(self) -> None:
        """The peer's message is complete."""
        self._reading = WAIT
        if self._writing == WAIT:
            self._over()
        elif not self._server and not self._persists:
            self._end()  # all that was asked for is here; what is left of the request would be for nobody

    def _written_all(self) -> None:
        """Our message is complete."""
        self._writing = WAIT
        if self._reading == WAIT:
            self._over()
        elif self._server:
            # Answered early. To close on a client that is still sending would reset the connection under the answer,
            # so a small rest is taken in and dropped.
            self.active = 0
            self.half_close = True
            self._unacknowledged = 0
            rest = self._limits.stream_buffer_bytes
            if self._reading != LENGTH or self._remaining > rest:
                self._remaining = rest
            self._reading = DRAIN

    def _over(self) -> None:
        self.active = 0
        if self._persists and not self._closing:
            if self._server:
                self._reading = HEAD
            else:
                self._writing = HEAD
        else:
            self._end()

    def _end(self) -> None:
        self.active = 0
        self._reading = self._writing = DEAD
        self._buffer.clear()
        self.finished = True

    def _tunnel(self) -> None:
        """The connection is raw bytes from here on."""
        ended = self._writing == WAIT and self._method == b"CONNECT"
        self._reading = self._writing = RAW
        self._persists = False
        early = self._early
        self._early = b""
        if early or ended:
            self._queued -= len(early)
            self.send_data(self._stream, early, ended)

    def _refuse(self, events: list[Event], bad: Malformed) -> None:
        """Answer the peer's malformed request, if there is still a way to, and end the connection."""
        if self._server and (not self.active or self._writing == HEAD):
            self._out.append(http1_write.write_refusal(bad))
            self._writing = DEAD
        self._broken(events, bad.reason, bad.detail)

    def _broken(self, events: list[Event], reason: str, detail: str, code: int = PROTOCOL_ERROR) -> None:
        if self.active:
            events.append(Reset(self._stream, code, not self._server and not self._taken, reason))
            if self._writing not in (HEAD, WAIT, DEAD):
                self.aborted = True
        events.append(Broken(reason, detail))
        self._end()

    # --- writing -----------------------------------------------------------------------

    def take(self) -> bytes:
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._queued = 0
        self._taken = True
        return data

    def send_request(self, head: Head, end: bool) -> int:
        """Send a request, upstream. Raises `UnsendableHead`, after which the connection is as it was."""
        if not self.can_open:
            raise RuntimeError(f"{self!r} takes no request")
        raw, length = request_bytes(head, end)
        self._out.append(raw)
        self._stream += 2
        self.active = 1
        self._taken = False
        self._method = head.method
        self._asked = head.upgrade
        self._reading = HEAD
        self._unacknowledged = 0
        self._informed = 0
        if length == TUNNEL:
            self._persists = False
        if end:
            self._writing = WAIT
        elif length >= 0:
            self._to_send = length
            self._writing = LENGTH
        else:
            self._writing = _FRAMINGS[length]
        return self._stream

    def send_response(self, stream: int, head: Head, end: bool) -> None:
        """Send a response, 101 included. Raises `UnsendableHead`, after which another one can be sent instead."""
        if stream != self._stream or self._writing != HEAD:
            return
        if head.status == 101 and (not self._asked or self._reading != WAIT):
            raise UnsendableHead("upgrade")
        # A response that begins before its request has ended leaves open where the next request would begin.
        close = self._closing or not self._persists or self._reading != WAIT
        raw, length, closes = response_bytes(head, end, self._method, self._modern, close)
        self._out.append(raw)
        if closes:
            self._persists = False
        if length == TUNNEL:
            self._tunnel()
            if end:
                self.send_data(stream, b"", True)
        elif end:
            self._written_all()
        elif length >= 0:
            self._to_send = length
            self._writing = LENGTH
        else:
            self._writing = _FRAMINGS[length]

    def send_informational(self, stream: int, head: Head) -> None:
        """Send a 1xx response, which HTTP/1.0 has none of. Raises `UnsendableHead`."""
        if stream == self._stream and self._writing == HEAD and self._modern:
            self._out.append(http1_write.write_informational(head))

    def send_data(self, stream: int, data: bytes, end: bool) -> None:
        """Send some of a body. What does not fit the length that was declared ends the connection (section 6.2)."""
        writing = self._writing
        if stream != self._stream or not self.active:
            return
        size = len(data)
        if writing == LENGTH:
            self._to_send -= size
            if self._to_send < 0 or (end and self._to_send):
                self._cut("length_mismatch")
                return
            if size:
                self._out.append(data)
        elif writing == CHUNKS:
            if size:
                self._out += (b"%x\r\n" % size, data, b"\r\n0\r\n\r\n" if end else b"\r\n")
            elif end:
                self._out.append(b"0\r\n\r\n")
        elif writing in (CLOSE, RAW):
            if size:
                self._out.append(data)
        elif writing == NONE:
            if self._server or self._method != b"CONNECT":
                size = 0  # the answer to HEAD has no body, whatever its source says
            else:
                self._early += data
        else:
            return
        self._queued += size
        if not end:
            return
        if writing != RAW:
            self._written_all()
        else:
            self._writing = DEAD
            self.half_close = True
            if self._reading == DEAD:
                self._end()

    def send_trailers(self, stream: int, fields: tuple[Field, ...]) -> None:
        """End a body with trailers, or without them where the framing or the peer has no place for them.

        Raises `UnsendableHead`; the body can still be ended without."""
        wanted = not self._server or (b"te", b"trailers") in self._block
        if stream == self._stream and self._writing == CHUNKS and wanted and fields:
            self._out.append(http1_write.write_trailers(fields))
            self._written_all()
        else:
            self.send_data(stream, b"", True)

    def _cut(self, reason: str) -> None:
        """Our own message cannot be completed: end the connection, so that the peer does not take it for whole."""
        self.aborted = True
        self._broken(self._due, reason, "the message that we forward has not the length it declared", INTERNAL_ERROR)

    def reset(self, stream: int, code: int) -> None:
        if stream == self._stream and self.active:
            self.aborted = self._writing not in (HEAD, WAIT)
            self._end()

    # --- the connection ----------------------------------------------------------------

    def acknowledge(self, stream: int, amount: int) -> None:
        if stream == self._stream:
            self._unacknowledged -= amount

    def queued(self, stream: int) -> int:
        return self._queued

    def waiting(self) -> list[int]:
        return []

    def shutdown(self, final: bool) -> None:
        self._closing = True
        if final and not self.active and not self._buffer and self._reading != DRAIN:
            self._end()

    def detach(self) -> bytes:
        """Give up the connection to someone who goes on with its raw bytes: returns those received and not yet shown.

        What is queued can still be taken. `finished` stays False, for the socket lives on.
        """
        rest = bytes(self._buffer)
        self._end()
        self.finished = False
        return rest

    def tick(self, now: float) -> bool:
        draining = self._reading == DRAIN  # which is no head, but has as long
        if not draining and not self.awaits_head:
            self._head_since = 0.0
        elif not self._head_since:
            self._head_since = now
        elif now - self._head_since > self._limits.header_timeout:
            if draining:
                self._end()
            return not draining
        return False

    @property
    def can_open(self) -> bool:
        return self._writing == HEAD and not self._server and not self._closing

    @property
    def awaits_head(self) -> bool:
        """A head has begun and is not complete."""
        return self._reading == HEAD and bool(self._buffer)

    @property
    def due(self) -> bool:
        if self._due:
            return True
        reading = self._reading
        return bool(self._buffer) and (reading == RAW or (reading == HEAD and not self._scanned))

    @property
    def restless(self) -> bool:
        return (
            self.finished
            or self.half_close
            or len(self._buffer) + self._unacknowledged >= self._limits.stream_buffer_bytes
        )

    @property
    def wants_write(self) -> bool:
        return bool(self._out)

    @property
    def wants_read(self) -> bool:
        if self._reading == WAIT:
            return len(self._buffer) < self._limits.buffer_bytes
        return self._unacknowledged < self._limits.stream_buffer_bytes and self._reading != DEAD
