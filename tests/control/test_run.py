"""The whole control plane with real proxies' subscriptions: push, last-known-good, death and return."""

import contextlib
import random

import httpx
import msgspec
import pytest
import trio
from cryptography import x509
from trio_websocket import ConnectionClosed, ConnectionRejected

from mesh.control.issuer import fingerprint
from mesh.control.run import serve
from mesh.control.tokens import proxy_token
from mesh.model.config import ControlLink
from mesh.model.errors import ConfigError
from mesh.model.push import MAX_MESSAGE, FromControl, Hello, Refused, Welcome
from mesh.model.reports import SeriesDelta, SeriesKey
from mesh.proxy.subscribe import Subscriptions

from .authorities import a_good_set, csr

POLICY = """
---
apiVersion: conduit.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: words, namespace: demo}
spec: {service: words, timeouts: {request: %s}}
"""


class Proxy:
    """A proxy's subscriptions, and what of them is in force."""

    def __init__(self, url, *, anchors="", token="secret", **options):
        self.services = {}
        self.settings = []
        self.refuse = ""
        self.drained = 0
        self.subscriptions = Subscriptions(
            ControlLink(url, token, "words-v1", "demo", str(anchors)),
            applier=self,
            reports=self,
            taps=self,
            chance=random.Random(1),
            **options,
        )

    def apply(self, update):
        if not self.refuse:
            self.services[update.name] = update.service
        return self.refuse or None

    def settle(self, settings):
        self.settings.append(settings)

    def explain(self, question):
        return ()

    def drain_seen(self):
        return []

    def drain(self):
        self.drained += 1
        key = SeriesKey("inbound", "words", "", "http1", 200, -1, "completed", "", True, "disabled")
        return [SeriesDelta(key, 1, 1.0, {1: 1})], []

    def start(self, session, match): ...

    def stop(self, session): ...

    def stop_all(self): ...

    def take(self):
        return []

    async def until(self, condition, seconds=30.0):
        with trio.fail_after(seconds):
            while not condition():
                await trio.sleep(0.01)

    def addresses(self, name):
        service = self.services.get(name)
        return [endpoint.address for endpoint in service.endpoints] if service else None


async def test_endpoints_and_changed_files_arrive_and_bad_ones_do_not(plane, nursery):
    """A new endpoint within half a second, a changed policy within two; a bad file leaves the last good in force."""
    proxy = Proxy(plane.url)
    await nursery.start(proxy.subscriptions.run)
    for name in ("words", "words.demo.svc.cluster.local", "nobody"):
        proxy.subscriptions.want(name)
    await proxy.until(lambda: len(proxy.services) == 3)
    assert proxy.addresses("words") == []
    assert proxy.services["nobody"] is None
    plane.put_endpoint("w1", "words", "127.0.0.1:1", workload="words-v1")
    await proxy.until(lambda: proxy.addresses("words") == ["127.0.0.1:1"])
    await proxy.until(lambda: proxy.addresses("words.demo.svc.cluster.local") == ["127.0.0.1:1"])
    good = plane.source.read_text()
    plane.source.write_text(good + POLICY % "2.5")
    await proxy.until(lambda: proxy.services["words"].timeouts.request == 2.5)
    plane.source.write_text(good.replace("protocol: http1", "protocol: smoke") + POLICY % "9")

    async def refused():
        return [v for v in await plane.get("/api/v1/resources") if not v["status"]["accepted"]]

    with trio.fail_after(30):
        while not await refused():
            await trio.sleep(0.02)
    assert proxy.services["words"].timeouts.request == 2.5
    (plane.state / "endpoints" / "w1.yaml").unlink()
    await proxy.until(lambda: proxy.addresses("words") == [])
    assert proxy.services["words"].timeouts.request == 2.5


