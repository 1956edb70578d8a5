"""One HTTP connection as its exchanges see it, downstream or upstream: a channel, a codec, and who is held back by it.

Backpressure is here. Bytes that an exchange moves from leg A to leg B are acknowledged to A's peer at once while B is
not congested; otherwise they are owed: the exchange is `held` by B, and B's next flush that finds room lets it
`release`. Hot: bench guards it in all HTTP scenarios.
"""

from __future__ import annotations

from typing import Protocol

from mesh.model.limits import Limits
from mesh.proxy.reactor import CLOSE, GO_ON, HALF_CLOSE, Channel, Farewell
from mesh.wire.codec import Codec, Event


class Held(Protocol):
    """Somebody whose source is stopped because a leg is congested."""

    def release(self) -> None:
        """There may be room again: acknowledge what is owed, or ask to be held once more."""


class Owner(Protocol):
    """Gives events their meaning: the downstream or the upstream end."""

    def handle(self, events: list[Event]) -> None: ...

    def watch(self, now: float) -> None: ...

    def lost(self, reason: str) -> None: ...


class Nobody:
    """The owner of a leg that is lost."""

    __slots__ = ()

    def handle(self, events: list[Event]) -> None:
        """Nothing has a meaning any more."""

    def watch(self, now: float) -> None:
        """Nothing is left to watch."""

    def lost(self, reason: str) -> None:
        """It is lost already."""


NOBODY = Nobody()


class Leg:
    """A reactor handler around one codec."""

    __slots__ = ("_buffer", "_stream_buffer", "channel", "codec", "held", "owner")

    def __init__(self, channel: Channel, codec: Codec, owner: Owner, limits: Limits) -> None:
        self.channel = channel
        self.codec = codec
        self.owner = owner
        self.held: list[Held] = []
        self._buffer = limits.buffer_bytes
        self._stream_buffer = limits.stream_buffer_bytes

    def received(self, data: bytes) -> None:
        codec = self.codec
        events = codec.receive(data) if data else codec.receive_eof()
        if events:
            self.owner.handle(events)
        if codec.wants_write or codec.restless:
            self.channel.mark()

    def produce(self) -> bytes:
        codec = self.codec
        data = codec.take()
        if codec.due:
            self.owner.handle(codec.receive(b""))
            data += codec.take()
        if self.held:
            waiting, self.held = self.held, []
            for exchange in waiting:
                exchange.release()
        return data

    def watch(self, now: float) -> None:
        self.owner.watch(now)

    def lost(self, reason: str) -> None:
        owner = self.owner
        owner.lost(reason)
        self.owner = NOBODY  # as in `Channel.end`
        waiting, self.held = self.held, []
        for exchange in waiting:
            exchange.release()

    def congested(self, stream: int) -> bool:
        """Whether more body for `stream` should wait: its share or the connection's is used up."""
        codec = self.codec
        return (
            codec.queued(stream) > self._stream_buffer or bool(self.channel.backlog) or codec.queued(0) > self._buffer
        )

    @property
    def restless(self) -> bool:
        return self.codec.restless

    @property
    def wants_read(self) -> bool:
        return self.codec.wants_read

    @property
    def farewell(self) -> Farewell:
        codec = self.codec
        if codec.finished:
            return CLOSE
        return HALF_CLOSE if codec.half_close else GO_ON
