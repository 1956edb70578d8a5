"""Which heads of HTTP/1.1 are read, as what, and which are refused, with what reason."""

import pytest

from mesh.wire.head import Head
from mesh.wire.http1_head import (
    CHUNKED,
    LEARNED_NAMES,
    TUNNEL,
    UNTIL_CLOSE,
    Malformed,
    check_trailers,
    parse_request,
    parse_response,
)

FIELDS = 100


def request(raw: bytes) -> tuple[Head, int, bool, bool]:
    """Parse a request's head of ours."""
    return parse_request(raw, FIELDS)


def response(raw: bytes, method: bytes = b"GET", upgrade: bytes = b"") -> tuple[Head, int, bool]:
    """Parse a response's head."""
    return parse_response(raw, FIELDS, method, upgrade)


def head(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes | None = b"Host: a") -> bytes:
    """A request's head with the given fields after Host."""
    return b"\r\n".join([line, *([] if host is None else [host]), *fields])


ACCEPTED = [
    # raw, pseudo fields, other fields, length, persists
    (head(), b"GET", b"http", b"/", b"a", [], 0, True),
    (head(b"Accept:*/*"), b"GET", b"http", b"/", b"a", [(b"accept", b"*/*")], 0, True),
    (head(b"X-Odd.Name: \t v w \t"), b"GET", b"http", b"/", b"a", [(b"x-odd.name", b"v w")], 0, True),
    (head(b"Empty:"), b"GET", b"http", b"/", b"a", [(b"empty", b"")], 0, True),
    (head(b"X: \xe4"), b"GET", b"http", b"/", b"a", [(b"x", b"\xe4")], 0, True),
    (head(line=b"GET /a?b=%20&c;d='\"|{} HTTP/1.1"), b"GET", b"http", b"/a?b=%20&c;d='\"|{}", b"a", [], 0, True),
    (head(host=b"HOST: a.b-c_d:8080"), b"GET", b"http", b"/", b"a.b-c_d:8080", [], 0, True),
    (head(host=b"host: [::1]:80"), b"GET", b"http", b"/", b"[::1]:80", [], 0, True),
    (head(b"Connection: close"), b"GET", b"http", b"/", b"a", [], 0, False),
    (head(b"Connection: keep-alive, X-Hop", b"X-Hop: 1"), b"GET", b"http", b"/", b"a", [], 0, True),
    (head(b"Keep-Alive: timeout=5", b"Proxy-Connection: close"), b"GET", b"http", b"/", b"a", [], 0, True),
    (head(line=b"GET / HTTP/1.0"), b"GET", b"http", b"/", b"a", [], 0, False),
    (head(line=b"GET / HTTP/1.0", host=None), b"GET", b"http", b"/", b"", [], 0, False),
    (head(b"Connection: Keep-Alive", line=b"GET / HTTP/1.0"), b"GET", b"http", b"/", b"a", [], 0, True),
    (head(line=b"OPTIONS * HTTP/1.1"), b"OPTIONS", b"http", b"*", b"a", [], 0, True),
    (head(line=b"PROPFIND / HTTP/1.1"), b"PROPFIND", b"http", b"/", b"a", [], 0, True),
    (head(line=b"GET http://a HTTP/1.1"), b"GET", b"http", b"/", b"a", [], 0, True),
    (head(line=b"GET http://a?q HTTP/1.1"), b"GET", b"http", b"/?q", b"a", [], 0, True),
    (head(line=b"GET HTTPS://A:443/x HTTP/1.1"), b"GET", b"https", b"/x", b"A:443", [], 0, True),
    (head(line=b"OPTIONS http://a HTTP/1.1"), b"OPTIONS", b"http", b"*", b"a", [], 0, True),
    (head(b"Content-Length: 007"), b"GET", b"http", b"/", b"a", [(b"content-length", b"7")], 7, True),
    (head(b"Transfer-Encoding: chunked"), b"GET", b"http", b"/", b"a", [], CHUNKED, True),
    (head(b"Transfer-Encoding: Chunked"), b"GET", b"http", b"/", b"a", [], CHUNKED, True),
    (head(b"TE: gzip, Trailers"), b"GET", b"http", b"/", b"a", [(b"te", b"trailers")], 0, True),
    (head(b"TE: trailers", b"Connection: TE"), b"GET", b"http", b"/", b"a", [(b"te", b"trailers")], 0, True),
    (head(b"TE: gzip"), b"GET", b"http", b"/", b"a", [], 0, True),
    (head(b"Expect: 100-continue"), b"GET", b"http", b"/", b"a", [(b"expect", b"100-continue")], 0, True),
]


