"""conduit explain: what would become of a request, as the proxies that would decide say it. Nothing is sent."""

from __future__ import annotations

import datetime
from urllib.parse import urlsplit

import click
import msgspec

from mesh.cli.client import Api, control_options
from mesh.cli.output import as_json, as_yaml, printable
from mesh.cli.taplines import grpc_status
from mesh.model.explain import Ask, Happened, Step, Trace, deciding

ALLOWED = "allowed"
TAKES = ("table", "json", "yaml")


@click.command(name="explain")
@click.argument("words", nargs=-1, metavar="[METHOD] URL")
@click.option("--from", "caller", metavar="WORKLOAD", help="Who makes it: NAME or NAME.NAMESPACE.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header field; repeatable.")
@click.option("--grpc", is_flag=True, help="It is a gRPC call; the path is /package.Service/Method.")
@click.option("--tcp", is_flag=True, help="It is a connection that is not HTTP; URL is HOST:PORT.")
@click.option("--identity", metavar="NAME", help="The identity that the caller proves.  [default: that of --from]")
@click.option("--source", metavar="ADDRESS", help="The IP address that it comes from.  [default: this machine's]")
@click.option("--tap", metavar="WORKLOAD/ID", help="Instead: a request that conduit tap has shown lately.")
@click.option("-o", "--output", type=click.Choice(TAKES), default="table", show_default=True)
@control_options
def command(
    words: tuple[str, ...],
    caller: str | None,
    headers: tuple[str, ...],
    grpc: bool,
    tcp: bool,
    identity: str | None,
    source: str | None,
    tap: str | None,
    output: str,
    control: str | None,
    token: str | None,
) -> int:
    """Say what would become of a request: its destination, route, limits, endpoint, and what policy says to it.

    Without --from it is somebody's without a proxy, and only the application's side is asked. The step that decides is
    marked with >. Exit status: 0 if the request is allowed, 1 if it is denied or refused, or nobody can tell.

    \b
    Examples:
      conduit explain --from web http://votes/votes/1
      conduit explain --from web POST votes.demo/votes -H 'x-user: ann'
      conduit explain --from web --grpc votes/polls.Votes/Cast
      conduit explain --from web --tcp example.com:443
      conduit explain --tap web/12:1
    """  # noqa: D301 -- click reads the \b
    if tap is not None:
        if words or caller or headers or grpc or tcp or identity or source:
            raise click.UsageError("--tap names a request: give nothing else of one.")
        api = Api.find(control, token)
        told = api.ask("GET", "/api/v1/explain", params={"tap": tap})
    else:
        ask = asked(words, caller or "", headers, grpc=grpc, tcp=tcp, identity=identity or "", source=source or "")
        api = Api.find(control, token)
        told = api.ask("POST", "/api/v1/explain", body=msgspec.json.encode(ask).decode())
    trace = msgspec.json.decode(told, type=Trace)
    shown = {"json": as_json, "yaml": as_yaml}.get(output)
    click.echo(shown(trace) if shown else table(trace), nl=False)
    return 0 if trace.verdict == ALLOWED else 1


def asked(
    words: tuple[str, ...], caller: str, headers: tuple[str, ...], *, grpc: bool, tcp: bool, identity: str, source: str
) -> Ask:
    """The request that the words mean; raises click.UsageError."""
    if not 1 <= len(words) <= 2:
        raise click.UsageError("Give [METHOD] URL, such as http://votes/path; or --tap WORKLOAD/ID.")
    if grpc and tcp:
        raise click.UsageError("It is --grpc or --tcp, not both.")
    method = words[0].upper() if len(words) == 2 else "POST" if grpc else "GET"
    authority, path = split(words[-1])
    fields = []
    for field in headers:
        name, colon, value = field.partition(":")
        if not colon or not name.strip():
            raise click.UsageError(f"{field!r} is not NAME:VALUE.")
        fields.append((name.strip().lower(), value.strip()))
    protocol = "grpc" if grpc else "tcp" if tcp else "http"
    return Ask(authority, caller, method, path, tuple(fields), protocol, identity, source)


def split(url: str) -> tuple[str, str]:
    """Authority and path of a URL, with or without its scheme; https means port 443 where it names none."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    if parts.scheme not in ("", "http", "https", "tcp", "grpc") or not parts.netloc:
        raise click.UsageError(f"{url!r} is no URL such as http://votes/path.")
    authority = parts.netloc
    if parts.scheme == "https" and not authority.rpartition(":")[2].isdigit():
        authority += ":443"
    return authority, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def table(trace: Trace) -> str:
    """Numbered steps in aligned columns, the one that decides marked, what did happen, and what it comes to."""
    decides = deciding(trace.steps)
    rows = [
        (">" if index == decides else "", str(index + 1), *cells(step), sentence(step))
        for index, step in enumerate(trace.steps)
    ]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(5)]
    lines = [
        f"{row[0]:1} {row[1]:>{widths[1]}}  {row[2]:{widths[2]}}  {row[3]:{widths[3]}}  {row[4]:{widths[4]}}  {row[5]}"
        for row in rows
    ]
    if trace.happened is not None:
        lines.append(f"happened: {happened(trace.happened)}")
    reason = trace.steps[decides] if decides >= 0 else None
    by = f" by {printable(reason.by)}" if reason is not None and reason.by else ""
    lines.append(f"verdict: {printable(trace.verdict)}{by}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def cells(step: Step) -> tuple[str, str, str]:
    """Who says it, what is decided, and what came of it."""
    return printable(step.where or "-"), printable(step.stage), printable(step.outcome)


def sentence(step: Step) -> str:
    """What a step says, and on whose behalf where it does not say so itself."""
    detail = printable(step.detail)
    if not step.by or step.by in step.detail:
        return detail
    return f"{printable(step.by)}: {detail}" if detail else printable(step.by)


def happened(told: Happened) -> str:
    """What became of a tapped request, in a line."""
    at = datetime.datetime.fromtimestamp(told.at).astimezone().strftime("%H:%M:%S")
    words = [f"at {at}", f"status {told.status}" if told.status else "no answer yet"]
    if told.grpc_status >= 0:
        words.append(f"gRPC {grpc_status(told.grpc_status)}")
    for name in ("outcome", "error", "policy", "audited", "route", "endpoint"):
        value = getattr(told, name)
        if value:
            words.append(f"{name} {printable(value)}")
    return ", ".join(words)
