"""Where lines go and how they look."""

import io
import os
from pathlib import Path

import pytest

from mesh.local.log import COLOURS, FolderLog, OwnLinesOnly, StreamLog, Troubles, colour_of


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        """Says so."""
        return True


def test_lines_on_a_file_have_no_colour() -> None:
    """Each line begins with its speaker, padded to the longest so far."""
    stream = io.StringIO()
    log = StreamLog(stream)
    log.line("web-1", "hello")
    log.line("catalogue-17/proxy", "yes")
    log.line("web-1", "bye")
    log.say("done")
    assert stream.getvalue() == (
        "web-1        | hello\ncatalogue-17/proxy | yes\nweb-1              | bye\nconduit: done\n"
    )


def test_terminal_gets_colour_unless_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One colour a speaker, its sidecar's lines in the same; NO_COLOR is honoured."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    StreamLog(stream).line("web-1", "hello")
    assert stream.getvalue() == f"\x1b[{colour_of('web-1')}mweb-1       \x1b[0m | hello\n"
    assert colour_of("web-1/proxy") == colour_of("web-1") in COLOURS
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    StreamLog(plain).line("web-1", "hello")
    assert "\x1b" not in plain.getvalue()


def test_reader_that_left_stops_nothing() -> None:
    """`conduit up 2>&1 | head` goes on running the mesh."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    log = StreamLog(Broken())
    log.line("web-1", "hello")
    log.say("still here")
    assert log.stream.name == os.devnull
    log.stream.close()


def test_folder_has_a_file_for_each_speaker(tmp_path: Path) -> None:
    """Processes' lines go to files, our own to the other log; closed files are taken up again."""
    own = io.StringIO()
    log = FolderLog(tmp_path / "logs", StreamLog(own))
    log.line("web-1", "one")
    log.line("web-1/proxy", "two")
    log.close()
    log.line("web-1", "three")
    log.say("ours")
    log.close()
    assert {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()} == {
        "web-1.log": "one\nthree\n",
        "web-1-proxy.log": "two\n",
    }
    assert own.getvalue() == "conduit: ours\n"


def test_own_lines_only() -> None:
    """What a client's sidecar says is not shown, what we say is."""
    stream = io.StringIO()
    log = OwnLinesOnly(StreamLog(stream))
    log.line("me-1/proxy", "hello")
    log.say("gone")
    assert stream.getvalue() == "conduit: gone\n"


def test_only_troubles_of_the_mesh_are_shown() -> None:
    """Applications are heard in full, the control plane and sidecars only from warnings on, in words."""
    stream = io.StringIO()
    log = Troubles(StreamLog(stream))
    log.line("web-1", '{"level": "info", "event": "an application may log as it likes"}')
    log.line("control", '{"level": "info", "event": "file read", "file": "mesh.yaml"}')
    log.line("web-1/proxy", '{"level": "info", "event": "signal", "who": "web", "detail": "SIGTERM"}')
    log.line("control", '{"level": "error", "event": "refused", "reason": "line 3", "timestamp": "x", "part": "c"}')
    log.line("web-1/proxy", '{"level": "warning", "event": "control_plane_lost", "who": "c:1", "detail": "", "at": 1}')
    for odd in ("Traceback (most recent call last):", "[1]", "{}", '{"level": "info"}'):
        log.line("control", odd)
    log.say("done")
    assert [line.partition(" | ")[2] or line for line in stream.getvalue().splitlines()] == [
        '{"level": "info", "event": "an application may log as it likes"}',
        "error: refused: line 3",
        "warning: control_plane_lost: c:1",
        "Traceback (most recent call last):",
        "[1]",
        "{}",
        '{"level": "info"}',
        "conduit: done",
    ]
