"""A listener's end of a TLS handshake with certificates made for this process."""

from __future__ import annotations

import functools
import ssl
import tempfile
from pathlib import Path

import trustme

from mesh.model.config import TlsFiles
from mesh.wire.tls import Tls, server_context


@functools.cache
def _context() -> ssl.SSLContext:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = trustme.CA()
        leaf = root.issue_cert("a.demo")
        root.cert_pem.write_to_path(str(folder / "ca.pem"))
        leaf.private_key_pem.write_to_path(str(folder / "key.pem"))
        leaf.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        files = TlsFiles(str(folder / "cert.pem"), str(folder / "key.pem"), str(folder / "ca.pem"))
        return server_context(files, alpn=["h2"])


def server() -> Tls:
    """A fresh one, before its handshake."""
    return Tls(_context(), True)
