"""One connection to an endpoint: what succeeds, and how each failure is told."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trio
import trustme

from mesh.model.config import TlsFiles
from mesh.proxy.credentials import Credentials
from mesh.proxy.dial import Alpn, ClientTls, ConnectFailed, dial, resolve, secure, send_all
from mesh.proxy.keypair import generate
from mesh.proxy.rescue import Reason
from mesh.wire.tls import client_context
from tests.proxy.trust import VOTES, WEB, Trust

QUICK = {"connect_timeout": 5.0, "handshake_timeout": 5.0}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def files(authority: trustme.CA, folder: Path, name: str) -> TlsFiles:
    """A certificate for `name`, its key and its anchor as PEM files."""
    issued = authority.issue_cert(name)
    paths = [folder / f"{name}.{kind}" for kind in ("pem", "key", "ca")]
    issued.cert_chain_pems[0].write_to_path(paths[0])
    issued.private_key_pem.write_to_path(paths[1])
    authority.cert_pem.write_to_path(paths[2])
    return TlsFiles(*map(str, paths))


@pytest.fixture
def context(authority: trustme.CA, tmp_path: Path) -> ssl.SSLContext:
    return client_context(files(authority, tmp_path, "web.demo"), alpn=["h2"])


@pytest.fixture
async def tls_server(authority: trustme.CA, serve) -> str:
    """A TLS server whose certificate says votes.demo; it echoes."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("votes.demo").configure_cert(server)
    server.set_alpn_protocols(["h2"])

    async def echo(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, server, server_side=True)
        while data := await tls.receive_some():
            await tls.send_all(data)

    return await serve(echo)


