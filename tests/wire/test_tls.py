"""Two TLS machines back to back, with certificates good and bad, and with peers that are neither."""

import datetime
import os
import ssl
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.model.config import TlsFiles
from mesh.model.errors import ConfigError, PeerError
from mesh.wire.tls import (
    Pem,
    Tls,
    TlsError,
    client_context,
    client_context_of,
    host_context,
    prove,
    server_context,
    server_context_of,
    verify_identity,
)

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
PEM = serialization.Encoding.PEM


class Authority:
    """A CA that signs anything, and writes the files that a proxy is given."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.key, self.count = folder, ec.generate_private_key(ec.SECP256R1()), 0
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self.builder(self.name, self.key, NOW - DAY, NOW + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(PEM))

    def builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, start: datetime.datetime, end: datetime.datetime
    ) -> x509.CertificateBuilder:
        return x509.CertificateBuilder(self.name, subject, key.public_key(), x509.random_serial_number(), start, end)

    def issue(
        self,
        *sans: str | x509.GeneralName,
        start: datetime.datetime = NOW - DAY,
        end: datetime.datetime = NOW + DAY,
        usages: Sequence[x509.ObjectIdentifier] = (SERVER, CLIENT),
        common_name: str = "",
        ca: Path | None = None,
    ) -> TlsFiles:
        """Files of a leaf for these SANs; a string with `://` is a URI."""
        self.count += 1
        stem = self.folder / f"{self.file.stem}-leaf-{self.count}"
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
        builder = self.builder(subject, key, start, end)
        if sans:
            names = [general_name(san) for san in sans]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not common_name)
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        stem.with_suffix(".pem").write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(PEM))
        stem.with_suffix(".key").write_bytes(
            key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return TlsFiles(cert=str(stem.with_suffix(".pem")), key=str(stem.with_suffix(".key")), ca=str(ca or self.file))


def general_name(san: str | x509.GeneralName) -> x509.GeneralName:
    if isinstance(san, str):
        return x509.UniformResourceIdentifier(san) if "://" in san else x509.DNSName(san)
    return san


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "mesh")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "other")


@pytest.fixture(scope="module")
def contexts(ca: Authority) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server `votes.demo` and a client `web.demo`, both in order."""
    server = server_context(ca.issue("votes.demo", "spiffe://demo/votes"), alpn=["h2", "http/1.1"])
    return server, client_context(ca.issue("web.demo"), ["h2"])


def whole(data: bytes) -> list[bytes]:
    return [data] if data else []


def shake(server: Tls, client: Tls, split: Callable[[bytes], list[bytes]] = whole) -> None:
    """Carry bytes until both handshakes are complete and nothing is under way; what they raise comes out."""
    done = {server: False, client: client.handshake(b"")}
    moved = True
    while moved:
        moved = False
        for source, target in ((client, server), (server, client)):
            for piece in split(source.take()):
                moved = True
                if done[target]:
                    assert target.receive(piece) == b""
                else:
                    done[target] = target.handshake(piece)
    assert all(done.values())


def pair(contexts: tuple[ssl.SSLContext, ssl.SSLContext], sni: str | None = "votes.demo") -> tuple[Tls, Tls]:
    """A server and a client that have shaken hands."""
    server, client = Tls(contexts[0], True), Tls(contexts[1], False, sni)
    shake(server, client)
    return server, client


def refusal(server_files: TlsFiles, client_files: TlsFiles) -> str:
    """Why these two do not come together."""
    server, client = Tls(server_context(server_files, alpn=[]), True), Tls(client_context(client_files, []), False)
    with pytest.raises(TlsError) as caught:
        shake(server, client)
    assert isinstance(caught.value, PeerError)
    assert caught.value.detail
    return caught.value.reason


# --- what works ------------------------------------------------------------------------


