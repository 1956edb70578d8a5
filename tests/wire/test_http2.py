"""What both HTTP/2 codecs must do: machines back to back in every combination, and raw frames against each alone."""

from itertools import product

import hpack
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from mesh.model.limits import Limits
from mesh.wire.codec import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    Broken,
    Data,
    GoAway,
    Informational,
    Refused,
    Request,
    Reset,
    Response,
    Role,
    Trailers,
)
from mesh.wire.head import Head
from mesh.wire.http2 import Http2
from mesh.wire.http2_reference import Http2Reference

CODECS = [Http2, Http2Reference]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET = Head.request(b"GET", b"/", authority=b"a.b")
POST = Head.request(b"POST", b"/", authority=b"a.b")
OK = Head.response(200, [(b"server", b"x")])


@pytest.fixture(params=CODECS, ids=["ngh2", "h2"])
def codec(request):
    """Each codec's class in turn."""
    return request.param


@pytest.fixture(params=list(product(CODECS, CODECS)), ids=["ngh2-ngh2", "ngh2-h2", "h2-ngh2", "h2-h2"])
def pair(request):
    """A client and a server that have greeted each other, of each combination of codecs."""
    return Pair(*request.param)


class Pair:
    def __init__(self, client, server, limits=None):
        self.client = client(Role.CLIENT, limits or Limits())
        self.server = server(Role.SERVER, limits or Limits())
        self.client.start()
        self.server.start()
        assert self.pump() == ([], [])

    def pump(self):
        """Carry bytes until there are none; the events of both sides."""
        at_client, at_server = self.client.receive(b""), self.server.receive(b"")
        for _ in range(100):
            up, down = self.client.take(), self.server.take()
            if not up and not down:
                return at_client + self.client.receive(b""), at_server + self.server.receive(b"")
            at_server += self.server.receive(up)
            at_client += self.client.receive(down)
        raise AssertionError("the two never fall silent")

    def ask(self, head=GET, end=True):
        """Send a request and let it arrive; its stream."""
        stream = self.client.send_request(head, end)
        assert self.pump()[1] == [Request(stream, head, end)]
        return stream


def serialize(*frames):
    return b"".join(frame if isinstance(frame, bytes) else frame.serialize() for frame in frames)


def headers(stream, fields, end=True):
    flags = ["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"]
    return HeadersFrame(stream, data=hpack.Encoder().encode(fields, huffman=False), flags=flags)


def frames(data):
    """What the bytes that a codec sent consist of."""
    view, found = memoryview(data), []
    while view:
        frame, length = Frame.parse_frame_header(view[:9])
        frame.parse_body(view[9 : 9 + length])
        found.append(frame)
        view = view[9 + length :]
    return found


def resets(data):
    return [(frame.stream_id, frame.error_code) for frame in frames(data) if isinstance(frame, RstStreamFrame)]


def goaways(data):
    return [(frame.last_stream_id, frame.error_code) for frame in frames(data) if isinstance(frame, GoAwayFrame)]


def server_of(codec, **limits):
    """A server machine that a client has greeted with raw frames."""
    server = codec(Role.SERVER, Limits(**limits))
    server.start()
    assert server.receive(serialize(PREFACE, SettingsFrame(0))) == []
    server.take()
    assert server.receive(SettingsFrame(0, flags=["ACK"]).serialize()) == []
    return server


def client_of(codec, requests=(GET,), **limits):
    """A client machine that a server has greeted with raw frames, with requests on its way."""
    client = codec(Role.CLIENT, Limits(**limits))
    client.start()
    for head in requests:
        client.send_request(head, True)
    client.take()
    assert client.receive(serialize(SettingsFrame(0))) == []
    client.take()
    return client


REQUEST = list(GET.block)


# --- messages back to back -------------------------------------------------------------------


def test_request_and_response(pair):
    """Heads and bodies arrive as they were sent, and both sides forget the stream."""
    stream = pair.ask(POST, end=False)
    pair.client.send_data(stream, b"ping", False)
    pair.client.send_data(stream, b"", True)
    _, at_server = pair.pump()
    assert b"".join(event.data for event in at_server) == b"ping"
    assert [event.end for event in at_server][-1]
    pair.server.acknowledge(stream, 4)
    pair.server.send_response(stream, OK, False)
    pair.server.send_data(stream, b"pong", True)
    at_client, _ = pair.pump()
    assert at_client[0] == Response(stream, OK, False)
    assert at_client[0].head.status == 200
    assert at_client[1:] == [Data(stream, b"pong", True)]
    assert (pair.client.active, pair.server.active) == (0, 0)
    assert "open" in repr(pair.client)
    assert "server" in repr(pair.server)


def test_request_head_is_read(pair):
    """A request's named attributes say what its pseudo fields say."""
    head = Head.request(b"PUT", b"/p?q", authority=b"a.b:80", scheme=b"https", fields=[(b"x", b"1"), (b"x", b"2")])
    stream = pair.client.send_request(head, True)
    [event] = pair.pump()[1]
    seen = event.head
    assert (seen.method, seen.path, seen.authority, seen.scheme) == (b"PUT", b"/p?q", b"a.b:80", b"https")
    assert seen.get_all(b"x") == [b"1", b"2"]
    assert event.stream == stream == 1


