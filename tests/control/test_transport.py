"""The port with TLS: real clients of both kinds, bad handshakes, rotation, and who may still speak plain."""

import socket
import ssl

import httpx
import msgspec
import pytest
import trio
from trio_websocket import ConnectionRejected

from mesh.control import api
from mesh.control.tokens import proxy_token
from mesh.control.transport import address_of, begins_tls
from mesh.model.push import FromControl, Hello, Settings, Welcome

from .authorities import a_good_set, make
from .conftest import Plane

TOKEN = "secret"


def port_of(plane):
    return int(plane.url.rpartition(":")[2])


async def raw(plane, sent=b"", *, eof=False):
    """All that is answered to bytes of our own, until the port closes."""
    stream = await trio.open_tcp_stream("127.0.0.1", port_of(plane))
    heard = b""
    async with stream:
        try:
            await stream.send_all(sent)
            if eof:
                await stream.send_eof()
            with trio.fail_after(30):
                async for chunk in stream:
                    heard += chunk
        except trio.BrokenResourceError:
            return heard
    return heard


async def connected(plane, context, name="localhost"):
    """A stream inside TLS."""
    stream = await trio.open_tcp_stream("127.0.0.1", port_of(plane))
    secured = trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
    await secured.do_handshake()
    return secured


async def test_https_and_plain_on_one_port(secure_plane):
    """The same answers both ways on loopback, with headers that keep browsers in bounds; the URL is https."""
    assert secure_plane.url.startswith("https://127.0.0.1:")
    for plain in (False, True):
        async with secure_plane.client(plain=plain) as client:
            answer = await client.get("/api/v1/version")
            assert answer.status_code == 200
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert (await client.get("/api/v1/stat?window=0")).status_code == 200


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
async def test_its_certificate_is_for_its_names(secure_plane, name):
    """Whoever trusts the anchors believes it under each name of this machine, and speaks HTTP/1.1 to it."""
    context = secure_plane.context
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with await connected(secure_plane, context, name) as stream:
        assert stream.selected_alpn_protocol() == "http/1.1"
        assert stream.version() == "TLSv1.3"


async def test_its_certificate_is_for_nothing_else(secure_plane, tmp_path):
    """Not for another name, and not for whoever trusts other roots."""
    with pytest.raises(trio.BrokenResourceError) as caught:
        await connected(secure_plane, secure_plane.context, "mesh.example")
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    strange = ssl.create_default_context(cadata=make("root").pem.decode())
    with pytest.raises(trio.BrokenResourceError):
        await connected(secure_plane, strange)
    await secure_plane.get("/api/v1/version")


async def test_old_tls_is_refused(secure_plane):
    """1.2 is good, 1.1 is not."""
    context = secure_plane.context
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with await connected(secure_plane, context) as stream:
        assert stream.version() == "TLSv1.2"
    old = secure_plane.context
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(trio.BrokenResourceError):
        await connected(secure_plane, old)


