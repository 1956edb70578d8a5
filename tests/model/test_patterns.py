"""Regular expressions that cannot be made to take long."""

from __future__ import annotations

import re

import pytest
import re2
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.model.patterns import _PLAIN, Pattern


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("/users/[0-9]+", b"/users/12", True),
        ("/users/[0-9]+", b"/users/12/x", False),
        (r"/users/\d+/posts", b"/users/7/posts", True),
        (r"/users/\d+", "/users/٣".encode(), False),
        ("/a.c", "/aéc".encode(), True),
        ("/.*", b"/\xff", False),
        ("(?i)/ABC", b"/abc", True),
        ("/(a|b)+/.*", b"/abab/x", True),
        ("v[12]", b"v3", False),
        ("", b"", True),
    ],
)
def test_what_matches(text: str, value: bytes, holds: bool) -> None:
    """All of the value must match; it is UTF-8, and digits are ASCII's."""
    assert Pattern(text).holds(value) is holds


@pytest.mark.parametrize("text", ["(a+)+", "(a|a)*", "a*a*a*a*a*b", "(x?){30}x{30}", ".*.*.*.*="])
def test_no_pattern_takes_long(text: str) -> None:
    """With a backtracking matcher each of these takes longer than anybody lives."""
    assert not Pattern(text).holds(b"a" * 20_000 + b"!")


@pytest.mark.parametrize("text", ["(", "[", "a**", r"(a)\1", "(?=a)", "a{2000}", "[z-a]", "*", "\ud800"])
def test_what_is_refused(text: str) -> None:
    """With a sentence."""
    with pytest.raises(ValueError, match=r"\w"):
        Pattern(text)


@example("/a-z", "/a-z")
@example("[a-]+", "a-")
@given(
    st.text("ab/.[]^-+*?\\d019 ~%", max_size=12),
    st.text("ab/.-d019 ~%é", max_size=8),
)
def test_the_fast_way_agrees_with_re2(text: str, value: str) -> None:
    """What `re` is trusted with means the same to RE2."""
    if not _PLAIN.fullmatch(text):
        return
    options = re2.Options()
    options.log_errors = False
    try:
        expected = re2.compile(text, options).fullmatch(value) is not None
    except re2.error:
        with pytest.raises((ValueError, re.error)):
            Pattern(text)
        return
    assert Pattern(text).holds(value.encode()) is expected
