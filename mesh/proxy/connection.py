"""Supervises ONE accepted connection through its phases: detect, TLS, serve; each under a deadline, all in one scope.

Detection and handshakes happen here, with Trio's own waits, before the reactor has the socket; while the reactor serves
it, this task is parked. After an HTTP/1.1 CONNECT the socket comes back and what is inside is detected like any
connection.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import trio

from mesh.model.authorization import Strictness
from mesh.model.config import Protocol
from mesh.model.identity import parse, proven
from mesh.model.limits import Limits
from mesh.proxy.access import connection_decision, count, exit_decision
from mesh.proxy.authority import split_address
from mesh.proxy.authorize import Decision
from mesh.proxy.cluster import Cluster
from mesh.proxy.dial import Alpn, ConnectFailed, send_all
from mesh.proxy.downstream import Downstream, Listener, Shared
from mesh.proxy.endpoint import Endpoint
from mesh.proxy.reactor import Channel, Reactor
from mesh.proxy.rescue import Reason
from mesh.proxy.supervise import LINGER, serve_channel
from mesh.proxy.terminate import asked_for, dismiss, read, terminate
from mesh.proxy.tunnel import join
from mesh.wire.codec import Codec, Role
from mesh.wire.http1 import Http1
from mesh.wire.sniff import Verdict, is_http2_settings, sniff
from mesh.wire.tls import Tls, TlsError

if TYPE_CHECKING:
    from mesh.proxy.credentials import Credentials

HELLO = b"\x16"
"""First byte of TLS (RFC 8446 section 5.1)."""
SPOKEN = frozenset((Protocol.HTTP1, Protocol.HTTP2))
"""What a service may be said to speak, so that nothing else is passed to it."""
EARLY = 0.1
"""Seconds of a client's silence after which the application is dialled, in case it is the one that speaks first."""
LINGER_READS = 16
"""What a refused client may still send before we close all the same: a megabyte at most."""


class Accepting(NamedTuple):
    """What connections need beyond what HTTP needs: how to build a codec, TLS of the listener."""

    shared: Shared
    reactor: Reactor
    http2: Callable[[Role, Limits], Codec]
    tls: ssl.SSLContext | None
    permissive: bool
    credentials: Credentials | None = None
    """What proves who we are to other proxies of the mesh, on a listener without TLS of its own."""


