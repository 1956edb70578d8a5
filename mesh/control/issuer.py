"""Who signs certificates in this mesh: read from three PEM files, checked, and what it then signs.

The files are what cert-manager, a Secret or `openssl` give: `anchors` (all roots that are trusted now; several while
one is being replaced), `issuer` (the certificate that signs, then what leads from it to a root) and its `key`.

Rules:
- A set of files is good if all that is signed with it will be believed by whoever has its anchors. All of that is
  checked when it is read: it is no use to find out from a proxy that is not believed.
- A request's names are not looked at. Who asks is known from its token; the request only shows a key and that the asker
  has the other half of it.
- Nothing that is signed outlives what signed it, or the root.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from mesh.model.errors import ConduitError, ConfigError
from mesh.model.identity import Identity, parse

SKEW_SECONDS = 20.0
"""How far clocks of one mesh may be apart: certificates hold for so much longer at both ends."""
MAX_FILE = 256 * 1024
"""Bytes: the anchors go to every proxy in one message."""
MAX_CERTIFICATES = 100
MAX_CSR = 16 * 1024
RSA_BITS = range(2048, 8193)
"""Above it, a signature takes more time than a stranger may cost us."""

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


class NotSigned(ConduitError):
    """A request for a certificate that is not granted; `str()` says why."""


class TrustFiles(NamedTuple):
    """Where the three files are. Their names here are the fields that a ConfigError names."""

    anchors: Path
    issuer: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """One that we signed, with what leads from it to a root (PEM, itself first)."""

    chain: str
    not_before: float
    not_after: float
    """Seconds since the epoch, as the certificate says them."""


class Issuer:
    """A good set of files. Immutable: other files make another."""

    def __init__(self, anchors: Sequence[x509.Certificate], chain: Sequence[x509.Certificate], key: PrivateKey) -> None:
        self.anchors, self.chain = tuple(anchors), tuple(chain)
        self.anchors_pem = "".join(pem(anchor) for anchor in anchors)
        self.fingerprint = fingerprint(chain[0])
        self._sent = "".join(pem(certificate) for certificate in chain if certificate.subject != certificate.issuer)
        self._key = key

    def __repr__(self) -> str:
        return f"<Issuer {self.certificate.subject.rfc4514_string()} anchors={len(self.anchors)}>"

    @property
    def certificate(self) -> x509.Certificate:
        """The one that signs."""
        return self.chain[0]

    @property
    def ends(self) -> float:
        """When the first of those ends that lead to a root, seconds since the epoch."""
        return min(certificate.not_valid_after_utc.timestamp() for certificate in self.chain)

    def sign(self, csr: str, identity: Identity, now: float, lifetime: float) -> Certificate:
        """A workload's certificate for the key of a PKCS #10 request (PEM); raises NotSigned."""
        if parse(str(identity)) != identity or parse(identity.uri) != identity:
            raise NotSigned(f"{identity} is no name that a certificate can carry")
        names = [x509.DNSName(str(identity)), x509.UniformResourceIdentifier(identity.uri)]
        return self._signed(requested_key(csr), names, now, lifetime)

    def sign_server(self, key: PublicKey, hosts: Sequence[str], now: float, lifetime: float) -> Certificate:
        """The control plane's own, for these names and addresses; raises NotSigned."""
        return self._signed(key, [general_name(host) for host in hosts], now, lifetime)

    def _signed(self, key: PublicKey, names: Sequence[x509.GeneralName], now: float, lifetime: float) -> Certificate:
        start, end = int(now - SKEW_SECONDS), int(min(now + lifetime + SKEW_SECONDS, self.ends))
        if end <= now:
            raise NotSigned("the issuer's certificate, or what it is signed by, has expired")
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))  # RFC 5280 4.1.2.6: who it is for stands in the names, which are then critical
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment(start))
            .not_valid_after(moment(end))
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage(encipherment=isinstance(key, rsa.RSAPublicKey)), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(authority_key(self.certificate), critical=False)
        )
        certificate = builder.sign(self._key, digest_for(self._key))
        return Certificate(pem(certificate) + self._sent, start, end)


