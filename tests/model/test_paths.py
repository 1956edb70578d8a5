"""Paths with more than one reading, and what is compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.paths import ambiguous, comparable


@pytest.mark.parametrize(
    "path",
    [
        *(b"/", b"", b"*", b"/a", b"/a/", b"/a/b.c", b"/.well-known/x", b"/...", b"/a..b", b"/a/..b/c", b"/a;x=1/b"),
        *(b"/a%20b", b"/%C3%A9", b"/%c3%a9", b"/u/%40me", b"/100%25", b"/a?x=//../%2F\\", b"/a/?/..", b'/"<>^`{|}'),
    ],
)
def test_normal(path):
    """What has one reading; a query is nobody's path."""
    assert ambiguous(path) == ""


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (b"a", "does not begin with /"),
        (b"http://x/", "does not begin with /"),
        (b"//", "holds //"),
        (b"/a//b", "holds //"),
        (b"/a\\b", "holds a backslash"),
        (b"/.", "holds a segment of dots"),
        (b"/a/./b", "holds a segment of dots"),
        (b"/a/..", "holds a segment of dots"),
        (b"/a/../b?c", "holds a segment of dots"),
        (b"/a/..;x/b", "holds a segment of dots"),
        (b"/a b", "holds a blank, a control character or one that is not ASCII"),
        (b"/a\n", "holds a blank, a control character or one that is not ASCII"),
        (b"/..\n", "holds a segment of dots"),
        (b"/\xc3\xa9", "holds a blank, a control character or one that is not ASCII"),
        (b"/\x00", "holds a blank, a control character or one that is not ASCII"),
        (b"/a%2Fb", "escapes a slash"),
        (b"/a%2fb", "escapes a slash"),
        (b"/a%5cb", "escapes a backslash"),
        (b"/a%00", "escapes NUL"),
        (b"/a%0a", "escapes a control character"),
        (b"/a%7F", "escapes a control character"),
        (b"/%2e%2e/", "escapes '.', which needs none"),
        (b"/%61dmin", "escapes 'a', which needs none"),
        (b"/a%", "holds a % that escapes nothing"),
        (b"/a%2", "holds a % that escapes nothing"),
        (b"/a%2?b", "holds a % that escapes nothing"),
        (b"/a%zz", "holds a % that escapes nothing"),
        (b"/%20%2f", "escapes a slash"),
    ],
)
def test_ambiguous(path, why):
    """Each reason by its name."""
    assert ambiguous(path) == why


@pytest.mark.parametrize(
    ("path", "compared"),
    [
        (b"/a?b", b"/a"),
        (b"/%c3%a9", b"/%C3%A9"),
        (b"/%40me%3a%2C", b"/@me:,"),
        (b"/a%20b%25", b"/a%20b%25"),
        (b"", b""),
        (b"/a%", b"/a%"),
    ],
)
def test_comparable(path, compared):
    """Two spellings of what an application sees as the same path are one."""
    assert comparable(path) == compared


@given(st.binary(max_size=40))
def test_comparing_is_settled(path):
    """What is compared is compared as itself, and stays free of ambiguity if it was."""
    once = comparable(path)
    assert comparable(once) == once.partition(b"?")[0]
    if not ambiguous(path):
        assert not ambiguous(once)
