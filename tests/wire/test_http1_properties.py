"""HTTP/1.1 under any split, any bytes, and another implementation's eyes (h11 is the oracle)."""

import re
from itertools import pairwise

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.limits import Limits
from mesh.wire.codec import Broken, Data, Event, Informational, Request, Reset, Response, Role, Trailers
from mesh.wire.head import Head
from mesh.wire.http1 import Http1

LIMITS = Limits()
EXAMPLES = settings(max_examples=100, deadline=None)

names = st.from_regex(rb"x-[a-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True)
values = st.from_regex(rb"([!-~\x80-\xff]([ -~\t]{0,20}[!-~])?)?", fullmatch=True)
fields = st.lists(st.tuples(names, values), max_size=6)
paths = st.from_regex(rb"/[!\"$-~]{0,30}", fullmatch=True)
bodies = st.none() | st.lists(st.binary(max_size=40), max_size=4)
authorities = st.sampled_from([b"a", b"votes.demo:8080", b"[::1]:80"])


@st.composite
def requests(draw):
    """A request as (method, path, authority, fields, body pieces or None, sized, trailers)."""
    body = draw(bodies)
    return (
        draw(st.sampled_from([b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"])),
        draw(paths),
        draw(authorities),
        draw(fields),
        body,
        draw(st.booleans()),
        draw(st.lists(st.tuples(names, values), max_size=2)),
    )


@st.composite
def responses(draw):
    """A response as (status, fields, body pieces, sized, trailers)."""
    return (
        draw(st.sampled_from([200, 201, 404, 500, 599])),
        draw(fields),
        draw(st.lists(st.binary(max_size=40), max_size=4)),
        draw(st.booleans()),
        draw(st.lists(st.tuples(names, values), max_size=2)),
    )


def send_request(codec: Http1, message) -> int:
    """Write a request with our client."""
    method, path, authority, extra, body, sized, trailers = message
    extra = list(extra)
    if body is not None and sized:
        extra.append((b"content-length", b"%d" % len(b"".join(body))))
    head = Head.request(method, path, authority=authority, fields=extra)
    stream = codec.send_request(head, body is None)
    if body is not None:
        send_body(codec, stream, body, sized, trailers)
    return stream


def send_body(codec: Http1, stream: int, body, sized: bool, trailers) -> None:
    """Write a body, and trailers where they have a place."""
    for piece in body:
        codec.send_data(stream, piece, False)
    if trailers and not sized:
        codec.send_trailers(stream, tuple(trailers))
    else:
        codec.send_data(stream, b"", True)


def joined(events: list[Event]) -> list[object]:
    """The events with bodies in one piece, so that only the message counts and not how it came."""
    out: list[object] = []
    body = b""
    for event in events:
        match event:
            case Data():
                body += event.data
                if event.end:
                    out.append(body)
                    body = b""
            case Trailers():
                out += [body, event.fields]
                body = b""
            case Reset():
                body = b""
                out.append(event)
            case _:
                out.append(event)
    return out


def feed(codec: Http1, raw: bytes, cuts: list[int], *, answer: bool) -> list[Event]:
    """Feed `raw` cut at `cuts`; a server answers each request as soon as it is whole."""
    events: list[Event] = []
    bounds = [0, *sorted(cuts), len(raw)]
    for begin, end in pairwise(bounds):
        new = codec.receive(raw[begin:end])
        while new:
            events += new
            last = new[-1]
            if answer and (isinstance(last, Trailers) or getattr(last, "end", False)):
                codec.send_response(last.stream, Head.response(204), True)
                new = codec.receive(b"")
            else:
                new = []
    return events


@EXAMPLES
@given(st.lists(requests(), min_size=1, max_size=3), st.data())
def test_any_split_of_requests_gives_the_same_events(messages, data):
    """How the bytes of a pipeline are cut makes no difference, and our own client wrote every message right."""
    raw = b""
    for message in messages:
        writer = Http1(Role.CLIENT, LIMITS)
        send_request(writer, message)
        raw += writer.take()
    whole = feed(Http1(Role.SERVER, LIMITS), raw, [], answer=True)
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=8))
    split = feed(Http1(Role.SERVER, LIMITS), raw, cuts, answer=True)
    assert joined(split) == joined(whole)
    heads = [event.head for event in whole if isinstance(event, Request)]
    assert [(head.method, head.path, head.authority) for head in heads] == [message[:3] for message in messages]
    for head, message in zip(heads, messages, strict=True):
        assert [field for field in head.block[4:] if field[0] != b"content-length"] == message[3]


@EXAMPLES
@given(responses(), st.data())
def test_any_split_of_a_response_gives_the_same_events(message, data):
    """The same for the other direction, through our own server."""
    status, extra, body, sized, trailers = message
    writer = Http1(Role.SERVER, LIMITS)
    writer.receive(b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n")
    length = [(b"content-length", b"%d" % len(b"".join(body)))] if sized else []
    writer.send_response(1, Head.response(status, [*extra, *length]), False)
    send_body(writer, 1, body, sized, trailers)
    raw = b"HTTP/1.1 103 Early Hints\r\n\r\n" + writer.take()

    results = []
    for cuts in ([], data.draw(st.lists(st.integers(0, len(raw)), max_size=8)), list(range(len(raw)))):
        reader = Http1(Role.CLIENT, LIMITS)
        reader.send_request(Head.request(b"GET", b"/", authority=b"a"), True)
        results.append(joined(feed(reader, raw, cuts, answer=False)))
        assert reader.can_open
    assert results[0] == results[1] == results[2]
    hints, response, *rest = results[0]
    assert isinstance(hints, Informational)
    assert isinstance(response, Response)
    assert response.head == Head.response(status, [*extra, *length])
    if not response.end:
        assert rest == [b"".join(body), *([tuple(trailers)] if trailers and not sized else [])]


PIECES = (
    b"GET", b"POST", b" ", b"/", b"*", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"\r\n", b"\r\n\r\n", b"\n", b"\r",
    b"\0", b"Host: a", b"Host:", b"Content-Length: 5", b"Content-Length: 0", b"Transfer-Encoding: chunked",
    b"chunked", b"5", b"Connection: close", b"Connection: upgrade", b"Upgrade: websocket", b"hello", b"0\r\n\r\n",
    b": ", b"\t", b";x", b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST / HTTP/1.1\r\nHost: a\r\n", b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 101 x\r\n", b"5\r\nhello\r\n", b"0\r\nA: b\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"http://a/", b"#",
)  # fmt: skip
noise = st.lists(st.sampled_from(PIECES) | st.binary(max_size=10), max_size=20)
token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch


def check_head(head: Head) -> None:
    """Hold a head that was shown to what every user of it relies on."""
    for name, value in head.block:
        assert name.startswith(b":") or token(name), name
        assert not set(value) & set(b"\0\r\n"), value
    assert not {name for name, _ in head.block} & {b"host", b"connection", b"transfer-encoding", b"keep-alive"}
    if head.method:
        assert re.fullmatch(rb"[!-~]*", head.path)
        assert head.path.startswith(b"/") or head.path == b"*" or head.method == b"CONNECT"
        assert b"#" not in head.path
        assert len(head.get_all(b":authority")) == (1 if head.authority else 0)
        assert len(head.get_all(b"content-length")) <= 1


@EXAMPLES
@given(noise, st.booleans(), st.booleans())
def test_no_bytes_raise_or_break_the_rules(data, is_server, early):
    """Whatever comes is an event or a refusal; heads are clean, streams end once, and nothing follows `Broken`."""
    codec = Http1(Role.SERVER if is_server else Role.CLIENT, LIMITS)
    if not is_server:
        codec.send_request(Head.request(b"GET", b"/", authority=b"a", upgrade=b"websocket"), True)
    events: list[Event] = []
    for piece in data:
        new = codec.receive(piece)
        events += new
        for event in new:
            if isinstance(event, Request) and (event.end or early):
                codec.send_response(event.stream, Head.response(200), True)
                events += codec.receive(b"")
    events += codec.receive_eof()
    for event in events:
        if isinstance(event, Request | Response | Informational):
            check_head(event.head)
    breaks = [index for index, event in enumerate(events) if isinstance(event, Broken)]
    assert breaks in ([], [len(events) - 1])
    ended: set[int] = set()
    for event in events:
        if isinstance(event, Data | Trailers):
            assert event.stream not in ended
        if not is_server and (isinstance(event, Trailers) or getattr(event, "end", False)):
            ended.add(event.stream)
        if isinstance(event, Reset):
            ended.add(event.stream)
    if breaks:
        assert (codec.finished, codec.active) == (True, 0)


@EXAMPLES
@given(requests())
def test_h11_reads_what_our_client_writes(message):
    """Method, target, fields, body and trailers arrive at another implementation as they were meant."""
    method, path, authority, extra, body, sized, trailers = message
    writer = Http1(Role.CLIENT, LIMITS)
    send_request(writer, message)
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(writer.take())
    request = peer.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target, dict(request.headers)[b"host"]) == (method, path, authority)
    framing = {b"host", b"content-length", b"transfer-encoding"}
    assert [field for field in request.headers if field[0] not in framing] == extra
    assert read_h11(peer) == (b"".join(body or []), [] if body is None or sized else trailers)


@EXAMPLES
@given(responses())
def test_h11_reads_what_our_server_writes(message):
    """The same for responses."""
    status, extra, body, sized, trailers = message
    writer = Http1(Role.SERVER, LIMITS)
    peer = h11.Connection(h11.CLIENT)
    asking = h11.Request(method="GET", target="/", headers=[("host", "a"), ("te", "trailers"), ("connection", "te")])
    writer.receive(peer.send(asking) + peer.send(h11.EndOfMessage()))
    length = [(b"content-length", b"%d" % len(b"".join(body)))] if sized else []
    writer.send_response(1, Head.response(status, [*extra, *length]), False)
    send_body(writer, 1, body, sized, trailers)
    peer.receive_data(writer.take())
    response = peer.next_event()
    assert isinstance(response, h11.Response)
    assert response.status_code == status
    assert [f for f in response.headers if f[0] not in {b"content-length", b"transfer-encoding"}] == extra
    assert read_h11(peer) == (b"".join(body), [] if sized else trailers)


def read_h11(peer: h11.Connection) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The body and trailers that h11 makes of what it has."""
    body = b""
    while isinstance(event := peer.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return body, list(event.headers)


@EXAMPLES
@given(requests())
def test_our_server_reads_what_h11_writes(message):
    """What another implementation writes is shown as it was meant."""
    method, path, authority, extra, body, sized, trailers = message
    peer = h11.Connection(h11.CLIENT)
    headers = [(b"Host", authority), *extra]
    if body is not None and sized:
        headers.append((b"Content-Length", b"%d" % len(b"".join(body))))
    elif body is not None:
        headers.append((b"Transfer-Encoding", b"chunked"))
    raw = peer.send(h11.Request(method=method, target=path, headers=headers))
    for piece in body or []:
        raw += peer.send(h11.Data(data=piece))
    chunked = body is not None and not sized
    raw += peer.send(h11.EndOfMessage(headers=trailers if chunked else []))
    request, *rest = joined(Http1(Role.SERVER, LIMITS).receive(raw))
    assert isinstance(request, Request)
    assert (request.head.method, request.head.path, request.head.authority) == (method, path, authority)
    assert [field for field in request.head.block[4:] if field[0] != b"content-length"] == extra
    if request.end:
        assert rest == []
        assert not b"".join(body or [])
    else:
        assert rest == [b"".join(body or []), *([tuple(trailers)] if trailers and chunked else [])]