def test_trailers_in_both_directions(pair):
    """Trailers end a direction, after all of its body."""
    stream = pair.ask(POST, end=False)
    pair.client.send_data(stream, b"body", False)
    pair.client.send_trailers(stream, ((b"check", b"1"),))
    _, at_server = pair.pump()
    assert at_server == [Data(stream, b"body", False), Trailers(stream, ((b"check", b"1"),))]
    pair.server.send_response(stream, OK, False)
    pair.server.send_trailers(stream, ((b"grpc-status", b"0"),))
    at_client, _ = pair.pump()
    assert at_client == [Response(stream, OK, False), Trailers(stream, ((b"grpc-status", b"0"),))]
    assert (pair.client.active, pair.server.active) == (0, 0)


def test_response_that_is_only_trailers(pair):
    """gRPC's failed calls are one header block that ends the stream."""
    stream = pair.ask()
    head = Head.response(200, [(b"grpc-status", b"5")])
    pair.server.send_response(stream, head, True)
    assert pair.pump()[0] == [Response(stream, head, True)]
    assert (pair.client.active, pair.server.active) == (0, 0)


def test_interim_responses(pair):
    """Any number of 1xx responses precedes the final one."""
    stream = pair.ask()
    hints = Head.response(103, [(b"link", b"</x>")])
    pair.server.send_informational(stream, Head.response(100))
    pair.server.send_informational(stream, hints)
    pair.server.send_response(stream, OK, True)
    assert pair.pump()[0] == [
        Informational(stream, Head.response(100)),
        Informational(stream, hints),
        Response(stream, OK, True),
    ]


def test_response_to_head_announces_a_length_without_body(pair):
    """A HEAD response's content-length is not the length of what follows."""
    stream = pair.ask(Head.request(b"HEAD", b"/", authority=b"a.b"))
    head = Head.response(200, [(b"content-length", b"10")])
    pair.server.send_response(stream, head, True)
    assert pair.pump()[0] == [Response(stream, head, True)]


def test_connect_tunnel_ends_each_direction_separately(pair):
    """In a tunnel, the server's end leaves the client's direction open."""
    stream = pair.ask(Head.request(b"CONNECT", b"", authority=b"db:5432"), end=False)
    pair.server.send_response(stream, Head.response(200), False)
    pair.server.send_data(stream, b"bye", True)
    at_client, _ = pair.pump()
    assert at_client == [Response(stream, Head.response(200), False), Data(stream, b"bye", True)]
    pair.client.send_data(stream, b"more", True)
    assert pair.pump() == ([], [Data(stream, b"more", True)])
    assert (pair.client.active, pair.server.active) == (0, 0)


def test_early_response_stops_the_request(pair):
    """A request whose response has ended first may end by itself, unheard: no reset comes right behind the answer."""
    stream = pair.ask(POST, end=False)
    pair.server.send_response(stream, OK, False)
    pair.server.send_data(stream, b"enough", True)
    at_client, at_server = pair.pump()
    assert at_client == [Response(stream, OK, False), Data(stream, b"enough", True)]
    assert at_server == []
    pair.client.send_data(stream, b"too late", True)
    assert pair.pump() == ([], [])
    assert (pair.client.active, pair.server.active) == (0, 0)


def test_early_response_larger_than_the_window_arrives_whole(pair):
    """A client that goes on and on is reset with NO_ERROR after a while, when the whole response has left."""
    stream = pair.ask(POST, end=False)
    body = bytes(200_000)
    pair.server.send_response(stream, OK, False)
    pair.server.send_data(stream, body, True)
    got, ended = 0, False
    while not ended:
        at_client, _ = pair.pump()
        assert at_client
        for event in at_client:
            if type(event) is Data:
                got += len(event.data)
                ended = event.end
                pair.client.acknowledge(stream, len(event.data))
    assert got == len(body)
    pair.pump()
    assert pair.server.active == 1
    for second in (1.0, 2.0):
        pair.server.tick(second)
    pair.pump()
    assert (pair.client.active, pair.server.active) == (0, 0)


def test_early_response_ends_a_request_that_is_too_long(pair):
    """More than a window of body behind the answer is reset without waiting."""
    stream = pair.ask(POST, end=False)
    pair.server.send_response(stream, OK, False)
    pair.server.send_data(stream, b"enough", True)
    pair.pump()
    for _ in range(5):
        pair.client.send_data(stream, bytes(30_000), False)
        assert pair.pump()[1] == []
    assert (pair.client.active, pair.server.active) == (0, 0)


@pytest.mark.parametrize("code", [CANCEL, REFUSED_STREAM, PROTOCOL_ERROR])
def test_reset_by_the_server(pair, code):
    """The client is told the code, and whether the request may be sent again."""
    stream = pair.ask()
    pair.server.reset(stream, code)
    [event] = pair.pump()[0]
    assert (event.stream, event.code, event.unprocessed) == (stream, code, code == REFUSED_STREAM)
    assert (pair.client.active, pair.server.active) == (0, 0)


