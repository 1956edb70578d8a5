"""What a proxy shows to who calls it, seen by calling it: the certificate that it has now, and what leads to a root.

The call ends with the handshake. A proxy asks for our certificate too, and we have none: it shows its own before it
refuses us, and counts a refusal.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence

import msgspec
from cryptography import x509

from mesh.control.authority import info
from mesh.model.api import CertificateInfo
from mesh.model.checks import parse_address
from mesh.model.errors import ConfigError

SECONDS = 3.0
"""For a connection and its handshake."""


class Shown(msgspec.Struct, frozen=True):
    """What the proxy of one replica shows. Times are seconds since the epoch."""

    workload: str
    namespace: str
    proxy: str
    identity: str
    """DNS spelling."""
    address: str = ""
    """Of its inbound listener; empty for a client, which shows its certificate to those whom it calls alone."""
    verified: bool | None = None
    """Whether it leads to one of the anchors and is for this identity; None where that was not to be found out."""
    problem: str = ""
    """Why not, or why no certificate was seen."""
    tls: str = ""
    not_after: float = 0.0
    """When the workload's certificate ends; of a client, as the control plane signed it."""
    chain: tuple[CertificateInfo, ...] = ()
    """The workload's own first."""


class Look(msgspec.Struct, frozen=True):
    """One look at a listener."""

    verified: bool | None = None
    problem: str = ""
    tls: str = ""
    chain: tuple[CertificateInfo, ...] = ()


def look(address: str, identity: str, anchors: str) -> Look:
    """What is shown at an address (`host:port`) to who asks for this identity; `anchors` is a PEM file, or empty.

    Raises ConfigError where the file holds no anchors. Blocks for twice SECONDS at most.
    """
    problem = ""
    if anchors:
        try:
            return Look(True, "", *asked(address, identity, trusting(anchors)))
        except ssl.SSLCertVerificationError as exc:
            problem = exc.verify_message
        except OSError as exc:
            return Look(None, unreachable(exc))
    try:
        shown = asked(address, identity, trusting(""))
    except OSError as exc:
        return Look(None, unreachable(exc))
    return Look(False if anchors else None, problem, *shown)


def asked(address: str, identity: str, context: ssl.SSLContext) -> tuple[str, tuple[CertificateInfo, ...]]:
    """TLS version and chain; raises OSError, of which ssl's errors are a kind."""
    with (
        socket.create_connection(parse_address(address), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=identity) as tls,
    ):
        return tls.version() or "", tuple(info(x509.load_der_x509_certificate(der)) for der in chain_of(tls))


def trusting(anchors: str) -> ssl.SSLContext:
    """A context that asks for a chain to these anchors and for the identity; with none given, for nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not anchors:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        context.load_verify_locations(cafile=anchors)
    except (ssl.SSLError, FileNotFoundError, PermissionError) as exc:
        raise ConfigError("holds no PEM certificate to trust", file=anchors) from exc
    return context


def chain_of(tls: ssl.SSLSocket) -> Sequence[bytes]:
    """DER of what the other side sent, its own first."""
    if hasattr(tls, "get_unverified_chain"):  # Python 3.13
        chain: Sequence[bytes] = tls.get_unverified_chain()
        return chain
    found = tls._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in found]


def unreachable(exc: OSError) -> str:
    """What an error of the connection or the handshake means."""
    if isinstance(exc, ssl.SSLError):
        return f"it shows no certificate: {(exc.reason or str(exc)).replace('_', ' ').lower()}"
    if isinstance(exc, TimeoutError):
        return f"it shows no certificate within {SECONDS:g} s"
    return f"it cannot be reached from here: {exc.strerror or str(exc) or type(exc).__name__}"