def read(files: TrustFiles, now: float) -> Issuer:
    """The issuer that the files make at `now`; raises ConfigError with file and field (a field of TrustFiles)."""
    anchors = [anchor for anchor in certificates(files.anchors, "anchors") if not ended(anchor, now)]
    if not anchors:
        raise ConfigError("every anchor in it has expired", file=str(files.anchors), field="anchors")
    for anchor in anchors:
        check_ca(anchor, files.anchors, "anchors")
    chain = path_to(anchors, certificates(files.issuer, "issuer"), files.issuer, now)
    key = private_key(files.key)
    if public_bytes(key.public_key()) != public_bytes(certified(chain[0], files.issuer)):
        raise ConfigError(f"is not the key of {files.issuer}", file=str(files.key), field="key")
    return Issuer(anchors, chain, key)


def path_to(
    anchors: Sequence[x509.Certificate], given: Sequence[x509.Certificate], file: Path, now: float
) -> list[x509.Certificate]:
    """The issuer and all above it, the anchor last (and, where the issuer is one itself, alone); raises ConfigError."""
    path: list[x509.Certificate] = []
    for certificate in given:
        if path and not signed_by(path[-1], certificate):
            break
        check_ca(certificate, file, "issuer")
        check_time(certificate, file, now)
        path.append(certificate)
        anchor = next((a for a in anchors if a == certificate or signed_by(certificate, a)), None)
        if anchor is not None:
            path += [] if anchor == certificate else [anchor]
            check_length(path, file)
            return path
    raise ConfigError("is not signed by any of the anchors", file=str(file), field="issuer")


# --- what is asked of each part


def certificates(path: Path, field: str) -> list[x509.Certificate]:
    """Those in a PEM file, one at least; raises ConfigError."""
    try:
        found = x509.load_pem_x509_certificates(content(path, field))
    except ValueError as exc:
        raise ConfigError("holds no PEM certificate that can be read", file=str(path), field=field) from exc
    if len(found) > MAX_CERTIFICATES:
        raise ConfigError(f"holds more than {MAX_CERTIFICATES} certificates", file=str(path), field=field)
    return found


