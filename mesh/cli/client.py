"""Talks to the control plane's API for the commands; every failure becomes an error that says what to do.

Questions are plain blocking HTTP, since a command asks one and ends; watches are websockets under Trio.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

import click
import httpx
import msgspec
import trio
import trio_websocket

from mesh.local.rendezvous import client_context, find
from mesh.model.api import Problem
from mesh.model.errors import ConduitError, ConfigError, ControlError

ANSWER_SECONDS = 10.0
CONNECT_SECONDS = 3.0
Params = Mapping[str, str | int | float]
E = TypeVar("E", bound=BaseException)
Function = Callable[..., object]


CA = "mesh.cli.client.ca"


def control_options(function: Function) -> Function:
    """Adds --control, --token and --ca to a command. The first two arrive as `control` and `token`, to be passed to
    `Api.find`, which knows the third by itself."""
    ca = click.option(
        "--ca",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        expose_value=False,
        callback=remember,
        help="PEM: who vouches for it, if it is https.  [default: CONDUIT_CA, or the local mesh's]",
    )
    token = click.option("--token", help="Opens its API.  [default: CONDUIT_TOKEN, or that of the local mesh]")
    control = click.option(
        "--control", metavar="URL", help="The control plane.  [default: CONDUIT_CONTROL, or the local mesh]"
    )
    return control(token(ca(function)))


def remember(context: click.Context, _: click.Parameter, value: str | None) -> None:
    """Keeps the value of --ca for as long as the command runs."""
    context.meta[CA] = value


class Api:
    """One control plane: where it is, what opens it, and the PEM file of who vouches for it (empty: the system)."""

    def __init__(self, url: str, token: str, ca: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ControlError(f"{url!r} is not a URL of a control plane, such as http://127.0.0.1:4190")
        self.url, self.token, self.ca = url.rstrip("/"), token, ca

    @classmethod
    def find(cls, control: str | None, token: str | None) -> Api:
        """The one that is named, or else the local mesh's; raises ControlError where there is none."""
        context = click.get_current_context(silent=True)
        return cls(*find(control, token, context.meta.get(CA) if context is not None else None))

    def ask(
        self, method: str, path: str, *, params: Params | None = None, body: str = "", headers: Mapping[str, str] = {}
    ) -> bytes:
        """The body of a 2xx answer. Raises ConfigError for a 422 (with file, line and field), ControlError else."""
        try:
            answer = httpx.request(
                method,
                f"{self.url}{path}",
                params=dict(params) if params else None,
                content=body.encode() if body else None,
                headers={"Authorization": f"Bearer {self.token}", **headers},
                timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
                verify=self.context() or False,  # nothing to verify where it is not https
                trust_env=False,  # a proxy variable may be the mesh's own, and this is not the mesh's traffic
            )
        except httpx.TransportError as exc:
            raise ControlError(self._unreachable(exc)) from exc
        if not answer.is_success:
            raise problem(answer.status_code, answer.content, self.url)
        return answer.content

    async def watch(self, path: str, params: Params, take: Callable[[str], bool]) -> None:
        """Hands each message to `take` until that returns False; raises ControlError where the stream cannot go on."""
        parts = urlsplit(self.url)
        failure: ConduitError | None = None
        try:
            with trio.fail_after(CONNECT_SECONDS):
                stream = await self._dial()
            async with stream, trio.open_nursery() as nursery:
                with trio.fail_after(CONNECT_SECONDS):
                    socket = await trio_websocket.wrap_client_stream(
                        nursery,
                        stream,
                        parts.netloc,
                        f"{parts.path}{path}?{urlencode(params)}",
                        extra_headers=[(b"Authorization", f"Bearer {self.token}".encode())],
                    )
                while take(str(await socket.get_message())):
                    pass
                with trio.move_on_after(1):
                    await socket.aclose()
                nursery.cancel_scope.cancel()
        # The library raises in this task or in one of its own, as it happens: alone or in groups, it is all the same.
        except* trio_websocket.ConnectionRejected as group:
            for rejected in leaves(group, trio_websocket.ConnectionRejected):
                failure = problem(rejected.status_code, rejected.body or b"", self.url)
        except* trio_websocket.ConnectionClosed as group:
            for closed in leaves(group, trio_websocket.ConnectionClosed):
                told = f" ({closed.reason.reason})" if closed.reason and closed.reason.reason else ""
                failure = failure or ControlError(f"the control plane at {self.url} ended the stream{told}")
        except* BrokenPipeError:
            raise  # our reader's: the websocket has its own errors
        except* (OSError, trio.TooSlowError, trio_websocket.HandshakeError) as group:
            for exc in leaves(group, Exception):
                failure = failure or ControlError(self._unreachable(exc))
        if failure is not None:
            raise failure

    async def _dial(self) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
        """A connection to it; raises OSError. The websocket library would wait in vain on a handshake that failed."""
        parts, context = urlsplit(self.url), self.context()
        host = parts.hostname or ""
        plain = await trio.open_tcp_stream(host, parts.port or (443 if context is not None else 80))
        if context is None:
            return plain
        stream = trio.SSLStream(plain, context, server_hostname=host, https_compatible=True)
        try:
            await stream.do_handshake()
        except BaseException as exc:
            await trio.aclose_forcefully(plain)
            if isinstance(exc, trio.BrokenResourceError):
                raise OSError(str(exc.__cause__ or exc)) from exc
            raise
        return stream

    def context(self) -> ssl.SSLContext | None:
        """What TLS to it needs, None where it is not https; raises ConfigError where the CA's file is not usable."""
        return client_context(self.ca) if self.url.startswith("https:") else None

    def _unreachable(self, exc: Exception) -> str:
        if "CERTIFICATE_VERIFY_FAILED" in str(exc):
            vouching = self.ca or "this system's roots"
            return f"who answers at {self.url} is not vouched for by {vouching}: {exc}; --ca names other roots"
        return f"no control plane answers at {self.url}: {str(exc) or type(exc).__name__}; is the mesh still running?"


def leaves(group: BaseExceptionGroup[E], kind: type[E]) -> Iterator[E]:
    """The exceptions of that kind in a group and the groups in it."""
    for inner in group.exceptions:
        if isinstance(inner, BaseExceptionGroup):
            yield from leaves(inner, kind)
        elif isinstance(inner, kind):
            yield inner


def problem(status: int, body: bytes, url: str) -> ConduitError:
    """The error that an answer other than 2xx stands for."""
    try:
        told = msgspec.json.decode(body, type=Problem)
    except msgspec.DecodeError:
        told = Problem(error=f"it answered {status}")
    if status in (401, 403):
        return ControlError(f"the control plane at {url} refused the token: {told.error}")
    if told.file or told.field or status == 422:
        return ConfigError(told.error, file=told.file, line=told.line, field=told.field)
    return ControlError(f"the control plane at {url}: {told.error}")
