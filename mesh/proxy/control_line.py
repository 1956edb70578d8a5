"""The way to the control plane: TCP, and over https TLS, in which it must prove that it is the host that was dialled.

What it proves that with must lead to the roots in the link's file, which is read for each dial, or to those that it has
told us of itself since: roots are replaced while proxies run. No other root, the system's among them, is trusted.
"""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

import trio

from mesh.model.config import ControlLink
from mesh.model.errors import ConfigError, ControlError
from mesh.wire.tls import host_context

MAX_ANCHORS = 1024 * 1024
"""Characters of the link's file that are read."""

ControlStream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class ControlLine:
    """Dials. `str()` is `host:port`."""

    def __init__(self, link: ControlLink) -> None:
        """Raises ControlError where the URL is none."""
        parts = urlsplit(link.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ControlError(f"{link.url!r} is not http(s)://host:port")
        self._host, self._tls = parts.hostname, parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._file, self._told = link.anchors, ""

    def __str__(self) -> str:
        return f"{self._host}:{self._port}"

    def trust(self, anchors: str) -> None:
        """Trust these roots (PEM) too, in place of what was told before. Raises ConfigError for what holds none."""
        host_context(anchors)
        self._told = anchors

    async def dial(self) -> ControlStream:
        """A stream over which the control plane has proved who it is. Raises OSError with the cause, ConfigError for a
        file that holds no roots. Its owner sets the deadline."""
        context = self._context() if self._tls else None
        stream = await trio.open_tcp_stream(self._host, self._port)
        if context is None:
            return stream
        secured = trio.SSLStream(stream, context, server_hostname=self._host, https_compatible=True)
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as exc:
            await trio.aclose_forcefully(stream)
            raise OSError(f"TLS: {why_not(exc)}") from exc
        except BaseException:
            with trio.CancelScope(shield=True):  # forcefully closing does not wait
                await trio.aclose_forcefully(stream)
            raise
        return secured

    def _context(self) -> ssl.SSLContext:
        try:
            with open(self._file, encoding="ascii") as file:
                given = file.read(MAX_ANCHORS)
            return host_context(given + "\n" + self._told)
        except (OSError, ValueError, ConfigError) as exc:
            if self._told:
                return host_context(self._told)
            why = exc.reason if isinstance(exc, ConfigError) else getattr(exc, "strerror", None) or str(exc)
            raise ConfigError(why, file=self._file, field="anchors") from exc


def why_not(exc: BaseException) -> str:
    """Why a TLS handshake failed, in words."""
    cause = exc.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the control plane's certificate was refused: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return (cause.reason or str(cause)).replace("_", " ").lower()
    return str(cause or exc) or "the connection was closed"
