"""One accepted websocket, as the rest of the control plane uses it: whole messages, and one error when it is over."""

from __future__ import annotations

from typing import Protocol

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection
from wsproto.utilities import LocalProtocolError

from mesh.model.errors import PeerError


class Socket(Protocol):
    """The seam. Both raise PeerError when the peer is gone."""

    async def receive(self) -> str | bytes:
        """The next message."""

    async def send(self, message: bytes, deadline: float) -> None:
        """Sends JSON text; raises PeerError too if the peer has not taken it after `deadline` seconds."""


class WebSocket:
    """The seam on a real connection; `peer` is its address, for messages."""

    def __init__(self, connection: WebSocketConnection, peer: str) -> None:
        self._connection = connection
        self._peer = peer

    def __repr__(self) -> str:
        return f"<WebSocket {self._peer}>"

    async def receive(self) -> str | bytes:
        try:
            return await self._connection.get_message()
        except ConnectionClosed as exc:
            raise PeerError(f"websocket closed: {why(exc)}", peer=self._peer) from exc

    async def send(self, message: bytes, deadline: float) -> None:
        with trio.move_on_after(deadline) as scope:
            try:
                await self._connection.send_message(message.decode())
            except ConnectionClosed as exc:
                raise PeerError(f"websocket closed: {why(exc)}", peer=self._peer) from exc
            except LocalProtocolError as exc:  # the peer closes at this moment, and the library did not look
                raise PeerError("websocket closed", peer=self._peer) from exc
        if scope.cancelled_caught:
            raise PeerError(f"takes nothing for {deadline:g} s", peer=self._peer)


class Replay(trio.abc.Stream):
    """A stream whose first bytes were read already, and are given again before what follows."""

    def __init__(self, stream: trio.abc.Stream, first: bytes) -> None:
        self._stream = stream
        self._first = first

    def __repr__(self) -> str:
        return f"<Replay {len(self._first)} bytes, then {self._stream!r}>"

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self._first:
            return await self._stream.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        size = len(self._first) if max_bytes is None else max_bytes
        data, self._first = self._first[:size], self._first[size:]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


def why(exc: ConnectionClosed) -> str:
    """Code and reason of a close, for a message."""
    reason = exc.reason
    return f"{reason.code} {reason.reason or reason.name}" if reason is not None else "without a reason"
