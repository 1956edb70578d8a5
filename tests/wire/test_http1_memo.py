"""What is remembered of HTTP/1.1 heads must be what would have been found out afresh."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.wire import http1_memo
from mesh.wire.head import Head
from mesh.wire.http1_head import Malformed, parse_request, parse_response
from mesh.wire.http1_memo import read_request, read_response, request_bytes, response_bytes
from mesh.wire.http1_write import write_request, write_response


@pytest.fixture(autouse=True)
def _fresh():
    """Each test begins with an empty memory."""
    http1_memo._requests.clear()
    http1_memo._responses.clear()


REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\nAccept: */*",
    b"GET /other?q=1 HTTP/1.1\r\nHost: a\r\nAccept: */*",
    b"POST /form HTTP/1.1\r\nHost: a:8080\r\nContent-Length: 5\r\nX-Y: z",
    b"POST /form HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket",
    b"GET / HTTP/1.0\r\nHost: a",
    b"OPTIONS * HTTP/1.1\r\nHost: a",
    b"GET http://a/abs HTTP/1.1\r\nHost: a",
    b"CONNECT a:80 HTTP/1.1\r\nHost: a:80",
    b"HEAD /h HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: x",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9",
    b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0",
    b"HTTP/1.1 100 Continue",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1",
]


@pytest.mark.parametrize("raw", REQUESTS)
def test_a_request_is_read_the_second_time_as_the_first(raw):
    """Whether it was remembered or not, the parser's answer is given."""
    for _ in range(3):
        assert read_request(raw, 100) == parse_request(raw, 100)


@pytest.mark.parametrize("raw", RESPONSES)
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
def test_a_response_is_read_the_second_time_as_the_first(raw, method):
    """The framing, which the request's method decides as well, does not come from another request's memory."""
    for _ in range(3):
        assert read_response(raw, 100, method, b"") == parse_response(raw, 100, method, b"")


@pytest.mark.parametrize("raw", REQUESTS[:3] + REQUESTS[-1:])
def test_a_request_is_written_the_second_time_as_the_first(raw):
    """What is sent of a remembered head equals what is sent of a fresh one, with a body to come or without."""
    fresh = parse_request(raw, 100)[0]
    for end in (False, True, False):
        for _ in range(2):
            if end and fresh.get(b"content-length"):
                continue
            assert request_bytes(read_request(raw, 100)[0], end) == write_request(fresh, end)


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_response_is_written_the_second_time_as_the_first(modern, close, method):
    """Each combination of what decides about the framing has a memory of its own."""
    raw = RESPONSES[0]
    fresh = parse_response(raw, 100, b"GET", b"")[0]
    for _ in range(3):
        found = response_bytes(read_response(raw, 100, b"GET", b"")[0], False, method, modern, close)
        assert found == write_response(fresh, False, method, modern, close)


def test_an_edited_head_is_written_afresh():
    """An edit shows on the wire, and does not spoil what is remembered."""
    raw = REQUESTS[0]
    read_request(raw, 100)
    head = read_request(raw, 100)[0]
    request_bytes(head, True)
    head.set(b"accept", b"text/plain")
    assert b"accept: text/plain" in request_bytes(head, True)[0]
    assert b"accept: */*" in request_bytes(read_request(raw, 100)[0], True)[0]


def test_secrets_are_not_remembered():
    """A block with credentials or cookies leaves no trace."""
    read_request(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer s3cret", 100)
    read_request(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: sid=s3cret", 100)
    read_response(b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=s3cret\r\nContent-Length: 0", 100, b"GET", b"")
    assert not http1_memo._requests
    assert not http1_memo._responses


def test_the_memory_is_bounded():
    """Neither a flood of different heads nor one long head makes it grow."""
    for number in range(3 * http1_memo.ENTRIES):
        read_request(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: %d" % number, 100)
        read_response(b"HTTP/1.1 200 OK\r\nContent-Length: %d" % number, 100, b"GET", b"")
    assert len(http1_memo._requests) <= http1_memo.ENTRIES
    assert len(http1_memo._responses) <= http1_memo.ENTRIES
    http1_memo._requests.clear()
    read_request(b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * http1_memo.LENGTH, 100)
    assert not http1_memo._requests


@given(st.sampled_from(REQUESTS), st.binary(max_size=40), st.integers(0, 60))
def test_nothing_malformed_gets_by(raw, noise, position):
    """A known block does not excuse a request line, nor does a known line excuse a block."""
    read_request(raw, 100)
    spoilt = raw[:position] + noise + raw[position:]
    assert outcome(read_request, spoilt) == outcome(parse_request, spoilt)


def outcome(read, raw):
    """What a reader makes of a head: its answer, or the reason of its refusal."""
    try:
        return read(raw, 100)
    except Malformed as refused:
        return refused.reason


def test_a_head_of_our_own_making_is_written_by_the_writer():
    """Only what was read is remembered."""
    head = Head.request(b"GET", b"/", authority=b"a")
    assert request_bytes(head, True) == write_request(head, True)