async def test_killed_and_restarted_it_is_found_and_converges(start_plane, nursery):
    """The proxy keeps what it had, reconnects by itself, and has what changed meanwhile within two seconds."""
    async with start_plane() as first:
        proxy = Proxy(first.url)
        await nursery.start(proxy.subscriptions.run)
        proxy.subscriptions.want("words")
        first.put_endpoint("w1", "words", "127.0.0.1:1", workload="words-v1")
        await proxy.until(lambda: proxy.addresses("words") == ["127.0.0.1:1"])
        address = first.url.removeprefix("http://")
    await proxy.until(lambda: not proxy.subscriptions.connected)
    first.put_endpoint("w2", "words", "127.0.0.1:2", workload="words-v1")
    proxy.subscriptions.want("web")
    assert proxy.addresses("words") == ["127.0.0.1:1"]
    async with start_plane(listen=address):
        await proxy.until(lambda: proxy.addresses("words") == ["127.0.0.1:1", "127.0.0.1:2"])
        await proxy.until(lambda: "web" in proxy.services)


async def test_a_nack_is_seen(plane, nursery, until):
    """What a proxy refuses is shown with its reason, until it takes something."""
    proxy = Proxy(plane.url)
    proxy.refuse = "no room"
    proxy.subscriptions.want("words")
    await nursery.start(proxy.subscriptions.run)

    async def nacked():
        infos = await plane.get("/api/v1/proxies")
        return infos and infos[0]["nacks"]

    assert await until(nacked) == {"words": "no room"}
    proxy.refuse = ""
    plane.put_endpoint("w1", "words", "127.0.0.1:1", workload="words-v1")

    async def mended():
        [info] = await plane.get("/api/v1/proxies")
        return not info["nacks"] and info["acknowledged"] >= 2

    await until(mended)


async def test_reports_arrive_whole(plane, nursery, until):
    """What was drained is what stat shows, the last second's included."""
    proxy = Proxy(plane.url)
    await nursery.start(proxy.subscriptions.run)
    await proxy.until(lambda: proxy.subscriptions.connected)
    with trio.fail_after(30):
        for _ in range(3):
            await proxy.subscriptions.flush()

    async def requests():
        stat = await plane.get("/api/v1/stat?window=0")
        return {row["name"]: row["requests"] for row in stat["rows"]}["words"] == proxy.drained >= 3

    await until(requests)


async def test_an_idle_stream_lives_and_a_silent_proxy_does_not(start_plane, nursery, until):
    """Heartbeats keep a stream; who stops them is no longer listed."""
    async with start_plane(heartbeat=0.05, silence=0.4) as plane, plane.websocket("/api/v1/proxies/connect") as mute:
        proxy = Proxy(plane.url, heartbeat=0.05, silence=0.4)
        await nursery.start(proxy.subscriptions.run)
        await mute.send_message(msgspec.json.encode(Hello("web", "demo", "mute", "0.1")).decode())

        async def names():
            return [info["workload"] for info in await plane.get("/api/v1/proxies")]

        async def both():
            return await names() == ["web", "words-v1"]

        async def one():
            return await names() == ["words-v1"]

        await until(both)
        await until(one)
        assert proxy.subscriptions.connected
        assert proxy.subscriptions.reason == "not connected yet"


async def test_an_oversized_message_closes_only_that_proxy(plane, nursery):
    """1 MiB is the bound; the others' streams, and the port, go on."""
    proxy = Proxy(plane.url)
    await nursery.start(proxy.subscriptions.run)
    await proxy.until(lambda: proxy.subscriptions.connected)
    async with plane.websocket("/api/v1/proxies/connect") as bad:
        await bad.send_message(msgspec.json.encode(Hello("web", "demo", "bad", "0.1")).decode())
        assert isinstance(msgspec.json.decode(await bad.get_message(), type=FromControl), Welcome)
        with contextlib.suppress(ConnectionClosed):
            await bad.send_message("x" * (MAX_MESSAGE + 1))
        await proxy.until(lambda: bad.closed is not None)
        assert bad.closed.code in (1006, 1009)
    proxy.subscriptions.want("words")
    await proxy.until(lambda: "words" in proxy.services)
    assert proxy.subscriptions.reason == "not connected yet"


async def test_a_malformed_message_is_refused_with_a_reason(plane):
    """The last thing a proxy hears says what was wrong."""
    async with plane.websocket("/api/v1/proxies/connect") as bad:
        await bad.send_message("nonsense")
        message = msgspec.json.decode(await bad.get_message(), type=FromControl)
        assert isinstance(message, Refused)
        assert "not a message" in message.reason


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Origin": "http://evil.example"}, 403),
    ],
)
async def test_strangers_get_no_stream(plane, headers, status):
    """The wrong token, and a page elsewhere, are refused before a websocket exists."""
    with pytest.raises(ConnectionRejected) as caught:
        async with plane.websocket("/api/v1/proxies/connect", **headers):
            pass
    assert caught.value.status_code == status


