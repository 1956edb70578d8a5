"""What we write in HTTP/1.1: framing that is ours alone, and heads that it cannot carry."""

import pytest

from mesh.wire.head import Head
from mesh.wire.http1_head import BODILESS, CHUNKED, TUNNEL, UNTIL_CLOSE, Malformed
from mesh.wire.http1_write import (
    UnsendableHead,
    write_informational,
    write_refusal,
    write_request,
    write_response,
    write_trailers,
)


def request(*fields, method=b"GET", path=b"/", authority=b"a", upgrade=b""):
    """A request's head of ours."""
    return Head.request(method, path, authority=authority, fields=fields, upgrade=upgrade)


HOP_BY_HOP = [
    (b"connection", b"x"),
    (b"keep-alive", b"x"),
    (b"proxy-connection", b"x"),
    (b"transfer-encoding", b"gzip"),
    (b"upgrade", b"h2c"),
    (b"http2-settings", b"x"),
    (b"host", b"other"),
    (b"te", b"gzip"),
]

REQUESTS = [
    (request(), True, b"GET / HTTP/1.1|host: a||", 0),
    (request(), False, b"GET / HTTP/1.1|host: a|transfer-encoding: chunked||", CHUNKED),
    (request((b"content-length", b"5")), False, b"GET / HTTP/1.1|host: a|content-length: 5||", 5),
    (request(method=b"POST"), True, b"POST / HTTP/1.1|host: a|content-length: 0||", 0),
    (request(method=b"DELETE"), True, b"DELETE / HTTP/1.1|host: a||", 0),
    (request(*HOP_BY_HOP), True, b"GET / HTTP/1.1|host: a||", 0),
    (request((b"x-y", b"z"), (b"accept", b"")), True, b"GET / HTTP/1.1|host: a|x-y: z|accept: ||", 0),
    (request((b"te", b"trailers")), True, b"GET / HTTP/1.1|host: a|te: trailers|connection: te||", 0),
    (request(authority=b""), True, b"GET / HTTP/1.1|host: ||", 0),
    (request(method=b"OPTIONS", path=b"*"), True, b"OPTIONS * HTTP/1.1|host: a||", 0),
    (
        request(upgrade=b"websocket"),
        True,
        b"GET / HTTP/1.1|host: a|connection: upgrade|upgrade: websocket||",
        0,
    ),
    (
        request(method=b"CONNECT", authority=b"a:1"),
        False,
        b"CONNECT a:1 HTTP/1.1|host: a:1||",
        TUNNEL,
    ),
]


@pytest.mark.parametrize("case", REQUESTS, ids=[case[2].decode() for case in REQUESTS])
def test_a_request_is_framed_by_us(case):
    """Host is the authority, the framing is content-length's or ours, and nothing that is hop-by-hop goes out."""
    head, end, raw, framing = case
    assert write_request(head, end) == (raw.replace(b"|", b"\r\n"), framing)


UNSENDABLE = [
    request((b"a", b"b\r\nc: d")),
    request((b"a", b"b\n")),
    request((b"a", b"\r")),
    request((b"a", b"\x00")),
    request((b"a: b\r\nc", b"d")),
    request((b"a b", b"c")),
    request((b"a:", b"c")),
    request((b"A", b"c")),
    request((b"", b"c")),
    request((b"content_length", b"1")),
    request((b"content-length", b"1")),  # with no body
    request((b"content-length", b"0"), (b"content-length", b"0")),
    request((b"content-length", b"x")),
    request((b"content-length", b"-0")),
    request(path=b""),
    request(path=b"/ HTTP/1.1\r\nx:"),
    request(path=b"/a b"),
    request(path=b"/#"),
    request(path=b"*"),
    request(path=b"http://a/"),
    request(path=b"/\xe4"),
    request(method=b"GET /"),
    request(method=b""),
    request(method=b"PRI"),
    request(authority=b"a\r\nb: c"),
    request(authority=b"u@a"),
    request(authority=b"a b"),
    request(method=b"CONNECT", authority=b"a"),
    request(upgrade=b"a b"),
    request(upgrade=b"a\r\nb: c"),
]


