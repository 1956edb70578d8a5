"""Composition root of the proxy: builds the parts, holds the supervision tree, drains it on SIGTERM.

proxy
├─ admin, subscribe, credentials, deadlines, reactor, watch
├─ inbound / outbound LISTENER
│  └─ connection 10.1.0.3:51234
└─ upstreams
   └─ votes
      └─ 10.1.0.7:8080
         └─ connection 1
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import resource
import select
import signal
import time
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

import trio

from mesh.model import compose_access
from mesh.model.compose import inline
from mesh.model.config import Endpoint, InboundListener, ProxyConfig, Service, ServiceEntry, TlsFiles, TlsMode
from mesh.model.errors import ConfigError
from mesh.model.identity import Identity, parse
from mesh.model.limits import Limits
from mesh.model.resources import Resource
from mesh.proxy.accept import Acceptor, bind
from mesh.proxy.admin import Admin
from mesh.proxy.apply import Apply, problem_with
from mesh.proxy.authority import join_address
from mesh.proxy.cluster import Cluster, Shared
from mesh.proxy.connection import Accepting
from mesh.proxy.deadlines import Deadlines
from mesh.proxy.dial import ClientTls, listener_name
from mesh.proxy.directory import Directory
from mesh.proxy.downstream import Listener
from mesh.proxy.downstream import Shared as DownstreamShared
from mesh.proxy.reactor import Reactor
from mesh.proxy.report import Reports
from mesh.proxy.sweep import Sweep
from mesh.proxy.taps import Taps
from mesh.wire.codec import Codec, Role
from mesh.wire.tls import client_context, server_context

if TYPE_CHECKING:
    from mesh.proxy.credentials import Credentials
    from mesh.proxy.subscribe import Subscriptions
    from mesh.proxy.witness import Witness

LOG_BYTES = select.PIPE_BUF
"""Of one line of the log."""
LEVELS = {
    "connection_failed": "error",
    "update_failed": "error",
    "explain_failed": "error",
    "certificate_failed": "warning",
    "control_plane_lost": "warning",
    "update_lost": "warning",
    "too_many_destinations": "warning",
}
"""Of what is logged; all else is `info`."""
LAST_REPORT = 1.0
"""Seconds that the last report may take."""
NOTICE = 1.0
"""Seconds between telling clients to go and closing what is idle: a round trip, generously."""


def log(event: str, who: str, detail: str) -> None:
    """One JSON line on stderr, LOG_BYTES at most. A descriptor that blocks or is gone costs the line, never the
    proxy."""
    level = LEVELS.get(event, "info")
    while True:
        line = json.dumps({"level": level, "event": event, "who": who, "detail": detail, "at": round(time.time(), 3)})
        if len(line) < LOG_BYTES or len(detail) < 64:
            break
        detail = "(cut) ..." + detail[-len(detail) // 2 :]  # of a traceback, the end says most
    try:
        if select.select([], [2], [], 0)[1]:  # a pipe that is writable takes PIPE_BUF bytes without blocking
            os.write(2, line.encode() + b"\n")
    except (OSError, ValueError):
        return


def codec_factory(name: str) -> Callable[[Role, Limits], Codec]:
    """How to build an HTTP/2 codec: `ngh2`, or `h2`, the pure Python reference. Imports only the one that is used.

    Raises ConfigError for another name, or where the library is not installed."""
    try:
        if name == "ngh2":
            from mesh.wire.http2 import Http2

            return Http2
        if name == "h2":
            from mesh.wire.http2_reference import Http2Reference

            return Http2Reference
    except ImportError as exc:
        raise ConfigError(f"{name} cannot be imported: {exc}", field="http2_codec") from exc
    raise ConfigError(f"{name!r} is none of ngh2, h2", field="http2_codec")


def service_of(name: str, entry: ServiceEntry, resources: Sequence[Resource], known: Container[str]) -> Service:
    """A `services:` entry of proxy.yaml, with what the resources say of it; `known` are the names of all entries.

    Raises ConfigError."""
    endpoints = tuple(one if isinstance(one, Endpoint) else Endpoint(one) for one in entry.endpoints)
    traffic, policy = inline(name, resources, known)
    service = Service(name, endpoints, policy.protocol or entry.protocol, policy.timeouts, traffic=traffic)
    problem = problem_with(service)
    if problem is not None:
        raise ConfigError(problem, field=f"services.{name}")
    return service


def _client_tls(files: TlsFiles | None) -> ClientTls | None:
    if files is None:
        return None
    return ClientTls(client_context(files, alpn=["h2"]), client_context(files, alpn=["http/1.1"]))


class Proxy:
    """All parts of one proxy. Raises ConfigError while it is built, before anything listens; then `serve` it once."""

    def __init__(self, config: ProxyConfig, resources: Sequence[Resource] = ()) -> None:
        clock = time.monotonic
        self._config = config
        limits = config.limits
        http2 = codec_factory(config.http2_codec)
        self.reactor = Reactor(clock)
        self.reports = Reports(limits.metric_series)
        self.deadlines = Deadlines(clock)
        self.taps = Taps(clock, config.name)
        self._own: set[str] = set()
        self.credentials = self._credentials()
        who = self.credentials.name if self.credentials is not None else ""
        shared = Shared(
            self.reactor,
            limits,
            self.reports,
            random.random,
            http2,
            log,
            own=self._own,
            zone=config.zone,
            credentials=self.credentials,
        )
        self.subscriptions: Subscriptions | None = None
        self.directory = Directory(shared, self._ask if config.control is not None else None)
        for name, entry in config.services.items():
            self.directory.add(service_of(name, entry, resources, config.services), _client_tls(entry.tls))
        self._downstream = DownstreamShared(
            limits, self.deadlines, self.reports, self.taps, clock, who, self._witness()
        )
        self._http2 = http2
        self._acceptors: list[Acceptor] = []
        self._draining = False
        self.directory.follow(compose_access.inline_egress(config, resources))
        for index, outbound in enumerate(config.outbound):
            cluster = self.directory.services.get(outbound.service)
            if outbound.service and cluster is None:
                raise ConfigError(f"no service {outbound.service!r} in services", field=f"outbound[{index}].service")
            how = Accepting(self._downstream, self.reactor, http2, None, False)
            self._listen(how, "outbound", outbound.listen, cluster, f"outbound[{index}].listen")
        for index, inbound in enumerate(config.inbound):
            self._add_inbound(shared, inbound, resources, f"inbound[{index}]")
        if config.control is not None:
            from mesh.proxy.subscribe import Subscriptions  # a proxy without a control plane does not need its imports

            link = config.control
            self.subscriptions = Subscriptions(
                link,
                applier=Apply(self.directory, self.credentials),
                reports=self.reports,
                taps=self.taps,
                admin=config.admin,
                inbound=tuple(one.listen for one in config.inbound),
                outbound=tuple(one.listen for one in config.outbound),
                log=log,
            )
            for inbound in config.inbound:
                if inbound.service:
                    self.subscriptions.want(inbound.service)  # policies for it

    def _credentials(self) -> Credentials | None:
        config = self._config
        if config.identity is None:
            return None
        if config.control is None or not config.control.url.startswith("https:") or not config.control.anchors:
            # Whoever can speak for the control plane could make itself believed by this proxy, and read its token.
            raise ConfigError("an identity needs a control plane with https and anchors", field="control")
        from mesh.proxy.credentials import Credentials

        account, namespace, trust_domain = (
            config.identity.account,
            config.identity.namespace,
            config.identity.trust_domain,
        )
        identity = Identity(account, namespace, trust_domain)
        if parse(str(identity)) != identity:
            raise ConfigError(f"{identity} is no name that a certificate can carry", field="identity")
        credentials = Credentials(identity, log=log)
        self.reports.certificate = credentials.certificate
        return credentials

    def _witness(self) -> Witness | None:
        """What counts the requests that applications here get, for a control plane that writes policies from that."""
        if self._config.control is None or not self._config.inbound:
            return None
        from mesh.proxy.witness import Witness

        witness = Witness()
        self.reports.seen = witness.drain
        return witness

    def _add_inbound(self, shared: Shared, inbound: InboundListener, resources: Sequence[Resource], field: str) -> None:
        name = inbound.service or inbound.forward
        traffic, policy = inline(name, resources, self._config.services)
        access = compose_access.inline(self._config, inbound, resources, policy.health)
        service = Service(name, (Endpoint(inbound.forward),), inbound.protocol, traffic=traffic, authorization=access)
        problem = problem_with(service)
        if problem is not None:
            raise ConfigError(problem, field=f"{field}.forward" if problem.startswith("endpoints") else field)
        cluster = self.directory.host_inbound(Cluster(shared, service, outbound=False))
        context = None
        if inbound.tls is not None:
            files = TlsFiles(inbound.tls.cert, inbound.tls.key, inbound.tls.ca)
            context = server_context(files, alpn=["h2", "http/1.1"])
        permissive = inbound.tls is not None and inbound.tls.mode is TlsMode.PERMISSIVE
        how = Accepting(self._downstream, self.reactor, self._http2, context, permissive, self.credentials)
        self._listen(how, "inbound", inbound.listen, cluster, f"{field}.listen")

    def _listen(self, how: Accepting, direction: str, address: str, cluster: Cluster | None, field: str) -> None:
        sock = bind(address, field)
        bound = sock.getsockname()
        self.directory.own.add(join_address(bound[0], bound[1]))
        if direction == "outbound":
            self._own.add(listener_name(bound))
        self._acceptors.append(Acceptor(how, Listener(direction, address, cluster, self.directory), sock, log))

    def _ask(self, name: str) -> None:
        assert self.subscriptions is not None
        self.subscriptions.want(name)

    def unready(self) -> str | None:
        """Why the proxy should get no new traffic; None if it should."""
        if self._draining:
            return "draining"
        if self.subscriptions is not None and not self.subscriptions.ever_connected:
            return "the control plane has not been reached yet"
        return self.credentials.unready() if self.credentials is not None else None

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled, or until drained."""
        config = self._config
        trio.lowlevel.current_task().name = "proxy"  # as /tasks shows it
        async with trio.open_nursery() as root:
            root.start_soon(self.reactor.run, name="reactor")
            root.start_soon(self.reactor.watch, name="watch")
            root.start_soon(Sweep(self.reports.closed, self.reactor.clock).run, name="sweep")
            root.start_soon(self.deadlines.run, self.reactor.settle, name="deadlines")
            root.start_soon(self.directory.run, name="upstreams")
            if self.subscriptions is not None:
                root.start_soon(self.subscriptions.run, name="subscribe")
                if self.credentials is not None:
                    root.start_soon(self.credentials.run, self.subscriptions, name="credentials")
            if config.admin:
                sock = trio.socket.from_stdlib_socket(bind(config.admin, "admin"))
                admin = Admin(self.reports, self.unready, trio.lowlevel.current_task(), log)
                root.start_soon(admin.serve, [trio.SocketListener(sock)], name="admin")
            numbers = itertools.count(1).__next__
            self._scope = root.cancel_scope
            async with trio.open_nursery() as listeners:
                for acceptor in self._acceptors:
                    name = f"{acceptor.listener.direction} {acceptor.listener.address}"
                    listeners.start_soon(acceptor.run, numbers, name=name)
                task_status.started()
            await self._say_the_last()
            root.cancel_scope.cancel()  # every listener has drained

    async def _say_the_last(self) -> None:
        """Have what was counted since the last report reach the control plane, if it is there to hear it."""
        if self.subscriptions is not None:
            with trio.move_on_after(LAST_REPORT):
                await self.subscriptions.flush()

    async def drain(self) -> None:
        """Become unready, keep accepting a little, tell clients to go, close what is idle, and end when the rest has
        ended.

        At most `limits.drain_timeout` seconds; what is left then is cut off."""
        self._draining = True
        limits = self._config.limits
        await trio.sleep(limits.drain_grace)
        for acceptor in self._acceptors:
            acceptor.stop()  # before anybody is told to go, and comes back
        for acceptor in self._acceptors:
            acceptor.drain(False)
        with trio.move_on_after(limits.drain_timeout):
            await trio.sleep(NOTICE)
            while any(acceptor.connections for acceptor in self._acceptors):
                for acceptor in self._acceptors:
                    acceptor.drain(True)
                await trio.sleep(0.05)
            return
        await self._say_the_last()
        self._scope.cancel()


