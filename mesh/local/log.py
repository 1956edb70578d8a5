"""Where the words of the processes that we run go: to stderr, each line with its speaker, or to files."""

from __future__ import annotations

import json
import os
import sys
import zlib
from pathlib import Path
from typing import Protocol, TextIO

COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
DIM = 2
CONTROL = "control"
"""How the control plane is called as a speaker."""
UNSAID = frozenset({"timestamp", "at", "part"})
"""Of a line of JSON, what does not help a person who reads it as it comes."""


class Log(Protocol):
    """Takes lines without their newline; `text` may hold anything a process printed."""

    def line(self, speaker: str, text: str) -> None: ...

    def say(self, text: str) -> None:
        """A line of our own."""


class StreamLog:
    """All to one stream; coloured only on a terminal, and not where NO_COLOR is set."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.coloured = self.stream.isatty() and not os.environ.get("NO_COLOR")
        self.width = 12

    def line(self, speaker: str, text: str) -> None:
        self.width = max(self.width, len(speaker))
        self._write(f"{self._paint(speaker.ljust(self.width), colour_of(speaker))} | {text}\n")

    def say(self, text: str) -> None:
        self._write(f"{self._paint('conduit:', DIM)} {text}\n")

    def _paint(self, text: str, colour: int) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self.coloured else text

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except BrokenPipeError:
            self.stream = open(os.devnull, "w")  # noqa: SIM115 -- for the rest of our life: nobody listens any more


class OwnLinesOnly:
    """Drops what processes say and passes our own lines on: for a client, which has the terminal to itself."""

    def __init__(self, own: Log) -> None:
        self.own = own

    def line(self, speaker: str, text: str) -> None:
        """The tail that each child keeps is enough to explain a failure."""

    def say(self, text: str) -> None:
        self.own.say(text)


class Troubles:
    """Leaves out what the control plane and the sidecars say in the ordinary course, which is JSON with a `level`.

    What is a warning or worse is shown as `level: event: the rest`, and what the applications print goes through."""

    def __init__(self, own: Log) -> None:
        self.own = own

    def line(self, speaker: str, text: str) -> None:
        if speaker != CONTROL and not speaker.endswith("/proxy"):
            self.own.line(speaker, text)
            return
        try:
            said = json.loads(text)
            level, event = said.pop("level"), said.pop("event")
        except (ValueError, KeyError, AttributeError, TypeError):
            self.own.line(speaker, text)
            return
        if level not in ("debug", "info"):
            rest = "; ".join(str(value) for key, value in said.items() if key not in UNSAID and value)
            self.own.line(speaker, f"{level}: {event}: {rest}")

    def say(self, text: str) -> None:
        self.own.say(text)


class FolderLog:
    """One file per speaker in a folder; our own lines go to `own`."""

    def __init__(self, folder: Path, own: Log) -> None:
        self.folder, self.own = folder, own
        self.files: dict[str, TextIO] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def line(self, speaker: str, text: str) -> None:
        file = self.files.get(speaker)
        if file is None:
            file = self.files[speaker] = (self.folder / f"{speaker.replace('/', '-')}.log").open("a", buffering=1)
        file.write(f"{text}\n")

    def say(self, text: str) -> None:
        self.own.say(text)

    def close(self) -> None:
        """Closes the files; a line that comes later opens its file again."""
        for file in self.files.values():
            file.close()
        self.files.clear()


def colour_of(speaker: str) -> int:
    """Always the same for the same name, whatever its sidecar is called."""
    return COLOURS[zlib.crc32(speaker.partition("/")[0].encode()) % len(COLOURS)]