@pytest.mark.parametrize("case", ACCEPTED, ids=[repr(case[0])[2:60] for case in ACCEPTED])
def test_a_good_request_is_read_in_http2_form(case):
    """Pseudo fields come first, names are lower case, hop-by-hop fields are gone and the framing is known."""
    raw, method, scheme, path, authority, fields, length, persists = case
    found, found_length, found_persists, modern = request(raw)
    pseudo = [(b":method", method), (b":scheme", scheme), (b":path", path)]
    pseudo += [(b":authority", authority)] if authority else []
    assert list(found.block) == pseudo + fields
    assert (found.method, found.scheme, found.path, found.authority) == (method, scheme, path, authority)
    assert (found_length, found_persists) == (length, persists)
    assert modern == (b"HTTP/1.1" in raw)


def test_connect_has_its_target_as_authority():
    """CONNECT has neither scheme nor path, and what follows its head is a tunnel."""
    found, length, _, _ = request(head(b"Content-Length: 0", line=b"CONNECT a:443 HTTP/1.1", host=b"Host: a:443"))
    assert list(found.block) == [(b":method", b"CONNECT"), (b":authority", b"a:443")]
    assert (found.authority, found.path, length) == (b"a:443", b"", TUNNEL)


REFUSED = [
    (b"", "request_line", 400),
    (head(b"Content-Length: 1", b"Transfer-Encoding: chunked"), "length_and_transfer_encoding", 400),
    (head(b"Transfer-Encoding: chunked", b"Content-Length: 0"), "length_and_transfer_encoding", 400),
    (head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), "transfer_encoding_duplicate", 400),
    (head(b"Transfer-Encoding: chunked, chunked"), "transfer_encoding_invalid", 400),
    (head(b"Transfer-Encoding: chunked, gzip"), "transfer_encoding_invalid", 400),
    (head(b"Transfer-Encoding: chunked;q=1"), "transfer_encoding_invalid", 400),
    (head(b"Transfer-Encoding: \xc3chunked"), "transfer_encoding_invalid", 400),
    (head(b"Transfer-Encoding: 'chunked'"), "transfer_encoding_unknown", 501),
    (head(b"Transfer-Encoding:"), "transfer_encoding_invalid", 400),
    (head(b"Transfer-Encoding: ,chunked"), "transfer_encoding_invalid", 400),
    (head(b"Transfer-Encoding: gzip, chunked"), "transfer_encoding_unknown", 501),
    (head(b"Transfer-Encoding: xchunked"), "transfer_encoding_unknown", 501),
    (head(b"Transfer-Encoding: identity"), "transfer_encoding_unknown", 501),
    (head(b"Transfer-Encoding:\x0bchunked"), "forbidden_octet", 400),
    (head(b"Transfer-Encoding : chunked"), "field_name", 400),
    (head(b"Transfer_Encoding: chunked"), "field_name", 400),
    (head(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"), "transfer_encoding_http10", 400),
    (head(b"Content-Length: 1", b"Content-Length: 1"), "content_length_duplicate", 400),
    (head(b"Content-Length: 1, 1"), "content_length_invalid", 400),
    (head(b"Content-Length: +1"), "content_length_invalid", 400),
    (head(b"Content-Length: -1"), "content_length_invalid", 400),
    (head(b"Content-Length: 0x1"), "content_length_invalid", 400),
    (head(b"Content-Length: 1_0"), "content_length_invalid", 400),
    (head(b"Content-Length: \xb2"), "content_length_invalid", 400),
    (head(b"Content-Length:"), "content_length_invalid", 400),
    (head(b"Content-Length: 9999999999999999999"), "content_length_invalid", 400),
    (head(b"Content_Length: 1"), "field_name", 400),
    (head(b"A: b", b" c"), "obs_fold", 400),
    (head(b"A: b", b"\tc: d"), "obs_fold", 400),
    (head(b" A: b", host=None), "obs_fold", 400),
    (head(b"A: b\nC: d"), "forbidden_octet", 400),
    (head(b"A: b\rC: d"), "forbidden_octet", 400),
    (head(b"A: b\x00"), "forbidden_octet", 400),
    (head(b"A: b\x7f"), "forbidden_octet", 400),
    (head(b"A : b"), "field_name", 400),
    (head(b"A"), "field_line", 400),
    (head(b"accept"), "field_line", 400),
    (head(b": b"), "field_name", 400),
    (head(b"\xe4: b"), "field_name", 400),
    (head(b"(A): b"), "field_name", 400),
    (head(host=None), "host_missing", 400),
    (head(b"Host: a"), "host_duplicate", 400),
    (head(host=b"Host:"), "host_invalid", 400),
    (head(host=b"Host: a b"), "host_invalid", 400),
    (head(host=b"Host: a,b"), "host_invalid", 400),
    (head(host=b"Host: user@a"), "host_invalid", 400),
    (head(host=b"Host: a/b"), "host_invalid", 400),
    (head(host=b"Host: a:b"), "host_invalid", 400),
    (head(host=b"Host: a:123456"), "host_invalid", 400),
    (head(host=b"Host: [::1"), "host_invalid", 400),
    (head(line=b"GET http://b/ HTTP/1.1"), "host_mismatch", 400),
    (head(line=b"GET http://a:81/ HTTP/1.1"), "host_mismatch", 400),
    (head(line=b"GET http://u@a/ HTTP/1.1"), "target", 400),
    (head(line=b"GET http:///x HTTP/1.1"), "target", 400),
    (head(line=b"GET ftp://a/ HTTP/1.1"), "target", 400),
    (head(line=b"GET x HTTP/1.1"), "target", 400),
    (head(line=b"GET * HTTP/1.1"), "target", 400),
    (head(line=b"GET /#f HTTP/1.1"), "target", 400),
    (head(line=b"GET /\xe4 HTTP/1.1"), "target", 400),
    (head(line=b"GET /a\tb HTTP/1.1"), "target", 400),
    (head(line=b"GET /a b HTTP/1.1"), "request_line", 400),
    (head(line=b"GET  / HTTP/1.1"), "request_line", 400),
    (head(line=b"GET / HTTP/1.1 "), "request_line", 400),
    (head(line=b"GET\t/ HTTP/1.1"), "request_line", 400),
    (head(line=b"GET /"), "request_line", 400),
    (head(line=b"GET  HTTP/1.1"), "target", 400),
    (head(line=b" / HTTP/1.1"), "method", 400),
    (head(line=b"G@T / HTTP/1.1"), "method", 400),
    (head(line=b"SETUP / HTTP/1.1"), "method", 400),
    (head(line=b"GET / HTTP/0.9"), "version", 505),
    (head(line=b"GET / HTTP/1.2"), "version", 505),
    (head(line=b"GET / HTTP/2.0"), "version", 505),
    (head(line=b"PRI * HTTP/2.0"), "version", 505),
    (head(line=b"GET / HTTP/3"), "version", 505),
    (head(line=b"GET / HTTP/1.10"), "protocol", 400),
    (head(line=b"GET / http/1.1"), "protocol", 400),
    (head(line=b"DESCRIBE / RTSP/1.0"), "protocol", 400),
    (head(line=b"SOURCE / ICE/1.0"), "protocol", 400),
    (head(line=b"CONNECT a HTTP/1.1"), "target", 400),
    (head(line=b"CONNECT http://a:1/ HTTP/1.1"), "target", 400),
    (head(line=b"CONNECT u@a:1 HTTP/1.1"), "target", 400),
    (head(line=b"CONNECT b:1 HTTP/1.1"), "host_mismatch", 400),
    (head(b"Content-Length: 1", line=b"CONNECT a:1 HTTP/1.1", host=b"Host: a:1"), "connect_with_body", 400),
    (head(b"Connection: a b"), "connection_invalid", 400),
    (head(*[b"A: b"] * 100), "header_fields", 431),
]


@pytest.mark.parametrize("case", REFUSED, ids=[f"{n}-{case[1]}" for n, case in enumerate(REFUSED)])
def test_a_doubtful_request_is_refused(case):
    """Each way to make two parsers disagree is refused, under a reason of its own and with the right status."""
    raw, reason, status = case
    with pytest.raises(Malformed) as caught:
        request(raw)
    assert (caught.value.reason, caught.value.status) == (reason, status)


@pytest.mark.parametrize(
    "name",
    [
        b"Host",
        b"Content-Length",
        b"Authorization",
        b"Cookie",
        b"conduit-identity",
        b"l5d-client-id",
        b"X-Forwarded-For",
    ],
)
def test_connection_cannot_take_away_what_matters(name):
    """A field that frames, authorises or identifies stays, whatever `Connection` nominates."""
    raw = b"GET / HTTP/1.1\r\nConnection: %b, X-Hop\r\nX-Hop: 1\r\n" % name
    raw += b"%b: 12" % name if name == b"Host" else b"Host: 12\r\n%b: 12" % name
    found, _, _, _ = request(raw)
    assert found.get(b"x-hop") is None
    assert (found.authority if name == b"Host" else found.get(name.lower())) == b"12"


UPGRADES = [
    ([b"Connection: Upgrade", b"Upgrade: websocket"], b"websocket"),
    ([b"Connection: keep-alive, Upgrade", b"Upgrade: foo/2"], b"foo/2"),
    ([b"Upgrade: websocket"], b""),
    ([b"Connection: Upgrade"], b""),
    ([b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ"], b""),
    ([b"Connection: Upgrade", b"Upgrade: websocket, h2c"], b""),
    ([b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: h2c"], b""),
    ([b"Connection: Upgrade", b"Upgrade: TLS/1.0"], b""),
]


@pytest.mark.parametrize("case", UPGRADES, ids=[b" ".join(case[0]).decode() for case in UPGRADES])
def test_only_a_clear_upgrade_is_one(case):
    """An upgrade needs both fields and one protocol, which is not one that would hide requests from the mesh."""
    fields, upgrade = case
    found, _, _, _ = request(head(*fields))
    assert found.upgrade == upgrade
    assert len(found.block) == 4


def test_http10_cannot_upgrade():
    """RFC 9110 section 7.8: Upgrade in HTTP/1.0 is ignored."""
    fields = (b"Connection: Upgrade", b"Upgrade: websocket")
    assert request(head(*fields, line=b"GET / HTTP/1.0"))[0].upgrade == b""


OK = b"HTTP/1.1 200 OK"
RESPONSES = [
    # raw, request's method, status, fields, length, persists
    (OK, b"GET", 200, [], UNTIL_CLOSE, False),
    (b"HTTP/1.1 200 \r\nContent-Length: 2", b"GET", 200, [(b"content-length", b"2")], 2, True),
    (b"HTTP/1.1 200\r\nContent-Length: 2", b"GET", 200, [(b"content-length", b"2")], 2, True),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 2", b"GET", 200, [(b"content-length", b"2")], 2, False),
    (
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive",
        b"GET",
        200,
        [(b"content-length", b"0")],
        0,
        True,
    ),
    (OK + b"\r\nTransfer-Encoding: chunked", b"GET", 200, [], CHUNKED, True),
    (OK + b"\r\nTransfer-Encoding: chunked\r\nConnection: close", b"GET", 200, [], CHUNKED, False),
    (OK + b"\r\nContent-Length: 9", b"HEAD", 200, [(b"content-length", b"9")], 0, True),
    (OK + b"\r\nTransfer-Encoding: chunked", b"HEAD", 200, [], 0, True),
    (OK, b"HEAD", 200, [], 0, True),
    (b"HTTP/1.1 204 No Content", b"GET", 204, [], 0, True),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 0", b"GET", 204, [], 0, True),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 5", b"GET", 204, [], 0, False),
    (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked", b"GET", 204, [], 0, False),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5", b"GET", 304, [(b"content-length", b"5")], 0, True),
    (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked", b"GET", 304, [], 0, False),
    (b"HTTP/1.1 100 Continue", b"POST", 100, [], 0, True),
    (b"HTTP/1.1 103 Early Hints\r\nLink: </x>", b"GET", 103, [(b"link", b"</x>")], 0, True),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5", b"CONNECT", 200, [], TUNNEL, False),
    (b"HTTP/1.1 403 No\r\nContent-Length: 5", b"CONNECT", 403, [(b"content-length", b"5")], 5, True),
    (b"HTTP/1.1 999 \xe4\r\nContent-Length: 0", b"GET", 999, [(b"content-length", b"0")], 0, True),
]


@pytest.mark.parametrize("case", RESPONSES, ids=[f"{case[1].decode()} {case[0]!r}" for case in RESPONSES])
def test_a_good_response_is_framed_by_its_request(case):
    """RFC 9112 section 6.3: the method and status come before the fields in deciding where a response ends."""
    raw, method, status, fields, length, persists = case
    found, found_length, found_persists = response(raw, method)
    assert list(found.block) == [(b":status", b"%d" % status), *fields]
    assert (found.status, found_length, found_persists) == (status, length, persists)


SWITCH = b"HTTP/1.1 101 Switching Protocols"


def test_101_is_a_tunnel_when_it_was_asked_for():
    """The protocol is compared without regard to case and told on."""
    found, length, persists = response(SWITCH + b"\r\nConnection: upgrade\r\nUpgrade: WebSocket", b"GET", b"websocket")
    assert (found.status, found.upgrade, length, persists) == (101, b"WebSocket", TUNNEL, False)


BAD_RESPONSES = [
    (SWITCH + b"\r\nConnection: upgrade\r\nUpgrade: websocket", b"", "upgrade_not_asked"),
    (SWITCH + b"\r\nConnection: upgrade\r\nUpgrade: other", b"websocket", "upgrade_not_asked"),
    (SWITCH + b"\r\nUpgrade: websocket", b"websocket", "upgrade_not_asked"),
    (OK + b"\r\nContent-Length: 1\r\nTransfer-Encoding: chunked", b"", "length_and_transfer_encoding"),
    (OK + b"\r\nContent-Length: 1\r\nContent-Length: 1", b"", "content_length_duplicate"),
    (OK + b"\r\nContent-Length: a", b"", "content_length_invalid"),
    (OK + b"\r\nTransfer-Encoding: gzip", b"", "transfer_encoding_unknown"),
    (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked", b"", "transfer_encoding_http10"),
    (OK + b"\r\nA: b\r\n c", b"", "obs_fold"),
    (OK + b"\r\nA : b", b"", "field_name"),
    (OK + b"\r\nA: b\nC: d", b"", "forbidden_octet"),
    (OK + b"\r\nA: b\x00", b"", "forbidden_octet"),
    (b"HTTP/2.0 200 OK", b"", "status_line"),
    (b"HTTP/1.1 20 OK", b"", "status_line"),
    (b"HTTP/1.1 2000 OK", b"", "status_line"),
    (b"HTTP/1.1 099 OK", b"", "status_line"),
    (b"HTTP/1.1 200OK", b"", "status_line"),
    (b"HTTP/1.1  200 OK", b"", "status_line"),
    (b"HTTP/1.1 \xb200 OK", b"", "status_line"),
    (b"ICY 200 OK", b"", "status_line"),
    (OK + b"\r\nA: b" * 101, b"", "header_fields"),
]


@pytest.mark.parametrize("case", BAD_RESPONSES, ids=[f"{n}-{case[2]}" for n, case in enumerate(BAD_RESPONSES)])
def test_a_doubtful_response_is_refused(case):
    """An upstream is held to the same rules as a client."""
    raw, upgrade, reason = case
    with pytest.raises(Malformed) as caught:
        response(raw, b"GET", upgrade)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ((b"Host", b"a"), "trailer_forbidden"),
        ((b"content-length", b"1"), "trailer_forbidden"),
        ((b"Content_Length", b"1"), "trailer_forbidden"),
        ((b"Authorization", b"x"), "trailer_forbidden"),
        ((b"a b", b"x"), "trailer_invalid"),
        ((b"a", b"x\x01"), "trailer_invalid"),
    ],
)
def test_trailers_cannot_frame_or_route(field, reason):
    """What decides about a message cannot come after it."""
    with pytest.raises(Malformed) as caught:
        check_trailers([(b"ok", b"1"), field])
    assert caught.value.reason == reason


def test_trailers_are_lower_case():
    """Trailers are fields like others."""
    assert check_trailers([(b"Grpc-Status", b"0 \t")]) == ((b"grpc-status", b"0"),)


def test_random_names_do_not_grow_the_memory_of_names():
    """However many names a peer makes up, a bounded number of them is remembered, and all are read right."""
    from mesh.wire import http1_head

    before = len(http1_head._ORDINARY)
    for n in range(LEARNED_NAMES + 50):
        found, _, _, _ = request(head(b"X-Random-%d: 1" % n))
        assert found.block[4] == (b"x-random-%d" % n, b"1")
    assert len(http1_head._ORDINARY) <= before + LEARNED_NAMES
