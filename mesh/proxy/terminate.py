"""The accepting end of TLS, before the reactor has the socket: a ClientHello is read, and answered."""

from __future__ import annotations

import contextlib
import socket
import ssl

import trio

from mesh.proxy.dial import send_all
from mesh.wire.sniff import Verdict, server_name
from mesh.wire.tls import Tls, TlsError

READ = 64 * 1024


async def read(sock: socket.socket, tls: Tls | None) -> bytes:
    """Plain bytes from a peer; empty when it has closed. Raises TlsError."""
    while True:
        try:
            data = sock.recv(READ)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
            continue
        except OSError:
            return b""
        if tls is None or not data:
            return data
        plain = tls.receive(data)
        if tls.pending:  # an answer of TLS itself: no to a renegotiation, a new key
            with contextlib.suppress(OSError):  # reading will tell
                await send_all(sock, tls.take())
        if plain or tls.eof:
            return plain


async def asked_for(sock: socket.socket, tls: Tls | None, data: bytes, seconds: float) -> tuple[str, bytes]:
    """The host that a client asks for in its ClientHello (empty: none, or not within `seconds`), in lower case, and all
    bytes read to find out; `data` are those that have been read. Raises TlsError of the TLS that it is in, if any."""
    with trio.move_on_after(seconds):
        while server_name(data) is Verdict.MORE:
            chunk = await read(sock, tls)
            if not chunk:
                break
            data += chunk
    name = server_name(data)
    return name if isinstance(name, str) else "", data


async def terminate(sock: socket.socket, context: ssl.SSLContext, data: bytes) -> Tls:
    """Shake hands as the server; `data` has been read already, and the caller sets the deadline.

    What came behind the handshake waits for `Tls.receive(b"")`. Raises TlsError, when the peer has been told why, and
    OSError."""
    tls = Tls(context, True)
    try:
        while not tls.handshake(data):
            await send_all(sock, tls.take())
            data = await read(sock, None)
            if not data:
                tls.receive_eof()
    finally:
        await send_all(sock, tls.take())
    return tls


async def dismiss(sock: socket.socket, tls: Tls, error: TlsError) -> None:
    """Say goodbye to a peer that has proved to be somebody whom we do not serve, and raise why."""
    tls.close()
    await send_all(sock, tls.take())
    raise error
