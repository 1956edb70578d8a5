"""A workload's key, and the request (PKCS #10) to have it certified; a program of its own.

    python -I mesh/proxy/keypair.py DNS-NAME URI        prints a Keypair as JSON

The library that makes them would stay in each proxy's memory for good, 10 MB, for a fraction of a second's work in a
day. So `credentials.py` has a child make them: the key is in the child's memory, then in a pipe, then in the proxy's
memory, and nowhere else. Nothing of ours is imported here, so that the child is quick.
"""

from __future__ import annotations

import json
import sys
from typing import NamedTuple


class Keypair(NamedTuple):
    """EC P-256, PEM."""

    key: str
    csr: str

    def __repr__(self) -> str:
        return "<Keypair>"


def generate(name: str, uri: str) -> Keypair:
    """A new key, and a request that names both spellings of an identity."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.UniformResourceIdentifier(uri)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Keypair(private.decode(), request.public_bytes(pem).decode())


if __name__ == "__main__":
    sys.stdout.write(json.dumps(generate(sys.argv[1], sys.argv[2])._asdict()))
