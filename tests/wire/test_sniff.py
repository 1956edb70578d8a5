"""First bytes and what they are called, however they are split."""

import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.wire.sniff import MAX_CLIENT_HELLO, MAX_REQUEST_LINE, PREFACE, Verdict, is_http2_settings, server_name, sniff

MORE, HTTP1, HTTP2, TLS, OPAQUE = Verdict.MORE, Verdict.HTTP1, Verdict.HTTP2, Verdict.TLS, Verdict.OPAQUE


def decision(data: bytes) -> tuple[Verdict, int]:
    """The first verdict that is not MORE when bytes come one by one, and how many it took."""
    for size in range(len(data) + 1):
        verdict = sniff(data[:size])
        if verdict is not MORE:
            return verdict, size
    return MORE, len(data)


@pytest.mark.parametrize(
    ("data", "verdict", "after"),
    [
        (PREFACE, HTTP2, len(PREFACE)),
        (PREFACE[:-1], MORE, len(PREFACE) - 1),
        (b"PRI * HTTP/2.0\r\n\r\nXX", HTTP1, 19),
        (b"PRI * HTTP/1.1\r\n", HTTP1, 16),
        (b"PRIVMSG me :hello\r\n", OPAQUE, 12),
        (b"", MORE, 0),
        (b"GET / HTTP/1.1\r\n", HTTP1, 4),
        (b"GET  / HTTP/1.1\r\n", HTTP1, 4),
        (b"POST http://votes/ HTTP/1.1\r\n", HTTP1, 5),
        (b"OPTIONS * HTTP/1.1\r\n", HTTP1, 8),
        (b"\r\nGET / HTTP/1.1\r\n", HTTP1, 6),
        (b"\r\n\r\n\x00\r\nQUIT\n", OPAQUE, 3),
        (b"\r\r", OPAQUE, 2),
        (b"CONNECT votes:80 HTTP/1.1\r\n", HTTP1, 9),
        (b"CONNECT [::1]:80 HTTP/1.1\r\n", HTTP1, 9),
        (b'CONNECT {"verbose":false}\r\n', OPAQUE, 9),
        (b"CONNECT\naccept-version:1.2\n", OPAQUE, 8),
        (b"PROPFIND /dav HTTP/1.1\r\nHost: x\r\n", HTTP1, 24),
        (b"BREW /pot HTTP/1.1\nHost: x\n", HTTP1, 19),
        (b"BREW /pot\r\n", OPAQUE, 10),
        (b"BREW /pot HTTPS", OPAQUE, 15),
        (b"BREW /pot HTTP/1.1 \r\n", OPAQUE, 19),
        (b"get key\r\n", OPAQUE, 8),
        (b"get / HTTP/1.1\r\n", HTTP1, 16),
        (b"EHLO example.org\r\n", OPAQUE, 17),
        (b"SSH-2.0-OpenSSH_9.2\r\n", OPAQUE, 20),
        (b"*1\r\n$4\r\nPING\r\n", OPAQUE, 3),
        (b"PING\r\n", OPAQUE, 5),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", OPAQUE, 1),
        (b"M" * 40, OPAQUE, 33),
        (b"\xff", OPAQUE, 1),
        (b"\x16\x03\x01\x02\x00\x01\x00", TLS, 6),
        (b"\x16\x03\x04\x40\x00\x01", TLS, 6),
        (b"\x16\x03\x01\x02\x00", MORE, 5),
        (b"\x16\x03\x01\x02\x00\x02", OPAQUE, 6),
        (b"\x16\x03\x01\x00\x00", OPAQUE, 5),
        (b"\x16\x03\x01\x40\x01", OPAQUE, 5),
        (b"\x16\x03\x01\x41", OPAQUE, 4),
        (b"\x16\x03\x05", OPAQUE, 3),
        (b"\x16\x02", OPAQUE, 2),
        (b"\x15\x03\x01", OPAQUE, 1),
    ],
)
def test_verdict_and_when_it_falls(data: bytes, verdict: Verdict, after: int) -> None:
    """Each beginning gets its verdict at the earliest byte at which it is safe."""
    assert decision(data) == (verdict, after)
    assert sniff(data) is verdict


def test_an_unknown_method_has_a_bounded_line() -> None:
    """A request line that does not end in time is opaque, and MORE is never said of a full buffer."""
    line = b"BREW /" + b"a" * MAX_REQUEST_LINE
    assert decision(line)[0] is OPAQUE
    assert decision(b"\r\n" + line)[0] is OPAQUE
    assert decision(b"\r\n" + line)[1] <= MAX_REQUEST_LINE
    assert sniff(b"BREW /" + b"a" * 8000 + b" HTTP/1.1\r\n") is HTTP1


STARTS = st.sampled_from(
    [
        PREFACE,
        b"GET / HTTP/1.1\r\n",
        b"BREW /x HTTP/1.1\r\n",
        b"CONNECT ",
        b"\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI ",
    ]
)
SPLICED = st.builds(lambda start, cut, rest: start[:cut] + rest, STARTS, st.integers(0, 30), st.binary(max_size=40))


