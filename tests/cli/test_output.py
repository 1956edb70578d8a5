"""Cells, tables, durations."""

from collections.abc import Callable

import click
import pytest

from mesh.cli.output import Column, attribute, milliseconds, percent, plain, printable, rate, render, seconds
from mesh.model.api import VersionInfo

ROWS = [VersionInfo("1.0", "a", 7), VersionInfo("", "long\x1b[2J", 12345)]
COLUMNS = (
    Column("VERSION", attribute("version")),
    Column("EPOCH", attribute("epoch"), wide=True),
    Column("N", attribute("configuration", str), right=True),
)


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (percent, None, "-"),
        (percent, 1.0, "100.00%"),
        (percent, 0.99999, "99.99%"),
        (percent, 0.29, "29.00%"),
        (percent, 0.0, "0.00%"),
        (milliseconds, None, "-"),
        (milliseconds, 0.84, "0.8ms"),
        (milliseconds, 1234.5, "1234ms"),
        (rate, 80.25, "80.2rps"),
        (rate, None, "-"),
        (plain, "", "-"),
        (plain, 0, "0"),
        (plain, "a\nb", "a\\nb"),
        (printable, "µ ok", "µ ok"),
        (printable, "\x1b[31m\x00", "\\x1b[31m\\x00"),
    ],
)
def test_cells(show: Callable[[object], str], value: object, text: str) -> None:
    """Numbers are short, nothing is a dash, and a percentage never rounds a failure away."""
    assert show(value) == text


def test_table_is_aligned() -> None:
    """Wide columns only when asked for; numbers to the right; control characters escaped; no blanks at the end."""
    assert render(ROWS, ROWS, COLUMNS, "table") == "VERSION       N\n1.0           7\n-         12345\n"
    assert render(ROWS, ROWS, COLUMNS, "wide") == (
        "VERSION   EPOCH             N\n1.0       a                 7\n-         long\\x1b[2J   12345\n"
    )


def test_json_and_yaml_are_the_value() -> None:
    """Programs get numbers and nulls, not cells."""
    assert render(ROWS[:1], [], COLUMNS, "json") == (
        '[\n  {\n    "version": "1.0",\n    "epoch": "a",\n    "configuration": 7,\n    "now": 0.0\n  }\n]\n'
    )
    assert render(ROWS[:1], [], COLUMNS, "yaml") == "- version: '1.0'\n  epoch: a\n  configuration: 7\n  now: 0.0\n"


@pytest.mark.parametrize(
    ("text", "value"), [("10s", 10), ("1m", 60), ("0.5h", 1800), ("30", 30), ("250ms", 0.25), ("0", 0)]
)
def test_durations(text: str, value: float) -> None:
    """With a unit, or in seconds."""
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 d", "ten", "1s2"])
def test_bad_durations(text: str) -> None:
    """Wrong usage, with an example of what is right."""
    with pytest.raises(click.BadParameter, match="10s, 1m"):
        seconds(text)
