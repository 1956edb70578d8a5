"""The issuer that is in force: its files watched, its certificates given out, and the control plane's own among them.

Rules:
- A set of files takes the place of the one before only if it is good as a whole (issuer.py). One that is not is logged
  once, is shown (`problem`), and leaves what was good in force. Whoever replaces three files writes three times: a set
  is looked at once two looks in a row saw the same.
- The control plane's certificate is made here, from the same issuer, with a key that is in memory alone. It is renewed
  like anybody's: at 70 % of its life, or when the issuer is another. Connections keep the one that they began with.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.control.files import stat
from mesh.control.issuer import SKEW_SECONDS, Certificate, Issuer, NotSigned, TrustFiles, read, subject
from mesh.control.issuer import fingerprint as fingerprint_of
from mesh.model.api import CertificateInfo
from mesh.model.errors import ConfigError
from mesh.model.identity import TRUST_DOMAIN, Identity
from mesh.wire.tls import Pem, TlsError, client_context_of, prove, server_context_of

LOOK_SECONDS = 0.2
LIFETIME = 24 * 3600.0
"""Seconds that a certificate holds, where nobody says otherwise."""
RENEW_AT = 0.7
"""Of its lifetime, when the control plane's own certificate is made anew."""
LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names that the control plane answers to wherever it is."""


class Authority:
    """Signs for this mesh. `problem` says why newer files were refused; empty: those in force are the newest."""

    def __init__(
        self,
        files: TrustFiles,
        log: structlog.typing.FilteringBoundLogger,
        *,
        trust_domain: str = TRUST_DOMAIN,
        lifetime: float = LIFETIME,
        hosts: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Reads the files; raises ConfigError, with file and field, where they are not good. `hosts` are further names
        and addresses of the control plane; `lifetime` is in seconds; `clock` tells seconds since the epoch."""
        self.trust_domain, self.lifetime = trust_domain, lifetime
        self.changed: Callable[[], None] = nobody
        self.problem = ""
        self._files, self._log, self._clock = files, log, clock
        self._hosts = tuple(dict.fromkeys((*LOCAL, *(host.lower() for host in hosts if host))))
        self._seen = self._settling = self._stats()
        self.issuer = checked(files, clock())
        self._renew_at = 0.0
        self._serve_anew()

    def __repr__(self) -> str:
        return f"<Authority {self.issuer!r} problem={self.problem!r}>"

    # --- what others ask

    @property
    def anchors(self) -> str:
        """All roots, PEM: for every proxy."""
        return self.issuer.anchors_pem

    @property
    def fingerprint(self) -> str:
        """Names the certificate that signs now: SHA-256, hex."""
        return self.issuer.fingerprint

    @property
    def context(self) -> ssl.SSLContext:
        """For connections that begin now."""
        return self._context

    def sign(self, csr: str, identity: Identity) -> Certificate:
        """A workload's certificate; raises NotSigned."""
        return self.issuer.sign(csr, identity, self._clock(), self.lifetime)

    def shown(self) -> tuple[list[CertificateInfo], CertificateInfo, CertificateInfo]:
        """For people: the anchors, the issuer, the control plane's own."""
        return [info(anchor) for anchor in self.issuer.anchors], info(self.issuer.certificate), info(self._own)

    # --- the task

    async def watch(self) -> None:
        """Looks at the files and at the clock again and again, until cancelled."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """One look."""
        found = self._stats()
        if found != self._settling:
            self._settling = found
        elif found != self._seen:
            self._seen = found
            self._take()
        if self._clock() >= self._renew_at:
            self._serve_anew()

    def _stats(self) -> tuple[object, ...]:
        return tuple(stat(path) for path in self._files)

    def _take(self) -> None:
        try:
            newer = checked(self._files, self._clock())
        except ConfigError as error:
            self.problem = str(error)
            self._log.error("trust refused", file=error.file, field=error.field, reason=error.reason)
            return
        except Exception as exc:  # noqa: BLE001 - a certificate that trips us up must not end the control plane
            self.problem = f"cannot be understood: {type(exc).__name__}: {exc}"
            self._log.exception("trust not understood")
            return
        self.problem = ""
        same_issuer = newer.fingerprint == self.issuer.fingerprint
        self.issuer = newer
        self._log.info("trust read", anchors=len(newer.anchors), issuer=newer.fingerprint, until=newer.ends)
        if not same_issuer:
            self._serve_anew()
        self.changed()

    def _serve_anew(self) -> None:
        """Makes our own certificate; one that cannot be made leaves the one before, and is tried again later."""
        now = self._clock()
        self._renew_at = now + self.lifetime * RENEW_AT
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            signed = self.issuer.sign_server(key.public_key(), self._hosts, now, self.lifetime)
        except NotSigned as error:
            self._log.error("own certificate not renewed", reason=str(error))
            return
        self._renew_at = now + (min(signed.not_after, now + self.lifetime) - now) * RENEW_AT
        self._own = x509.load_pem_x509_certificate(signed.chain.encode())
        self._context = server_context(pem_of(self.issuer, signed, key))


def checked(files: TrustFiles, now: float) -> Issuer:
    """The issuer that the files make, once OpenSSL too believes what it signs; raises ConfigError."""
    issuer = read(files, now)
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        pem = pem_of(issuer, issuer.sign_server(key.public_key(), LOCAL, now, SKEW_SECONDS), key)
        prove(server_context_of(pem, alpn=()), client_context_of(pem, ()))
    except (NotSigned, TlsError, ConfigError) as exc:
        reason = f"what it signs would be refused: {exc}"
        raise ConfigError(reason, file=str(files.issuer), field="issuer") from exc
    return issuer


def pem_of(issuer: Issuer, signed: Certificate, key: ec.EllipticCurvePrivateKey) -> Pem:
    """All that TLS with a certificate needs."""
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pem(signed.chain, private.decode(), issuer.anchors_pem)


def server_context(pem: Pem) -> ssl.SSLContext:
    """For the port, whose clients show tokens instead of certificates: TLS 1.2 and above, and nothing is resumed."""
    context = server_context_of(pem, alpn=["http/1.1"])
    context.verify_mode = ssl.CERT_NONE
    return context


def info(certificate: x509.Certificate) -> CertificateInfo:
    """A certificate for people."""
    return CertificateInfo(
        subject=subject(certificate),
        fingerprint=fingerprint_of(certificate),
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        names=names(certificate),
        issuer=certificate.issuer.rfc4514_string(),
    )


def names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Its SANs, as text."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in found)


def trust_files(anchors: Path | None, issuer: Path | None, key: Path | None) -> TrustFiles | None:
    """The three that make a set, None where none is given; raises ConfigError where only some are."""
    given = {"--trust-anchors": anchors, "--issuer-cert": issuer, "--issuer-key": key}
    missing = [option for option, path in given.items() if path is None]
    if len(missing) == len(given):
        return None
    if anchors is None or issuer is None or key is None:
        raise ConfigError(
            f"{' and '.join(missing)}: needed with the others of --trust-anchors, --issuer-cert, --issuer-key"
        )
    return TrustFiles(anchors, issuer, key)


def nobody() -> None:
    """Before there are proxies to be told."""
