"""The two ways in at the one port: TLS or plain, told by the first byte, which is only looked at.

A TLS connection begins with a handshake record, 0x16 (RFC 8446 5.1), and no HTTP method does.
"""

from __future__ import annotations

import socket
import ssl

import trio

HANDSHAKE_RECORD = b"\x16"


async def begins_tls(stream: trio.SocketStream) -> bool:
    """Whether the client speaks TLS; waits for its first byte, and leaves it to be read. False where it says nothing
    more. Raises trio.BrokenResourceError where the connection broke."""
    try:
        return await stream.socket.recv(1, socket.MSG_PEEK) == HANDSHAKE_RECORD
    except OSError as exc:
        raise trio.BrokenResourceError from exc


async def shake_hands(stream: trio.SocketStream, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    """The stream inside; raises trio.BrokenResourceError where the handshake fails."""
    secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    await secured.do_handshake()
    return secured


def address_of(stream: trio.SocketStream) -> str:
    """The client's, without port; empty where it is gone already."""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return ""
