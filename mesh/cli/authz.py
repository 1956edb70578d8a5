"""conduit authz: which policies hold for services and workloads, and what they decided."""

from __future__ import annotations

import click
import msgspec

from mesh.cli.client import Api, control_options
from mesh.cli.output import Column, Duration, attribute, output_option, percent, plain, rate, render
from mesh.model.api import AuthzRow

COLUMNS = (
    Column("NAMESPACE", attribute("namespace"), wide=True),
    Column("SERVICE", attribute("service")),
    Column("WORKLOADS", lambda row: plain(",".join(getattr(row, "workloads", ())))),
    Column("TLS", attribute("mode")),
    Column("DEFAULT", attribute("default"), wide=True),
    Column("POLICY", attribute("policy")),
    Column("ACTION", attribute("action")),
    Column("ALLOWED", attribute("allowed", str), right=True),
    Column("DENIED", attribute("denied", str), right=True),
    Column("AUDITED", attribute("audited", str), right=True),
    Column("SUCCESS", attribute("success_rate", percent), right=True),
    Column("RPS", attribute("rps", rate), right=True),
)


@click.command(name="authz")
@click.argument("target", required=False, metavar="[SERVICE|WORKLOAD]")
@click.option("-n", "--namespace", help="Only of services in this namespace.")
@click.option("-t", "--time-window", "window", type=Duration(), default="1m", show_default=True, help="0: since ever.")
@output_option
@control_options
def command(
    target: str | None, namespace: str | None, window: float, output: str, control: str | None, token: str | None
) -> int:
    """Show which policies hold for each service, what they decided, and how its requests fared.

    A row is a policy, in the order in which they decide: Deny, Allow (or the default, where nothing is allowed in
    particular), Audit, External; and gone, if it does not hold any more. ALLOWED, DENIED and AUDITED count since the
    control plane first saw such requests; SUCCESS and RPS are of the whole service, over the time window.

    \b
    Examples:
      conduit authz
      conduit authz votes -o wide
      conduit authz -o json | jq '.[] | select(.denied > 0)'
    """  # noqa: D301 -- click reads the \b
    params: dict[str, str] = {"window": f"{window:g}"}
    if target:
        params["target"] = target
    answer = Api.find(control, token).ask("GET", "/api/v1/authz", params=params)
    rows = [row for row in msgspec.json.decode(answer, type=list[AuthzRow]) if namespace in (None, row.namespace)]
    if not rows and output in ("table", "wide"):
        click.echo("nothing found", err=True)
        return 0
    click.echo(render(rows, rows, COLUMNS, output), nl=False)
    return 0
