"""The control plane's end of the control stream: latest-wins fan-out to the proxies that are connected.

General theory. For each proxy there is one *link* with a set of dirty names and one event, and nothing else that could
grow: a change marks the names that it touches, and the link's writer, whenever the proxy takes the next message, sends
what a name means *then*. A proxy that is slow, or stopped, skips what came in between. Taps work alike: the writer
compares what the proxy was told with what is wanted now.

Rules:
- Whatever a proxy says is attributed to the workload of its hello, which is that of its token. It cannot report inbound
  traffic of a service that its workload is not behind, answer for names that it did not subscribe to, take another's
  place, or get a certificate for anybody but its token's account.
- Messages are bounded (the websocket's limit) and metered: a proxy that says too much is read more slowly.
- A message that cannot be understood ends its link, after a Refused that says why; nothing that a proxy says ends more.
- Silence for `silence` seconds, or a message not taken for as long, ends the link.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol, assert_never

import structlog
import trio
from msgspec.structs import replace

from mesh.control.aggregate import OVERFLOW, Aggregate
from mesh.control.cluster import Cluster, ServiceKey
from mesh.control.issuer import Certificate, NotSigned
from mesh.control.link import Known, Link
from mesh.control.plan import MAX_NAME, plan, resolve
from mesh.control.seen import SeenTraffic
from mesh.control.speech import Malformed, Meter, decode, encode
from mesh.control.tap import Taps, for_proxy
from mesh.control.tokens import ADMIN, Bearer, Role
from mesh.control.websocket import Socket
from mesh.model.api import ProxyIdentityInfo, ProxyInfo
from mesh.model.authorization import Egress
from mesh.model.config import Service
from mesh.model.errors import PeerError
from mesh.model.identity import TRUST_DOMAIN, Identity
from mesh.model.push import (
    HEARTBEAT_SECONDS,
    MAX_MESSAGE,
    SILENCE_SECONDS,
    Ack,
    Alive,
    Explained,
    FromControl,
    FromProxy,
    Heartbeat,
    Hello,
    Nack,
    Refused,
    Report,
    ServiceUpdate,
    Settings,
    Sign,
    Signed,
    Subscribe,
    Tapped,
    TapStart,
    TapStop,
    Unsubscribe,
    Welcome,
)
from mesh.model.push import NotSigned as Denial

MAX_LINKS = 10_000
MAX_REASON = 500
"""Characters kept of a nack's reason."""
REFUSAL_SECONDS = 1.0
"""How long a proxy that is being refused has to take the reason."""


