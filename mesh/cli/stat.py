"""conduit stat: success rate, requests per second and latencies of services or workloads."""

from __future__ import annotations

import sys
from functools import partial

import click
import msgspec
import trio

from mesh.cli.client import Api, control_options
from mesh.cli.output import Column, Duration, attribute, milliseconds, output_option, percent, plain, rate, render
from mesh.local.signals import until_signalled
from mesh.model.api import Stat

KINDS = {
    **dict.fromkeys(("service", "services", "svc"), "service"),
    **dict.fromkeys(("workload", "workloads", "wl"), "workload"),
}
COLUMNS = (
    Column("NAME", attribute("name")),
    Column("NAMESPACE", attribute("namespace"), wide=True),
    Column("PROTOCOL", attribute("protocol")),
    Column("ENDPOINTS", attribute("endpoints", str), right=True),
    Column("SUCCESS", attribute("success_rate", percent), right=True),
    Column("RPS", attribute("rps", rate), right=True),
    Column("LATENCY_P50", attribute("p50_ms", milliseconds), right=True),
    Column("LATENCY_P95", attribute("p95_ms", milliseconds), right=True),
    Column("LATENCY_P99", attribute("p99_ms", milliseconds), right=True),
    Column("TCP_CONN", attribute("tcp_open", plain), right=True),
    Column("REQUESTS", attribute("requests", str), wide=True, right=True),
)
CLEAR = "\x1b[H\x1b[2J"


@click.command(name="stat")
@click.argument("kind", type=click.Choice(sorted(KINDS)), default="service", metavar="[svc|workload]")
@click.option("-t", "--time-window", "window", type=Duration(), default="10s", show_default=True, help="0: since ever.")
@click.option("-w", "--watch", is_flag=True, help="Show it again whenever it changes, until ^C.")
@output_option
@control_options
def command(kind: str, window: float, watch: bool, output: str, control: str | None, token: str | None) -> int:
    """Show golden metrics of services (or workloads), as the proxies beside them saw them.

    \b
    Examples:
      conduit stat
      conduit stat workload -t 1m -o wide
      conduit stat -o json | jq '.[] | select(.success_rate < 0.99)'
      conduit stat -w
    """  # noqa: D301 -- click reads the \b
    api = Api.find(control, token)
    params = {"kind": KINDS[kind], "window": f"{window:g}"}
    if not watch:
        click.echo(show(api.ask("GET", "/api/v1/stat", params=params), output), nl=False)
        return 0

    async def work() -> int:
        await api.watch("/api/v1/stat/watch", params, partial(update, output))
        return 0

    return trio.run(until_signalled, work)


def show(answer: bytes | str, how: str) -> str:
    """The answer of /api/v1/stat as -o wants it: in JSON and YAML, the list of rows."""
    rows = msgspec.json.decode(answer, type=Stat).rows
    return render(rows, rows, COLUMNS, how)


def update(how: str, message: str) -> bool:
    """Prints one message of the watch: in place on a terminal, one JSON list a line for programs."""
    text = show(message, how)
    if how == "json":
        text = msgspec.json.format(text.encode(), indent=-1).decode() + "\n"
    elif how == "yaml":
        text = f"---\n{text}"
    elif sys.stdout.isatty():
        text = CLEAR + text
    else:
        text += "\n"
    sys.stdout.write(text)
    sys.stdout.flush()
    return True
