"""Opaque TCP: bytes from one channel to the other, both ways, with backpressure and half-close. Hot (bench: opaque
TCP).

What one side sends and the other's kernel does not take is that channel's backlog; while there is one, the first side
is not read. So a tunnel never holds more than one read per direction.
"""

from __future__ import annotations

from mesh.proxy.reactor import CLOSE, GO_ON, HALF_CLOSE, Channel, Farewell


class Pipe:
    """One end of a tunnel: the reactor handler of `channel`, joined to `other`."""

    __slots__ = ("channel", "gone", "other", "peer_done", "reason")

    other: Pipe

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.peer_done = False
        self.gone = False
        self.reason = ""

    def received(self, data: bytes) -> None:
        other = self.other
        if not data:
            self.peer_done = True
            other.channel.mark()
        elif not other.gone:
            other.channel.send(data)
            if other.channel.backlog:
                self.channel.watch_reads()

    def produce(self) -> bytes:
        self.other.channel.watch_reads()
        return b""

    @property
    def restless(self) -> bool:
        return True

    @property
    def wants_read(self) -> bool:
        return not self.other.channel.backlog

    @property
    def farewell(self) -> Farewell:
        if not self.other.peer_done:
            return GO_ON
        return CLOSE if self.peer_done and not self.other.channel.backlog else HALF_CLOSE

    def watch(self, now: float) -> None:
        """Nothing to look for: an idle tunnel is its supervisor's business."""

    def lost(self, reason: str) -> None:
        self.gone = True
        self.reason = reason
        if reason and not self.other.gone:
            self.other.channel.end(f"the other side: {reason}")
        elif not self.other.gone:
            self.other.channel.mark()


def join(first: Channel, second: Channel, from_first: bytes = b"", from_second: bytes = b"") -> tuple[Pipe, Pipe]:
    """Start a tunnel between two channels that are not attached yet; `from_*` is what each had sent already."""
    one, two = Pipe(first), Pipe(second)
    one.other, two.other = two, one
    first.handler, second.handler = one, two
    first.attach(one)
    second.attach(two)
    if from_first:
        first.read_bytes += len(from_first)
        one.received(from_first)
    if from_second:
        second.read_bytes += len(from_second)
        two.received(from_second)
    first.reactor.settle()
    return one, two