async def echo(stream: trio.SocketStream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_plain(serve, name: str) -> None:
    """A literal or a name; the socket does not block, does not delay, and is ours to close."""
    port = (await serve(echo)).rpartition(":")[2]
    sock, tls = await dial(f"{name}:{port}", **QUICK)
    with sock:
        assert tls is None
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getpeername()[1] == int(port)


async def test_refused_names_the_cause(refusing: str) -> None:
    """What the system says, as a reason that clients are told."""
    with pytest.raises(ConnectFailed, match="Connection refused") as caught:
        await dial(refusing, **QUICK)
    assert caught.value.kind is Reason.CONNECT_FAILED
    assert caught.value.peer == refusing
    assert not caught.value.silent, "it has said something"


async def test_silence_is_a_deadline(autojump_clock) -> None:
    """An address that does not answer: over after connect_timeout, with that said. No packet leaves loopback."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = f"127.0.0.1:{full.getsockname()[1]}"
        kept = [socket.socket() for _ in range(3)]
        for one in kept:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        with pytest.raises(ConnectFailed, match=r"connect took over 0\.2 s") as caught:
            await dial(address, connect_timeout=0.2, handshake_timeout=1.0)
        assert caught.value.kind is Reason.CONNECT_FAILED
        assert caught.value.silent
        for one in kept:
            one.close()


async def test_a_name_that_does_not_exist() -> None:
    """The resolver's error is a failed connect, not an exception of another kind."""
    with pytest.raises(ConnectFailed) as caught:
        await dial("no-such-host.invalid:80", **QUICK)
    assert caught.value.kind is Reason.CONNECT_FAILED


async def test_literals_need_no_resolver() -> None:
    """IPv4 and IPv6 addresses are taken as they are."""
    assert await resolve("127.0.0.1", 80) == [(socket.AF_INET, ("127.0.0.1", 80))]
    assert await resolve("::1", 80) == [(socket.AF_INET6, ("::1", 80))]


@pytest.mark.parametrize("identity", ["", "votes.demo"])
async def test_tls_and_its_identity(tls_server: str, context: ssl.SSLContext, identity: str) -> None:
    """The handshake is complete, ALPN agreed, and bytes pass."""
    sock, tls = await dial(tls_server, **QUICK, tls=context, identity=identity)
    with sock:
        assert tls.alpn == "h2"
        assert "votes.demo" in tls.peer_identities
        tls.send(b"hello")
        await send_all(sock, tls.take())
        plain = b""
        while plain != b"hello":
            await trio.lowlevel.wait_readable(sock)
            plain += tls.receive(sock.recv(65536))


async def test_another_identity_is_refused(tls_server: str, context: ssl.SSLContext) -> None:
    """A certificate that is valid, of somebody else."""
    with pytest.raises(ConnectFailed) as caught:
        await dial(tls_server, **QUICK, tls=context, identity="bank.demo")
    assert caught.value.kind is Reason.TLS_FAILED


async def test_an_untrusted_server_is_refused(tls_server: str, tmp_path: Path) -> None:
    """Signed by nobody we know."""
    stranger = client_context(files(trustme.CA(), tmp_path, "web.demo"), alpn=["h2"])
    with pytest.raises(ConnectFailed, match="TLS") as caught:
        await dial(tls_server, **QUICK, tls=stranger)
    assert caught.value.kind is Reason.TLS_FAILED


async def test_a_server_without_tls(serve, context: ssl.SSLContext) -> None:
    """Its answer is no TLS: told as such, and the socket is closed."""
    ended = trio.Event()

    async def banner(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 smtp.example ESMTP\r\n")
        while await stream.receive_some():
            pass
        ended.set()

    with pytest.raises(ConnectFailed) as caught:
        await dial(await serve(banner), **QUICK, tls=context)
    assert caught.value.kind is Reason.TLS_FAILED
    with trio.fail_after(30):
        await ended.wait()


@pytest.mark.parametrize("how", ["silent", "closes"])
async def test_a_handshake_that_stalls_or_breaks_off(serve, context: ssl.SSLContext, how: str) -> None:
    """Bounded by handshake_timeout, or over at once; the socket is closed either way."""
    ended = trio.Event()

    async def handler(stream: trio.SocketStream) -> None:
        if how == "silent":
            while await stream.receive_some():
                pass
        ended.set()

    with pytest.raises(ConnectFailed) as caught:
        await dial(await serve(handler), connect_timeout=5.0, handshake_timeout=0.1, tls=context)
    assert caught.value.kind is Reason.TLS_FAILED
    with trio.fail_after(30):
        await ended.wait()


async def test_a_cancelled_handshake_closes_its_socket(serve, context: ssl.SSLContext) -> None:
    """Whoever gives up leaves nothing open."""
    begun, ended = trio.Event(), trio.Event()

    async def handler(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            begun.set()
        ended.set()

    address = await serve(handler)
    async with trio.open_nursery() as nursery:

        async def dialling() -> None:
            await dial(address, **QUICK, tls=context)

        nursery.start_soon(dialling)
        with trio.fail_after(30):
            await begun.wait()
        nursery.cancel_scope.cancel()
    with trio.fail_after(30):
        await ended.wait()


async def test_send_all_sends_more_than_the_kernel_takes() -> None:
    """All of it, in order, waiting as often as it must."""
    ours, theirs = socket.socketpair()
    data = bytes(range(256)) * 10_000
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        got = bytearray()

        async def read() -> None:
            while len(got) < len(data):
                await trio.lowlevel.wait_readable(theirs)
                got.extend(theirs.recv(65536))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await send_all(ours, data)
        assert bytes(got) == data


# --- how to secure it -------------------------------------------------------------------


async def test_a_services_own_files_go_first() -> None:
    """By the protocol that is to be spoken; no name is asked for."""
    trust = Trust()
    tls, credentials = ClientTls(*trust.certified(VOTES).current[:2]), trust.certified(WEB)
    assert await secure(tls, credentials, str(VOTES), Alpn.HTTP2) == (tls.http2, "")
    for alpn in (Alpn.HTTP1, Alpn.NONE):
        assert await secure(tls, None, "", alpn) == (tls.http1, "")


async def test_what_proves_who_we_are_is_read_for_each_connection() -> None:
    """By what is to be spoken, asking for the identity that is expected."""
    trust = Trust()
    credentials = trust.certified(WEB)
    for _ in range(2):
        held = credentials.current
        for alpn, context in ((Alpn.HTTP2, held.http2), (Alpn.HTTP1, held.http1), (Alpn.NONE, held.opaque)):
            assert await secure(None, credentials, str(VOTES), alpn) == (context, str(VOTES))
        pair = generate(str(WEB), WEB.uri)
        credentials.install(trust.sign(pair.csr, WEB), pair.key)


async def test_plain_text_only_where_nobody_is_expected(autojump_clock) -> None:
    """An endpoint with an identity is waited for, or refused; never reached in plain text by a proxy that has one."""
    young = Credentials(WEB, log=lambda *_: None)
    assert await secure(None, young, "", Alpn.HTTP1) == (None, "")
    assert await secure(None, None, str(VOTES), Alpn.HTTP1) == (None, "")
    with pytest.raises(ConnectFailed, match=r"TLS: votes\.demo is no identity") as caught:
        await secure(None, young, "votes.demo", Alpn.HTTP1)
    assert caught.value.kind is Reason.TLS_FAILED
    with pytest.raises(trio.TooSlowError), trio.fail_after(100):
        await secure(None, young, str(VOTES), Alpn.HTTP1)
