"""Who signs: good files and bad ones, what is certified and what is not, and that OpenSSL believes it."""

import ssl
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from mesh.control.issuer import SKEW_SECONDS, NotSigned, fingerprint, general_name, read
from mesh.model.errors import ConfigError
from mesh.model.identity import Identity, proven

from .authorities import DAY, a_good_set, csr, make, private_pem, put

WEB = Identity("web", "demo")


def load(chain):
    return x509.load_pem_x509_certificates(chain.encode())


def believed(anchors, chain, key, tmp_path):
    """Whether a TLS client that trusts the anchors accepts the chain for its name."""
    pem = tmp_path / "own.pem"
    pem.write_bytes(chain.encode() + private_pem(key))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.create_default_context(cadata=anchors)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=str(WEB))
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return [name for _, name in ours.getpeercert()["subjectAltName"]]


def test_a_certificate_names_who_asks_and_nothing_that_was_asked_for(tmp_path):
    """Both spellings of the identity, for both ends of TLS, no CA; the request's own names and wishes are not in it."""
    now = time.time()
    issuer = read(a_good_set(tmp_path / "trust"), now)
    key = ec.generate_private_key(ec.SECP256R1())
    signed = issuer.sign(csr(key), WEB, now, 3600.0)
    leaf, above = load(signed.chain)
    assert above == issuer.certificate
    extensions = leaf.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [str(WEB), WEB.uri]
    assert leaf.subject == x509.Name([])
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert abs(leaf.not_valid_before_utc.timestamp() - (now - SKEW_SECONDS)) <= 1
    assert abs(leaf.not_valid_after_utc.timestamp() - (now + 3600 + SKEW_SECONDS)) <= 1
    assert signed.not_after == leaf.not_valid_after_utc.timestamp()
    found = believed(issuer.anchors_pem, signed.chain, key, tmp_path)
    assert proven(tuple(found)) == WEB


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_every_depth_of_chain_is_believed(tmp_path, depth):
    """A root that signs itself, an issuer below it, and one more between; the root is never sent."""
    now = time.time()
    path = [make("root")]
    for number in range(depth):
        path.insert(0, make(f"ca {number}", path[0]))
    issuer = read(put(tmp_path / "trust", [path[-1]], path, path[0].key_pem), now)
    key = ec.generate_private_key(ec.SECP256R1())
    signed = issuer.sign(csr(key), WEB, now, 60.0)
    assert len(load(signed.chain)) == 1 + depth
    assert believed(issuer.anchors_pem, signed.chain, key, tmp_path)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "Ed25519", "RSA"],
)
def test_every_good_kind_of_key(tmp_path, key):
    """As the issuer's and as the workload's, and believed by OpenSSL."""
    now = time.time()
    root = make("root", key=key)
    issuer = read(put(tmp_path / "trust", [root], [root], root.key_pem), now)
    signed = issuer.sign(csr(key), WEB, now, 60.0)
    assert believed(issuer.anchors_pem, signed.chain, key, tmp_path)


def test_requests_that_are_not_granted(tmp_path):
    """Weak or odd keys, a request that another key signed, no request at all, and too much of one."""
    now = time.time()
    issuer = read(a_good_set(tmp_path / "trust"), now)
    good = csr()
    lines = good.splitlines()
    body = "".join(lines[1:-1])
    broken = "\n".join([lines[0], body[:-12] + ("A" if body[-12] != "A" else "B") + body[-11:], lines[-1]])
    for request, why in (
        (csr(rsa.generate_private_key(65537, 1024)), "2048"),
        (csr(ec.generate_private_key(ec.SECP521R1())), "P-256"),
        (csr(ec.generate_private_key(ec.SECP256K1())), "P-256"),
        (csr(dsa.generate_private_key(1024)), "P-256"),
        (broken, "not signed with its own key|cannot be read"),
        ("", "cannot be read"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "cannot be read"),
        ("é" * 100, "cannot be read"),
        ("x" * 20_000, "longer than"),
    ):
        with pytest.raises(NotSigned, match=why):
            issuer.sign(request, WEB, now, 60.0)
    for identity in (
        Identity("Web", "demo"),
        Identity("a b", "demo"),
        Identity("", "demo"),
        Identity("w" * 64, "demo"),
    ):
        with pytest.raises(NotSigned, match="no name"):
            issuer.sign(good, identity, now, 60.0)


