"""Accepted connections through their phases, on loopback: detection however bytes are split, tunnels, CONNECT, TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
import trustme

from mesh.model.config import Protocol, Timeouts, TlsFiles
from mesh.model.limits import Limits
from mesh.wire.codec import Request, Response, Role
from mesh.wire.head import Head
from mesh.wire.http2 import Http2
from mesh.wire.tls import server_context

GET = b"GET /x HTTP/1.1\r\nHost: votes\r\n\r\n"


async def http1(stream: trio.SocketStream) -> None:
    """Answers every request with what it saw of the request line."""
    data = b""
    while chunk := await stream.receive_some():
        data += chunk
        while b"\r\n\r\n" in data:
            head, _, data = data.partition(b"\r\n\r\n")
            line = head.split(b"\r\n")[0]
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(line), line))


async def http2(stream: trio.SocketStream) -> None:
    """Answers every request with 204."""
    codec = Http2(Role.SERVER, Limits())
    codec.start()
    await stream.send_all(codec.take())
    while data := await stream.receive_some():
        for event in codec.receive(data):
            if isinstance(event, Request):
                codec.send_response(event.stream, Head.response(204), True)
        await stream.send_all(codec.take())


async def echo(stream: trio.SocketStream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.send_eof()


async def banner(stream: trio.SocketStream) -> None:
    """Speaks first, then echoes."""
    await stream.send_all(b"220 ready\r\n")
    await echo(stream)


async def dribble(stream: trio.SocketStream, data: bytes, size: int) -> None:
    """Send `data` in pieces that arrive as reads of their own."""
    for at in range(0, len(data), size):
        await stream.send_all(data[at : at + size])
        await trio.testing.wait_all_tasks_blocked()


# --- detection --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_http1_is_detected_however_it_is_split(proxy_parts, serve, listen, dialled, received, size: int) -> None:
    """Byte by byte or at once: the request reaches the application as HTTP."""
    parts = await proxy_parts()
    _, address = await listen(parts, parts.service("votes", await serve(http1)))
    async with await dialled(address) as client:
        await dribble(client, GET, size)
        assert (await received(client, b"GET /x HTTP/1.1")).startswith(b"HTTP/1.1 200 ")
    assert [one.key.protocol for one in parts.reports.series] == ["http1"]


@pytest.mark.parametrize("size", [1, 10, 24, 1000])
async def test_http2_is_detected_however_it_is_split(proxy_parts, serve, listen, dialled, size: int) -> None:
    """The preface in any pieces; the application is spoken to in HTTP/2 as well."""
    parts = await proxy_parts()
    _, address = await listen(parts, parts.service("votes", await serve(http2)))
    codec = Http2(Role.CLIENT, Limits())
    codec.start()
    codec.send_request(Head.request(b"GET", b"/", authority=b"votes"), True)
    async with await dialled(address) as client:
        await dribble(client, codec.take(), size)
        found = []
        with trio.fail_after(30):
            while not any(isinstance(event, Response) for event in found):
                found += codec.receive(await client.receive_some())
                await client.send_all(codec.take())
    assert [one.key.protocol for one in parts.reports.series] == ["http2"]


@pytest.mark.parametrize("data", [b"\x00\x01\x02 binary", b"hello\r\n", b"SSH-2.0-x\r\n", b"\x16\x03\x01"])
async def test_anything_else_is_a_tunnel(proxy_parts, serve, listen, dialled, received, until, data: bytes) -> None:
    """All bytes arrive, those of detection first; the client's half-close passes; one report is made."""
    parts = await proxy_parts(detect_timeout=0.2)
    cluster = parts.service("votes", await serve(echo))
    acceptor, address = await listen(parts, cluster)
    async with await dialled(address) as client:
        await client.send_all(data)
        assert await received(client, data) == data
        await client.send_all(b"more")
        await client.send_eof()
        assert await received(client) == b"more"
    await until(lambda: not acceptor.connections)
    assert [(one.key.protocol, one.key.outcome) for one in parts.reports.series] == [("tcp", "completed")]
    assert cluster.endpoints[0].load.pending == 0