async def serve(
    config: ProxyConfig,
    resources: Sequence[Resource] = (),
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """One proxy until it is cancelled, or has drained after SIGTERM or SIGINT; a second signal ends it at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        proxy = Proxy(config, resources)
        spare_the_collector()
        async with trio.open_nursery() as nursery:

            async def watch_signals() -> None:
                first = True
                async for number in signals:
                    log("signal", config.name, signal.Signals(number).name)
                    if not first:
                        nursery.cancel_scope.cancel()
                        return
                    first = False
                    nursery.start_soon(proxy.drain, name="drain")

            nursery.start_soon(watch_signals, name="signals")
            await proxy.serve(task_status)
            nursery.cancel_scope.cancel()


def main(config: ProxyConfig, resources: Sequence[Resource] = ()) -> int:
    """Run a proxy as this process. Returns its exit status; raises ConfigError for what proxy.yaml asks in vain."""
    raise_descriptor_limit(config.limits.connections * 2 + 1024)
    trio.run(serve, config, resources)
    return 0


def spare_the_collector() -> None:
    """Have the cyclic collector look less often, and never at what start-up has made.

    An exchange is freed by its reference count; only connections leave cycles. With the default of 700 allocations the
    collector would run for every few dozen requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def raise_descriptor_limit(wanted: int) -> None:
    """Allow this process as many descriptors as its bounds need, as far as the system's hard limit lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
