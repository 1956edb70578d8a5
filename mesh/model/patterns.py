"""The regular expressions of routes and matches: RE2's syntax, and never more than time linear in what is matched.

A pattern with at most one repeat, of one character or class, is linear with Python's `re` too, which is in memory
already and ten times as fast; all others are RE2's, whose library is loaded for the first of them.
"""

from __future__ import annotations

import re
from typing import Protocol

_ATOM = r"(?:[ !\"#%&',/0-9:;<=>@A-Z_`a-z~-]|\\[dswDSW.\\/*+?(){}|^$-]|\\[\[\]]|\.|\[\^?[A-Za-z0-9_.~%-]+\])"
_PLAIN = re.compile(rf"{_ATOM}*(?:{_ATOM}[*+?])?{_ATOM}*")


class _Compiled(Protocol):
    def fullmatch(self, text: str, /) -> object: ...


class Pattern:
    """One expression. Raises ValueError, with a sentence, for what RE2 does not take."""

    __slots__ = ("_compiled", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._compiled: _Compiled
        if _PLAIN.fullmatch(text):
            try:
                self._compiled = re.compile(text, re.ASCII)
            except re.error as exc:
                raise refusal(text, str(exc)) from exc
        else:
            self._compiled = _re2(text)

    def __repr__(self) -> str:
        return f"<Pattern {self.text!r}>"

    def holds(self, value: bytes) -> bool:
        """Whether it matches all of `value`, read as UTF-8; what is not UTF-8 it does not match."""
        try:
            return self._compiled.fullmatch(value.decode()) is not None
        except UnicodeDecodeError:
            return False


def _re2(text: str) -> _Compiled:
    import re2  # type: ignore[import-untyped]  # for the first that needs it: 4 MB

    options = re2.Options()
    options.log_errors = False
    try:
        compiled: _Compiled = re2.compile(text, options)
    except (re2.error, UnicodeEncodeError) as exc:
        reason = exc.args[0] if exc.args else exc
        raise refusal(text, reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)) from exc
    return compiled


def refusal(text: str, reason: str) -> ValueError:
    """Short, however long the pattern is."""
    return ValueError(f"{text!r:.80} is no regular expression: {reason:.120}")