async def test_a_service_declared_opaque_is_never_parsed(proxy_parts, serve, listen, dialled, received) -> None:
    """Even what looks like HTTP passes as it is."""
    parts = await proxy_parts()
    _, address = await listen(parts, parts.service("votes", await serve(echo), protocol=Protocol.OPAQUE))
    async with await dialled(address) as client:
        await client.send_all(GET)
        assert await received(client, GET) == GET


async def test_a_silent_tunnel_ends_after_the_services_idle_timeout(
    proxy_parts, serve, listen, dialled, received, until
) -> None:
    """What a policy says about silence goes before the proxy's own bound of an hour."""
    parts = await proxy_parts()
    service = parts.service("votes", await serve(echo), protocol=Protocol.OPAQUE, timeouts=Timeouts(idle=0.05))
    acceptor, address = await listen(parts, service)
    async with await dialled(address) as client:
        await client.send_all(b"hello")
        assert await received(client, b"hello") == b"hello"
        assert await received(client) == b""
    await until(lambda: not acceptor.connections)


async def test_a_server_that_speaks_first_is_heard(proxy_parts, serve, listen, dialled, received, until) -> None:
    """The client waits; the application is dialled early and its words passed on."""
    parts = await proxy_parts()
    cluster = parts.service("mail", await serve(banner))
    _, address = await listen(parts, cluster)
    async with await dialled(address) as client:
        assert await received(client, b"\r\n") == b"220 ready\r\n"
        await client.send_all(b"EHLO\r\n")
        assert await received(client, b"\r\n") == b"EHLO\r\n"
    await until(lambda: cluster.endpoints[0].load.pending == 0)


async def test_a_slow_client_of_http_is_not_taken_for_a_tunnel(proxy_parts, serve, listen, dialled, received) -> None:
    """The early dial finds an application that waits: when the client speaks at last it is HTTP."""
    parts = await proxy_parts()
    accepted = trio.Event()

    async def waits(stream: trio.SocketStream) -> None:
        accepted.set()
        await http1(stream)

    cluster = parts.service("votes", await serve(waits))
    _, address = await listen(parts, cluster)
    async with await dialled(address) as client:
        with trio.fail_after(30):
            await accepted.wait()
        await client.send_all(GET)
        assert (await received(client, b"GET /x HTTP/1.1")).startswith(b"HTTP/1.1 200 ")
    assert [one.key.protocol for one in parts.reports.series] == ["http1"]
    assert cluster.endpoints[0].load.pending == 0


async def test_a_client_that_says_nothing_and_leaves(proxy_parts, serve, listen, dialled, until) -> None:
    """A port probe: no report, nothing logged, no connection left, nothing pending."""
    parts = await proxy_parts()
    cluster = parts.service("votes", await serve(http1))
    acceptor, address = await listen(parts, cluster)
    async with await dialled(address):
        await until(lambda: acceptor.connections)
    await until(lambda: not acceptor.connections)
    assert parts.reports.series == []
    assert parts.logged == []
    assert cluster.endpoints[0].load.pending == 0


async def test_a_silent_client_of_nobody_is_let_go(proxy_parts, listen, dialled, received, until) -> None:
    """Without a service there is nobody to dial early: after `detect_timeout` it is closed and counted."""
    parts = await proxy_parts(detect_timeout=0.05)
    _, address = await listen(parts)
    async with await dialled(address) as client:
        assert await received(client) == b""
    assert parts.reports.refusals == {("silent_client", "outbound"): 1}


# --- tunnels that fail, CONNECT ---------------------------------------------------------


