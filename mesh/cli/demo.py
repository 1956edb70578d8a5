"""conduit demo: a small site in a mesh, live in the terminal, or summed up as JSON."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
import msgspec
import trio

from mesh.cli.output import Duration, milliseconds, percent, printable, rate
from mesh.local.demo import Demo, Show
from mesh.local.log import StreamLog
from mesh.local.signals import until_signalled
from mesh.model.api import StatRow

TITLES = ("SERVICE", "PROTOCOL", "ENDPOINTS", "SUCCESS", "RPS", "P50", "P95", "P99")


@click.command(name="demo")
@click.option("--duration", type=Duration(), help="End after this much traffic (20, 20s, 5m).  [default: at ^C]")
@click.option("--rps", type=click.FloatRange(min=0, min_open=True), help="Visits a second to the site.")
@click.option("--headless", is_flag=True, help="No live table, also on a terminal: a plain line a second.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(duration: float | None, rps: float | None, headless: bool, output: str) -> int:
    """Run a small site of four services in a mesh, with visitors, and show what they get.

    With -o json, stdout is one JSON object at the end: requests, success_rate and rps of all services together,
    p50_ms and p99_ms of what visitors waited for, and the same for each service.

    \b
    Examples:
      conduit demo
      conduit demo --duration 20 --headless -o json
    """  # noqa: D301 -- click reads the \b
    if output == "json" and duration is None:
        raise click.UsageError("-o json tells the end, so it needs --duration.")
    live = output == "text" and not headless and sys.stdout.isatty()
    screen = table_screen if live else partial(line_screen, to_stderr=output == "json")
    demo = Demo(StreamLog(), screen, conduit=how_we_are_called(), rps=rps)

    async def work() -> int:
        summary = await demo.run(duration)
        if summary is not None and output == "json":
            click.echo(msgspec.json.encode(summary))
        elif summary is not None:
            click.echo(
                f"{summary.requests} requests in {summary.duration_s:.1f} s, success {percent(summary.success_rate)}, "
                f"p50 {milliseconds(summary.p50_ms)}, p99 {milliseconds(summary.p99_ms)}"
            )
        return 0

    return trio.run(until_signalled, work)


def how_we_are_called() -> str:
    """`conduit` where the shell would find this very program by that name, its path where not."""
    ours = Path(sys.argv[0])
    found = shutil.which("conduit")
    if ours.name != "conduit" or (found and ours.exists() and Path(found).samefile(ours)):
        return "conduit"
    return os.path.relpath(ours)


@contextmanager
def line_screen(*, to_stderr: bool) -> Iterator[Show]:
    """A plain line a second."""

    def show(rows: Sequence[StatRow], seconds: float) -> None:
        click.echo(line(rows, seconds), err=to_stderr)

    yield show


def line(rows: Sequence[StatRow], seconds: float) -> str:
    """All services in one line."""
    parts = [
        f"{printable(row.name)} {rate(row.rps)} {percent(row.success_rate)} p99 {milliseconds(row.p99_ms)}"
        for row in rows
    ]
    return f"{seconds:6.1f} s  " + ("  |  ".join(parts) or "the control plane is away")


@contextmanager
def table_screen() -> Iterator[Show]:
    """A table that stays in its place, in the terminal's own buffer, so that it is still there afterwards."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    def drawn(rows: Sequence[StatRow], seconds: float) -> Table:
        table = Table(title=f"polls, the last 10 s ({seconds:.0f} s so far; ^C ends it)", title_justify="left")
        for i, title in enumerate(TITLES):
            table.add_column(title, justify="left" if i < 2 else "right")
        for row in rows:
            good = row.success_rate is None or row.success_rate >= 0.99
            cells = [
                Text(printable(row.name), style="bold"),
                Text(row.protocol or "-"),
                Text(str(row.endpoints)),
                Text(percent(row.success_rate), style="green" if good else "red"),
                Text(rate(row.rps)),
                *(Text(milliseconds(value)) for value in (row.p50_ms, row.p95_ms, row.p99_ms)),
            ]
            table.add_row(*cells)
        return table

    with Live(console=Console(), auto_refresh=False, transient=False) as live:

        def show(rows: Sequence[StatRow], seconds: float) -> None:
            live.update(drawn(rows, seconds), refresh=True)

        yield show
