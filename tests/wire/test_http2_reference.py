"""The two HTTP/2 codecs compared: what one shows of a byte stream, the other shows.

Sessions are recorded between two `Http2`, then replayed to both codecs in pieces of any size, as they were or damaged.
The events must be equal up to the first refusal, which both must utter; what RFC 9113 leaves open (whether an offence
ends the stream or the connection) is not compared, and neither is what comes after it.
"""

from itertools import chain, groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.limits import Limits
from mesh.wire.codec import Broken, Data, GoAway, Informational, Refused, Request, Reset, Response, Role, Trailers
from mesh.wire.head import Head
from mesh.wire.http2 import Http2
from mesh.wire.http2_reference import Http2Reference

CODECS = (Http2, Http2Reference)
LIMITS = Limits(streams=8, resets=4)
FILLER = bytes(16384 + 2 * 9)  # ends any frame that was cut, then DATA without a stream
names = st.sampled_from([b"accept", b"cookie", b"x-a", b"te", b"content-type", b"user-agent"])
values = st.binary(max_size=12).map(lambda value: bytes(33 + byte % 94 for byte in value))
fields = st.lists(st.tuples(names, values).filter(lambda field: field[0] != b"te"), max_size=4)
requests = st.builds(
    lambda method, path, extra: Head.request(method, b"/" + path, authority=b"a.b", fields=extra),
    st.sampled_from([b"GET", b"POST", b"HEAD"]),
    st.sampled_from([b"", b"x", b"a/b?c=d"]),
    fields,
)
bodies = st.lists(st.integers(0, 300), max_size=3)
ends = st.sampled_from(["end", "trailers", "reset", "open", "bare"])
exchanges = st.lists(st.tuples(requests, bodies, ends, st.integers(0, 2), bodies, ends), min_size=1, max_size=5)
pieces = st.lists(st.integers(1, 400), min_size=1, max_size=12)
crumbs = st.lists(st.integers(1, 8), min_size=1, max_size=12)  # at most one frame each, so that refusals stand in order
damage = st.lists(
    st.tuples(st.sampled_from(["flip", "drop", "insert", "repeat", "cut"]), st.floats(0, 1), st.integers(0, 255)),
    min_size=1,
    max_size=3,
)


def finish(codec, stream, sizes, end):
    """Send the rest of a message, as the words of a script say."""
    for size in sizes:
        codec.send_data(stream, b"d" * size, False)
    if end in ("end", "bare"):
        codec.send_data(stream, b"", True)
    elif end == "trailers":
        codec.send_trailers(stream, ((b"grpc-status", b"0"),))
    elif end == "reset":
        codec.reset(stream, 8)


def record(script, final):
    """Play a script between two codecs; the bytes that each has sent."""
    client, server = Http2(Role.CLIENT, LIMITS), Http2(Role.SERVER, LIMITS)
    client.start()
    server.start()
    up, down = [client.take()], [server.take()]
    server.receive(up[0])
    client.receive(down[0])

    def exchange_bytes():
        for _ in range(4):
            up.append(client.take())
            server.receive(up[-1])
            down.append(server.take())
            client.receive(down[-1])

    streams = [client.send_request(head, end == "bare") for head, _, end, *_ in script]
    exchange_bytes()
    for stream, (_, sizes, end, *_) in zip(streams, script, strict=True):
        if end != "bare":
            finish(client, stream, sizes, end)
    exchange_bytes()
    for stream, (head, _, _, interim, sizes, end) in zip(streams, script, strict=True):
        for _ in range(interim):
            server.send_informational(stream, Head.response(103, [(b"link", b"</a>")]))
        server.send_response(stream, Head.response(200, [(b"server", b"x")]), end == "bare" or head.method == b"HEAD")
        if end != "bare" and head.method != b"HEAD":
            finish(server, stream, sizes, end)
    if final:
        server.shutdown(final=True)
    exchange_bytes()
    return b"".join(up), b"".join(down)


