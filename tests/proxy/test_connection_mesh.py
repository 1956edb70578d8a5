"""Inbound connections of a proxy that has an identity: who is served over TLS, in plain text, and who is not."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest
import trio

from mesh.model.authorization import Authorization, Strictness
from mesh.model.config import Endpoint, Protocol, Service
from mesh.model.identity import Identity
from mesh.proxy.cluster import Cluster
from mesh.proxy.credentials import Credentials
from mesh.proxy.keypair import generate
from mesh.wire.tls import Pem, client_context_of
from tests.proxy.test_connection import GET, banner, echo, http1
from tests.proxy.trust import VOTES, WEB, Trust

STRICT = Authorization(strictness=Strictness.STRICT)
STRANGER = Identity("web", "demo", "else.where")


@pytest.fixture(scope="module")
def trust() -> Trust:
    return Trust()


@pytest.fixture(scope="module")
def votes(trust: Trust) -> Credentials:
    """What the proxy under test holds."""
    return trust.certified(VOTES)


@pytest.fixture
async def inbound(proxy_parts, serve, listen, votes) -> Callable[..., object]:
    """Await it with an application and perhaps an authorization: the parts, the cluster, the address to connect to."""

    async def start(
        application=http1,
        authorization: Authorization | None = None,
        protocol: Protocol = Protocol.DETECT,
        credentials: Credentials | None = votes,
        **limits: object,
    ):
        parts = await proxy_parts(**limits)
        spec = Service("votes", (Endpoint(await serve(application)),), protocol, authorization=authorization)
        cluster = parts.directory.host_inbound(Cluster(parts.shared, spec, outbound=False))
        _, address = await listen(parts, cluster, direction="inbound", credentials=credentials)
        return parts, cluster, address

    return start


async def secured(
    stream: trio.SocketStream, context: ssl.SSLContext, name: str = str(VOTES)
) -> trio.SSLStream[trio.SocketStream]:
    """A client that asks for `name`; who answers is not looked at."""
    client = trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
    with trio.fail_after(30):
        await client.do_handshake()
    return client


async def said_by(client: trio.SSLStream[trio.SocketStream], *, until: bytes) -> bytes:
    """What comes until that has come."""
    found = b""
    with trio.fail_after(30):
        while until not in found:
            found += await client.receive_some()
    return found


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("alpn", ["http1", "opaque"])
async def test_a_peer_of_the_mesh_is_served(inbound, dialled, trust, strict: bool, alpn: str) -> None:
    """It asks for us by our name, proves who it is, and is counted as that."""
    parts, _, address = await inbound(authorization=STRICT if strict else None)
    web = trust.certified(WEB).current
    async with await secured(await dialled(address), getattr(web, alpn)) as client:
        await client.send_all(GET)
        assert (await said_by(client, until=b"GET /x HTTP/1.1")).startswith(b"HTTP/1.1 200 ")
    (series,) = parts.reports.series
    assert (series.key.tls, series.key.peer, series.key.identity) == ("true", str(WEB), str(WEB))
    assert parts.reports.refusals == {}


async def test_what_is_inside_is_detected_anew(inbound, dialled, trust) -> None:
    """TCP where the server speaks first works inside, and is counted with the identity."""
    parts, _, address = await inbound(banner, STRICT)
    async with await secured(await dialled(address), trust.certified(WEB).current.opaque) as client:
        assert await said_by(client, until=b"ready\r\n") == b"220 ready\r\n"
        await client.send_all(b"hello")
        assert await said_by(client, until=b"hello") == b"hello"
    assert parts.reports.refusals == {}


def anonymous(trust: Trust) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def showing(trust: Trust, identity: Identity, **how: object) -> ssl.SSLContext:
    """A client with a certificate that our own side would never install."""
    pair = generate(str(identity), identity.uri)
    signed = trust.sign(pair.csr, identity, **how)  # type: ignore[arg-type]
    context = client_context_of(Pem(signed.chain, pair.key, trust.anchors), [])
    context.verify_mode = ssl.CERT_NONE
    return context


def unnamed(trust: Trust) -> ssl.SSLContext:
    """One signed by the mesh's root, for what is no identity."""
    issued = trust.authority.issue_cert("web.demo")
    context = anonymous(trust)
    issued.configure_cert(context)
    return context


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("who", "reason"),
    [
        (anonymous, "tls_certificate_missing"),
        (lambda trust: showing(trust, STRANGER), "tls_wrong_trust_domain"),
        (lambda trust: showing(Trust(), WEB), "tls_unknown_authority"),
        (lambda trust: showing(trust, WEB, now=1.7e9, lifetime=3600.0), "tls_certificate_expired"),
        (lambda trust: showing(trust, WEB, now=3e9), "tls_certificate_not_yet_valid"),
        (unnamed, "tls_no_identity"),
    ],
    ids=["nobody", "other trust domain", "other root", "expired", "not yet valid", "no identity"],
)
async def test_who_does_not_prove_it_is_refused(
    inbound, dialled, until, trust, strict: bool, who: Callable[[Trust], ssl.SSLContext], reason: str
) -> None:
    """Who asks for us by our name must be of the mesh, strict or not; nothing reaches the application."""
    reached = []

    async def application(stream: trio.SocketStream) -> None:
        reached.append(stream)

    parts, _, address = await inbound(application, STRICT if strict else None)
    context = who(trust)
    client = trio.SSLStream(await dialled(address), context, server_hostname=str(VOTES), https_compatible=True)
    with trio.fail_after(30):
        try:
            await client.do_handshake()
            await client.send_all(GET)
            assert await client.receive_some() == b""
        except trio.BrokenResourceError:
            pass  # an alert
    await until(lambda: parts.reports.refusals)
    assert parts.reports.refusals == {(reason, "inbound"): 1}
    assert reached == []
    assert parts.logged == []


