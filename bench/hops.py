"""Two proxies in a row with mutual TLS between them, as a mesh has them: certificates, and each proxy's words for it.

The first takes plain HTTP/2 from the load and calls the second with a certificate of its own; the second demands one,
and forwards to the back end in plain HTTP/2. Both are real processes, and their costs are summed up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

Document = dict[str, object]
CALLER, CALLED = "caller.bench", "called.bench"


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files of one end."""

    cert: str
    key: str
    ca: str

    def document(self) -> Document:
        """As proxy.yaml has them."""
        return {"cert": self.cert, "key": self.key, "ca": self.ca}


def certificates(folder: Path) -> tuple[Files, Files]:
    """Fresh ones for the caller's proxy and the called one's, signed by one root, written into `folder`."""
    root = trustme.CA()
    anchor = folder / "ca.pem"
    root.cert_pem.write_to_path(str(anchor))
    made = []
    for name in (CALLER, CALLED):
        leaf = root.issue_cert(name)
        cert, key = folder / f"{name}.pem", folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(key))
        made.append(Files(str(cert), str(key), str(anchor)))
    return made[0], made[1]


def envoy_caller(files: Files) -> Document:
    """The transport socket of Envoy's cluster in the first proxy."""
    match = {"san_type": "DNS", "matcher": {"exact": CALLED}}
    context = _envoy_context(files, {"match_typed_subject_alt_names": [match]})
    return _envoy_socket("UpstreamTlsContext", {"common_tls_context": context, "sni": CALLED})


def envoy_called(files: Files) -> Document:
    """The transport socket of Envoy's listener in the second proxy."""
    context = _envoy_context(files, {})
    return _envoy_socket("DownstreamTlsContext", {"common_tls_context": context, "require_client_certificate": True})


def _envoy_context(files: Files, validation: Document) -> Document:
    return {
        "alpn_protocols": ["h2"],
        "tls_certificates": [{"certificate_chain": {"filename": files.cert}, "private_key": {"filename": files.key}}],
        "validation_context": {"trusted_ca": {"filename": files.ca}, **validation},
    }


def _envoy_socket(kind: str, body: Document) -> Document:
    package = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
    return {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": f"{package}.{kind}", **body}}