def test_two_peers_meet(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Both learn who the other is, by which protocol they speak, over TLS 1.3."""
    server, client = pair(contexts)
    assert (server.version, client.version) == ("TLSv1.3", "TLSv1.3")
    assert (server.alpn, client.alpn) == ("h2", "h2")
    assert server.peer_identities == ("web.demo",)
    assert client.peer_identities == ("votes.demo", "spiffe://demo/votes")
    assert x509.load_der_x509_certificate(server.peer_certificate_der or b"").issuer
    assert repr(server) == "<Tls server, open>"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 700), st.lists(st.binary(max_size=3000), max_size=5))
def test_any_split_of_bytes(contexts: tuple[ssl.SSLContext, ssl.SSLContext], size: int, messages: list[bytes]) -> None:
    """However ciphertext is cut, the handshake completes and the same plaintext comes out."""

    def split(data: bytes) -> list[bytes]:
        return [data[at : at + size] for at in range(0, len(data), size)]

    server, client = Tls(contexts[0], True), Tls(contexts[1], False)
    shake(server, client, split)
    for source, target in ((server, client), (client, server)):
        for message in messages:
            source.send(message)
        source.close()
        assert b"".join(map(target.receive, split(source.take()))) == b"".join(messages)
        assert target.eof


def test_a_mebibyte_each_way(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Many records in one read, and reads of 64 KiB that end inside of records, lose nothing."""
    server, client = pair(contexts)
    data = bytes(range(256)) * 4096
    client.send(data)
    assert client.pending > len(data)
    assert server.receive(client.take()) == data
    server.send(data)
    cipher = server.take()
    assert b"".join(client.receive(cipher[at : at + 65536]) for at in range(0, len(cipher), 65536)) == data


def test_data_behind_the_handshake(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Application data that arrives with the last of the handshake is there for the first receive."""
    server, client = Tls(contexts[0], True), Tls(contexts[1], False)
    client.handshake(b"")
    server.handshake(client.take())
    assert client.handshake(server.take())
    client.send(b"at once")
    assert server.handshake(client.take())
    assert server.receive(b"") == b"at once"


def test_tls_1_2_is_served(contexts: tuple[ssl.SSLContext, ssl.SSLContext], ca: Authority) -> None:
    """A peer that has nothing newer gets TLS 1.2 with a forward-secret, authenticated cipher."""
    old = client_context(ca.issue("web.demo"), ["h2"])
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    server, client = pair((contexts[0], old))
    assert server.version == client.version == "TLSv1.2"
    ciphers = [cipher["name"] for cipher in old.get_ciphers() if cipher["protocol"] == "TLSv1.2"]
    assert ciphers
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "POLY1305" in name) for name in ciphers)


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [(["h2", "http/1.1"], ["http/1.1", "h2"], "h2"), (["h2"], ["http/1.1"], None), ([], ["h2"], None)],
)
def test_alpn(ca: Authority, ours: list[str], theirs: list[str], agreed: str | None) -> None:
    """The server's preference counts; no common protocol is no failure."""
    server, client = pair((server_context(ca.issue("a.demo"), alpn=ours), client_context(ca.issue("b.demo"), theirs)))
    assert server.alpn == client.alpn == agreed


# --- the end ---------------------------------------------------------------------------


def test_half_close(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """After one side's close_notify the other direction goes on until its own."""
    server, client = pair(contexts)
    client.send(b"question")
    client.close()
    assert server.receive(client.take()) == b"question"
    assert server.eof
    server.receive_eof()
    server.send(b"answer")
    assert client.receive(server.take()) == b"answer"
    assert not client.eof
    server.close()
    assert client.receive(server.take() + b"ignored") == b""
    assert client.eof
    assert client.receive(b"ignored too") == b""
    assert repr(client) == "<Tls client, ended by peer>"


def test_truncation_is_seen(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """The end of the transport without close_notify is an error, during the handshake and after."""
    server, client = pair(contexts)
    client.send(b"half of it")
    assert server.receive(client.take()) == b"half of it"
    with pytest.raises(TlsError, match="without close_notify") as caught:
        server.receive_eof()
    assert caught.value.reason == "truncated"
    with pytest.raises(TlsError) as caught:
        Tls(contexts[0], True).receive_eof()
    assert caught.value.reason == "handshake_eof"


def test_close_before_the_handshake_says_nothing(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """There is nothing to close yet, and nothing to raise."""
    server = Tls(contexts[0], True)
    server.close()
    assert server.take() == b""
    assert server.peer_certificate_der is None
    assert server.peer_identities == ()


# --- who is refused --------------------------------------------------------------------


def test_a_client_of_another_authority(ca: Authority, other: Authority) -> None:
    """A server refuses a client that its anchors have not signed, and says so in an alert."""
    assert refusal(ca.issue("a.demo"), other.issue("b.demo", ca=ca.file)) == "unknown_authority"


def test_a_server_of_another_authority(ca: Authority, other: Authority) -> None:
    """A client refuses such a server just so."""
    assert refusal(other.issue("a.demo", ca=ca.file), ca.issue("b.demo")) == "unknown_authority"


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (NOW - 2 * DAY, NOW - DAY / 24, "certificate_expired"),
        (NOW + DAY / 24, NOW + DAY, "certificate_not_yet_valid"),
    ],
)
def test_certificates_out_of_their_time(
    ca: Authority, start: datetime.datetime, end: datetime.datetime, reason: str
) -> None:
    """Expired and not yet valid are refused, whichever side shows it."""
    bad = ca.issue("a.demo", start=start, end=end)
    assert refusal(bad, ca.issue("b.demo")) == reason
    assert refusal(ca.issue("b.demo"), bad) == reason


def test_certificates_for_another_purpose(ca: Authority) -> None:
    """A server's certificate is no client's, nor the other way round; one without any extended usage is both."""
    assert refusal(ca.issue("a.demo", usages=[CLIENT]), ca.issue("b.demo")) == "wrong_purpose"
    assert refusal(ca.issue("a.demo"), ca.issue("b.demo", usages=[SERVER])) == "wrong_purpose"
    plain = ca.issue("c.demo", usages=[])
    pair((server_context(plain, alpn=[]), client_context(plain, [])))


def test_a_leaf_is_no_authority(ca: Authority) -> None:
    """What the mesh signed cannot sign others."""
    leaf = ca.issue("a.demo")
    assert refusal(ca.issue("b.demo"), TlsFiles(cert=leaf.cert, key=leaf.key, ca=leaf.cert)) == "unknown_authority"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_without_a_certificate(ca: Authority, version: ssl.TLSVersion) -> None:
    """It is refused, and learns why: at the latest when it first receives."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = version
    context.load_verify_locations(ca.file)
    server, client = Tls(server_context(ca.issue("a.demo"), alpn=[]), True), Tls(context, False)
    with pytest.raises(TlsError) as caught:
        shake(server, client)
    assert caught.value.reason == "certificate_missing"
    with pytest.raises(TlsError, match="refused us") as caught:
        client.receive(server.take())
    assert caught.value.reason.startswith("alert_")


def test_a_client_may_be_anonymous_where_that_is_allowed(ca: Authority, other: Authority) -> None:
    """Without require_client no certificate is no identity; a bad certificate is still refused."""
    lenient = server_context(ca.issue("a.demo"), alpn=[], require_client=False)
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.check_hostname = False
    anonymous.load_verify_locations(ca.file)
    server, _ = pair((lenient, anonymous))
    assert server.peer_identities == ()
    assert server.peer_certificate_der is None
    with pytest.raises(TlsError) as caught:
        pair((lenient, client_context(other.issue("b.demo", ca=ca.file), [])))
    assert caught.value.reason == "unknown_authority"


def old_hello(version: bytes) -> bytes:
    """A ClientHello that offers at most `version`, by hand, for OpenSSL may be built without it."""
    body = version + bytes(32) + b"\x00" + b"\x00\x04\xc0\x13\x00\x2f" + b"\x01\x00" + b"\x00\x00"
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


@pytest.mark.parametrize("version", [b"\x03\x00", b"\x03\x01", b"\x03\x02"])
def test_old_versions(contexts: tuple[ssl.SSLContext, ssl.SSLContext], version: bytes) -> None:
    """SSL 3.0, TLS 1.0 and 1.1 are refused with the fatal alert protocol_version (handshake_failure for SSL 3.0)."""
    server = Tls(contexts[0], True)
    with pytest.raises(TlsError) as caught:
        server.handshake(old_hello(version))
    assert caught.value.reason == "version_refused"
    assert server.take()[-2:] == (b"\x02\x28" if version == b"\x03\x00" else b"\x02\x46")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not_tls"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not_tls"),
        (bytes(100), "not_tls"),
    ],
)
def test_garbage(contexts: tuple[ssl.SSLContext, ssl.SSLContext], data: bytes, reason: str) -> None:
    """What is not TLS is called so, on either side."""
    client = Tls(contexts[1], False)
    client.handshake(b"")
    client.take()
    for tls in (Tls(contexts[0], True), client):
        with pytest.raises(TlsError) as caught:
            tls.handshake(data)
        assert caught.value.reason == reason


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_noise_raises_nothing_but_tls_errors(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], noise: bytes, framed: bool
) -> None:
    """Random bytes, bare or framed as a handshake record, complete no handshake and raise nothing but TlsError."""
    server = Tls(contexts[0], True)
    data = b"\x16\x03\x01" + len(noise).to_bytes(2, "big") + noise if framed else noise
    try:
        complete = server.handshake(data)
    except TlsError as error:
        complete, reason = False, error.reason
    else:
        reason = "none"
    assert not complete
    assert reason.replace("_", "").isalnum()


def test_tampering_is_noticed(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """A flipped bit in a record ends the connection with an alert."""
    server, client = pair(contexts)
    client.send(b"hello")
    cipher = bytearray(client.take())
    cipher[-1] ^= 1
    with pytest.raises(TlsError) as caught:
        server.receive(bytes(cipher))
    assert caught.value.reason == "decryption_failed_or_bad_record_mac"
    assert server.take()


# --- nothing is resumed, nothing is renegotiated ---------------------------------------


def test_no_session_tickets(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Nothing follows the handshake in TLS 1.3, and its session cannot be used again."""
    server, client = Tls(contexts[0], True), Tls(contexts[1], False)
    client.handshake(b"")
    server.handshake(client.take())
    assert client.handshake(server.take())
    assert server.handshake(client.take())
    assert server.take() == b""
    assert client._object.session is None or not client._object.session.has_ticket


def test_a_resumed_session_is_refused_once(contexts: tuple[ssl.SSLContext, ssl.SSLContext], ca: Authority) -> None:
    """A TLS 1.2 client that resumes by session id is refused and the session forgotten: its next try is a full one."""
    context = client_context(ca.issue("web.demo"), [])
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def connect(session: ssl.SSLSession | None) -> tuple[ssl.SSLObject, str]:
        """A client that does not mind being resumed, and what our server said of it."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, session=session)
        server = Tls(contexts[0], True)
        try:
            for _ in range(3):
                try:
                    client.do_handshake()
                except ssl.SSLWantReadError:
                    pass
                if server.handshake(outgoing.read()):
                    incoming.write(server.take())
                    client.do_handshake()
                    server.close()
                    return client, server.peer_identities[0]
                incoming.write(server.take())
        except TlsError as error:
            return client, error.reason
        return client, "unfinished"

    first, said = connect(None)
    assert said == "web.demo"
    assert first.session is not None
    assert not first.session.has_ticket
    assert connect(first.session)[1] == "session_resumed"
    assert connect(first.session)[1] == "web.demo"


def test_renegotiation_and_compression_are_off(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Python cannot even ask for a renegotiation, so what OpenSSL was told is all there is to see."""
    for context in contexts:
        wanted = ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
        assert context.options & wanted == wanted
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert contexts[0].num_tickets == 0


# --- identities ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sans", "expected", "good"),
    [
        (["votes.demo"], "votes.demo", True),
        (["Votes.DEMO"], "vOTES.demo", True),
        (["web.demo", "votes.demo"], "votes.demo", True),
        (["spiffe://demo/votes"], "spiffe://demo/votes", True),
        (["spiffe://demo/votes"], "spiffe://demo/VOTES", False),
        (["votes.demo"], "votes.dem", False),
        (["votes.demo"], "votes.demo.", False),
        (["votes.demo"], "x.votes.demo", False),
        (["*.demo"], "votes.demo", False),
        (["*.demo"], "*.demo", False),
        (["votes.demo\x00.evil"], "votes.demo", False),
        ([x509.DNSName("spiffe://demo/votes")], "spiffe://demo/votes", False),
        ([x509.UniformResourceIdentifier("votes.demo")], "votes.demo", False),
        ([x509.RFC822Name("votes@demo")], "votes@demo", False),
        ([], "votes.demo", False),
        (["other.demo"], "", False),
    ],
)
def test_identities_match_exactly(ca: Authority, sans: list[str | x509.GeneralName], expected: str, good: bool) -> None:
    """Only a SAN of the right kind that is the expected name itself will do; a common name never does."""
    files = ca.issue(*sans, common_name="votes.demo")
    _, client = pair((server_context(files, alpn=[]), client_context(ca.issue("b.demo"), [])))
    if good:
        verify_identity(client, expected)
    else:
        with pytest.raises(TlsError, match="certificate is for") as caught:
            verify_identity(client, expected)
        assert caught.value.reason == "identity_mismatch"


def test_errors_name_the_peer() -> None:
    """Whoever knows the peer's address can put it in front."""
    assert str(TlsError("not_tls", "a sentence")) == "a sentence"
    assert str(TlsError("not_tls", "a sentence", peer="10.0.0.1:80")) == "10.0.0.1:80: a sentence"


# --- files -----------------------------------------------------------------------------


def test_bad_files_are_named(ca: Authority, other: Authority, tmp_path: Path) -> None:
    """Each mistake in the three files names the file and the field."""
    good, stranger = ca.issue("a.demo"), other.issue("a.demo")
    missing, text = str(tmp_path / "none.pem"), tmp_path / "text.pem"
    text.write_text("hello\n")
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
        )
    )
    mistakes = [
        ({"cert": missing}, "cert", "cannot be read: No such file or directory"),
        ({"key": missing}, "key", "cannot be read: No such file or directory"),
        ({"ca": str(tmp_path)}, "ca", "cannot be read: Is a directory"),
        ({"ca": "nul\x00"}, "ca", "cannot be read: embedded null byte"),
        ({"ca": str(text)}, "ca", "holds no PEM certificate to trust"),
        ({"cert": str(text)}, "cert", "holds no PEM certificate"),
        ({"cert": good.key}, "cert", "holds no PEM certificate"),
        ({"key": str(text)}, "key", "holds no PEM private key without a password"),
        ({"key": str(locked)}, "key", "holds no PEM private key without a password"),
        ({"key": stranger.key}, "key", f"is not the key of {good.cert}"),
    ]
    for change, field, reason in mistakes:
        files = TlsFiles(**{"cert": good.cert, "key": good.key, "ca": good.ca, **change})
        for make in (lambda files=files: server_context(files, alpn=[]), lambda files=files: client_context(files, [])):
            with pytest.raises(ConfigError) as caught:
                make()
            assert (caught.value.field, caught.value.file, caught.value.reason) == (field, change[field], reason)