@given(st.one_of(st.binary(max_size=64), SPLICED))
def test_a_verdict_never_changes(data: bytes) -> None:
    """Once decided, each further byte leaves the verdict as it is."""
    verdict, after = decision(data)
    assert {sniff(data[:size]) for size in range(after, len(data) + 1)} == {verdict}


@given(st.binary(min_size=1, max_size=40), st.integers(0, 24))
def test_only_the_exact_preface_is_http2(noise: bytes, cut: int) -> None:
    """HTTP2 is said of the whole preface with anything behind it, and of nothing else."""
    data = PREFACE[:cut] + noise
    assert (sniff(data) is HTTP2) == data.startswith(PREFACE)


# --- server_name -----------------------------------------------------------------------


def client_hello(name: str | None, **versions: ssl.TLSVersion) -> bytes:
    """What OpenSSL really sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    for attribute, version in versions.items():
        setattr(context, attribute, version)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def records(message: bytes, size: int) -> bytes:
    """A handshake message in records of `size` bytes."""
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(piece)) + piece for piece in pieces)


def crafted(entries: bytes) -> bytes:
    """A ClientHello whose server_name extension holds `entries`."""
    extension = struct.pack(">HHH", 0, len(entries) + 2, len(entries)) + entries
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += struct.pack(">H", len(extension)) + extension
    return records(b"\x01" + len(body).to_bytes(3, "big") + body, 1 << 14)


def entry(name: bytes, kind: int = 0) -> bytes:
    return bytes([kind]) + struct.pack(">H", len(name)) + name


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["votes.demo", "VOTES.Demo", "a" * 63 + ".example", None])
def test_names_of_real_hellos(version: ssl.TLSVersion, name: str | None) -> None:
    """A real ClientHello is TLS and tells its name in lower case, or that it has none."""
    hello = client_hello(name, maximum_version=version)
    assert sniff(hello) is TLS
    assert server_name(hello) == (name.lower() if name else None)


@pytest.mark.parametrize("size", [1, 4, 5, 37, 200])
def test_a_hello_split_over_records_and_reads(size: int) -> None:
    """Every strict prefix asks for more; the whole gives the name; what follows does not matter."""
    hello = records(client_hello("votes.demo")[5:], size)
    assert {server_name(hello[:cut]) for cut in range(len(hello))} == {Verdict.MORE}
    assert server_name(hello) == "votes.demo"
    assert server_name(hello + b"\x17\x03\x03 anything") == "votes.demo"


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        (entry(b"a_b-c.demo"), "a_b-c.demo"),
        (entry(b""), None),
        (entry(b"a" * 256), None),
        (entry(b"bad host"), None),
        (entry(b"nul\x00.demo"), None),
        (entry("ä.demo".encode()), None),
        (entry(b"other", kind=1), None),
        (b"", None),
        (b"\x00\x00\x20short", None),
    ],
)
def test_odd_names_are_no_names(entries: bytes, name: str | None) -> None:
    """Only a plausible host name is passed on."""
    assert server_name(crafted(entries)) == name


def test_a_hello_is_bounded() -> None:
    """One that is declared too long, or is spread over too many records, is given up rather than waited for."""
    assert server_name(b"\x16\x03\x01\x02\x00\x01\x00\x40\x01") is None
    dribbled = records(b"\x01\x00\x30\x00" + bytes(0x3000), 1)
    assert server_name(dribbled[: MAX_CLIENT_HELLO - 1]) is Verdict.MORE
    assert server_name(dribbled[:MAX_CLIENT_HELLO]) is None
    assert server_name(dribbled) is None


@given(st.binary(max_size=300))
def test_server_name_is_total(data: bytes) -> None:
    """Noise never raises, bare or inside of a record that looks like a ClientHello."""
    framed = records(b"\x01" + len(data).to_bytes(3, "big") + data, 100) if data else data
    for noise in (data, framed, b"\x16\x03\x01" + data):
        answer = server_name(noise)
        assert answer is None or answer is Verdict.MORE or isinstance(answer, str)


@given(st.integers(0, 600), st.binary(min_size=1, max_size=4))
def test_server_name_of_damaged_hellos(at: int, noise: bytes) -> None:
    """A real hello with bytes overwritten never raises, and an answer stands whatever follows."""
    hello = bytearray(client_hello("votes.demo"))
    hello[at : at + len(noise)] = noise
    answer = server_name(bytes(hello))
    if answer is not Verdict.MORE:
        assert server_name(bytes(hello) + b"more") == answer


def test_an_http2_server_is_known_by_its_settings():
    """A SETTINGS frame on stream 0 is HTTP/2's server preface; a greeting, a short read or another frame is not."""
    settings = bytes.fromhex("000006 04 00 00000000 0003 00000064")
    assert is_http2_settings(settings)
    assert not is_http2_settings(b"220 mail.example ESMTP\r\n")
    assert not is_http2_settings(settings[:8])
    assert not is_http2_settings(bytes.fromhex("000008 06 00 00000000 0000000000000000"))
    assert not is_http2_settings(bytes.fromhex("000006 04 00 00000001 0003 00000064"))
