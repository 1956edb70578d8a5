"""The rules for messages, apart from any codec."""

import pytest

from mesh.wire.messages import (
    authority_is_sound,
    content_length,
    request_head,
    strict_request_head,
    strict_response_head,
    trailers_are_sound,
)

GET = ((b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.b"), (b":path", b"/"))


@pytest.mark.parametrize(
    "authority",
    [
        b"a",
        b"a.b",
        b"a.b:80",
        b"127.0.0.1:1",
        b"[::1]",
        b"[::1]:443",
        b"xn--bcher-kva.example",
        b"a_b",
        b"a.b.",
        b"%61",
    ],
)
def test_authority_of_host_and_port(authority):
    """Names, addresses and ports are accepted, the first time and from memory."""
    assert authority_is_sound(authority)
    assert authority_is_sound(authority)


@pytest.mark.parametrize(
    "authority",
    [
        b"a" * 256,
        *b"|u@a|u:p@a|a b|a/b|a?b|a#b|a\\b|a:|a:b|a:123456|[::1|::1|[a.b]|a\x00|a\xff|a\n|:80|a:80:80|[]".split(b"|"),
    ],
)
def test_authority_with_anything_else(authority):
    """Userinfo, paths, odd bytes and half addresses are not."""
    assert not authority_is_sound(authority)


def test_many_authorities_are_not_remembered_forever():
    """A peer that makes up names does not fill the memory, and is judged alike throughout."""
    assert all(authority_is_sound(b"host-%d" % number) for number in range(10_000))
    assert authority_is_sound(b"host-1")
    assert not authority_is_sound(b"u@host-1")


def test_good_block_is_passed_on_as_it_is():
    """The head of a good request holds the very block that was decoded."""
    head = request_head(GET)
    assert head is not None
    assert head.block is GET
    assert head.get(b":path") == b"/"


def test_host_beside_authority():
    """Equal ones are made one, in the place of pseudo fields; unequal ones are malformed."""
    assert request_head((*GET, (b"host", b"A.B"))).block == GET
    assert request_head((*GET, (b"host", b"c"))) is None
    alone = tuple(field for field in GET if field[0] != b":authority")
    head = request_head((*alone, (b"host", b"c"), (b"x", b"y")))
    assert head.block == (*alone, (b":authority", b"c"), (b"x", b"y"))
    assert head.authority == b"c"
    assert head.get(b"host") is None


@pytest.mark.parametrize(
    "block",
    [
        GET[1:],
        GET[:1] + GET[2:],
        GET[:3],
        (*GET, (b":path", b"/")),
        (*GET, (b"x", b"y"), (b":extra", b"1")),
        (*GET, (b"Upper", b"1")),
        (*GET, (b"x", b" 1")),
        (*GET, (b"x", b"1\n")),
        (*GET, (b"te", b"deflate")),
        (*GET, (b"connection", b"x")),
        (*GET, (b"content-length", b"1_0")),
        ((b":method", b"G(T"), *GET[1:]),
        (),
    ],
)
def test_strict_request_refuses(block):
    """What libnghttp2 refuses by itself, the strict form refuses too."""
    assert strict_request_head(GET) is not None
    assert strict_request_head(block) is None


@pytest.mark.parametrize(
    "block",
    [(), ((b"a", b"b"),), ((b":status", b"101"),), ((b":status", b"99"),), ((b":status", b"200"), (b":path", b"/"))],
)
def test_strict_response_refuses(block):
    """A response has one status, of three digits, and no other pseudo field."""
    assert strict_response_head(((b":status", b"204"),)).status == 204
    assert strict_response_head(block) is None


def test_trailers():
    """Trailers hold regular fields only, or none."""
    assert trailers_are_sound(())
    assert trailers_are_sound(((b"grpc-status", b"0"),))
    assert not trailers_are_sound(((b":status", b"200"),))


def test_content_length():
    """The announced length is a number of bytes, or unknown."""
    assert content_length(((b"content-length", b"12"),)) == 12
    assert content_length(GET) is None