def test_reset_by_the_client(pair):
    """The server is told; what it says about the stream afterwards goes nowhere."""
    stream = pair.ask(POST, end=False)
    pair.client.send_data(stream, b"x", False)
    pair.client.reset(stream, CANCEL)
    at_server = pair.pump()[1]
    assert at_server[-1] == Reset(stream, CANCEL, False, "the peer reset the stream")
    assert (pair.client.active, pair.server.active) == (0, 0)


def test_commands_for_a_stream_that_is_gone_do_nothing(pair):
    """The peer's reset may still be on its way to whoever uses the stream."""
    stream = pair.ask(POST, end=False)
    pair.client.reset(stream, CANCEL)
    pair.server.receive(pair.client.take())
    pair.server.send_informational(stream, Head.response(100))
    pair.server.send_response(stream, OK, False)
    pair.server.send_data(stream, b"x", True)
    pair.server.send_trailers(stream, ((b"a", b"b"),))
    pair.server.reset(stream, CANCEL)
    pair.server.acknowledge(stream, 5)
    pair.client.send_data(stream, b"x", True)
    pair.client.send_trailers(stream, ())
    assert pair.server.queued(stream) == 0
    assert pair.pump() == ([], [])


def test_events_stop_when_we_reset(pair):
    """Nothing comes for a stream that we reset, though the peer goes on for a while."""
    stream = pair.ask()
    pair.server.send_response(stream, OK, False)
    pair.server.send_data(stream, b"x" * 1000, True)
    pair.client.reset(stream, CANCEL)
    assert pair.client.receive(pair.server.take()) == []
    assert pair.pump()[0] == []


def test_body_waits_for_the_window(pair):
    """No more than the advertised window arrives before it is acknowledged; `queued` tells what waits."""
    limits = Limits()
    stream = pair.ask()
    pair.server.send_response(stream, OK, False)
    pair.server.send_data(stream, bytes(100_000), True)
    assert pair.server.queued(stream) == 100_000
    at_client, _ = pair.pump()
    arrived = sum(len(event.data) for event in at_client if type(event) is Data)
    assert arrived == limits.stream_buffer_bytes
    assert pair.server.queued(stream) == pair.server.queued(0) == 100_000 - arrived
    pair.client.acknowledge(stream, arrived)
    at_client, _ = pair.pump()
    assert at_client[-1].end
    assert pair.server.queued(0) == 0


def test_wants_write_tells_whether_there_are_bytes_to_take():
    """Nothing at rest, something after a command, nothing again while the peer's window is used up."""
    pair = Pair(Http2, Http2)
    assert not pair.server.wants_write
    stream = pair.ask()
    pair.server.send_response(stream, OK, False)
    assert pair.server.wants_write
    pair.server.send_data(stream, bytes(100_000), True)
    pair.pump()
    assert pair.server.queued(stream)
    assert not pair.server.wants_write


def test_windows_never_leak(pair):
    """Many connections' windows go through, with acknowledgements before and after their streams close."""
    piece = bytes(60_000)
    for turn in range(60):
        stream = pair.ask()
        pair.server.send_response(stream, OK, False)
        pair.server.send_data(stream, piece, True)
        at_client, _ = pair.pump()
        got = [len(event.data) for event in at_client if type(event) is Data]
        assert sum(got) == len(piece), turn
        for size in got:
            pair.client.acknowledge(stream, size)


def test_windows_survive_resets_within_a_frame(pair):
    """Bytes of a frame whose stream was reset before its end are not lost to the connection."""
    for turn in range(150):
        stream = pair.ask()
        pair.server.send_response(stream, OK, False)
        pair.server.send_data(stream, bytes(40_000), True)
        down = pair.server.take()
        held = [event for event in pair.client.receive(down[:30_000]) if type(event) is Data]
        pair.client.reset(stream, CANCEL)
        pair.server.receive(pair.client.take())
        pair.client.receive(down[30_000:])
        for event in held:
            pair.client.acknowledge(stream, len(event.data))
        assert pair.pump()[0] == [], turn
    stream = pair.ask()
    pair.server.send_response(stream, OK, False)
    pair.server.send_data(stream, bytes(60_000), True)
    assert sum(len(event.data) for event in pair.pump()[0] if type(event) is Data) == 60_000


def test_stalled_streams_leave_room_for_others(pair):
    """A dozen streams that nobody reads do not stop the next one."""
    for _ in range(12):
        stream = pair.ask()
        pair.server.send_response(stream, OK, False)
        pair.server.send_data(stream, bytes(100_000), True)
        pair.pump()
    stream = pair.ask()
    pair.server.send_response(stream, OK, False)
    pair.server.send_data(stream, b"through", True)
    assert pair.pump()[0] == [Response(stream, OK, False), Data(stream, b"through", True)]


# --- the connection --------------------------------------------------------------------------


