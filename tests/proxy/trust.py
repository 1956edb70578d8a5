"""A mesh's trust for tests: roots, what signs, and what a workload then holds."""

from __future__ import annotations

import time
from collections.abc import Sequence

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from mesh.control.issuer import Issuer
from mesh.model.identity import Identity
from mesh.model.push import Signed
from mesh.proxy.credentials import Credentials
from mesh.proxy.keypair import generate

WEB, VOTES = Identity("web", "demo"), Identity("votes", "demo")
DAY = 86_400.0


class Trust:
    """One root that signs for itself."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.anchors = self.authority.cert_pem.bytes().decode()
        certificates = x509.load_pem_x509_certificates(self.authority.cert_pem.bytes())
        key = serialization.load_pem_private_key(self.authority.private_key_pem.bytes(), None)
        self.issuer = Issuer(certificates, certificates, key)

    def sign(
        self,
        csr: str,
        identity: Identity,
        *,
        lifetime: float = DAY,
        now: float | None = None,
        others: Sequence[Trust] = (),
    ) -> Signed:
        """As the control plane answers; `others` are trusted too."""
        found = self.issuer.sign(csr, identity, time.time() if now is None else now, lifetime)
        anchors = self.anchors + "".join(other.anchors for other in others)
        return Signed(found.chain, anchors, self.issuer.fingerprint)

    def certified(self, identity: Identity, **how: object) -> Credentials:
        """Credentials that hold a certificate, and whose task does not run."""
        pair = generate(str(identity), identity.uri)
        credentials = Credentials(identity, log=lambda *_: None)
        credentials.install(self.sign(pair.csr, identity, **how), pair.key)  # type: ignore[arg-type]
        return credentials
