"""The command line: which names it takes and how it refuses."""

import click
import pytest
from click.testing import CliRunner

from bench.__main__ import chosen, main, version
from bench.process import BenchError


def test_names_keep_the_tables_order() -> None:
    """Names are run in the table's order, whatever order they are given in; none given means all."""
    assert chosen("c, a", ("a", "b", "c"), "--only") == ["a", "c"]
    assert chosen(None, ("a", "b"), "--only") == ["a", "b"]


@pytest.mark.parametrize("value", ["d", "a,d", ""])
def test_bad_names(value: str) -> None:
    """An unknown name, or no name at all, is a usage error."""
    with pytest.raises(click.BadParameter):
        chosen(value, ("a", "b"), "--only")


def test_usage_error() -> None:
    """A wrong scenario exits 2 and says which are known."""
    result = CliRunner().invoke(main, ["--only", "h3"])
    assert result.exit_code == 2
    assert "h2-16x16" in result.output


def test_version() -> None:
    """The first line printed is the version; a program that fails to print one is reported."""
    assert version(["sh", "-c", "echo; echo one 1.0; echo two"]) == "one 1.0"
    assert version(["sh", "-c", "echo two 2.0 >&2"]) == "two 2.0"
    assert version(["sh", "-c", "echo sh version: 3"]) == "version: 3"
    with pytest.raises(BenchError, match="status 4: broken"):
        version(["sh", "-c", "echo broken; exit 4"])
