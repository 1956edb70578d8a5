"""One HTTP connection as its exchanges see it, with a codec that is a list of what it is told to say."""

from __future__ import annotations

import pytest

from mesh.model.limits import Limits
from mesh.proxy.leg import Leg
from mesh.proxy.reactor import CLOSE, GO_ON, HALF_CLOSE
from mesh.wire.codec import Data, Role
from mesh.wire.head import Head
from mesh.wire.http1 import Http1

LIMITS = Limits(buffer_bytes=1000, stream_buffer_bytes=100)


class Codec:
    """What Leg reads of a codec, as plain attributes."""

    name = "http2"

    def __init__(self) -> None:
        self.wants_read = True
        self.half_close = self.finished = self.wants_write = False
        self.stream_bytes = self.all_bytes = 0
        self.out = b""
        self.on_receive: list = []
        self.on_eof: list = []
        self.later: list = []

    @property
    def restless(self) -> bool:
        return self.finished or self.half_close or not self.wants_read

    @property
    def due(self) -> bool:
        return bool(self.later)

    def receive(self, data: bytes) -> list:
        if data:
            return self.on_receive
        later, self.later = self.later, []
        return later

    def receive_eof(self) -> list:
        return self.on_eof

    def take(self) -> bytes:
        out, self.out = self.out, b""
        return out

    def queued(self, stream: int) -> int:
        return self.stream_bytes if stream else self.all_bytes


class Channel:
    def __init__(self) -> None:
        self.backlog = b""
        self.marked = 0

    def mark(self) -> None:
        self.marked += 1


class Owner:
    def __init__(self) -> None:
        self.events: list = []
        self.reasons: list[str] = []

    def handle(self, events: list) -> None:
        self.events += events

    def lost(self, reason: str) -> None:
        self.reasons.append(reason)


class Waiting:
    """Held by the leg; asks to be held again as often as it is told."""

    def __init__(self, leg: Leg, again: int = 0) -> None:
        self.leg, self.again, self.released = leg, again, 0

    def release(self) -> None:
        self.released += 1
        if self.again:
            self.again -= 1
            self.leg.held.append(self)


@pytest.fixture
def leg() -> Leg:
    return Leg(Channel(), Codec(), Owner(), LIMITS)


def test_bytes_become_events_of_the_owner(leg: Leg) -> None:
    """Data, and the peer's end, each through the codec."""
    event, end = Data(1, b"x", False), Data(1, b"", True)
    leg.codec.on_receive, leg.codec.on_eof = [event], [end]
    leg.received(b"bytes")
    leg.received(b"")
    assert leg.owner.events == [event, end]


@pytest.mark.parametrize("what", ["wants_write", "finished"])
def test_a_codec_with_something_to_say_is_flushed(leg: Leg, what: str) -> None:
    """Answers of the codec's own (a SETTINGS ACK, a 400) go out without anybody's asking."""
    setattr(leg.codec, what, True)
    leg.received(b"bytes")
    assert leg.channel.marked


def test_a_codec_that_has_had_enough_is_noticed(leg: Leg) -> None:
    """The flush that follows is what stops the reading."""
    leg.codec.wants_read = False
    leg.received(b"bytes")
    assert leg.channel.marked
    assert not leg.wants_read


def test_events_that_fell_due_are_handled_and_their_answer_goes_out_at_once(leg: Leg) -> None:
    """A pipelined request is served in the flush of the response before it."""
    leg.codec.out = b"first "
    event = Data(3, b"next", False)
    leg.codec.later = [event]
    leg.owner.handle = lambda events: (leg.owner.events.extend(events), setattr(leg.codec, "out", b"second"))
    assert leg.produce() == b"first second"
    assert leg.owner.events == [event]


@pytest.mark.parametrize(
    ("stream", "everything", "backlog", "congested"),
    [
        (100, 1000, b"", False),
        (101, 101, b"", True),
        (0, 1001, b"", True),
        (0, 0, b"x", True),
    ],
)
def test_congestion_is_a_streams_share_the_connections_or_the_kernels(
    leg: Leg, stream: int, everything: int, backlog: bytes, congested: bool
) -> None:
    """The bounds themselves are room; one byte more is not."""
    leg.codec.stream_bytes, leg.codec.all_bytes, leg.channel.backlog = stream, everything, backlog
    assert leg.congested(1) is congested


def test_each_flush_releases_those_held_once(leg: Leg) -> None:
    """One that is held again waits for the next flush: a full leg does not spin."""
    once, twice = Waiting(leg), Waiting(leg, again=1)
    leg.held += [once, twice]
    leg.produce()
    assert (once.released, twice.released) == (1, 1)
    leg.produce()
    assert (once.released, twice.released) == (1, 2)
    assert leg.held == []


def test_a_lost_leg_tells_its_owner_and_holds_nobody(leg: Leg) -> None:
    """Whoever waited for room can give back what it owes."""
    waiting, owner = Waiting(leg), leg.owner
    leg.held.append(waiting)
    leg.lost("reset")
    assert owner.reasons == ["reset"]
    assert leg.owner is not owner
    assert waiting.released == 1
    assert leg.held == []


@pytest.mark.parametrize(
    ("finished", "half_close", "farewell"),
    [(False, False, GO_ON), (False, True, HALF_CLOSE), (True, False, CLOSE), (True, True, CLOSE)],
)
def test_farewell_follows_the_codec(leg: Leg, finished: bool, half_close: bool, farewell: object) -> None:
    """Finished wins over half-closed."""
    leg.codec.finished, leg.codec.half_close = finished, half_close
    assert leg.farewell is farewell


def test_with_a_real_codec() -> None:
    """A request in, a response out, and the end after `Connection: close`."""
    leg = Leg(Channel(), Http1(Role.SERVER, LIMITS), Owner(), LIMITS)
    leg.received(b"GET / HTTP/1.1\r\nHost: votes\r\nConnection: close\r\n\r\n")
    (request,) = leg.owner.events
    leg.codec.send_response(request.stream, Head.response(204), True)
    assert leg.produce().startswith(b"HTTP/1.1 204 ")
    assert leg.farewell is CLOSE
