"""conduit get: the resources in force (and those refused), and the proxies that are connected."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from mesh.cli.client import Api, control_options
from mesh.cli.kinds import columns
from mesh.cli.output import Column, attribute, output_option, plain, render
from mesh.model.api import ProxyInfo, ResourceView
from mesh.model.errors import ControlError
from mesh.model.resources import KINDS

PROXIES = "proxies"
SHORT = {"Workload": ("wl",), "Endpoint": ("ep",), "TrafficPolicy": ("tp",)}


def names() -> dict[str, str]:
    """Every way to write a kind, in lower case, and the kind it means."""
    known = {"proxy": PROXIES, "proxies": PROXIES, "all": ""}
    for kind in KINDS:
        lower = kind.lower()
        plural = f"{lower[:-1]}ies" if lower.endswith("y") else f"{lower}s"
        known |= dict.fromkeys((lower, plural, *SHORT.get(kind, ())), kind)
    return known


PROXY_COLUMNS = (
    Column("NAMESPACE", attribute("namespace")),
    Column("WORKLOAD", attribute("workload")),
    Column("PROXY", attribute("proxy")),
    Column("ADMIN", attribute("admin")),
    Column("SUBSCRIPTIONS", lambda row: plain(",".join(getattr(row, "subscriptions", ())))),
    Column("NACKS", lambda row: str(len(getattr(row, "nacks", {}))), right=True),
    Column("VERSION", attribute("version"), wide=True),
    Column("ACKNOWLEDGED", attribute("acknowledged", str), wide=True, right=True),
)


@click.command(name="get")
@click.argument("kind", type=click.Choice(sorted(names()), case_sensitive=False), metavar="KIND")
@click.argument("name", required=False)
@click.option("-n", "--namespace", help="Only in this namespace.")
@output_option
@control_options
def command(
    kind: str, name: str | None, namespace: str | None, output: str, control: str | None, token: str | None
) -> int:
    """Show resources, each kind under its name (workloads, endpoints, trafficpolicies, httproutes, grpcroutes, faults)
    or all, or the connected proxies.

    \b
    Examples:
      conduit get workloads
      conduit get endpoints -n demo -o wide
      conduit get trafficpolicy words -o yaml
      conduit get httproutes
      conduit get proxies
    """  # noqa: D301 -- click reads the \b
    api = Api.find(control, token)
    wanted = names()[kind.lower()]
    rows: Sequence[object]
    if wanted == PROXIES:
        proxies = msgspec.json.decode(api.ask("GET", "/api/v1/proxies"), type=list[ProxyInfo])
        rows = [row for row in proxies if name in (None, row.workload) and namespace in (None, row.namespace)]
    else:
        answer = api.ask("GET", "/api/v1/resources", params={"kind": wanted} if wanted else None)
        views = msgspec.json.decode(answer, type=list[ResourceView])
        rows = [
            row for row in views if name in (None, row.metadata.name) and namespace in (None, row.metadata.namespace)
        ]
    if name is not None and not rows:
        raise ControlError(f"there is no {wanted or 'resource'} {name}" + (f" in {namespace}" if namespace else ""))
    if not rows and output in ("table", "wide"):
        click.echo("nothing found", err=True)
        return 0
    click.echo(render(rows, rows, PROXY_COLUMNS if wanted == PROXIES else columns(wanted), output), nl=False)
    return 0
