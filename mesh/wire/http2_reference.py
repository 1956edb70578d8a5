"""HTTP/2 on h2, the reference implementation: the fallback where ngh2 has no wheel, and the oracle of tests.

It says what `mesh.wire.http2` says, at many times the cost; read that one for bounds and reasons. How it works:

* Frames are cut here and given to h2 one at a time. Header blocks are decoded here (hpack) and judged by `messages`, as
  h2 ends the connection where the stream would do; h2 sees a stand-in that moves its state machine.
* GOAWAY never reaches h2, which forgets its streams at the sight of one; here they go on.

Known differences, which RFC 9113 allows: the code in RST_STREAM or GOAWAY may be another one, and an offence that may
be treated either way (a WINDOW_UPDATE beyond the largest window, DATA after END_STREAM) may end the stream here and the
connection there. A stream is refused here at the offence, there at the end of the bytes that it came with.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import ClassVar

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hpack
from h2.errors import ErrorCodes
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import ContinuationFrame, Frame, HeadersFrame

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
from mesh.wire.messages import content_length, strict_request_head, strict_response_head, trailers_are_sound

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME = 16 * KIB
STALLED_STREAMS = 16
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
CONTROL_COST: dict[int | None, int] = {SETTINGS: 4, PING: 4, GOAWAY: 12}
STREAM_LIMIT = 2**31 - 1


class _Stream:
    """What h2 does not keep for us: what waits to be sent, and what the peer has announced."""

    __slots__ = ("chunks", "end", "ended", "expected", "method", "received", "shown", "trailers", "tunnel", "waiting")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self.tunnel = method == b"CONNECT"
        self.shown = False  # the final head of the peer's direction has come
        self.ended = False  # the peer's direction has ended
        self.expected: int | None = None
        self.received = 0
        self.chunks: deque[bytes] = deque()
        self.waiting = 0
        self.end = False  # our direction has been ended by our user
        self.trailers: tuple[Field, ...] | None = None


class Http2Reference:
    """An HTTP/2 connection. Implements `Codec`."""

    name = "http2"
    half_close = False

    _STAND_INS: ClassVar[dict[str, bytes]] = {
        "request": b"\x82\x86\x84",
        "response": b"\x88",
        "trailers": b"\x00\x01x\x01y",
    }

    def __init__(self, role: Role, limits: Limits) -> None:
        self._role = role
        self._server = role is Role.SERVER
        self._limits = limits
        self._engine = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=not self._server,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
            )
        )
        self._decoder = hpack.Decoder(max_header_list_size=limits.header_bytes + 32 * limits.header_fields)
        self._streams: dict[int, _Stream] = {}
        self._lingering: dict[int, int] = {}  # as in Http2: answered, and how much patience is used up
        self._raw = bytearray()
        self._preface = PREFACE if self._server else b""
        self._settled = False  # the peer's first SETTINGS have come
        self._acknowledged = False  # it knows ours
        self._block: list[HeadersFrame | ContinuationFrame] = []
        self._begun_at = 0.0  # when `tick` first saw an unfinished header block
        self._out = b""
        self._accepting = not self._server
        self._peer_streams = 100
        self._last_stream = 0
        self._window = max(limits.buffer_bytes, STALLED_STREAMS * limits.stream_buffer_bytes)
        self._allowance = Allowance(limits)
        self._goaway: GoAway | None = None
        self._final = False
        self._over = False
        self._broken = False

    def start(self) -> None:
        """Queue SETTINGS (after the preface, as a client) and the connection's window."""
        limits = self._limits
        codes = h2.settings.SettingCodes
        values: dict[h2.settings.SettingCodes, int] = {
            codes.INITIAL_WINDOW_SIZE: limits.stream_buffer_bytes,
            codes.MAX_HEADER_LIST_SIZE: limits.header_bytes,
            codes.ENABLE_PUSH: 0,
        }
        if self._server:
            values[codes.MAX_CONCURRENT_STREAMS] = limits.streams
        engine = self._engine
        engine.local_settings = h2.settings.Settings(client=not self._server, initial_values=values)
        engine.initiate_connection()
        engine.increment_flow_control_window(self._window - 65535)
        engine.local_settings[codes.MAX_CONCURRENT_STREAMS] = STREAM_LIMIT  # counted here: h2 would end the connection
        engine.local_settings.acknowledge()
        if self._server:
            engine.receive_data(PREFACE)  # h2 is told what we check ourselves

    def tick(self, now: float) -> bool:
        self._allowance.tick(now)
        for stream in self._lingering:
            self._lingering[stream] += self._limits.stream_buffer_bytes // 2 + 1
        begun = bool(self._block) or (len(self._raw) > 3 and self._raw[3] == HEADERS)
        self._begun_at = (self._begun_at or now) if begun and self._server else 0.0
        return begun and self._server and now - self._begun_at > self._limits.header_timeout

    # --- the peer's bytes ---------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        if self._over or not data:
            return events
        control = 0
        try:
            if self._preface:
                known = min(len(self._preface), len(data))
                if self._preface[:known] != data[:known]:
                    self._break("bad_preface", "not an HTTP/2 preface", PROTOCOL_ERROR, events)
                    return events
                self._preface = self._preface[known:]
                data = data[known:]
            self._raw += data
            while (frame := self._next_frame()) is not None:
                control += self._frame(frame, events)
        except hpack.OversizedHeaderListError as error:
            self._break("header_bytes", str(error), ENHANCE_YOUR_CALM, events)
        except h2.exceptions.ProtocolError as error:
            self._break("protocol_error", str(error), None, events)
        except (HyperframeError, hpack.HPACKError) as error:
            self._break("protocol_error", str(error), PROTOCOL_ERROR, events)
        self._count_noise(len(data), control, len(events), events)
        if self._goaway is not None and not self._streams:
            self._over = True
        return events

    def _next_frame(self) -> Frame | None:
        raw = self._raw
        if self._over or len(raw) < 9:
            return None
        length = int.from_bytes(raw[:3], "big")
        if length > FRAME:
            raise h2.exceptions.FrameTooLargeError(f"a frame of {length} bytes")
        if len(raw) < 9 + length:
            return None
        frame, _ = Frame.parse_frame_header(memoryview(bytes(raw[:9])))
        body = bytes(raw[9 : 9 + length])
        del raw[: 9 + length]
        if frame.type in (WINDOW_UPDATE, GOAWAY) and body:
            body = bytes((body[0] & 0x7F,)) + body[1:]  # hyperframe reads the reserved bit
        known = max(self._last_stream, self._engine.highest_outbound_stream_id)
        gone = 0 < frame.stream_id <= known and frame.stream_id not in self._streams
        if frame.type == WINDOW_UPDATE and gone and body == bytes(4):
            frame.type = PRIORITY  # nothing, to a stream that is gone: as good as ignored
            return frame
        frame.parse_body(memoryview(body))
        return frame

    def _frame(self, frame: Frame, events: list[Event]) -> int:
        """One frame; returns the units of control budget that it costs."""
        kind = frame.type
        stream = frame.stream_id
        if not self._settled:
            if kind != SETTINGS or "ACK" in frame.flags:
                self._break("protocol_error", "the first frame is not SETTINGS", PROTOCOL_ERROR, events)
                return 0
            self._settled = True
        if self._block and kind != CONTINUATION:
            self._break("protocol_error", "a header block was interrupted", PROTOCOL_ERROR, events)
        elif kind == HEADERS or (kind == CONTINUATION and self._block and self._block[0].stream_id == stream):
            self._block.append(frame)  # type: ignore[arg-type]
            if len(self._block) > self._limits.continuations:
                self._break("control_flood", "too many CONTINUATION frames", ENHANCE_YOUR_CALM, events)
            elif "END_HEADERS" in frame.flags:
                first = self._block[0]
                raw = b"".join(part.data for part in self._block)
                self._block = []
                self._begun_at = 0.0
                fields = tuple(self._decoder.decode(raw, raw=True))
                told = len(events)
                self._headers(stream, fields, "END_STREAM" in first.flags, events)
                return 9 if len(events) > told and type(events[-1]) is Informational else 0
        elif kind == GOAWAY:
            self._goaway_received(frame.last_stream_id, int(frame.error_code), events)  # type: ignore[attr-defined]
        elif kind in (PUSH_PROMISE, CONTINUATION):
            self._break("protocol_error", f"{type(frame).__name__} out of place", PROTOCOL_ERROR, events)
        elif self._final and self._server and stream > self._last_stream:
            return 1  # sent before the peer knew of GOAWAY
        elif kind in (DATA, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE):
            if kind == DATA and stream in self._streams and not self._streams[stream].shown:
                self._refuse(stream, "malformed", PROTOCOL_ERROR, events)  # before h2 ends the connection for it
            return self._engine_frame(frame, events)
        return CONTROL_COST.get(kind, 0 if kind in (HEADERS, CONTINUATION) else 1)

    def _engine_frame(self, frame: Frame, events: list[Event]) -> int:
        stream = int(frame.stream_id)
        if frame.type == RST_STREAM and stream > max(self._last_stream, self._engine.highest_outbound_stream_id):
            self._break("protocol_error", "RST_STREAM of an idle stream", PROTOCOL_ERROR, events)
            return 0
        cost = CONTROL_COST.get(frame.type, 1)
        for event in self._engine.receive_data(frame.serialize()):
            match event:
                case h2.events.DataReceived():
                    cost = self._data(stream, event, "END_STREAM" in frame.flags, events)
                case h2.events.StreamReset():
                    if event.remote_reset:
                        self._reset_received(stream, int(event.error_code or 0), events)
                    elif stream in self._streams:
                        self._forget(stream)
                        events.append(Refused(stream, "malformed"))
                        self._count_reset(events)
                case h2.events.RemoteSettingsChanged():
                    changed = event.changed_settings.get(h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS)
                    if changed is not None:
                        self._peer_streams = changed.new_value
                case h2.events.SettingsAcknowledged():
                    if self._acknowledged:
                        self._break("protocol_error", "SETTINGS acknowledged twice", PROTOCOL_ERROR, events)
                    self._acknowledged = True
        return cost

    def _headers(self, stream: int, fields: tuple[Field, ...], end: bool, events: list[Event]) -> None:
        limits = self._limits
        secret = hpack.NeverIndexedHeaderTuple
        block = tuple(field if type(field) is secret else (field[0], field[1]) for field in fields)
        state = self._streams.get(stream)
        new = state is None and self._server and stream > self._last_stream
        stand_in = "request" if new else "trailers" if state is not None and state.shown else "response"
        if len(block) > 4 * limits.header_fields:
            self._break("header_fields", f"a block of {len(block)} fields", ENHANCE_YOUR_CALM, events)
            return
        if new and self._final:
            return  # sent before the peer knew of GOAWAY
        if new and self._acknowledged and len(self._streams) >= limits.streams:
            self._break("protocol_error", "more streams than were offered", PROTOCOL_ERROR, events)
            return
        if state is None and not new:
            if stream % 2 == 0 or (not self._server and stream > self._engine.highest_outbound_stream_id):
                self._break("protocol_error", f"HEADERS on stream {stream}", PROTOCOL_ERROR, events)
            return  # the end of a stream that we have reset
        if state is not None and state.ended:
            self._break("protocol_error", f"HEADERS after the end of stream {stream}", PROTOCOL_ERROR, events)
            return
        response = strict_response_head(block) if stand_in == "response" else None
        interim = response is not None and response.status < 200
        if not interim or end:  # h2 need not know of interim responses
            standing = HeadersFrame(stream, data=self._STAND_INS[stand_in], flags=["END_HEADERS"])
            if end:
                standing.flags.add("END_STREAM")
            self._engine.receive_data(standing.serialize())
        if new:
            self._last_stream = stream
            self._streams[stream] = state = _Stream(b"")
        assert state is not None
        if len(block) > limits.header_fields:
            self._refuse(stream, "header_fields", ENHANCE_YOUR_CALM, events)
        elif new and len(self._streams) > limits.streams:
            self._forget(stream)  # not worth an event: it did not know the limit yet
            self._send_reset(stream, REFUSED_STREAM)
        elif stand_in == "trailers":
            lingering = stream in self._lingering  # its body was not counted
            if not end or not trailers_are_sound(block) or not (lingering or self._length_agrees(state, True)):
                self._refuse(stream, "malformed", PROTOCOL_ERROR, events)
                return
            if not lingering:
                events.append(Trailers(stream, block))
            self._peer_ended(stream, state)
        elif interim and response is not None and not end:
            events.append(Informational(stream, response))
        else:
            head = strict_request_head(block) if new else None if interim else response
            if head is not None:
                state.shown = True
                state.method = state.method or head.method
                state.tunnel = state.method == b"CONNECT"
                bodiless = state.method == b"HEAD" or head.status in (204, 304)
                state.expected = None if state.tunnel else 0 if bodiless and not new else content_length(block)
            if head is None or not self._length_agrees(state, end):
                self._refuse(stream, "malformed", PROTOCOL_ERROR, events)
                return
            events.append(Request(stream, head, end) if new else Response(stream, head, end))
            if end:
                self._peer_ended(stream, state)

    def _data(self, stream: int, event: h2.events.DataReceived, end: bool, events: list[Event]) -> int:
        data = bytes(event.data or b"")
        padding = (event.flow_controlled_length or 0) - len(data)
        self.acknowledge(stream, padding)
        state = self._streams.get(stream)
        if state is None or stream in self._lingering:
            self.acknowledge(stream, len(data))
            if state is not None:
                self._lingering[stream] += len(data)
                self._allowance.excuse(len(data))
                if end:
                    self._peer_ended(stream, state)
            return 1
        state.received += len(data)
        if not state.shown or not self._length_agrees(state, end):
            self.acknowledge(stream, len(data))
            self._refuse(stream, "malformed", PROTOCOL_ERROR, events)
            return 0
        if not data and not end:
            return 1
        events.append(Data(stream, data, end))
        if end:
            self._peer_ended(stream, state)
        return 0

    @staticmethod
    def _length_agrees(state: _Stream, end: bool) -> bool:
        if state.expected is None:
            return True
        if end and not (state.method == b"HEAD" and not state.received):
            return state.received == state.expected
        return state.received <= state.expected

    def _peer_ended(self, stream: int, state: _Stream) -> None:
        state.ended = True
        self._lingering.pop(stream, None)
        self._close_if_done(stream, state)

    def _close_if_done(self, stream: int, state: _Stream) -> None:
        if state.ended and state.end and not state.waiting and state.trailers is None and not state.chunks:
            self._forget(stream)
            self._allowance.completed += 1

    def _forget(self, stream: int) -> None:
        self._streams.pop(stream, None)
        self._lingering.pop(stream, None)

    def _reset_received(self, stream: int, code: int, events: list[Event]) -> None:
        state = self._streams.get(stream)
        if state is None:
            return
        self._forget(stream)
        if self._server or code != NO_ERROR or not state.ended:
            events.append(Reset(stream, code, code == REFUSED_STREAM, "the peer reset the stream"))
        self._count_reset(events)

    def _goaway_received(self, last_stream: int, code: int, events: list[Event]) -> None:
        ours = last_stream == 0 or last_stream % 2 == (0 if self._server else 1)
        if not ours or (self._goaway is not None and last_stream > self._goaway.last_stream):
            self._break("protocol_error", f"GOAWAY names stream {last_stream}", PROTOCOL_ERROR, events)
            return
        self._accepting = False
        self._goaway = GoAway(last_stream, code)
        events.append(self._goaway)
        if not self._server:
            for stream in sorted(self._streams):
                if stream > last_stream:
                    self._forget(stream)
                    events.append(Reset(stream, REFUSED_STREAM, True, "above the last stream that the peer will serve"))

    def receive_eof(self) -> list[Event]:
        events: list[Event] = []
        if not self._over:
            if self._streams:
                self._break("connection_closed", "the peer closed the connection with streams open", None, events)
            self._over = True
            self._accepting = False
            self._out = b""
            self._engine.clear_outbound_data_buffer()
        return events

    # --- bounds -------------------------------------------------------------------------

    def _refuse(self, stream: int, reason: str, code: int, events: list[Event]) -> None:
        self._forget(stream)
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

    def _break(self, reason: str, detail: str, code: int | None, events: list[Event]) -> None:
        """End the connection; h2 has queued GOAWAY already where `code` is None."""
        if self._over:
            return
        self._over = self._broken = True
        self._accepting = False
        self._out += self._engine.data_to_send()
        if code is not None:
            self._out += self._goaway_bytes(self._last_stream, code)
        for stream in self._streams:
            events.append(Reset(stream, code or INTERNAL_ERROR, False, detail))
        self._streams.clear()
        self._lingering.clear()
        events.append(Broken(reason, detail))

    @staticmethod
    def _goaway_bytes(last_stream: int, code: int) -> bytes:
        return struct.pack(">HBBBLLL", 0, 8, GOAWAY, 0, 0, last_stream, code)

    # --- our bytes ----------------------------------------------------------------------

    def take(self) -> bytes:
        if not self._over:
            for stream, state in list(self._streams.items()):
                self._pump(stream, state)
        data = self._out + self._engine.data_to_send()
        self._out = b""
        if self._allowance.control:
            self._allowance.said(len(data))
        return data

    def _pump(self, stream: int, state: _Stream) -> None:
        """Send what the windows allow of a stream's body, and its end."""
        engine = self._engine
        try:
            while state.chunks:
                chunk = state.chunks[0]
                room = min(engine.local_flow_control_window(stream), engine.max_outbound_frame_size, len(chunk))
                if chunk and room <= 0:
                    return
                if room < len(chunk):
                    state.chunks[0] = chunk[room:]
                else:
                    state.chunks.popleft()
                last = state.end and not state.chunks and state.trailers is None
                engine.send_data(stream, chunk[:room], end_stream=last)
                state.waiting -= room
            if state.trailers is not None:
                engine.send_headers(stream, state.trailers, end_stream=True)
                state.trailers = None
        except h2.exceptions.ProtocolError:
            return  # the peer has reset it; the event is on its way
        self._close_if_done(stream, state)
        if self._lingering.get(stream, 0) > self._limits.stream_buffer_bytes:
            self._forget(stream)
            self._send_reset(stream, NO_ERROR)
            self._allowance.completed += 1

    def send_request(self, head: Head, end: bool) -> int:
        if not self.can_open:
            raise RuntimeError("no stream can be opened on this connection")
        stream = self._engine.get_next_available_stream_id()
        self._engine.send_headers(stream, head.block, end_stream=end)
        self._engine.streams[stream].request_method = None  # body lengths are judged here
        self._streams[stream] = state = _Stream(head.method)
        state.end = end
        return stream

    def send_response(self, stream: int, head: Head, end: bool) -> None:
        state = self._streams.get(stream)
        if state is not None:
            self._engine.send_headers(stream, head.block, end_stream=end)
            self._end_ours(stream, state, end)

    def send_informational(self, stream: int, head: Head) -> None:
        if stream in self._streams:
            self._engine.send_headers(stream, head.block)

    def send_data(self, stream: int, data: bytes, end: bool) -> None:
        state = self._streams.get(stream)
        if state is not None and not state.end and (data or end):
            state.chunks.append(bytes(data))
            state.waiting += len(data)
            self._end_ours(stream, state, end)

    def send_trailers(self, stream: int, fields: tuple[Field, ...]) -> None:
        state = self._streams.get(stream)
        if state is not None and not state.end:
            state.trailers = fields
            self._end_ours(stream, state, True)

    def _end_ours(self, stream: int, state: _Stream, end: bool) -> None:
        if end:
            state.end = True
            if self._server and not state.ended and not state.tunnel:
                self._lingering[stream] = 0
            self._close_if_done(stream, state)

    def reset(self, stream: int, code: int) -> None:
        if stream in self._streams:
            self._forget(stream)
            self._send_reset(stream, code)

    def _send_reset(self, stream: int, code: int) -> None:
        self._allowance.excuse(self._limits.stream_buffer_bytes)  # what the peer has sent before it knows
        try:
            self._engine.reset_stream(stream, ErrorCodes(code) if code in ErrorCodes.__members__.values() else code)
        except h2.exceptions.ProtocolError:
            pass  # both directions have ended

    def acknowledge(self, stream: int, amount: int) -> None:
        if amount and not self._over:
            try:
                self._engine.acknowledge_received_data(amount, stream)
            except h2.exceptions.ProtocolError:
                pass  # the stream never was, or the connection is over

    def queued(self, stream: int) -> int:
        if stream:
            state = self._streams.get(stream)
            return 0 if state is None else state.waiting
        return sum(state.waiting for state in self._streams.values()) + len(self._out)

    def waiting(self) -> list[int]:
        return [stream for stream, state in self._streams.items() if state.waiting]

    # --- the connection -----------------------------------------------------------------

    def shutdown(self, final: bool) -> None:
        self._accepting = False
        if self._over:
            return
        self._final = self._final or final or not self._server  # a client has no one to warn
        if self._server:
            self._out += self._engine.data_to_send()
            self._out += self._goaway_bytes(self._last_stream if final else STREAM_LIMIT, NO_ERROR)

    @property
    def can_open(self) -> bool:
        return self._accepting and len(self._streams) < self._peer_streams

    @property
    def active(self) -> int:
        return len(self._streams)

    @property
    def due(self) -> bool:
        return False  # everything it learns of it tells at once

    @property
    def restless(self) -> bool:
        return self._over or self._final or self._goaway is not None

    @property
    def wants_write(self) -> bool:
        return True  # only `take` knows, and the reference may cost a look

    @property
    def wants_read(self) -> bool:
        return not self._over

    @property
    def finished(self) -> bool:
        if self._out:
            return False
        return self._over or (not self._streams and (self._final or self._goaway is not None))

    def __repr__(self) -> str:
        state = "broken" if self._broken else "draining" if self._final or self._goaway else "open"
        if self._over and state == "open":
            state = "over"
        return f"<Http2Reference {self._role.value}, {state}, {len(self._streams)} streams>"