def test_server_shuts_down_gracefully(pair):
    """GOAWAY(2^31-1) stops new streams, the final one names the last, and then both are finished."""
    stream = pair.ask()
    pair.server.shutdown(False)
    crossing = pair.client.send_request(GET, True)
    at_client, at_server = pair.pump()
    assert at_client == [GoAway(2**31 - 1, NO_ERROR)]
    assert at_server == [Request(crossing, GET, True)]
    assert not pair.client.can_open
    with pytest.raises(RuntimeError):
        pair.client.send_request(GET, True)
    pair.server.shutdown(True)
    assert pair.pump()[0] == [GoAway(crossing, NO_ERROR)]
    pair.server.send_response(crossing, OK, True)
    assert pair.pump()[0] == [Response(crossing, OK, True)]
    assert not pair.server.finished
    assert not pair.client.finished
    pair.server.send_response(stream, OK, True)
    assert pair.pump()[0] == [Response(stream, OK, True)]
    assert pair.server.finished
    assert pair.client.finished
    assert "draining" in repr(pair.server)


def test_server_with_nothing_open_finishes_once_goaway_is_out(pair):
    """An idle server is finished when its final GOAWAY has been taken."""
    pair.server.shutdown(True)
    assert not pair.server.finished
    assert goaways(pair.server.take()) == [(0, NO_ERROR)]
    assert pair.server.finished


def test_request_that_crosses_the_final_goaway_comes_back(pair):
    """The server does not see it, and the client may send it again elsewhere."""
    stream = pair.ask()
    pair.server.shutdown(True)
    late = pair.client.send_request(POST, False)
    pair.client.send_data(late, b"x" * 100, True)
    at_client, at_server = pair.pump()
    assert at_server == []
    assert at_client[0] == GoAway(stream, NO_ERROR)
    assert [(event.stream, event.unprocessed) for event in at_client[1:]] == [(late, True)]
    pair.server.send_response(stream, OK, True)
    assert pair.pump()[0] == [Response(stream, OK, True)]
    assert pair.server.finished


def test_client_shuts_down(pair):
    """A client that shuts down opens nothing more and is finished when its streams are."""
    stream = pair.ask()
    pair.client.shutdown(False)
    assert not pair.client.can_open
    assert not pair.client.finished
    pair.server.send_response(stream, OK, True)
    pair.pump()
    assert pair.client.finished


def test_goaway_returns_streams_above_the_last(codec):
    """Streams that the server will not serve may be sent again; the others go on."""
    client = client_of(codec, [GET, GET, GET])
    events = client.receive(serialize(GoAwayFrame(0, last_stream_id=3), headers(1, [(b":status", b"200")])))
    assert events[0] == GoAway(3, NO_ERROR)
    assert [(event.stream, event.unprocessed) for event in events if type(event) is Reset] == [(5, True)]
    assert [event.stream for event in events if type(event) is Response] == [1]
    assert not client.can_open
    assert client.active == 1


def test_client_opens_as_many_streams_as_the_peer_allows(codec):
    """A hundred before its SETTINGS arrive, then what they say."""
    client = codec(Role.CLIENT, Limits())
    client.start()
    opened = 0
    while client.can_open:
        client.send_request(GET, True)
        opened += 1
    assert opened == client.active == 100
    client.receive(SettingsFrame(0, settings={3: 101}).serialize())
    assert client.can_open
    client.send_request(GET, True)
    assert not client.can_open


def test_server_offers_and_enforces_its_stream_limit(codec):
    """One stream too many before our SETTINGS are known is refused alone; after, it ends the connection."""
    server = codec(Role.SERVER, Limits(streams=2))
    server.start()
    opening = [headers(stream, REQUEST) for stream in (1, 3, 5)]
    events = server.receive(serialize(PREFACE, SettingsFrame(0), *opening))
    assert [type(event) for event in events] == [Request, Request]
    out = server.take()
    assert frames(out)[0].settings[3] == 2
    assert resets(out) == [(5, REFUSED_STREAM)]
    events = server.receive(serialize(SettingsFrame(0, flags=["ACK"]), headers(7, REQUEST)))
    assert [type(event) for event in events] == [Reset, Reset, Broken]
    assert server.finished is False
    assert goaways(server.take())
    assert server.finished


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX", bytes(40), PREFACE + bytes(30)]
)
def test_garbage_for_a_preface_breaks(codec, garbage):
    """Whoever does not speak HTTP/2 is told so, once."""
    server = codec(Role.SERVER, Limits())
    server.start()
    events = server.receive(garbage)
    assert [type(event) for event in events] == [Broken]
    assert "broken" in repr(server)
    assert not server.wants_read
    assert server.receive(b"more") == []
    assert server.wants_write
    assert goaways(server.take())
    assert server.finished
    assert not server.tick(1e9)
    assert server.receive_eof() == []
    server.shutdown(True)
    assert server.take() == b""


def test_end_of_bytes_with_streams_open(pair):
    """Each open stream is reset, then the connection is broken, on both sides."""
    pair.ask()
    for side in (pair.client, pair.server):
        events = side.receive_eof()
        assert [type(event) for event in events] == [Reset, Broken]
        assert not events[0].unprocessed
        assert events[1].reason == "connection_closed"
        assert side.active == 0
        assert side.finished
        assert not side.can_open


def test_end_of_bytes_on_an_idle_connection_is_no_failure(pair):
    """A peer may leave when nothing is open."""
    assert pair.client.receive_eof() == []
    assert pair.client.finished


# --- malformed messages ----------------------------------------------------------------------


