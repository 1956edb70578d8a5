"""How a command ends: exit codes, and who is told what."""

import subprocess
import sys
from collections.abc import Callable

import click
import pytest

from mesh.cli import main as entry
from mesh.cli.main import VERBS, main
from mesh.local.sidecar import CONDUIT
from mesh.model.errors import ConfigError, ControlError


def ending(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """The exit code of a command that raises the error."""

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(entry.conduit, "main", fail)
    return main(["version"])


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ControlError("no mesh is running"), 1, "conduit: no mesh is running\n"),
        (
            ConfigError("is wrong", file="a.yaml", line=3, field="spec.port"),
            1,
            "conduit: a.yaml:3: spec.port: is wrong\n",
        ),
        (click.UsageError("no such option"), 2, "Error: no such option\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (ExceptionGroup("", [ControlError("a"), ExceptionGroup("", [ControlError("b"), ControlError("a")])]), 1,
         "conduit: a\nconduit: b\n"),
        (BaseExceptionGroup("", [KeyboardInterrupt(), ControlError("a")]), 130, ""),
    ],
)  # fmt: skip
def test_errors_become_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, told: str
) -> None:
    """Each kind of error has its code and its line on stderr, and never a traceback."""
    assert ending(monkeypatch, error) == code
    assert capsys.readouterr() == ("", told)


def test_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """What we did not raise on purpose is shown in full."""
    with pytest.raises(ExceptionGroup, match="bug"):
        ending(monkeypatch, ExceptionGroup("bug", [ControlError("a"), ZeroDivisionError()]))


def test_every_verb_has_help(conduit: Callable) -> None:
    """Each verb says what it does, with an example of itself; so does the group."""
    result = conduit("--help")
    assert result.code == 0
    assert all(f"\n  {verb} " in result.out for verb in VERBS)
    for verb in VERBS:
        result = conduit(verb, "--help")
        assert result.code == 0, verb
        assert f"conduit {verb}" in result.out.partition("xample")[2], verb


@pytest.mark.parametrize(
    "words", [[], ["no-such-verb"], ["stat", "--no-such-option"], ["get"], ["delete"], ["run", "me"]]
)
def test_wrong_usage_is_2(conduit: Callable, words: list[str]) -> None:
    """And nothing is on stdout that a program could take for data."""
    result = conduit(*words)
    assert (result.code, result.out) == (2, "")
    assert "Usage: conduit" in result.err


def test_proxy_imports_little() -> None:
    """What a sidecar carries: none of the libraries that other verbs use."""
    code = "import sys, mesh.cli.main, mesh.cli.proxy; print(*sys.modules)"
    modules = set(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode().split())
    heavy = {"httpx", "rich", "trio_websocket", "structlog", "prometheus_client", "platformdirs"}
    assert modules & heavy == set()


def test_reader_that_leaves_is_a_good_end() -> None:
    """`conduit ... | head` ends with 0 and without a word about a broken pipe."""
    process = subprocess.Popen([*CONDUIT, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, b"")