class Connection:
    """One accepted socket and where it stands. `downstream` is set while it serves HTTP, for drain."""

    __slots__ = (
        *("_how", "_limits", "_scope", "_sni", "_tls"),
        *("downstream", "listener", "number", "peer", "phase", "sock"),
    )

    def __init__(self, how: Accepting, listener: Listener, sock: socket.socket, peer: str, number: int) -> None:
        self._how = how
        self._limits = how.shared.limits
        self._tls: Tls | None = None
        self._sni = ""
        """The host that the client asked for in TLS with the listener's own files."""
        self.listener = listener
        self.sock = sock
        self.peer = peer
        self.number = number
        self.downstream: Downstream | None = None
        self.phase = "detect"
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Serve it to its end. The socket is closed whatever happens."""
        with self.sock, self._scope:
            data, early = b"", None
            target = self.listener.cluster
            if self._how.tls is not None:
                data = await self._secure(self._how.tls)
            elif target is not None and not target.outbound and (self._how.credentials is not None or self._strict):
                data, early = await self._secure_mesh(target)
            while True:
                self._enter("detect")
                found = (Verdict.OPAQUE, data, early) if early is not None else await self._detect(target, data)
                if found is None:
                    return
                verdict, data, early = found
                if verdict is Verdict.OPAQUE and target is not None and target.spec.protocol in SPOKEN:
                    verdict = Verdict.HTTP1  # its parser refuses it: as opaque bytes it would get past all that decides
                if verdict not in (Verdict.HTTP1, Verdict.HTTP2):
                    await self._tunnel(target, data, early)
                    return
                after = await self._serve(verdict, target, data)
                if after is None:
                    return
                target, data = await self._known(*after[:2]), after[2]

    def drain(self, final: bool) -> None:
        """Have it end: what is under way is finished; `final` ends it at once if nothing is. Tunnels go on."""
        if self.downstream is not None:
            self.downstream.drain(final)
        elif final and self.phase == "detect":
            self._scope.cancel()

    @property
    def _identity(self) -> str:
        """What the client has proved to be; empty for nothing."""
        names = self._tls.peer_identities if self._tls is not None else ()
        return str(proven(names) or "") or (names[0] if names else "")

    def _enter(self, phase: str) -> None:
        self.phase = phase
        trio.lowlevel.current_task().name = f"connection {self.peer} {phase}"

    async def _known(self, target: Cluster, authority: bytes) -> Cluster:
        """`target`, when the control plane has said what it is: how it is spoken to depends on that. Where that is no
        service, what its authority means outside of the mesh."""
        with trio.move_on_after(self._limits.pending_timeout):
            while not target.configured and not target.over.is_set():
                await target.changed.wait()
        return self.listener.directory.resolve(authority, b"https") if target.over.is_set() else target

    # --- phases ------------------------------------------------------------------------------------------------------

    async def _secure(self, context: ssl.SSLContext) -> bytes:
        """TLS with the listener's own files, where the first bytes say so; plain text where the listener permits.
        Returns plain bytes read so far.

        A refusal is counted and raised as Ended."""
        with self._refusing(), trio.fail_after(self._limits.handshake_timeout):
            data = await self._read()
            while data and sniff(data) is Verdict.MORE and data[:1] == HELLO:
                data += await self._more()
            if self._how.permissive and not self._strict and data[:1] != HELLO:
                return data
            if not data:
                raise Ended
            host, data = await asked_for(self.sock, None, data, self._limits.handshake_timeout)
            self._tls = await terminate(self.sock, context, data)
            self._sni = host if parse(host) is None else ""
            return self._tls.receive(b"")

    async def _secure_mesh(self, target: Cluster) -> tuple[bytes, Early | None]:
        """TLS with what proves who we are, where a client asks for us by that name: it must prove who it is as well.

        Anything else, plain text or the application's own TLS, is left as it is, or refused where policy is strict.
        Returns plain bytes read so far, and the application's where it spoke first. A refusal is counted and raised as
        Ended."""
        credentials, strict = self._how.credentials, self._strict
        early: Early | None = None
        data = b""
        with self._refusing():
            with trio.move_on_after(self._limits.handshake_timeout if strict else self._limits.detect_timeout) as scope:
                while not data or (data[:1] == HELLO and sniff(data) is Verdict.MORE):
                    if data or strict or not self._may_speak_first(target):
                        chunk = await self._read()
                    else:
                        chunk, early = await self._watch_both(target)
                        if early is not None:
                            return chunk, early
                    if not chunk:
                        break
                    data += chunk
            if strict and scope.cancelled_caught:
                raise TlsError("timeout", "no handshake has begun in time")
            if data and sniff(data) is Verdict.TLS:
                with trio.fail_after(self._limits.handshake_timeout):
                    host, data = await asked_for(self.sock, None, data, self._limits.handshake_timeout / 2)
                    if credentials is not None and host == credentials.name:
                        return await self._prove(credentials, data), None
                if strict:
                    raise TlsError("not_mesh", f"it asks for {host or 'nobody'}")
            elif strict and data:
                cut = sniff(data) is Verdict.MORE
                self._how.shared.reports.refuse("tls_handshake_eof" if cut else "plain_text", self.listener.direction)
                raise Ended
        return data, None

    async def _prove(self, credentials: Credentials, data: bytes) -> bytes:
        """Both prove who they are. Raises TlsError for whom we do not serve."""
        if credentials.current is None:
            with trio.move_on_after(self._limits.handshake_timeout / 2):
                await credentials.first()
        if credentials.current is None:
            raise TlsError("no_certificate", "we have no certificate yet")
        tls = await terminate(self.sock, credentials.current.server, data)
        stranger = credentials.is_peer(tls.peer_identities)
        if stranger:
            shown = ", ".join(tls.peer_identities[:4]) or "nobody"
            await dismiss(self.sock, tls, TlsError(stranger, f"the client has proved to be {shown}"))
        self._tls = tls
        return tls.receive(b"")

    @property
    def _strict(self) -> bool:
        """Whether policy wants every client to prove who it is, now."""
        cluster = self.listener.cluster
        authorization = cluster.spec.authorization if cluster is not None and not cluster.outbound else None
        return authorization is not None and authorization.strictness is Strictness.STRICT

    def _may_speak_first(self, target: Cluster) -> bool:
        """Whether the application may, before the client has said anything."""
        return target.spec.protocol in (Protocol.DETECT, Protocol.OPAQUE) and self._may(target, "")

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """What goes wrong with TLS is counted, and ends the connection."""
        reports = self._how.shared.reports
        try:
            yield
        except TlsError as exc:
            reports.refuse(f"tls_{exc.reason}", self.listener.direction)
            raise Ended from exc
        except trio.TooSlowError:
            reports.refuse("tls_timeout", self.listener.direction)
            raise Ended from None
        except OSError as exc:
            reports.refuse("tls_reset", self.listener.direction)
            raise Ended from exc

    async def _detect(self, target: Cluster | None, data: bytes) -> tuple[Verdict, bytes, Early | None] | None:
        """What the client speaks, with the bytes read to find out; None if it left without a word."""
        protocol = target.spec.protocol if target is not None else Protocol.DETECT
        if protocol is Protocol.OPAQUE:
            return Verdict.OPAQUE, data, None
        with trio.move_on_after(self._limits.detect_timeout):
            while (verdict := sniff(data)) is Verdict.MORE:
                if not data and target is not None and protocol is Protocol.DETECT and self._may(target, ""):
                    chunk, early = await self._watch_both(target)
                    if early is not None:
                        return Verdict.OPAQUE, chunk, early
                else:
                    chunk = await self._read()
                if not chunk:
                    return (Verdict.OPAQUE, data, None) if data else None
                data += chunk
            return verdict, data, None
        if not data and (target is None or protocol is not Protocol.DETECT):
            self._how.shared.reports.refuse("silent_client", self.listener.direction)
            return None
        return Verdict.OPAQUE, data, None

    async def _watch_both(self, target: Cluster) -> tuple[bytes, Early | None]:
        """The client's first bytes; or, after EARLY of its silence, the application's, if those come first."""
        with trio.move_on_after(EARLY):
            return await self._read(), None
        early: Early | None = None
        chunk: bytes | None = None

        async def application_speaks() -> None:
            nonlocal early
            try:
                endpoint, sock, tls = await self._dial(target)
            except ConnectFailed:
                return  # it will be dialled again, and the failure told, when the client wants something
            dialled = Early(endpoint, sock, tls, b"")
            try:
                first = (tls.receive(b"") if tls is not None else b"") or await read(sock, tls)
            except TlsError:
                dialled.drop()
                return
            except BaseException:
                dialled.drop()
                raise
            if is_http2_settings(first):  # every HTTP/2 server begins with those; it still waits for the client
                dialled.drop()
                return
            early = dialled._replace(first=first)
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(application_speaks, name="early dial")
                chunk = await self._read()
                nursery.cancel_scope.cancel()
        except BaseException:
            if early is not None:
                early.drop()
            raise
        if early is not None and chunk is not None:  # both spoke at once
            early.drop()
            early = None
        return chunk or b"", early

    async def _serve(
        self, verdict: Verdict, target: Cluster | None, data: bytes
    ) -> tuple[Cluster, bytes, bytes] | None:
        """HTTP until the connection ends, or a CONNECT turns it into something else: its target, its authority, and
        bytes read."""
        how, limits = self._how, self._limits
        channel = Channel(how.reactor, self.sock, self._tls)
        codec = how.http2(Role.SERVER, limits) if verdict is Verdict.HTTP2 else Http1(Role.SERVER, limits)
        identity = self._identity
        downstream = Downstream(
            how.shared,
            self.listener,
            channel,
            codec,
            number=self.number,
            peer=self.peer,
            identity=identity,
            tls="disabled" if self._tls is None else "true" if identity else "no_identity",
            target=target,
            sni=self._sni,
        )
        self.downstream = downstream
        counted = how.shared.reports.connections(self.listener.direction, target.name if target is not None else "")
        counted.opened += 1
        codec.start()
        self._enter(codec.name)
        guarded = Guarded(channel, self._may_stay)
        beside = self.listener.cluster
        try:
            channel.attach(downstream.leg, data)
            if beside is not None and not beside.outbound:
                beside.tunnels.add(guarded)
            if isinstance(codec, Http1) and target is None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._parked, downstream, nursery.cancel_scope, name="parked")
                    await downstream.handed_over.wait()
                    nursery.cancel_scope.cancel()
            else:
                await self._parked(downstream)
            if channel.failure is not None:
                raise channel.failure
            if downstream.refused:
                await self._linger()
            if downstream.tunnel_to is None or not isinstance(codec, Http1) or channel.ended.is_set():
                return None
            how.reactor.settle()
            left = codec.detach()
            rest = channel.backlog
            channel.detach()
            await send_all(self.sock, bytes(rest))
            return downstream.tunnel_to, downstream.tunnel_for, b"".join(downstream.early) + left
        finally:
            self.downstream = None
            if beside is not None:
                beside.tunnels.discard(guarded)
            if isinstance(codec, Http1) and codec.aborted:
                # a body that was cut short must not look whole to a client that reads until we close
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            channel.end("the proxy closed the connection")
            how.reactor.settle()
            counted.end(channel.read_bytes, channel.write_bytes)

    async def _parked(self, downstream: Downstream, scope: trio.CancelScope | None = None) -> None:
        channel = downstream.leg.channel

        def close() -> None:
            downstream.drain(True)

        await serve_channel(channel, lambda: not downstream.exchanges, self._limits.idle_http, close)
        if scope is not None:
            scope.cancel()

    async def _tunnel(self, target: Cluster | None, data: bytes, early: Early | None) -> None:
        """Opaque bytes between the client and an endpoint of `target`."""
        how, reports = self._how, self._how.shared.reports
        if target is None:
            reports.refuse("no_target", self.listener.direction)
            return
        self._enter("tunnel")
        clock = how.shared.clock
        started = clock()
        identity = self._identity
        peer = identity if self.listener.cluster is target and not target.outbound else ""
        secured = "disabled" if self._tls is None else "true"
        scope = reports.scope(self.listener.direction, target.name, peer, secured, peer)
        host = ""
        if target.exit is not None and data[:1] == HELLO:
            host, data = await asked_for(self.sock, self._tls, data, self._limits.detect_timeout)
        decision = self._decide(target, host)
        if decision is not None:
            self._count(target, decision)
            if not decision.allowed:
                if early is not None:
                    early.drop()
                reports.record(scope, "tcp", 0, -1, "denied", Reason.DENIED.value, 0.0, clock() - started)
                return
        try:
            endpoint, sock, tls = (early.endpoint, early.sock, early.tls) if early else await self._dial(target)
        except ConnectFailed as exc:
            reports.refuse(exc.kind.value, self.listener.direction)
            reports.record(scope, "tcp", 0, -1, "failed", exc.kind.value, clock() - started, clock() - started)
            return
        connected = clock()
        if self.listener.direction == "outbound":
            scope = endpoint.scope
        counted = reports.connections(self.listener.direction, target.name)
        counted.opened += 1
        ours, theirs = Channel(how.reactor, self.sock, self._tls), Channel(how.reactor, sock, tls)
        guarded = Guarded(ours, lambda: self._may_stay() and self._may(target, host))
        with sock:
            try:
                said = early.first if early is not None else tls.receive(b"") if tls is not None else b""
                pipe, _ = join(ours, theirs, data, said)
                if early is not None and not early.first:
                    theirs.handler.received(b"")
                target.tunnels.add(guarded)
                idle = target.spec.timeouts.idle or self._limits.idle_tcp
                await serve_channel(ours, lambda: theirs.active_at + idle <= clock(), idle, lambda: ours.end("idle"))
                await serve_channel(theirs, lambda: True, idle, lambda: theirs.end("idle"))
            finally:
                target.tunnels.discard(guarded)
                ours.end("the proxy closed the connection")
                theirs.end("the proxy closed the connection")
                endpoint.load.pending -= 1
                counted.end(ours.read_bytes, ours.write_bytes)
        outcome = "failed" if pipe.reason else "completed"
        reports.record(scope, "tcp", 0, -1, outcome, "", connected - started, clock() - started)

    def _decide(self, target: Cluster, host: str) -> Decision | None:
        """What policy says to a connection that is not HTTP; `host` is the one that it names inside, if any. None where
        there is no policy."""
        if target.access is not None:
            return connection_decision(target.access, self._identity, self.peer)
        return exit_decision(target, self.listener.directory, host)

    def _may(self, target: Cluster, host: str) -> bool:
        decision = self._decide(target, host)
        return decision is None or decision.allowed

    def _may_stay(self) -> bool:
        """Whether a connection that is open may be: not in plain text, once policy has become strict."""
        if self._tls is not None or not self._strict:
            return True
        self._how.shared.reports.refuse("plain_text", self.listener.direction)
        return False

    def _count(self, target: Cluster, decision: Decision) -> None:
        witness = self._how.shared.witness
        if target.access is not None and witness is not None:
            identity = self._identity
            source = "" if identity else split_address(self.peer)[0]
            witness.note(target.name, identity, source, "tcp", b"", b"", decision)
        count(target, decision)

    async def _dial(self, target: Cluster) -> tuple[Endpoint, socket.socket, Tls | None]:
        """A connection to one endpoint, which counts as pending there until the caller is done. Raises
        ConnectFailed."""
        limits, clock = self._limits, self._how.shared.clock
        tried: list[Endpoint] = []
        failure = ConnectFailed(Reason.NO_ENDPOINTS, f"no endpoint of {target.name} is ready", target.name)
        with trio.move_on_after(limits.pending_timeout):
            while len(tried) < limits.connect_attempts:
                endpoint = target.choose_to_dial(tried, clock())
                if endpoint is None:
                    await target.changed.wait()
                    continue
                if endpoint in tried:
                    break
                endpoint.load.pending += 1
                began = clock()
                if endpoint.uncertified and target.shared.credentials is not None:
                    why = f"this proxy got no certificate in time: {target.shared.credentials.why}"
                    failure = ConnectFailed(Reason.TLS_FAILED, why, endpoint.address)
                try:
                    sock, tls = await endpoint.reach(Alpn.NONE)
                except ConnectFailed as exc:
                    endpoint.load.pending -= 1
                    endpoint.mark_down(exc, clock())
                    tried.append(endpoint)
                    failure = exc
                except BaseException:
                    endpoint.load.pending -= 1
                    endpoint.unjudged(clock())
                    raise
                else:
                    endpoint.load.observe(clock() - began, clock())
                    endpoint.succeeded(None, clock())
                    return endpoint, sock, tls
        raise failure

    # --- bytes before the reactor ------------------------------------------------------------------------------------

    async def _read(self) -> bytes:
        """Plain bytes from the client; empty when it has closed."""
        try:
            return await read(self.sock, self._tls)
        except TlsError as exc:
            self._how.shared.reports.refuse(f"tls_{exc.reason}", self.listener.direction)
            raise Ended from exc

    async def _linger(self) -> None:
        """Let a client that we have refused read why: to close on what it still sends would reset the connection."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        with trio.move_on_after(LINGER):
            for _ in range(LINGER_READS):
                if not await read(self.sock, None):
                    return

    async def _more(self) -> bytes:
        data = await read(self.sock, None)
        if not data:
            raise Ended
        return data


class Early(NamedTuple):
    """An application that spoke first: how it was reached, and what it said (empty: it closed)."""

    endpoint: Endpoint
    sock: socket.socket
    tls: Tls | None
    first: bytes

    def drop(self) -> None:
        """It is not needed after all."""
        self.sock.close()
        self.endpoint.load.pending -= 1


class Guarded:
    """A connection that policy may end while it is open."""

    __slots__ = ("_channel", "_may")

    def __init__(self, channel: Channel, may: Callable[[], bool]) -> None:
        self._channel = channel
        self._may = may

    def reconsider(self) -> None:
        """Policy has changed."""
        if not self._may():
            self._channel.end("denied by policy")


class Ended(Exception):
    """The client left, or was refused, before anything could be served; it is counted already."""
