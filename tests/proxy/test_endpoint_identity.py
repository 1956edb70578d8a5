"""Endpoints that must prove who they are: dialled with mTLS by a proxy that has an identity, and never without."""

from __future__ import annotations

import socket

import msgspec
import pytest
import trio

from mesh.model.config import Endpoint as EndpointSpec
from mesh.model.config import Protocol, Service
from mesh.model.limits import Limits
from mesh.model.traffic import HealthCheck, HealthKind, Traffic
from mesh.proxy.credentials import Credentials
from mesh.proxy.dial import send_all
from mesh.proxy.keypair import generate
from mesh.proxy.terminate import asked_for, read, terminate
from mesh.wire.codec import Request, Role
from mesh.wire.head import Head
from mesh.wire.http1 import Http1
from mesh.wire.http2 import Http2
from mesh.wire.tls import TlsError
from tests.proxy.asking import Asking, http1_server
from tests.proxy.trust import VOTES, WEB, Trust


@pytest.fixture(scope="module")
def trust() -> Trust:
    return Trust()


@pytest.fixture
def meshed(trust, serve):
    """Await it for the address of a TLS server that is `votes`: it records the SNI, ALPN and client of connections."""

    async def start(seen: list[tuple[str, str | None, tuple[str, ...]]]) -> str:
        async def handle(stream: trio.SocketStream) -> None:
            sock = socket.socket(fileno=stream.socket.detach())
            sock.setblocking(False)
            with sock:
                await serve_tls(sock)

        async def serve_tls(sock: socket.socket) -> None:
            name, data = await asked_for(sock, None, b"", 30.0)
            try:
                tls = await terminate(sock, trust.certified(VOTES).current.server, data)
            except TlsError:
                return
            seen.append((name, tls.alpn, tls.peer_identities))
            codec = Http2(Role.SERVER, Limits()) if tls.alpn == "h2" else Http1(Role.SERVER, Limits())
            codec.start()
            data = tls.receive(b"")
            while True:
                for event in codec.receive(data):
                    if isinstance(event, Request):
                        codec.send_response(event.stream, Head.response(204), True)
                tls.send(codec.take())
                await send_all(sock, tls.take())
                data = await read(sock, tls)
                if not data:
                    return

        return await serve(handle)

    return start


def proving(address: str, identity: str, protocol: Protocol = Protocol.DETECT) -> Service:
    return Service("votes", (EndpointSpec(address, identity=identity),), protocol)


@pytest.mark.parametrize(("protocol", "alpn"), [(Protocol.HTTP2, "h2"), (Protocol.HTTP1, "http/1.1")])
async def test_both_prove_who_they_are(proxy_parts, trust, meshed, until, protocol: Protocol, alpn: str) -> None:
    """With nothing configured: the endpoint is asked for by its identity, and counted with it."""
    parts, seen = await proxy_parts(trust.certified(WEB)), []
    cluster = parts.directory.add(proving(await meshed(seen), str(VOTES), protocol))
    asking = Asking(parts, cluster)
    await until(lambda: asking.over)
    assert asking.status == 204
    assert seen == [(str(VOTES), alpn, (str(WEB), WEB.uri))]
    scope = cluster.endpoints[0].scope
    assert (scope.tls, scope.identity) == ("true", str(VOTES))
    (series,) = parts.reports.series
    assert (series.key.tls, series.key.identity) == ("true", str(VOTES))


