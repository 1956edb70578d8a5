"""Certificates of every kind, good and bad, for tests of who signs."""

import datetime
import time
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from mesh.control.issuer import TrustFiles

DAY = 86_400.0


class Made(NamedTuple):
    """A certificate with its key."""

    certificate: x509.Certificate
    key: object

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return private_pem(self.key)


def private_pem(key, password=None):
    """A key as PEM, sealed where there is a password."""
    seal = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, seal)


def make(name, parent=None, *, start=None, end=None, ca=True, path_length=None, may_sign=True, key=None):
    """A CA (or, with ca=False, none), signed by `parent` or itself; `start` and `end` are seconds since the epoch."""
    now = time.time()
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(True, False, False, False, False, may_sign, may_sign, False, False)
    signer, signing_key = (parent.certificate.subject, parent.key) if parent else (subject, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(now - DAY if start is None else start))
        .not_valid_after(moment(now + 30 * DAY if end is None else end))
        .add_extension(x509.BasicConstraints(ca, path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    digest = None if isinstance(signing_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Made(builder.sign(signing_key, digest), key)


def moment(seconds):
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


def put(folder: Path, anchors, chain, key_pem) -> TrustFiles:
    """Writes the three files: roots, the chain (what signs first), and the key."""
    folder.mkdir(exist_ok=True)
    files = TrustFiles(folder / "anchors.pem", folder / "issuer.pem", folder / "issuer.key")
    files.anchors.write_bytes(b"".join(made.pem for made in anchors))
    files.issuer.write_bytes(b"".join(made.pem for made in chain))
    files.key.write_bytes(key_pem)
    return files


def a_good_set(folder: Path, name="root") -> TrustFiles:
    """A root, and an issuer below it."""
    root = make(name, path_length=1)
    issuer = make(f"{name}'s issuer", root, path_length=0)
    return put(folder, [root], [issuer], issuer.key_pem)


def csr(key=None, *, names=("evil.demo.serviceaccount.identity.cluster.local",)):
    """A request, PEM, that asks for names that are not its own."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "evil")])
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(serialization.Encoding.PEM).decode()