async def test_a_tunnel_to_nobody_closes(proxy_parts, listen, refusing, dialled, received, until) -> None:
    """The failure is counted and reported; nothing stays pending."""
    parts = await proxy_parts()
    cluster = parts.service("votes", refusing, protocol=Protocol.OPAQUE)
    _, address = await listen(parts, cluster)
    async with await dialled(address) as client:
        await client.send_all(b"hello")
        assert await received(client) == b""
    assert [(one.key.outcome, one.key.error) for one in parts.reports.series] == [("failed", "connect_failed")]
    assert cluster.endpoints[0].load.pending == 0


async def test_a_tunnel_tries_another_endpoint(proxy_parts, serve, listen, refusing, dialled, received) -> None:
    """A refused connect costs the client nothing."""
    parts = await proxy_parts()
    cluster = parts.service("votes", refusing, await serve(echo), protocol=Protocol.OPAQUE)
    _, address = await listen(parts, cluster)
    for _ in range(6):
        async with await dialled(address) as client:
            await client.send_all(b"hello")
            assert await received(client, b"hello") == b"hello"


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("inside", [GET, b"\x00binary"])
async def test_connect_and_what_is_inside(
    proxy_parts, serve, listen, dialled, received, at_once: bool, inside: bytes
) -> None:
    """After 200 the inside is detected like any connection, also where the client did not wait for the 200."""
    parts = await proxy_parts()
    target = await serve(http1 if inside is GET else echo)
    _, address = await listen(parts)
    connect = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target.encode(), target.encode())
    async with await dialled(address) as client:
        if at_once:
            await client.send_all(connect + inside)
            answer = await received(client, inside if inside is not GET else b"GET /x HTTP/1.1")
            assert answer.startswith(b"HTTP/1.1 200 ")
        else:
            await client.send_all(connect)
            assert (await received(client, b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            await client.send_all(inside)
            await received(client, inside if inside is not GET else b"GET /x HTTP/1.1")


async def test_a_proxys_own_address_is_refused(proxy_parts, listen, dialled, received) -> None:
    """A request that would come back for ever is 508."""
    parts = await proxy_parts()
    _, address = await listen(parts)
    async with await dialled(address) as client:
        await client.send_all(b"GET http://%b/ HTTP/1.1\r\nHost: %b\r\n\r\n" % (address.encode(), address.encode()))
        assert (await received(client, b"itself")).startswith(b"HTTP/1.1 508 ")


async def test_a_client_that_goes_away_takes_its_request_with_it(proxy_parts, serve, listen, dialled, until) -> None:
    """The application sees the end; the tasks are as many as before."""
    parts = await proxy_parts()
    ended, asked = trio.Event(), trio.Event()

    async def hangs(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            asked.set()
        ended.set()

    cluster = parts.service("votes", await serve(hangs))
    acceptor, address = await listen(parts, cluster)
    client = await dialled(address)
    await client.send_all(GET)
    with trio.fail_after(30):
        await asked.wait()
        await client.aclose()
        await ended.wait()
    await until(lambda: not acceptor.connections and not parts.reactor.channels)
    assert [one.key.outcome for one in parts.reports.series] == ["client_cancelled"]


async def test_a_bug_in_a_handler_ends_that_connection_only(proxy_parts, serve, listen, dialled, received) -> None:
    """It is logged with the connection's name and counted; the next connection is served."""
    parts = await proxy_parts()

    class Faulty(Http2):
        def receive(self, data: bytes) -> list:
            raise ZeroDivisionError

    _, address = await listen(parts, parts.service("votes", await serve(http1)), http2=Faulty)
    async with await dialled(address) as sound, await dialled(address) as client:
        await sound.send_all(GET)
        await received(sound, b"GET /x HTTP/1.1")
        await client.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        await received(client)
        await sound.send_all(GET)
        assert (await received(sound, b"GET /x HTTP/1.1")).startswith(b"HTTP/1.1 200 ")
    ((event, who, detail),) = parts.logged
    assert event == "connection_failed"
    assert who.startswith("outbound 127.0.0.1:")
    assert "ZeroDivisionError" in detail
    assert parts.reports.refusals[("internal", "outbound")] == 1


# --- TLS --------------------------------------------------------------------------------


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> ssl.SSLContext:
    """What an inbound listener is configured with: a client certificate is demanded."""
    issued = authority.issue_cert("votes.demo")
    for path, pem in (("cert", issued.cert_chain_pems[0]), ("key", issued.private_key_pem), ("ca", authority.cert_pem)):
        pem.write_to_path(tmp_path / path)
    return server_context(TlsFiles(*(str(tmp_path / name) for name in ("cert", "key", "ca"))), alpn=["h2", "http/1.1"])


def client_tls(authority: trustme.CA, identity: str = "web.demo") -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if identity:
        authority.issue_cert(identity).configure_cert(context)
    context.check_hostname = False
    return context


async def test_mutual_tls_names_the_peer(proxy_parts, serve, listen, dialled, authority, tls) -> None:
    """The client's identity is in the report."""
    parts = await proxy_parts()
    _, address = await listen(parts, parts.service("votes", await serve(http1)), tls=tls, direction="inbound")
    async with trio.SSLStream(await dialled(address), client_tls(authority), https_compatible=True) as client:
        await client.send_all(GET)
        with trio.fail_after(30):
            assert (await client.receive_some()).startswith(b"HTTP/1.1 200 ")
    (series,) = parts.reports.series
    assert (series.key.peer, series.key.tls) == ("web.demo", "true")


async def test_plain_text_is_refused_or_permitted(proxy_parts, serve, listen, dialled, received, tls) -> None:
    """Strict: counted and closed, the application sees nothing. Permissive: served."""
    parts = await proxy_parts()
    cluster = parts.service("votes", await serve(http1))
    _, strict = await listen(parts, cluster, tls=tls, direction="inbound")
    _, permissive = await listen(parts, cluster, tls=tls, permissive=True, direction="inbound")
    async with await dialled(strict) as client:
        await client.send_all(GET)
        assert b"HTTP" not in await received(client)
    assert [reason.startswith("tls_") for reason, _ in parts.reports.refusals] == [True]
    assert parts.reports.series == []
    async with await dialled(permissive) as client:
        await client.send_all(GET)
        assert (await received(client, b"GET /x HTTP/1.1")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("how", ["nobody", "stranger", "garbage", "leaves", "silent", "resets"])
async def test_failed_handshakes_are_refusals_not_failures(
    proxy_parts, serve, listen, dialled, received, until, authority, tls, how: str
) -> None:
    """No certificate, somebody else's, nonsense, silence or leaving: closed, and never called a bug of ours."""
    parts = await proxy_parts(handshake_timeout=0.1)
    acceptor, address = await listen(parts, parts.service("votes", await serve(http1)), tls=tls, direction="inbound")
    stream = await dialled(address)
    async with stream:
        match how:
            case "nobody" | "stranger":
                context = client_tls(authority, "" if how == "nobody" else "web.demo")
                if how == "stranger":
                    trustme.CA().issue_cert("web.demo").configure_cert(context)
                client = trio.SSLStream(stream, context, https_compatible=True)
                with pytest.raises(trio.BrokenResourceError):  # noqa: PT012 - TLS 1.3 tells it with the first read
                    await client.do_handshake()
                    await client.receive_some()
            case "garbage":
                await stream.send_all(b"\x16\x03\x01\x00\x05hello" * 3)
                await received(stream)
            case "leaves":
                await stream.send_all(b"\x16\x03\x01")
            case "silent":
                await received(stream)
            case "resets":
                await stream.send_all(b"\x16\x03")
                stream.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    await until(lambda: not acceptor.connections)
    assert parts.logged == []
    assert all(reason.startswith("tls_") for reason, _ in parts.reports.refusals)
