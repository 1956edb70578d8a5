"""conduit tap: requests and responses as they pass through the proxies, live."""

from __future__ import annotations

import sys

import click
import msgspec
import trio

from mesh.cli.client import Api, control_options
from mesh.cli.output import Duration
from mesh.cli.taplines import line
from mesh.local.signals import until_signalled
from mesh.model.reports import TapEvent


@click.command(name="tap")
@click.argument("target", required=False)
@click.option("--workload", help="The same as TARGET: only what this workload's proxies see.")
@click.option("--to", help="Only requests to this service.")
@click.option("--method", help="Only this method.")
@click.option("--path", help="Only paths that begin with this.")
@click.option("--authority", help="Only this :authority (Host).")
@click.option("--max-rps", type=click.FloatRange(min=0, min_open=True), default=100.0, show_default=True)
@click.option("--count", type=click.IntRange(min=1), help="End after this many requests have ended.")
@click.option("--duration", type=Duration(), help="End after this time (10s, 1m).")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@control_options
def command(
    target: str | None,
    workload: str | None,
    to: str | None,
    method: str | None,
    path: str | None,
    authority: str | None,
    max_rps: float,
    count: int | None,
    duration: float | None,
    output: str,
    control: str | None,
    token: str | None,
) -> int:
    """Show requests live, three lines for each: its head, the response's head, its end.

    With -o json each is one JSON object a line. More than --max-rps requests a second are not shown; how many were left
    out is told on stderr.

    \b
    Examples:
      conduit tap
      conduit tap web --path /polls --method GET
      conduit tap --to votes -o json --count 100
    """  # noqa: D301 -- click reads the \b
    if target and workload and target != workload:
        raise click.UsageError("TARGET and --workload name two workloads: give one.")
    wanted = {
        "workload": target or workload,
        "to": to,
        "method": method.upper() if method else None,
        "path": path,
        "authority": authority,
        "max_rps": f"{max_rps:g}",
    }
    params = {key: value for key, value in wanted.items() if value}
    api = Api.find(control, token)

    printer = Printer(output, count)

    async def work() -> int:
        with trio.move_on_after(duration if duration is not None else float("inf")):
            await api.watch("/api/v1/tap/watch", params, printer.take)
        return 0

    return trio.run(until_signalled, work)


class Message(msgspec.Struct):
    """What decides how a message is printed."""

    event: str
    count: int = 0
    """Of a `dropped` one."""


class Printer:
    """Prints messages of a tap, until `count` requests have ended."""

    def __init__(self, how: str, count: int | None) -> None:
        self.how, self.left = how, count
        self._peek = msgspec.json.Decoder(Message)
        self._decode = msgspec.json.Decoder(TapEvent)

    def take(self, message: str) -> bool:
        """Prints one message at once; False when enough was shown."""
        about = self._peek.decode(message)
        if about.event == "dropped":
            click.echo(f"conduit: {about.count} requests were left out (see --max-rps)", err=True)
            return True
        text = message if self.how == "json" else line(self._decode.decode(message))
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
        if about.event == "end" and self.left is not None:
            self.left -= 1
        return self.left is None or self.left > 0
