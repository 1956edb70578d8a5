"""The error tree. Every error that a person can cause says what is wrong, where, and whose it is to mend."""

from __future__ import annotations


class ConduitError(Exception):
    """Root of all errors that this project raises on purpose."""


class ConfigError(ConduitError):
    """A file or resource from a person is wrong.

    `file` and `line` (1-based, 0 if unknown) say where, `field` is the path inside the document (`spec.port`, may be
    empty) and `reason` is a sentence. `str()` is `file:line: field: reason`, which editors can jump to.
    """

    def __init__(self, reason: str, *, file: str = "", line: int = 0, field: str = "") -> None:
        self.reason, self.file, self.line, self.field = reason, file, line, field
        where = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(f"{where}{field + ': ' if field else ''}{reason}")


class PeerError(ConduitError):
    """The other end of a connection broke the protocol, refused or went away; `peer` names it."""

    def __init__(self, reason: str, *, peer: str = "") -> None:
        self.reason, self.peer = reason, peer
        super().__init__(f"{peer}: {reason}" if peer else reason)


class ControlError(ConduitError):
    """The control plane could not be found, reached or did not accept us."""
