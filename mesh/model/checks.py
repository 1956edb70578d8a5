"""The checks that types cannot express and that fields of several kinds share."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Protocol

from mesh.model.errors import ConfigError
from mesh.model.patterns import Pattern
from mesh.model.yaml_text import Document

MAX_PATTERN = 1024
"""Characters of a regular expression."""
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.\-]{0,253})")

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_VALUE = re.compile(r"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
_PATH = re.compile(r"/[!\"$->@-~]*")
_NO_PATH = re.compile(r"//|/\.\.?(?:/|$)|%2[fF]")


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str: ...


def parse_address(text: str) -> tuple[str, int]:
    """Host and port (0 to 65535) of `host:port` or `[v6]:port`; ValueError, with a sentence, if it is neither."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5:
        raise ValueError(f"{text!r} is not host:port")
    if int(port) > 65535:
        raise ValueError(f"port {port} is over 65535")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        except ValueError:
            raise ValueError(f"{host} is no IPv6 address") from None
    if not HOST.fullmatch(host):
        raise ValueError(f"{text!r} is not host:port")
    return host, int(port)


class Checks:
    """The checks that types cannot express, on one document below one path."""

    def __init__(self, document: Document, path: str = "") -> None:
        self.document, self.path = document, path

    def fail(self, field: str, reason: str) -> ConfigError:
        return self.document.error(f"{self.path}.{field}" if self.path else field, reason)

    def label(self, field: str, text: str, *, empty: bool = False) -> None:
        if not (text or empty) or (text and not LABEL.fullmatch(text)):
            reason = "must be 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
            raise self.fail(field, f"{text!r:.80} is no name: it {reason}")

    def address(self, field: str, text: str, *, any_port: bool = False) -> str:
        """The host; port 0, for one that the kernel chooses, only with `any_port`."""
        try:
            host, port = parse_address(text)
        except ValueError as exc:
            raise self.fail(field, str(exc)) from exc
        if port == 0 and not any_port:
            raise self.fail(field, "port 0 cannot be called")
        return host

    # --- of traffic

    def token(self, field: str, text: str, what: str = "header name") -> None:
        """RFC 9110 5.6.2."""
        if not _TOKEN.fullmatch(text):
            raise self.fail(field, f"{text!r:.80} is no {what}")

    def value(self, field: str, text: str) -> None:
        """What a header may hold (RFC 9110 5.5)."""
        if not _VALUE.fullmatch(text):
            raise self.fail(field, f"{text!r:.80} is no value of a header: control characters, or blanks at an end")

    def host(self, field: str, text: str) -> None:
        if not HOST.fullmatch(text):
            raise self.fail(field, f"{text!r:.80} is no host name")

    def method(self, field: str, text: str) -> None:
        self.token(field, text, "method")
        if text != text.upper():
            raise self.fail(field, f"{text!r:.80} is no method: they are written in capitals")

    def request_path(self, field: str, text: str) -> None:
        """As requests are compared with it: absolute, normal, without a query."""
        if not _PATH.fullmatch(text) or _NO_PATH.search(text):
            reason = "must begin with / and hold no blank, ?, #, //, /./, /../ or %2F"
            raise self.fail(field, f"{text!r:.80} is no path to compare with: it {reason}")

    def pattern(self, field: str, text: str) -> None:
        """A regular expression, as RE2 has them."""
        if len(text) > MAX_PATTERN:
            raise self.fail(field, f"is too long: {len(text)} characters, at most {MAX_PATTERN}")
        try:
            Pattern(text)
        except ValueError as exc:
            raise self.fail(field, str(exc)) from exc

    def once(self, field: str, items: Sequence[Named], *, fold: bool = False) -> None:
        """Each name once; with `fold` in any case."""
        seen = set()
        for index, item in enumerate(items):
            name = item.name.lower() if fold else item.name
            if name in seen:
                raise self.fail(f"{field}[{index}].name", f"{item.name!r:.80} is there twice")
            seen.add(name)

    def tries(self, field: str, request: float, backend_request: float) -> None:
        """Gateway API: one try takes no longer than all of them may; 0 says nothing."""
        if 0 < request < backend_request:
            reason = f"{backend_request:g} s for one try is more than {request:g} s for the whole request"
            raise self.fail(f"{field}.backendRequest", reason)

    def within(self, field: str, number: float, least: float, most: float) -> None:
        if not least <= number <= most:
            raise self.fail(field, f"{number:g} is not within {least:g} and {most:g}")