# --- from memory -----------------------------------------------------------------------


def in_memory(files: TlsFiles) -> Pem:
    """What the files hold."""
    return Pem(*(Path(path).read_text() for path in (files.cert, files.key, files.ca)))


def test_contexts_from_memory_serve_as_those_from_files(ca: Authority) -> None:
    """Both sides prove who they are, speak what ALPN agrees on, and nothing is resumed."""
    server = server_context_of(in_memory(ca.issue("votes.demo")), alpn=["h2", "http/1.1"])
    ours, theirs = pair((server, client_context_of(in_memory(ca.issue("web.demo")), ["http/1.1"])))
    assert (ours.alpn, ours.peer_identities, theirs.peer_identities) == ("http/1.1", ("web.demo",), ("votes.demo",))
    assert server.num_tickets == 0
    assert server.minimum_version is ssl.TLSVersion.TLSv1_2
    for option in (ssl.OP_NO_TICKET, ssl.OP_NO_RENEGOTIATION, ssl.OP_NO_COMPRESSION):
        assert server.options & option
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.check_hostname = False
    anonymous.load_verify_locations(ca.file)
    with pytest.raises(TlsError) as caught:
        pair((server, anonymous))
    assert caught.value.reason == "certificate_missing"


def test_all_anchors_of_a_bundle_are_believed(ca: Authority, other: Authority) -> None:
    """While a root is replaced, certificates of both come together."""
    ours, theirs = in_memory(ca.issue("votes.demo")), in_memory(other.issue("web.demo"))
    bundle = ours.anchors + theirs.anchors
    server = server_context_of(ours._replace(anchors=bundle), alpn=[])
    pair((server, client_context_of(theirs._replace(anchors=bundle), [])))
    with pytest.raises(TlsError) as caught:
        pair((server, client_context_of(theirs, [])))
    assert caught.value.reason == "unknown_authority"