@pytest.mark.parametrize("head", UNSENDABLE, ids=lambda head: repr(head.block[1:]))
def test_what_could_be_read_as_something_else_is_not_written(head):
    """What HTTP/2 can carry and HTTP/1.1 cannot is refused by name."""
    with pytest.raises(UnsendableHead):
        write_request(head, True)


LENGTH_5 = [(b"content-length", b"5"), *HOP_BY_HOP]
RESPONSES = [
    # status, fields, end, method, modern, close; written, framing, closes
    (200, [], True, b"GET", True, False, b"200 OK|content-length: 0||", 0, False),
    (200, [], False, b"GET", True, False, b"200 OK|transfer-encoding: chunked||", CHUNKED, False),
    (200, [], False, b"GET", False, False, b"200 OK|connection: close||", UNTIL_CLOSE, True),
    (200, LENGTH_5, False, b"GET", True, False, b"200 OK|content-length: 5||", 5, False),
    (200, LENGTH_5, False, b"GET", True, True, b"200 OK|content-length: 5|connection: close||", 5, True),
    (200, LENGTH_5, False, b"GET", False, False, b"200 OK|content-length: 5|connection: keep-alive||", 5, False),
    (200, LENGTH_5, True, b"HEAD", True, False, b"200 OK|content-length: 5||", BODILESS, False),
    (200, [], False, b"HEAD", True, False, b"200 OK||", BODILESS, False),
    (204, LENGTH_5, False, b"GET", True, False, b"204 No Content||", BODILESS, False),
    (304, LENGTH_5, True, b"GET", True, False, b"304 Not Modified|content-length: 5||", BODILESS, False),
    (599, [], True, b"GET", True, False, b"599 |content-length: 0||", 0, False),
    (200, LENGTH_5, False, b"CONNECT", True, False, b"200 OK||", TUNNEL, False),
    (502, [], True, b"CONNECT", True, True, b"502 Bad Gateway|content-length: 0|connection: close||", 0, True),
]  # fmt: skip


@pytest.mark.parametrize("case", RESPONSES, ids=[f"{case[3].decode()} {case[6].decode()}" for case in RESPONSES])
def test_a_response_is_framed_by_us(case):
    """The framing follows the request's method and version, the status, and content-length, in that order."""
    status, fields, end, method, modern, close, raw, framing, closes = case
    found = write_response(Head.response(status, fields), end, method, modern, close)
    assert found == (b"HTTP/1.1 " + raw.replace(b"|", b"\r\n"), framing, closes)


def test_a_response_that_cannot_be_framed_is_not_written():
    """An end without the body that was declared, and a value that ends a line, are both refused."""
    for head in (
        Head.response(200, [(b"content-length", b"5")]),
        Head.response(200, [(b"a", b"b\r\n\r\nHTTP/1.1 200 OK")]),
        Head.response(101),
        Head.response(1000),
        Head.response(100),
    ):
        with pytest.raises(UnsendableHead):
            write_response(head, True, b"GET", True, False)


def test_informational_responses_have_no_framing():
    """RFC 9110 section 15.2: a 1xx response ends with its head."""
    assert write_informational(Head.response(100)) == b"HTTP/1.1 100 Continue\r\n\r\n"
    hints = Head.response(103, [(b"link", b"</a>"), (b"content-length", b"1")])
    assert write_informational(hints) == b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    for status in (101, 200):
        with pytest.raises(UnsendableHead):
            write_informational(Head.response(status))


def test_a_refusal_closes():
    """Whoever is refused learns why and that no more will be read."""
    head, _, body = write_refusal(Malformed("header_bytes", "the head exceeds 64 bytes", 431)).partition(b"\r\n\r\n")
    assert body == b"request refused: the head exceeds 64 bytes\n"
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 431 Request Header Fields Too Large",
        b"content-type: text/plain; charset=utf-8",
        b"content-length: %d" % len(body),
        b"conduit-error: header_bytes",
        b"connection: close",
    ]


def test_trailers_carry_nothing_that_frames():
    """What may not stand in trailers is left out; what would end a line is refused."""
    fields = ((b"grpc-status", b"0"), (b"content-length", b"1"), (b"host", b"x"))
    assert write_trailers(fields) == b"0\r\ngrpc-status: 0\r\n\r\n"
    with pytest.raises(UnsendableHead):
        write_trailers(((b"a", b"b\r\n\r\nGET / HTTP/1.1"),))
