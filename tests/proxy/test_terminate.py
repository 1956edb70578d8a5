"""The accepting end of a TLS handshake, over a socket pair."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import pytest
import trio

from mesh.proxy.dial import send_all
from mesh.proxy.terminate import asked_for, dismiss, read, terminate
from mesh.wire.tls import Tls, TlsError
from tests.proxy.trust import VOTES, WEB, Trust


@pytest.fixture(scope="module")
def trust() -> Trust:
    return Trust()


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours and a client's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def client(sock: socket.socket, context: ssl.SSLContext, size: int, say: bytes) -> bytes:
    """Shakes hands with writes of `size` bytes, says something, and returns what it is told until the end."""
    tls = Tls(context, False, str(VOTES))
    flight, done = b"", False
    while not done:
        done = tls.handshake(flight)
        out = tls.take()
        for at in range(0, len(out), size):
            await send_all(sock, out[at : at + size])
        flight = b"" if done else await read(sock, None)
    tls.send(say)
    await send_all(sock, tls.take())
    found = b""
    while not tls.eof and (data := await read(sock, None)):
        found += tls.receive(data)
    return found


@pytest.mark.parametrize("size", [1, 50, 100_000])
async def test_both_have_proved_who_they_are(trust, sockets, size: int) -> None:
    """However the bytes are cut; what came with the handshake's last is not lost."""
    ours, theirs = sockets
    context = trust.certified(WEB).current.http1
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client, theirs, context, size, b"question")
            tls = await terminate(ours, trust.certified(VOTES).current.server, b"")
            found = tls.receive(b"") or await read(ours, tls)
            assert found == b"question"
            assert tls.peer_identities[0] == str(WEB)
            tls.close()
            await send_all(ours, tls.take())


async def test_a_stranger_is_told_and_raised(trust, sockets) -> None:
    """The alert has been sent when the error comes."""
    ours, theirs = sockets
    context = Trust().certified(WEB).current.http1
    context.verify_mode = ssl.CERT_NONE
    failure = []

    async def stranger() -> None:
        with pytest.raises(TlsError) as caught:
            await client(theirs, context, 1000, b"question")
        failure.append(caught.value.reason)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stranger)
            with pytest.raises(TlsError) as caught:
                await terminate(ours, trust.certified(VOTES).current.server, b"")
    assert caught.value.reason == "unknown_authority"
    assert failure == ["alert_unknown_ca"]


async def test_a_client_that_leaves_is_told_apart(trust, sockets) -> None:
    """From one that fails."""
    ours, theirs = sockets
    theirs.close()
    with pytest.raises(TlsError) as caught:
        await terminate(ours, trust.certified(VOTES).current.server, b"")
    assert caught.value.reason == "handshake_eof"


async def test_goodbye_is_said_before_the_reason_is_raised(trust, sockets) -> None:
    """The peer sees a clean end."""
    ours, theirs = sockets
    told = []

    async def peer() -> None:
        told.append(await client(theirs, trust.certified(WEB).current.http1, 1000, b"question"))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer)
            tls = await terminate(ours, trust.certified(VOTES).current.server, b"")
            with pytest.raises(TlsError, match="not you"):
                await dismiss(ours, tls, TlsError("stranger", "not you"))
    assert told == [b""]


def hello(name: str | None) -> bytes:
    """A ClientHello."""
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("name", ["Votes.Example", None])
async def test_the_host_that_is_asked_for(sockets, name: str | None) -> None:
    """In lower case, with all bytes read, however they come."""
    ours, theirs = sockets
    said = hello(name)

    async def dribble() -> None:
        for at in range(10, len(said), 60):
            await send_all(theirs, said[at : at + 60])
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dribble)
        found, data = await asked_for(ours, None, said[:10], 30.0)
    assert found == (name or "").lower()
    assert said.startswith(data)


async def test_a_hello_without_end_is_given_up(sockets, autojump_clock) -> None:
    """In time, and at the client's end; what was read is kept."""
    ours, theirs = sockets
    said = hello("votes")
    await send_all(theirs, said[10:50])
    assert await asked_for(ours, None, said[:10], 5.0) == ("", said[:50])
    theirs.close()
    assert await asked_for(ours, None, said[:50], 5.0) == ("", said[:50])