@pytest.mark.parametrize(("field", "value"), [("chain", "nonsense"), ("key", "nonsense"), ("anchors", "nonsense")])
def test_memory_that_holds_no_pem(ca: Authority, field: str, value: str) -> None:
    """A ConfigError names what is wrong, and never shows what a key was."""
    pem = in_memory(ca.issue("votes.demo"))
    with pytest.raises(ConfigError) as caught:
        server_context_of(pem._replace(**{field: value}), alpn=[])
    assert caught.value.field == ("anchors" if field == "anchors" else "chain")
    assert "PRIVATE" not in repr(pem)


def test_a_key_of_another_certificate(ca: Authority) -> None:
    """Is told apart from what is no key."""
    pem = in_memory(ca.issue("votes.demo"))
    with pytest.raises(ConfigError, match="is not the key") as caught:
        client_context_of(pem._replace(key=in_memory(ca.issue("web.demo")).key), [])
    assert caught.value.field == "key"


@pytest.mark.parametrize("memory", [True, False])
def test_a_key_is_left_nowhere(ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: bool) -> None:
    """Also where the system has no files in memory: what was there for the moment was nobody else's to read."""
    seen = []

    def watched(path: str, flags: int, mode: int = 0o777, **how: object) -> int:
        seen.append(oct(mode))
        return opened(path, flags, mode, **how)

    opened = os.open
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "open", watched)
    if not memory:
        monkeypatch.delattr(os, "memfd_create")
    before = len(os.listdir("/proc/self/fd"))
    server_context_of(in_memory(ca.issue("votes.demo")), alpn=[])
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before
    assert seen == ([] if memory else ["0o600"])


