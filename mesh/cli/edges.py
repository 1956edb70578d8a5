"""conduit edges: who calls whom, as whom, and whether that is secured."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from mesh.cli.client import Api, control_options
from mesh.cli.output import Column, Duration, attribute, milliseconds, output_option, percent, plain, rate, render
from mesh.model.api import Edge
from mesh.model.identity import parse


def short(value: object) -> str:
    """An identity as `account.namespace`, which is all of it that differs within one mesh."""
    identity = parse(str(value))
    return f"{identity.account}.{identity.namespace}" if identity is not None else plain(value)


def secured(value: object) -> str:
    """In a word."""
    return "yes" if value else "no"


COLUMNS = (
    Column("SOURCE", attribute("source")),
    Column("NAMESPACE", attribute("namespace"), wide=True),
    Column("TO", attribute("to")),
    Column("WORKLOAD", attribute("workload")),
    Column("SECURED", attribute("secured", secured)),
    Column("CLIENT", attribute("client_identity", short)),
    Column("SERVER", attribute("server_identity", short)),
    Column("SUCCESS", attribute("success_rate", percent), right=True),
    Column("RPS", attribute("rps", rate), right=True),
    Column("LATENCY_P50", attribute("p50_ms", milliseconds), right=True),
    Column("LATENCY_P99", attribute("p99_ms", milliseconds), right=True),
    Column("REQUESTS", attribute("requests", str), wide=True, right=True),
    Column("REASON", attribute("reason")),
)
FULL = {
    "CLIENT": Column("CLIENT", attribute("client_identity")),
    "SERVER": Column("SERVER", attribute("server_identity")),
}


@click.command(name="edges")
@click.option("-n", "--namespace", help="Only edges that begin or end in this namespace.")
@click.option("-t", "--time-window", "window", type=Duration(), default="1m", show_default=True, help="0: since ever.")
@output_option
@control_options
def command(namespace: str | None, window: float, output: str, control: str | None, token: str | None) -> int:
    """Show who calls whom, as whom, and whether it is secured.

    An edge is secured if all of its requests went over mTLS and both sides proved who they are; REASON says why one is
    not. SOURCE is empty where a service was called by somebody without a proxy. With -o wide, identities are shown in
    full.

    \b
    Examples:
      conduit edges
      conduit edges -n demo -o wide
      conduit edges -o json | jq '.[] | select(.secured | not)'
    """  # noqa: D301 -- click reads the \b
    params: dict[str, str | int | float] = {"window": f"{window:g}"}
    if namespace:
        params["namespace"] = namespace
    answer = Api.find(control, token).ask("GET", "/api/v1/edges", params=params)
    found = msgspec.json.decode(answer, type=list[Edge])
    if not found and output in ("table", "wide"):
        click.echo("nobody has called anybody", err=True)
        return 0
    click.echo(show(found, output), nl=False)
    return 0


def show(found: Sequence[Edge], how: str) -> str:
    """Edges as -o wants them; a table has a column for reasons if there is one."""
    columns = COLUMNS if how != "wide" else tuple(FULL.get(column.title, column) for column in COLUMNS)
    shown = [column for column in columns if column.title != "REASON" or not all(edge.secured for edge in found)]
    return render(found, found, shown, how)