class Signer(Protocol):
    """Who signs certificates: authority.py. `sign` raises NotSigned."""

    @property
    def trust_domain(self) -> str: ...

    @property
    def anchors(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def sign(self, csr: str, identity: Identity) -> Certificate: ...


class Push:
    """All links. `counters` count what went wrong, by reason.

    `egress` tells what a workload may call outside of the mesh, and `explained` is handed answers to questions; whose
    they are sets them."""

    def __init__(
        self,
        cluster: Cluster,
        aggregate: Aggregate,
        taps: Taps,
        epoch: str,
        log: structlog.typing.FilteringBoundLogger,
        *,
        signer: Signer | None = None,
        heartbeat: float = HEARTBEAT_SECONDS,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self.egress: Callable[[ServiceKey], Egress] = everything
        self.explained: Callable[[Link, Explained], None] = unasked
        self._signer = signer
        self.links: dict[str, Link] = {}
        self.counters: Counter[str] = Counter()
        self.seen = SeenTraffic()
        self.epoch = epoch
        self._cluster, self._aggregate, self._taps, self._log = cluster, aggregate, taps, log
        self._heartbeat, self._silence = heartbeat, silence
        taps.changed = self.taps_changed

    def __repr__(self) -> str:
        return f"<Push links={list(self.links)} counters={dict(self.counters)}>"

    def changed(self, services: frozenset[ServiceKey]) -> None:
        """The plan of these services may have changed: whoever subscribed to one is told."""
        for link in self.links.values():
            for name, key in link.subscriptions.items():
                if key in services:
                    link.mark(name)
            link.wake.set()  # what it may call outside may be another

    def trust_changed(self) -> None:
        """Anchors or issuer are others: every proxy is told."""
        self._cluster.version += 1
        for link in self.links.values():
            link.wake.set()

    def taps_changed(self) -> None:
        """A tap has begun or ended."""
        for link in self.links.values():
            link.wake.set()

    def proxies(self) -> list[ProxyInfo]:
        """All that are connected, sorted by name."""
        return [self.links[proxy].info() for proxy in sorted(self.links)]

    def owners(self) -> dict[str, ServiceKey]:
        """Whose the connected proxies are."""
        return {proxy: link.workload for proxy, link in self.links.items()}

    def identities(self) -> list[ProxyIdentityInfo]:
        """Whom the connected proxies speak for, and their certificates, sorted by name."""
        return [
            ProxyIdentityInfo(
                proxy=proxy,
                workload=link.hello.workload,
                namespace=link.hello.namespace,
                identity=str(self._identity(link)) if self._signer is not None else "",
                not_after=link.certificate_ends,
                issuer=link.certificate_issuer,
            )
            for proxy, link in sorted(self.links.items())
        ]

    # --- one stream

    async def serve(self, socket: Socket, bearer: Bearer = ADMIN) -> None:
        """One control stream, from hello to its end, whoever ends it; PeerError if it ends before its hello.

        `bearer` is who showed its token: a proxy's is good for its own workload, the admin's for any, and certificates
        then name the workload itself."""
        first = await self._receive(socket)
        try:
            link = self._meet(decode(first), bearer)
        except Malformed as error:
            self.counters["refused"] += 1
            self._log.warning("proxy refused", reason=str(error))
            await socket.send(encode(Refused(str(error))), REFUSAL_SECONDS)
            return
        self._register(link)
        try:
            with link.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, link, socket)
                    await self._read(link, socket)
        except* PeerError as group:
            self.counters["ended"] += 1
            self._log.info("proxy gone", proxy=link.id, reason=str(group.exceptions[0]))
        finally:
            if self.links.get(link.id) is link:
                del self.links[link.id]
                self._aggregate.forget(link.id)

    def _meet(self, hello: FromProxy, bearer: Bearer) -> Link:
        if not isinstance(hello, Hello):
            raise Malformed("the first message must be a hello")
        own = (bearer.workload, bearer.namespace)
        if bearer.role is Role.PROXY and (hello.workload, hello.namespace) != own:
            told = f"{hello.workload}.{hello.namespace}"
            raise Malformed(f"this token is for the proxies of {'.'.join(own)}, not for those of {told}")
        if len(self.links) >= MAX_LINKS:
            raise Malformed(f"more than {MAX_LINKS} proxies")
        link = Link(hello, bearer.account)
        for name in hello.services:
            link.subscribe(name)
        return link

    def _register(self, link: Link) -> None:
        older = self.links.get(link.id)
        while older is not None and older.workload != link.workload:  # a name is no claim to another's place
            link.id += f"@{link.hello.workload}.{link.hello.namespace}"
            older = self.links.get(link.id)
        if older is not None:  # the same process is back before we noticed that its old stream is dead
            older.scope.cancel()
        self.links[link.id] = link
        self._log.info("proxy connected", proxy=link.id, subscriptions=len(link.subscriptions))

    async def _receive(self, socket: Socket) -> str | bytes:
        with trio.move_on_after(self._silence):
            return await socket.receive()
        raise PeerError(f"said nothing for {self._silence:g} s")

    # --- what we say

    async def _write(self, link: Link, socket: Socket) -> None:
        await self._send(socket, Welcome(self.epoch, self._cluster.version))
        await self._send_settings(link, socket)
        await self._send_taps(link, socket)  # before its application asks for anything: the first request is tapped too
        beat = trio.current_time() + self._heartbeat
        while True:
            with trio.move_on_at(beat):
                await link.wake.wait()
            link.wake = trio.Event()
            if link.refusal:
                await socket.send(encode(Refused(link.refusal)), REFUSAL_SECONDS)
                return
            while link.waiting:
                await self._send(socket, link.waiting.popleft())
            await self._send_settings(link, socket)
            while link.dirty:
                name = next(iter(link.dirty))
                del link.dirty[name]
                await self._send_update(link, socket, name)
            await self._send_taps(link, socket)
            if trio.current_time() >= beat:
                await self._send(socket, Heartbeat(link.pushed))
                beat = trio.current_time() + self._heartbeat

    async def _send(self, socket: Socket, message: FromControl) -> None:
        await socket.send(encode(message), self._silence)

    async def _send_settings(self, link: Link, socket: Socket) -> None:
        version, signer = self._cluster.version, self._signer
        if link.settings is not None and link.settled == version:
            return
        link.settled = version
        trust = (signer.anchors, signer.fingerprint) if signer is not None else ("", "")
        wanted = Known(*trust, self.egress(link.workload))
        if wanted == link.settings:
            return
        link.settings = wanted
        await self._push(link, socket, "", version, encode(Settings(version, *wanted)))

    async def _send_update(self, link: Link, socket: Socket, name: str) -> None:
        version = self._cluster.version
        update = encode(ServiceUpdate(name, version, self._planned(link, name)))
        await self._push(link, socket, name, version, update)

    async def _push(self, link: Link, socket: Socket, name: str, version: int, update: bytes) -> None:
        if len(update) > MAX_MESSAGE:
            link.nacks[name] = f"too large to push: {len(update)} bytes"
            self._log.error("update too large", proxy=link.id, service=name, bytes=len(update))
            return
        link.pushed, link.pushed_at = max(link.pushed, version), trio.current_time()
        await socket.send(update, self._silence)

    def _planned(self, link: Link, name: str) -> Service | None:
        domain = self._signer.trust_domain if self._signer is not None else TRUST_DOMAIN
        return plan(self._cluster, name, link.hello.namespace, link.hello.workload, trust_domain=domain)

    async def _send_taps(self, link: Link, socket: Socket) -> None:
        wanted = self._taps.of(link.workload)
        for number in sorted(link.tapping - wanted.keys()):
            link.tapping.discard(number)
            await self._send(socket, TapStop(number))
        for number in sorted(wanted.keys() - link.tapping):
            link.tapping.add(number)
            match = for_proxy(wanted[number], link.hello.workload)
            await self._send(socket, TapStart(number, match))

    # --- what the proxy says

    async def _read(self, link: Link, socket: Socket) -> None:
        meter = Meter(trio.current_time())
        while True:
            message = await self._receive(socket)
            try:
                self._take(link, decode(message))
            except Malformed as error:
                self.counters["refused"] += 1
                self._log.warning("proxy refused", proxy=link.id, reason=str(error))
                link.refusal = str(error)
                link.wake.set()
                return
            delay = meter.delay(trio.current_time(), len(message))
            if delay > 0:
                self.counters["metered"] += 1
                await trio.sleep(delay)

    def _take(self, link: Link, message: FromProxy) -> None:
        match message:
            case Hello():
                raise Malformed("a second hello")
            case Subscribe(name=name):
                link.subscribe(name)
            case Unsubscribe(name=name):
                link.unsubscribe(name)
            case Ack() | Nack():
                self._take_answer(link, message)
            case Report():
                self._take_report(link, message)
            case Tapped():
                own = link.hello.workload
                events = tuple(e if e.workload == own else replace(e, workload=own) for e in message.events)
                tapped = replace(message, events=events)
                self._taps.take_in(trio.current_time(), link.id, link.workload, tapped)
            case Sign(csr=csr):
                link.send(self._signed(link, csr))
            case Explained():
                self.explained(link, message)
            case Alive(version=version):
                settled = trio.current_time() - link.pushed_at > 2 * self._heartbeat
                if version < link.pushed and settled and not link.dirty:
                    self.counters["resynced"] += 1
                    self._log.warning("proxy missed an update", proxy=link.id, has=version, sent=link.pushed)
                    link.resync()
            case _:
                assert_never(message)

    def _identity(self, link: Link) -> Identity:
        assert self._signer is not None
        return Identity(link.account, link.hello.namespace, self._signer.trust_domain)

    def _signed(self, link: Link, csr: str) -> Signed | Denial:
        if self._signer is None:
            return Denial("this mesh has no identities: its control plane was given no issuer")
        if not link.may_sign(trio.current_time()):
            self.counters["certificates metered"] += 1
            return Denial("asked for too many certificates; wait a second")
        try:
            certificate = self._signer.sign(csr, self._identity(link))
        except NotSigned as error:
            self.counters["not signed"] += 1
            self._log.warning("certificate refused", proxy=link.id, reason=str(error))
            return Denial(str(error))
        issuer = self._signer.fingerprint
        link.certificate_ends, link.certificate_issuer = certificate.not_after, issuer
        return Signed(certificate.chain, self._signer.anchors, issuer)

    def _take_answer(self, link: Link, answer: Ack | Nack) -> None:
        if (answer.name and answer.name not in link.subscriptions) or not 0 <= answer.version <= link.pushed:
            return
        match answer:
            case Ack():
                link.acknowledged = max(link.acknowledged, answer.version)
                link.nacks.pop(answer.name, None)
            case Nack():
                self.counters["nacked"] += 1
                link.nacks[answer.name] = answer.reason[:MAX_REASON]
                self._log.warning(
                    "update refused",
                    proxy=link.id,
                    service=answer.name,
                    version=answer.version,
                    reason=answer.reason[:MAX_REASON],
                )

    def _take_report(self, link: Link, report: Report) -> None:
        def service(label: str) -> ServiceKey:
            return self._service(label, link.hello.namespace)

        link.skew = report.at - time.time()
        at = link.workload
        series = [d for d in report.series if self._may_report(link, d.key.direction, service(d.key.service))]
        tcp = [delta for delta in report.tcp if self._may_report(link, delta.direction, service(delta.service))]
        seen = [one for one in report.seen if self._is_behind(link, service(one.service))]
        foreign = len(report.series) + len(report.tcp) + len(report.seen) - len(series) - len(tcp) - len(seen)
        if foreign:
            self.counters["foreign"] += foreign
            self._log.warning("reports about others' traffic dropped", proxy=link.id)
        own = str(self._identity(link)) if self._signer is not None else ""
        self._aggregate.add(trio.current_time(), at, report.seconds, series, service, own)
        self._aggregate.add_tcp(link.id, tcp, service)
        for one in seen:
            self.seen.add(service(one.service), link.hello.workload, one)

    def _may_report(self, link: Link, direction: str, service: ServiceKey) -> bool:
        """Inbound traffic is reported by who serves it. Once it did, it may go on: its last report may come late."""
        if direction != "inbound" or self._cluster.members(service) is None:
            return True
        return self._is_behind(link, service)

    def _is_behind(self, link: Link, service: ServiceKey) -> bool:
        """Also for what policies are written from: nobody may plant that for a service that is yet to come."""
        if service in link.behind:
            return True
        if self._cluster.serves(service, *link.workload):
            link.behind.add(service)
            return True
        return False

    def _service(self, label: str, namespace: str) -> ServiceKey:
        """What a report's label means: a service of the mesh, a name that was or will be one, or a place outside."""
        if len(label) > MAX_NAME:
            return ServiceKey("", OVERFLOW)
        if label.startswith("("):  # the proxy's own overflow
            return ServiceKey("", label)
        key = resolve(label, namespace)
        if key is not None and (self._cluster.members(key) is not None or not set(label) & set(".:[")):
            return key
        return ServiceKey("", label)


def everything(workload: ServiceKey) -> Egress:
    """What may be called outside, where nobody limits it."""
    return Egress()


def unasked(link: Link, explained: Explained) -> None:
    """Where nobody asks."""
