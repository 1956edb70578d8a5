"""Checks that several kinds of field share."""

import pytest

from mesh.model.checks import MAX_PATTERN, Checks, parse_address
from mesh.model.errors import ConfigError
from mesh.model.traffic import FieldMatch
from mesh.model.yaml_text import Document


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("my_host.local:8080", ("my_host.local", 8080)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    """Names, IPv4 and bracketed IPv6, with a port."""
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":", ":80", "a", "a:", "a:b", "a:-1", "a:٣", "a:65536", "a:000080", "::1:80", "[::1]", "[]:1", "a b:1"]
)
def test_what_is_no_address(text: str) -> None:
    """Anything else is refused with a sentence."""
    with pytest.raises(ValueError, match=r"is not host:port|is over 65535|is no IPv6 address"):
        parse_address(text)


CHECKS = Checks(Document({}, "f", 1, {}), "a")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("token", ["x-user", "A", "~!"], ["", "a b", "a:", "é", "x" * 257, "a\n"]),
        ("value", ["", "a", "a b\tc", "\xe9", '"x"'], [" a", "a ", "a\r\nb", "\0", "a\x7f", "ā"]),
        ("host", ["a", "votes.demo", "127.0.0.1"], ["", "a b", "-a", "a/b", "a:1"]),
        ("method", ["GET", "M-SEARCH"], ["", "get", "A B"]),
        (
            "request_path",
            ["/", "/a/b", "/a/", "/%20", "/a.b/..c", "/a:b@c", "/!\"$&'()*+,;=~"],
            ["", "a", "/a b", "/a?b", "/a#b", "//", "/a//b", "/a/./b", "/a/..", "/a%2fb", "/a%2F", "/é", "/a\n"],
        ),
        ("pattern", ["", "(?i)a.*", "x" * MAX_PATTERN], ["(", "a**", "x" * (MAX_PATTERN + 1), "(?=a)"]),
    ],
)
def test_texts(name: str, good: list[str], bad: list[str]) -> None:
    """What is right passes, all else is refused with the field's path."""
    check = getattr(CHECKS, name)
    for text in good:
        check("b", text)
    for text in bad:
        with pytest.raises(ConfigError, match=r"^f:1: a\.b: ") as caught:
            check("b", text)
        assert caught.value.field == "a.b"


def test_each_name_once() -> None:
    """The second is told; headers are the same in any case."""
    fields = [FieldMatch("a", ""), FieldMatch("b", ""), FieldMatch("A", "")]
    CHECKS.once("b", fields)
    with pytest.raises(ConfigError, match=r"a\.b\[2\]\.name: 'A' is there twice"):
        CHECKS.once("b", fields, fold=True)


@pytest.mark.parametrize(("request_", "backend", "good"), [(0, 1, True), (1, 1, True), (1, 0, True), (1, 1.1, False)])
def test_tries_fit_into_the_request(request_: float, backend: float, good: bool) -> None:
    """One try takes no longer than the whole, where both are said."""
    if good:
        CHECKS.tries("t", request_, backend)
    else:
        with pytest.raises(ConfigError, match=r"a\.t\.backendRequest: 1\.1 s for one try is more than 1 s for the wh"):
            CHECKS.tries("t", request_, backend)


@pytest.mark.parametrize(("number", "good"), [(1, True), (3, True), (0, False), (4, False), (float("nan"), False)])
def test_ranges(number: float, good: bool) -> None:
    """Both ends belong to it."""
    if good:
        CHECKS.within("n", number, 1, 3)
    else:
        with pytest.raises(ConfigError, match=r"a\.n: \w+ is not within 1 and 3"):
            CHECKS.within("n", number, 1, 3)
