"""One HTTP/1.1 connection as a machine: playbooks of bytes, events and commands, in both roles."""

import pytest

from mesh.model.limits import Limits
from mesh.wire.codec import (
    CANCEL,
    PROTOCOL_ERROR,
    Broken,
    Data,
    Informational,
    Request,
    Reset,
    Response,
    Role,
    Trailers,
)
from mesh.wire.head import Head
from mesh.wire.http1 import Http1, UnsendableHead

LIMITS = Limits()
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def server(**limits) -> Http1:
    """The side that answers."""
    return Http1(Role.SERVER, Limits(**limits))


def client(**limits) -> Http1:
    """The side that asks."""
    return Http1(Role.CLIENT, Limits(**limits))


def asked(
    method: bytes = b"GET", *, end: bool = True, fields=(), upgrade: bytes = b"", authority: bytes = b"a"
) -> Http1:
    """A client whose request has gone out."""
    codec = client()
    codec.send_request(Head.request(method, b"/", authority=authority, fields=fields, upgrade=upgrade), end)
    codec.take()
    return codec


def kinds(events) -> list[str]:
    """The events' names, with `+` for those that end a direction."""
    return [type(event).__name__ + ("+" if getattr(event, "end", False) else "") for event in events]


# --- server: exchanges one after another -----------------------------------------------


def test_requests_on_one_connection_are_numbered_like_http2_streams():
    """Each request waits for the answer before it, and the connection persists between them."""
    codec = server()
    for stream in (1, 3, 5):
        [request] = codec.receive(GET)
        assert (request.stream, request.end, request.head.authority) == (stream, True, b"a")
        assert codec.active == 1
        codec.send_response(stream, Head.response(204), True)
        assert codec.take() == b"HTTP/1.1 204 No Content\r\n\r\n"
        assert (codec.active, codec.finished) == (0, False)


def test_pipelined_requests_come_one_at_a_time():
    """A request is shown when all of the response before it is queued, not before."""
    codec = server()
    assert kinds(codec.receive(GET + GET + GET)) == ["Request+"]
    assert codec.receive(b"") == []
    codec.send_response(1, Head.response(200), False)
    assert codec.receive(b"") == []
    codec.send_data(1, b"x", True)
    [second] = codec.receive(b"")
    assert second.stream == 3
    codec.send_response(3, Head.response(200), True)
    assert [event.stream for event in codec.receive(b"")] == [5]
    assert codec.receive(b"") == []


def test_pipelined_bodies_stay_apart():
    """Bytes after a body, however it is framed, are the next request's."""
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    sized = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    codec = server()
    events = codec.receive((chunked + sized) * 3 + GET)
    for stream in range(1, 13, 2):
        assert kinds(events) == ["Request", "Data+"]
        assert events[1] == Data(stream, b"abc", True)
        codec.send_response(stream, Head.response(204), True)
        events = codec.receive(b"")
    assert kinds(events) == ["Request+"]


def test_what_is_pipelined_is_bounded():
    """Beyond its bound the connection is not read until requests have been answered."""
    codec = server(buffer_bytes=100)
    codec.receive(GET)
    assert codec.wants_read
    codec.receive(GET * 5)
    assert not codec.wants_read
    for stream in (1, 3, 5):
        codec.send_response(stream, Head.response(204), True)
        codec.receive(b"")
    assert codec.wants_read


