"""What is shown of identities."""

import time

import msgspec

from mesh.control.tokens import proxy_token
from mesh.model.api import IdentityInfo
from mesh.model.push import FromControl, Hello, Sign, Signed

from .authorities import csr, make


async def shown(plane):
    return msgspec.convert(await plane.get("/api/v1/identity"), IdentityInfo)


async def test_without_trust_there_are_no_identities(plane):
    """An answer that is empty, and says so."""
    assert await shown(plane) == IdentityInfo()


async def test_all_that_is_trusted_and_signed(secure_plane):
    """Anchors, issuer, the port's own certificate; and for a proxy its token's account, and the certificate it got."""
    token = proxy_token("secret", "web", "demo", "front")
    async with secure_plane.websocket("/api/v1/proxies/connect", Authorization=f"Bearer {token}") as stream:
        await stream.send_message(msgspec.json.encode(Hello("web", "demo", "web/h/1", "0.1")).decode())
        await stream.send_message(msgspec.json.encode(Sign(csr())).decode())
        while not isinstance(message := msgspec.json.decode(await stream.get_message(), type=FromControl), Signed):
            continue
        found = await shown(secure_plane)
    assert (found.trust_domain, found.lifetime, found.problem) == ("cluster.local", 86_400.0, "")
    assert [anchor.subject for anchor in found.anchors] == ["CN=root"]
    assert found.issuer.subject == "CN=root's issuer"
    assert "localhost" in found.serving.names
    assert found.issuer.not_before < time.time() < found.serving.not_after <= found.issuer.not_after
    [proxy] = found.proxies
    assert (proxy.proxy, proxy.identity) == ("web/h/1", "front.demo.serviceaccount.identity.cluster.local")
    assert proxy.issuer == message.issuer == found.issuer.fingerprint
    assert 86_000 < proxy.not_after - time.time() <= 86_400 + 21


async def test_a_bad_set_of_files_is_shown(secure_plane, trust, until):
    """Why it was refused, beside what is in force."""
    before = await shown(secure_plane)
    trust.key.write_bytes(make("other").key_pem)

    async def refused():
        return (await shown(secure_plane)).problem

    assert "is not the key of" in await until(refused)
    assert (await shown(secure_plane)).issuer == before.issuer


async def test_another_trust_domain_and_lifetime(start_plane, trust):
    """Are those that were asked for."""
    async with start_plane(trust=trust, trust_domain="prod.example", lifetime=600.0) as plane:
        found = await shown(plane)
        assert (found.trust_domain, found.lifetime) == ("prod.example", 600.0)
        assert found.serving.not_after - time.time() < 621