def test_two_contexts_prove_what_they_hold(ca: Authority, other: Authority) -> None:
    """The names and the time of the certificate; a TlsError says why a peer would refuse it."""
    pem = in_memory(ca.issue("votes.demo", "spiffe://demo/votes"))
    proof = prove(server_context_of(pem, alpn=["h2"]), client_context_of(pem, []))
    assert proof.names == ("votes.demo", "spiffe://demo/votes")
    assert (proof.not_before, proof.not_after) == (int((NOW - DAY).timestamp()), int((NOW + DAY).timestamp()))
    for files, reason in (
        (other.issue("votes.demo", ca=ca.file), "unknown_authority"),
        (ca.issue("votes.demo", start=NOW - 2 * DAY, end=NOW - DAY), "certificate_expired"),
        (ca.issue("votes.demo", usages=[SERVER]), "wrong_purpose"),
        (ca.issue("votes.demo", usages=[CLIENT]), "wrong_purpose"),
    ):
        bad = in_memory(files)
        with pytest.raises(TlsError) as caught:
            prove(server_context_of(bad, alpn=[]), client_context_of(bad, []))
        assert caught.value.reason == reason


def test_a_host_is_checked_by_name_and_root(ca: Authority, other: Authority) -> None:
    """For the control plane: SANs alone count, wherever the name comes from, and only the given roots."""
    trusted = host_context(ca.file.read_text())
    server = server_context(ca.issue("control.demo", common_name="elsewhere.demo"), alpn=[], require_client=False)

    def connect(context: ssl.SSLContext, host: str) -> None:
        shake(Tls(server, True), Tls(context, False, host))

    connect(trusted, "control.demo")
    for context, host in ((trusted, "elsewhere.demo"), (host_context(other.file.read_text()), "control.demo")):
        with pytest.raises(TlsError):
            connect(context, host)
    with pytest.raises(ConfigError, match="hold no PEM certificate"):
        host_context("")