async def test_strangers_get_no_answer(plane):
    """Without the token 401, under another name 403; only whether we live is everybody's."""
    async with httpx.AsyncClient(base_url=plane.url, trust_env=False) as client:
        for path in ("/api/v1/version", "/api/v1/openapi.json", "/", "/nowhere"):
            assert (await client.get(path)).status_code == 401
        assert (await client.get("/healthz", headers={"Host": "10.0.0.1"})).text == "ok\n"
        answer = await client.get("/api/v1/version?token=secret")
        assert (answer.status_code, answer.headers["location"]) == (303, "/api/v1/version")
        assert (await client.get("/api/v1/version")).status_code == 200  # by the cookie
        rebound = await client.get("/api/v1/version", headers={"Host": "evil.example"})
        assert rebound.status_code == 403
        put = await client.put("/api/v1/resources", content="", headers={"Origin": "http://evil.example"})
        assert put.status_code == 403


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999", "203.0.113.1:1"])
async def test_an_address_that_cannot_be_listened_on(tmp_path, listen):
    """One error that names it."""
    with pytest.raises(ConfigError, match="cannot listen on"):
        await serve(sources=[], state=tmp_path / "state", listen=listen, token="t")


async def test_further_hosts_and_ipv6(start_plane):
    """A name that the operator gives is ours, and so is an address in brackets."""
    async with start_plane(hosts=("mesh.example",)) as plane, plane.client(Host="mesh.example") as client:
        assert (await client.get("/api/v1/version")).status_code == 200
    async with start_plane(listen="[::1]:0") as plane:
        assert plane.url.startswith("http://[::1]:")
        await plane.get("/api/v1/version")


async def test_a_proxy_over_tls_gets_certificates_and_the_new_roots(secure_plane, nursery, trust):
    """By its own token: the certificate names its account and chains to the roots; when these are others it is told."""
    token = proxy_token("secret", "words-v1", "demo", "writer")
    proxy = Proxy(secure_plane.url, anchors=trust.anchors, token=token)
    await nursery.start(proxy.subscriptions.run)
    await proxy.until(lambda: proxy.settings)
    assert proxy.settings[-1].anchors == trust.anchors.read_text()
    with trio.fail_after(30):
        signed = await proxy.subscriptions.sign(csr())
    leaf, issuer = x509.load_pem_x509_certificates(signed.chain.encode())
    leaf.verify_directly_issued_by(issuer)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [
        "writer.demo.serviceaccount.identity.cluster.local",
        "spiffe://cluster.local/ns/demo/sa/writer",
    ]
    assert signed.issuer == fingerprint(issuer) == proxy.settings[-1].issuer
    before = len(proxy.settings)
    a_good_set(trust.anchors.parent, "another")
    await proxy.until(lambda: len(proxy.settings) > before)
    assert proxy.settings[-1].issuer != signed.issuer
    with trio.fail_after(30):
        assert (await proxy.subscriptions.sign(csr())).issuer == proxy.settings[-1].issuer
    assert proxy.subscriptions.connected


async def test_another_workloads_token_opens_no_stream(secure_plane, nursery, trust):
    """The proxy is told why, and keeps trying; nothing is told to it."""
    proxy = Proxy(secure_plane.url, anchors=trust.anchors, token=proxy_token("secret", "web", "demo", "words-v1"))
    await nursery.start(proxy.subscriptions.run)
    await proxy.until(lambda: "this token is for the proxies of web.demo" in proxy.subscriptions.reason)
    assert proxy.settings == []


async def test_bad_trust_at_the_start_is_an_error(tmp_path, trust):
    """Before it listens."""
    trust.key.write_text("nonsense")
    with pytest.raises(ConfigError, match="no PEM private key"):
        await serve(sources=[], state=tmp_path / "state", listen="127.0.0.1:0", token="t", trust=trust)