def private_key(path: Path) -> PrivateKey:
    """The one in a PEM file; raises ConfigError."""
    try:
        key = serialization.load_pem_private_key(content(path, "key"), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ConfigError("holds no PEM private key without a password", file=str(path), field="key") from exc
    if not isinstance(key, PrivateKey):
        raise ConfigError("is of no kind that we sign with: EC, Ed25519 or RSA", file=str(path), field="key")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size not in RSA_BITS:
        raise ConfigError(f"is an RSA key of {key.key_size} bits: 2048 at least", file=str(path), field="key")
    return key


def certified(certificate: x509.Certificate, file: Path) -> PublicKey:
    """The key of what is to sign; raises ConfigError where it is of no kind that we know."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError("has a key that cannot be read", file=str(file), field="issuer") from exc
    if not isinstance(key, PublicKey):
        raise ConfigError("has a key of no kind that signs here: EC, Ed25519 or RSA", file=str(file), field="issuer")
    return key


def content(path: Path, field: str) -> bytes:
    """The bytes of a file; raises ConfigError where it cannot be read or is too long."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ConfigError(f"cannot be read: {why}", file=str(path), field=field) from exc
    if len(data) > MAX_FILE:
        raise ConfigError(f"is longer than {MAX_FILE} bytes", file=str(path), field=field)
    return data


def check_ca(certificate: x509.Certificate, file: Path, field: str) -> None:
    """Raises ConfigError where it may not sign certificates (RFC 5280 4.2.1.3, 4.2.1.9)."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        may_sign = constraints.ca
        may_sign = may_sign and certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as exc:
        may_sign = exc.oid != x509.BasicConstraints.oid  # without KeyUsage, a CA may do all
    except (ValueError, x509.DuplicateExtension) as exc:
        raise ConfigError(
            f"{subject(certificate)} has extensions that cannot be read", file=str(file), field=field
        ) from exc
    if not may_sign:
        raise ConfigError(f"{subject(certificate)} is not a CA: it may not sign others", file=str(file), field=field)


def check_time(certificate: x509.Certificate, file: Path, now: float) -> None:
    """Raises ConfigError where it does not hold yet, or no longer."""
    if ended(certificate, now):
        when = f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        raise ConfigError(f"{subject(certificate)} has expired at {when}", file=str(file), field="issuer")
    if certificate.not_valid_before_utc.timestamp() > now + SKEW_SECONDS:
        when = f"{certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
        raise ConfigError(f"{subject(certificate)} is not valid before {when}", file=str(file), field="issuer")


def check_length(path: Sequence[x509.Certificate], file: Path) -> None:
    """Raises ConfigError where one allows fewer CAs below it than there are (RFC 5280 4.2.1.9)."""
    for below, certificate in enumerate(path):
        most = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        if most is not None and most < below:
            reason = f"{subject(certificate)} allows {most} CAs below it, and there are {below}"
            raise ConfigError(reason, file=str(file), field="issuer")


def requested_key(csr: str) -> PublicKey:
    """The key that a PKCS #10 request (PEM) shows, if it is one of ours to certify; raises NotSigned."""
    if len(csr) > MAX_CSR:
        raise NotSigned(f"the request is longer than {MAX_CSR} characters")
    try:
        request = x509.load_pem_x509_csr(csr.encode())
        key = request.public_key()
        good = acceptable(key) and request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as exc:
        raise NotSigned("the request cannot be read") from exc
    if not isinstance(key, PublicKey) or not acceptable(key):
        raise NotSigned("the request's key must be EC on P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits")
    if not good:
        raise NotSigned("the request is not signed with its own key")
    return key


def acceptable(key: object) -> bool:
    """Whether a key is of a kind that all peers understand, and strong enough."""
    match key:
        case ec.EllipticCurvePublicKey():
            return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
        case rsa.RSAPublicKey():
            return key.key_size in RSA_BITS
        case _:
            return isinstance(key, ed25519.Ed25519PublicKey)


# --- small conversions


def usage(*, encipherment: bool) -> x509.KeyUsage:
    """What a workload's key may do: sign handshakes, and (RSA) receive a key."""
    return x509.KeyUsage(True, False, encipherment, False, False, False, False, False, False)


def authority_key(signer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Names the signer's key as the signer itself does (RFC 5280 4.2.1.1)."""
    try:
        known = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = signer.public_key()
        assert isinstance(key, PublicKey)
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)


def digest_for(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | None:
    """The hash that goes with a signing key; Ed25519 has its own."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256:
        return hashes.SHA384()
    return hashes.SHA256()


def signed_by(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    """Whether one is signed by the other."""
    try:
        certificate.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def general_name(host: str) -> x509.GeneralName:
    """A host as a SAN; raises NotSigned where it is no name."""
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host.encode("idna").decode("ascii"))
    except (UnicodeError, ValueError) as exc:
        raise NotSigned(f"{host!r:.80} is neither a name nor an address") from exc


def public_bytes(key: PublicKey) -> bytes:
    """A public key's DER, to compare."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def ended(certificate: x509.Certificate, now: float) -> bool:
    """Whether it holds no longer."""
    return certificate.not_valid_after_utc.timestamp() <= now


def subject(certificate: x509.Certificate) -> str:
    """Its subject, for people; the serial number where it has none."""
    return certificate.subject.rfc4514_string() or f"certificate {certificate.serial_number:x}"


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of its DER, hex."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def pem(certificate: x509.Certificate) -> str:
    """As PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def moment(seconds: float) -> datetime.datetime:
    """Seconds since the epoch, as certificates say them."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
