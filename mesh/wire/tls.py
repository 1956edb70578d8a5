"""TLS without a socket: ciphertext in, plaintext out and back, around one `ssl.SSLObject` and its two memory BIOs.

Rules:

* Both sides show a certificate and check the other's against anchors that were given, never the system's.
* A private key that came in memory stays there: OpenSSL reads it from a file that has no name and is on no disk.
* Who the peer is stands in its DNS and URI SANs and nowhere else. `ssl` checks no names here: whoever dials knows whom
  it expects and calls `verify_identity`; whoever accepts reads `peer_identities`.
* Nothing is ever resumed, for resumption skips the checks of the chain.
* Every failure is a TlsError with one word for metrics; an alert that the peer should get is then left in `take`.
* A stream that ends without close_notify was cut off (RFC 8446 section 6.1), and `receive_eof` says so.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mesh.model.config import TlsFiles
from mesh.model.errors import ConfigError, PeerError

_RECORD = 16 * 1024  # a read returns one record at most (RFC 8446 section 5.1)
_BIO = 64 * 1024  # a memory BIO never gives back the most that it once held; four records at once cost little per byte
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # TLS 1.2's: forward secret and authenticated; 1.3 has no others

# X509_V_ERR_* -> the word for it; what is not here is `certificate_refused`.
_VERIFY_WORDS = {
    2: "unknown_authority",  # the issuer's certificate is not to be found
    9: "certificate_not_yet_valid",
    10: "certificate_expired",
    18: "unknown_authority",  # self-signed leaf
    19: "unknown_authority",  # self-signed certificate in the chain
    20: "unknown_authority",
    21: "unknown_authority",
    26: "wrong_purpose",  # extended key usage
    79: "wrong_purpose",  # a CA that may not be one
}
_WORDS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "certificate_missing",
    "WRONG_VERSION_NUMBER": "not_tls",
    "HTTP_REQUEST": "not_tls",
    "HTTPS_PROXY_REQUEST": "not_tls",
    "UNSUPPORTED_PROTOCOL": "version_refused",
    "VERSION_TOO_LOW": "version_refused",
}
_ALERT = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?(\w+)")
_DNS_NAME = re.compile(r"[0-9A-Za-z_.\-]+")
_URI = re.compile(r"[0-9A-Za-z+.\-]+://[!-~]+")


class TlsError(PeerError):
    """TLS with a peer failed: `reason` is one word_like_this (`alert_...`: the peer's), `detail` a sentence."""

    def __init__(self, reason: str, detail: str, *, peer: str = "") -> None:
        super().__init__(reason, peer=peer)
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.peer}: {self.detail}" if self.peer else self.detail