async def test_a_new_certificate_is_for_new_connections(proxy_parts, trust, meshed, until) -> None:
    """What is open lives on and is used."""
    credentials = trust.certified(WEB)
    parts, seen = await proxy_parts(credentials), []
    cluster = parts.directory.add(proving(await meshed(seen), str(VOTES), Protocol.HTTP2))
    for _ in range(3):
        asking = Asking(parts, cluster)
        await until(lambda asking=asking: asking.over)
        assert asking.status == 204
        pair = generate(str(WEB), WEB.uri)
        credentials.install(trust.sign(pair.csr, WEB), pair.key)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("identity", "why"),
    [
        (str(VOTES._replace(account="words")), "the peer's certificate is for"),
        (str(VOTES._replace(trust_domain="else.where")), "is not of our trust domain, cluster.local"),
        ("votes.demo", "votes.demo is no identity"),
    ],
)
async def test_who_is_not_whom_we_mean_gets_nothing(proxy_parts, trust, meshed, until, identity: str, why: str) -> None:
    """One clear error; never plain text."""
    parts, seen = await proxy_parts(trust.certified(WEB)), []
    cluster = parts.directory.add(proving(await meshed(seen), identity))
    asking = Asking(parts, cluster)
    await until(lambda: asking.over)
    assert asking.status == 503
    assert b"conduit-error: tls_failed" in asking.answer
    assert why.encode() in asking.answer


async def test_requests_wait_for_our_first_certificate(proxy_parts, trust, meshed, until) -> None:
    """When it has come they are sent; the endpoint is not blamed."""
    young, seen = Credentials(WEB, log=lambda *_: None), []
    parts = await proxy_parts(young)
    cluster = parts.directory.add(proving(await meshed(seen), str(VOTES)))
    asking = [Asking(parts, cluster) for _ in range(3)]
    await trio.testing.wait_all_tasks_blocked(0.01)
    (endpoint,) = cluster.endpoints
    assert endpoint.uncertified
    assert (seen, endpoint.last_cause) == ([], "")
    pair = generate(str(WEB), WEB.uri)
    young.install(trust.sign(pair.csr, WEB), pair.key)
    await until(lambda: all(one.over for one in asking))
    assert [one.status for one in asking] == [204] * 3
    assert not endpoint.uncertified


async def test_a_certificate_that_does_not_come_in_time_is_the_reason(proxy_parts, until, refusing) -> None:
    """Requests wait no longer than for anything else; the endpoint is not held to be down, and is not dialled."""
    parts = await proxy_parts(Credentials(WEB, log=lambda *_: None), pending_timeout=0.2)
    cluster = parts.directory.add(proving(refusing, str(VOTES)))
    asking = Asking(parts, cluster)
    await until(lambda: asking.over)
    assert asking.status == 503
    assert b"conduit-error: tls_failed" in asking.answer
    assert b"this proxy got no certificate within 0.2 s: none has been asked for yet" in asking.answer
    (endpoint,) = cluster.endpoints
    assert endpoint.state(trio.current_time()) == "in_use"
    await until(lambda: endpoint.dialling == 0)


async def test_without_an_identity_of_ours_an_endpoints_is_not_asked_for(proxy_parts, serve, until) -> None:
    """A proxy outside of any mesh speaks plain text, as ever."""
    parts = await proxy_parts()
    cluster = parts.directory.add(proving(await serve(http1_server()), str(VOTES)))
    asking = Asking(parts, cluster)
    await until(lambda: asking.over)
    assert asking.status == 200
    scope = cluster.endpoints[0].scope
    assert (scope.tls, scope.identity) == ("disabled", "")


async def test_checks_begin_with_our_first_certificate(proxy_parts, trust, meshed, until) -> None:
    """Before it, nothing is known of the endpoint; then it is asked with TLS as requests are."""
    young, seen = Credentials(WEB, log=lambda *_: None), []
    parts = await proxy_parts(young)
    spec = proving(await meshed(seen), str(VOTES))
    health = HealthCheck(interval=0.1, kind=HealthKind.HTTP, timeout=5.0)
    cluster = parts.directory.add(msgspec.structs.replace(spec, traffic=Traffic(health=health)))
    await trio.testing.wait_all_tasks_blocked(0.3)
    assert cluster.endpoints[0].healthy
    pair = generate(str(WEB), WEB.uri)
    young.install(trust.sign(pair.csr, WEB), pair.key)
    await until(lambda: seen)
    assert seen[0][0] == str(VOTES)
    await until(lambda: cluster.endpoints[0].healthy)
