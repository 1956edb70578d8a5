"""HTTP/2 on libnghttp2 (`ngh2`): one connection's protocol machine, in either role. Hot (bench: every h2 scenario).

libnghttp2 frames, compresses, keeps windows and refuses most malformed messages; this file translates its events, adds
the rules of `messages`, and keeps the bounds that it does not have:

* Streams ended early and control frames have an `Allowance`. The codec has no clock: its user calls `tick` with the
  time now and then (once a second is plenty); without, what was counted is never forgotten. Frames that libnghttp2
  keeps to itself (PRIORITY, unknown types) are known by the bytes that arrive while no message makes progress. So is a
  header block that has begun: `tick` then sends a PING, which its sender cannot answer before its end.
* Body bytes are given back to the peer's windows by `acknowledge` alone, also if their stream has closed meanwhile;
  what this file discards it gives back itself. The connection's window is wider than `limits.buffer_bytes` where that
  would be used up by fewer than sixteen stalled streams: slow readers must not stop the others on a shared connection.
* A header block over `limits.header_bytes` (32 bytes per field are forgiven) ends the connection, as its compression
  state is not worth keeping; one of more than `limits.header_fields` is refused alone, up to four times as many.
* A request above `limits.streams` ends the connection. One that the peer may have sent before it knew that number is
  sent back with REFUSED_STREAM, and no event tells of it.

A malformed message is answered by RST_STREAM(PROTOCOL_ERROR), also in mid-body. A server whose response ends before
the request does sends RST_STREAM(NO_ERROR) after it (RFC 9113 section 8.1) and forgets the rest, except in a CONNECT
tunnel, whose directions end separately. To a client, such a reset after a whole response is no event.

What falls due while bytes are taken (a head too large to be sent, say) is told by the next `receive`, if only of `b""`.
"""

from __future__ import annotations

import struct

from ngh2 import (
    Configuration,
    Connection,
    ConnectionClosed,
    ConnectionProtocolError,
    DataReceived,
    DenialOfServiceError,
    GoAwayReceived,
    InformationalResponseReceived,
    NGH2Error,
    PingAcknowledged,
    PingReceived,
    RequestReceived,
    ResponseReceived,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
)
from ngh2 import Event as EngineEvent
from ngh2 import Role as EngineRole