def replay(kind, role, script, data, sizes):
    """What a fresh codec says about the bytes, given to it in pieces, and then about a frame that nobody allows."""
    codec = kind(role, LIMITS)
    codec.start()
    if role is Role.CLIENT:
        for head, *_ in script:
            codec.send_request(head, False)
    codec.take()
    events, start, turn = [], 0, 0
    while start < len(data):
        end = start + sizes[turn % len(sizes)]
        events += codec.receive(data[start:end])
        codec.take()
        events += codec.receive(b"")
        start, turn = end, turn + 1
    return events + codec.receive(FILLER)


def until_refusal(events):
    """The events in a form to compare, and whether they end in a refusal."""
    told = []
    # What one GOAWAY resets comes in any order: those that nobody processed are sorted where they stand together.
    runs = [list(run) for _, run in groupby(events, lambda event: type(event) is Reset and event.unprocessed)]
    ordered = [
        sorted(run, key=lambda event: event.stream) if type(run[0]) is Reset and run[0].unprocessed else run
        for run in runs
    ]
    for event in chain.from_iterable(ordered):
        match event:
            case Broken() | Refused():
                return told, True
            case Reset(_, _, _, reason) if not reason.startswith(("the peer reset", "above the last stream")):
                return told, True  # the connection is about to break
            case Request(stream, head, end) | Response(stream, head, end):
                told.append((type(event), stream, list(map(tuple, head.block)), end))
            case Data(stream, data, end):
                told.append((Data, stream, data, end))
            case Informational(stream, head):
                told.append((Informational, stream, list(map(tuple, head.block))))
            case Trailers(stream, block):
                told.append((Trailers, stream, list(map(tuple, block))))
            case Reset(stream, code, unprocessed, _):
                told.append((Reset, stream, code, unprocessed))
            case GoAway(last_stream, code):
                told.append((GoAway, last_stream, code))
    return told, any(kind is GoAway for kind, *_ in told)  # where nothing is open, nothing more is read


def spoil(data, damage):
    """The bytes with some of them changed."""
    spoilt = bytearray(data)
    for kind, where, byte in damage:
        place = int(where * (len(spoilt) - 1)) if spoilt else 0
        if kind == "flip" and spoilt:
            spoilt[place] ^= byte or 1
        elif kind == "drop":
            del spoilt[place : place + 1 + byte % 16]
        elif kind == "insert":
            spoilt[place:place] = bytes([byte])
        elif kind == "repeat":
            spoilt[place:place] = spoilt[place : place + byte]
        elif kind == "cut":
            del spoilt[place:]
    return bytes(spoilt)


def compare(role, script, data, sizes):
    ours = until_refusal(replay(Http2, role, script, data, sizes))
    reference = until_refusal(replay(Http2Reference, role, script, data, sizes))
    assert ours == reference
    return ours


@settings(max_examples=120, deadline=None, derandomize=True)
@given(exchanges, st.booleans(), pieces, pieces)
def test_valid_sessions_mean_the_same_to_both(script, final, sizes, other_sizes):
    """Sound sessions are shown alike by both codecs, however they are split."""
    up, down = record(script, final)
    for role, data in ((Role.SERVER, up), (Role.CLIENT, down)):
        told, refused = compare(role, script, data, sizes)
        assert refused
        assert until_refusal(replay(Http2, role, script, data, other_sizes)) == (told, True)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(exchanges, st.booleans(), crumbs, damage, st.sampled_from(list(Role)))
def test_damaged_sessions_mean_the_same_to_both(script, final, sizes, damage, role):
    """Whatever is shown before the first refusal is the same, and both refuse or neither does."""
    up, down = record(script, final)
    compare(role, script, spoil(up if role is Role.SERVER else down, damage), sizes)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.binary(max_size=400), st.sampled_from(CODECS), st.sampled_from(list(Role)), pieces)
def test_random_bytes_never_raise(data, kind, role, sizes):
    """No bytes make a codec raise, and nothing follows Broken."""
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if role is Role.SERVER else b""
    events = replay(kind, role, [], greeting + bytes(3) + b"\x04" + bytes(5) + data, sizes)
    assert Broken not in [type(event) for event in events[:-1]]
