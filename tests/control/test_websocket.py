"""A stream that gives back what was read already, and the one error of a websocket that is over."""

import pytest
import trio
import trio.testing
from trio_websocket import CloseReason, ConnectionClosed
from wsproto.utilities import LocalProtocolError

from mesh.control.websocket import Replay, WebSocket
from mesh.model.errors import PeerError


async def test_replay_gives_the_first_bytes_first():
    """In pieces as large as are asked for, then what follows; the other direction is untouched."""
    ours, theirs = trio.testing.memory_stream_pair()
    stream = Replay(ours, b"abcde")
    await theirs.send_all(b"fgh")
    assert [await stream.receive_some(2) for _ in range(3)] == [b"ab", b"cd", b"e"]
    assert await stream.receive_some(100) == b"fgh"
    assert await Replay(ours, b"xy").receive_some() == b"xy"
    await stream.wait_send_all_might_not_block()
    await stream.send_all(b"out")
    assert await theirs.receive_some() == b"out"
    await stream.aclose()
    assert await theirs.receive_some() == b""


class Connection:
    """A library's connection that answers with what it is given."""

    def __init__(self, outcome):
        self.outcome = outcome

    async def get_message(self):
        raise self.outcome

    async def send_message(self, message):
        if self.outcome is None:
            await trio.sleep_forever()
        raise self.outcome


async def test_whatever_ends_it_is_one_error(autojump_clock):
    """A close with or without reason, the library's own misstep, or a peer that takes nothing: PeerError with words."""
    closed = ConnectionClosed(CloseReason(1009, "too big"))
    for outcome, words in ((closed, "1009 too big"), (ConnectionClosed(None), "without a reason")):
        with pytest.raises(PeerError, match=words):
            await WebSocket(Connection(outcome), "peer").receive()
        with pytest.raises(PeerError, match=words):
            await WebSocket(Connection(outcome), "peer").send(b"x", 1.0)
    with pytest.raises(PeerError, match="peer: websocket closed"):
        await WebSocket(Connection(LocalProtocolError("state")), "peer").send(b"x", 1.0)
    with pytest.raises(PeerError, match="takes nothing for 5 s"):
        await WebSocket(Connection(None), "peer").send(b"x", 5.0)