from mesh.model.limits import KIB, Limits
from mesh.wire.allowance import OVERSIZED, Allowance
from mesh.wire.codec import (
    ENHANCE_YOUR_CALM,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    Broken,
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
from mesh.wire.head import Field, Head
from mesh.wire.messages import STATUSES, request_head

FRAME = 16 * KIB
UNFLUSHED = 16 * KIB
"""Bytes that `receive` prepares for `take` at most before it leaves the rest with the engine."""
MOUTHFUL = 16 * KIB
"""Bytes of a client that the engine takes at once: what it refuses is seen before it has read all that came."""
STALLED_STREAMS = 16
"""Streams that may stand still with a full window before the connection's window is used up."""


class Http2:
    """An HTTP/2 connection. Implements `Codec`."""

    name = "http2"
    half_close = False

    __slots__ = (
        "_accepting", "_allowance", "_broken", "_due", "_ended", "_engine", "_final", "_goaway", "_held",
        "_last_stream", "_limits", "_lingering", "_open", "_out", "_over", "_peer_streams", "_role", "_server",
        "_tunnels", "_window",
    )  # fmt: skip

    def __init__(self, role: Role, limits: Limits) -> None:
        self._role = role
        self._server = role is Role.SERVER
        self._limits = limits
        self._engine = Connection(
            EngineRole.SERVER if self._server else EngineRole.CLIENT,
            Configuration(
                auto_window_update=False,
                max_send_header_block_length=4 * limits.header_bytes,
                max_outbound_ack=1000,
                stream_reset_rate_limit=(1 << 40, 1 << 40),  # counted here, relative to what was completed
                # Our bound is on the decoded block. The engine counts every read that ends within a CONTINUATION's
                # frame header as one more frame, so its own bound must not be tight.
                max_continuations=limits.continuations,
                max_inbound_header_list_size=limits.header_bytes + 32 * limits.header_fields,
                max_inbound_header_count=4 * limits.header_fields,
            ),
        )
        self._open: dict[int, bool] = {}  # stream -> the peer's direction has ended
        self._ended: set[int] = set()  # reset, by either side, but the engine still has to close them
        self._lingering: dict[int, int] = {}  # server: answered in full, the request still coming -> patience used up
        self._tunnels: set[int] = set()  # CONNECT
        self._due: list[Event] = []
        self._out = b""
        self._accepting = not self._server
        self._peer_streams = 100  # until its SETTINGS say otherwise
        self._last_stream = 0
        self._window = max(limits.buffer_bytes, STALLED_STREAMS * limits.stream_buffer_bytes)
        self._held = 0
        self._allowance = Allowance(limits)
        self._goaway: GoAway | None = None
        self._final = False
        self._over = False  # nothing is read or sent any more, but for what is in _out
        self._broken = False  # over by Broken

    def start(self) -> None:
        """Queue SETTINGS (after the preface, as a client) and the connection's window."""
        limits = self._limits
        settings = {4: limits.stream_buffer_bytes, 6: limits.header_bytes}
        if self._server:
            settings[3] = limits.streams
        else:
            settings[2] = 0
        self._engine.initiate_connection(settings)
        self._engine.set_local_window_size(self._window)

    def tick(self, now: float) -> bool:
        self._allowance.tick(now)
        if self._lingering and not self._over:
            for stream in self._lingering:
                self._lingering[stream] += self._limits.stream_buffer_bytes // 2 + 1
            self._release_lingering()
        if not self._server or self._over or not self._allowance.silent(now):
            return False
        try:
            self._engine.ping()  # who is in the middle of a header block cannot answer (RFC 9113 section 4.3)
        except NGH2Error:
            pass  # the connection is over
        return self._allowance.stuck(now)

    # --- the peer's bytes ---------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        if len(data) <= MOUTHFUL or not self._server:
            return self._receive(data)
        events: list[Event] = []
        for start in range(0, len(data), MOUTHFUL):
            events += self._receive(data[start : start + MOUTHFUL])
            if self._over:
                break
        return events

    def _receive(self, data: bytes) -> list[Event]:
        events = self._due
        self._due = []
        if self._over or not data:
            return events
        engine = self._engine
        before = len(events)
        try:
            engine.receive_data(data)
        except NGH2Error as error:
            self._digest(engine.events(), events)
            self._fail(error, events)
            self._fall_silent(events)
            return events
        control = self._digest(engine.events(), events)
        if self._lingering:
            self._release_lingering()
        if engine.want_write and len(self._out) < UNFLUSHED:  # what the engine refuses it says only when it answers
            self._flush(events)
        if control or len(events) == before:
            self._count_noise(len(data), control, len(events) - before, events)
        elif self._allowance.quiet:
            self._allowance.quiet = 0
        if self._broken:
            self._fall_silent(events)
        return events

    def _digest(self, arrived: list[EngineEvent], events: list[Event]) -> int:
        """Translate the engine's events into ours; the units of control budget that they cost."""
        opened = self._open
        control = 0
        for event in arrived:
            kind = type(event)
            if kind is DataReceived:
                stream = event.stream_id  # type: ignore[attr-defined]
                data = event.data  # type: ignore[attr-defined]
                self._held += len(data)
                if stream not in opened or stream in self._lingering:
                    if stream in self._lingering:
                        self._lingering[stream] += len(data)
                    self.acknowledge(stream, len(data))
                    self._allowance.excuse(len(data))
                    control += 1
                elif event.end_stream:  # type: ignore[attr-defined]
                    opened[stream] = True
                    events.append(Data(stream, data, True))
                elif data:
                    events.append(Data(stream, data, False))
                else:
                    control += 1
            elif kind is StreamClosed:
                stream = event.stream_id  # type: ignore[attr-defined]
                code = event.error_code  # type: ignore[attr-defined]
                if code or self._ended or self._lingering or self._tunnels:
                    self._closed(event, events)
                elif opened.pop(stream, None) is not None:
                    self._allowance.completed += 1
            elif kind is RequestReceived:
                stream = event.stream_id  # type: ignore[attr-defined]
                block = event.headers  # type: ignore[attr-defined]
                self._last_stream = stream
                if len(block) > self._limits.header_fields:
                    self._refuse(stream, "header_fields", ENHANCE_YOUR_CALM, events)
                elif (head := request_head(block)) is None:
                    self._refuse(stream, "malformed", PROTOCOL_ERROR, events)
                else:
                    end = event.end_stream  # type: ignore[attr-defined]
                    opened[stream] = end
                    if not head.path:
                        self._tunnels.add(stream)
                    events.append(Request(stream, head, end))
            elif kind is ResponseReceived:
                stream = event.stream_id  # type: ignore[attr-defined]
                if stream in opened:
                    block = event.headers  # type: ignore[attr-defined]
                    status = STATUSES.get(block[0][1], 0)
                    if len(block) > self._limits.header_fields:
                        self._refuse(stream, "header_fields", ENHANCE_YOUR_CALM, events)
                    elif not status:
                        self._refuse(stream, "malformed", PROTOCOL_ERROR, events)
                    else:
                        end = event.end_stream  # type: ignore[attr-defined]
                        if end:
                            opened[stream] = True
                        events.append(Response(stream, Head(block, b"", b"", b"", b"", status), end))
            else:
                control += self._digest_rare(event, events)
        return control

    def _digest_rare(self, event: EngineEvent, events: list[Event]) -> int:
        opened = self._open
        match event:
            case TrailersReceived(stream, fields):
                if stream in opened and stream not in self._lingering:
                    if len(fields) > self._limits.header_fields:
                        self._refuse(stream, "header_fields", ENHANCE_YOUR_CALM, events)
                    else:
                        opened[stream] = True
                        events.append(Trailers(stream, fields))
                return 0
            case InformationalResponseReceived(stream, fields):
                status = STATUSES.get(fields[0][1], 0)
                if stream in opened:
                    if status in (0, 101) or len(fields) > self._limits.header_fields:
                        self._refuse(stream, "malformed", PROTOCOL_ERROR, events)
                    else:
                        events.append(Informational(stream, Head(fields, status=status)))
                return 9  # for a message that makes no progress, there is no refund
            case StreamReset(stream, code):
                if stream not in opened:
                    return 1
                answered = opened.pop(stream) and not self._server and code == NO_ERROR
                self._ended.add(stream)
                if not answered:
                    events.append(Reset(stream, code, code == REFUSED_STREAM, "the peer reset the stream"))
                self._count_reset(events)
                return 0
            case GoAwayReceived(last_stream, code):
                self._accepting = False
                self._goaway = GoAway(last_stream, code)
                events.append(self._goaway)
                return 12
            case SettingsReceived(settings):
                self._peer_streams = settings.get(3, self._peer_streams)
                return 4
            case PingReceived():
                return 4
            case PingAcknowledged():
                self._allowance.quiet = 0
                return 2
            case ConnectionClosed(code, debug):
                goaway = self._goaway
                if code and (goaway is None or goaway.code != code):
                    reason = "control_flood" if code == ENHANCE_YOUR_CALM else "protocol_error"
                    self._break(reason, debug.decode("latin-1") or f"HTTP/2 error {code}", code, events)
                self._over = True  # GOAWAY has gone or come, and all streams are done
                return 0
            case _:
                return 1

    def _closed(self, event: EngineEvent, events: list[Event]) -> None:
        """A stream has left the engine, not simply by both directions' end."""
        stream = event.stream_id  # type: ignore[attr-defined]
        code = event.error_code  # type: ignore[attr-defined]
        was_open = self._open.pop(stream, None) is not None
        self._tunnels.discard(stream)
        answered = stream in self._lingering
        self._lingering.pop(stream, None)
        if stream in self._ended:
            self._ended.discard(stream)
            self._mend_window()
        elif answered:
            self._allowance.completed += 1
        elif not code:
            self._allowance.completed += was_open
        elif event.local_error is not None:  # type: ignore[attr-defined]
            if was_open:
                detail = f"could not be sent: {event.local_error}"  # type: ignore[attr-defined]
                events.append(Reset(stream, INTERNAL_ERROR, not self._server, detail))
        elif not self._server and code == REFUSED_STREAM:
            if was_open:
                events.append(Reset(stream, code, True, "above the last stream that the peer will serve"))
        else:
            events.append(Refused(stream, "malformed"))
            self._mend_window()
            self._count_reset(events)

    def receive_eof(self) -> list[Event]:
        events = self._due
        self._due = []
        if not self._over:
            if self._open:
                self._break("connection_closed", "the peer closed the connection with streams open", None, events)
            self._over = True
            self._accepting = False
            self._out = b""
        return events

    # --- bounds -------------------------------------------------------------------------

    def _refuse(self, stream: int, reason: str, code: int, events: list[Event]) -> None:
        """Refuse a message that the engine let pass."""
        self._open.pop(stream, None)
        self._send_reset(stream, code)
        events.append(Refused(stream, reason))
        self._count_reset(events, OVERSIZED if reason == "header_fields" else 1)

    def _count_reset(self, events: list[Event], weight: int = 1) -> None:
        if self._server and self._allowance.ended_early(weight):
            self._break("rapid_reset", "too many streams ended early", ENHANCE_YOUR_CALM, events)

    def _count_noise(self, size: int, control: int, messages: int, events: list[Event]) -> None:
        exceeded = self._allowance.heard(size, control, messages)
        if exceeded:
            self._break("control_flood", exceeded, ENHANCE_YOUR_CALM, events)

    def _mend_window(self) -> None:
        """Widen the connection's window by what the engine lost of it.

        Bytes of a DATA frame whose stream is reset before the frame is complete are never given back by the engine, and
        it does not tell their number. But no more than half of the window can be consumed without having been
        announced, and no more than one frame be incomplete: what is missing beyond that was lost.
        """
        try:
            lost = self._window // 2 - FRAME - self._held - self._engine.local_window_size
            if lost <= 0:
                return
            self._engine.set_local_window_size(self._window + lost)
        except NGH2Error:
            return  # the connection is over
        self._window += lost
        if self._window > 1 << 30:  # the numbers end at 2^31: let a new connection take over
            self._accepting = False

    def _fail(self, error: NGH2Error, events: list[Event]) -> None:
        """The engine has given up on the peer's bytes, and on what it had to send."""
        detail = str(error)
        reason, code = "protocol_error", PROTOCOL_ERROR
        if isinstance(error, DenialOfServiceError):
            code = ENHANCE_YOUR_CALM
            reason = {"size": "header_bytes", "count": "header_fields"}.get(detail.rpartition(" ")[2], "control_flood")
        elif isinstance(error, ConnectionProtocolError) and not self._last_stream and self._server:
            reason = "bad_preface"
        self._out += struct.pack(">HBBBLLL", 0, 8, 7, 0, 0, self._last_stream, code)
        self._break(reason, detail, None, events)

    def _break(self, reason: str, detail: str, code: int | None, events: list[Event]) -> None:
        """End the connection; the engine says so with `code` unless that is None."""
        if self._over:
            return
        self._over = self._broken = True
        self._accepting = False
        if code is not None:
            try:
                self._engine.terminate_connection(code)
            except NGH2Error:
                pass  # it has said GOAWAY already
            try:
                self._out += self._engine.data_to_send()
            except NGH2Error:
                pass  # it failed at that: nothing more can be said
        for stream in self._open:
            events.append(Reset(stream, code or INTERNAL_ERROR, False, detail))
        self._open.clear()
        self._lingering.clear()
        events.append(Broken(reason, detail))

    def _fall_silent(self, events: list[Event]) -> None:
        """Drop what was read after the offence that broke the connection."""
        kinds = [type(event) for event in events]
        if Broken in kinds:
            del events[kinds.index(Broken) + 1 :]
        self._open.clear()

    # --- our bytes ----------------------------------------------------------------------

    def take(self) -> bytes:
        if not self._over:
            self._flush(self._due)
            if self._lingering:
                self._release_lingering()
        data = self._out
        self._out = b""
        if self._allowance.control:
            self._allowance.said(len(data))
        return data

    def _flush(self, events: list[Event]) -> None:
        """Move what the engine can send to `_out`; sending closes streams, which it also tells."""
        engine = self._engine
        try:
            data = engine.data_to_send()
        except NGH2Error as error:
            self._fail(error, events)
            return
        if data:
            self._out = self._out + data if self._out else data
        arrived = engine.events()
        if arrived:
            self._digest(arrived, events)
            if self._broken:
                self._fall_silent(events)

    def _release_lingering(self) -> None:
        """Reset streams whose response has left long ago while their request is still coming.

        Not at once: a client may take a reset that comes right behind the response for a failure (curl 7.88), and most
        have little left to send. Patience ends with a stream's window of bytes, or two ticks.
        """
        engine = self._engine
        for stream, used in tuple(self._lingering.items()):
            if used <= self._limits.stream_buffer_bytes:
                continue
            try:
                if engine.queued_body_size(stream) or engine.stream_remote_window_size(stream) <= 0:
                    continue
            except NGH2Error:
                self._lingering.pop(stream, None)
                continue
            if engine.remote_window_size > 0:
                self._lingering.pop(stream, None)
                self._open.pop(stream, None)
                self._send_reset(stream, NO_ERROR)
                self._allowance.completed += 1
        self._flush(self._due)

    def send_request(self, head: Head, end: bool) -> int:
        try:
            stream = self._engine.send_request(head.block, end_stream=end)
        except NGH2Error as error:
            raise RuntimeError(f"no stream can be opened on {self!r}") from error
        self._open[stream] = False
        return stream

    def send_response(self, stream: int, head: Head, end: bool) -> None:
        try:
            self._engine.send_response(stream, head.block, end_stream=end)
        except NGH2Error:
            return  # the stream is gone
        if end:
            self._answered(stream)

    def send_informational(self, stream: int, head: Head) -> None:
        try:
            self._engine.send_informational_response(stream, head.block)
        except NGH2Error:
            pass  # the stream is gone

    def send_data(self, stream: int, data: bytes, end: bool) -> None:
        try:
            self._engine.send_data(stream, data, end_stream=end)
        except NGH2Error:
            return  # the stream is gone
        if end and self._server:
            self._answered(stream)

    def send_trailers(self, stream: int, fields: tuple[Field, ...]) -> None:
        try:
            self._engine.send_trailers(stream, fields)
        except NGH2Error:
            return  # the stream is gone
        if self._server:
            self._answered(stream)

    def _answered(self, stream: int) -> None:
        if not self._open.get(stream, True) and stream not in self._tunnels:
            self._lingering[stream] = 0

    def reset(self, stream: int, code: int) -> None:
        if self._open.pop(stream, None) is not None:
            self._send_reset(stream, code)

    def _send_reset(self, stream: int, code: int) -> None:
        self._lingering.pop(stream, None)
        self._ended.add(stream)
        self._allowance.excuse(self._limits.stream_buffer_bytes)  # what the peer has sent before it knows
        try:
            self._engine.reset_stream(stream, code)
        except NGH2Error:
            self._ended.discard(stream)

    def acknowledge(self, stream: int, amount: int) -> None:
        self._held -= amount
        try:
            self._engine.acknowledge_received_data(amount, stream)
        except (NGH2Error, ValueError):
            pass  # the connection is over, and with it the count

    def queued(self, stream: int) -> int:
        if stream:
            return self._engine.queued_body_size(stream)
        return self._engine.queued_body_size() + len(self._out)

    def waiting(self) -> list[int]:
        engine = self._engine
        if self._over or not engine.queued_body_size():
            return []
        return [stream for stream in self._open if engine.queued_body_size(stream)]

    # --- the connection -----------------------------------------------------------------

    def shutdown(self, final: bool) -> None:
        self._accepting = False
        if self._over:
            return
        try:
            if not self._server:
                self._final = True  # there is no one to warn
            elif final:
                self._final = True
                self._engine.send_goaway(NO_ERROR)
            else:
                self._engine.send_shutdown_notice()
        except NGH2Error:
            pass  # the peer's own GOAWAY came first, and no stream is open

    @property
    def can_open(self) -> bool:
        return self._accepting and len(self._open) < self._peer_streams and self._engine.can_send_request

    @property
    def active(self) -> int:
        return len(self._open)

    @property
    def due(self) -> bool:
        return bool(self._due)

    @property
    def restless(self) -> bool:
        return self._over or self._final or self._goaway is not None

    @property
    def wants_write(self) -> bool:
        return bool(self._out) or (not self._over and self._engine.want_write)  # an engine that failed raises

    @property
    def wants_read(self) -> bool:
        return not self._over

    @property
    def finished(self) -> bool:
        if self._out:
            return False
        if self._over:
            return True
        return not self._open and (self._final or self._goaway is not None) and not self._engine.want_write

    def __repr__(self) -> str:
        state = "broken" if self._broken else "draining" if self._final or self._goaway else "open"
        if self._over and state == "open":
            state = "over"
        return f"<Http2 {self._role.value}, {state}, {len(self._open)} streams>"