def altered(extra=(), **pseudo):
    """The fields of a good request, with some changed, left out (None) or added."""
    fields = {b":method": b"GET", b":scheme": b"http", b":authority": b"a.b", b":path": b"/"}
    fields.update({b":" + name.encode(): value for name, value in pseudo.items()})
    return [(name, value) for name, value in fields.items() if value is not None] + list(extra)


GOOD_REQUESTS = [
    altered(),
    altered(method=b"OPTIONS", path=b"*"),
    altered([(b"te", b"trailers")]),
    altered([(b"x", b"caf\xe9"), (b"y", b"")]),
    altered([(b"cookie", b"a=b")] * 96),
    altered([(b"content-length", b"0")]),
    altered(authority=b"[::1]:80"),
    altered([(b"a", b"b" * 60_000)]),
    [(b":method", b"CONNECT"), (b":authority", b"a.b:443")],
]

BAD_REQUESTS = {
    "a space in the path": altered(path=b"/a b"),
    "0xff in the path": altered(path=b"/\xff"),
    "a control byte in the path": altered(path=b"/\x01"),
    "NUL in the path": altered(path=b"/\x00"),
    "a fragment": altered(path=b"/a#b"),
    "an empty path": altered(path=b""),
    "GET *": altered(path=b"*"),
    "a relative path": altered(path=b"a"),
    "no path": altered(path=None),
    "userinfo": altered(authority=b"root@a.b"),
    "an empty authority": altered(authority=b""),
    "a space in the authority": altered(authority=b"a b"),
    "a slash in the authority": altered(authority=b"a/b"),
    "a port of letters": altered(authority=b"a:http"),
    "neither authority nor host": altered(authority=None),
    "host and authority differ": altered([(b"host", b"c.d")]),
    "two hosts": altered([(b"host", b"a.b"), (b"host", b"a.b")]),
    "ftp": altered(scheme=b"ftp"),
    "a space in the scheme": altered(scheme=b"ht tp"),
    "no scheme": altered(scheme=None),
    "no method": altered(method=None),
    "a space in the method": altered(method=b"G T"),
    "an empty method": altered(method=b""),
    "a path twice": [(b":path", b"/"), *altered()],
    "a pseudo field after a regular one": [(b":method", b"GET"), (b"a", b"b"), *altered(method=None)],
    "an unknown pseudo field": [(b":x", b"y"), *altered()],
    "a status": [(b":status", b"200"), *altered()],
    "CONNECT with a path": altered(method=b"CONNECT"),
    "CONNECT without a port": [(b":method", b"CONNECT"), (b":authority", b"a.b")],
    "CONNECT to nowhere": [(b":method", b"CONNECT")],
    "extended CONNECT, not offered": [(b":protocol", b"websocket"), *altered(method=b"CONNECT")],
    "connection": altered([(b"connection", b"close")]),
    "keep-alive": altered([(b"keep-alive", b"1")]),
    "proxy-connection": altered([(b"proxy-connection", b"close")]),
    "transfer-encoding": altered([(b"transfer-encoding", b"chunked")]),
    "upgrade": altered([(b"upgrade", b"h2c")]),
    "te other than trailers": altered([(b"te", b"gzip")]),
    "upper case": altered([(b"Accept", b"*")]),
    "a space in a name": altered([(b"a b", b"c")]),
    "an empty name": altered([(b"", b"c")]),
    "a colon in a name": altered([(b"a:b", b"c")]),
    "0xff in a name": altered([(b"a\xff", b"c")]),
    "NUL in a value": altered([(b"a", b"b\x00")]),
    "CR in a value": altered([(b"a", b"b\rc")]),
    "LF in a value": altered([(b"a", b"b\nc")]),
    "DEL in a value": altered([(b"a", b"b\x7f")]),
    "a space before a value": altered([(b"a", b" b")]),
    "a tab after a value": altered([(b"a", b"b\t")]),
    "a body announced but not sent": altered([(b"content-length", b"5")]),
    "two lengths": altered([(b"content-length", b"0"), (b"content-length", b"0")]),
    "a list of lengths": altered([(b"content-length", b"0, 0")]),
    "a signed length": altered([(b"content-length", b"+0")]),
    "a length of letters": altered([(b"content-length", b"0x0")]),
    "an endless length": altered([(b"content-length", b"9" * 30)]),
    "101 fields": altered([(b"cookie", b"a=b")] * 97),
}


@pytest.mark.parametrize("fields", GOOD_REQUESTS, ids=range(len(GOOD_REQUESTS)))
def test_good_request_is_shown(codec, fields):
    """What RFC 9113 allows and our bounds permit reaches the user unchanged."""
    block = headers(1, fields)
    data, block.data, more = block.data, block.data[:16_000], []
    if len(data) > 16_000:
        block.flags.remove("END_HEADERS")
        rest = [data[start : start + 16_000] for start in range(16_000, len(data), 16_000)]
        more = [ContinuationFrame(1, data=part) for part in rest]
        more[-1].flags.add("END_HEADERS")
    [event] = server_of(codec).receive(serialize(block, *more))
    assert event == Request(1, Head(fields), True)


