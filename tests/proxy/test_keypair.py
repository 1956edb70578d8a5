"""Keys and requests: what is in them, and that the program prints them."""

from __future__ import annotations

import json
import subprocess
import sys

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.proxy import keypair
from mesh.proxy.keypair import generate

NAME, URI = "web.demo.serviceaccount.identity.cluster.local", "spiffe://cluster.local/ns/demo/sa/web"


def test_a_request_names_both_spellings_and_is_signed_with_its_own_key() -> None:
    """EC P-256; the names are all there is, so they are critical."""
    pair = generate(NAME, URI)
    key = serialization.load_pem_private_key(pair.key.encode(), None)
    request = x509.load_pem_x509_csr(pair.csr.encode())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.DNSName) == [NAME]
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [URI]
    assert "PRIVATE" not in repr(pair)


def test_no_two_keys_are_alike() -> None:
    """Each certificate has its own."""
    assert generate(NAME, URI).key != generate(NAME, URI).key


def test_the_program_prints_one() -> None:
    """As JSON, with nothing of ours imported: where it stands does not matter."""
    done = subprocess.run([sys.executable, "-I", keypair.__file__, NAME, URI], capture_output=True, check=True, cwd="/")
    told = json.loads(done.stdout)
    assert set(told) == {"key", "csr"}
    assert x509.load_pem_x509_csr(told["csr"].encode()).is_signature_valid
    assert done.stderr == b""