class Tls:
    """One TLS connection. Hot once the handshake is over (bench: two hops with mTLS).

    `server_hostname` is the DNS name to ask for (SNI), and no more than that. `eof` is True once the peer has said
    close_notify; the other direction then still works. Not to be used further after any method raised, except `take`.
    """

    __slots__ = ("_complete", "_identities", "_incoming", "_object", "_outgoing", "_queued", "_server_side", "eof")

    def __init__(self, context: ssl.SSLContext, server_side: bool, server_hostname: str | None = None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        self._server_side = server_side
        self._queued: list[bytes] = []
        self._complete = False
        self._identities: tuple[str, ...] | None = None
        self.eof = False

    def handshake(self, data: bytes) -> bool:
        """Take ciphertext (none to begin with) and go as far as it allows: True when the handshake is complete.

        What to send is in `take`, also after True. Bytes that came behind the handshake wait for `receive(b"")`.
        """
        self._incoming.write(data)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as exc:
            raise _translated(exc) from exc
        if self._object.session_reused:
            # TLS 1.2 by session id, for `ssl` cannot turn that cache off. OpenSSL forgets the session with this
            # connection, so that the same client's next one is a full handshake.
            raise TlsError("session_resumed", "the peer resumed a session instead of proving anew who it is")
        self._complete = True
        return True

    def receive(self, data: bytes) -> bytes:
        """Take ciphertext; return all plaintext that can be read now, b"" if none. Nothing comes after close_notify."""
        if len(data) > _BIO:
            return b"".join([self.receive(data[at : at + _BIO]) for at in range(0, len(data), _BIO)])
        if self.eof:
            return b""
        incoming = self._incoming
        incoming.write(data)
        read = self._object.read
        chunks = None
        try:
            plain = read(_RECORD)
            # Without ciphertext the next read would only raise, which costs more than a small record does.
            if plain and not incoming.pending:
                return plain
            chunks = [plain]
            while plain and incoming.pending:
                plain = read(_RECORD)
                chunks.append(plain)
            self.eof = not plain
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.eof = True
        except ssl.SSLError as exc:
            raise _translated(exc) from exc
        return b"".join(chunks) if chunks else b""

    def receive_eof(self) -> None:
        """The peer has closed its direction of the transport: raises TlsError where it had not said close_notify."""
        if not self._complete:
            raise TlsError("handshake_eof", "the peer closed the connection during the TLS handshake")
        if not self.eof:
            raise TlsError("truncated", "the peer closed the connection without close_notify: data may be missing")

    def send(self, data: bytes) -> None:
        """Encrypt `data`, of any length, for `take`. Memory is the only bound: callers stop at their own."""
        outgoing = self._outgoing
        try:
            if len(data) <= _BIO:
                if data:
                    self._object.write(data)
            else:
                for at in range(0, len(data), _BIO):
                    self._object.write(data[at : at + _BIO])
                    self._queued.append(outgoing.read())
        except ssl.SSLError as exc:
            raise _translated(exc) from exc
        if outgoing.pending > _BIO:
            self._queued.append(outgoing.read())

    def take(self) -> bytes:
        """All ciphertext queued for the peer; empty if none."""
        if not self._queued:
            return self._outgoing.read()
        self._queued.append(self._outgoing.read())
        taken = b"".join(self._queued)
        self._queued.clear()
        return taken

    def close(self) -> None:
        """Queue close_notify. Receiving goes on; sending is over. Does nothing before the handshake is complete."""
        if not self._complete:
            return
        try:
            self._object.unwrap()
        except ssl.SSLError:
            # It waits for the peer's close_notify, which `receive` will see, or the connection has failed before.
            return

    @property
    def pending(self) -> int:
        """Bytes of ciphertext queued for the peer."""
        return self._outgoing.pending + sum(map(len, self._queued))

    @property
    def alpn(self) -> str | None:
        """The application protocol agreed on (RFC 7301), if any."""
        return self._object.selected_alpn_protocol()

    @property
    def version(self) -> str:
        """`TLSv1.2` or `TLSv1.3`; empty before the handshake."""
        return self._object.version() or ""

    @property
    def peer_certificate(self) -> dict[str, object] | None:
        """The peer's own certificate as `ssl` reads it (`notAfter`...), verified; None if it showed none."""
        return dict(self._object.getpeercert() or {}) or None if self._complete else None

    @property
    def peer_certificate_der(self) -> bytes | None:
        """The peer's own certificate, verified; None if it showed none."""
        return self._object.getpeercert(True) if self._complete else None

    @property
    def peer_identities(self) -> tuple[str, ...]:
        """DNS SANs (in lower case) and URI SANs of the peer's certificate, in its order; a common name is no identity.

        A SAN whose text is not of its own kind, or a wildcard, is left out: a DNS SAN never looks like a URI.
        """
        if self._identities is None:
            if not self._complete:
                return ()
            names: Any = (self._object.getpeercert() or {}).get("subjectAltName", ())
            self._identities = tuple(_identities(names))
        return self._identities

    def __repr__(self) -> str:
        state = "ended by peer" if self.eof else "open" if self._complete else "handshaking"
        return f"<Tls {'server' if self._server_side else 'client'}, {state}>"


def _identities(names: Sequence[tuple[str, str]]) -> list[str]:
    found = []
    for kind, name in names:
        if kind == "DNS" and _DNS_NAME.fullmatch(name):
            found.append(name.lower())
        elif kind == "URI" and _URI.fullmatch(name):
            found.append(name)
    return found


def verify_identity(tls: Tls, expected: str) -> None:
    """Raise TlsError (`identity_mismatch`) unless the peer's certificate carries `expected` itself as a SAN.

    DNS names are compared without regard to case, URIs exactly; no wildcard matches and neither does a common name.
    """
    wanted = expected if "://" in expected else expected.lower()
    if wanted not in tls.peer_identities:
        shown = ", ".join(tls.peer_identities[:8]) or "no identity"
        raise TlsError("identity_mismatch", f"the peer's certificate is for {shown}, not for {expected}")


def server_context(files: TlsFiles, *, alpn: Sequence[str], require_client: bool = True) -> ssl.SSLContext:
    """What an inbound listener needs. Without `require_client` a client may show no certificate, but not a bad one.

    Raises ConfigError with the file and the field (`cert`, `key`, `ca`) that is wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL
    context.num_tickets = 0
    return _prepared(context, files, alpn)


def client_context(files: TlsFiles, alpn: Sequence[str]) -> ssl.SSLContext:
    """What connections to a service's endpoints need; who answers is then checked by `verify_identity`.

    Raises ConfigError with the file and the field (`cert`, `key`, `ca`) that is wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it would accept wildcards, and knows no URIs
    context.verify_mode = ssl.CERT_REQUIRED
    return _prepared(context, files, alpn)


class Pem(NamedTuple):
    """What a workload proves with whom it is, and by what it believes others; PEM text."""

    chain: str
    """Its certificate, then what leads from that to a root."""
    key: str
    anchors: str
    """The roots, one or more."""

    def __repr__(self) -> str:
        return f"<Pem, {len(self.chain)} characters of chain, {len(self.anchors)} of anchors>"


def server_context_of(pem: Pem, *, alpn: Sequence[str]) -> ssl.SSLContext:
    """As `server_context`, from memory: clients must show a certificate. Raises ConfigError with a field of Pem."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    return _prepared_of(context, pem, alpn)


def client_context_of(pem: Pem, alpn: Sequence[str]) -> ssl.SSLContext:
    """As `client_context`, from memory. Raises ConfigError with a field of Pem."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return _prepared_of(context, pem, alpn)


def host_context(anchors: str) -> ssl.SSLContext:
    """For a client that shows no certificate and asks for a host, by name or address, that the server's must be for:
    our control plane. Trusts `anchors` (PEM) alone; raises ConfigError where they hold none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False
    _restrict(context, ())
    _trust(context, anchors)
    return context


class Proof(NamedTuple):
    """What a certificate says: names as in `Tls.peer_identities`, seconds since the epoch."""

    names: tuple[str, ...]
    not_before: float
    not_after: float


def prove(server: ssl.SSLContext, client: ssl.SSLContext) -> Proof:
    """Have two contexts of one workload shake hands with each other: what they hold then serves both ways.

    Returns what the server's certificate says; raises TlsError with the reason for which a peer would refuse it.
    """
    there, here = Tls(server, True), Tls(client, False)
    flight, done = b"", False
    while not done:
        done = here.handshake(flight)
        there.handshake(here.take())
        flight = there.take()
    there.receive(b"")  # under TLS 1.3 a server refuses when its client is through already
    found: Any = here.peer_certificate
    return Proof(
        here.peer_identities,
        float(ssl.cert_time_to_seconds(found["notBefore"])),
        float(ssl.cert_time_to_seconds(found["notAfter"])),
    )


@contextlib.contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """The path of a file that holds `text` as long as the block runs. It is in memory alone, or, where the system has
    no such files, readable by this user and there for the moment."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{descriptor}"
    else:
        descriptor, path = tempfile.mkstemp()
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(text.encode())
        yield path
    finally:
        os.close(descriptor)
        if not path.startswith("/proc/self/"):
            os.unlink(path)


def _prepared_of(context: ssl.SSLContext, pem: Pem, alpn: Sequence[str]) -> ssl.SSLContext:
    _restrict(context, alpn)
    _trust(context, pem.anchors)
    with _in_memory(pem.chain + "\n" + pem.key) as path:
        try:
            context.load_cert_chain(path, password=_no_password)
        except ssl.SSLError as exc:
            if exc.reason == "KEY_VALUES_MISMATCH":
                raise ConfigError("is not the key of this certificate", field="key") from exc
            why = (exc.reason or str(exc)).replace("_", " ").lower()
            raise ConfigError(f"holds no certificate and key in PEM ({why})", field="chain") from exc
    return context


def _trust(context: ssl.SSLContext, anchors: str) -> None:
    try:
        context.load_verify_locations(cadata=anchors)
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError("hold no PEM certificate to trust", field="anchors") from exc


def _prepared(context: ssl.SSLContext, files: TlsFiles, alpn: Sequence[str]) -> ssl.SSLContext:
    _restrict(context, alpn)
    _load(context, files)
    return context


def _restrict(context: ssl.SSLContext, alpn: Sequence[str]) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.set_ciphers(_CIPHERS)
    if alpn:
        context.set_alpn_protocols(list(alpn))


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    for field in ("cert", "key", "ca"):
        path = getattr(files, field)
        try:
            with open(path, "rb") as file:
                file.read(1)
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
            raise ConfigError(f"cannot be read: {why}", file=path, field=field) from exc
    try:
        context.load_verify_locations(cafile=files.ca)
    except ssl.SSLError as exc:
        raise ConfigError("holds no PEM certificate to trust", file=files.ca, field="ca") from exc
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=files.cert)
    except ssl.SSLError as exc:
        raise ConfigError("holds no PEM certificate", file=files.cert, field="cert") from exc
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"is not the key of {files.cert}", file=files.key, field="key") from exc
        if exc.reason in ("CA_MD_TOO_WEAK", "EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL"):
            raise ConfigError("is too weak: use a newer key or hash", file=files.cert, field="cert") from exc
        raise ConfigError("holds no PEM private key without a password", file=files.key, field="key") from exc


def _no_password() -> str:
    """Without it OpenSSL would ask on the terminal."""
    return ""


def _translated(exc: ssl.SSLError) -> TlsError:
    if isinstance(exc, ssl.SSLCertVerificationError):
        word = _VERIFY_WORDS.get(exc.verify_code, "certificate_refused")
        return TlsError(word, f"the peer's certificate was refused: {exc.verify_message}")
    reason = exc.reason or ""
    if alert := _ALERT.fullmatch(reason):
        word = alert[1].lower()
        return TlsError(f"alert_{word}", f"the peer refused us: {word.replace('_', ' ')}")
    word = _WORDS.get(reason) or reason.lower() or "protocol"
    return TlsError(word, f"TLS failed: {(reason or str(exc)).replace('_', ' ').lower()}")