# --- plain text, and the application's own TLS ------------------------------------------


async def test_plain_text_is_served_unless_policy_is_strict(inbound, dialled, received, until) -> None:
    """Permissive says in the report that nothing was proved. Strict refuses and counts, and that changes live."""
    parts, cluster, address = await inbound()
    async with await dialled(address) as client:
        await client.send_all(GET)
        assert (await received(client, b"GET /x HTTP/1.1")).startswith(b"HTTP/1.1 200 ")
    await until(lambda: parts.reports.series)
    (series,) = parts.reports.series
    assert (series.key.tls, series.key.identity) == ("disabled", "")
    await until(lambda: not cluster.tunnels)
    cluster.govern(Service("votes", authorization=STRICT))
    async with await dialled(address) as client:
        await client.send_all(GET)
        assert await received(client) == b""
    assert parts.reports.refusals == {("plain_text", "inbound"): 1}
    cluster.govern(Service("votes", authorization=Authorization()))
    async with await dialled(address) as client:
        await client.send_all(GET)
        assert (await received(client, b"GET /x HTTP/1.1")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("application", [http1, echo])
async def test_plain_connections_that_are_open_end_when_policy_becomes_strict(
    inbound, dialled, received, until, trust, application
) -> None:
    """HTTP and TCP, in the midst of it; who has proved who it is stays."""
    parts, cluster, address = await inbound(application)
    said = GET if application is http1 else b"hello\r\n"
    answered = b"GET /x HTTP/1.1" if application is http1 else said
    async with (
        await dialled(address) as plain,
        await secured(await dialled(address), trust.certified(WEB).current.opaque) as proved,
    ):
        await plain.send_all(said)
        await received(plain, answered)
        await proved.send_all(said)
        await said_by(proved, until=answered)
        cluster.govern(Service("votes", authorization=STRICT))
        parts.reactor.settle()
        assert await received(plain) == b""
        await proved.send_all(said)
        await said_by(proved, until=answered)
    assert parts.reports.refusals == {("plain_text", "inbound"): 1}
    await until(lambda: not cluster.tunnels)


async def test_strict_policy_holds_without_an_identity_too(inbound, dialled, received) -> None:
    """A proxy that nobody can prove anything to serves nobody."""
    parts, _, address = await inbound(authorization=STRICT, credentials=None)
    async with await dialled(address) as client:
        await client.send_all(GET)
        assert await received(client) == b""
    assert parts.reports.refusals == {("plain_text", "inbound"): 1}


@pytest.mark.parametrize("protocol", [Protocol.DETECT, Protocol.OPAQUE])
async def test_a_server_that_speaks_first_still_does(inbound, dialled, received, protocol: Protocol) -> None:
    """In plain text, where that is permitted, to a client that is silent; whatever the client then says arrives."""
    _, _, address = await inbound(banner, protocol=protocol)
    async with await dialled(address) as client:
        assert await received(client, b"ready\r\n") == b"220 ready\r\n"
        await client.send_all(b"hello")
        assert await received(client, b"hello") == b"hello"


async def test_a_strict_proxy_lets_nobody_speak_first(inbound, dialled, received, until) -> None:
    """The application is not even dialled for a client that is silent; that ends in time and is counted."""
    reached = []

    async def application(stream: trio.SocketStream) -> None:
        reached.append(stream)

    parts, _, address = await inbound(application, STRICT, handshake_timeout=0.3)
    async with await dialled(address) as client:
        assert await received(client) == b""
    assert parts.reports.refusals == {("tls_timeout", "inbound"): 1}
    assert reached == []


async def test_a_client_that_leaves_without_a_word_is_nothing(inbound, dialled, until) -> None:
    """Not counted: a port scan, a load balancer's check. One that leaves within its ClientHello is."""
    parts, _, address = await inbound(authorization=STRICT)
    await (await dialled(address)).aclose()
    async with await dialled(address) as client:
        await client.send_all(b"\x16\x03")
    await until(lambda: parts.reports.refusals)
    assert parts.reports.refusals == {("tls_handshake_eof", "inbound"): 1}
    assert parts.logged == []


@pytest.mark.parametrize("name", ["votes.example", str(WEB), None])
async def test_the_applications_own_tls_passes_as_it_is(
    inbound, dialled, received, until, trust, name: str | None
) -> None:
    """TLS that does not ask for us is not ours: bytes, where that is permitted; refused and counted where it is not."""
    parts, cluster, address = await inbound(echo)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        anonymous(trust).wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    hello = outgoing.read()
    async with await dialled(address) as client:
        for at in range(0, len(hello), 100):
            await client.send_all(hello[at : at + 100])
        assert await received(client, hello) == hello
    await until(lambda: not cluster.tunnels)
    cluster.govern(Service("votes", authorization=STRICT))
    async with await dialled(address) as client:
        await client.send_all(hello)
        assert await received(client) == b""
    assert parts.reports.refusals == {("tls_not_mesh", "inbound"): 1}


# --- before the first certificate -------------------------------------------------------


async def test_a_client_waits_for_our_first_certificate(inbound, dialled, trust, autojump_clock) -> None:
    """Within the handshake's deadline; when it comes, the handshake goes on."""
    young = Credentials(VOTES, log=lambda *_: None)
    _, _, address = await inbound(credentials=young)
    stream = await dialled(address)
    async with trio.open_nursery() as nursery:

        async def install() -> None:
            await trio.testing.wait_all_tasks_blocked(0.05)
            pair = generate(str(VOTES), VOTES.uri)
            young.install(trust.sign(pair.csr, VOTES), pair.key)

        nursery.start_soon(install)
        client = await secured(stream, trust.certified(WEB).current.http1)
    async with client:
        await client.send_all(GET)
        assert (await said_by(client, until=b"GET /x HTTP/1.1")).startswith(b"HTTP/1.1 200 ")


async def test_without_a_certificate_it_is_refused_in_time(inbound, dialled, trust) -> None:
    """And counted as that: the client is not at fault."""
    parts, _, address = await inbound(credentials=Credentials(VOTES, log=lambda *_: None), handshake_timeout=0.4)
    with pytest.raises(trio.BrokenResourceError):
        await secured(await dialled(address), trust.certified(WEB).current.http1)
    assert parts.reports.refusals == {("tls_no_certificate", "inbound"): 1}
