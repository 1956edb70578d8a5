"""Chunked bodies: what httptools decodes for us, where a body ends, and what is too much."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.limits import Limits
from mesh.wire.http1_chunks import Chunks
from mesh.wire.http1_head import Malformed

EXTENSION_BYTES = Limits().chunk_extension_bytes

HEADER_BYTES = 65536


def fresh() -> Chunks:
    """A decoder at the beginning of a body."""
    chunks = Chunks(Limits(header_bytes=HEADER_BYTES, header_fields=100))
    chunks.begin()
    return chunks


def feed(chunks: Chunks, raw: bytes, step: int) -> None:
    """Feed all of `raw`, in pieces of `step` bytes."""
    for position in range(0, len(raw), step):
        chunks.feed(raw[position : position + step], 0)


def decode(raw: bytes, *cuts: int) -> tuple[bytes, tuple[tuple[bytes, bytes], ...], bytes]:
    """Decode `raw`, fed in pieces cut at `cuts`. Returns body, trailers, and what was left."""
    chunks = fresh()
    body = b""
    bounds = [0, *sorted(cuts), len(raw)]
    for begin, end in pairwise(bounds):
        if chunks.done:
            return body, chunks.trailers, raw[begin:]
        piece = raw[begin:end]
        some, position = chunks.feed(piece, 0)
        body += some
        if chunks.done:
            return body, chunks.trailers, raw[begin + position :]
    raise AssertionError("the body has no end")


GOOD = [
    (b"0\r\n\r\n", b"", ()),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello", ()),
    (b"1\r\na\r\nA\r\n0123456789\r\n000\r\n\r\n", b"a0123456789", ()),
    (b"5;a=b;c\r\nhello\r\n0;x\r\n\r\n", b"hello", ()),
    (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n", ()),
    (b"6\r\n\r\n\r\n\r\n\r\n3\r\n\r\n\r\r\n0\r\n\r\n", b"\r\n\r\n\r\n\r\n\r", ()),
    (b"1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\n", b"a", ((b"x", b"y"), (b"z", b""))),
]


@pytest.mark.parametrize("case", GOOD, ids=repr)
def test_a_body_ends_where_it_ends_however_it_is_split(case):
    """Not a byte of what follows the body is lost or taken for it, at every way to split in three."""
    raw, body, trailers = case
    stream = raw + b"GET / HTTP/1.1\r\n\r\n"
    for first in range(len(stream)):
        for second in range(first, len(stream)):
            assert decode(stream, first, second) == (body, trailers, b"GET / HTTP/1.1\r\n\r\n")
    assert decode(stream, *range(len(stream)))[:2] == (body, trailers)


@given(st.lists(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n\r\n"])), st.data())
def test_any_chunks_split_anywhere(pieces, data):
    """Bodies that look like line ends and chunks are decoded like others."""
    raw = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n0\r\n\r\n"
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=6))
    assert decode(raw, *cuts) == (b"".join(pieces), (), b"0\r\n\r\n")


def test_a_decoder_serves_one_body_after_another():
    """`begin` leaves nothing of the body before."""
    chunks = Chunks(Limits(header_bytes=HEADER_BYTES, header_fields=100))
    for body in (b"one", b"two"):
        chunks.begin()
        assert chunks.feed(b"xx3\r\n%b\r\n0\r\nA: b\r\n\r\n" % body, 2) == (body, 21)
        assert chunks.done
        assert chunks.trailers == ((b"a", b"b"),)


BAD = [
    b"\r\n",
    b"g\r\n",
    b"-5\r\n",
    b"+5\r\n",
    b"0x5\r\n",
    b" 5\r\n",
    b"5 \r\nhello\r\n",
    b"5\nhello\r\n",
    b"5\rhello\r\n",
    b"5\r\nhello\n",
    b"5\r\nhellooo\r\n",
    b"5\r\nhello0\r\n",
    b"5;a\nb\r\nhello\r\n",
    b"5;\x00\r\nhello\r\n",
    b'5;a="\r\n"\r\nhello\r\n',
    b"11111111111111111\r\n",
    b"0\n\n",
    b"0\r\n\n",
    b"0\r\nA: b\n\r\n",
    b"0\r\nA: b\r\n c\r\n\r\n",
    b"0\r\nA : b\r\n\r\n",
    b"0\r\nA\r\n\r\n",
    b"0\r\nA: \x00\r\n\r\n",
    b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"0\r\nContent-Length: 1\r\n\r\n",
]


@pytest.mark.parametrize("raw", BAD, ids=repr)
def test_a_malformed_chunk_is_refused_however_it_comes(raw):
    """Sizes, line ends, extensions and trailers are held to the grammar, in one piece or byte by byte."""
    for step in (len(raw), 1):
        with pytest.raises(Malformed, match="chunk_invalid"):
            feed(fresh(), raw, step)


@pytest.mark.parametrize("step", [1000, 10**6])
@pytest.mark.parametrize(
    "unit",
    [b"1;" + b"x" * (EXTENSION_BYTES + 100) + b"\r\na\r\n", b"1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\na\r\n" * 1000],
    ids=["one", "many"],
)
def test_extensions_are_bounded(unit, step):
    """A message cannot carry more in extensions than anyone needs, in one chunk or in many."""
    with pytest.raises(Malformed, match="chunk_extension"):
        feed(fresh(), unit + b"0\r\n\r\n", step)


@pytest.mark.parametrize("step", [1000, 10**6])
def test_trailers_are_bounded(step):
    """Trailers are bounded as a head is, and a little of them is more than extensions may take."""
    chunks = fresh()
    feed(chunks, b"0\r\n" + b"A: %b\r\n" % (b"x" * 100) * 100 + b"\r\n", step)
    assert chunks.done
    with pytest.raises(Malformed, match="trailer_bytes"):
        feed(fresh(), b"0\r\n" + b"A: %b\r\n" % (b"x" * 1000) * 99, step)


@pytest.mark.parametrize("step", [10**6, 1])
def test_trailer_fields_are_counted(step):
    """As many as a head may have, and not one more."""
    feed(fresh(), b"0\r\n" + b"a: b\r\n" * 100 + b"\r\n", step)
    with pytest.raises(Malformed, match="trailer_fields"):
        feed(fresh(), b"0\r\n" + b"a: b\r\n" * 101 + b"\r\n", step)


def test_small_chunks_are_not_taken_for_extensions():
    """An application that writes byte by byte is slow, not hostile."""
    chunks = fresh()
    assert chunks.feed(b"1\r\nx\r\n" * 20000, 0)[0] == b"x" * 20000
    assert not chunks.done
