"""conduit tap: what it prints of each message, and its ends."""

from collections.abc import Callable

import pytest

from mesh.cli.tap import Printer

FLOW = '"id":"1:1","proxy":"in","workload":"web","src":"a:1","dst":"b:2","tls":"disabled"'
REQ = f'{{"event":"req",{FLOW},"method":"GET","authority":"web","path":"/"}}'
END = f'{{"event":"end",{FLOW},"duration_us":5,"response_bytes":7,"outcome":"completed"}}'
DROPPED = '{"event":"dropped","count":12}'


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    """One line a message; what was left out is told on stderr; enough is enough."""
    printer = Printer("text", 2)
    assert [printer.take(message) for message in (REQ, END, DROPPED, END)] == [True, True, True, False]
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "req id=1:1 proxy=in src=a:1 dst=b:2 tls=disabled :method=GET :authority=web :path=/",
        "end id=1:1 proxy=in src=a:1 dst=b:2 tls=disabled duration=5µs response-length=7B",
        "end id=1:1 proxy=in src=a:1 dst=b:2 tls=disabled duration=5µs response-length=7B",
    ]
    assert err == "conduit: 12 requests were left out (see --max-rps)\n"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The messages as they came, without those that are no event."""
    printer = Printer("json", None)
    assert all(printer.take(message) for message in (REQ, DROPPED, END))
    assert capsys.readouterr().out == f"{REQ}\n{END}\n"


def test_ends_after_its_duration(conduit: Callable, control: str) -> None:
    """With nothing to see it prints nothing and ends well."""
    assert conduit("tap", "web", "--to", "words", "--method", "get", "--duration", "100ms") == (0, "", "")


@pytest.mark.parametrize(
    "words", [["web", "--workload", "votes"], ["--max-rps", "0"], ["--count", "0"], ["--duration", "soon"]]
)
def test_wrong_usage(conduit: Callable, words: list[str]) -> None:
    """Told before anything is asked."""
    assert conduit("tap", *words).code == 2


def test_no_mesh_is_told(conduit: Callable) -> None:
    """With what to do about it."""
    result = conduit("tap")
    assert result.code == 1
    assert "conduit up -f mesh.yaml" in result.err