@pytest.mark.parametrize("fields", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_malformed_request_is_refused(codec, fields):
    """It is answered by RST_STREAM and never shown; the connection lives."""
    server = server_of(codec)
    [event] = server.receive(headers(1, fields).serialize())
    assert event == Refused(1, "header_fields" if len(fields) > 100 else "malformed")
    assert resets(server.take()) == [(1, ENHANCE_YOUR_CALM if len(fields) > 100 else PROTOCOL_ERROR)]
    assert server.active == 0
    assert server.receive(headers(3, altered()).serialize()) == [Request(3, Head(altered()), True)]


def test_host_stands_in_for_a_missing_authority(codec):
    """A request with `host` alone gets an authority, and one whose two agree loses `host`."""
    for fields in (altered([(b"host", b"a.b")], authority=None), altered([(b"host", b"A.B")])):
        [event] = server_of(codec).receive(headers(1, fields).serialize())
        assert event.head.authority == b"a.b"
        assert event.head.get(b"host") is None
        assert sorted(event.head.block) == sorted(altered())
        assert all(name.startswith(b":") for name, _ in event.head.block)


@pytest.mark.parametrize("sizes", [[6], [3, 3], [4]], ids=["too long", "too long in the end", "too short"])
def test_body_of_another_length_than_announced_is_refused(codec, sizes):
    """Data that disagrees with content-length ends the stream before its end is shown."""
    server = server_of(codec)
    data = [DataFrame(1, data=bytes(size)) for size in sizes]
    data[-1].flags.add("END_STREAM")
    first = headers(1, altered([(b"content-length", b"5")], method=b"POST"), end=False)
    events = server.receive(serialize(first, *data))
    assert type(events[0]) is Request
    assert events[-1] == Refused(1, "malformed")
    assert not any(event.end for event in events if type(event) is Data)
    assert resets(server.take()) == [(1, PROTOCOL_ERROR)]


BAD_RESPONSES = {
    "no status": [(b"server", b"x")],
    "a status of letters": [(b":status", b"abc")],
    "a status of two digits": [(b":status", b"20")],
    "a status of four digits": [(b":status", b"2000")],
    "a signed status": [(b":status", b"+20")],
    "status 000": [(b":status", b"000")],
    "status 099": [(b":status", b"099")],
    "101": [(b":status", b"101")],
    "a status twice": [(b":status", b"200"), (b":status", b"200")],
    "a path": [(b":status", b"200"), (b":path", b"/")],
    "a status after a field": [(b"a", b"b"), (b":status", b"200")],
    "an interim response that ends": [(b":status", b"103")],
    "an interim response with a length": [(b":status", b"103"), (b"content-length", b"0")],
    "connection": [(b":status", b"200"), (b"connection", b"close")],
    "transfer-encoding": [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
    "LF in a value": [(b":status", b"200"), (b"a", b"b\nc")],
    "upper case": [(b":status", b"200"), (b"Server", b"x")],
    "a body announced but not sent": [(b":status", b"200"), (b"content-length", b"5")],
    "two lengths": [(b":status", b"200"), (b"content-length", b"0"), (b"content-length", b"0")],
    "101 fields": [(b":status", b"200"), *[(b"set-cookie", b"a=b")] * 100],
    "nothing": [],
}


@pytest.mark.parametrize("fields", BAD_RESPONSES.values(), ids=BAD_RESPONSES)
def test_malformed_response_is_refused(codec, fields):
    """It is never shown, and another stream of the connection goes on."""
    client = client_of(codec, [GET, GET])
    [event] = client.receive(headers(1, fields).serialize())
    assert event == Refused(1, "header_fields" if len(fields) > 100 else "malformed")
    assert {stream for stream, _ in resets(client.take())} <= {1}  # none is needed where both directions have ended
    [event] = client.receive(headers(3, OK.block).serialize())
    assert event == Response(3, OK, True)


BAD_TRAILERS = {
    "a pseudo field": [(b":path", b"/")],
    "a status": [(b":status", b"200")],
    "upper case": [(b"A", b"b")],
    "connection": [(b"connection", b"close")],
    "101 fields": [(b"a", b"b")] * 101,
}


@pytest.mark.parametrize("fields", BAD_TRAILERS.values(), ids=BAD_TRAILERS)
def test_malformed_trailers_are_refused(codec, fields):
    """Trailers obey the rules of regular fields."""
    client = client_of(codec)
    client.receive(headers(1, OK.block, end=False).serialize())
    [event] = client.receive(headers(1, fields).serialize())
    assert type(event) is Refused
    assert client.active == 0


def test_body_in_a_response_to_head_is_refused(codec):
    """A HEAD response that has one confuses no later message."""
    client = client_of(codec, [Head.request(b"HEAD", b"/", authority=b"a.b")])
    client.receive(headers(1, [(b":status", b"200"), (b"content-length", b"3")], end=False).serialize())
    assert client.receive(DataFrame(1, data=b"abc", flags=["END_STREAM"]).serialize()) == [Refused(1, "malformed")]


def test_padding_is_given_back(codec):
    """Padded DATA uses no window for good."""
    server = server_of(codec)
    server.receive(headers(1, altered(method=b"POST"), end=False).serialize())
    padded = DataFrame(1, data=b"x", pad_length=255, flags=["PADDED"]).serialize()
    granted = 0
    for _ in range(1000):
        for event in server.receive(padded):
            server.acknowledge(1, len(event.data))
        out = server.take()
        granted += sum(f.window_increment for f in frames(out) if isinstance(f, WindowUpdateFrame) and f.stream_id == 1)
    assert granted > 1000 * 257 - 64 * 1024


# --- bounds ----------------------------------------------------------------------------------


def test_header_block_over_the_bound_breaks(codec):
    """A block of more bytes than allowed is not decoded to its end, however small it is on the wire."""
    server = server_of(codec)
    encoder = hpack.Encoder()
    first = HeadersFrame(1, data=encoder.encode(altered([(b"a", b"b" * 3000)])), flags=["END_HEADERS", "END_STREAM"])
    bomb = HeadersFrame(
        3, data=encoder.encode(altered([(b"a", b"b" * 3000)] * 25)), flags=["END_HEADERS", "END_STREAM"]
    )
    assert len(bomb.data) < 200
    assert [type(event) for event in server.receive(first.serialize())] == [Request]
    events = server.receive(bomb.serialize())
    assert [type(event) for event in events] == [Reset, Broken]
    assert events[1].reason == "header_bytes"
    assert goaways(server.take()) == [(1, ENHANCE_YOUR_CALM)]


def test_absurd_number_of_fields_breaks(codec):
    """Beyond four times the bound the connection goes."""
    events = server_of(codec).receive(headers(1, altered([(b"a", b"b")] * 500)).serialize())
    assert [(type(event), event.reason) for event in events] == [(Broken, "header_fields")]


def test_continuation_flood_breaks(codec):
    """A header block that never ends is not collected forever."""
    server = server_of(codec)
    first = headers(1, REQUEST)
    first.flags.remove("END_HEADERS")
    assert server.receive(first.serialize()) == []
    flood = ContinuationFrame(1, data=b"").serialize()
    events = [event for _ in range(1000) for event in server.receive(flood)]
    assert [type(event) for event in events] == [Broken]


FLOODS = {
    "PING": PingFrame(0, opaque_data=bytes(8)),
    "SETTINGS": SettingsFrame(0, settings={4: 65535}),
    "SETTINGS without an entry": SettingsFrame(0),
    "PRIORITY": PriorityFrame(3, depends_on=1),
    "WINDOW_UPDATE": WindowUpdateFrame(0, window_increment=1),
    "WINDOW_UPDATE of a stream": WindowUpdateFrame(1, window_increment=1),
    "empty DATA": DataFrame(1),
    "an unknown type": b"\x00\x00\x00\xee\x00\x00\x00\x00\x00",
    "late RST_STREAM": RstStreamFrame(1, error_code=CANCEL),
}


@pytest.mark.parametrize("answered", [True, False], ids=["answers read", "answers unread"])
@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS)
def test_control_frames_without_messages_break(codec, frame, answered):
    """Any frame that carries no message forward is tolerated a few thousand times, and what we owe stays small."""
    server = server_of(codec)
    server.receive(headers(1, altered(method=b"POST"), end=False).serialize())
    piece, sent, events = serialize(*[frame] * 10), 0, []
    while not any(type(event) is Broken for event in events):
        events = server.receive(piece)
        sent += 10
        assert sent < 30_000
        if answered:
            server.take()
    assert sent > 200
    assert events[-1].reason == "control_flood"
    assert len(server.take()) < 64 * 1024


@pytest.mark.parametrize(
    "frame", [headers(1, [(b":status", b"103")], end=False), GoAwayFrame(0, last_stream_id=1)], ids=["103", "GOAWAY"]
)
def test_server_may_not_flood_its_client_either(codec, frame):
    """Interim responses and GOAWAY are told, but not without end."""
    client = client_of(codec)
    events = [event for _ in range(5000) for event in client.receive(frame.serialize())]
    assert events[-1].reason == "control_flood"
    assert type(events[-2]) is Reset
    assert client.finished is False
    assert goaways(client.take())


def test_control_frames_that_accompany_messages_are_fine(codec):
    """A PING or two per message never adds up, nor do window updates for what we send."""
    server = server_of(codec)
    for turn in range(1200):
        stream = 1 + 2 * turn
        events = server.receive(serialize(PingFrame(0, opaque_data=bytes(8)), headers(stream, REQUEST)))
        assert [type(event) for event in events] == [Request]
        server.send_response(stream, OK, True)
        server.take()
        updates = [WindowUpdateFrame(0, window_increment=5), WindowUpdateFrame(0, window_increment=5)]
        assert server.receive(serialize(*updates, PingFrame(0, opaque_data=bytes(8)))) == []


def test_slow_pings_on_an_idle_connection_are_fine(codec):
    """Keep-alives are forgotten as windows of time pass."""
    server = server_of(codec)
    for turn in range(5000):
        server.tick(turn * 10.0)
        assert server.receive(PingFrame(0, opaque_data=bytes(8)).serialize()) == []
        server.take()


def test_rapid_reset_breaks(codec):
    """A client that opens and cancels is sent away after `resets` streams, with everything reset before."""
    server = server_of(codec, resets=50)
    events = []
    for stream in range(1, 400, 2):
        events += server.receive(serialize(headers(stream, REQUEST), RstStreamFrame(stream, error_code=CANCEL)))
    assert sum(type(event) is Request for event in events) == 51
    assert events[-1].reason == "rapid_reset"
    assert [code for _, code in goaways(server.take())] == [ENHANCE_YOUR_CALM]
    assert server.finished


OFFENCES = {
    "more body than announced": lambda stream: DataFrame(stream, data=b"123456"),
    "malformed trailers": lambda stream: headers(stream, [(b":path", b"/")]),
}


@pytest.mark.parametrize("offence", OFFENCES.values(), ids=OFFENCES)
def test_made_you_reset_breaks(codec, offence):
    """Making the server reset streams counts like resetting them."""
    server = server_of(codec, resets=50)
    fields = altered([(b"content-length", b"5")], method=b"POST")
    events = []
    for stream in range(1, 400, 2):
        events += server.receive(serialize(headers(stream, fields, end=False), offence(stream)))
    assert sum(type(event) is Request for event in events) == 51
    assert sum(type(event) is Refused for event in events) == 51
    assert events[-1].reason == "rapid_reset"


def test_malformed_requests_count_as_resets(codec):
    """So does a stream of requests that must be refused."""
    server = server_of(codec, resets=50)
    bad = altered(path=b"/a b")
    events = [event for stream in range(1, 400, 2) for event in server.receive(headers(stream, bad).serialize())]
    assert [type(event) for event in events] == [Refused] * 51 + [Broken]


def test_honest_client_may_cancel_much(codec):
    """Cancelled streams are weighed against completed ones, over this window of time and the one before."""
    server = server_of(codec, resets=5)
    stream = 1
    for window in range(3):
        server.tick(window * 10.0)
        for _ in range(20):
            server.receive(headers(stream, REQUEST).serialize())
            server.send_response(stream, OK, True)
            server.take()
            events = server.receive(
                serialize(headers(stream + 2, REQUEST), RstStreamFrame(stream + 2, error_code=CANCEL))
            )
            assert [type(event) for event in events] == [Request, Reset]
            stream += 4


def test_resets_are_forgotten_as_time_passes(codec):
    """A few cancelled streams per window of time never add up."""
    server = server_of(codec, resets=5)
    for turn in range(50):
        server.tick(turn * 3.0)
        stream = 1 + 2 * turn
        events = server.receive(serialize(headers(stream, REQUEST), RstStreamFrame(stream, error_code=CANCEL)))
        assert [type(event) for event in events] == [Request, Reset]


def test_our_own_resets_do_not_count(codec):
    """What the server's user resets is not the client's doing."""
    server = server_of(codec, resets=5)
    for stream in range(1, 100, 2):
        assert [type(event) for event in server.receive(headers(stream, REQUEST).serialize())] == [Request]
        server.reset(stream, CANCEL)
        server.take()


def test_header_block_that_cannot_be_sent_resets_the_stream():
    """A head far over the bounds of any peer becomes a Reset of its stream, not an exception."""
    client = client_of(Http2, [])
    stream = client.send_request(Head.request(b"GET", b"/", authority=b"a.b", fields=[(b"a", b"b" * 300_000)]), True)
    assert client.wants_write
    assert not client.due
    client.take()
    assert client.due
    [event] = client.receive(b"")
    assert not client.due
    assert (type(event), event.stream, event.unprocessed) == (Reset, stream, True)


# --- heads that do not come to their end ------------------------------------------------------


def answers(frames_sent):
    """The acknowledgements of the PINGs among them."""
    return [PingFrame(0, frame.opaque_data, flags=["ACK"]) for frame in frames_sent if isinstance(frame, PingFrame)]


def test_a_header_block_that_never_ends_has_a_deadline(codec):
    """Within `header_timeout` and two ticks, whatever of it dribbles in meanwhile."""
    server = server_of(codec, header_timeout=5.0)
    block = HeadersFrame(1, data=hpack.Encoder().encode(REQUEST), flags=["END_STREAM"]).serialize()
    server.receive(block)
    cut = []
    for second in range(1, 9):
        cut.append(server.tick(float(second)))
        server.take()
        server.receive(ContinuationFrame(1, data=b"").serialize()[: 9 if second % 2 else 0])
    assert cut == [False] * 6 + [True] * 2


def test_half_a_frame_of_headers_has_a_deadline(codec):
    """Also one whose very frame is not whole."""
    server = server_of(codec, header_timeout=5.0)
    server.receive(headers(1, REQUEST).serialize()[:12])
    assert [server.tick(float(second)) for second in (10, 11, 15, 16)] == [False, False, False, True]


def test_who_is_only_quiet_is_left_alone(codec):
    """A frame of an unknown kind is no head: its sender answers, once, and may say nothing more."""
    server = server_of(codec, header_timeout=5.0)
    server.receive(b"\x00\x00\x80\xcc\x00" + bytes(4 + 0x80))
    pings = 0
    for second in range(1, 40):
        assert not server.tick(float(second))
        acknowledged = answers(frames(server.take()))
        pings += len(acknowledged)
        assert server.receive(serialize(*acknowledged)) == []
    assert pings <= 1
    assert server.receive(headers(1, REQUEST).serialize()) == [Request(1, GET, True)]