async def test_nothing_is_resumed(secure_plane):
    """No ticket is given, in 1.2 or in 1.3."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = secure_plane.context
        context.maximum_version = version
        async with await connected(secure_plane, context) as stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
            session = stream._ssl_object.session  # no other way to it
            assert session is None or not session.has_ticket


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16",
        b"\x16\x03\x01\xff\xff" + b"x" * 1000,
        b"\x16\x03\x01\x00\x05hello",
        b"\x16" * 100_000,
        b"\x80\x2e\x01\x00\x02",  # SSLv2's hello begins like no method either
    ],
    ids=["one byte", "a long record", "no hello", "a flood", "SSLv2"],
)
async def test_broken_handshakes_end_their_connection_alone(secure_plane, sent):
    """With an alert or without; the port lives."""
    answer = await raw(secure_plane, sent, eof=True)
    assert not answer.startswith(b"HTTP/1.1 2")
    await secure_plane.get("/api/v1/version")


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x01\x00\x01"])
async def test_a_handshake_has_a_deadline(secure_plane, monkeypatch, sent):
    """Who says nothing, or half a hello, is cut off."""
    monkeypatch.setattr(api, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(api, "HANDSHAKE_SECONDS", 0.05)
    assert await raw(secure_plane, sent) == b""


async def test_who_is_in_no_hurry_inside_tls_is_cut_off(secure_plane, monkeypatch):
    """The deadlines of heads hold there too, and the end is a proper one."""
    monkeypatch.setattr(api, "HEAD_SECONDS", 0.3)
    async with await connected(secure_plane, secure_plane.context) as stream:
        await stream.send_all(b"GET /hel")
        with trio.fail_after(30):
            assert await stream.receive_some() == b""


async def test_large_bodies_and_refusals_inside_tls(secure_plane):
    """A body that is too large gets its answer before the connection closes; one below the bound goes through."""
    async with secure_plane.client() as client:
        assert (await client.put("/api/v1/resources", content="#" * 2_000_000)).status_code == 413
        assert (await client.put("/api/v1/resources", content="#" * 1_000_000)).status_code == 422


async def test_proxies_never_speak_plain(secure_plane, tmp_path):
    """Their stream is for TLS alone, also from loopback, whatever the token; over TLS both tokens open it."""
    own = proxy_token(TOKEN, "web", "demo", "front")
    plain = Plane(tmp_path, secure_plane.url.replace("https", "http"), secure_plane.scope)
    for token in (TOKEN, own):
        with pytest.raises(ConnectionRejected) as caught:
            async with plain.websocket("/api/v1/proxies/connect", Authorization=f"Bearer {token}"):
                pass
        assert caught.value.status_code == 403
        assert "never plain text" in msgspec.json.decode(caught.value.body)["error"]
        async with secure_plane.websocket("/api/v1/proxies/connect", Authorization=f"Bearer {token}") as stream:
            await stream.send_message(msgspec.json.encode(Hello("web", "demo", "web/h/1", "0.1")).decode())
            heard = [msgspec.json.decode(await stream.get_message(), type=FromControl) for _ in range(2)]
            assert isinstance(heard[0], Welcome)
            assert isinstance(heard[1], Settings)
            assert heard[1].anchors == secure_plane.anchors.read_text()


UPGRADE = (
    b"GET /api/v1/stat/watch HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CLOSE, PING = b"\x88\x82\0\0\0\0\x03\xe8", b"\x89\x84\0\0\0\0ping"


@pytest.mark.parametrize(
    "frames", [CLOSE + PING, PING * 50 + CLOSE, b"\xff" * 100, b""], ids=["late", "many", "junk", "cut"]
)
@pytest.mark.parametrize("polite", [True, False])
async def test_whatever_a_websocket_inside_tls_says_ends_that_one_alone(start_plane, trust, frames, polite):
    """A ping during the close, floods, garbage, a connection that is cut: a proxy's stream beside it lives on."""
    hello = msgspec.json.encode(Hello("web", "demo", "web/h/1", "0.1")).decode()
    async with (
        start_plane(trust=trust, heartbeat=0.02) as plane,
        plane.websocket("/api/v1/proxies/connect") as honest,
    ):
        await honest.send_message(hello)
        stream = await connected(plane, plane.context)
        await stream.send_all(UPGRADE)
        assert b" 101 " in await stream.receive_some()
        await stream.send_all(frames)
        await (stream.aclose() if polite else trio.aclose_forcefully(stream))
        with trio.fail_after(30):
            for _ in range(5):
                assert await honest.get_message()
        await plane.get("/api/v1/version")


async def test_rotation_drops_no_connection(secure_plane, trust, until):
    """With another root and issuer, connections that are there go on, and new ones get the new certificate."""
    async with await connected(secure_plane, secure_plane.context) as stream:
        first = await identity(secure_plane)
        a_good_set(trust.anchors.parent, "another")

        async def rotated():
            try:
                return (await identity(secure_plane))["issuer"]["fingerprint"] != first["issuer"]["fingerprint"]
            except httpx.TransportError:
                return False  # the file has the new root, and the port the old certificate

        await until(rotated)
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")


async def identity(plane):
    return await plane.get("/api/v1/identity")


async def test_without_trust_the_port_is_plain(plane):
    """As it was: no TLS, and a proxy's stream too."""
    assert plane.url.startswith("http://")
    assert (await raw(plane, b"\x16\x03\x01\x00\x05hello", eof=True)).startswith(b"HTTP/1.1 400")
    async with plane.websocket("/api/v1/proxies/connect") as stream:
        await stream.send_message(msgspec.json.encode(Hello("web", "demo", "web/h/1", "0.1")).decode())
        assert isinstance(msgspec.json.decode(await stream.get_message(), type=FromControl), Welcome)


@pytest.mark.parametrize(("sent", "tls"), [(b"\x16\x03", True), (b"GET", False), (b"", False)])
async def test_the_first_byte_tells_and_stays(sent, tls):
    """It is only looked at; an end is no TLS."""
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    async with stream:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        assert await begins_tls(stream) is tls
        assert await stream.receive_some(10) == sent
    theirs.close()


async def test_a_reset_is_one_error():
    """Whoever is gone before its first byte; and its address is nothing then."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    client = await trio.open_tcp_stream(*listener.socket.getsockname())
    stream = await listener.accept()
    assert address_of(stream) == "127.0.0.1"
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    await client.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await begins_tls(stream)
    assert address_of(stream) == ""
    await stream.aclose()
    await listener.aclose()