def test_nothing_outlives_what_signed_it(tmp_path):
    """The certificate ends with the first of those above it; when that has ended, none is given."""
    now = time.time()
    root = make("root", end=now + 500)
    issuer = make("issuer", root, end=now + 1000)
    found = read(put(tmp_path / "trust", [root], [issuer], issuer.key_pem), now)
    assert found.ends == int(now + 500)
    assert found.sign(csr(), WEB, now, DAY).not_after == int(now + 500)
    with pytest.raises(NotSigned, match="expired"):
        found.sign(csr(), WEB, now + 501, DAY)


def wrong_sets():
    """What can be wrong: a name, what is made wrong, the field and the words that must be told."""
    now = time.time()
    root = make("root", path_length=1)
    issuer = make("issuer", root, path_length=0)
    other = make("root")  # of the same name, with another key
    leaf = make("leaf", root, ca=False, may_sign=False)
    old, young = make("old", root, end=now - 60), make("young", root, start=now + 600)
    keyless, below = make("weak", root, may_sign=False), make("below", issuer)
    short = make("short", key=rsa.generate_private_key(65537, 1024))
    expired = make("gone", end=now - 60)
    return [
        ("key of another", [root], [issuer], other.key_pem, "key", "is not the key of"),
        ("not a CA", [root], [leaf], leaf.key_pem, "issuer", "is not a CA"),
        ("may not sign", [root], [keyless], keyless.key_pem, "issuer", "is not a CA"),
        ("signed by another", [other], [issuer], issuer.key_pem, "issuer", "not signed by any of the anchors"),
        ("link missing", [root], [below], below.key_pem, "issuer", "not signed by any of the anchors"),
        ("expired", [root], [old], old.key_pem, "issuer", "has expired at"),
        ("not yet valid", [root], [young], young.key_pem, "issuer", "not valid before"),
        ("too deep", [root], [below, issuer], below.key_pem, "issuer", "allows 0 CAs below it"),
        ("anchor expired", [expired], [expired], expired.key_pem, "anchors", "every anchor in it has expired"),
        ("anchor no CA", [leaf], [leaf], leaf.key_pem, "anchors", "is not a CA"),
        ("weak key", [short], [short], short.key_pem, "key", "1024 bits"),
        ("sealed key", [root], [issuer], private_pem(issuer.key, b"pw"), "key", "without a password"),
        ("odd key", [root], [issuer], private_pem(x25519.X25519PrivateKey.generate()), "key", "of no kind"),
        ("no key", [root], [issuer], b"", "key", "no PEM private key"),
        ("no anchors", [], [issuer], issuer.key_pem, "anchors", "no PEM certificate"),
        ("no issuer", [root], [], issuer.key_pem, "issuer", "no PEM certificate"),
    ]


WRONG = wrong_sets()


@pytest.mark.parametrize(
    ("anchors", "chain", "key", "field", "told"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_bad_files_are_told_by_file_and_field(tmp_path, anchors, chain, key, field, told):
    """Each mistake names the file and the field that it is in, and says what is wrong."""
    files = put(tmp_path / "trust", anchors, chain, key)
    with pytest.raises(ConfigError, match=told) as caught:
        read(files, time.time())
    assert caught.value.field == field
    assert caught.value.file == str(getattr(files, field))


@pytest.mark.parametrize("field", ["anchors", "issuer", "key"])
@pytest.mark.parametrize("how", ["missing", "folder", "garbage", "huge"])
def test_files_that_cannot_be_read(tmp_path, field, how):
    """Missing, a folder, no PEM, or absurdly long: told, never a traceback."""
    files = a_good_set(tmp_path / "trust")
    path = getattr(files, field)
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "missing":
        path.write_bytes(b"\xff garbage" * (1 if how == "garbage" else 100_000))
    with pytest.raises(ConfigError) as caught:
        read(files, time.time())
    assert (caught.value.field, caught.value.file) == (field, str(path))


def test_an_expired_anchor_beside_a_good_one_is_left_out(tmp_path):
    """A bundle in which an old root has ended goes on, without it."""
    now = time.time()
    root, gone = make("root"), make("gone", end=now - 60)
    issuer = make("issuer", root)
    found = read(put(tmp_path / "trust", [gone, root], [issuer], issuer.key_pem), now)
    assert found.anchors == (root.certificate,)
    assert found.fingerprint == fingerprint(issuer.certificate)


def test_names_of_a_server():
    """Addresses and names; what is neither is told."""
    assert isinstance(general_name("::1"), x509.IPAddress)
    assert general_name("mesh.example") == x509.DNSName("mesh.example")
    with pytest.raises(NotSigned, match="neither a name nor an address"):
        general_name("a" * 64 + "é")