@pytest.mark.parametrize(
    ("raw", "keeps"),
    [
        (GET, True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n", False),
    ],
)
def test_who_keeps_the_connection(raw, keeps):
    """RFC 9112 section 9.3, and the response says which it is."""
    codec = server()
    codec.receive(raw + GET)
    codec.send_response(1, Head.response(200, [(b"content-length", b"2")]), False)
    codec.send_data(1, b"ok", True)
    written = codec.take()
    assert (b"connection: close" in written) is not keeps
    assert (b"connection: keep-alive" in written) == (keeps and b"1.0" in raw)
    assert codec.finished is not keeps
    assert kinds(codec.receive(b"")) == (["Request+"] if keeps else [])


def test_http10_has_its_body_until_close_and_no_1xx():
    """A client of HTTP/1.0 knows neither chunks nor informational responses."""
    codec = server()
    codec.receive(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
    codec.send_informational(1, Head.response(103))
    codec.send_response(1, Head.response(200), False)
    codec.send_data(1, b"body", False)
    codec.send_trailers(1, ((b"a", b"b"),))
    assert codec.take() == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbody"
    assert codec.finished


def test_one_empty_line_before_a_request_is_forgiven():
    """RFC 9112 section 2.2; two are not, wherever the bytes were split."""
    for cut in range(5):
        codec = server()
        raw = b"\r\n" + GET
        assert kinds(codec.receive(raw[:cut]) + codec.receive(raw[cut:])) == ["Request+"]
        codec = server()
        raw = b"\r\n\r\n" + GET
        assert kinds(codec.receive(raw[:cut]) + codec.receive(raw[cut:])) == ["Broken"]


# --- server: bodies --------------------------------------------------------------------


def test_a_chunked_response_with_trailers_goes_to_who_takes_them():
    """RFC 9110 section 6.5.1: trailers only where the client said that it takes them."""
    for te, tail in ((b"TE: trailers\r\n", b"0\r\nx: y\r\n\r\n"), (b"", b"0\r\n\r\n")):
        codec = server()
        codec.receive(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % te)
        codec.send_response(1, Head.response(200), False)
        codec.send_data(1, b"hello world", False)
        codec.send_data(1, b"", False)
        codec.send_trailers(1, ((b"x", b"y"),))
        assert codec.take() == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\nhello world\r\n" + tail
        assert not codec.finished


def test_trailers_that_cannot_be_sent_leave_the_body_open():
    """The caller can still end the body without them."""
    codec = server()
    codec.receive(b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n")
    codec.send_response(1, Head.response(200), False)
    with pytest.raises(UnsendableHead):
        codec.send_trailers(1, ((b"x", b"\r\n"),))
    codec.send_data(1, b"", True)
    assert codec.take().endswith(b"\r\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
def test_a_response_without_a_body_has_none(status):
    """What its source sends as a body nonetheless would be read as the next response."""
    codec = server()
    codec.receive(GET)
    codec.send_response(1, Head.response(status), False)
    codec.send_data(1, b"HTTP/1.1 200 OK\r\n\r\n", False)
    codec.send_data(1, b"x", True)
    assert codec.take().endswith(b"\r\n\r\n")
    assert (codec.active, codec.finished, codec.queued(0)) == (0, False, 0)


def test_head_is_answered_with_the_length_and_no_body():
    """The length that a GET would have had is told, and nothing follows."""
    codec = server()
    codec.receive(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    codec.send_response(1, Head.response(200, [(b"content-length", b"5")]), False)
    codec.send_data(1, b"hello", True)
    assert codec.take() == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    assert kinds(codec.receive(GET)) == ["Request+"]


@pytest.mark.parametrize("sent", [[b"hell", None], [b"hello!"], [b"hel", b"lo!"], [b"", None]])
def test_a_body_of_another_length_than_declared_is_cut(sent):
    """The client must not take a short body for whole, nor what is too much for another response."""
    codec = server()
    codec.receive(GET)
    codec.send_response(1, Head.response(200, [(b"content-length", b"5")]), False)
    for data in sent:
        codec.send_data(1, data or b"", data is None)
    assert len(codec.take().partition(b"\r\n\r\n")[2]) < 5
    assert codec.finished
    assert codec.aborted
    assert kinds(codec.receive(b"")) == ["Reset", "Broken"]


def test_a_request_with_a_declared_length_of_zero_takes_no_data():
    """Declared emptiness is a length like others."""
    codec = server()
    codec.receive(GET)
    codec.send_response(1, Head.response(200, [(b"content-length", b"0")]), False)
    codec.send_data(1, b"HTTP/1.1 200 OK\r\n\r\n", True)
    assert codec.take() == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    assert codec.finished


def test_reading_pauses_while_data_is_not_acknowledged():
    """Back pressure on HTTP/1.1 is not reading."""
    codec = server(stream_buffer_bytes=10)
    codec.receive(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + b"x" * 9)
    assert codec.wants_read
    codec.receive(b"x" * 4)
    assert not codec.wants_read
    codec.acknowledge(1, 4)
    assert codec.wants_read
    codec.acknowledge(3, 100)
    codec.receive(b"x")
    assert not codec.wants_read


def test_queued_counts_bodies_until_they_are_taken():
    """What a slow peer holds back is known, without heads and chunk sizes."""
    codec = server()
    codec.receive(GET)
    codec.send_response(1, Head.response(200), False)
    codec.send_data(1, b"x" * 100, False)
    codec.send_data(1, b"x" * 100, False)
    assert (codec.queued(1), codec.queued(0)) == (200, 200)
    codec.take()
    assert codec.queued(1) == 0
    assert codec.take() == b""


def test_100_continue_goes_both_ways():
    """The expectation is a field for the upstream, whose 100 comes before its final response."""
    codec = server()
    [request] = codec.receive(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert request.head.get(b"expect") == b"100-continue"
    upstream = client()
    upstream.send_request(request.head, False)
    assert b"expect: 100-continue" in upstream.take()
    [go_on] = upstream.receive(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert isinstance(go_on, Informational)
    codec.send_informational(1, go_on.head)
    assert codec.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert codec.receive(b"ok") == [Data(1, b"ok", True)]
    upstream.send_data(1, b"ok", True)
    assert kinds(upstream.receive(OK)) == ["Response", "Data+"]


# --- server: refusals ------------------------------------------------------------------

HOST = b"Host: a\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
SMUGGLING = [
    # raw, status of the answer, reason
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-encoding: x\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\n chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 44\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 0\r\n\r\n", 400),
    (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    (b"GET /\r\n", 400),
    (b"GET / HTTP/0.9\r\n\r\n", 505),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 100 + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"y" * 65536 + b"\r\n\r\n", 431),
    (b"\n" + GET, 400),
    (b"\r" + GET, 400),
    (b" " + GET, 400),
]


@pytest.mark.parametrize("step", [10**6, 7, 1], ids=["whole", "sevens", "bytewise"])
@pytest.mark.parametrize("case", SMUGGLING, ids=[f"{n}-{case[0][:70]!r}" for n, case in enumerate(SMUGGLING)])
def test_nothing_is_seen_after_a_refusal(case, step):
    """A doubtful head is answered and ends the connection: neither it nor what follows is shown, however it comes."""
    raw, status = case
    if step == 1 and len(raw) > 10_000:
        step = 100
    codec = server()
    stream = raw + SMUGGLED + SMUGGLED
    events = []
    for position in range(0, len(stream), step):
        events += codec.receive(stream[position : position + step])
    assert kinds(events) == ["Broken"]
    answer = codec.take()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in answer
    assert codec.finished
    assert codec.receive(SMUGGLED) == []
    assert codec.receive_eof() == []
    assert codec.take() == b""


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhelloo0\r\n\r\n",
        b"1;" + b"x" * 5000 + b"\r\na\r\n0\r\n\r\n",
        b"0\r\nHost: b\r\n\r\n",
        b"0\r\nAuthorization: b\r\n\r\n",
        b"0\r\n" + b"a: b\r\n" * 101 + b"\r\n",
        b"0\r\na: " + b"b" * 70000 + b"\r\n\r\n",
    ],
    ids=lambda body: repr(body[:30]),
)
@pytest.mark.parametrize("step", [10**6, 5])
def test_a_bad_chunked_body_ends_its_stream_and_the_connection(body, step):
    """The request was shown already, so it is reset; nothing after the bad chunk is read."""
    codec = server()
    [request] = codec.receive(CHUNKED)
    assert not request.end
    events = []
    stream = body + SMUGGLED
    for position in range(0, len(stream), step):
        events += codec.receive(stream[position : position + step])
    assert [kind for kind in kinds(events) if kind != "Data"] == ["Reset", "Broken"]
    assert events[-2].code == PROTOCOL_ERROR
    assert events[-2].reason == events[-1].reason
    assert codec.take().startswith(b"HTTP/1.1 4")
    assert codec.finished
    codec.send_response(1, Head.response(200), True)
    codec.send_data(1, b"x", True)
    assert codec.take() == b""


def test_a_bad_chunk_in_mid_response_cuts_the_response():
    """What has begun as a response cannot become another; the connection just ends."""
    codec = server()
    codec.receive(CHUNKED)
    codec.send_response(1, Head.response(200), False)
    codec.take()
    assert kinds(codec.receive(b"x")) == ["Reset", "Broken"]
    assert codec.take() == b""
    assert codec.finished
    assert codec.aborted


def test_a_dribbled_head_costs_no_more_than_its_bytes():
    """The head is searched once, however small the pieces: the work done is counted in bytes that are looked at."""
    codec = server()
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 60000 + b"\r\n\r\n"
    for position in range(len(raw) - 1):
        assert codec.receive(raw[position : position + 1]) == []
        assert codec._scanned >= position - 2
    assert codec.awaits_head
    assert kinds(codec.receive(raw[-1:])) == ["Request+"]
    assert not codec.awaits_head


def test_a_head_has_a_deadline():
    """Seconds count from the first tick that sees the head's beginning; each head has its own."""
    codec = server(header_timeout=10.0)
    codec.receive(GET[:5])
    assert [codec.tick(now) for now in (100.0, 105.0, 110.0, 111.0)] == [False, False, False, True]
    codec = server(header_timeout=10.0)
    codec.receive(GET[:5])
    for now in range(100, 150, 5):
        assert not codec.tick(now)
        [request] = codec.receive(GET[5:] + GET[:5])
        codec.send_response(request.stream, Head.response(204), True)
        assert codec.receive(b"") == []


def test_the_rest_of_an_answered_request_has_a_deadline():
    """As long as a head; then the connection is over, without anybody having done wrong."""
    codec = server(header_timeout=10.0)
    [request] = codec.receive(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
    codec.send_response(request.stream, Head.response(408), True)
    codec.take()
    assert not codec.finished
    assert [codec.tick(now) for now in (100.0, 105.0, 110.0)] == [False] * 3
    assert not codec.finished
    assert not codec.tick(111.0)
    assert codec.finished


def test_due_says_when_to_ask_for_more():
    """Only what waited behind the exchange that has just ended is due, not the beginning of a head."""
    codec = server()
    assert not codec.due
    codec.receive(GET + GET + GET[:9])
    assert not codec.due
    codec.send_response(1, Head.response(204), True)
    assert (codec.due, codec.wants_write) == (True, True)
    codec.take()
    assert kinds(codec.receive(b"")) == ["Request+"]
    codec.send_response(3, Head.response(204), True)
    assert codec.due
    assert codec.receive(b"") == []
    assert not codec.due
    codec.take()
    assert not codec.wants_write


# --- server: ends ----------------------------------------------------------------------


def test_a_client_that_goes_away():
    """Between exchanges that is an end; in a head, in a body, or before its answer it is somebody's trouble."""
    codec = server()
    assert codec.receive_eof() == []
    assert codec.finished
    for sent, expected in (
        (b"GET / HT", ["Broken"]),
        (GET, ["Reset", "Broken"]),
        (CHUNKED + b"5\r\nhe", ["Reset", "Broken"]),
    ):
        codec = server()
        codec.receive(sent)
        events = codec.receive_eof()
        assert kinds(events) == expected
        assert codec.finished
        if len(events) == 2:
            assert (events[0].code, events[0].unprocessed) == (CANCEL, False)


def test_an_early_answer_ends_the_connection_after_the_rest_of_the_request():
    """A short rest is taken in and dropped, so that closing does not destroy the answer."""
    codec = server()
    codec.receive(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
    codec.send_response(1, Head.response(413), True)
    assert b"connection: close" in codec.take()
    assert (codec.active, codec.finished, codec.half_close) == (0, False, True)
    assert codec.receive(b"x" * 60) == []
    assert not codec.finished
    assert codec.receive(b"x" * 40) == []
    assert codec.finished
    assert codec.receive(SMUGGLED) == []


@pytest.mark.parametrize("head", [CHUNKED, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"])
def test_a_long_rest_of_a_request_is_not_waited_for(head):
    """Dropping is bounded; so is waiting, by the peer's end."""
    codec = server(stream_buffer_bytes=1000)
    codec.receive(head)
    codec.send_response(1, Head.response(413), True)
    codec.receive(b"x" * 999)
    assert not codec.finished
    codec.receive(b"x")
    assert codec.finished
    codec = server()
    codec.receive(head)
    codec.send_response(1, Head.response(413), True)
    assert codec.receive_eof() == []
    assert codec.finished


def test_a_response_that_streams_while_its_request_does_ends_the_connection_cleanly():
    """Both sides may talk at once; the next request then needs another connection."""
    codec = server()
    codec.receive(CHUNKED)
    codec.send_response(1, Head.response(200), False)
    assert b"connection: close" in codec.take()
    assert kinds(codec.receive(b"1\r\na\r\n")) == ["Data"]
    codec.send_data(1, b"a", False)
    assert kinds(codec.receive(b"0\r\n\r\n")) == ["Data+"]
    codec.send_data(1, b"", True)
    assert codec.take() == b"1\r\na\r\n0\r\n\r\n"
    assert codec.finished


def test_reset_ends_the_connection_without_the_last_chunk():
    """The client can tell the cut from an end."""
    codec = server()
    codec.receive(GET)
    codec.send_response(1, Head.response(200), False)
    codec.send_data(1, b"x", False)
    codec.reset(1, CANCEL)
    assert codec.take().endswith(b"1\r\nx\r\n")
    assert (codec.finished, codec.aborted, codec.active) == (True, True, 0)
    codec = server()
    codec.receive(GET)
    codec.reset(1, CANCEL)
    assert (codec.finished, codec.aborted, codec.take()) == (True, False, b"")


def test_commands_for_a_stream_that_is_gone_do_nothing():
    """Late commands meet the next exchange, and must not touch it."""
    codec = server()
    codec.receive(GET)
    codec.send_response(1, Head.response(204), True)
    codec.receive(GET)
    codec.take()
    codec.send_informational(1, Head.response(103))
    codec.send_response(1, Head.response(200), False)
    codec.send_data(1, b"x", True)
    codec.send_trailers(1, ())
    codec.reset(1, CANCEL)
    codec.acknowledge(1, 5)
    assert (codec.take(), codec.active, codec.finished) == (b"", 1, False)


def test_shutdown_ends_after_the_response():
    """An idle one ends when that is final; a busy one says close and ends after its answer, whatever is pipelined."""
    codec = server()
    codec.shutdown(False)
    assert not codec.finished
    codec.shutdown(True)
    assert codec.finished
    codec = server()
    codec.shutdown(False)
    codec.receive(GET)
    codec.send_response(1, Head.response(200), True)
    assert b"connection: close" in codec.take()
    assert codec.finished
    codec = server()
    codec.receive(GET + GET)
    codec.shutdown(False)
    assert not codec.finished
    codec.send_response(1, Head.response(200), True)
    assert b"connection: close" in codec.take()
    assert codec.finished
    assert codec.receive(b"") == []
    codec = server()
    codec.receive(GET)
    codec.send_response(1, Head.response(200), False)
    codec.shutdown(True)
    codec.send_data(1, b"", True)
    assert codec.finished
    codec = server()
    codec.receive(GET[:5])
    codec.shutdown(False)
    assert kinds(codec.receive(GET[5:])) == ["Request+"]
    assert not codec.finished


# --- client ----------------------------------------------------------------------------


def test_a_connection_is_used_again_when_both_messages_are_whole():
    """One request at a time; `can_open` says when."""
    codec = client()
    assert codec.can_open
    for stream in (1, 3):
        assert codec.send_request(Head.request(b"GET", b"/", authority=b"a"), True) == stream
        assert (codec.can_open, codec.active) == (False, 1)
        assert codec.take() == b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
        response, data = codec.receive(OK)
        assert (response.stream, response.head.status, response.end) == (stream, 200, False)
        assert data == Data(stream, b"ok", True)
        assert (codec.can_open, codec.active, codec.finished) == (True, 0, False)


FINALS = [
    # request's method, bytes, events, used again
    (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ["Response+"], True),
    (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", ["Response+"], False),
    (b"GET", b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", ["Response+"], False),
    (b"GET", b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", ["Response+"], True),
    (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", ["Response+"], True),
    (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ["Response+", "Broken"], False),
    (b"GET", b"HTTP/1.1 204 No\r\n\r\n", ["Response+"], True),
    (b"GET", b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", ["Response+"], False),
    (b"GET", b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello", ["Response+"], False),
    (b"GET", b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", ["Response+"], True),
    (b"GET", b"HTTP/1.1 103 x\r\n\r\nHTTP/1.1 100 x\r\n\r\n" + OK, ["Informational"] * 2 + ["Response", "Data+"], True),
    (b"GET", OK + b"H", ["Response", "Data+", "Broken"], False),
    (b"GET", OK + OK, ["Response", "Data+", "Broken"], False),
    (b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", ["Response", "Data+"], True),
    (
        b"GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n",
        ["Response", "Data", "Trailers"],
        True,
    ),
]


@pytest.mark.parametrize("case", FINALS, ids=[f"{case[0].decode()} {case[1]!r}" for case in FINALS])
def test_how_a_response_ends(case):
    """Framing follows the request; a connection with a doubt is not used again."""
    method, raw, expected, again = case
    codec = asked(method)
    assert kinds(codec.receive(raw)) == expected
    assert codec.can_open is again
    assert codec.finished is not again
    assert codec.active == 0


def test_a_response_without_framing_ends_with_the_connection():
    """Not before, and then it is whole."""
    codec = asked()
    assert kinds(codec.receive(b"HTTP/1.1 200 OK\r\n\r\nbo")) == ["Response", "Data"]
    assert codec.receive(b"dy") == [Data(1, b"dy", False)]
    assert codec.receive_eof() == [Data(1, b"", True)]
    assert (codec.finished, codec.can_open, codec.active) == (True, False, 0)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 65536 + b"\r\n\r\n",
        b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"<html>\r\n\r\n",
    ],
    ids=lambda raw: repr(raw[:60]),
)
@pytest.mark.parametrize("step", [10**6, 1])
def test_a_doubtful_response_is_never_shown(raw, step):
    """An upstream's doubtful response ends its stream and its connection."""
    codec = asked()
    events = []
    for position in range(0, len(raw), step):
        events += codec.receive(raw[position : position + step])
    assert kinds(events) == ["Reset", "Broken"]
    assert (events[0].stream, events[0].unprocessed) == (1, False)
    assert (codec.finished, codec.can_open, codec.take()) == (True, False, b"")


def test_informational_responses_are_bounded():
    """An upstream cannot send heads for ever instead of an answer."""
    codec = asked()
    events = codec.receive(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
    assert kinds(events) == ["Informational"] * 32 + ["Reset", "Broken"]


def test_an_upstream_that_speaks_unasked_is_not_asked():
    """A response before its request is somebody else's."""
    codec = client()
    assert kinds(codec.receive(OK)) == ["Broken"]
    assert not codec.can_open


def test_an_upstream_that_goes_away():
    """Idle that is nothing; with a request that never left, it certainly did nothing with it."""
    codec = client()
    assert codec.receive_eof() == []
    assert (codec.finished, codec.can_open) == (True, False)
    codec = asked()
    [reset, broken] = codec.receive_eof()
    assert isinstance(reset, Reset)
    assert isinstance(broken, Broken)
    assert not reset.unprocessed
    codec = client()
    codec.send_request(Head.request(b"GET", b"/", authority=b"a"), True)
    assert codec.receive_eof()[0].unprocessed
    codec = asked()
    codec.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
    assert kinds(codec.receive_eof()) == ["Reset", "Broken"]


def test_an_answer_before_the_request_has_ended():
    """With close it is the end; without, the rest may be sent and the connection used again."""
    codec = asked(b"POST", end=False)
    assert kinds(codec.receive(b"HTTP/1.1 413 x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")) == ["Response+"]
    assert (codec.finished, codec.active) == (True, 0)
    codec.send_data(1, b"x", True)
    assert codec.take() == b""
    codec = asked(b"POST", end=False)
    codec.receive(OK)
    assert (codec.can_open, codec.active) == (False, 1)
    codec.send_data(1, b"x", True)
    assert codec.take() == b"1\r\nx\r\n0\r\n\r\n"
    assert (codec.can_open, codec.active) == (True, 0)


def test_requests_are_framed_by_us():
    """A length that was declared is kept to; else the body is chunked, with its trailers."""
    codec = client()
    codec.send_request(Head.request(b"POST", b"/", authority=b"a", fields=[(b"content-length", b"3")]), False)
    codec.send_data(1, b"ab", False)
    codec.send_data(1, b"c", True)
    assert codec.take() == b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"
    codec.receive(OK)
    codec.send_request(Head.request(b"POST", b"/", authority=b"a"), False)
    codec.send_data(3, b"ab", False)
    codec.send_trailers(3, ((b"x", b"y"),))
    assert codec.take().endswith(b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx: y\r\n\r\n")
    codec.receive(OK)
    codec.send_request(Head.request(b"POST", b"/", authority=b"a", fields=[(b"content-length", b"3")]), False)
    codec.send_data(5, b"abcd", True)
    assert not codec.take().endswith(b"d")
    assert kinds(codec.receive(b"")) == ["Reset", "Broken"]


def test_a_request_that_cannot_be_sent_leaves_the_connection_as_it_was():
    """Nothing of it is queued, and another request can be."""
    codec = client()
    with pytest.raises(UnsendableHead):
        codec.send_request(Head.request(b"GET", b"/", authority=b"a", fields=[(b"x", b"\r\n\r\n")]), True)
    assert (codec.can_open, codec.take()) == (True, b"")
    codec.send_request(Head.request(b"GET", b"/", authority=b"a"), True)
    with pytest.raises(RuntimeError):
        codec.send_request(Head.request(b"GET", b"/", authority=b"a"), True)


def test_a_response_that_cannot_be_sent_can_be_replaced():
    """The exchange answers 502 in its stead."""
    codec = server()
    codec.receive(GET)
    with pytest.raises(UnsendableHead):
        codec.send_response(1, Head.response(200, [(b"x", b"\n")]), True)
    codec.send_response(1, Head.response(502), True)
    assert codec.take().startswith(b"HTTP/1.1 502 ")


def test_reset_and_shutdown_of_a_client():
    """Both end the connection, the second after the response."""
    codec = asked()
    codec.reset(1, CANCEL)
    assert (codec.finished, codec.can_open) == (True, False)
    codec = asked()
    codec.shutdown(False)
    assert (codec.finished, codec.can_open) == (False, False)
    codec.receive(OK)
    assert codec.finished
    codec = client()
    codec.shutdown(False)
    assert (codec.finished, codec.can_open) == (False, False)
    codec.shutdown(True)
    assert codec.finished


# --- tunnels ---------------------------------------------------------------------------

UPGRADE = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_an_upgrade_through_both_codecs():
    """Head, answer and raw bytes pass both ways, and each direction ends by itself."""
    near, far = server(), client()
    [request] = near.receive(UPGRADE)
    assert (request.head.upgrade, request.end) == (b"websocket", True)
    far.send_request(request.head, True)
    assert far.take().endswith(b"sec-websocket-key: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    response, first = far.receive(SWITCH + b"\x81\x00")
    assert (response.head.status, response.head.upgrade, response.end) == (101, b"websocket", False)
    near.send_response(1, response.head, False)
    near.send_data(1, first.data, False)
    assert near.take() == (
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\x81\x00"
    )
    assert near.receive(b"GET / HTTP/1.1\r\n\r\n") == [Data(1, b"GET / HTTP/1.1\r\n\r\n", False)]
    far.send_data(1, b"raw", False)
    assert far.take() == b"raw"
    assert near.receive_eof() == [Data(1, b"", True)]
    far.send_data(1, b"", True)
    assert (far.half_close, far.finished, near.finished) == (True, False, False)
    assert far.receive(b"late") == [Data(1, b"late", False)]
    assert far.receive_eof() == [Data(1, b"", True)]
    assert far.finished
    near.send_data(1, b"late", True)
    assert (near.take(), near.finished, near.active) == (b"late", True, 0)


def test_bytes_behind_an_upgrade_wait_for_its_answer():
    """They are a tunnel's if the answer is 101, else the next request."""
    codec = server()
    assert kinds(codec.receive(UPGRADE + b"raw")) == ["Request+"]
    codec.send_response(1, Head.response(101, upgrade=b"websocket"), False)
    assert codec.receive(b"") == [Data(1, b"raw", False)]
    codec = server()
    codec.receive(UPGRADE + GET)
    codec.send_response(1, Head.response(200), True)
    assert kinds(codec.receive(b"")) == ["Request+"]


def test_an_upgrade_that_nobody_asked_for_is_not_agreed_to():
    """Nor one in the middle of a request."""
    codec = server()
    codec.receive(GET)
    with pytest.raises(UnsendableHead):
        codec.send_response(1, Head.response(101, upgrade=b"websocket"), False)
    codec = asked(b"POST", end=False, upgrade=b"websocket")
    assert kinds(codec.receive(SWITCH)) == ["Reset", "Broken"]


def test_connect_is_a_tunnel_when_the_answer_says_so():
    """What the client says early waits for the answer, and is then raw."""
    near, far = server(), client()
    [request] = near.receive(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nearly")
    assert (request.head.method, request.head.authority, request.end) == (b"CONNECT", b"a:443", False)
    far.send_request(request.head, False)
    far.send_data(1, b"ear", False)
    assert far.queued(1) == 3
    far.send_data(1, b"ly", False)
    assert far.take() == b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n"
    [response] = far.receive(b"HTTP/1.1 200 OK\r\n\r\n")
    assert (response.head.status, response.end) == (200, False)
    assert far.take() == b"early"
    near.send_response(1, response.head, False)
    assert near.take() == b"HTTP/1.1 200 OK\r\n\r\n"
    assert near.receive(b"") == [Data(1, b"early", False)]


def test_connect_refused_ends_the_connection():
    """Bytes meant for the tunnel must never be read as a request."""
    codec = server()
    codec.receive(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n" + SMUGGLED)
    codec.send_response(1, Head.response(502), True)
    assert b"connection: close" in codec.take()
    assert codec.finished
    assert codec.receive(b"") == []


def test_detach_hands_over_the_raw_rest():
    """Whoever takes the connection over gets every byte once, and the socket stays open."""
    codec = server()
    codec.receive(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n\x16\x03")
    codec.send_response(1, Head.response(200), False)
    assert codec.detach() == b"\x16\x03"
    assert codec.take() == b"HTTP/1.1 200 OK\r\n\r\n"
    assert (codec.finished, codec.active) == (False, 0)
    assert codec.receive(b"x") == []


def test_a_tunnel_cut_is_a_reset():
    """Its user can tell a peer that a tunnel broke from a peer that ended it."""
    codec = server()
    codec.receive(UPGRADE)
    codec.send_response(1, Head.response(101, upgrade=b"websocket"), False)
    codec.reset(1, CANCEL)
    assert (codec.finished, codec.aborted) == (True, True)


def test_its_repr_tells_the_state():
    """A log line is enough to see where a connection is."""
    codec = server()
    codec.receive(CHUNKED)
    assert repr(codec) == "<Http1 server, reading CHUNKS, writing HEAD, stream 1>"
    assert isinstance(codec.receive(b"0\r\nA: b\r\n\r\n")[0], Trailers)
    assert repr(codec) == "<Http1 server, reading WAIT, writing HEAD, stream 1>"
    assert isinstance(asked().receive(OK)[0], Response)
    assert isinstance(server().receive(GET)[0], Request)
