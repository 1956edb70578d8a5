"""How commands print what they found: aligned columns for people, JSON and YAML for programs.   (pure)

Everything that proxies reported is data: control characters in it never reach a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import click
import msgspec
import yaml

from mesh.model.durations import parse_duration

FORMATS = ("table", "wide", "json", "yaml")
NONE = "-"
NUMBER = re.compile(r"\d{1,10}(\.\d{1,9})?", re.ASCII)


class Column(NamedTuple):
    """One column of a table; `wide` ones are shown with `-o wide` only."""

    title: str
    cell: Callable[[object], str]
    wide: bool = False
    right: bool = False


def attribute(name: str, show: Callable[[object], str] | None = None) -> Callable[[object], str]:
    """A cell that shows one attribute of the row."""
    return lambda row: (show or plain)(getattr(row, name))


def plain(value: object) -> str:
    """The value as text, `-` where there is none."""
    return NONE if value in (None, "", ()) else printable(str(value))


def percent(value: object) -> str:
    """0 to 1 as a percentage; rounded down, so that 100.00% means that nothing failed."""
    if value is None:
        return NONE
    assert isinstance(value, float | int)
    return f"{int(value * 10_000 + 1e-6) / 100:.2f}%"


def milliseconds(value: object) -> str:
    """Three digits that matter."""
    if value is None:
        return NONE
    assert isinstance(value, float | int)
    return f"{value:.1f}ms" if value < 100 else f"{value:.0f}ms"


def rate(value: object) -> str:
    """Requests per second."""
    if value is None:
        return NONE
    assert isinstance(value, float | int)
    return f"{value:.1f}rps"


def printable(text: str) -> str:
    """The text with whatever could move a cursor escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def table(rows: Sequence[object], columns: Sequence[Column], *, wide: bool = False) -> str:
    """Aligned columns under their titles, without trailing blanks; ends with a newline."""
    shown = [column for column in columns if wide or not column.wide]
    cells = [[column.title for column in shown], *([column.cell(row) for column in shown] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(shown))]
    lines = [
        "   ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, shown, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines) + "\n"


def as_json(value: object) -> str:
    """Indented for people who look; ends with a newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def as_yaml(value: object) -> str:
    """One document."""
    text: str = yaml.safe_dump(msgspec.to_builtins(value), sort_keys=False, allow_unicode=True)
    return text


def render(value: object, rows: Sequence[object], columns: Sequence[Column], how: str) -> str:
    """`value` as JSON or YAML, or `rows` as a table, as -o says."""
    if how == "json":
        return as_json(value)
    if how == "yaml":
        return as_yaml(value)
    return table(rows, columns, wide=how == "wide")


def seconds(text: str) -> float:
    """A duration such as 10s, 1m30s, 0.5h or 30; raises click.BadParameter for anything else."""
    written = text.strip()
    try:
        return float(written) if NUMBER.fullmatch(written) else parse_duration(written)
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is not a duration such as 10s, 1m or 1h.") from exc


class Duration(click.ParamType[float]):
    """An option's value in seconds, written as a duration."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return float(value) if isinstance(value, float | int) else seconds(str(value))


def output_option(function: Callable[..., object]) -> Callable[..., object]:
    """Adds -o; it arrives as `output`."""
    return click.option("-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True)(function)
