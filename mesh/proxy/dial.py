"""Make one connection to an endpoint: resolve, connect, TLS, each under its deadline."""

from __future__ import annotations

import enum
import os
import socket
import ssl
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import trio

from mesh.model.errors import PeerError
from mesh.proxy.authority import join_address, split_address
from mesh.proxy.rescue import Reason
from mesh.wire.tls import Tls, TlsError, verify_identity

if TYPE_CHECKING:
    from mesh.proxy.credentials import Credentials


class ClientTls(NamedTuple):
    """How to dial with TLS: one context for each protocol that ALPN (RFC 7301) then asks for."""

    http2: ssl.SSLContext
    http1: ssl.SSLContext


class Alpn(enum.Enum):
    """What a connection is to speak (RFC 7301)."""

    HTTP2 = "h2"
    HTTP1 = "http/1.1"
    NONE = ""


class ConnectFailed(PeerError):
    """An endpoint could not be reached; `kind` says at which step, `str()` why. `silent`: it said nothing at all, so
    that a packet may have been lost (a full accept queue drops them)."""

    def __init__(self, kind: Reason, detail: str, peer: str, *, silent: bool = False) -> None:
        super().__init__(detail, peer=peer)
        self.kind = kind
        self.detail = detail
        self.silent = silent

    def __str__(self) -> str:
        return self.detail


async def secure(
    tls: ClientTls | None, credentials: Credentials | None, identity: str, alpn: Alpn
) -> tuple[ssl.SSLContext | None, str]:
    """How to secure a connection to an endpoint that must prove to be `identity` (empty: nobody): the context (None:
    plain text), and the name to ask for (SNI). `tls` are the service's own files, and go before what proves who we are.

    Waits for our first certificate; its owner sets the deadline. Raises ConnectFailed for who cannot be of our mesh.
    """
    if tls is not None:
        return (tls.http2 if alpn is Alpn.HTTP2 else tls.http1), ""
    if credentials is None or not identity:
        return None, ""
    problem = credentials.problem_with(identity)
    if problem:
        raise ConnectFailed(Reason.TLS_FAILED, f"TLS: {problem}", identity)
    held = await credentials.first()
    match alpn:
        case Alpn.HTTP2:
            return held.http2, identity
        case Alpn.HTTP1:
            return held.http1, identity
        case Alpn.NONE:
            return held.opaque, identity


async def dial(
    address: str,
    *,
    connect_timeout: float,
    handshake_timeout: float,
    tls: ssl.SSLContext | None = None,
    identity: str = "",
    sni: str = "",
    own: Collection[str] = (),
) -> tuple[socket.socket, Tls | None]:
    """A connected, non-blocking socket to `address` (`host:port`) and its TLS, whose handshake is complete.

    Raises ConnectFailed, also for a deadline (both in seconds). With `identity` the peer's certificate must carry it;
    `sni` is the name that TLS asks for. `own` are addresses that it must not turn out to be (`own_names`), whatever
    name led there.
    """
    try:
        with trio.fail_after(connect_timeout):
            sock = await connect(address)
    except trio.TooSlowError:
        detail = f"connect took over {connect_timeout:.3g} s"
        raise ConnectFailed(Reason.CONNECT_FAILED, detail, address, silent=True) from None
    except socket.gaierror as exc:
        detail = f"neither a service that is known here nor a name that resolves ({exc.strerror})"
        raise ConnectFailed(Reason.CONNECT_FAILED, detail, address) from exc
    except OSError as exc:
        raise ConnectFailed(Reason.CONNECT_FAILED, exc.strerror or str(exc), address) from exc
    if own and not own_names(sock).isdisjoint(own):
        sock.close()
        raise ConnectFailed(Reason.LOOP, f"{address} is this proxy itself", address)
    if tls is None:
        return sock, None
    try:
        with trio.fail_after(handshake_timeout):
            return sock, await _handshake(sock, Tls(tls, False, sni or None), identity)
    except trio.TooSlowError:
        sock.close()
        raise ConnectFailed(Reason.TLS_FAILED, f"TLS handshake took over {handshake_timeout:.3g} s", address) from None
    except (TlsError, OSError) as exc:
        sock.close()
        raise ConnectFailed(Reason.TLS_FAILED, f"TLS: {exc}", address) from exc
    except BaseException:
        sock.close()
        raise


def own_names(sock: socket.socket) -> set[str]:
    """By which names a listener of ours would be known if a connected socket led to it: its address, and, for one that
    listens on all addresses of the machine, `*:port`. Raises nothing: a peer that has gone already has no name."""
    try:
        here, there = sock.getsockname(), sock.getpeername()
    except OSError:
        return set()
    names = {listener_name(there)}
    if here[0] == there[0]:  # on one machine the kernel gives both ends of a connection the same address
        names.add(f"*:{there[1]}")
    return names


def listener_name(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """`host:port` or `[v6]:port` of a bound address; `*:port` where it is all addresses of the machine."""
    host, port = address[0], address[1]
    if host in ("0.0.0.0", "::"):
        return f"*:{port}"
    return join_address(host, port)


async def connect(address: str) -> socket.socket:
    """A connected, non-blocking TCP socket with TCP_NODELAY. Raises OSError; its owner sets the deadline."""
    host, port = split_address(address)
    error: OSError | None = None
    for family, target in await resolve(host, port):
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            try:
                sock.connect(target)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, os.strerror(code)) from None
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as exc:
            sock.close()
            error = exc
            continue
        except BaseException:
            sock.close()
            raise
        return sock
    raise error or OSError(f"no address for {host}")


Target = tuple[str, int] | tuple[str, int, int, int]


async def resolve(host: str, port: int) -> list[tuple[int, Target]]:
    """Families and socket addresses for a host name or literal; a literal costs no thread. Raises OSError."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, (host, port))]
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, target) for family, _, _, _, target in found]  # type: ignore[misc]


async def _handshake(sock: socket.socket, tls: Tls, identity: str) -> Tls:
    data = b""
    while True:
        try:
            complete = tls.handshake(data)
        finally:
            await send_all(sock, tls.take())
        if complete:
            break
        await trio.lowlevel.wait_readable(sock)
        data = sock.recv(16 * 1024)
        if not data:
            raise TlsError("closed", "the peer closed the connection during the handshake")
    if identity:
        verify_identity(tls, identity)
    return tls


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Send all of `data` on a non-blocking socket that the reactor does not have."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
